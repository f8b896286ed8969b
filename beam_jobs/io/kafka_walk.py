"""From librdkafka's message array to Arrow buffers, compiled: no Python object a record.

Two passes over messages [begin, end): :func:`scan` reads the fixed fields and adds up the sizes, the caller allocates
exactly that much, :func:`copy` fills it and gives the messages back to the library. Addresses are passed as int64, so
that numba can keep the compiled code on disk.

The layout read here is ``rd_kafka_message_t`` of rdkafka.h on 64 bits, unchanged since librdkafka 0.9::

    int32 err; void *rkt; int32 partition; void *payload; size_t len; void *key; size_t key_len; int64 offset; …
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from beam_jobs.codec.jit import compiled

ERR, PARTITION, PAYLOAD, LEN, KEY, KEY_LEN, OFFSET = 0, 16, 24, 32, 40, 48, 56  # byte offsets

# Slots of the table of function addresses.
TIMESTAMP, HEADERS, HEADER_COUNT, HEADER_GET, DESTROY = range(5)
FUNCTIONS = (
    "rd_kafka_message_timestamp",
    "rd_kafka_message_headers",
    "rd_kafka_header_cnt",
    "rd_kafka_header_get_all",
    "rd_kafka_message_destroy",
)

# Slots of what scan() counts.
ROWS, NEXT, KEY_BYTES, VALUE_BYTES, NULL_KEYS, NULL_VALUES, HEADER_COUNTED, NAME_BYTES, HEADER_BYTES, OTHERS = range(10)
COUNTS = 10

_I32 = ir.IntType(32)
_I64 = ir.IntType(64)


def _load(bits: int) -> Any:
    @intrinsic
    def load(_: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind = ir.IntType(bits)
            value = builder.load(builder.inttoptr(arguments[0], kind.as_pointer()), align=1)
            if bits == 64:
                return value
            return builder.sext(value, _I64) if bits == 32 else builder.zext(value, _I64)

        return types.int64(types.int64), generate

    return load


_load_i64, _load_i32, _load_u8 = _load(64), _load(32), _load(8)


def _call(result: ir.Type) -> Any:
    """A call of a C function by address: every argument is 64 bits wide, the result an int32, int64 or nothing."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(result, [_I64] * (len(arguments) - 1))
        value = builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
        if isinstance(result, ir.VoidType):
            return context.get_constant(types.int64, 0)
        return value if result == _I64 else builder.sext(value, _I64)

    return generate


@intrinsic
def _call_1_void(_: Any, function: Any, a: Any) -> Any:
    return types.int64(types.int64, types.int64), _call(ir.VoidType())


@intrinsic
def _call_1_i64(_: Any, function: Any, a: Any) -> Any:
    return types.int64(types.int64, types.int64), _call(_I64)


@intrinsic
def _call_2_i64(_: Any, function: Any, a: Any, b: Any) -> Any:
    return types.int64(types.int64, types.int64, types.int64), _call(_I64)


@intrinsic
def _call_2_i32(_: Any, function: Any, a: Any, b: Any) -> Any:
    return types.int64(types.int64, types.int64, types.int64), _call(_I32)


