"""From a parsed command line to a running job: the runner, Ctrl-C, the closing summary."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    PortableOptions,
    PrismRunnerOptions,
    StandardOptions,
)

from beam_jobs import metrics, options
from beam_jobs.cli import EXIT_INTERRUPTED, STOP_SIGNALS, say
from beam_jobs.errors import UserError
from beam_jobs.io.kafka import request_drain, reset_drain
from beam_jobs.local_runner import LocalRunner
from beam_jobs.report import Progress, check_writable
from schemas.client import interrupt_waits, resume_waits

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_KEPT_BYTES = 512 << 20
_DECADE_S = 10 * 365 * 86_400

IN_PROCESS = ("DirectRunner", "FnApiRunner")


def run_job(
    parsed: PipelineOptions, wire: Callable[[beam.Pipeline], Any], live: bool, conclude: Callable[[float], None]
) -> int:
    """Runs the pipeline that ``wire`` builds; ``conclude(start time)`` then says what came of it.

    Locally, bounded and streaming jobs of one fused stateless stage run in this process on the FnApiRunner, whatever
    ``--runner=DirectRunner`` might pick (docs/decisions.md); ``--runner=PrismRunner`` runs them on Prism.
    """
    reporting = parsed.view_as(options.ReportOptions)
    if reporting.report:
        check_writable(reporting.report)
    level = logging.INFO if reporting.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(message)s", force=True)
    # RunInference warns of it on every machine without its optional model manager.
    logging.getLogger().addFilter(lambda record: "Resource module is not available" not in str(record.msg))
    if not reporting.verbose:
        # Runners log the stack trace of what a worker raised, and raise it again: the command says it in one line.
        for noisy in ("apache_beam.runners", "apache_beam.utils.subprocess_server"):
            logging.getLogger(noisy).setLevel(logging.CRITICAL)
    standard = parsed.view_as(StandardOptions)
    standard.streaming = live
    runner = standard.runner or "DirectRunner"
    prism = parsed.view_as(PrismRunnerOptions)
    if runner == "PrismRunner":
        prism.prism_location = prism.prism_location or shutil.which("prism")  # None: Beam downloads it
        outlast_job_server(parsed.view_as(PortableOptions))
    metrics.TOTALS.reset()
    reset_drain()
    resume_waits()
    if runner in IN_PROCESS:
        check_one_worker(parsed.view_as(DirectOptions))
    pipeline = beam.Pipeline(runner=LocalRunner() if runner in IN_PROCESS else runner, options=parsed)
    wire(pipeline)
    keep_memory()
    gc.freeze()  # modules and graphs stay: a full collection that walks them stops the stream for 0.1 s
    started = time.time()
    finished = False
    try:
        with Progress(reporting.progress, started), drain_on_signal() as arm:
            if runner not in IN_PROCESS:
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: Ctrl-C must not end the runner before the job
            running = pipeline.run()
            arm()  # a job server's client takes the signal for itself
            running.wait_until_finish()
        finished = True
    finally:
        if finished or metrics.TOTALS.snapshot()[0][metrics.RECORDS_READ]:
            conclude(started)
    return 0


def outlast_job_server(portable: PortableOptions) -> None:
    """Lets the job run longer than Beam's default for one answer of its job server.

    Beam 2.77 takes ``--job_server_timeout`` (300 s) as the deadline of the streams that tell the job's state as well:
    a job on Prism, live or bounded, would be ended after five minutes.
    """
    if portable.job_server_timeout == PortableOptions().job_server_timeout:
        portable.job_server_timeout = _DECADE_S


def check_one_worker(direct: DirectOptions) -> None:
    """Refuses several workers on the FnApiRunner: Beam 2.77 then drops the rest of an unbounded source, silently."""
    if direct.direct_num_workers != 1 or direct.direct_running_mode not in (None, "in_memory"):
        raise UserError(
            f"--direct_num_workers={direct.direct_num_workers} --direct_running_mode={direct.direct_running_mode}: "
            "with several workers Beam's FnApiRunner loses records; leave both out, and for more cores start a second "
            "process on other partitions (--from 0:0,1:0)"
        )


@contextmanager
def drain_on_signal() -> Iterator[Callable[[], None]]:
    """A stop signal lets the job finish what it has read and commit; a second Ctrl-C ends it at once.

    Yields a function that takes the signals again, after somebody else took them.
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, lambda *_: os._exit(EXIT_INTERRUPTED))
        say("stopping: finishing what was read (Ctrl-C again to stop at once)")
        request_drain()
        interrupt_waits()

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
