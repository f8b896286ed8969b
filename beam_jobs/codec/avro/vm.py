"""The machine that runs Avro decoding programs (``program.py``) over whole blocks.

One compiled function for all schemas: a program is data, so a new schema costs no compilation. The values written
go to an arena of int64 cells, column by column: numbers as themselves, floats as their bits, strings and bytes as
``position << 32 | length`` (see ``gather``), lists as the end of their items in the level below. A level is a
nesting depth with a row counter of its own: level 0 are the rows, each list's items are another.

Safety: the input is not trusted. Every read is checked against the end of the row, every item against the capacity of
its level, and the items a row may announce are bounded by its bytes (MAX_EMPTY_ITEMS more for items of no bytes).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from beam_jobs.codec.avro import ops as op
from beam_jobs.codec.avro.bytes import LOW_63, SIGN_BIT, byte_at, is_utf8, load4, load8, read_decimal, read_varint
from beam_jobs.jit import Int, compiled


@compiled
def run(
    ops: NDArray[np.int64],
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    entries: NDArray[np.int64],
    contiguous: bool,
    cells: NDArray[np.int64],
    valid: NDArray[np.uint8],
    capacity: NDArray[np.int64],
    counts: NDArray[np.int64],
    status: NDArray[np.int32],
    detail: NDArray[np.int64],
) -> int:
    """Decodes rows; returns -1, or the level that has no room (then nothing is valid: run again with more).

    Args:
      ops: int64 [k, op.WIDTH], the programs.
      data: uint8, the bytes of all rows.
      starts, ends: int64 [n], the bodies within data.
      entries: int64 [n], where each row's program starts; negative: the row is skipped, its status stays.
      contiguous: each row starts where the one before it ended (a container file's block); starts[0] and ends count,
        the first bad row ends the run.
      cells, valid: the arenas.
      capacity: int64 [levels].
      counts: int64 [levels], zeros; afterwards the rows of each level. Bad rows are not among them.
      status: int32 [n], op.OK or what is wrong.
      detail: int64 [n, 4]: instruction, byte within the row, value, field of those the instruction reads.
    """
    levels = len(counts)
    saved = np.zeros(levels, np.int64)
    stack = np.zeros(op.MAX_DEPTH + 2, np.int64)
    doubles = cells.view(np.float64)
    position = starts[0] if len(starts) else 0
    budget: Int = np.int64(0)
    if contiguous and len(starts):
        budget = ends[0] - position  # one for all rows
    for row in range(len(starts)):
        pc = entries[row]
        if pc < 0:
            continue
        pos = position if contiguous else starts[row]
        end = ends[row]
        begin = pos
        for level in range(levels):
            saved[level] = counts[level]
        budget = (budget if contiguous else end - pos) + op.MAX_EMPTY_ITEMS
        depth = 0
        nth: Int = np.int64(0)
        error = op.OK
        value: Int = np.int64(0)
        while True:
            code = ops[pc, op.OP]
            level = ops[pc, op.LEVEL]
            cell = ops[pc, op.BASE] + counts[level]
            if code == op.DOUBLE:
                n = ops[pc, op.A]
                stride = ops[pc, op.B]
                if end - pos < 8 * n:
                    nth = (end - pos) // 8
                    pos += 8 * nth
                    error = op.TRUNCATED
                    break
                for _ in range(n):
                    cells[cell] = load8(data, pos)
                    pos += 8
                    cell += stride
                pc += 1
            elif code in (op.LONG, op.INT):
                stride = ops[pc, op.B]
                for i in range(ops[pc, op.A]):
                    value, after = read_varint(data, pos, end)
                    if after < 0:
                        nth = i
                        error = op.TRUNCATED if after == -1 else op.VARINT_TOO_LONG
                        break
                    if code == op.INT and (value < -(1 << 31) or value >= 1 << 31):
                        nth = i
                        error = op.OUT_OF_RANGE
                        break
                    pos = after
                    cells[cell] = value
                    cell += stride
                if error != op.OK:
                    break
                pc += 1
            elif code == op.RANGE:
                value, after = read_varint(data, pos, end)
                if after < 0:
                    error = op.TRUNCATED if after == -1 else op.VARINT_TOO_LONG
                    break
                if value < ops[pc, op.A] or value > ops[pc, op.B]:
                    error = op.OUT_OF_RANGE
                    break
                pos = after
                cells[cell] = value
                pc += 1
            elif code == op.UNION:
                value, after = read_varint(data, pos, end)
                if after < 0:
                    error = op.TRUNCATED if after == -1 else op.VARINT_TOO_LONG
                    break
                if value < 0 or value >= ops[pc, op.A]:
                    error = op.NO_SUCH_BRANCH
                    break
                pos = after
                pc += value + 1
                if ops[pc, op.BASE] >= 0:
                    valid[ops[pc, op.BASE] + counts[ops[pc, op.LEVEL]]] = ops[pc, op.B]
                pc = ops[pc, op.A]
            elif code in (op.STRING, op.BYTES):
                value, after = read_varint(data, pos, end)
                if after < 0:
                    error = op.TRUNCATED if after == -1 else op.VARINT_TOO_LONG
                    break
                if value < 0:
                    error = op.NEGATIVE_LENGTH
                    break
                if value > end - after:
                    error = op.TRUNCATED
                    break
                if code == op.STRING and not is_utf8(data, after, value):
                    error = op.NOT_UTF8
                    break
                cells[cell] = after << 32 | value
                pos = after + value
                pc += 1
            elif code == op.SKIP:
                if ops[pc, op.A] > end - pos:
                    error = op.TRUNCATED
                    break
                pos += ops[pc, op.A]
                pc += 1
            elif code == op.SKIP_VARINT:
                value, after = read_varint(data, pos, end)
                if after < 0:
                    error = op.TRUNCATED if after == -1 else op.VARINT_TOO_LONG
                    break
                pos = after
                pc += 1
            elif code == op.SKIP_BYTES:
                value, after = read_varint(data, pos, end)
                if after < 0:
                    error = op.TRUNCATED if after == -1 else op.VARINT_TOO_LONG
                    break
                if value < 0:
                    error = op.NEGATIVE_LENGTH
                    break
                if value > end - after:
                    error = op.TRUNCATED
                    break
                pos = after + value
                pc += 1
            elif code == op.VALID:
                valid[cell] = ops[pc, op.A]
                pc += 1
            elif code == op.CONST:
                cells[cell] = ops[pc, op.A]
                pc += 1
            elif code == op.JUMP:
                pc = ops[pc, op.A]
            elif code in (op.FLOAT, op.FLOAT_TO_DOUBLE):
                if end - pos < 4:
                    error = op.TRUNCATED
                    break
                if code == op.FLOAT:
                    cells[cell] = load4(data, pos)
                else:
                    doubles[cell] = np.float64(np.int32(load4(data, pos)).view(np.float32))
                pos += 4
                pc += 1
            elif code in (op.LONG_TIMES, op.LONG_OVER):
                value, after = read_varint(data, pos, end)
                if after < 0:
                    error = op.TRUNCATED if after == -1 else op.VARINT_TOO_LONG
                    break
                factor = ops[pc, op.A]
                if code == op.LONG_OVER:
                    cells[cell] = value // factor
                else:
                    if value > LOW_63 // factor or value < -(LOW_63 // factor):
                        error = op.OUT_OF_RANGE
                        break
                    cells[cell] = value * factor
                pos = after
                pc += 1
            elif code in (op.INTEGER_TO_DOUBLE, op.INTEGER_TO_FLOAT):
                value, after = read_varint(data, pos, end)
                if after < 0:
                    error = op.TRUNCATED if after == -1 else op.VARINT_TOO_LONG
                    break
                if ops[pc, op.A] == 1 and (value < -(1 << 31) or value >= 1 << 31):
                    error = op.OUT_OF_RANGE
                    break
                if code == op.INTEGER_TO_DOUBLE:
                    doubles[cell] = np.float64(value)
                else:
                    cells[cell] = np.int64(np.float32(value).view(np.int32))
                pos = after
                pc += 1
            elif code == op.BOOLEAN:
                if pos >= end:
                    error = op.TRUNCATED
                    break
                value = byte_at(data, pos)
                if value > 1:
                    error = op.NOT_BOOLEAN
                    break
                cells[cell] = value
                pos += 1
                pc += 1
            elif code == op.FIXED:
                if ops[pc, op.A] > end - pos:
                    error = op.TRUNCATED
                    break
                cells[cell] = pos << 32 | ops[pc, op.A]
                pos += ops[pc, op.A]
                pc += 1
            elif code == op.ENUM:
                value, after = read_varint(data, pos, end)
                if after < 0:
                    error = op.TRUNCATED if after == -1 else op.VARINT_TOO_LONG
                    break
                if value < 0 or value >= ops[pc, op.A]:
                    error = op.NO_SUCH_SYMBOL
                    break
                symbol = ops[pc + 1 + value, op.A]
                if symbol < 0:
                    error = op.SYMBOL_DROPPED
                    break
                cells[cell] = symbol
                pos = after
                pc += 1 + ops[pc, op.A]
            elif code == op.DECIMAL:
                after = pos
                value = ops[pc, op.A]
                if value < 0:
                    value, after = read_varint(data, pos, end)
                    if after < 0:
                        error = op.TRUNCATED if after == -1 else op.VARINT_TOO_LONG
                        break
                    if value < 0:
                        error = op.NEGATIVE_LENGTH
                        break
                if value > end - after:
                    error = op.TRUNCATED
                    break
                high, low, fits = read_decimal(data, after, value, ops[pc + 1, op.A], ops[pc + 1, op.B])
                if not fits:
                    error = op.DECIMAL_TOO_LARGE
                    break
                cells[cell] = low
                cells[cell + ops[pc, op.B]] = high
                pos = after + value
                pc += 2
            elif code == op.LIST:
                if depth >= op.MAX_DEPTH:
                    error = op.TOO_DEEP
                    break
                stack[depth] = 0
                depth += 1
                pc += 1
            elif code == op.NEXT:
                if stack[depth - 1] == 0:
                    value, after = read_varint(data, pos, end)
                    if after < 0:
                        error = op.TRUNCATED if after == -1 else op.VARINT_TOO_LONG
                        break
                    if value < 0:
                        size, after = read_varint(data, after, end)
                        if after < 0:
                            error = op.TRUNCATED if after == -1 else op.VARINT_TOO_LONG
                            break
                        if size < 0 or value == SIGN_BIT:
                            error = op.NEGATIVE_LENGTH
                            break
                        if size > end - after:
                            value = size
                            error = op.TRUNCATED
                            break
                        value = -value
                        if ops[pc, op.B] == 1:
                            pos = after + size
                            continue
                    pos = after
                    if value == 0:
                        depth -= 1
                        pc = ops[pc, op.A]
                        continue
                    if value > budget:
                        error = op.TOO_MANY_ITEMS
                        break
                    budget -= value
                    stack[depth - 1] = value
                if level > 0 and counts[level] >= capacity[level]:
                    return level
                stack[depth - 1] -= 1
                pc += 1
            elif code == op.ITEM:
                counts[level] += 1
                pc = ops[pc, op.A]
            elif code == op.ITEM_ROOM:
                if counts[level] >= capacity[level]:
                    return level
                pc += 1
            elif code == op.LIST_END:
                cells[cell] = counts[ops[pc, op.A]]
                pc += 1
            elif code == op.CALL:
                if depth >= op.MAX_DEPTH:
                    error = op.TOO_DEEP
                    break
                stack[depth] = pc + 1
                depth += 1
                pc = ops[pc, op.A]
            elif code == op.RETURN:
                depth -= 1
                pc = stack[depth]
            elif code == op.FAIL:
                error = op.UNRESOLVABLE_VALUE
                break
            else:  # op.END
                if pos < end and (not contiguous or row == len(starts) - 1):
                    value = end - pos
                    error = op.TRAILING
                break
        if error != op.OK:
            status[row] = error
            detail[row, 0] = pc
            detail[row, 1] = pos - begin
            detail[row, 2] = value
            detail[row, 3] = nth
            for level in range(levels):
                counts[level] = saved[level]
            if contiguous:
                return -1
        else:
            counts[0] += 1
        position = pos
    return -1
