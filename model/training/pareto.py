"""The tail of a sample of scores, beyond what can be counted.

Logarithms of the scores over a high one follow a generalised Pareto distribution (Pickands 1975; Balkema and de Haan
1974; "peaks over threshold"), fitted by probability-weighted moments (Hosking and Wallis 1987): a closed form, steadier
than maximum likelihood for a hundred rows. Logarithms, since scores are squares of heavy-tailed errors: then the shape
is near 0, and it is drawn there as if PRIOR_ROWS rows had said so (a prior on it, as in Martins and Stedinger 2000).
Where a gap parts the largest scores from the others, those above it alone are the tail: a rare state has its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.outliers.cut import widest_gap

TAIL_ROWS = 120  # the largest scores, to which the tail is fitted
TAIL_SHARE = 0.1  # of all rows at most
LEAST_ROWS = 20  # even where that is more than TAIL_SHARE
FEWEST_ROWS = 5  # above where the scores begin: fewer are no tail
PRIOR_ROWS = 50  # that say the shape is 0

_SPAN = 1e6  # scores so many times smaller than the largest are no part of their tail
_LARGEST = 709.0  # logarithm of a float64
_DRAWS = 1000  # of the simulated interval


@dataclass(frozen=True)
class Tail:
    """A generalised Pareto distribution of the logarithms of the largest scores."""

    rows: int  # of the whole sample
    count: int  # of them in the tail; 0: there is none
    start: float  # score where the tail begins
    scale: float  # of the logarithms; 0: no spread
    shape: float  # of them: > 0 heavier than a power, 0 a power of the score, < 0 lighter

    @classmethod
    def fit(cls, top: NDArray[np.float64], rows: int) -> Tail:
        """Fits the largest of ``rows`` scores, [m], positive and descending: all that are above where scores begin."""
        top = top[top > top[:FEWEST_ROWS].min(initial=np.inf) / _SPAN]
        count = min(TAIL_ROWS, max(int(rows * TAIL_SHARE), LEAST_ROWS), len(top) // 2)
        if count < FEWEST_ROWS:
            return cls(rows, 0, 0.0, 0.0, 0.0)
        above = widest_gap(np.log(top), count)
        if (
            above > LEAST_ROWS
        ):  # a rare state: its scores have a tail of their own, and the gap below it is part of none
            count = min(count, above // 2)
        excesses = np.log(top[count - 1 :: -1]) - np.log(top[count])
        scale, shape = _moments(excesses[None])
        return cls(rows, count, float(top[count]), float(scale[0]), float(shape[0]))

    def score(self, above: float) -> float:
        """The score that as many of the sample's rows are expected to exceed: 0 < above <= count."""
        logarithm = np.log(self.start) + float(_excess(np.array(above / self.count), self.scale, self.shape))
        return float(np.exp(min(logarithm, _LARGEST)))

    def above(self, score: float) -> float:
        """Rows of the sample that are expected to exceed a score: the inverse of ``score``."""
        excess = np.array(np.log(score / self.start))
        return self.count * float(_beyond(excess, self.scale, self.shape))

    def interval(self, above: float) -> tuple[float, float]:
        """95 % of the shares of rows that exceed ``score(above)`` of samples like this one, drawn and fitted again."""
        random = np.random.default_rng(0)
        drawn = np.sort(random.random((_DRAWS, self.count)), axis=1)[:, ::-1]
        scales, shapes = _moments(_excess(drawn, self.scale, self.shape), prior=self.shape)
        excesses = _excess(np.full(_DRAWS, above / self.count), scales, shapes)
        starts = random.beta(self.count, self.rows + 1 - self.count, _DRAWS)
        low, high = np.quantile(starts * _beyond(excesses, self.scale, self.shape), [0.025, 0.975])
        return float(low), float(high)


def _moments(excesses: NDArray[np.float64], prior: float = 0.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scales and shapes of samples, [samples, n] each ascending; PRIOR_ROWS rows say that the shape is ``prior``."""
    n = excesses.shape[1]
    mean = excesses.mean(axis=1)
    # The moment weighted by the share of larger excesses, with Hosking and Wallis' plotting positions.
    weighted = (excesses * (1 - (np.arange(1, n + 1) - 0.35) / n)).mean(axis=1)
    rest = mean - 2 * weighted
    raw = 2 - mean / np.where(rest > 0, rest, np.inf)
    shape = (np.where(rest > 0, np.clip(raw, -1.5, 0.9), prior) * n + prior * PRIOR_ROWS) / (n + PRIOR_ROWS)
    return mean * (1 - shape), shape


def _excess(
    beyond: NDArray[np.float64], scale: NDArray[np.float64] | float, shape: NDArray[np.float64] | float
) -> NDArray[np.float64]:
    """Logarithms that a share ``beyond`` of the tail's rows exceeds."""
    shape = np.where(np.abs(shape) < 1e-6, 1e-6, shape)
    return np.asarray(scale / shape * (beyond**-shape - 1))


def _beyond(excess: NDArray[np.float64], scale: float, shape: float) -> NDArray[np.float64]:
    """Shares of the tail's rows that exceed logarithms."""
    shape = 1e-6 if abs(shape) < 1e-6 else shape
    return np.asarray(np.maximum(1 + shape * excess / max(scale, 1e-300), 0) ** (-1 / shape))
