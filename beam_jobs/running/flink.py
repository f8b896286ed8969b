"""Apache Flink by Beam's job server: ``--runner=FlinkRunner --job_endpoint=HOST:PORT --flink_master=HOST:PORT
--environment_type=LOOPBACK``.

With LOOPBACK all steps run in this process, which Flink drives: it keeps the positions of readers in its checkpoints,
moves a job from a TaskManager that is gone to another one, and says when bundles are final. Beam's job server (2.70)
forgets a job that it is told to cancel, and the cluster goes on: so it is cancelled there, by Flink's REST interface.
"""

from __future__ import annotations

import logging
import threading
import uuid

import apache_beam as beam
import requests
from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
)
from apache_beam.runners.runner import PipelineResult, PipelineRunner

from beam_jobs import metrics
from beam_jobs.errors import UserError
from beam_jobs.running.portable import Portable
from beam_jobs.target import Graph, Traits
from beam_jobs.terminal import options
from beam_jobs.terminal.cli import find_user_error

_CHECKPOINT_MS = 1000  # offsets are committed once a checkpoint has what came before them
_LOOK_S = 0.2
_ANSWER_S = 10.0
_OVER = ("FINISHED", "CANCELED", "FAILED")
_LOGGER = logging.getLogger(__name__)
_WORKER = "apache_beam.runners.worker.sdk_worker"  # the logger that is told what steps raise


class Flink(Portable):
    """Runs a job on a Flink cluster, its steps in this process, or where ``--environment_type`` says."""

    def __init__(self, parsed: PipelineOptions) -> None:
        super().__init__(parsed)
        self._ends_itself = True
        self._failure: UserError | None = None

    def describe(self) -> Traits:
        where = self._parsed.view_as(PortableOptions).environment_type
        local = self._parsed.view_as(FlinkRunnerOptions).flink_master.startswith("[")
        return Traits(here=where == "LOOPBACK" or (not where and local), java=True)

    def prepare(self, name: str, live: bool) -> str | PipelineRunner:
        flink = self._parsed.view_as(options.FlinkOptions)
        flink.checkpointing_interval = flink.checkpointing_interval or _CHECKPOINT_MS
        # A bundle begins with a reader's position, and has its blocks: to wait for a second one takes a second.
        flink.max_bundle_size = flink.max_bundle_size or 1
        named = self._parsed.view_as(GoogleCloudOptions)  # of the job on the cluster, too
        named.job_name = named.job_name or f"{name.replace('/', '-')}-{uuid.uuid4().hex[:8]}"
        return super().prepare(name, live)

    def submit(self, pipeline: beam.Pipeline, graph: Graph) -> PipelineResult:
        pipeline.options.view_as(StandardOptions).streaming = not graph.bounded
        self._ends_itself = graph.bounded or graph.state or not self.describe().here
        logging.getLogger(_WORKER).setLevel(logging.ERROR)
        logging.getLogger(_WORKER).addFilter(self._hear)
        return super().submit(pipeline, graph)

    def wait(self, result: PipelineResult) -> int:
        """Waits, and ends the job once its reader is at its end: Flink never ends one that streams."""
        ended = threading.Event()
        if not self._ends_itself:
            threading.Thread(target=self._end, args=(result, ended), daemon=True).start()
        try:
            return super().wait(result)
        except RuntimeError:
            if self._failure is not None:
                raise self._failure from None
            if not ended.is_set():
                raise
            return 0

    def _end(self, result: PipelineResult, ended: threading.Event) -> None:
        """Cancels the job when nothing is left to be done: all is read, is out, and is committed; or it can't go on."""
        tick = threading.Event()
        while not (metrics.STATE.own()[metrics.READERS_FINISHED] or self._failure):
            tick.wait(_LOOK_S)
        ended.set()
        # What the cluster says of the job, Beam tells the root logger.
        logging.getLogger().addFilter(lambda record: "JobCancellationException" not in record.getMessage())
        options = self._parsed.view_as(FlinkRunnerOptions)
        if options.flink_master.startswith("["):  # Beam's own cluster, which ends with this process, or one unknown
            reason = "--flink_master is not given" if self._parsed.view_as(PortableOptions).job_endpoint else ""
        else:
            reason = cancel(options.flink_master, self._parsed.view_as(GoogleCloudOptions).job_name)
            if not reason:
                return
        if reason:
            _LOGGER.warning(
                "the job is over here, but not on Flink, where it fails from now on until you cancel it: %s; "
                "with --flink_master HOST:PORT, the address of Flink's REST interface, a job cancels itself",
                reason,
            )
        result.cancel()

    def _hear(self, record: logging.LogRecord) -> bool:
        """Takes what a step has raised that nobody but the user can mend: Flink would try it again without end."""
        self._failure = self._failure or find_user_error(RuntimeError(record.getMessage()))
        return logging.getLogger().isEnabledFor(logging.INFO)


def cancel(master: str, name: str) -> str:
    """Cancels a job on a cluster; why not, else "".

    Args:
      master: host and port of Flink's REST interface.
    """
    rest = master if "://" in master else f"http://{master}"
    try:
        known = requests.get(f"{rest}/jobs/overview", timeout=_ANSWER_S)
        known.raise_for_status()
        running = [job["jid"] for job in known.json()["jobs"] if job["name"] == name and job["state"] not in _OVER]
        if len(running) != 1:
            return f"{master} runs {len(running)} jobs of the name {name}"
        requests.patch(f"{rest}/jobs/{running[0]}?mode=cancel", timeout=_ANSWER_S).raise_for_status()
    except (requests.RequestException, ValueError, LookupError, TypeError) as error:
        return f"{master} does not answer as Flink does: {error}"
    return ""
