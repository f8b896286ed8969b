"""Reading numbers, text and headers from bytes: the compiled helpers of the Avro machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from beam_jobs.codec.avro import ops as op
from beam_jobs.jit import Int, compiled

SIGN_BIT = -(1 << 63)
LOW_63 = (1 << 63) - 1


@compiled
def byte_at(data: NDArray[np.uint8], pos: Int) -> Int:
    return np.int64(data[np.uint64(pos)])


@compiled
def read_varint(data: NDArray[np.uint8], pos: Int, end: Int) -> tuple[Int, Int]:
    """(value, next position); the position is -1 past the end, -2 for more than 64 bits."""
    if pos >= end:
        return np.int64(0), np.int64(-1)
    last = byte_at(data, pos)
    pos += 1
    acc = last & 0x7F
    shift = 7
    while last >= 0x80:
        if pos >= end:
            return np.int64(0), np.int64(-1)
        last = byte_at(data, pos)
        pos += 1
        if shift == 63 and last > 1:
            return np.int64(0), np.int64(-2)
        acc |= (last & 0x7F) << shift
        shift += 7
    return ((acc >> 1) & LOW_63) ^ -(acc & 1), pos


@compiled
def load8(data: NDArray[np.uint8], pos: Int) -> Int:
    return (
        byte_at(data, pos)
        | byte_at(data, pos + 1) << 8
        | byte_at(data, pos + 2) << 16
        | byte_at(data, pos + 3) << 24
        | byte_at(data, pos + 4) << 32
        | byte_at(data, pos + 5) << 40
        | byte_at(data, pos + 6) << 48
        | byte_at(data, pos + 7) << 56
    )


@compiled
def load4(data: NDArray[np.uint8], pos: Int) -> Int:
    return (
        byte_at(data, pos) | byte_at(data, pos + 1) << 8 | byte_at(data, pos + 2) << 16 | byte_at(data, pos + 3) << 24
    )


@compiled
def is_utf8(data: NDArray[np.uint8], pos: Int, size: Int) -> bool:
    """Whether data[pos:pos + size] is UTF-8 as Python's strict decoder takes it."""
    acc = np.uint8(0)
    for i in range(pos, pos + size):
        acc |= data[np.uint64(i)]
    if acc < 0x80:
        return True
    end = pos + size
    while pos < end:
        lead = byte_at(data, pos)
        if lead < 0x80:
            pos += 1
            continue
        if lead < 0xC2 or lead > 0xF4:
            return False
        more = 1 if lead < 0xE0 else (2 if lead < 0xF0 else 3)
        if end - pos <= more:
            return False
        second = byte_at(data, pos + 1)
        low = 0xA0 if lead == 0xE0 else (0x90 if lead == 0xF0 else 0x80)
        high = 0x9F if lead == 0xED else (0x8F if lead == 0xF4 else 0xBF)
        if second < low or second > high:
            return False
        for i in range(2, more + 1):
            if byte_at(data, pos + i) & 0xC0 != 0x80:
                return False
        pos += more + 1
    return True


@compiled
def read_decimal(
    data: NDArray[np.uint8], pos: Int, size: Int, high_limit: Int, low_limit: Int
) -> tuple[Int, Int, bool]:
    """(high, low, in range) of a big-endian two's complement number; range: smaller in size than the limit."""
    sign = np.int64(-1) if size > 0 and byte_at(data, pos) >= 0x80 else np.int64(0)
    high, low = sign, sign
    for i in range(size - 16):
        if byte_at(data, pos + i) != sign & 0xFF:
            return high, low, False
    if size > 16 and (byte_at(data, pos + size - 16) >= 0x80) != (sign < 0):
        return high, low, False
    for i in range(max(0, size - 16), size):
        high = (high << 8) | ((low >> 56) & 0xFF)
        low = (low << 8) | byte_at(data, pos + i)
    size_high, size_low = high, low
    if sign < 0:
        size_low = -low
        size_high = ~high + (1 if low == 0 else 0)
    less = size_high < high_limit or (size_high == high_limit and (size_low ^ SIGN_BIT) < (low_limit ^ SIGN_BIT))
    return high, low, bool(size_high >= 0 and less)


@compiled
def read_headers(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    valid: NDArray[np.bool_],
    ids: NDArray[np.int64],
    status: NDArray[np.int32],
    detail: NDArray[np.int64],
) -> None:
    """Reads Confluent's header (0, then the schema id in four bytes) of n rows into ``ids``, -1 where there is none.

    ``offsets``: int64 [n + 1]; ``valid``: bool [n], or empty when no value is null; the rest as in :func:`run`.
    """
    for row in range(len(ids)):
        start = offsets[row]
        size = offsets[row + 1] - start
        ids[row] = -1
        if len(valid) and not valid[row]:
            status[row] = op.NULL_VALUE
        elif size <= 0:
            status[row] = op.EMPTY_VALUE
        elif data[start] != 0:
            status[row] = op.BAD_MAGIC
            detail[row, 2] = data[start]
        elif size < 5:
            status[row] = op.TRUNCATED_HEADER
            detail[row, 2] = size
        else:
            ids[row] = (
                byte_at(data, start + 1) << 24
                | byte_at(data, start + 2) << 16
                | byte_at(data, start + 3) << 8
                | byte_at(data, start + 4)
            )


@compiled
def gather(
    places: NDArray[np.int64], data: NDArray[np.uint8], pool: NDArray[np.uint8], offsets: NDArray[np.int32]
) -> NDArray[np.uint8]:
    """The bytes at n places, end to end; fills ``offsets`` int32 [n + 1].

    A place is ``position << 32 | length``, in ``pool`` when the position has POOL_BIT. Returns an empty array and
    offsets[n] = -1 when the bytes pass the 2 GiB an Arrow column can address.
    """
    total = np.int64(0)
    offsets[0] = 0
    for i in range(len(places)):
        total += places[i] & 0xFFFFFFFF
        if total > 0x7FFFFFFF:
            offsets[len(places)] = -1
            return np.empty(0, np.uint8)
        offsets[i + 1] = total
    out = np.empty(total, np.uint8)
    at = 0
    for i in range(len(places)):
        size = places[i] & 0xFFFFFFFF
        pos = (places[i] >> 32) & 0xFFFFFFFF
        if pos & op.POOL_BIT:
            pos &= op.POOL_BIT - 1
            for j in range(size):
                out[at + j] = pool[pos + j]
        else:
            for j in range(size):
                out[at + j] = data[pos + j]
        at += size
    return out
