"""What an archive's files hold, looked through once before a sweep: positions by partition, file by file. No Beam here.

A row's position orders it in its partition. Of a Kafka topic it is the offset. The offsets of Pub/Sub are message ids,
which have no order: there it is the record's time, which is the publish time, and within one millisecond the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs.archives.held import Partition
from beam_jobs.archives.read import ArchiveInput, read_rows, wanted_rows
from beam_jobs.archives.rows import archive_schema
from beam_jobs.block import millis_of
from beam_jobs.errors import UserError

Longs = NDArray[np.int64]

NONE_LEFT = np.iinfo(np.int64).max
NONE_YET = np.iinfo(np.int64).min

_COLUMNS = ("source_topic", "source_partition", "source_offset", "source_timestamp")
_NO_OFFSET = 1 << 50  # no partition of Kafka has as many records: a million a second for 35 years
_FEW = 4  # offsets that go back say nothing yet
_FILE_BITS, _LAST_MS = 20, 1 << 42  # of a position by time; the year 2109


@dataclass(frozen=True)
class FileRange:
    """What a file holds, by partition; arrays are int64 unless noted otherwise, partitions ascending."""

    path: str
    rows: int  # wanted or not
    partitions: Longs  # [k], indexes into Contents.partitions
    first: Longs  # [k], smallest position
    last: Longs  # [k], largest position
    in_order: NDArray[np.bool_]  # [k], positions ascend
    starts: Longs  # [b], numbers of rows; empty if all partitions are in order
    goes_on: Longs  # [b, k], smallest position from that row on


@dataclass(frozen=True)
class Contents:
    """The wanted rows of an archive."""

    partitions: tuple[Partition, ...]
    timed: tuple[bool, ...]  # whether a partition's rows are in the order of their times, not of their offsets
    files: tuple[FileRange, ...]  # those with a wanted row
    rows: int
    first_ms: int  # smallest and largest event time
    last_ms: int

    def positions(self, file: int, partitions: Longs, rows: pa.RecordBatch) -> Longs:
        """What orders rows of file number ``file``, int64 [n], given the indexes of their partitions."""
        offsets = rows.column("source_offset").to_numpy()
        if not any(self.timed):
            return offsets
        times = millis_of(rows.column("source_timestamp"))
        return np.where(np.array(self.timed)[partitions], _by_time(times, file), offsets)


def look_through(archive: ArchiveInput, tell: Callable[[int, int], None] = lambda done, files: None) -> Contents:
    """Reads the position of every row; ``tell(files done, files)`` is called after each file.

    Raises:
      UserError: a file can't be read, or no row is of the wanted time.
    """
    event_time = archive.use_case.event_time
    schema = archive_schema(archive.use_case, archive.content)
    codes: dict[Partition, int] = {}
    evidence: list[_Evidence] = []
    seen, rows = [], 0
    first_ms, last_ms = NONE_LEFT, NONE_YET
    for done, path in enumerate(archive.files, 1):
        file = _Seen(path)
        for batch in read_rows(path, schema, (*_COLUMNS, event_time)):
            keep = wanted_rows(archive, batch.column(event_time))
            file.begin(batch.num_rows)
            if not keep.any():
                continue
            code = codes_of(batch, codes)[keep]
            offsets = batch.column("source_offset").to_numpy()[keep]
            stamps = millis_of(batch.column("source_timestamp"))[keep]
            times = millis_of(batch.column(event_time))[keep]
            rows += len(offsets)
            first_ms, last_ms = min(first_ms, int(times.min())), max(last_ms, int(times.max()))
            evidence += (_Evidence() for _ in range(len(codes) - len(evidence)))
            found = np.unique(code).tolist()
            for p in found:
                mine: NDArray[np.bool_] | slice = code == p if len(found) > 1 else slice(None)
                evidence[p].add(offsets[mine], stamps[mine])
                file.add(p, offsets[mine], stamps[mine])
        if file.partitions:
            file.end()
            seen.append(file)
        tell(done, len(archive.files))
    if not seen:
        raise UserError("the archive has no row of that time; widen --from and --until")
    timed = tuple(found.are_ids() for found in evidence)
    # Of two files with rows of one millisecond the one that begins earlier was written earlier.
    seen.sort(key=lambda file: min(order.low for order in file.by_time.values()))
    files = tuple(file.range(number, timed) for number, file in enumerate(seen))
    return Contents(tuple(codes), timed, files, rows, first_ms, last_ms)


def codes_of(batch: pa.RecordBatch, codes: dict[Partition, int]) -> Longs:
    """The number of each row's partition, int64 [n]; new partitions are added to ``codes``."""
    topics = batch.column("source_topic").dictionary_encode()
    pairs = batch.column("source_partition").to_numpy() + (topics.indices.to_numpy().astype(np.int64) << 32)
    names = topics.dictionary.to_pylist()
    found, place = np.unique(pairs, return_inverse=True)
    keys = [(names[pair >> 32], pair & 0xFFFFFFFF) for pair in found.tolist()]
    return np.array([codes.setdefault(key, len(codes)) for key in keys], np.int64)[place]


