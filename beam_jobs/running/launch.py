"""From a parsed command line to a running job: the runner, Ctrl-C, the closing summary."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from types import FrameType
from typing import Any

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    PortableOptions,
    PrismRunnerOptions,
    StandardOptions,
)

from beam_jobs import metrics
from beam_jobs.errors import UserError
from beam_jobs.io.reading import request_drain, reset_drain
from beam_jobs.preflight.dataflow import check_target
from beam_jobs.running import dataflow
from beam_jobs.running.local_runner import LocalRunner
from beam_jobs.running.workers import Workers
from beam_jobs.storage import files
from beam_jobs.terminal import options
from beam_jobs.terminal.cli import EXIT_INTERRUPTED, STOP_SIGNALS, say
from beam_jobs.terminal.report import Progress, check_writable
from beam_jobs.terminal.runners import IN_PROCESS, on_dataflow, runner_of
from schemas.source import interrupt_waits, resume_waits

_LOGGER = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_KEPT_BYTES = 512 << 20
_DECADE_S = 10 * 365 * 86_400

Wire = Callable[[beam.Pipeline], Any]


def begin(parsed: PipelineOptions) -> Workers:
    """Checks what the runner needs, and begins the processes that ``--direct_num_workers`` asks for (0: one a core).

    On any other runner than ours it is one process.

    Raises:
      UserError: no such runner, a way of running several that loses records, or something that Dataflow needs.
    """
    check_target(parsed)
    direct = parsed.view_as(DirectOptions)
    count = worker_count(direct) if runner_of(parsed) in IN_PROCESS else 1
    direct.direct_num_workers, direct.direct_running_mode = 1, "in_memory"  # for Beam: each process runs its own
    return Workers(count)


def worker_count(direct: DirectOptions) -> int:
    """How many processes are asked for.

    Raises:
      UserError: threads of Beam's own FnApiRunner: Beam 2.77 then drops the rest of an unbounded source, silently.
    """
    count, mode = direct.direct_num_workers, direct.direct_running_mode
    if count < 0:
        raise UserError(f"--direct_num_workers={count}: expected a number of processes, or 0 for one a core")
    if mode == "multi_threading":
        raise UserError(
            f"--direct_running_mode={mode}: Beam's FnApiRunner loses records with it; leave it out, "
            "--direct_num_workers=N alone starts N processes that share the input"
        )
    return count or os.cpu_count() or 1


def run_job(
    parsed: PipelineOptions,
    wires: Sequence[Wire],
    name: str,
    live: bool,
    conclude: Callable[[float], int],
    workers: Workers,
) -> int:
    """Runs the pipelines that ``wires`` build, one a process.

    ``conclude(start time)`` then says what came of them, and the exit status of a job that has run to its end.

    Locally, bounded and streaming jobs of one fused stateless stage run on the FnApiRunner, whatever
    ``--runner=DirectRunner`` might pick (docs/decisions.md); ``--runner=PrismRunner`` runs them on Prism. On Dataflow
    the job is submitted (``dataflow.run``), and the service tells what comes of it.

    Args:
      wires: what each process runs, this one the first; as many as there are ``workers``.
      name: of the job, "score/car_sensors".
      live: it runs until it is stopped.

    Returns:
      The exit status.
    """
    if on_dataflow(parsed):
        _configure_logging(parsed)
        return dataflow.run(parsed, wires[0], name, live)
    reporting = parsed.view_as(options.ReportOptions)
    if reporting.report:
        check_writable(reporting.report)
    metrics.TOTALS.reset()
    run = _prepare(parsed, wires[0], live)
    flags = parsed.get_all_options(drop_default=True)
    workers.start([partial(_work, flags, wire, live) for wire in wires[1:]], drain)
    started = time.time()
    finished, status = False, 0
    try:
        with Progress(reporting.progress, started), drain_on_signal(workers) as arm:
            run(arm)
            workers.join()
        finished = True
    finally:
        if finished or metrics.TOTALS.snapshot()[0][metrics.RECORDS_READ]:
            status = conclude(started)
    return status


def _work(flags: dict[str, Any], wire: Wire, live: bool) -> None:
    """What a process runs beside the first one."""
    _prepare(PipelineOptions(flags=[], **flags), wire, live)(lambda: None)


def _prepare(parsed: PipelineOptions, wire: Wire, live: bool) -> Callable[[Callable[[], None]], None]:
    """Sets this process up and builds the pipeline.

    Returns:
      Runs it to its end; calls its argument once the runner has set its own signal handlers.
    """
    _configure_logging(parsed)
    parsed.view_as(StandardOptions).streaming = live
    runner = runner_of(parsed)
    prism = parsed.view_as(PrismRunnerOptions)
    if runner == "PrismRunner":
        prism.prism_location = prism.prism_location or shutil.which("prism")  # None: Beam downloads it
        outlast_job_server(parsed.view_as(PortableOptions))
        if prism.prism_log_level == "info" and not parsed.view_as(options.ReportOptions).verbose:
            prism.prism_log_level = "error"  # it tells of itself, and warns of steps that Beam has made
    reset_drain()
    resume_waits()
    files.resume_waits()
    pipeline = beam.Pipeline(runner=LocalRunner() if runner in IN_PROCESS else runner, options=parsed)
    wire(pipeline)
    keep_memory()
    gc.freeze()  # modules and graphs stay: a full collection that walks them stops the stream for 0.1 s

    def run(running: Callable[[], None]) -> None:
        if runner not in IN_PROCESS:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: Ctrl-C must not end the runner before the job
            threading.excepthook = partial(without_lost_runners, threading.excepthook)
        with nullcontext() if runner in IN_PROCESS else runner_errors(runner):
            result = pipeline.run()
            running()
            result.wait_until_finish()

    return run


def without_lost_runners(otherwise: Callable[[Any], Any], raised: Any) -> None:
    """A ``threading.excepthook`` for Beam's threads, which end with a stack trace each when their runner is gone."""
    if isinstance(raised.exc_value, grpc.RpcError):
        _LOGGER.info("a thread of Beam's has lost its runner", exc_info=raised.exc_value)
    else:
        otherwise(raised)


