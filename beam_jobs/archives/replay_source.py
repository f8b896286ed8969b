"""The replay source: an archive's rows in their first order, over Beam's ``UnboundedSource``, paced by event time.

Bundles end every second, so that what was read is written and acknowledged as the replay goes on. A reader parks its
sweep, with the open files, under its checkpoint mark; one that finds none there starts a sweep of its own at the mark.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam import coders
from apache_beam.io.unbounded_source import CheckpointMark, UnboundedReader, UnboundedSource
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Timestamp

from beam_jobs import metrics, stop
from beam_jobs.archives.contents import NONE_YET, Contents
from beam_jobs.archives.read import ArchiveInput, as_block
from beam_jobs.archives.sweep import Part, Sweep
from beam_jobs.block import MAX_BLOCK_ROWS, BlockCoder, min_timestamp
from beam_jobs.io.block_reader import BlockReader, read_blocks
from beam_jobs.io.idle import IdleCache


@dataclass(frozen=True)
class SweepMark(CheckpointMark):
    """How far a reader is."""

    after: tuple[int, ...] | None = (
        None  # for each partition the position of the last row handed out; None: nothing was
    )
    again: tuple[int, ...] | None = None  # how many rows of that position were
    reached_ms: int = NONE_YET  # event time
    began: tuple[float, int] | None = None  # time.time() and the event time that was due then
    done: bool = False

    def to_json(self) -> bytes:
        return json.dumps([self.after, self.again, self.reached_ms, self.began, self.done]).encode()

    @staticmethod
    def from_json(data: bytes) -> SweepMark:
        """The inverse of ``to_json``."""
        after, again, reached_ms, began, done = json.loads(data)
        return SweepMark(after and tuple(after), again and tuple(again), reached_ms, began and tuple(began), done)


class _MarkCoder(coders.Coder):
    def encode(self, value: SweepMark) -> bytes:
        return value.to_json()

    def decode(self, encoded: bytes) -> SweepMark:
        return SweepMark.from_json(encoded)

    def is_deterministic(self) -> bool:
        return True


@dataclass(frozen=True, eq=False)
class ArchiveSource(UnboundedSource):
    """Events blocks of an archive of events; see :class:`SweepArchive`. Equal by name: Beam pickles each one once."""

    archive: ArchiveInput
    contents: Contents
    speed: float | None
    block_rows: int = MAX_BLOCK_ROWS
    now: Callable[[], float] = time.time
    name: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ArchiveSource) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def split(self, desired_num_splits: int, options: Any = None) -> list[UnboundedSource]:
        return [self]

    def create_reader(self, options: Any, checkpoint_mark: SweepMark | None) -> UnboundedReader:
        return SweepReader(self, checkpoint_mark or SweepMark())

    def get_checkpoint_mark_coder(self) -> coders.Coder:
        return _MarkCoder()

    def default_output_coder(self) -> coders.Coder:
        return BlockCoder()


class _Session:
    """A sweep and what of it is not handed out yet."""

    def __init__(self, source: ArchiveSource, mark: SweepMark) -> None:
        count = len(source.contents.partitions)
        self.after = np.full(count, NONE_YET) if mark.after is None else np.array(mark.after, np.int64)
        self.again = np.zeros(count, np.int64) if mark.again is None else np.array(mark.again, np.int64)
        self.sweep = Sweep(source.archive, source.contents, self.after.copy(), self.again, mark.reached_ms)
        self.part: Part | None = None

    def hand_out(self, part: Part) -> None:
        """Notes that these rows, the next in each partition, are handed out."""
        before = self.after.copy()
        np.maximum.at(self.after, part.partitions, part.positions)
        self.again[self.after != before] = 0
        at_last = part.positions == self.after[part.partitions]
        np.add.at(self.again, part.partitions[at_last], 1)

    def close(self) -> None:
        self.sweep.close()


SESSIONS: IdleCache[_Session] = IdleCache(_Session.close)


class SweepReader(BlockReader[_Session]):
    """Reads blocks from ``mark`` on; with nothing due it says so, and the runner comes back."""

    def __init__(self, source: ArchiveSource, mark: SweepMark) -> None:
        super().__init__(SESSIONS)
        self._source, self._mark = source, mark

    def _next_block(self) -> bool:
        self._block = None
        if stop.requested() or self._mark.done:
            self._finish()
            return False
        session = self._open()
        if session.part is None:
            session.part = session.sweep.next()
            if session.part is None:
                self._finish()
                return False
        part, source = session.part, self._source
        rows, began = len(part), self._mark.began
        if source.speed is not None:
            began = began or (source.now(), int(part.due_ms[0]))
            due = began[1] + (source.now() - began[0]) * 1000 * source.speed
            rows = int(np.searchsorted(part.due_ms, due, "right"))
        rows = min(rows, source.block_rows)
        handed = part.slice(0, rows)
        session.part = part.slice(rows, len(part)) if rows < len(part) else None
        if rows:
            session.hand_out(handed)
            self._block = as_block(handed.rows, None)
            self._timestamp = min_timestamp(self._block)
            metrics.inc(metrics.RECORDS_READ, rows)
            metrics.STATE.reached(int(handed.due_ms[-1]))
        reached = int(handed.due_ms[-1]) if rows else self._mark.reached_ms
        self._mark = SweepMark(tuple(session.after.tolist()), tuple(session.again.tolist()), reached, began)
        return rows > 0

    def get_watermark(self) -> Timestamp:
        return MAX_TIMESTAMP if self._mark.done else MIN_TIMESTAMP

    def get_checkpoint_mark(self) -> SweepMark:
        self._park()
        return self._mark

    def _finish(self) -> None:
        self._mark = replace(self._mark, done=True)

    def _key(self) -> Hashable:
        return self._source.name, self._mark.to_json()

    def _begin(self) -> _Session:
        return _Session(self._source, self._mark)


class SweepArchive(beam.PTransform):
    """Reads an archive of events as events blocks, each partition in the order it had on its topic.

    Args:
      archive, contents: as ``read.open_archive`` and ``contents.look_through`` give them.
      speed: seconds of event time a second, counted from the first row; None: as fast as it goes. A row is due with the
        latest event before it in its partition, so that late ones do not come early.
    """

    def __init__(self, archive: ArchiveInput, contents: Contents, speed: float | None = None) -> None:
        super().__init__()
        self._source = ArchiveSource(archive, contents, speed)

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection[pa.RecordBatch]:
        return pbegin | "Sweep" >> read_blocks(self._source, live=False)
