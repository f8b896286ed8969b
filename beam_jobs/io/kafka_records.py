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
import gzip
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs.block import HEADERS_TYPE
from beam_jobs.codec.jit import Int, compiled, copy_bytes

Bytes = NDArray[np.uint8]
Longs = NDArray[np.int64]

HEADER = 61  # bytes of a batch before its records
MAGIC = 2

# Columns of the table of batches.
START, END, BASE_OFFSET, LAST_OFFSET, TIMESTAMP, MAX_TIMESTAMP, ATTRIBUTES, PRODUCER, COUNT, VERSION = range(10)
# Rows of the index of records, one column a record.
OFFSET, MILLIS, KEY_AT, KEY_SIZE, VALUE_AT, VALUE_SIZE, HEADERS_AT, HEADER_COUNT = range(8)

_COMPRESSION = {1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}
_CODEC_MASK, _LOG_APPEND_TIME, _TRANSACTIONAL, _CONTROL = 7, 8, 16, 32
_XERIAL = b"\x82SNAPPY\x00"  # the framing the Java client puts around snappy blocks


class BadBatchError(ValueError):
    """Bytes that are no record batch of format 2."""


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
def _batches(data: Bytes, start: int, end: int, table: Longs) -> int:
    """Fills the table of the whole batches in [start, end); returns their number, -1 - position of a damaged one.

    With a table of no rows it only counts. A broker may cut the last batch short: that one is left out.
    """
    n = 0
    at = start
    while end - at >= 17:
        size = _integer(data, at + 8, 4)
        stop = at + 12 + size
        if stop > end:
            break
        version = _integer(data, at + 16, 1)
        if size < 5 or (version == MAGIC and size < HEADER - 12):
            return -1 - at
        if len(table):
            row = table[n]
            row[VERSION] = version
            row[START], row[END] = at, stop
            row[BASE_OFFSET] = _integer(data, at, 8)
            if version == MAGIC:
                row[ATTRIBUTES] = _integer(data, at + 21, 2)
                row[LAST_OFFSET] = row[BASE_OFFSET] + _integer(data, at + 23, 4)
                row[TIMESTAMP] = _integer(data, at + 27, 8)
                row[MAX_TIMESTAMP] = _integer(data, at + 35, 8)
                row[PRODUCER] = _integer(data, at + 43, 8)
                row[COUNT] = _integer(data, at + 57, 4)
        n += 1
        at = stop
    return n


@compiled
def _index(data: Bytes, batch: Longs, first: int, index: Longs, at_row: int) -> int:
    """Fills the index of the records of one batch from offset ``first`` on; the row after, -1 for a damaged batch."""
    number = np.zeros(1, np.int64)
    end = batch[END]
    at = batch[START] + HEADER
    row = at_row
    for _ in range(batch[COUNT]):
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
        if offset >= first:
            index[OFFSET, row], index[MILLIS, row] = offset, millis
            index[KEY_AT, row], index[KEY_SIZE, row] = key_at, key_size
            index[VALUE_AT, row], index[VALUE_SIZE, row] = value_at, value_size
            index[HEADERS_AT, row], index[HEADER_COUNT, row] = headers_at, headers
            row += 1
        at = stop
    return row


