"""Kafka's record batches (format 2) straight from a fetch response into Arrow buffers, compiled: no object a record.

The layout is the one of https://kafka.apache.org/documentation/#recordbatch::

    baseOffset i64 · batchLength i32 · leaderEpoch i32 · magic i8 · crc u32 · attributes i16 · lastOffsetDelta i32 ·
    baseTimestamp i64 · maxTimestamp i64 · producerId i64 · producerEpoch i16 · baseSequence i32 · count i32 · records

    record: length · attributes i8 · timestampDelta · offsetDelta · keyLength · key · valueLength · value ·
            headerCount · headers (nameLength · name · valueLength · value)    (lengths, deltas: zigzag varints)

Everything read is checked against the end of its batch: a damaged batch is an error, never a read beside the buffer.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import google_crc32c
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs.block import HEADERS_TYPE
from beam_jobs.io.kafka.fetch import Epochs, limit_text
from beam_jobs.io.kafka.wire.unpack import BadBatchError, NoRoomError, Room
from beam_jobs.jit import Int, compiled, copy_bytes

Bytes = NDArray[np.uint8]
Longs = NDArray[np.int64]

HEADER = 61  # bytes of a batch before its records
MAGIC = 2

# Columns of the table of batches.
START, END, BASE_OFFSET, LAST_OFFSET, TIMESTAMP, MAX_TIMESTAMP, ATTRIBUTES, PRODUCER, COUNT, VERSION, EPOCH = range(11)
# Rows of the index of records, one column a record. HEADERS: their bytes << 32 | their number.
OFFSET, MILLIS, KEY_AT, KEY_SIZE, VALUE_AT, VALUE_SIZE, HEADERS_AT, HEADERS = range(8)

_CRC_AT, _CRC_FROM = 17, 21  # of the checksum in a batch, and of the first byte it is about
_SMALLEST_RECORD = 7  # bytes
_HEADER_BYTES = 32  # that a header takes in memory beside its name and value
_MAX_BINARY = (1 << 31) - 1  # bytes of a binary column: Arrow's offsets are int32
_CODEC_MASK, _LOG_APPEND_TIME, _TRANSACTIONAL, _CONTROL = 7, 8, 16, 32


@compiled
def _integer(data: Bytes, at: int, size: int) -> Int:
    """Big endian, signed."""
    value: Int = np.int64(data[at])
    if value > 127:
        value -= 256
    for i in range(1, size):
        value = (value << 8) | np.int64(data[at + i])
    return value


@compiled
def _varint(data: Bytes, at: int, end: int, out: Longs) -> int:
    """Puts the zigzag varint at ``at`` into ``out[0]``; returns the position behind it, -1 beyond ``end``."""
    value = np.int64(0)
    shift = np.int64(0)
    while at < end and shift < 64:
        byte = np.int64(data[at])
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            out[0] = ((value >> 1) & 0x7FFFFFFFFFFFFFFF) ^ -(value & 1)
            return at
        shift += 7
    return -1


@compiled
def _batches(data: Bytes, start: int, end: int, table: Longs, bad: Longs) -> int:
    """Fills the table of the whole batches in [start, end); returns their number.

    With a table of no rows it only counts. ``bad[0]`` becomes the position of a damaged batch, which ends the table.
    A broker may cut the last batch short: that one is left out; the first it sends whole.
    """
    n = 0
    at = start
    last = np.int64(-1)
    while end - at >= 17:
        size = _integer(data, at + 8, 4)
        stop = at + 12 + size
        version = _integer(data, at + 16, 1)
        if stop > end and n > 0:
            break
        if stop > end or size < 5 or (version == MAGIC and size < HEADER - 12):
            bad[0] = at
            break
        base = _integer(data, at, 8)
        before = last
        if version == MAGIC:
            last = base + _integer(data, at + 23, 4)
            if base <= before or last < base:
                bad[0] = at
                break
        if len(table):
            row = table[n]
            row[VERSION] = version
            row[EPOCH] = _integer(data, at + 12, 4)
            row[START], row[END] = at, stop
            row[BASE_OFFSET] = base
            if version == MAGIC:
                row[LAST_OFFSET] = last
                row[ATTRIBUTES] = _integer(data, at + 21, 2)
                row[TIMESTAMP] = _integer(data, at + 27, 8)
                row[MAX_TIMESTAMP] = _integer(data, at + 35, 8)
                row[PRODUCER] = _integer(data, at + 43, 8)
                row[COUNT] = _integer(data, at + 57, 4)
        n += 1
        at = stop
    return n


@compiled
def _index(data: Bytes, batch: Longs, first: int, index: Longs, at_row: int) -> int:
    """Fills the index of the records of one batch from offset ``first`` on, as far as it goes.

    Returns the row after; -1 for a damaged batch.
    """
    number = np.zeros(1, np.int64)
    end = batch[END]
    at = batch[START] + HEADER
    row = at_row
    last = batch[BASE_OFFSET] - 1
    for _ in range(batch[COUNT]):
        if row == index.shape[1]:
            return row
        at = _varint(data, at, end, number)
        if at < 0:
            return -1
        stop = at + number[0]
        if number[0] < 6 or stop > end:
            return -1
        at = _varint(data, at + 1, stop, number)
        if at < 0:
            return -1
        millis = batch[MAX_TIMESTAMP] if batch[ATTRIBUTES] & _LOG_APPEND_TIME else batch[TIMESTAMP] + number[0]
        at = _varint(data, at, stop, number)
        if at < 0:
            return -1
        offset = batch[BASE_OFFSET] + number[0]
        if not last < offset <= batch[LAST_OFFSET]:
            return -1
        last = offset
        at = _varint(data, at, stop, number)
        if at < 0 or number[0] < -1 or number[0] > stop - at:
            return -1
        key_at, key_size = at, number[0]
        at += max(key_size, 0)
        at = _varint(data, at, stop, number)
        if at < 0 or number[0] < -1 or number[0] > stop - at:
            return -1
        value_at, value_size = at, number[0]
        at += max(value_size, 0)
        at = _varint(data, at, stop, number)
        if at < 0 or number[0] < 0 or number[0] > stop - at:
            return -1
        headers_at, headers = at, number[0]
        for _ in range(headers):
            at = _varint(data, at, stop, number)
            if at < 0 or number[0] < 0 or number[0] > stop - at:
                return -1
            at = _varint(data, at + number[0], stop, number)
            if at < 0 or number[0] < -1 or number[0] > stop - at:
                return -1
            at += max(number[0], 0)
        if at != stop:
            return -1
        if offset >= first:
            index[OFFSET, row], index[MILLIS, row] = offset, millis
            index[KEY_AT, row], index[KEY_SIZE, row] = key_at, key_size
            index[VALUE_AT, row], index[VALUE_SIZE, row] = value_at, value_size
            index[HEADERS_AT, row], index[HEADERS, row] = headers_at, (stop - headers_at) << 32 | headers
            row += 1
    return row if at == end else -1


@compiled
def _index_all(data: Bytes, table: Longs, first: int, index: Longs) -> int:
    """Indexes all batches of ``table``, as far as ``index`` goes; the number of rows, -1 - batch for a damaged one."""
    row = 0
    for i in range(len(table)):
        if row == index.shape[1]:
            return row
        row = _index(data, table[i], first, index, row)
        if row < 0:
            return -1 - i
    return row


@compiled
def _copy(data: Bytes, at: Longs, sizes: Longs, offsets: NDArray[np.int32], out: Bytes, valid: Bytes) -> None:
    """Copies the bytes at positions ``at`` (size -1: null) into Arrow's variable binary layout."""
    source, target = data.ctypes.data, out.ctypes.data
    base = np.int64(0)
    offsets[0] = 0
    for row in range(len(at)):
        length = sizes[row]
        if length >= 0:
            copy_bytes(target + base, source + at[row], length)
            base += length
            valid[row >> 3] |= np.uint8(1 << (row & 7))
        offsets[row + 1] = base