@intrinsic
def _call_5_i32(_: Any, function: Any, a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
    return types.int64(*[types.int64] * 6), _call(_I32)


@intrinsic
def _copy_bytes(_: Any, target: Any, source: Any, count: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        to, start = (builder.inttoptr(argument, byte) for argument in arguments[:2])
        cgutils.raw_memcpy(builder, to, start, arguments[2], 1)
        return context.get_constant(types.int64, 0)

    return types.int64(types.int64, types.int64, types.int64), generate


@compiled
def _c_length(address: int) -> int:
    n = nb.int64(0)
    while _load_u8(address + n) != 0:
        n += 1
    return n


@compiled
def scan(
    messages: NDArray[np.int64],
    begin: int,
    end: int,
    max_rows: int,
    max_bytes: int,
    now_ms: int,
    functions: NDArray[np.int64],
    partitions: NDArray[np.int32],
    offsets: NDArray[np.int64],
    timestamps: NDArray[np.int64],
    others: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None:
    """Reads the fixed fields of records and adds up sizes, stopping before ``max_rows`` or ``max_bytes`` is passed.

    Fills ``partitions``, ``offsets``, ``timestamps`` (one entry a record), ``others`` (indexes of messages that are
    errors or partition ends) and ``counts`` (the slots above; NEXT is the index of the first message not read).
    """
    scratch = np.zeros(4, np.int64)
    address = scratch.ctypes.data
    counts[:] = 0
    rows = 0
    size = nb.int64(0)
    i = begin
    while i < end:
        message = messages[i]
        if _load_i32(message + ERR) != 0:
            others[counts[OTHERS]] = i
            counts[OTHERS] += 1
            i += 1
            continue
        payload, length = _load_i64(message + PAYLOAD), _load_i64(message + LEN)
        key, key_length = _load_i64(message + KEY), _load_i64(message + KEY_LEN)
        names, header_bytes, headers = nb.int64(0), nb.int64(0), nb.int64(0)
        if _call_2_i32(functions[HEADERS], message, address) == 0:
            handle = scratch[0]
            headers = _call_1_i64(functions[HEADER_COUNT], handle)
            for h in range(headers):
                _call_5_i32(functions[HEADER_GET], handle, h, address + 8, address + 16, address + 24)
                names += _c_length(scratch[1])
                if scratch[2] != 0:
                    header_bytes += scratch[3]
        size += length + key_length + names + header_bytes
        if rows == max_rows or (rows > 0 and size > max_bytes):
            break
        scratch[0] = 0
        timestamp = _call_2_i64(functions[TIMESTAMP], message, address)
        partitions[rows] = _load_i32(message + PARTITION)
        offsets[rows] = _load_i64(message + OFFSET)
        timestamps[rows] = now_ms if (scratch[0] & 0xFFFFFFFF) == 0 else timestamp
        if payload == 0:
            counts[NULL_VALUES] += 1
        else:
            counts[VALUE_BYTES] += length
        if key == 0:
            counts[NULL_KEYS] += 1
        else:
            counts[KEY_BYTES] += key_length
        counts[HEADER_COUNTED] += headers
        counts[NAME_BYTES] += names
        counts[HEADER_BYTES] += header_bytes
        rows += 1
        i += 1
    counts[ROWS] = rows
    counts[NEXT] = i


@compiled
def copy(
    messages: NDArray[np.int64],
    begin: int,
    end: int,
    functions: NDArray[np.int64],
    key_offsets: NDArray[np.int32],
    key_data: NDArray[np.uint8],
    key_valid: NDArray[np.uint8],
    value_offsets: NDArray[np.int32],
    value_data: NDArray[np.uint8],
    value_valid: NDArray[np.uint8],
) -> None:
    """Copies keys and values of the records in [begin, end) into Arrow's variable binary layout.

    The offsets arrays have one entry more than there are records; the validity bitmaps start as zeros.
    """
    key_base, value_base = key_data.ctypes.data, value_data.ctypes.data
    key_at, value_at = nb.int64(0), nb.int64(0)
    row = 0
    key_offsets[0] = 0
    value_offsets[0] = 0
    for i in range(begin, end):
        message = messages[i]
        if message == 0 or _load_i32(message + ERR) != 0:
            continue
        key, payload = _load_i64(message + KEY), _load_i64(message + PAYLOAD)
        if key != 0:
            length = _load_i64(message + KEY_LEN)
            _copy_bytes(key_base + key_at, key, length)
            key_at += length
            key_valid[row >> 3] |= np.uint8(1 << (row & 7))
        if payload != 0:
            length = _load_i64(message + LEN)
            _copy_bytes(value_base + value_at, payload, length)
            value_at += length
            value_valid[row >> 3] |= np.uint8(1 << (row & 7))
        row += 1
        key_offsets[row] = key_at
        value_offsets[row] = value_at


@compiled
def copy_headers(
    messages: NDArray[np.int64],
    begin: int,
    end: int,
    functions: NDArray[np.int64],
    list_offsets: NDArray[np.int32],
    list_valid: NDArray[np.uint8],
    name_offsets: NDArray[np.int32],
    name_data: NDArray[np.uint8],
    value_offsets: NDArray[np.int32],
    value_data: NDArray[np.uint8],
    value_valid: NDArray[np.uint8],
) -> None:
    """Copies the headers of the records in [begin, end): lists of (name, value), null for a record without any."""
    scratch = np.zeros(4, np.int64)
    address = scratch.ctypes.data
    name_base, value_base = name_data.ctypes.data, value_data.ctypes.data
    name_at, value_at = nb.int64(0), nb.int64(0)
    row, entry = 0, 0
    list_offsets[0] = 0
    name_offsets[0] = 0
    value_offsets[0] = 0
    for i in range(begin, end):
        message = messages[i]
        if message == 0 or _load_i32(message + ERR) != 0:
            continue
        if _call_2_i32(functions[HEADERS], message, address) == 0:
            handle = scratch[0]
            list_valid[row >> 3] |= np.uint8(1 << (row & 7))
            for h in range(_call_1_i64(functions[HEADER_COUNT], handle)):
                _call_5_i32(functions[HEADER_GET], handle, h, address + 8, address + 16, address + 24)
                length = _c_length(scratch[1])
                _copy_bytes(name_base + name_at, scratch[1], length)
                name_at += length
                if scratch[2] != 0:
                    _copy_bytes(value_base + value_at, scratch[2], scratch[3])
                    value_at += scratch[3]
                    value_valid[entry >> 3] |= np.uint8(1 << (entry & 7))
                entry += 1
                name_offsets[entry] = name_at
                value_offsets[entry] = value_at
        row += 1
        list_offsets[row] = entry


@compiled
def release(messages: NDArray[np.int64], begin: int, end: int, functions: NDArray[np.int64]) -> None:
    """Gives the messages in [begin, end) back to the library."""
    for i in range(begin, end):
        if messages[i] != 0:
            _call_1_void(functions[DESTROY], messages[i])
            messages[i] = 0
