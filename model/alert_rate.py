"""What a threshold promises, and whether rows it has not seen keep to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Z = 1.96  # of 95 % intervals


@dataclass(frozen=True)
class AlertRate:
    """Share of some normal rows that a threshold alerts on."""

    rows: int
    share: float
    low: float  # 95 % interval of the share among all such rows
    high: float
    outliers: int  # further rows, above the cut, that are not counted
    warning: str  # "" or a sentence: the budget is not kept, or that cannot be told

    def __str__(self) -> str:
        outliers = f"; {self.outliers:,} outliers not counted" if self.outliers else ""
        return f"{self.share:.3g} ({self.low:.3g} to {self.high:.3g}) of {self.rows:,} rows{outliers}"


@dataclass(frozen=True)
class ThresholdFit:
    """A threshold, and the share of normal rows it is expected to alert on."""

    threshold: float  # scores above it are alerts
    alert_budget: float  # the share that was asked for
    share: float  # the share that is expected: the budget, unless many rows have the same score
    low: float  # 95 % interval of the share
    high: float
    how: str  # what the interval rests on
    rows: int  # held-out rows that are no outliers
    design_effect: float  # rows that say as much as one independent row, since those of a key are alike
    cut: float | None  # rows with a higher score are outliers, which are not counted; None: there are none
    left_out: float  # share of the rows above the cut, of those it was found in
    doubt: str  # "" or a sentence: why the share cannot be told

    def __str__(self) -> str:
        if self.doubt:
            return f"no telling which share of normal rows it alerts on: {self.doubt}"
        asked = "" if self.low <= self.alert_budget <= self.high else f", not {self.alert_budget:g}, since scores tie"
        share = f"{self.share:.3g} ({self.low:.3g} to {self.high:.3g})"
        return f"expected to alert on {share} of normal rows{asked}; {self.how}"

    def compare(self, scores: NDArray[np.floating[Any]]) -> AlertRate:
        """Counts alerts among the scores of rows that were not looked at before, normal as far as anyone knows, [n]."""
        normal = scores if self.cut is None else scores[scores <= self.cut]
        rows, alerts = len(normal), int(np.sum(normal > self.threshold))
        low, high = binomial_interval(alerts / self.design_effect, rows / self.design_effect)
        warning = ""
        if self.doubt:
            warning = f"whether the alert budget of {self.alert_budget:g} is kept cannot be told: {self.doubt}"
        elif not low <= self.alert_budget <= high:
            warning = (
                f"{alerts / rows:.3g} ({low:.3g} to {high:.3g}) of the test rows are alerts, the alert budget is "
                f"{self.alert_budget:g}: test and validation rows differ, or there are too few of them"
            )
        share = alerts / rows if rows else 0.0
        return AlertRate(rows, share, low, high, len(scores) - rows, warning)


def binomial_interval(hits: float, rows: float) -> tuple[float, float]:
    """95 % interval of a share of which ``hits`` of ``rows`` are known (Wilson 1927); 0 to 1 without rows."""
    if rows == 0:
        return 0.0, 1.0
    share, spread = hits / rows, _Z**2 / rows
    centre = (share + spread / 2) / (1 + spread)
    reach = _Z / (1 + spread) * float(np.sqrt(share * (1 - share) / rows + spread / (4 * rows)))
    return (0.0 if hits == 0 else centre - reach), (1.0 if hits == rows else centre + reach)
