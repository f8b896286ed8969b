"""The machine that runs Avro encoding programs (``encoder.py``): Arrow columns to one Avro value a row.

The mirror image of ``vm.py``: values come from arenas of int64 cells, text from one pool of bytes with offsets among
the cells, and the output buffer is large enough by construction (the caller bounds it), so it is not checked here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from beam_jobs.codec.avro.bytes import LOW_63
from beam_jobs.jit import Int, compiled

# An instruction is int64[WIDTH]: opcode, first cell, first validity flag (-1: none null), level, a, field.
WIDTH = 6
OP, CELL, VALID, LEVEL, A, FIELD = range(WIDTH)

END = 0
REQUIRE = 1  # a missing value here is an error
NULLABLE = 2  # branch a when null (then to b of the next instruction), 1 - a otherwise
ELSE = 3  # a: where to go on
VARINT = 4
DOUBLE = 5
FLOAT = 6
BOOLEAN = 7
TEXT = 8  # length and bytes; cells are offsets into the pool
FIXED = 9  # a bytes; cells are offsets into the pool
DECIMAL = 10  # a: size of the fixed, or -1 for bytes; cells are pairs, low half first
LIST = 11  # a: level of the items; cells are offsets into that level
NEXT = 12  # next item of level a, or go on after the loop
JUMP = 13  # to a

MAX_VARINT = 10  # bytes


@compiled
def _write_varint(out: NDArray[np.uint8], pos: Int, value: Int) -> Int:
    rest = (value << 1) ^ (value >> 63)
    while rest < 0 or rest >= 0x80:
        out[pos] = np.uint8((rest & 0x7F) | 0x80)
        pos += 1
        rest = (rest >> 7) & (LOW_63 >> 6)
    out[pos] = np.uint8(rest)
    return pos + 1


@compiled
def _write_bits(out: NDArray[np.uint8], pos: Int, bits: Int, size: Int) -> Int:
    for i in range(size):
        out[pos + i] = np.uint8((bits >> (8 * i)) & 0xFF)
    return pos + size


@compiled
def encode(
    ops: NDArray[np.int64],
    rows: Int,
    header: NDArray[np.uint8],
    cells: NDArray[np.int64],
    valid: NDArray[np.uint8],
    pool: NDArray[np.uint8],
    levels: Int,
    out: NDArray[np.uint8],
    ends: NDArray[np.int64],
) -> Int:
    """Encodes ``rows`` rows; returns -1, or the instruction that met a missing value.

    Args:
      ops: int64 [k, WIDTH], one program, from instruction 0.
      header: bytes to write before each row.
      cells, valid, pool: the columns.
      levels: nesting levels.
      out: uint8, the output; large enough.
      ends: int64 [rows], where each row ends in ``out``; filled.
    """
    index = np.zeros(levels, np.int64)  # the current row of each level
    stop = np.zeros(levels, np.int64)
    pos = np.int64(0)
    for row in range(rows):
        index[0] = row
        for i in range(len(header)):
            out[pos] = header[i]
            pos += 1
        pc = np.int64(0)
        while True:
            code = ops[pc, OP]
            at = index[ops[pc, LEVEL]]
            cell = ops[pc, CELL] + at
            if code == DOUBLE:
                pos = _write_bits(out, pos, cells[cell], 8)
                pc += 1
            elif code == VARINT:
                pos = _write_varint(out, pos, cells[cell])
                pc += 1
            elif code == TEXT or code == FIXED:  # noqa: SIM109
                start = cells[cell]
                size = cells[cell + 1] - start
                if code == TEXT:
                    pos = _write_varint(out, pos, size)
                for i in range(size):
                    out[pos + i] = pool[start + i]
                pos += size
                pc += 1
            elif code == NULLABLE:
                flag = ops[pc, VALID]
                if flag >= 0 and valid[flag + at] == 0:
                    out[pos] = np.uint8(ops[pc, A] << 1)
                    pc = ops[pc + 1, A]
                else:
                    out[pos] = np.uint8((1 - ops[pc, A]) << 1)
                    pc += 2
                pos += 1
            elif code == REQUIRE:
                flag = ops[pc, VALID]
                if flag >= 0 and valid[flag + at] == 0:
                    return pc
                pc += 1
            elif code == FLOAT:
                pos = _write_bits(out, pos, cells[cell], 4)
                pc += 1
            elif code == BOOLEAN:
                out[pos] = np.uint8(cells[cell])
                pos += 1
                pc += 1
            elif code == DECIMAL:
                low = cells[cell + at]
                high = cells[cell + at + 1]
                size = ops[pc, A]
                if size < 0:
                    size = np.int64(16)
                    while size > 1:  # drop leading bytes that only repeat the sign
                        top = _decimal_byte(high, low, size - 1)
                        after = _decimal_byte(high, low, size - 2)
                        if not ((top == 0 and after < 0x80) or (top == 0xFF and after >= 0x80)):
                            break
                        size -= 1
                    pos = _write_varint(out, pos, size)
                for i in range(size):
                    out[pos + i] = np.uint8(_decimal_byte(high, low, size - 1 - i))
                pos += size
                pc += 1
            elif code == LIST:
                level = ops[pc, A]
                index[level] = cells[cell] - 1
                stop[level] = cells[cell + 1]
                if stop[level] > cells[cell]:
                    pos = _write_varint(out, pos, stop[level] - cells[cell])
                pc += 1
            elif code == NEXT:
                level = ops[pc, LEVEL]
                index[level] += 1
                if index[level] < stop[level]:
                    pc += 1
                else:
                    out[pos] = 0
                    pos += 1
                    pc = ops[pc, A]
            elif code == JUMP:
                pc = ops[pc, A]
            else:  # END
                break
        ends[row] = pos
    return -1


@compiled
def _decimal_byte(high: Int, low: Int, i: Int) -> Int:
    """Byte i, from the lowest, of a 128-bit number; the sign beyond."""
    if i >= 16:
        return np.int64(0xFF) if high < 0 else np.int64(0)
    if i >= 8:
        return (high >> (8 * (i - 8))) & 0xFF
    return (low >> (8 * i)) & 0xFF
