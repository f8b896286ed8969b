"""Programs of several writers joined into what the Avro machine runs on one block."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from beam_jobs.codec.avro import ops as op
from beam_jobs.codec.avro.program import Program

_JUMPS = (op.JUMP, op.BRANCH, op.NEXT, op.ITEM, op.CALL)  # their a is an instruction
_FLAGS = (op.VALID, op.BRANCH)  # their base is a validity cell
_STRIDED = (op.DOUBLE, op.LONG, op.INT, op.DECIMAL)  # their b is a distance in cells


class Code:
    """Instructions of ``programs``, one after the other.

    ``entries`` is where each of them starts, int64 [len(programs)].
    """

    def __init__(self, programs: Sequence[Program]) -> None:
        self.programs = list(programs)
        sizes = [len(program.ops) for program in programs]
        self.entries = np.cumsum([0, *sizes], dtype=np.int64)[:-1]
        self._ops = np.concatenate([np.empty((0, op.WIDTH), np.int64), *(program.ops for program in programs)])
        code, used = self._ops[:, op.OP], self._ops[:, op.BASE] >= 0
        jumps = np.isin(code, _JUMPS)
        self._ops[jumps, op.A] += np.repeat(self.entries, sizes)[jumps]
        flags = np.isin(code, _FLAGS)
        self._with_cell = np.flatnonzero(used & ~flags)
        self._with_flag = np.flatnonzero(used & flags)
        self._strided = np.flatnonzero(np.isin(code, _STRIDED))

    def patched(
        self, capacity: NDArray[np.int64], cell_starts: NDArray[np.int64], valid_starts: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """The instructions with cell positions for the given arenas, int64 [k, WIDTH]."""
        ops = self._ops.copy()
        for rows, starts in ((self._with_cell, cell_starts), (self._with_flag, valid_starts)):
            level = ops[rows, op.LEVEL]
            ops[rows, op.BASE] = starts[level] + ops[rows, op.BASE] * capacity[level]
        ops[self._strided, op.B] = capacity[ops[self._strided, op.LEVEL]]
        return ops

    def locate(self, pc: int) -> tuple[Program, int]:
        """The program of an instruction, and the instruction's number in it."""
        which = int(np.searchsorted(self.entries, pc, side="right")) - 1
        return self.programs[which], pc - int(self.entries[which])
