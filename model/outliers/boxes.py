"""Conditions that describe rows: a range for each of some features, as numbers and as SQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import ceil, floor, log10
from typing import Any

import numpy as np
import sqlglot
from numpy.typing import NDArray

from model.rows import Floats

MARGIN = 0.1  # of the way from the middle of a box's rows to the outermost: the next ones differ a little
STRAYS = (0.002, 0.005, 0.01, 0.02)  # of the rows, at either end of a range, that a box may do without
MAX_STRAYS = 0.03  # of the rows a box may leave outside
FEW = 0.001  # of the rows kept: that a box holds so many of them does no harm
MAX_MORE = 6  # columns added to those a box is about
_FINEST = 1e-5  # of a value's size; float32 tells apart 1e-7
_WHOLE = 1 << 24  # up to here float32 holds every whole number


@dataclass(frozen=True)
class Range:
    """Values of one feature, both ends included."""

    feature: int  # its column
    low: Decimal
    high: Decimal

    @classmethod
    def around(cls, feature: int, values: Floats, whole: bool = False) -> Range:
        """A range of round numbers that holds finite values, [n > 0], and a little more.

        Args:
          feature: the values' column.
          values: float32.
          whole: the feature has whole numbers only, so none between them is meant.
        """
        least, most = float(values.min()), float(values.max())
        if max(-least, most) < _WHOLE and (whole or least == most) and least.is_integer() and most.is_integer():
            return cls(feature, Decimal(int(least)), Decimal(int(most)))
        middle, least_width = float(np.median(values.astype(np.float64))), _FINEST * max(-least, most)
        low, high = middle - least, most - middle
        return cls(
            feature,
            -_beyond(-least, max(low, least_width)),
            _beyond(most, max(high, least_width)),
        )

    def holds(self, values: Floats) -> NDArray[np.bool_]:
        """Which of the values lie in it."""
        numbers = values.astype(np.float64)
        return (numbers >= float(self.low)) & (numbers <= float(self.high))

    def where(self, features: Sequence[str]) -> str:
        """The same as SQL."""
        name = identifier(features[self.feature])
        if self.low == self.high:
            return f"{name} = {_number(self.low)}"
        return f"{name} BETWEEN {_number(self.low)} AND {_number(self.high)}"


@dataclass(frozen=True)
class Box:
    """Rows whose features lie in all its ranges."""

    ranges: tuple[Range, ...]  # at least one

    @classmethod
    def around(cls, rows: Floats, kept: Floats, named: Sequence[int], whole: NDArray[np.bool_]) -> Box:
        """A box that holds the rows of a group, or nearly all of them, and few of the rows kept.

        Args:
          rows: finite, float32 [n > 0, F], to be held.
          kept: float32 [m, F], rows the box should not hold.
          named: columns the box is about; others are added while each keeps at least half of the kept rows out.
          whole: [F], which features have whole numbers only.
        """
        best, share = cls._around(rows, rows, kept, named, whole)
        for strays in STRAYS:
            if share <= FEW:
                break
            low, high = np.quantile(rows[:, named].astype(np.float64), [strays, 1 - strays], axis=0)
            core = rows[((rows[:, named] >= low) & (rows[:, named] <= high)).all(axis=1)]
            if not len(core):
                break
            box, held = cls._around(core, rows, kept, named, whole)
            if np.count_nonzero(box.holds(rows)) < (1 - MAX_STRAYS) * len(rows):
                break
            best, share = (box, held) if held < share else (best, share)
        return best

    @classmethod
    def _around(
        cls, core: Floats, rows: Floats, kept: Floats, named: Sequence[int], whole: NDArray[np.bool_]
    ) -> tuple[Box, float]:
        """The box of some core rows, and the share of the kept rows it holds."""
        ranges = [Range.around(j, core[:, j], bool(whole[j])) for j in named]
        inside = np.flatnonzero(cls(tuple(ranges)).holds(kept))
        others = {j: Range.around(j, core[:, j], bool(whole[j])) for j in range(rows.shape[1]) if j not in named}
        for _ in range(MAX_MORE):
            if not len(inside) or not others:
                break
            held = {j: np.count_nonzero(other.holds(kept[inside, j])) for j, other in others.items()}
            best = min(held, key=held.__getitem__)
            if 2 * held[best] > len(inside):
                break
            ranges.append(others.pop(best))
            inside = inside[ranges[-1].holds(kept[inside, best])]
        return cls(tuple(ranges)), len(inside) / max(1, len(kept))

    def holds(self, rows: Floats) -> NDArray[np.bool_]:
        """Which rows, float32 [n, F], lie in it."""
        first, *rest = self.ranges
        inside = first.holds(rows[:, first.feature])
        for each in rest:
            inside &= each.holds(rows[:, each.feature])
        return inside

    def where(self, features: Sequence[str]) -> str:
        """The condition as SQL over the features' names."""
        return " AND ".join(each.where(features) for each in self.ranges)


def _beyond(value: float, width: float) -> Decimal:
    """A round number a little above a value; the width says what is little."""
    step = Decimal(1).scaleb(floor(log10(width)) - 1)
    return ceil((Decimal(value) + Decimal(MARGIN * width)) / step) * step


def identifier(name: str) -> str:
    """A feature's name as SQL takes it: in double quotes where it would be read as something else."""
    try:
        tree: Any = sqlglot.parse_one(f"{name} BETWEEN 1 AND 2")
        plain = isinstance(tree, sqlglot.exp.Between) and isinstance(tree.this, sqlglot.exp.Column)
        if plain and tree.this.sql() == name and name.isidentifier():
            return name
    except sqlglot.errors.SqlglotError:
        pass
    return '"' + name.replace('"', '""') + '"'


def _number(value: Decimal) -> str:
    """Digits as a person writes them; with an exponent where that would be a row of zeros."""
    value = value.normalize()
    if value == 0:
        return "0"
    return f"{value:f}" if -7 < value.adjusted() < 15 else f"{value:e}"
