"""A job on Dataflow: what workers are given, the submission, and waiting for the end of a bounded one.

The job runs on the service; this process ends when it is submitted. Nothing is counted here.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.io.unbounded_source import ReadFromUnboundedSource
from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    StandardOptions,
    WorkerOptions,
)
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor

import beam_jobs
from beam_jobs.errors import UserError, one_line
from beam_jobs.io.kafka.transforms import DATAFLOW_READERS
from beam_jobs.running import packaging
from beam_jobs.terminal import options
from beam_jobs.terminal.cli import EXIT_FAILED, EXIT_INTERRUPTED, say

# Beam would stage a list of all that is installed here, with the addresses it came from; pip takes seconds for it.
_NO_INVENTORY = "disable_logging_submission_environment"
# A reader hands its connection on within its process; with a process a vCPU the next bundle may be in another one.
_ONE_PROCESS, _MANY_PROCESSES = "no_use_multiple_sdk_containers", "use_multiple_sdk_containers"

# How jobs are called, but for those of Terraform, which have its variable "name" instead: alert policies watch both.
NAME_PREFIX = "highbeam-"
_MAX_NAME = 60


def run(parsed: PipelineOptions, wire: Callable[[beam.Pipeline], Any], name: str, live: bool) -> int:
    """Submits the job that ``wire`` builds, or writes its template; waits for its end as ``--wait`` says.

    Args:
      name: of the job, "score/car_sensors"; ``--job_name`` wins over it.

    Returns:
      The exit status.

    Raises:
      UserError: an option that Beam or the service refuses.
    """
    began = time.monotonic()
    cloud = parsed.view_as(GoogleCloudOptions)
    cloud.job_name = cloud.job_name or job_name(name)
    setup = parsed.view_as(SetupOptions)
    if setup.save_main_session is None:
        setup.save_main_session = False  # nothing of a job is defined in __main__
    parsed.view_as(DebugOptions).add_experiment(_NO_INVENTORY)
    parsed.view_as(StandardOptions).streaming = live  # as Beam's checks want to know before there is a graph
    with tempfile.TemporaryDirectory(prefix="highbeam-") as folder:
        provide_code(parsed, Path(folder))
        try:
            pipeline = beam.Pipeline(options=parsed)
        except ValueError as error:
            raise UserError(one_line(str(error).removeprefix("Pipeline has validations errors:"))) from error
        wire(pipeline)
        fit(pipeline)
        result = _submit(pipeline)
    if cloud.template_location:
        say(f"template written to {cloud.template_location}")
        return 0
    job = result.job_id()
    here = f"--project={cloud.project} --region={cloud.region}"
    print(f"job {job} ({cloud.job_name}) submitted in {time.monotonic() - began:.1f} s")
    print(f"https://console.cloud.google.com/dataflow/jobs/{cloud.region}/{job}?project={cloud.project}", flush=True)
    say(f"to end it: gcloud dataflow jobs drain {job} {here} (at once, leaving what is in hand: jobs cancel)")
    wait = parsed.view_as(options.ReportOptions).wait
    return watch(result) if wait == "yes" or (wait == "auto" and not live) else 0


def job_name(name: str) -> str:
    """A name nobody else has, as highbeam-score-cars-20261122-070000, for a job that was given none."""
    words = re.sub(r"[^a-z0-9]+", "-", f"{NAME_PREFIX}{name}".lower())[: _MAX_NAME - 16].strip("-")
    return f"{words}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"


def warn_of_name(flag: str, name: str) -> None:
    """Says that nobody is told when a job of this name fails."""
    if not name.startswith(NAME_PREFIX):
        say(
            f"warning: {flag} {name}: the alert policies of templates/terraform watch names that begin with "
            f"{NAME_PREFIX} or with its variable name; they do not see another one"
        )


def provide_code(parsed: PipelineOptions, folder: Path) -> None:
    """Sees to it that workers have this code: in their image, by --setup_file, or else as a package made in ``folder``.

    Raises:
      UserError: no package can be made.
    """
    setup, image = parsed.view_as(SetupOptions), parsed.view_as(WorkerOptions).sdk_container_image
    if setup.setup_file:
        setup.setup_file = os.path.abspath(setup.setup_file)  # Beam changes to its folder, which must have a name
        say(f"workers install the package of {setup.setup_file}")
    elif image:
        say(f"workers run {image}, which has to have Highbeam {beam_jobs.__version__}")
    else:
        package = packaging.package(folder)
        setup.extra_packages = [*(setup.extra_packages or []), str(package)]
        say(f"workers install {package.name}, made of {packaging.HOME}")


class _Look(PipelineVisitor):
    """What of a pipeline decides how it is run."""

    def __init__(self) -> None:
        self.streams = False  # an input has no end that Beam knows of: a streaming job
        self.own_source = False

    def enter_composite_transform(self, node: AppliedPTransform) -> None:
        self.own_source |= isinstance(node.transform, ReadFromUnboundedSource)

    def visit_value(self, value: Any, producer_node: AppliedPTransform) -> None:
        self.streams |= not getattr(value, "is_bounded", True)


def fit(pipeline: beam.Pipeline) -> None:
    """Sets what a wired pipeline asks of the service, where the command line leaves it open."""
    look = _Look()
    pipeline.visit(look)
    pipeline.options.view_as(StandardOptions).streaming = look.streams
    debug, worker = pipeline.options.view_as(DebugOptions), pipeline.options.view_as(WorkerOptions)
    if look.own_source:
        if not debug.lookup_experiment(_MANY_PROCESSES):
            debug.add_experiment(_ONE_PROCESS)
        worker.max_num_workers = worker.max_num_workers or DATAFLOW_READERS  # more would have nothing to read


def _submit(pipeline: beam.Pipeline) -> Any:
    from apache_beam.runners.dataflow.internal.apiclient import DataflowJobAlreadyExistsError
    from google.api_core.exceptions import GoogleAPICallError

    try:
        return pipeline.run()
    except DataflowJobAlreadyExistsError as error:
        raise UserError(one_line(error)) from error
    except GoogleAPICallError as error:
        if error.code is not None and 400 <= error.code < 500:
            raise UserError(f"Dataflow refuses the job: {one_line(error.message, 500)}") from error
        raise


def watch(result: Any) -> int:
    """Waits for the end of a job and says each state it comes to; Ctrl-C ends the waiting, not the job.

    Returns:
      0: it has done its work, was drained or replaced; EXIT_FAILED: it failed, or was cancelled.
    """
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner

    job, runner = result.job_id(), result._runner
    told = ""

    def tell(state: str) -> None:
        nonlocal told
        state = state.removeprefix("JOB_STATE_").lower()
        if state != told:
            say(f"{time.strftime('%H:%M:%S')} {state.replace('_', ' ')}")
        told = state

    try:
        tell(result.state)
        DataflowRunner.poll_for_job_completion(runner, result, None, tell)
    except KeyboardInterrupt:
        say(f"job {job} goes on without this terminal; the lines above say where to see it and how to end it")
        return EXIT_INTERRUPTED
    if told in ("done", "drained", "updated"):
        return 0
    reason = one_line(getattr(runner, "last_error_msg", None) or "its console says why", 500)
    say(f"error: job {job} ended as {told}: {reason}")
    return EXIT_FAILED
