"""What windows know of partitions, made again from the log: reading ahead, and telling how far it has come."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from beam_jobs import metrics

_LOGGER = logging.getLogger(__name__)

_TELL_S = 5.0  # a rebuild that takes longer is told of
_TELL_AGAIN_S = 15.0

T = TypeVar("T")


def ahead(items: Generator[T, None, None]) -> Generator[T, None, None]:
    """The same, each made in a thread of its own while the caller is busy with the one before it."""
    with ThreadPoolExecutor(1, "highbeam-rebuild") as pool:
        try:
            waiting = pool.submit(next, items, None)
            while (item := waiting.result()) is not None:
                waiting = pool.submit(next, items, None)
                yield item
        finally:
            pool.submit(items.close).result()


class Telling:
    """Tells how far a rebuild has come: the status line, and after some seconds the log. A context manager.

    Args:
      records: that are to be read.
      reach_ms: how far back windows see.
    """

    def __init__(self, records: int, reach_ms: int) -> None:
        self._wanted, self._reach_ms = records, reach_ms
        self._name = uuid.uuid4().hex
        self._done = 0
        self._began = time.monotonic()
        self._tell_at = self._began + _TELL_S

    def __enter__(self) -> Telling:
        metrics.STATE.rebuilds(self._name, self._now())
        return self

    def read(self, span: int, records: int) -> None:
        """So many offsets further."""
        self._done += span
        metrics.inc(metrics.REREAD, records)
        now = self._now()
        metrics.STATE.rebuilds(self._name, now)
        if time.monotonic() >= self._tell_at:
            self._tell_at = time.monotonic() + _TELL_AGAIN_S
            _LOGGER.warning("%s", now)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        metrics.STATE.rebuilds(self._name, None)
        seconds = time.monotonic() - self._began
        if error is None and seconds >= _TELL_S:
            _LOGGER.warning("rebuilt %s of features in %.0f s", metrics.length(self._reach_ms), seconds)

    def _now(self) -> metrics.Rebuilding:
        return metrics.Rebuilding(self._reach_ms, self._wanted, self._done, time.monotonic() - self._began)
