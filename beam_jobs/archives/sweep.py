"""An archive's rows in the order they had on their topic, with memory for a few batches of rows. No Beam here.

The archive is cut by hours of event time, so the rows of a partition are spread over files: late ones lie in folders of
hours long gone. ``contents.look_through`` reads the positions of all rows once and keeps, for each file, the
first and last of each partition. :class:`Sweep` then reads the files side by side, a batch at a time, and hands out a
row when no unread one of its partition can come before it. An archive job's bundles hold ranges of positions that
hardly overlap, so few files are open at a time. Other archives (made from archives) are read as well, but may need more
memory: a batch of each file that overlaps. However many those are, ``_MAX_OPEN`` are open at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs.archives.contents import NONE_LEFT, NONE_YET, Contents, FileRange, Longs, codes_of
from beam_jobs.archives.read import ArchiveInput, read_rows, wanted_rows
from beam_jobs.archives.rows import SOURCE_KEY, archive_schema
from beam_jobs.block import millis_of, take
from beam_jobs.errors import UserError

_MAX_OPEN = 64
_MAX_PENDING = 64  # parts; more are joined, as all of them are looked at with every batch


@dataclass(frozen=True)
class Part:
    """Rows of one file or of several, row by row beside what orders them."""

    rows: pa.RecordBatch
    partitions: Longs  # [n], indexes into Contents.partitions
    positions: Longs  # [n]
    due_ms: Longs  # [n], event time, or the largest before it in the partition once the rows are in order

    def __len__(self) -> int:
        return len(self.positions)

    def slice(self, start: int, stop: int) -> Part:
        """Rows [start, stop), sharing memory."""
        rows = self.rows.slice(start, stop - start)
        return Part(rows, self.partitions[start:stop], self.positions[start:stop], self.due_ms[start:stop])

    def take(self, rows: NDArray[np.int64]) -> Part:
        """The given rows (a copy)."""
        return Part(self.rows.take(pa.array(rows)), self.partitions[rows], self.positions[rows], self.due_ms[rows])

    @staticmethod
    def joined(parts: list[Part]) -> Part:
        """The rows of all parts, of which there is at least one."""
        if len(parts) == 1:
            return parts[0]
        joined = pa.concat_batches([part.rows for part in parts])
        arrays = zip(*((part.partitions, part.positions, part.due_ms) for part in parts), strict=True)
        return Part(joined, *(np.concatenate(array) for array in arrays))


Parts = Iterator[tuple[int, Part]]
"""Batches of a file: rows of the file up to here, and those that are wanted."""


class _File:
    """A file that is not read to its end.

    Args:
      parts: opens a file, to go on after so many of its rows.
      after: by partition, the position of the last row that is not wanted any more.
    """

    def __init__(self, number: int, held: FileRange, parts: Callable[[int, int], Parts], after: Longs) -> None:
        self.held = held
        self.places = {p: place for place, p in enumerate(held.partitions.tolist())}
        self._number, self._open = number, parts
        self._parts: Parts | None = None
        self._rows = 0  # read
        self.next = np.maximum(held.first, after[held.partitions])  # [k]; no unread row lies before it
        self.next[held.last < self.next] = NONE_LEFT

    def goes_on(self, p: int) -> int:
        """The smallest position of partition p that may not be read yet."""
        return int(self.next[self.places[p]])

    def ends(self, p: int) -> int:
        """The largest position of partition p."""
        return int(self.held.last[self.places[p]])

    @property
    def done(self) -> bool:
        return bool((self.next == NONE_LEFT).all())

    @property
    def begun(self) -> bool:
        return self._rows > 0

    @property
    def opened(self) -> bool:
        return self._parts is not None

    def read(self) -> Part | None:
        """The next batch; None: there is no more."""
        held = self.held
        if self._parts is None:
            self._parts = self._open(self._number, self._rows)
        self._rows, part = next(self._parts, (held.rows, None))
        if self._rows >= held.rows or part is None:
            self.next[:] = NONE_LEFT
            return part
        newest = np.full(held.partitions.max() + 1, NONE_YET)
        np.maximum.at(newest, part.partitions, part.positions)
        # The same position may come again: the next is not beyond the newest.
        after = newest[held.partitions]
        if len(held.starts):
            place = np.searchsorted(held.starts, self._rows, "right") - 1
            after = np.where(held.in_order, after, held.goes_on[place])
        self.next = np.maximum(self.next, after)
        return part

    def close(self) -> None:
        """Closes the file; a later ``read`` goes on where this one was."""
        if self._parts is not None:
            self._parts.close()  # type: ignore[attr-defined]
            self._parts = None


class Sweep:
    """The wanted rows of an archive, each partition's in the order of its positions, partitions side by side in time.

    Args:
      after: int64 [partitions], by partition the position of the last row that was handed out; None: none was.
      again: int64 [partitions], how many rows of that position were.
      reached_ms: event time that ``due_ms`` starts from.
    """

    def __init__(
        self,
        archive: ArchiveInput,
        contents: Contents,
        after: Longs | None = None,
        again: Longs | None = None,
        reached_ms: int = NONE_YET,
    ) -> None:
        self._archive, self._contents = archive, contents
        self._schema = archive_schema(archive.use_case, archive.content)
        count = len(contents.partitions)
        self._timed = np.array(contents.timed)
        self._any_timed = bool(self._timed.any())
        self._after = np.full(count, NONE_YET) if after is None else after
        self._again = np.zeros(count, np.int64) if again is None else again.copy()
        self._reached = np.full(count, reached_ms)  # event time of what was handed out, by partition
        self._pending: list[Part] = []
        self._begun: list[_File] = []  # that is not done; the one read last is the last
        files = [_File(number, held, self._parts, self._after) for number, held in enumerate(contents.files)]
        files = [file for file in files if not file.done]
        # By partition: files not begun yet, the first one last; files not done, the one that ends first last.
        self._waiting: list[list[_File]] = [[] for _ in range(count)]
        self._ending: list[list[_File]] = [[] for _ in range(count)]
        for file in files:
            for p in file.places:
                self._waiting[p].append(file)
                self._ending[p].append(file)
        for p in range(count):
            self._waiting[p].sort(key=partial(_File.goes_on, p=p), reverse=True)
            self._ending[p].sort(key=partial(_File.ends, p=p), reverse=True)
        self.held_rows = 0  # rows in memory that could not be handed out yet

    def next(self) -> Part | None:
        """The rows that come next, at least one; None at the end.

        Raises:
          UserError: a file can't be read.
        """
        bounds = self._bounds()
        while True:
            file = self._choose(bounds)
            if file is None:
                return self._ready(np.full(len(bounds), NONE_LEFT))
            part = self._read(file)
            if part is not None and len(part):
                self._pending.append(part)
            bounds = self._bounds()
            ready = self._ready(bounds)
            if ready is not None:
                return ready

    def close(self) -> None:
        """Closes all files."""
        for file in self._begun:
            file.close()
        self._begun, self._pending = [], []

    def _read(self, file: _File) -> Part | None:
        """A batch of a file; of the open ones that is closed which was read longest ago."""
        if file.begun:
            self._begun.remove(file)
        self._begun.append(file)
        part = file.read()
        if file.done:
            file.close()
            self._begun.remove(file)
        else:
            opened = [other for other in self._begun if other.opened]
            if len(opened) > _MAX_OPEN:
                opened[0].close()
        return part

    def _bounds(self) -> Longs:
        """For each partition the smallest position that may not be read yet."""
        bounds = np.full(len(self._after), NONE_LEFT)
        for p, waiting in enumerate(self._waiting):
            while waiting and (waiting[-1].begun or waiting[-1].done):
                waiting.pop()
            if waiting:
                bounds[p] = waiting[-1].goes_on(p)
        for file in self._begun:
            np.minimum.at(bounds, file.held.partitions, file.next)
        return bounds

    def _choose(self, bounds: Longs) -> _File | None:
        """The file to read on: one that holds a partition up, and comes behind no other file.

        The partition that is furthest behind in event time comes first.
        """
        fallback = None
        seen: set[int] = set()
        for p in np.argsort(self._reached, kind="stable").tolist():
            if bounds[p] == NONE_LEFT:
                continue
            file = self._head(p, int(bounds[p]))
            if id(file) in seen:
                continue
            seen.add(id(file))
            if not self._is_behind(file):
                return file
            fallback = fallback or file
        return fallback

    def _head(self, p: int, bound: int) -> _File:
        for file in self._begun:
            if p in file.places and file.goes_on(p) == bound:
                return file
        return self._waiting[p][-1]

    def _is_behind(self, file: _File) -> bool:
        """Whether another file ends before this one goes on, in some partition."""
        for p in file.places:
            ending, goes_on = self._ending[p], file.goes_on(p)
            while ending and ending[-1].done:
                ending.pop()
            if goes_on != NONE_LEFT and ending and ending[-1].ends(p) < goes_on:
                return True
        return False

    def _ready(self, bounds: Longs) -> Part | None:
        """Takes the pending rows that no unread one can come before, in order; None: there are none.

        All rows of one time in one file come together.
        """
        ready, pending = [], []
        for part in self._pending:
            bound = bounds[part.partitions]
            free = part.positions <= bound
            if self._any_timed:
                free &= (part.positions < bound) | ~self._timed[part.partitions]
            if free.all():
                ready.append(part)
            elif not free.any():
                pending.append(part)
            else:
                ready.append(part.take(np.flatnonzero(free)))
                pending.append(part.take(np.flatnonzero(~free)))
        self._pending = [Part.joined(pending)] if len(pending) > _MAX_PENDING else pending
        self.held_rows = sum(map(len, pending))
        return self._ordered(Part.joined(ready)) if ready else None

    def _ordered(self, part: Part) -> Part | None:
        """By partition, position and time, each row due with the latest before it; then all by when they are due.

        Rows that were handed out before are left out; None: all were.
        """
        by = (part.due_ms, part.positions, part.partitions) if self._any_timed else (part.positions, part.partitions)
        order = np.lexsort(by)
        if self._again.any():
            partitions = part.partitions[order]
            again = self._again[partitions] * (part.positions[order] == self._after[partitions])
            starts = np.searchsorted(partitions, partitions)  # of each row's partition: those rows come first in it
            keep = np.arange(len(order)) - starts >= again
            self._again -= np.bincount(partitions[~keep], minlength=len(self._again))
            order = order[keep]
            if not len(order):
                return None
        due, partitions = part.due_ms[order], part.partitions[order]
        starts = np.flatnonzero(np.r_[True, partitions[1:] != partitions[:-1]])
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(order)], strict=True):
            p = partitions[start]
            due[start:stop] = np.maximum(np.maximum.accumulate(due[start:stop]), self._reached[p])
            self._reached[p] = due[stop - 1]
        by_time = np.argsort(due, kind="stable")
        order = order[by_time]
        rows = part.rows if np.array_equal(order, np.arange(len(part))) else part.rows.take(pa.array(order))
        return Part(rows, part.partitions[order], part.positions[order], due[by_time])

    def _parts(self, number: int, skip: int) -> Parts:
        """The wanted rows of a file after its first ``skip`` rows, batch by batch."""
        event_time = self._archive.use_case.event_time
        codes = {partition: code for code, partition in enumerate(self._contents.partitions)}
        held = self._contents.files[number]
        stands_for_key = self._archive.key_of(held.path)
        done = 0
        for rows in read_rows(held.path, self._schema):
            done += rows.num_rows
            if done <= skip:
                continue
            keep = wanted_rows(self._archive, rows.column(event_time))
            rows = rows if keep.all() else take(rows, np.flatnonzero(keep))
            if stands_for_key:
                index = rows.schema.get_field_index(SOURCE_KEY["name"])
                text = rows.column(stands_for_key).cast(pa.string()).cast(pa.binary())
                rows = rows.set_column(index, rows.schema.field(index), text)
            partitions = codes_of(rows, codes)
            if len(codes) > len(self._contents.partitions):
                raise UserError(f"{held.path}: was changed meanwhile; start again")
            positions = self._contents.positions(number, partitions, rows)
            part = Part(rows, partitions, positions, millis_of(rows.column(event_time)))
            fresh = positions >= self._after[partitions]
            yield done, part if fresh.all() else part.take(np.flatnonzero(fresh))
