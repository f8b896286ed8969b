"""An archive's rows in the order they had on their topic, with memory for a few batches of rows. No Beam here.

The archive is cut by hours of event time, so the rows of a partition are spread over files: late ones lie in folders of
hours long gone. :func:`look_through` reads the positions of all rows once and keeps, for each file, the first and last
offset of each partition. :class:`Sweep` then reads the files side by side, a batch at a time, and hands out a row when
no unread one of its partition can come before it. An archive job's bundles hold ranges of offsets that do not overlap,
so few files are open at a time. Other archives (made from archives) are read as well, but may need more memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs.archive_rows import SOURCE_KEY, archive_schema
from beam_jobs.block import millis_of, take
from beam_jobs.errors import UserError
from beam_jobs.io.archive_input import ArchiveInput, read_rows, wanted_rows
from beam_jobs.io.archive_log import Partition

Longs = NDArray[np.int64]

NONE_LEFT = np.iinfo(np.int64).max
NONE_YET = np.iinfo(np.int64).min

_POSITION = ("source_topic", "source_partition", "source_offset")


@dataclass(frozen=True)
class FileRange:
    """What a file holds, by partition; the three arrays are int64 [k], partitions ascending."""

    path: str
    partitions: Longs  # indexes into Contents.partitions
    first: Longs  # smallest offset
    last: Longs  # largest offset
    in_order: bool  # the offsets of each partition ascend


@dataclass(frozen=True)
class Contents:
    """The wanted rows of an archive."""

    partitions: tuple[Partition, ...]
    files: tuple[FileRange, ...]  # those with a wanted row
    rows: int
    first_ms: int  # smallest and largest event time
    last_ms: int


def look_through(archive: ArchiveInput, tell: Callable[[int, int], None] = lambda done, files: None) -> Contents:
    """Reads the position of every row; ``tell(files done, files)`` is called after each file.

    Raises:
      UserError: a file can't be read, or no row is of the wanted time.
    """
    event_time = archive.use_case.event_time
    schema = archive_schema(archive.use_case, archive.content)
    codes: dict[Partition, int] = {}
    files, rows = [], 0
    first_ms, last_ms = NONE_LEFT, NONE_YET
    for done, path in enumerate(archive.files, 1):
        spans: dict[int, list[int]] = {}  # partition -> first, last
        in_order = True
        for batch in read_rows(path, schema, (*_POSITION, event_time)):
            keep = wanted_rows(archive, batch.column(event_time))
            if not keep.any():
                continue
            code = _codes(batch, codes)[keep]
            offsets = batch.column("source_offset").to_numpy()[keep]
            times = millis_of(batch.column(event_time))[keep]
            rows += len(offsets)
            first_ms, last_ms = min(first_ms, int(times.min())), max(last_ms, int(times.max()))
            for p in np.unique(code).tolist():
                mine = offsets[code == p]
                low, high = int(mine.min()), int(mine.max())
                span = spans.setdefault(p, [low, low])
                in_order &= bool((mine[1:] >= mine[:-1]).all()) and low >= span[1]
                span[:] = min(span[0], low), max(span[1], high)
        if spans:
            partitions = sorted(spans)
            bounds = np.array([spans[p] for p in partitions], np.int64)
            files.append(FileRange(path, np.array(partitions), bounds[:, 0], bounds[:, 1], in_order))
        tell(done, len(archive.files))
    if not files:
        raise UserError("the archive has no row of that time; widen --from and --until")
    return Contents(tuple(codes), tuple(files), rows, first_ms, last_ms)


def _codes(batch: pa.RecordBatch, codes: dict[Partition, int]) -> Longs:
    """The number of each row's partition, int64 [n]; new partitions are added to ``codes``."""
    topics = batch.column("source_topic").dictionary_encode()
    pairs = batch.column("source_partition").to_numpy() + (topics.indices.to_numpy().astype(np.int64) << 32)
    names = topics.dictionary.to_pylist()
    found, place = np.unique(pairs, return_inverse=True)
    keys = [(names[pair >> 32], pair & 0xFFFFFFFF) for pair in found.tolist()]
    return np.array([codes.setdefault(key, len(codes)) for key in keys], np.int64)[place]


@dataclass(frozen=True)
class Part:
    """Rows of one file or of several, row by row beside what orders them."""

    rows: pa.RecordBatch
    partitions: Longs  # [n], indexes into Contents.partitions
    offsets: Longs  # [n]
    due_ms: Longs  # [n], event time, or the largest before it in the partition once the rows are in order

    def __len__(self) -> int:
        return len(self.offsets)

    def slice(self, start: int, stop: int) -> Part:
        """Rows [start, stop), sharing memory."""
        rows = self.rows.slice(start, stop - start)
        return Part(rows, self.partitions[start:stop], self.offsets[start:stop], self.due_ms[start:stop])

    def take(self, rows: NDArray[np.int64]) -> Part:
        """The given rows (a copy)."""
        return Part(self.rows.take(pa.array(rows)), self.partitions[rows], self.offsets[rows], self.due_ms[rows])

    @staticmethod
    def joined(parts: list[Part]) -> Part:
        """The rows of all parts, of which there is at least one."""
        if len(parts) == 1:
            return parts[0]
        joined = pa.concat_batches([part.rows for part in parts])
        arrays = zip(*((part.partitions, part.offsets, part.due_ms) for part in parts), strict=True)
        return Part(joined, *(np.concatenate(array) for array in arrays))


