"""The Avro machine's quick way: an instruction for a tile of rows at a time instead of a row for all instructions.

Reading the next instruction costs the machine of ``vm.py`` more than most instructions do. Here that is paid once
a tile, and values go to their columns in order. Rows part at a union and meet again behind it: what is executed next is
always the earliest instruction any row waits for, and a program without lists only ever jumps forward. Writers of
several schemas in one tile work the same way.

A tile with any bad row, list or rarer type is left to ``vm.run``, which starts it anew: only that one reports
errors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from beam_jobs.codec.avro import ops as op
from beam_jobs.codec.avro.bytes import byte_at, is_utf8, load8, read_varint
from beam_jobs.codec.avro.vm import run
from beam_jobs.jit import Int, compiled

TILE = 128  # rows; 64 to 256 measured alike

_DONE = 1 << 62  # behind every instruction


@compiled
def run_tiles(
    ops: NDArray[np.int64],
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    entries: NDArray[np.int64],
    cells: NDArray[np.int64],
    valid: NDArray[np.uint8],
    capacity: NDArray[np.int64],
    counts: NDArray[np.int64],
    status: NDArray[np.int32],
    detail: NDArray[np.int64],
) -> int:
    """``vm.run`` for rows that are not contiguous: the same arguments, the same results."""
    n = len(starts)
    wait, pos, here = np.empty(TILE, np.int64), np.empty(TILE, np.int64), np.empty(TILE, np.bool_)
    quick = len(counts) == 1  # no lists
    for a in range(0, n, TILE):
        b = min(n, a + TILE)
        if quick and _tile(ops, data, starts[a:b], ends[a:b], entries[a:b], cells, valid, counts[0], wait, pos, here):
            counts[0] += b - a
            continue
        full = run(
            *(ops, data, starts[a:b], ends[a:b], entries[a:b], False, cells, valid, capacity, counts),
            *(status[a:b], detail[a:b]),
        )
        if full >= 0:
            return full
    return -1


@compiled
def _tile(
    ops: NDArray[np.int64],
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    entries: NDArray[np.int64],
    cells: NDArray[np.int64],
    valid: NDArray[np.uint8],
    first: Int,
    wait: NDArray[np.int64],
    pos: NDArray[np.int64],
    here: NDArray[np.bool_],
) -> bool:
    """Decodes a tile into cells ``first`` and after; False: it has to be run row by row.

    Scratch: ``wait``, the instruction a row waits for; ``pos``, its byte; ``here``, whether it executes this one.
    Integers of one byte are read in place: a function that returns a pair costs three times as much (measured).
    """
    n = len(starts)
    for row in range(n):
        if entries[row] < 0:
            return False
        wait[row] = entries[row]
        pos[row] = starts[row]
    while True:
        pc = np.int64(_DONE)
        for row in range(n):
            pc = min(pc, wait[row])
        if pc == _DONE:
            return True
        together = True
        for row in range(n):
            here[row] = wait[row] == pc
            together &= here[row]
        while True:
            code, cell, count, stride = ops[pc, op.OP], ops[pc, op.BASE] + first, ops[pc, op.A], ops[pc, op.B]
            if code == op.DOUBLE:
                for row in range(n):
                    if here[row] and ends[row] - pos[row] < 8 * count:
                        return False
                for i in range(count):
                    column = cell + i * stride
                    for row in range(n):
                        if here[row]:
                            cells[np.uint64(column + row)] = load8(data, pos[row] + 8 * i)
                for row in range(n):
                    pos[row] += 8 * count * here[row]
            elif code in (op.LONG, op.INT):
                low, high = np.int64(op.INT64_LOW), np.int64(op.INT64_HIGH)
                if code == op.INT:
                    low, high = np.int64(op.INT32_LOW), np.int64(op.INT32_HIGH)
                for i in range(count):
                    column = cell + i * stride
                    for row in range(n):
                        if not here[row]:
                            continue
                        at = pos[row]
                        if at >= ends[row]:
                            return False
                        value = byte_at(data, at)
                        at += 1
                        if value < 128:
                            value = (value >> 1) ^ -(value & 1)
                        else:
                            value, at = read_varint(data, at - 1, ends[row])
                        if at < 0 or value < low or value > high:
                            return False
                        pos[row] = at
                        cells[np.uint64(column + row)] = value
            elif code in (op.STRING, op.BYTES, op.SKIP_BYTES):
                for row in range(n):
                    if not here[row]:
                        continue
                    at = pos[row]
                    if at >= ends[row]:
                        return False
                    size = byte_at(data, at)
                    at += 1
                    if size < 128:
                        size = (size >> 1) ^ -(size & 1)
                    else:
                        size, at = read_varint(data, at - 1, ends[row])
                    if at < 0 or size < 0 or size > ends[row] - at:
                        return False
                    if code == op.STRING and not is_utf8(data, at, size):
                        return False
                    if code != op.SKIP_BYTES:
                        cells[np.uint64(cell + row)] = at << 32 | size
                    pos[row] = at + size
            elif code == op.SKIP:
                for row in range(n):
                    if here[row]:
                        if count > ends[row] - pos[row]:
                            return False
                        pos[row] += count
            elif code == op.SKIP_VARINT:
                for row in range(n):
                    if here[row]:
                        _, at = read_varint(data, pos[row], ends[row])
                        if at < 0:
                            return False
                        pos[row] = at
            elif code == op.VALID:
                for row in range(n):
                    if here[row]:
                        valid[np.uint64(cell + row)] = count
            elif code == op.CONST:
                for row in range(n):
                    if here[row]:
                        cells[np.uint64(cell + row)] = count
            elif code == op.UNION:
                target = np.int64(-1)
                for row in range(n):
                    if not here[row]:
                        continue
                    at = pos[row]
                    if at >= ends[row]:
                        return False
                    branch = byte_at(data, at)
                    if branch & 0x81 != 0 or branch >> 1 >= count:  # negative, or 64 branches and more
                        return False
                    pos[row] = at + 1
                    to = pc + 1 + (branch >> 1)
                    if ops[to, op.BASE] >= 0:
                        valid[np.uint64(ops[to, op.BASE] + first + row)] = ops[to, op.B]
                    wait[row] = ops[to, op.A]
                    together &= target in (-1, wait[row])
                    target = wait[row]
                if not together:
                    break
                pc = target
                continue
            elif code == op.JUMP:
                for row in range(n):
                    if here[row]:
                        wait[row] = count
                break
            elif code == op.END:
                for row in range(n):
                    if here[row]:
                        if pos[row] != ends[row]:
                            return False
                        wait[row] = _DONE
                break
            else:
                return False
            pc += 1
            if not together:  # the others may wait for this one
                for row in range(n):
                    if here[row]:
                        wait[row] = pc
                break
