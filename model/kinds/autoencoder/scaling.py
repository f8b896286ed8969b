"""Centre and spread of features, so that a few wrong values move neither; far values are compressed, not cut off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.rows import Floats

Doubles = NDArray[np.float64]

# Up to about so many spreads a scaled value is linear in the reading, beyond it logarithmic: more of it while it is not
# known which rows are outliers, so that they pull less.
FIRST_BEND, BEND = 4.0, 5.0
LEAP = 10.0  # times: no range of normal values is so much wider than one of fewer of them
NEAR = 4.0  # robust spreads around the median within which mean and standard deviation are taken
LEAST_SHARE = 0.7  # of the robust spread: a standard deviation is no smaller; of even numbers it is 0.8 of it
FARTHEST = 1e9  # bends: a value beyond counts as this much, so that nothing overflows in float32
CONSTANT_SPREAD = 0.01  # of its size: the spread of a feature that never changes (firmware)
_RESOLUTION = 4e-7  # of a value's size: float32 tells no smaller differences apart
_OF_ZEROS = 1e-6  # in the feature's unit: the spread of a feature that is always 0
_LEAST = 1e-35  # of any other: its inverse is a float32

# Central shares of a sample, and how many standard deviations of a normal distribution their ends lie apart.
_RANGES = ((0.5, 1.349), (0.8, 2.563), (0.9, 3.290))
_WIDER = ((0.98, 4.653), (0.998, 6.180))  # for features that rest on one value in more than nine of ten rows
_FEW = 20  # rows that leave a resting value: fewer of them say nothing about a spread


@dataclass(frozen=True)
class Scaling:
    """Centre and spread of each feature on normal rows, float64 [F], in the feature's unit."""

    mean: Doubles
    spread: Doubles  # > 0
    constant: NDArray[np.bool_]  # [F], the feature never changes, or nearly so
    bend: float = BEND

    @classmethod
    def robust(cls, rows: Floats) -> Scaling:
        """Median and the widest of three central ranges of a sample, float32 [n, F]; a tenth of it may be anything."""
        centre, spread = np.array([_robust(column) for column in np.asarray(rows, np.float64).T]).T
        return cls._of(centre, spread, FIRST_BEND)

    @classmethod
    def fit(cls, rows: Floats) -> Scaling:
        """Mean and standard deviation of the values near the median of a sample, float32 [n, F]; for rows all normal.

        The spread is not far below the robust one, as it would be for zero-inflated counts.
        """
        robust = cls.robust(rows)
        near = np.abs(rows - robust.mean) <= NEAR * robust.spread
        count = np.maximum(near.sum(axis=0), 1)
        mean = np.where(near, rows, 0).sum(axis=0, dtype=np.float64) / count
        squares = np.where(near, np.square(rows - mean), 0).sum(axis=0) / count
        return cls._of(
            mean, np.where(robust.constant, 0, np.maximum(np.sqrt(squares), LEAST_SHARE * robust.spread)), BEND
        )

    @classmethod
    def _of(cls, mean: Doubles, spread: Doubles, bend: float) -> Scaling:
        size = np.abs(mean)
        constant = spread <= _RESOLUTION * size
        spread = np.where(constant, CONSTANT_SPREAD * size, spread)
        return cls(mean, np.where(spread > 0, np.maximum(spread, _LEAST), _OF_ZEROS), constant, bend)

    def scale(self, rows: Floats) -> Floats:
        """Rows, [n, F] in physical units, in compressed spreads, float32."""
        return compress((rows - self.mean) / self.spread, self.bend).astype(np.float32)


def compress(z: Doubles, bend: float) -> Doubles:
    """Keeps the middle and takes the logarithm of the rest, smoothly and without a limit: 45 spreads become 14."""
    return np.asarray(bend * np.arcsinh(np.clip(z / bend, -FARTHEST, FARTHEST)))


def _robust(values: Doubles) -> tuple[float, float]:
    """Median and spread of one feature; 0: it never changes, or too rarely to say by how much."""
    levels = np.array([0.5 + side * share / 2 for share, _ in (*_RANGES, *_WIDER) for side in (-1, 1)])
    centre, *ends = np.quantile(values, [0.5, *levels]).tolist()
    widths = [
        (high - low) / deviations
        for low, high, (_, deviations) in zip(ends[::2], ends[1::2], (*_RANGES, *_WIDER), strict=True)
    ]
    widest = max(widths[: len(_RANGES) - 1])
    if not 0 < LEAP * widest < widths[len(_RANGES) - 1]:  # such a leap is made by outliers: the range ends among them
        widest = max(widths[: len(_RANGES)])
    for spread in (widest, *widths[len(_RANGES) :]):
        if spread > 0:
            return centre, spread
    moved = np.abs(values - centre)
    moved = moved[moved > 0]
    return centre, float(np.median(moved)) if len(moved) >= _FEW else 0.0