class _File:
    """A file that is not read to its end."""

    def __init__(self, held: FileRange, parts: Callable[[FileRange], Iterator[Part]], after: Longs) -> None:
        self.held = held
        self.places = {p: place for place, p in enumerate(held.partitions.tolist())}
        self._open = parts
        self._parts: Iterator[Part] | None = None
        self.next = np.maximum(held.first, after[held.partitions])  # [k]; no unread row lies before it
        self.next[held.last < self.next] = NONE_LEFT

    def goes_on(self, p: int) -> int:
        """The smallest offset of partition p that may not be read yet."""
        return int(self.next[self.places[p]])

    def ends(self, p: int) -> int:
        """The largest offset of partition p."""
        return int(self.held.last[self.places[p]])

    @property
    def done(self) -> bool:
        return bool((self.next == NONE_LEFT).all())

    @property
    def opened(self) -> bool:
        return self._parts is not None

    def read(self) -> Part | None:
        """The next batch; None: there is no more. A file out of order comes as one."""
        held = self.held
        if self._parts is None:
            self._parts = self._open(held)
        if held.in_order:
            part = next(self._parts, None)
        else:
            parts = list(self._parts)
            part = Part.joined(parts) if parts else None
        if part is None or not held.in_order:
            self.next[:] = NONE_LEFT
            return part
        if not len(part):
            return part
        newest = np.full(held.partitions.max() + 1, NONE_YET)
        np.maximum.at(newest, part.partitions, part.offsets)
        # The same offset may come again where an archive holds a repeated record.
        self.next = np.maximum(self.next, newest[held.partitions])
        return part

    def close(self) -> None:
        if self._parts is not None:
            self._parts.close()  # type: ignore[attr-defined]


class Sweep:
    """The wanted rows of an archive, each partition's in the order of its offsets, partitions side by side in time.

    Args:
      after: int64 [partitions], for each partition the first offset wanted; None: all.
      reached_ms: event time that ``due_ms`` starts from.
    """

    def __init__(
        self, archive: ArchiveInput, contents: Contents, after: Longs | None = None, reached_ms: int = NONE_YET
    ) -> None:
        self._archive, self._contents = archive, contents
        self._schema = archive_schema(archive.use_case, archive.content)
        count = len(contents.partitions)
        self._after = np.full(count, NONE_YET) if after is None else after
        self._reached = np.full(count, reached_ms)  # event time of what was handed out, by partition
        self._pending: list[Part] = []
        self._open: list[_File] = []
        files = [_File(held, self._parts, self._after) for held in contents.files]
        files = [file for file in files if not file.done]
        # By partition: files not opened yet, the first one last; files not done, the one that ends first last.
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
        while True:
            bounds = self._bounds()
            file = self._choose(bounds)
            if file is None:
                return self._ready(np.full(len(bounds), NONE_LEFT))
            if not file.opened:
                self._open.append(file)
            part = file.read()
            if part is not None and len(part):
                self._pending.append(part)
            if file.done:
                file.close()
                self._open.remove(file)
            ready = self._ready(self._bounds())
            if ready is not None:
                return ready

    def close(self) -> None:
        """Closes all files."""
        for file in self._open:
            file.close()
        self._open, self._pending = [], []

    def _bounds(self) -> Longs:
        """For each partition the smallest offset that may not be read yet."""
        bounds = np.full(len(self._after), NONE_LEFT)
        for p, waiting in enumerate(self._waiting):
            while waiting and waiting[-1].opened:
                waiting.pop()
            if waiting:
                bounds[p] = waiting[-1].goes_on(p)
        for file in self._open:
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
        for file in self._open:
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
        """Takes the pending rows that no unread one can come before, in order; None: there are none."""
        ready, pending = [], []
        for part in self._pending:
            free = part.offsets <= bounds[part.partitions]
            if free.all():
                ready.append(part)
            elif not free.any():
                pending.append(part)
            else:
                ready.append(part.take(np.flatnonzero(free)))
                pending.append(part.take(np.flatnonzero(~free)))
        self._pending = pending
        self.held_rows = sum(map(len, pending))
        return self._ordered(Part.joined(ready)) if ready else None

    def _ordered(self, part: Part) -> Part:
        """By partition and offset, each row due with the latest before it; then all partitions by when they are due."""
        order = np.lexsort((part.offsets, part.partitions))
        due, partitions = part.due_ms[order], part.partitions[order]
        starts = np.flatnonzero(np.r_[True, partitions[1:] != partitions[:-1]])
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(order)], strict=True):
            p = partitions[start]
            due[start:stop] = np.maximum(np.maximum.accumulate(due[start:stop]), self._reached[p])
            self._reached[p] = due[stop - 1]
        by_time = np.argsort(due, kind="stable")
        order = order[by_time]
        rows = part.rows if (order == np.arange(len(order))).all() else part.rows.take(pa.array(order))
        return Part(rows, part.partitions[order], part.offsets[order], due[by_time])

    def _parts(self, held: FileRange) -> Iterator[Part]:
        """The wanted rows of a file, batch by batch."""
        event_time = self._archive.use_case.event_time
        codes = {partition: code for code, partition in enumerate(self._contents.partitions)}
        stands_for_key = self._archive.key_of(held.path)
        for rows in read_rows(held.path, self._schema):
            keep = wanted_rows(self._archive, rows.column(event_time))
            rows = rows if keep.all() else take(rows, np.flatnonzero(keep))
            if stands_for_key:
                index = rows.schema.get_field_index(SOURCE_KEY["name"])
                text = rows.column(stands_for_key).cast(pa.string()).cast(pa.binary())
                rows = rows.set_column(index, rows.schema.field(index), text)
            partitions, offsets = _codes(rows, codes), rows.column("source_offset").to_numpy()
            if len(codes) > len(self._contents.partitions):
                raise UserError(f"{held.path}: was changed meanwhile; start again")
            part = Part(rows, partitions, offsets, millis_of(rows.column(event_time)))
            fresh = offsets >= self._after[partitions]
            yield part if fresh.all() else part.take(np.flatnonzero(fresh))