@compiled
def _headers(
    data: Bytes,
    starts: Longs,
    counts: Longs,
    list_offsets: NDArray[np.int32],
    names: Longs,
    values: Longs,
) -> None:
    """Positions and sizes of all header names and values, [2, n], and where each record's begin."""
    number = np.zeros(1, np.int64)
    n = 0
    for row in range(len(starts)):
        list_offsets[row] = n
        at = starts[row]
        for _ in range(counts[row]):
            at = _varint(data, at, len(data), number)
            names[0, n], names[1, n] = at, number[0]
            at = _varint(data, at + number[0], len(data), number)
            values[0, n], values[1, n] = at, number[0]
            at += max(number[0], 0)
            n += 1
    list_offsets[len(starts)] = n


@dataclass(frozen=True)
class Records:
    """Records of one partition, in offset order: an index into the bytes that hold them."""

    partition: int
    data: Bytes
    index: Longs  # [8, rows]
    epochs: Epochs = field(default_factory=list)  # of the batches they came in, control batches among them

    def __len__(self) -> int:
        return self.index.shape[1]

    def __getitem__(self, rows: slice) -> Records:
        return Records(self.partition, self.data, self.index[:, rows])

    def sizes(self) -> Longs:
        """Bytes of key, value and headers in memory, int64 [rows]."""
        sizes = np.maximum(self.index[KEY_SIZE], 0) + np.maximum(self.index[VALUE_SIZE], 0)
        if self.index[HEADERS].any():
            sizes += (self.index[HEADERS] >> 32) + _HEADER_BYTES * self.header_counts()
        return sizes

    def header_counts(self) -> Longs:
        """int64 [rows]"""
        return self.index[HEADERS] & 0xFFFFFFFF

    def keys(self) -> pa.Array:
        """binary [rows]"""
        return _binary(self.data, self.index[KEY_AT], self.index[KEY_SIZE])

    def values(self) -> pa.Array:
        """binary [rows]; null is a tombstone."""
        return _binary(self.data, self.index[VALUE_AT], self.index[VALUE_SIZE])

    def headers(self) -> pa.Array:
        """Headers as block.HEADERS_TYPE, null for a record without any."""
        n = len(self)
        starts, counts = self.index[HEADERS_AT], self.header_counts()
        if not counts.any():
            return pa.nulls(n, HEADERS_TYPE)
        names, values = np.empty((2, 2, int(counts.sum())), np.int64)
        offsets = np.empty(n + 1, np.int32)
        _headers(self.data, starts, counts, offsets, names, values)
        raw_names = _binary(self.data, *names)
        try:
            texts = raw_names.cast(pa.string())
        except pa.ArrowInvalid:
            texts = pa.array([name.decode(errors="replace") for name in raw_names.to_pylist()], pa.string())
        pairs = pa.StructArray.from_arrays([texts, _binary(self.data, *values)], fields=list(HEADERS_TYPE.value_type))
        mask = pa.array(counts == 0)
        return pa.ListArray.from_arrays(pa.array(offsets), pairs, type=HEADERS_TYPE, mask=mask)


