"""How rare values are: the tail of a sample as a curve, and beyond the sample as a power law.

A curve goes from a value to -log of the share of the sample that shows as much or more; of both sides, that is at least
as far from the middle. Between the sample's values it is a straight line; beyond the largest of n it begins at
log(n + 1), since not one of n + 1 has been so large, and goes on as Hill (1975) has it: by the mean logarithm of how
far the largest values lie from the median.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.jit import compiled
from model.arrays import check_arrays
from model.rows import Floats

Doubles = NDArray[np.float64]

MOST = 1e4  # a curve goes no higher: a value beyond all sense stays a number
_KNOTS = 512  # of a curve's middle
_EXACT = 100  # values of each end that are kept one by one, and that a tail is fitted to
_EXPONENTS = (0.5, 50.0)  # least and most of a tail: the heaviest and the lightest
_CONSTANT = 0.01  # of its size: how far a feature that never changes may be off before its tail begins to count
_SMALL = 1e-6  # the same for one that is always 0

# Columns of ``ends``, the lower end and then the upper one: where its tail begins, its height there, the middle it is
# measured from and its exponent; height 0 and exponent 0: there is none.
_EDGE, _HEIGHT, _MIDDLE, _EXPONENT = range(4)


@dataclass(frozen=True)
class Tails:
    """A curve for each of k values."""

    values: Doubles  # [m], of all curves one after the other; ascending within each
    heights: Doubles  # [m], -log of the share
    starts: NDArray[np.int64]  # [k + 1], where each begins
    ends: Doubles  # [k, 2, 4]
    medians: Doubles  # [k]

    @classmethod
    def fit(cls, samples: Sequence[NDArray[Any]], both: Sequence[bool]) -> Tails:
        """Fits k samples; ``both``: whether small values count as rare as well, or large ones alone."""
        curves = [_curve(np.sort(np.asarray(one, np.float64)), two) for one, two in zip(samples, both, strict=True)]
        values, heights = (np.concatenate([curve[i] for curve in curves]) for i in (0, 1))
        starts = np.cumsum([0, *(len(curve[0]) for curve in curves)])
        ends = np.array([curve[2] for curve in curves]).reshape(-1, 2, 4)
        return cls(
            values, heights, starts.astype(np.int64), ends, np.array([np.median(one) for one in samples], np.float64)
        )

    def __len__(self) -> int:
        return len(self.medians)

    def heights_of(self, columns: Sequence[Floats]) -> Floats:
        """-log of the share that shows as much, [k, n], of k columns, [n]; not a number where the value is none."""
        found = np.empty((len(self), len(columns[0]) if columns else 0), np.float32)
        for i, column in enumerate(columns):
            start, stop = self.starts[i : i + 2].tolist()
            evaluate(column, self.values[start:stop], self.heights[start:stop], self.ends[i], found[i])
        return found

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What ``of`` takes."""
        return {name: getattr(self, name) for name in _TYPES}

    @classmethod
    def of(cls, arrays: dict[str, NDArray[Any]], curves: int) -> Tails:
        """The counterpart of ``arrays``; ValueError or KeyError if they don't describe so many curves."""
        check_arrays(arrays, _TYPES, {"k": curves})
        made = cls(*(arrays[name] for name in _TYPES))
        sizes = np.diff(made.starts)
        if made.starts[0] != 0 or made.starts[-1] != len(made.values) or (sizes < 1).any():
            raise ValueError("starts are not those of the curves")
        inside = np.ones(len(made.values) - 1, np.bool_)
        inside[made.starts[1:-1] - 1] = False  # from the last value of a curve to the first of the next
        if (np.diff(made.values)[inside] <= 0).any():
            raise ValueError("the values of a curve do not ascend")
        away = (made.ends[:, :, _EDGE] - made.ends[:, :, _MIDDLE]) * (-1, 1)
        if (away[made.ends[:, :, _EXPONENT] > 0] <= 0).any():
            raise ValueError("a tail begins on the wrong side of the middle")
        return made


_TYPES: dict[str, tuple[type[Any], tuple[str | int, ...]]] = {
    "values": (np.float64, ("m",)),
    "heights": (np.float64, ("m",)),
    "starts": (np.int64, ("k+1",)),
    "ends": (np.float64, ("k", 2, 4)),
    "medians": (np.float64, ("k",)),
}


def _curve(ordered: Doubles, both: bool) -> tuple[Doubles, Doubles, Doubles]:
    """Values, heights and ends of a sample, ascending."""
    n = len(ordered)
    values, first, counts = np.unique(ordered, return_index=True, return_counts=True)
    up, down = (n - first + 1) / (n + 1), (first + counts + 1) / (n + 1)
    heights = -np.log(np.minimum(1, 2 * np.minimum(up, down))) if both else -np.log(up)
    lower = _end(-ordered[::-1], np.log((n + 1) / 2)) * np.array([-1, 1, -1, 1]) if both else np.zeros(4)
    upper = _end(ordered, np.log((n + 1) / (2 if both else 1)))
    if len(values) > _KNOTS + 2 * _EXACT:
        even = np.searchsorted(first, np.linspace(0, n - 1, _KNOTS).astype(np.int64), side="right") - 1
        kept = np.unique(np.concatenate([np.arange(_EXACT), even, len(values) - 1 - np.arange(_EXACT)]))
        values, heights = values[kept], heights[kept]
    if not both:
        lower[_EDGE] = values[0]
    return values, heights, np.array([lower, upper])


def _end(ordered: Doubles, height: float) -> Doubles:
    """The upper end of a sample, ascending."""
    middle, largest = float(np.median(ordered)), float(ordered[-1])
    if largest <= middle:
        middle = largest - max(_CONSTANT * abs(largest), _SMALL)
    away = ordered[-max(1, min(_EXACT, len(ordered) // 10)) :] - middle
    away = away[away > 0]
    logs = float(np.mean(np.log(away / away[0])))
    exponent = float(np.clip(1 / logs, *_EXPONENTS)) if logs > 0 else 1.0
    return np.array([largest, height, middle, exponent])


@compiled
def evaluate(column: Floats, values: Doubles, heights: Doubles, ends: Doubles, out: Floats) -> None:
    """Heights of a curve at the values of a column, [n], into ``out``, [n]."""
    last = len(values) - 1
    for row in range(len(column)):
        x = np.float64(column[row])
        if x != x:
            out[row] = np.nan
            continue
        if x > values[last] or x < values[0]:
            end = ends[1] if x > values[last] else ends[0]
            height = end[_HEIGHT]
            if end[_EXPONENT] > 0:
                height += end[_EXPONENT] * np.log((x - end[_MIDDLE]) / (end[_EDGE] - end[_MIDDLE]))
            out[row] = min(height, MOST)
            continue
        low, high = 0, last  # values[low] <= x, and x < values[high + 1]
        while low < high:
            middle = (low + high + 1) >> 1
            if values[middle] <= x:
                low = middle
            else:
                high = middle - 1
        height = heights[low]
        if low < last and x > values[low]:
            height += (heights[low + 1] - height) * (x - values[low]) / (values[low + 1] - values[low])
        out[row] = height
