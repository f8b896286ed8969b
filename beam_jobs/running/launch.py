"""From a parsed command line to a running job: the target, Ctrl-C, the closing summary."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from beam_jobs import metrics, stop
from beam_jobs.errors import UserError
from beam_jobs.preprocessing.threads import one_thread
from beam_jobs.running.process import configure_logging, keep_memory
from beam_jobs.running.workers import Workers
from beam_jobs.storage.files import local_path
from beam_jobs.target import Graph, Target, target_of
from beam_jobs.terminal import options
from beam_jobs.terminal.cli import EXIT_INTERRUPTED, STOP_SIGNALS, say
from beam_jobs.terminal.report import Progress, check_writable

_ANY_GRAPH = "PrismRunner"  # runs here what the runner in this process can't

Wire = Callable[[beam.Pipeline], Any]


def begin(parsed: PipelineOptions) -> Workers:
    """Sets this process up, checks what the target needs, and begins the processes that are to share the job here.

    Raises:
      UserError: no such runner, or something that its target needs.
    """
    one_thread()
    reporting = parsed.view_as(options.ReportOptions)
    reporting.report = str(local_path(reporting.report)) if reporting.report else None
    target = target_of(parsed)
    target.check()
    return Workers(target.describe().processes)


def run_job(
    parsed: PipelineOptions,
    wires: Sequence[Wire],
    name: str,
    live: bool,
    conclude: Callable[[], int],
    workers: Workers,
    goes_on: bool = False,
) -> int:
    """Runs the pipelines that ``wires`` build, one a process.

    ``conclude()`` then says what happened to them, and the exit status of a job that has run to its end. A job
    that runs elsewhere is handed over, and it is there that one sees what comes of it.

    Args:
      wires: what each process runs, this one the first; as many as there are ``workers``.
      name: of the job, "score/car_sensors".
      live: it runs until it is stopped.
      goes_on: the job has run pipelines before, and what these counted counts.

    Returns:
      The exit status.

    Raises:
      UserError: the target can't run the job.
    """
    if not target_of(parsed).describe().here:
        return _prepare(parsed, wires[0], name, live)()
    reporting = parsed.view_as(options.ReportOptions)
    if reporting.report:
        check_writable(reporting.report)
    if goes_on:
        metrics.STATE.workers_ended()
    else:
        metrics.STATE.reset()
    run = _prepare_here(parsed, wires[0], name, live)
    if run.graph.state and workers.count > 1:
        raise UserError(
            f"--direct_num_workers={workers.count}: a step keeps state by key, and each process would have its own; "
            "leave it out"
        )
    flags = parsed.get_all_options(drop_default=True)
    workers.start([partial(_work, flags, wire, name, live) for wire in wires[1:]])
    if not goes_on:
        metrics.STATE.started = time.time()
    finished, status = False, 0
    try:
        with Progress(reporting.progress, name.partition("/")[0]), drain_on_signal(workers) as arm:
            status = run(arm)
            workers.join()
        finished = True
    finally:
        metrics.STATE.failed = not finished
        if finished or metrics.STATE.snapshot()[metrics.RECORDS_READ]:
            status = conclude() or status
    return status


def _work(flags: dict[str, Any], wire: Wire, name: str, live: bool) -> None:
    """What a process runs beside the first one."""
    _prepare_here(PipelineOptions(flags=[], **flags), wire, name, live)()


@dataclass(frozen=True)
class _Run:
    """A job that is ready to run."""

    target: Target
    pipeline: beam.Pipeline
    graph: Graph

    def __call__(self, submitted: Callable[[], None] = lambda: None) -> int:
        """Runs it to its end, where that is to be waited for; the exit status.

        Args:
          submitted: called once the runner has set its own signal handlers.
        """
        result = self.target.submit(self.pipeline, self.graph)
        submitted()
        return self.target.wait(result)


def _prepare_here(parsed: PipelineOptions, wire: Wire, name: str, live: bool) -> _Run:
    """Sets this process up for a pipeline that runs in it, or beside it, and builds that."""
    stop.reset()
    run = _prepare(parsed, wire, name, live)
    keep_memory()
    gc.freeze()  # modules and graphs stay: a full collection that walks them stops the stream for 0.1 s
    return run


def _prepare(parsed: PipelineOptions, wire: Wire, name: str, live: bool) -> _Run:
    """Builds the pipeline for the runner that is named, or where none is for one that can run its graph."""
    configure_logging(parsed)
    standard = parsed.view_as(StandardOptions)
    standard.streaming = live  # as Beam's checks want to know before there is a graph
    target = target_of(parsed)
    runner = target.prepare(name, live)
    try:
        pipeline = beam.Pipeline(runner, parsed)
    except ValueError as error:
        raise UserError(str(error).removeprefix("Pipeline has validations errors:")) from error
    wire(pipeline)
    graph = Graph.of(pipeline)
    reason = target.cannot(graph)
    if not reason:
        return _Run(target, pipeline, graph)
    if standard.runner:
        raise UserError(f"--runner={standard.runner}: {reason}; leave it out, or take --runner={_ANY_GRAPH}")
    standard.runner = _ANY_GRAPH
    return _prepare(parsed, wire, name, live)


@contextmanager
def drain_on_signal(workers: Workers) -> Iterator[Callable[[], None]]:
    """A stop signal lets the job finish what it has read and commit; a second Ctrl-C ends it at once.

    Yields a function that takes the signals again, after somebody else took them.
    """

    def stop_in_order(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, stop_at_once)
        say("stopping: finishing what was read (Ctrl-C again to stop at once)")
        stop.request()
        workers.drain()

    def stop_at_once(signum: int, frame: FrameType | None) -> None:
        workers.kill()
        os._exit(EXIT_INTERRUPTED)

    def arm() -> None:
        for number in before:
            signal.signal(number, stop_in_order)

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    arm()
    try:
        yield arm
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
