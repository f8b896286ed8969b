"""Values that say "no reading" and stand where a reading should: 65535, -999, 3e38.

One of them among 20,000 rows moves a mean, a spread and a threshold. It looks like this: far from all other values of
its column and exactly the same each time, or one that software is known to use. What is merely rare does not count: a
category, a count, a version and a saturated sensor have neighbours, or are no value that anybody uses for "none".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from shlex import quote
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import UserError
from model.outliers.boxes import identifier

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]

_OUTERMOST = 128  # distinct values of a column that are kept on either side, and how many rows have each
_TAIL_ROWS = 50  # beside a gap, to say how wide gaps are there
_GAP = 10.0  # typical gaps: of an exponential tail, one in 20,000 samples has such a gap by chance
_FEW = 20  # distinct values: with fewer, a column is a category and its gaps mean nothing
_MANY = 100  # distinct values: with fewer, repeating is nothing special
_REPEATED = 3  # rows with exactly the same value
_RARE = 0.005  # share of rows; 0, and values nobody knows, may be a state (switched off) when they are more
_BEYOND = 0.1  # share of rows; a value with more of them on its far side is none of the outermost
_FREQUENT = 0.25  # share of rows; of any value, when they are more
_CONTINUOUS = 0.05  # share of whole numbers, below which a whole number stands out

_ROUND = tuple(10.0**i for i in range(8, 21))  # what float32 makes of eight nines and more
_LIMITS = (127, -127, -128, 255, 32767, -32768, 65535, 8388607, 16777215, 2**31, -(2**31), 2**32, 2**63, -(2**63))
_SCALED = tuple(limit / by for limit in (32767, -32768, 65535) for by in (10, 100, 1000))  # counted in tenths and so on
_KNOWN = frozenset(float(np.float32(value)) for value in (*_LIMITS, *_SCALED, *_ROUND, 2.0**64, 0, -1, -273.15))
_NINES = re.compile(r"-?99+(\.9*|\.0)?")
_ABSURD = 1e30  # fill values of file formats, the largest float32


@dataclass(frozen=True)
class Sentinel:
    """A value that looks like a sentinel."""

    column: str  # the feature
    value: float
    rows: int  # that hold it, of those not labelled as failures
    left_out: int  # of these: neither learnt from nor judged by
    low: float  # the other values of the column
    high: float

    def __str__(self) -> str:
        rows = f"{self.rows:,} row{'s'[: self.rows != 1]}"
        return (
            f"column {self.column}: {number(self.value)} in {rows} looks like a sentinel "
            f"(the other values are {self.low:.6g} to {self.high:.6g})"
        )

    @property
    def where(self) -> str:
        """The rows that hold it, as a condition in SQL."""
        name = self.column if self.column.isidentifier() else identifier(self.column)
        return f"{name} = {number(self.value)}"


def number(value: float) -> str:
    """As short as float32 allows, and without a point if it is whole: what a condition may compare with."""
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(np.float32(value))


def find(blocks: Iterable[Floats], features: Sequence[str]) -> list[Sentinel]:
    """Values that look like sentinels, by column; ``left_out`` is 0.

    Args:
      blocks: all rows, float32 [n, F], finite, in random order, some thousand or more at a time; one pass is made.
      features: names of the F columns.
    """
    columns = [_Column() for _ in features]
    for block in blocks:
        for i, column in enumerate(columns):
            column.add(block[:, i])
    found = []
    for name, column in zip(features, columns, strict=True):
        values = column.sentinels() if column.rows else []
        others = column.values[~np.isin(column.values, values)]
        for value in values:
            rows = int(column.counts[column.values == value][0])
            found.append(Sentinel(name, value, rows, 0, float(others[0]), float(others[-1])))
    return found


def told(found: Sequence[Sentinel], refuse: bool) -> list[str]:
    """A line for each that rows were left out for; UserError with ``refuse``."""
    remedy = "if it is a reading, call it normal: --normal"
    lines = [f"{one}: {one.left_out:,} left out; {remedy} {quote(one.where)}" for one in found if one.left_out]
    if lines and refuse:
        first = next(one for one in found if one.left_out)
        more = f" (and so do {len(lines) - 1} other values)" if lines[1:] else ""
        raise UserError(
            f"--on_outlier refuse: {first}{more}; keep such rows out with the SQL's WHERE or train without them "
            f"(--on_outlier leave_out), or {remedy} {quote(first.where)}"
        )
    return lines


class Screen:
    """Tells rows that hold a sentinel from others, and counts them."""

    def __init__(
        self, found: Sequence[Sentinel], features: Sequence[str], normal: Callable[[Floats], Bools] | None = None
    ) -> None:
        """``normal``: rows, float32 [n, F], to those a person calls normal, whatever they hold."""
        self._found = found
        self._columns = [features.index(sentinel.column) for sentinel in found]
        self._normal = normal
        self._left_out = [0] * len(found)

    def sound(self, x: Floats) -> Bools:
        """Of rows, float32 [n, F], each shown once: those to go on with."""
        held = np.zeros(len(x), np.bool_)
        normal = self._normal(x) if self._normal and self._found else held.copy()
        for i, (column, sentinel) in enumerate(zip(self._columns, self._found, strict=True)):
            holds = (x[:, column] == np.float32(sentinel.value)) & ~normal
            self._left_out[i] += int(np.count_nonzero(holds))
            held |= holds
        return ~held

    def sentinels(self) -> tuple[Sentinel, ...]:
        """What was found, with the number of rows that ``sound`` said to leave out."""
        return tuple(replace(one, left_out=n) for one, n in zip(self._found, self._left_out, strict=True))


class _Column:
    """The distinct values at both ends of a column, how many rows have each, and which of them stand alone."""

    def __init__(self) -> None:
        self.rows = 0
        self.values = np.empty(0)  # ascending; all of them, or _OUTERMOST of either end
        self.counts = np.empty(0, np.int64)
        self._median = 0.0
        self._distinct = 0  # values among the rows of the first block
        self._whole = 1.0  # share of whole numbers among them, the most frequent value aside

    def add(self, column: Floats) -> None:
        if not len(column):
            return
        doubles = column.astype(np.float64)
        values, counts = np.unique(doubles, return_counts=True)
        if not self.rows:
            self._median = float(np.median(doubles))
            self._distinct = len(values)
            rare = np.arange(len(values)) != np.argmax(
                counts
            )  # readings of which many are 0 are continuous all the same
            if rare.any():
                self._whole = float(np.average(values[rare] == np.rint(values[rare]), weights=counts[rare]))
        self.rows += len(column)
        # An end only moves outwards, so what comes to be at it was never dropped before.
        self.values, place = np.unique(np.concatenate([self.values, _ends(values)]), return_inverse=True)
        counted = np.bincount(place, np.concatenate([self.counts, _ends(counts)]))
        self.values, self.counts = _ends(self.values), _ends(counted.astype(np.int64))

    def sentinels(self) -> list[float]:
        """Ascending."""
        found = []
        for sign in (1, -1):
            values, counts = self.values[::sign], self.counts[::sign]
            if len(values) == 2 * _OUTERMOST:
                values, counts = values[_OUTERMOST:], counts[_OUTERMOST:]
            distance = sign * (values - self._median)[::-1]
            found += self._alone(values[::-1][distance > 0], counts[::-1][distance > 0], distance[distance > 0])
        return sorted(found)

    def _alone(self, values: Doubles, counts: NDArray[np.int64], distance: Doubles) -> list[float]:
        """Those that stand alone among the values on one side of the median, the farthest first."""
        judged, near = len(values), min(_TAIL_ROWS, max(5, self.rows // 20))
        if judged == _OUTERMOST:  # what comes next towards the median is not known
            judged -= near
        else:
            distance, counts = np.append(distance, 0.0), np.append(counts, near)
        found, beyond = [], np.cumsum(counts) - counts
        for i in range(min(judged, int(np.searchsorted(beyond, _BEYOND * self.rows, "right")))):
            value, rows, known = float(values[i]), int(counts[i]), is_known(float(values[i]))
            nearer, repeats = distance[i + 1 :][:near], counts[i + 1 :][:near]
            gap, outer = distance[i] - nearer[0], distance[i - 1] - distance[i] if i else np.inf
            if rows > (_RARE if value == 0 or not known else _FREQUENT) * self.rows:
                alone = False
            elif self._distinct <= _FEW:
                alone = known and self._dwarfs(value)
            elif not known:
                # Codes and saturated readings repeat as well, but so do those beside them, or they are not far away.
                alone = (
                    self._distinct >= _MANY
                    and rows >= max(_REPEATED, 3 * repeats[:5].max())
                    and min(gap, outer) > _GAP * _excess(nearer)
                    and distance[i] > 2 * nearer[0] > 0
                    and np.log(distance[i] / nearer[0]) > _GAP * _excess(np.log(nearer[nearer > 0]))
                )
            elif value < 0 <= self._median - nearer[0] and self._whole < _CONTINUOUS:
                alone = gap > _GAP * _step(nearer)
            else:
                tail = np.repeat(nearer, np.minimum(repeats, near))[:near]
                alone = min(gap, outer) > _GAP * max(_excess(tail), _step(nearer))
            if alone:
                found.append(value)
        return found

    def _dwarfs(self, value: float) -> bool:
        """Of the few values of a category, only a large one that software knows can be told from a code."""
        others = self.values[self.values != value]
        return abs(value) > 200 and float(np.abs(others - value).min()) > _GAP * max(1.0, float(np.ptp(others)))


def is_known(value: float) -> bool:
    """Whether software is known to use this float32 for "none"."""
    return value in _KNOWN or abs(value) >= _ABSURD or _NINES.fullmatch(number(value)) is not None


def _ends(values: NDArray[Any]) -> NDArray[Any]:
    return values if len(values) <= 2 * _OUTERMOST else np.concatenate([values[:_OUTERMOST], values[-_OUTERMOST:]])


def _excess(tail: Doubles) -> float:
    """The mean excess of a tail, descending, over its last one if it is exponential; outliers in it hardly matter."""
    return float(np.median(tail - tail[-1])) / float(np.log(2))


def _step(distances: Doubles) -> float:
    """The usual difference between neighbours, descending and distinct."""
    return float(np.median(-np.diff(distances))) if len(distances) > 1 else 0.0
