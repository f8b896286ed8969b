"""Several processes for one local job, each with a part of its input: a second core for the pipeline.

Beam's FnApiRunner runs a pipeline on one thread, and loses records when it is told to use several workers. So each
process runs the whole pipeline on its own part (partitions of a topic, files of an archive). The first process is the
one the user started: it checks the job, hands out the parts, adds up what the others count, and passes on Ctrl-C. A
process that fails ends the job in good order: the others finish and commit what they have read.

Nothing is shared but a pipe a process. A worker whose pipe closes (the first process was killed) ends at once, which is
what kill -9 does to it: what it had not committed is read again by the next run.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

from beam_jobs import metrics, stop
from beam_jobs.errors import one_line
from beam_jobs.terminal.cli import EXIT_FAILED, STOP_SIGNALS, find_user_error

_LOGGER = logging.getLogger(__name__)

_TELL_S = 0.5  # how often a worker tells what it has counted
_END_S = 5.0  # how long an ended worker's process may take to be gone

Work = Callable[[], None]


class Workers:
    """``count - 1`` processes beside this one; a context manager that leaves none behind.

    The processes start (and import) at once, while this one still checks the job; :meth:`start` gives them their work.

    Args:
      count: processes in all, this one included.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        context = multiprocessing.get_context("spawn")  # threads of Polars and librdkafka do not outlive a fork
        self._workers: list[tuple[BaseProcess, Connection]] = []
        self._ended: set[int] = set()
        self._failure: BaseException | None = None
        self._listener: threading.Thread | None = None
        for number in range(1, count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, ours), name=f"worker-{number}", daemon=True)
            process.start()
            theirs.close()
            self._workers.append((process, ours))

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self, works: Sequence[Work]) -> None:
        """Gives each process but this one its work, once all of them can begin.

        Args:
          works: picklable, ``count - 1``; run in their processes. What they count there is added to ``metrics.STATE``.

        Raises:
          RuntimeError: a process ended before it could begin.
        """
        for process, pipe in self._workers:
            try:
                pipe.recv()
            except EOFError:
                process.join(_END_S)
                raise RuntimeError(f"{process.name} ended with status {process.exitcode} before it began") from None
        for (_, pipe), work in zip(self._workers, works, strict=True):
            pipe.send(work)
        self._listener = threading.Thread(target=self._listen, name="workers", daemon=True)
        self._listener.start()

    def drain(self) -> None:
        """Tells all to finish what they have read."""
        for _, pipe in self._workers:
            try:
                pipe.send("drain")
            except OSError:
                continue  # it has ended

    def join(self) -> None:
        """Waits until all have ended.

        Raises:
          UserError, RuntimeError: one of them failed.
        """
        if self._listener is not None:
            self._listener.join()
        if self._failure is not None:
            raise self._failure

    def kill(self) -> None:
        """Ends all at once."""
        for process, _ in self._workers:
            process.kill()
        if self._listener is not None:
            # It waits for the same processes, and of two threads that wait for one, the second may be told that it
            # still runs (CPython's Popen.poll takes ECHILD for "not ended").
            self._listener.join(_END_S)
        for process, _ in self._workers:
            process.join(_END_S)

    def _listen(self) -> None:
        """Takes what the workers tell until the last has ended; one that fails stops the job."""
        open_ = {pipe: (number, process) for number, (process, pipe) in enumerate(self._workers, 1)}
        while open_:
            for pipe in multiprocessing.connection.wait(list(open_)):
                assert isinstance(pipe, Connection)
                number, process = open_[pipe]
                try:
                    what, value = pipe.recv()
                except (EOFError, OSError):
                    process.join(_END_S)
                    what, value = "failed", RuntimeError(f"{process.name} ended with status {process.exitcode}")
                if what == "counted":
                    metrics.STATE.of_worker(number, value)
                    continue
                del open_[pipe]
                if what == "failed" and self._failure is None:
                    self._failure = value
                    _LOGGER.info("%s failed: %s", process.name, value)
                    stop.request()
                    self.drain()


def _serve(pipe: Connection, parents_end: Connection) -> None:
    """What a worker's process does: begin, work, tell."""
    parents_end.close()  # else this process would keep its own pipe open when the first one is killed
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # they reach the whole group; the first process passes them on
    try:
        pipe.send("ready")
        work = pipe.recv()
    except (EOFError, OSError):
        os._exit(EXIT_FAILED)
    lock, done = threading.Lock(), threading.Event()

    def tell(what: str, value: Any) -> None:
        with lock:
            pipe.send((what, value))

    def obey() -> None:
        try:
            while True:
                pipe.recv()
                stop.request()
        except (EOFError, OSError):
            if not done.is_set():
                os._exit(EXIT_FAILED)

    def count() -> None:
        while not done.wait(_TELL_S):
            tell("counted", metrics.STATE.own())

    for target in (obey, count):
        threading.Thread(target=target, daemon=True).start()
    failure: BaseException | None = None
    try:
        work()
    except Exception as error:
        _LOGGER.info("failed", exc_info=True)
        failure = find_user_error(error) or RuntimeError(f"{type(error).__name__}: {one_line(error, 500)}")
    done.set()
    tell("counted", metrics.STATE.own())
    tell("ended" if failure is None else "failed", failure)
    os._exit(0)  # nothing is left to do, and idle connections need not be closed one by one