def _by_time(times_ms: Longs, file: int) -> Longs:
    return (np.clip(times_ms, 0, _LAST_MS) << _FILE_BITS) + min(file, (1 << _FILE_BITS) - 1)


@dataclass
class _Evidence:
    """What tells message ids from offsets, which are out of order too in an archive of another one."""

    largest: int = 0
    pairs: int = 0  # of rows that follow each other in a file
    back: int = 0  # of these, where the offset goes back
    though_later: int = 0  # of these, where the time goes on

    def add(self, offsets: Longs, times: Longs) -> None:
        back = offsets[1:] < offsets[:-1]
        self.largest = max(self.largest, int(offsets.max()))
        self.pairs += len(back)
        if back.any():
            self.back += int(back.sum())
            self.though_later += int((back & (times[1:] > times[:-1])).sum())

    def are_ids(self) -> bool:
        """Whether they are too large for offsets, or go back as often as not where the times go on."""
        often = self.back >= _FEW and self.back * 4 > self.pairs
        return self.largest >= _NO_OFFSET or (often and self.though_later * 4 >= self.back * 3)


@dataclass
class _Order:
    """The offsets of one partition in one file, or the times of its rows."""

    low: int = NONE_LEFT
    high: int = NONE_YET
    in_order: bool = True
    lows: dict[int, int] = field(default_factory=dict)  # batch -> its smallest

    def add(self, batch: int, values: Longs) -> None:
        low = int(values.min())
        self.in_order &= low >= self.high and bool((values[1:] >= values[:-1]).all())
        self.lows[batch] = low
        self.low, self.high = min(self.low, low), max(self.high, int(values.max()))

    def goes_on(self, batches: int) -> Longs:
        """The smallest from each batch on, int64 [batches]."""
        lows = np.full(batches, NONE_LEFT)
        lows[list(self.lows)] = list(self.lows.values())
        return np.minimum.accumulate(lows[::-1])[::-1]


class _Seen:
    """A file as it is looked through, in both orders: which one counts is known at the end."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._starts: list[int] = []
        self._rows = 0
        self.by_offset: dict[int, _Order] = {}
        self.by_time: dict[int, _Order] = {}

    @property
    def partitions(self) -> list[int]:
        return sorted(self.by_offset)

    def begin(self, rows: int) -> None:
        """A batch of so many rows comes."""
        self._starts.append(self._rows)
        self._rows += rows

    def add(self, p: int, offsets: Longs, times: Longs) -> None:
        """The rows of a partition in that batch."""
        self.by_offset.setdefault(p, _Order()).add(len(self._starts) - 1, offsets)
        self.by_time.setdefault(p, _Order()).add(len(self._starts) - 1, times)

    def end(self) -> None:
        """Nothing is kept of single batches that are in order."""
        for order in (*self.by_offset.values(), *self.by_time.values()):
            if order.in_order:
                order.lows = {}

    def range(self, number: int, timed: tuple[bool, ...]) -> FileRange:
        """The file in the order that counts for each partition."""
        partitions = self.partitions
        orders = [(self.by_time if timed[p] else self.by_offset)[p] for p in partitions]
        by_time = np.array([timed[p] for p in partitions])

        def positions(values: Longs) -> Longs:
            return np.where(by_time & (values != NONE_LEFT), _by_time(values, number), values)

        ordered = np.array([order.in_order for order in orders])
        starts = np.array([] if ordered.all() else self._starts, np.int64)
        goes_on = [order.goes_on(len(starts)) for order in orders]
        return FileRange(
            self._path,
            self._rows,
            np.array(partitions),
            positions(np.array([order.low for order in orders])),
            positions(np.array([order.high for order in orders])),
            ordered,
            starts,
            positions(np.stack(goes_on, axis=1)),
        )
