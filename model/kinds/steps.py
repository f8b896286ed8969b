"""Features that come in steps, such as counts: blurred by half a step, no edge of a step is a gap in the scores.

Nine of ten cards have no payment in an hour, the others one or more: the scores of those lie apart, and are as normal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.rows import Floats

Doubles = NDArray[np.float64]

_TIED = 0.5  # share of the rows that have a value of others: less, and the feature has no steps
_SHARED = (
    0.002  # share of the rows that a gap parts from the others, at least, if it is to be a step: sentinels are fewer
)


@dataclass(frozen=True)
class _Feature:
    """The steps of a feature with k values, ascending, [k] each.

    Within a step the share of rows that lie further out falls like an exponential, so that no density breaks off at its
    edge: from ``more`` where it begins to ``less`` where it ends.
    """

    values: Doubles
    begins: Doubles  # where a step begins, seen from the median, and
    ends: Doubles  # where it ends
    more: Doubles  # share of the rows beyond where it begins, and
    less: Doubles  # beyond where it ends

    @classmethod
    def of(cls, column: Doubles) -> _Feature | None:
        """Of a sample, [n]; None if it has no steps."""
        values, counts = np.unique(column[np.isfinite(column)], return_counts=True)
        if len(values) < 2 or counts[counts > 1].sum() < _TIED * len(column):
            return None
        gaps = np.diff(values)
        above = np.cumsum(counts[::-1])[::-1] - counts
        below = np.cumsum(counts) - counts
        apart = np.minimum(above[:-1], below[1:])
        steps = gaps[apart >= max(2.0, _SHARED * len(column))]
        if not len(steps):
            return None
        reach = np.minimum(gaps, np.quantile(steps, 0.5, method="lower")) / 2
        down, up = np.append(reach[:1], reach), np.append(reach, reach[-1:])
        middle = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))
        upper = np.arange(len(values)) >= middle
        begins = np.where(upper, values - down, values + up)
        begins[middle] = values[middle]
        beyond = np.where(upper, above, below) + 0.5
        own = counts.astype(np.float64)
        return cls(values, begins, np.where(upper, values + up, values - down), beyond + own, beyond)

    def blurred(self, column: Doubles, rng: np.random.Generator) -> Doubles:
        """Values, [n], each anywhere in its step; those that the sample did not have stay."""
        at = np.minimum(np.searchsorted(self.values, column), len(self.values) - 1)
        more, less = self.more[at], self.less[at]
        place = np.log(more / rng.uniform(less, more)) / np.log(more / less)
        found = self.begins[at] + place * (self.ends - self.begins)[at]
        return np.where(self.values[at] == column, found, column)


@dataclass(frozen=True)
class Steps:
    """Those of each feature; None: it has none."""

    features: Sequence[_Feature | None]

    @classmethod
    def of(cls, rows: Floats) -> Steps:
        """Of a sample of rows, [n, F]."""
        return cls([_Feature.of(column.astype(np.float64)) for column in rows.T])

    def __bool__(self) -> bool:
        return any(self.features)

    def blurred(self, rows: Floats, rng: np.random.Generator) -> Floats:
        """Rows, [n, F], with each count anywhere in its step."""
        result = np.array(rows, np.float32)
        for j, feature in enumerate(self.features):
            if feature is not None:
                result[:, j] = feature.blurred(rows[:, j].astype(np.float64), rng)
        return result
