"""A job on Dataflow: what workers are given, the submission, and waiting for its end.

The job runs on the service; this process ends when it is submitted. Nothing is counted here.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    StandardOptions,
    WorkerOptions,
)
from apache_beam.runners.runner import PipelineResult, PipelineRunner

import beam_jobs
from beam_jobs.errors import UserError, one_line
from beam_jobs.running.dataflow import packaging
from beam_jobs.running.dataflow.checks import NAME_PREFIX, asked_at_least_once, check_target
from beam_jobs.target import Graph, Traits, runner_of
from beam_jobs.terminal import options
from beam_jobs.terminal.cli import EXIT_FAILED, EXIT_INTERRUPTED, say

# Beam would stage a list of all that is installed here, with the addresses it came from; pip takes seconds for it.
_NO_INVENTORY = "disable_logging_submission_environment"
# A reader hands its connection on within its process; with a process a vCPU the next bundle may be in another one.
_ONE_PROCESS, _MANY_PROCESSES = "no_use_multiple_sdk_containers", "use_multiple_sdk_containers"

# How many readers share a topic, at most (a reader has one partition at least): the service cannot split one later, and
# each takes a thread and a connection. 32 read more than 30 million records/s (docs/performance.md).
READERS = 32
_MAX_NAME = 60


class Dataflow:
    """Hands a job over to the service, or writes its template; waits for its end as ``--wait`` says."""

    def __init__(self, parsed: PipelineOptions) -> None:
        self._parsed = parsed
        self._began = 0.0  # time.monotonic()
        self._waits = False

    def check(self) -> None:
        check_target(self._parsed)

    def describe(self) -> Traits:
        return Traits(
            here=False,
            java=True,
            reads_pubsub=True,
            readers=READERS,
            stores_bundles=True,
            own_image=bool(self._parsed.view_as(WorkerOptions).sdk_container_image),
            at_least_once=asked_at_least_once(self._parsed),
        )

    def prepare(self, name: str, live: bool) -> str | PipelineRunner:
        self._began = time.monotonic()
        wait = self._parsed.view_as(options.ReportOptions).wait
        self._waits = wait == "yes" or (wait == "auto" and not live)
        cloud, setup = self._parsed.view_as(GoogleCloudOptions), self._parsed.view_as(SetupOptions)
        cloud.job_name = cloud.job_name or job_name(name)
        if setup.save_main_session is None:
            setup.save_main_session = False  # nothing of a job is defined in __main__
        self._parsed.view_as(DebugOptions).add_experiment(_NO_INVENTORY)
        return runner_of(self._parsed)

    def cannot(self, graph: Graph) -> str:
        return ""

    def submit(self, pipeline: beam.Pipeline, graph: Graph) -> PipelineResult:
        fit(pipeline.options, graph)
        with tempfile.TemporaryDirectory(prefix="highbeam-") as folder:
            provide_code(pipeline.options, Path(folder))
            result = _submit(pipeline)
        cloud = self._parsed.view_as(GoogleCloudOptions)
        if cloud.template_location:
            say(f"template written to {cloud.template_location}")
            self._waits = False
            return result
        job = result.job_id()
        here = f"--project={cloud.project} --region={cloud.region}"
        print(f"job {job} ({cloud.job_name}) submitted in {time.monotonic() - self._began:.1f} s")
        print(
            f"https://console.cloud.google.com/dataflow/jobs/{cloud.region}/{job}?project={cloud.project}", flush=True
        )
        say(f"to end it: gcloud dataflow jobs drain {job} {here} (at once, leaving what is in hand: jobs cancel)")
        return result

    def wait(self, result: PipelineResult) -> int:
        return watch(result) if self._waits else 0


def job_name(name: str) -> str:
    """A name nobody else has, as highbeam-score-cars-20261122-070000, for a job that was given none."""
    words = re.sub(r"[^a-z0-9]+", "-", f"{NAME_PREFIX}{name}".lower())[: _MAX_NAME - 16].strip("-")
    return f"{words}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"


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


def fit(parsed: PipelineOptions, graph: Graph) -> None:
    """Sets what a graph asks of the service, where the command line leaves it open."""
    parsed.view_as(StandardOptions).streaming = not graph.bounded
    debug, worker = parsed.view_as(DebugOptions), parsed.view_as(WorkerOptions)
    if graph.own_source:
        if not debug.lookup_experiment(_MANY_PROCESSES):
            debug.add_experiment(_ONE_PROCESS)
        worker.max_num_workers = worker.max_num_workers or READERS  # more would have nothing to read


def _submit(pipeline: beam.Pipeline) -> Any:
    from apache_beam.runners.dataflow.internal.apiclient import DataflowJobAlreadyExistsError
    from google.api_core.exceptions import GoogleAPICallError

    try:
        return pipeline.run()
    except DataflowJobAlreadyExistsError as error:
        raise UserError(error) from error
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