@compiled
def _index_all(data: Bytes, table: Longs, first: int, index: Longs) -> int:
    """Indexes all batches of ``table``; returns the number of rows, -1 - batch for a damaged one."""
    row = 0
    for i in range(len(table)):
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

    def __len__(self) -> int:
        return self.index.shape[1]

    def __getitem__(self, rows: slice) -> Records:
        return Records(self.partition, self.data, self.index[:, rows])

    def sizes(self) -> Longs:
        """Bytes of key and value, int64 [rows]."""
        return np.maximum(self.index[KEY_SIZE], 0) + np.maximum(self.index[VALUE_SIZE], 0)

    def keys(self) -> pa.Array:
        """binary [rows]"""
        return _binary(self.data, self.index[KEY_AT], self.index[KEY_SIZE])

    def values(self) -> pa.Array:
        """binary [rows]; null is a tombstone."""
        return _binary(self.data, self.index[VALUE_AT], self.index[VALUE_SIZE])

    def headers(self) -> pa.Array:
        """Headers as block.HEADERS_TYPE, null for a record without any."""
        n = len(self)
        starts, counts = self.index[HEADERS_AT], self.index[HEADER_COUNT]
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
    offsets, out, valid = np.empty(n + 1, np.int32), np.empty(total, np.uint8), np.zeros((n + 7) // 8, np.uint8)
    _copy(data, at, sizes, offsets, out, valid)
    buffers = [pa.py_buffer(valid) if nulls else None, pa.py_buffer(offsets), pa.py_buffer(out)]
    return pa.Array.from_buffers(pa.binary(), n, buffers, nulls)


def read_batches(
    partition: int, data: Bytes, start: int, end: int, first: int, aborted: Sequence[tuple[int, int]] = ()
) -> tuple[Records, int]:
    """The records in a partition's part of a fetch response.

    Args:
      data: the response; the part is [start, end) of it.
      first: the offset that was asked for; a batch may start before it.
      aborted: (producer id, first offset) of transactions whose records are not to be seen.

    Returns:
      The records from ``first`` on without control records, and the offset to ask for next (``first`` if the part
      holds no whole batch).

    Raises:
      BadBatchError: a damaged batch, a format older than 2, an unknown compression.
    """
    none = np.zeros((0, 10), np.int64)
    count = _batches(data, start, end, none)
    if count < 0:
        raise BadBatchError(f"byte {-1 - count} of the response starts no record batch")
    if count == 0:
        return Records(partition, data, np.zeros((8, 0), np.int64)), first
    table = np.zeros((count, 10), np.int64)
    _batches(data, start, end, table)
    if (table[:, VERSION] != MAGIC).any():
        raise BadBatchError(f"message format {int(table[table[:, VERSION] != MAGIC][0, VERSION])}, not {MAGIC}")
    following = max(first, int(table[-1, LAST_OFFSET]) + 1)
    attributes = table[:, ATTRIBUTES]
    if aborted:
        table = table[_committed(data, table, aborted)]
    elif (attributes & _CONTROL).any():
        table = table[attributes & _CONTROL == 0]
    if (table[:, ATTRIBUTES] & _CODEC_MASK).any():
        data, table = _decompressed(data, table)
    sizes = table[:, END] - table[:, START]
    if (table[:, COUNT] < 0).any() or (table[:, COUNT] > sizes).any():
        raise BadBatchError("a batch says it holds more records than bytes")
    index = np.empty((8, int(table[:, COUNT].sum())), np.int64)
    rows = _index_all(data, table, first, index)
    if rows < 0:
        raise BadBatchError(f"the batch at offset {int(table[-1 - rows, BASE_OFFSET])} is damaged")
    return Records(partition, data, index[:, :rows]), following


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
    index = np.empty((8, int(batch[COUNT])), np.int64)
    if _index(data, batch, 0, index, 0) < 1 or index[KEY_SIZE, 0] < 4:
        return False
    at = int(index[KEY_AT, 0])
    return bool(data[at + 2] == 0 and data[at + 3] == 0)


def _decompressed(data: Bytes, table: Longs) -> tuple[Bytes, Longs]:
    """The same batches with their records uncompressed, in bytes of their own."""
    parts, at = [], 0
    table = table.copy()
    for batch in table:
        start, end = int(batch[START]), int(batch[END])
        codec = int(batch[ATTRIBUTES]) & _CODEC_MASK
        records = data[start + HEADER : end]
        if codec:
            records = np.frombuffer(_decompress(codec, memoryview(records)), np.uint8)  # type: ignore[arg-type]
        parts += [data[start : start + HEADER], records]
        batch[START], batch[END] = at, at + HEADER + len(records)
        at = int(batch[END])
    return np.concatenate(parts), table


def _decompress(codec: int, records: memoryview) -> bytes:
    name = _COMPRESSION.get(codec)
    if name is None:
        raise BadBatchError(f"compression {codec} is not known")
    try:
        if name == "gzip":
            return gzip.decompress(records)
        if name == "snappy":
            return _unsnappy(records)
        with pa.CompressedInputStream(pa.BufferReader(pa.py_buffer(records)), name) as stream:
            return bytes(stream.read())
    except (OSError, EOFError, zlib.error, ValueError, pa.ArrowException) as error:
        raise BadBatchError(f"{name}: {error}") from error


def _unsnappy(records: memoryview) -> bytes:
    data = bytes(records)
    if not data.startswith(_XERIAL):
        return _snappy_block(data)
    out, at = [], 16  # the magic, a version and a compatible version
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        out.append(_snappy_block(data[at + 4 : at + 4 + size]))
        at += 4 + size
    return b"".join(out)


def _snappy_block(block: bytes) -> bytes:
    size, shift = 0, 0
    for byte in block[:5]:  # the block starts with its size as a varint
        size |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    if size > 255 * max(len(block), 64):
        raise BadBatchError(f"a snappy block of {len(block)} bytes says it holds {size}")
    return bytes(pa.decompress(block, decompressed_size=size, codec="snappy"))


@functools.cache
def warm_up() -> None:
    """Compiles the loops, or loads them from numba's cache, before the first records wait for them: 0.1 to 5 s."""
    head = struct.pack(">qiibIhiqqqhii", 0, 62, 0, MAGIC, 0, 0, 0, 0, 0, -1, 0, -1, 1)
    record = b"\x18\0\0\0\x02k\x02v\x02\x02h\x02x"  # key, value and one header
    data = np.frombuffer(head + record, np.uint8)
    found, _ = read_batches(0, data.copy(), 0, len(data), 0)
    for column in (found.keys, found.values, found.headers):
        column()
