"""Any runner of Beam's that runs a job in other processes while this one waits: Flink, Spark, a portable job server."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions
from apache_beam.runners.runner import PipelineResult, PipelineRunner

from beam_jobs.errors import UserError
from beam_jobs.target import Graph, Traits, runner_of

_LOGGER = logging.getLogger(__name__)

_DECADE_S = 10 * 365 * 86_400


class Portable:
    """A runner that is Beam's alone: nothing of it is checked."""

    def __init__(self, parsed: PipelineOptions) -> None:
        self._parsed = parsed

    def check(self) -> None:
        """Nothing."""

    def describe(self) -> Traits:
        return Traits(java=True)

    def prepare(self, name: str, live: bool) -> str | PipelineRunner:
        outlast_job_server(self._parsed.view_as(PortableOptions))
        return runner_of(self._parsed)

    def cannot(self, graph: Graph) -> str:
        return ""

    def submit(self, pipeline: beam.Pipeline, graph: Graph) -> PipelineResult:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: Ctrl-C must not end the runner before the job
        threading.excepthook = partial(without_lost_runners, threading.excepthook)
        with runner_errors(runner_of(self._parsed)):
            return pipeline.run()

    def wait(self, result: PipelineResult) -> int:
        with runner_errors(runner_of(self._parsed)):
            result.wait_until_finish()
        return 0


def outlast_job_server(portable: PortableOptions) -> None:
    """Lets the job run longer than Beam's default for one answer of its job server.

    Beam 2.77 takes ``--job_server_timeout`` (300 s) as the deadline of the streams that tell the job's state as well:
    a job, live or bounded, would be ended after five minutes.
    """
    if portable.job_server_timeout == PortableOptions().job_server_timeout:
        portable.job_server_timeout = _DECADE_S


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
