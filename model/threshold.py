"""From an alert budget to a threshold.

An alert budget is the share of normal rows one is willing to be alerted about: 0.0001 is one in 10,000 rows. The
threshold is the (1 - budget) quantile of the scores of held-out normal rows. With 20,000 such rows that quantile rests
on two rows, so the tail is modelled instead of counted: the excesses over a high score follow a generalised Pareto
distribution (Pickands 1975; Balkema and de Haan 1974; "peaks over threshold", as in Siffer et al., "Anomaly detection
in streams with extreme value theory", KDD 2017). Its two parameters come from probability-weighted moments (Hosking
and Wallis 1987), which have a closed form and are steadier than maximum likelihood for a few hundred excesses.

Where more than TAIL_ROWS rows are above it, a quantile is a plain order statistic; both parts meet where the tail
begins, so a smaller budget never gives a smaller threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import UserError

TAIL_ROWS = 250  # the largest scores, to which the tail is fitted: enough for two parameters, still far out
TAIL_SHARE = 0.1  # of all rows at most, when there are few
MIN_ROWS = 50  # fewer scores say nothing about a tail

_LEVELS = np.concatenate(
    [np.linspace(0, 0.9, 19), [0.95, 0.99, 0.995], 1 - np.logspace(-3, -7, 13)]
)  # of the stored quantiles; the last ones are far in the tail, where alerts are


@dataclass(frozen=True)
class ScoreDistribution:
    """Distribution of the scores of normal rows: order statistics, and a generalised Pareto tail beyond them."""

    sorted_scores: NDArray[np.float64]  # [n], ascending
    tail_share: float  # share of rows in the tail
    tail_start: float  # score where the tail begins
    scale: float  # of the generalised Pareto distribution, in units of the score; 0 = no spread
    shape: float  # of it: > 0 heavy, 0 exponential, < 0 bounded

    @classmethod
    def fit(cls, scores: NDArray[Any]) -> ScoreDistribution:
        """Fits the scores of normal rows, float [n]; UserError with fewer than MIN_ROWS finite ones."""
        values = np.sort(scores[np.isfinite(scores)].astype(np.float64))
        cls.check(len(values))
        count = min(TAIL_ROWS, int(len(values) * TAIL_SHARE))
        tail_share = count / len(values)
        start = float(np.quantile(values, 1 - tail_share))
        scale, shape = _fit_pareto(values[-count:] - start)
        return cls(values, tail_share, start, scale, shape)

    @staticmethod
    def check(rows: int) -> None:
        """UserError if so many scores are too few."""
        if rows < MIN_ROWS:
            raise UserError(
                f"the threshold needs at least {MIN_ROWS} normal held-out rows and there are {rows}: "
                "train on more data or raise --validation_fraction"
            )

    def quantile(self, level: float) -> float:
        """The score that a share of 1 - ``level`` of normal rows exceeds; 0 <= level < 1."""
        beyond = 1 - level
        if beyond >= self.tail_share or self.scale == 0:
            return float(np.quantile(self.sorted_scores, level))
        ratio = beyond / self.tail_share
        if abs(self.shape) < 1e-9:
            return self.tail_start - self.scale * float(np.log(ratio))
        return self.tail_start + self.scale / self.shape * (ratio**-self.shape - 1)

    def threshold(self, alert_budget: float) -> float:
        """The score above which a share of ``alert_budget`` (0..1, exclusive) of normal rows is expected."""
        if not 0 < alert_budget < 1:
            raise UserError(f"--alert_budget {alert_budget} is not a share between 0 and 1, such as 0.0001")
        return self.quantile(1 - alert_budget)

    def quantiles(self) -> tuple[tuple[float, float], ...]:
        """(level, score) pairs, both ascending, up to 1 in 10 million: for ``Manifest.percentile``."""
        scores = np.maximum.accumulate([self.quantile(float(level)) for level in _LEVELS])
        return tuple(zip(_LEVELS.tolist(), scores.tolist(), strict=True))


def _fit_pareto(excesses: NDArray[np.float64]) -> tuple[float, float]:
    """Scale and shape of a generalised Pareto distribution by probability-weighted moments; excesses ascending."""
    n = len(excesses)
    mean = float(excesses.mean())
    if mean <= 0:
        return 0.0, 0.0
    # The moment weighted by the share of larger excesses, with Hosking and Wallis' plotting positions.
    weighted = float((excesses * (1 - (np.arange(1, n + 1) - 0.35) / n)).mean())
    if mean <= 2 * weighted:
        return mean, 0.0
    # Tails of scores are rarely wilder than this; a fit to 250 rows sometimes is.
    shape = float(np.clip(2 - mean / (mean - 2 * weighted), -1.0, 0.5))
    return mean * (1 - shape), shape