def _binary(data: Bytes, at: Longs, sizes: Longs) -> pa.Array:
    n = len(at)
    nulls = int(np.count_nonzero(sizes < 0))
    total = int(sizes.sum()) + nulls
    if total > _MAX_BINARY:
        raise OverflowError(f"{total} bytes in one column; blocks are to be cut before")
    offsets, out, valid = np.empty(n + 1, np.int32), np.empty(total, np.uint8), np.zeros((n + 7) // 8, np.uint8)
    _copy(data, at, sizes, offsets, out, valid)
    buffers = [pa.py_buffer(valid) if nulls else None, pa.py_buffer(offsets), pa.py_buffer(out)]
    return pa.Array.from_buffers(pa.binary(), n, buffers, nulls)


def read_batches(
    partition: int,
    data: Bytes,
    start: int,
    end: int,
    first: int,
    aborted: Sequence[tuple[int, int]] = (),
    *,
    room: Room | None = None,
    check_crcs: bool = True,
) -> tuple[Records, int]:
    """The records in a partition's part of a fetch response, as many as there is room for.

    Args:
      data: the response; the part is [start, end) of it.
      first: the offset that was asked for; a batch may start before it.
      aborted: (producer id, first offset) of transactions whose records are not to be seen.
      room: for what the batches unpack to; shared by the partitions of a response. None: for this part alone.
      check_crcs: whether each batch is held against its checksum.

    Returns:
      The records from ``first`` on without control records, and the offset to ask for next: ``first`` if the part
      holds no whole batch, or there is no room left. What lies before a bad batch is returned without a word of it.

    Raises:
      BadBatchError: it begins with a batch that is damaged, of a format older than 2, or of an unknown compression,
        or that takes more than all of the room.
    """
    room = room or Room()
    part = _parted(data, start, end, first)
    if check_crcs:
        _check_crcs(data, part)
    batches = part.table
    if aborted:
        part.table = part.table[_committed(data, part.table, aborted)]
    elif (part.table[:, ATTRIBUTES] & _CONTROL).any():
        part.table = part.table[part.table[:, ATTRIBUTES] & _CONTROL == 0]
    part.table = part.table[part.table[:, LAST_OFFSET] >= first]
    if (part.table[:, ATTRIBUTES] & _CODEC_MASK).any():
        data = _unpack(data, part, room)
    records = Records(partition, data, _indexed(data, part, first, room))
    if records.index[HEADERS].any():
        records = _without_bomb(records, part, room.limit)
    following = max(first, part.following)
    if part.bad and following == first:
        raise BadBatchError(part.bad)
    return replace(records, epochs=_epochs(batches, following)), following


def _epochs(table: Longs, following: int) -> Epochs:
    table = table[table[:, BASE_OFFSET] < following]
    epochs, after = table[:, EPOCH], np.minimum(table[:, LAST_OFFSET] + 1, following)
    last = np.flatnonzero(np.append(epochs[1:] != epochs[:-1], len(epochs) > 0))
    return list(zip(epochs[last].tolist(), after[last].tolist(), strict=True))


@dataclass
class _Part:
    """The batches of one partition's part of a response, as far as nothing speaks against them."""

    table: Longs
    following: int  # the offset to ask for next
    bad: str = ""  # what is wrong there; "": nothing

    def cut(self, batch: int, bad: str) -> None:
        """Leaves a batch, and all behind it, for later."""
        self.following, self.bad = int(self.table[batch, BASE_OFFSET]), bad
        self.table = self.table[:batch]


def _parted(data: Bytes, start: int, end: int, first: int) -> _Part:
    bad = np.full(1, -1)
    table = np.zeros((_batches(data, start, end, np.zeros((0, 11), np.int64), bad), 11), np.int64)
    if not len(table):
        return _Part(table, first, "" if bad[0] < 0 else f"byte {bad[0]} of the response starts no record batch")
    _batches(data, start, end, table, bad)
    part = _Part(table, int(table[-1, LAST_OFFSET]) + 1)
    if bad[0] >= 0:
        part.bad = f"byte {bad[0]} of the response starts no record batch"
    other = np.flatnonzero(table[:, VERSION] != MAGIC)
    if len(other):
        part.cut(int(other[0]), f"message format {table[other[0], VERSION]}, not {MAGIC}")
    return part


def _check_crcs(data: Bytes, part: _Part) -> None:
    """Cuts off the first batch that is not what its producer sent."""
    fixed = data.view()
    fixed.flags.writeable = False  # what the library asks for, so that it need not copy
    spans = part.table[:, [START, END]].tolist()
    for i, (start, end) in enumerate(spans):
        stored = int.from_bytes(fixed[start + _CRC_AT : start + _CRC_FROM], "big")
        if google_crc32c.value(fixed[start + _CRC_FROM : end]) != stored:
            part.cut(i, f"the batch at offset {part.table[i, BASE_OFFSET]} does not have its checksum")
            return


def _unpack(data: Bytes, part: _Part, room: Room) -> Bytes:
    """Unpacks the batches into the room, as many as fit; returns its memory, to which the table then refers."""
    table = part.table = part.table.copy()
    for i, batch in enumerate(table):
        before = room.used
        try:
            room.add(int(batch[ATTRIBUTES]) & _CODEC_MASK, data[batch[START] + HEADER : batch[END]])
        except BadBatchError as error:
            part.cut(i, f"the batch at offset {batch[BASE_OFFSET]}: {error}")
            break
        except NoRoomError:
            too_large = f"the batch at offset {batch[BASE_OFFSET]} unpacks to more than {limit_text(room.limit)}"
            part.cut(i, "" if before else too_large)
            break
        batch[START], batch[END] = before - HEADER, room.used
    return room.data


def _indexed(data: Bytes, part: _Part, first: int, room: Room) -> Longs:
    """The index of the batches' records from ``first`` on, as many as there is room for."""
    counts, sizes = part.table[:, COUNT], part.table[:, END] - part.table[:, START] - HEADER
    lying = np.flatnonzero((counts < 0) | (counts * _SMALLEST_RECORD > sizes))
    if len(lying):
        bad = int(lying[0])
        part.cut(bad, f"the batch at offset {part.table[bad, BASE_OFFSET]} says it holds more records than bytes")
    wanted = int(part.table[:, COUNT].sum())
    index = np.empty((8, min(wanted, room.rows)), np.int64)
    rows = _index_all(data, part.table, first, index)
    if rows < 0:
        bad = -1 - rows
        part.cut(bad, f"the batch at offset {part.table[bad, BASE_OFFSET]} is damaged")
        rows = _index_all(data, part.table, first, index)
    elif rows == index.shape[1] < wanted:
        part.following, part.bad, room.full = int(index[OFFSET, -1]) + 1 if rows else first, "", True
    room.rows -= rows
    return index[:, :rows]


def _without_bomb(records: Records, part: _Part, limit: int) -> Records:
    """Cuts off the first record whose headers take more memory than a whole batch may."""
    large = np.flatnonzero(records.sizes() > limit)
    if not len(large):
        return records
    offset, count = int(records.index[OFFSET, large[0]]), int(records.header_counts()[large[0]])
    part.following = offset
    part.bad = f"the record at offset {offset} takes, with its {count} headers, more than {limit_text(limit)}"
    return records[: large[0]]


def _committed(data: Bytes, table: Longs, aborted: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    """Which batches belong to no aborted transaction (and are no markers); few batches, so plain Python."""
    waiting = sorted(aborted, key=lambda transaction: transaction[1])
    open_: set[int] = set()
    keep = np.ones(len(table), np.bool_)
    for i, batch in enumerate(table):
        while waiting and waiting[0][1] <= batch[LAST_OFFSET]:
            open_.add(waiting.pop(0)[0])
        producer, attributes = int(batch[PRODUCER]), int(batch[ATTRIBUTES])
        if attributes & _CONTROL:
            keep[i] = False
            if _is_abort(data, batch):
                open_.discard(producer)
        elif attributes & _TRANSACTIONAL and producer in open_:
            keep[i] = False
    return keep


def _is_abort(data: Bytes, batch: Longs) -> bool:
    """A control record's key is version i16, type i16; type 0 is abort, 1 commit."""
    index = np.empty((8, 1), np.int64)
    if _index(data, batch, 0, index, 0) < 1 or index[KEY_SIZE, 0] < 4:
        return False
    at = int(index[KEY_AT, 0])
    return bool(data[at + 2] == 0 and data[at + 3] == 0)


@functools.cache
def warm_up() -> None:
    """Compiles the loops, or loads them from numba's cache, before the first records wait for them: 0.1 to 5 s."""
    head = struct.pack(">qiibIhiqqqhii", 0, 62, 0, MAGIC, 0, 0, 0, 0, 0, -1, 0, -1, 1)
    record = b"\x18\0\0\0\x02k\x02v\x02\x02h\x02x"  # key, value and one header
    data = np.frombuffer(head + record, np.uint8)
    found, _ = read_batches(0, data.copy(), 0, len(data), 0, check_crcs=False)
    for column in (found.keys, found.values, found.headers):
        column()
