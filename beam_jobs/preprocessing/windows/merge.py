"""The rows of several partitions, brought to another key, in one order that does not depend on who was faster.

Rows of one second key come from all partitions of the topic, through a topic of their own, in which those of one
partition stand in their order, now and then twice, and those of several between one another as it happened. A
:class:`Merge` puts them into the order of (clock of their partition by then, partition, offset), which the partitions
alone decide, and which is that of time where records are in order of time. It lets a row go when none can come any more
that stands before it; that the topic says too, by marks: how far each partition has been read. A partition with nothing
to read is not waited for; what it brings later than it should have is let go where it comes.

All that is a function of the second topic's log: who takes it in from the same place has the same rows in the same
order, however they were cut into blocks.

>>> merge = Merge(2)
>>> def take(rows, marks=()):
...     p, offset, clock, at = zip(*rows) if rows else ([], [], [], [])
...     block = pa.record_batch({"_partition": pa.array(p, pa.int32()), "_offset": pa.array(offset, pa.int64()),
...                              "order:": pa.array(clock, pa.int64())})
...     out = merge.take(block, np.array(at, np.int64), [Mark(at, np.array(said)) for at, said in marks])
...     return list(zip(out.column("_partition").to_pylist(), out.column("_offset").to_pylist()))
>>> take([(0, 0, 10, 0), (0, 1, 30, 1)], [(2, [[0, 2, 30, False]])])  # nobody knows of partition 1
[]
>>> take([(1, 0, 20, 3)], [(4, [[1, 1, 20, False]])])  # it may have more of 20
[(0, 0)]
>>> take([(0, 1, 30, 5)], [(6, [[1, 1, 20, True]])])  # (0, 1) came again; partition 1 has nothing to read
[(1, 0)]
>>> take([], [(7, [[0, 2, 30, True]])])
[(0, 1)]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs.preprocessing.windows.order import OFFSET, ORDER, PARTITION
from beam_jobs.preprocessing.windows.packed import Arrays

Longs = NDArray[np.int64]

NEVER = -(1 << 61)  # before any clock
MOST_RECORDS = 1 << 45  # more than a log has
_RANK, _FIRST, _THEN = _PLACE = "rank:", "first:", "then:"  # where a row stands


class Mark(NamedTuple):
    """What the second topic says of the partitions."""

    at: int  # its offset there
    said: Longs  # [k, 4]: partition, the offset it has been read to, its clock, whether nothing is left to be read


class Merge:
    """The rows of one partition of the second topic on their way to the order. Not for several threads at once.

    Args:
      partitions: of the first topic.
      deleted: the log has lost its beginning; a partition that no mark tells of has had nothing to read for so long.
    """

    def __init__(self, partitions: int, deleted: bool = False) -> None:
        self._clocks = np.full(partitions, NEVER, np.int64)  # as far as marks say
        self._idle = np.full(partitions, deleted)
        self._next = np.zeros(partitions, np.int64)  # offset from which on rows are new
        self._heard = np.zeros(partitions, np.bool_)
        self._newest = NEVER  # clock of any row
        self._limit = NEVER
        self._waiting: list[pa.RecordBatch] = []  # each in the order
        self.repeated = 0  # rows so far that had come before

    @property
    def limit(self) -> int:
        """Rows of clocks before it have gone, microseconds."""
        return self._limit

    @property
    def knows_all(self) -> bool:
        """Whether marks have told of each partition, so that what it lets go is what it always let go."""
        return bool(self._heard.all())

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return sum(block.num_rows for block in self._waiting)

    @property
    def memory_bytes(self) -> int:
        """What these take."""
        return sum(block.nbytes for block in self._waiting)

    def held(self) -> Arrays:
        """All that is known, by name, in arrays of its own: ``restore`` takes them, in whatever process."""
        told = {"clocks": self._clocks, "idle": self._idle, "next": self._next, "heard": self._heard}
        arrays: dict[str, NDArray[Any]] = {name: array.copy() for name, array in told.items()}
        waiting = pa.BufferOutputStream()
        if self._waiting:
            with pa.ipc.new_stream(waiting, self._waiting[0].schema) as stream:
                for block in self._waiting:
                    stream.write_batch(block)
        arrays["waiting"] = np.frombuffer(waiting.getvalue(), np.uint8)
        return arrays | {"newest": np.array([self._newest]), "limit": np.array([self._limit])}

    def restore(self, arrays: Arrays, schema: pa.Schema) -> None:
        """Takes what one of as many partitions has ``held``, instead of what is known.

        Args:
          schema: of the rows that ``take`` is given.

        Raises:
          ValueError: it is something else; this one can't be used any more.
        """

        def shapes(of: Arrays) -> dict[str, tuple[np.dtype[Any], Any]]:
            return {name: (array.dtype, array.shape if name != "waiting" else array.ndim) for name, array in of.items()}

        if shapes(arrays) != shapes(self.held()):
            raise ValueError("not what is known of as many partitions")
        self._clocks, self._idle = arrays["clocks"].copy(), arrays["idle"].copy()
        self._next, self._heard = arrays["next"].copy(), arrays["heard"].copy()
        self._newest, self._limit = int(arrays["newest"][0]), int(arrays["limit"][0])
        self._waiting = []
        if not len(arrays["waiting"]):
            return
        try:
            with pa.ipc.open_stream(pa.py_buffer(arrays["waiting"].tobytes())) as stream:
                self._waiting = list(stream)
                found = stream.schema
            for block in self._waiting:
                block.validate(full=True)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"rows that wait can't be read: {error}") from error
        if not found.equals(_placed(schema)):
            raise ValueError("rows that wait have other columns")

    def take(self, rows: pa.RecordBatch, at: Longs, marks: Sequence[Mark]) -> pa.RecordBatch:
        """Takes in a stretch of the second topic; the rows that go now, in the order, ``order:`` being their clock.

        Args:
          rows: n rows with ``_partition``, ``_offset`` and ``order:``, in the order of the second topic.
          at: their offsets there, [n].
          marks: of this stretch, ascending.
        """
        partitions = rows.column(PARTITION).to_numpy().astype(np.int64)
        offsets, clocks = rows.column(OFFSET).to_numpy(), rows.column(ORDER).to_numpy()
        new = self._are_new(partitions, offsets, at, marks)
        limits = self._limits(clocks, at, marks)
        ordinary = clocks >= limits
        rank = np.where(ordinary, 2 * clocks, 2 * limits - 1)  # one between what has gone and what has not
        first, then = np.where(ordinary, partitions, -1), np.where(ordinary, offsets, at)
        order = np.lexsort((then, first, rank))
        order = order[new[order]]
        self.repeated += int(len(new) - len(order))
        if len(order):
            here = [pa.array(column[order]) for column in (rank, first, then)]
            block = rows.take(pa.array(order))
            block = block.set_column(block.schema.get_field_index(ORDER), ORDER, pa.array(rank[order] >> 1))
            self._waiting.append(pa.RecordBatch.from_arrays([*block.columns, *here], schema=_placed(rows.schema)))
        return self._released(rows)

    def _are_new(self, partitions: Longs, offsets: Longs, at: Longs, marks: Sequence[Mark]) -> NDArray[np.bool_]:
        """Which rows did not come before: those from the offset on that their partition has come to by then."""
        known = np.arange(len(self._next))
        said = [np.empty((0, 4), np.int64), *(mark.said for mark in marks)]
        of_marks = np.repeat([mark.at for mark in marks], [len(mark.said) for mark in marks]).astype(np.int64)
        marked = np.concatenate(said)
        p = np.concatenate([known, partitions, marked[:, 0]])
        reached = np.concatenate([self._next, offsets + 1, marked[:, 1]])
        place = np.concatenate([np.full(len(known), -1), at, of_marks])
        order = np.lexsort((place, p))
        apart = p[order] * MOST_RECORDS  # so that no partition's offsets reach those of the next one
        furthest = np.maximum.accumulate(reached[order] + apart) - apart
        before = np.empty(len(order), np.int64)
        before[order[1:]] = furthest[:-1]
        before[order[0]] = 0
        last = np.flatnonzero(np.append(p[order][1:] != p[order][:-1], True))
        self._next = furthest[last]
        return offsets >= before[len(known) : len(known) + len(offsets)]

    def _limits(self, clocks: Longs, at: Longs, marks: Sequence[Mark]) -> Longs:
        """The limit as it was at each row; takes the marks in."""
        newest = np.maximum.accumulate(np.append(self._newest, clocks))
        ends = np.searchsorted(at, [mark.at for mark in marks])
        steps = [self._limit]
        for end, (_, said) in zip(ends, marks, strict=True):
            p = said[:, 0]
            self._clocks[p] = np.maximum(self._clocks[p], said[:, 2])
            self._idle[p], self._heard[p] = said[:, 3] != 0, True
            if self._idle.all():
                reached = max(int(newest[end]), int(self._clocks.max())) + 1
            else:
                reached = int(self._clocks[~self._idle].min())
            self._limit = max(self._limit, reached)
            steps.append(self._limit)
        self._newest = int(newest[-1])
        return np.repeat(np.array(steps, np.int64), np.diff(np.array([0, *ends, len(clocks)])))

    def _released(self, like: pa.RecordBatch) -> pa.RecordBatch:
        going, waiting = [], []
        for block in self._waiting:
            cut = int(np.searchsorted(block.column(_RANK).to_numpy(), 2 * self._limit))
            if cut:
                going.append(block.slice(0, cut))
            if cut < block.num_rows:
                waiting.append(block.slice(cut))
        self._waiting = waiting
        if not going:
            return like.slice(0, 0)
        rows = pa.concat_batches(going)
        if len(going) > 1:
            rows = rows.take(pa.array(np.lexsort([rows.column(name).to_numpy() for name in (_THEN, _FIRST, _RANK)])))
        return rows.select(like.schema.names)


def _placed(schema: pa.Schema) -> pa.Schema:
    """Of rows that wait: with where they stand."""
    names = [*schema.names, *_PLACE]
    types = [*(pa.int64() if name == ORDER else schema.field(name).type for name in schema.names), *[pa.int64()] * 3]
    return pa.schema(list(zip(names, types, strict=True)))
