"""What windows know of partitions, made again: snapshots to begin with, the log read ahead, and how far it has come."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from beam_jobs import metrics
from beam_jobs.block import millis_of
from beam_jobs.errors import one_line
from beam_jobs.io.source import Log
from beam_jobs.storage.snapshots import Arrays, Place, Record, Snapshots, writer

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


class Kept:
    """Snapshots of what a step knows of the partitions of a log.

    Args:
      folder: local or ``gs://``; "": there are none.
      made_by: as Snapshots has it.
      every_s: between two of a partition.

    Attributes:
      wanted: whether there are to be any.
    """

    def __init__(self, folder: str, made_by: str, log: Log, every_s: float) -> None:
        self.wanted = bool(folder)
        self._snapshots = Snapshots(folder, made_by)
        self._log = log
        self._every_s = every_s

    def newest(
        self, topic_id: str, partition: int, first: int, end: int, restore: Callable[[Arrays], T]
    ) -> tuple[Place, T] | None:
        """What ``restore`` makes of a snapshot at an offset behind ``first`` and at most ``end``, the newest that fits.

        Args:
          restore: raises ValueError where the arrays are not what it takes.
        """
        if not self.wanted or not topic_id:  # some brokers give topics no ids
            return None
        for place, arrays in self._snapshots.read(topic_id, partition, first, end):
            offset, millis = place.last
            if offset < first:
                continue
            there = [millis_of(raw.column("timestamp")) for raw in self._log.read({partition: (offset, offset + 1)})]
            if [int(each) for found in there for each in found] != [millis]:
                _LOGGER.warning("partition %d has another record at offset %d than a snapshot", partition, offset)
                continue
            try:
                return place, restore(arrays)
            except ValueError as error:
                _LOGGER.warning(
                    "a snapshot of partition %d at offset %d is passed over: %s", partition, place.next, one_line(error)
                )
        return None

    def write(
        self, topic_id: str, partition: int, next_: int, last: Record | None, since: float, held: Callable[[], Arrays]
    ) -> float:
        """Has a snapshot written when it is time, and no other one is being written.

        Args:
          next_: offset of the first record that is not taken in.
          last: the newest one that is.
          since: when the newest snapshot was made, or what is known was; monotonic clock.

        Returns:
          ``since``, of the one that is being written if there is one.
        """
        now = time.monotonic()
        if not self.wanted or last is None or not topic_id or now - since < self._every_s or not writer().free():
            return since
        writer().write(self._snapshots, Place(topic_id, partition, next_, last), held())
        return now


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