@contextmanager
def runner_errors(runner: str) -> Iterator[None]:
    """Turns what gRPC says of a runner in another process, when that one is gone, into a ``UserError``."""
    try:
        yield
    except grpc.RpcError as error:
        code = error.code().name if isinstance(error, grpc.Call) else "no answer"
        raise UserError(
            f"--runner {runner}: the runner's process does not answer any more ({code}); start the job again: what was "
            "read and not committed is read again"
        ) from error


def _configure_logging(parsed: PipelineOptions) -> None:
    verbose = parsed.view_as(options.ReportOptions).verbose
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(message)s", force=True
    )
    # RunInference warns of it on every machine without its optional model manager.
    logging.getLogger().addFilter(lambda record: "Resource module is not available" not in str(record.msg))
    if not verbose:
        # Runners log the stack trace of what a worker raised, and raise it again: the command says it in one line.
        # gcsio is asked by Beam only, and warns where an account may not see a bucket's own settings.
        for noisy in ("apache_beam.runners", "apache_beam.utils.subprocess_server", "apache_beam.io.gcp.gcsio"):
            logging.getLogger(noisy).setLevel(logging.CRITICAL + 1)  # Dataflow's logs refusals as critical


def outlast_job_server(portable: PortableOptions) -> None:
    """Lets the job run longer than Beam's default for one answer of its job server.

    Beam 2.77 takes ``--job_server_timeout`` (300 s) as the deadline of the streams that tell the job's state as well:
    a job on Prism, live or bounded, would be ended after five minutes.
    """
    if portable.job_server_timeout == PortableOptions().job_server_timeout:
        portable.job_server_timeout = _DECADE_S


def drain() -> None:
    """Lets the pipeline of this process finish what it has read, commit, and end."""
    request_drain()
    interrupt_waits()
    files.interrupt_waits()


@contextmanager
def drain_on_signal(workers: Workers) -> Iterator[Callable[[], None]]:
    """A stop signal lets the job finish what it has read and commit; a second Ctrl-C ends it at once.

    Yields a function that takes the signals again, after somebody else took them.
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, stop_at_once)
        say("stopping: finishing what was read (Ctrl-C again to stop at once)")
        drain()
        workers.drain()

    def stop_at_once(signum: int, frame: FrameType | None) -> None:
        workers.kill()
        os._exit(EXIT_INTERRUPTED)

    def arm() -> None:
        for number in before:
            signal.signal(number, stop)

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    arm()
    try:
        yield arm
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def keep_memory() -> None:
    """Lets glibc keep what blocks free: given back and asked for anew, each page costs a fault (10 % of a job)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TOP_PAD, _KEPT_BYTES // 8)
