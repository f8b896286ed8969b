"""From an alert budget to a threshold.

An alert budget is the share of normal rows one is willing to be alerted about: 0.0001 is one in 10,000 rows. The
threshold is the (1 - budget) quantile of the scores of held-out normal rows. Where at least COUNTED_ROWS of them lie
above it, it is counted: an order statistic, above which the budget is expected whatever the distribution. Beyond, a
tail fitted to the largest scores extends the sample (pareto.py). A smaller budget never gives a smaller threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import UserError
from model.alert_rate import ThresholdFit, binomial_interval
from model.arrays import read_arrays
from model.outliers.cut import Cut, floor_of, spread_ties
from model.training.pareto import TAIL_ROWS, Tail

COUNTED_ROWS = 20  # above a threshold at least, for counting them
MIN_ROWS = 50  # fewer scores say nothing about a tail
SCORES_FILE = "scores.npz"  # in a version's folder: ScoreDistribution.save

_EXACT_ROWS = 10_000  # of the largest scores that are kept one by one, or a tenth of all
_BODY_LEVELS = np.linspace(0, 1, 901)  # of the quantiles that are kept of the others
_LEVELS = np.concatenate(
    [np.linspace(0, 0.9, 19), [0.95, 0.99, 0.995], 1 - np.logspace(-3, -7, 13)]
)  # of the stored quantiles; the last ones are far in the tail, where alerts are


@dataclass(frozen=True)
class ScoreDistribution:
    """Distribution of the scores of normal rows: order statistics, and a generalised Pareto tail beyond them."""

    rows: int
    floor: float  # the tail begins above it: cut.floor_of
    body: NDArray[np.float64]  # [901], quantiles at even levels from 0 to 1
    top: NDArray[np.float64]  # [m], the largest scores, descending; all of them where there are few
    design_effect: float = 1.0  # rows of the sample that say as much as one independent row: those of a key are alike

    @classmethod
    def fit(cls, scores: NDArray[Any], keys: NDArray[Any] | None = None) -> ScoreDistribution:
        """Fits the scores of normal rows.

        Args:
          scores: float [n].
          keys: [n], whose row it is; None: rows are independent.

        Raises:
          UserError: fewer than MIN_ROWS scores are finite.
        """
        finite = np.isfinite(scores)
        values = np.sort(scores[finite].astype(np.float64))
        cls.check(len(values))
        top = values[-max(_EXACT_ROWS, len(values) // 10) :][::-1]
        high = scores[finite] > top[min(TAIL_ROWS, len(values) // 10)]
        effect = 1.0 if keys is None else _design_effect(high, keys[finite])
        return cls(len(values), floor_of(values), np.quantile(values, _BODY_LEVELS), top, effect)

    @staticmethod
    def check(rows: int) -> None:
        """UserError if so many scores are too few."""
        if rows < MIN_ROWS:
            raise UserError(
                f"the threshold needs at least {MIN_ROWS} normal held-out rows and there are {rows}: "
                "train on more data or raise --validation_fraction"
            )

    def save(self, path: Path) -> None:
        """Writes what ``load`` reads: at most 4 bytes for each of a tenth of the rows, or 40 kB."""
        top = self.top.astype(np.float32)
        exact = top if np.array_equal(top, self.top) else self.top
        np.savez(path, rows=self.rows, floor=self.floor, body=self.body, top=exact, design_effect=self.design_effect)

    @classmethod
    def load(cls, path: Path) -> ScoreDistribution:
        """Raises OSError or ValueError for a file that was not written by ``save``."""
        try:
            file = read_arrays(path)
            body, top = file["body"].astype(np.float64), file["top"].astype(np.float64)
            return cls(int(file["rows"]), float(file["floor"]), body, top, float(file["design_effect"]))
        except (KeyError, TypeError) as error:
            raise ValueError(str(error)) from error

    def quantile(self, level: float) -> float:
        """The score that a share of 1 - ``level`` of normal rows is expected to exceed; 0 <= level < 1."""
        above = (1 - level) * (self.rows + 1)  # the share above the i-th largest of n scores is i / (n + 1), on average
        counted = min(COUNTED_ROWS, self._tail.count)
        if above >= counted or self._tail.scale == 0:
            return self._order_statistic(above)
        return max(self._tail.score(above), self._order_statistic(counted))

    def _order_statistic(self, above: float) -> float:
        if above >= self.rows:
            return float(self.body[0])
        if above > len(self.top):
            return min(float(np.interp(1 - above / self.rows, _BODY_LEVELS, self.body)), float(self.top[-1]))
        return float(np.interp(above, np.arange(1, len(self.top) + 1), self._spread))

    @cached_property
    def _spread(self) -> NDArray[np.float64]:
        """``top`` as it would be without rounding."""
        tail = int(np.sum(self.top > self.floor))
        spread = np.concatenate([spread_ties(self.top[:tail]), self.top[tail:]])
        return np.maximum(spread, max(self.floor, self.top[-1]) if tail else self.top[-1])

    @cached_property
    def _tail(self) -> Tail:
        return Tail.fit(self._spread[self._spread > self.floor], self.rows)

    def threshold(self, alert_budget: float) -> float:
        """The score above which a share of ``alert_budget`` (0..1, exclusive) of normal rows is expected."""
        if not 0 < alert_budget < 1:
            raise UserError(f"--alert_budget {alert_budget} is not a share between 0 and 1, such as 0.0001")
        return self.quantile(1 - alert_budget)

    def fit_threshold(self, alert_budget: float, cut: Cut) -> ThresholdFit:
        """The threshold, and what it is expected to do.

        Args:
          alert_budget: share of normal rows, 0..1, exclusive.
          cut: where outliers begin; they are not among the scores that were fitted.
        """
        threshold, above = self.threshold(alert_budget), alert_budget * (self.rows + 1)
        counted = above >= min(COUNTED_ROWS, self._tail.count) or self._tail.scale == 0
        expected = self._with_ties(threshold, above, counted)
        share = alert_budget if expected == above else expected / self.rows
        if counted:
            low, high = binomial_interval(round(share * self.rows), self.rows)
            how = f"counted: {int(np.sum(self.top > threshold)):,} of {self.rows:,} held-out rows lie above it"
        else:
            low, high = self._tail.interval(expected)
            how = f"a Pareto tail fitted to the {self._tail.count} highest of {self.rows:,} held-out rows"
        low, high = (
            (share * (end / share) ** np.sqrt(self.design_effect) for end in (low, high)) if share else (low, high)
        )
        if self.design_effect > 1.1:
            how += f", which say as much as {self.rows / self.design_effect:,.0f} independent ones"
        # Rows above the cut that were kept, since they are normal, take the limit of what is normal along.
        limit = max(cut.score, float(self.top[0])) if np.isfinite(cut.score) else None
        return ThresholdFit(
            threshold=threshold,
            alert_budget=alert_budget,
            share=share,
            low=float(low),
            high=float(min(high, 1)),
            how=how,
            rows=self.rows,
            design_effect=self.design_effect,
            cut=limit,
            left_out=cut.share,
            doubt=cut.doubt,
        )

    def _with_ties(self, threshold: float, above: float, counted: bool) -> float:
        """Rows expected above a threshold when all rows of a step are, or none; ``above`` where nothing ties."""
        there = int(np.sum(self.top > threshold))
        if there in (0, len(self.top)):
            return above
        higher, lower = float(self.top[there - 1]), float(self.top[there])
        if counted:
            return float(there) if abs(there - above) > 1 else above
        if np.sum(self.top == higher) == np.sum(self.top == lower) == 1:
            return above
        return self._tail.above((higher + lower) / 2)

    def quantiles(self) -> tuple[tuple[float, float], ...]:
        """(level, score) pairs, both ascending, up to 1 in 10 million: for ``Manifest.percentile``."""
        scores = np.maximum.accumulate([self.quantile(float(level)) for level in _LEVELS])
        return tuple(zip(_LEVELS.tolist(), scores.tolist(), strict=True))


def _design_effect(high: NDArray[np.bool_], keys: NDArray[Any]) -> float:
    """How many times the share of high scores varies as much as with independent rows; at least 1 (Kish 1965)."""
    _, codes, rows = np.unique(keys, return_inverse=True, return_counts=True)
    share = float(high.mean())
    if len(rows) < 2 or not 0 < share < 1:
        return 1.0
    excess = np.bincount(codes, high) - share * rows
    variance = len(rows) / (len(rows) - 1) * float(np.sum(excess**2))
    return max(1.0, variance / (len(high) * share * (1 - share)))
