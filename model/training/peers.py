"""Two detectors that need no network, judged on the same rows: is the model worth its trouble on this data?

Isolation forest (Liu, Ting and Zhou 2008) and the Mahalanobis distance by a robust covariance (minimum covariance
determinant, Rousseeuw and Van Driessen 1999), both scikit-learn's with its defaults. They learn from training rows as
they come, outliers among them, since that is what they are known to bear. Imported by training alone: no job that
scores needs scikit-learn.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs.errors import UserError, one_line
from model.rows import Floats, Matrix, slices
from model.training.distribution import ScoreDistribution
from model.training.evaluate import Evaluation, evaluate
from model.training.spool import Parts

Scores = NDArray[np.float64]
Scorer = Callable[[Floats], Scores]  # rows in physical units, [n, F], to scores, [n]: the stranger the higher

SCORED_ROWS = 200_000  # of validation and of test at most: a forest takes 2 s for so many
FOREST_ROWS = 20_000  # to learn from, at most
COVARIANCE_ROWS = 5_000  # the robust covariance takes 3 s for so many rows of 20 features
COVARIANCE_FEATURES = 64  # at most: 10 s
JITTER = 0.01  # spreads: a constant or a copied feature must not make the covariance singular
_FAR = 1e6  # spreads beyond which all is alike
_CHUNK = 1 << 16  # rows scored at a time


@dataclass(frozen=True)
class Peer:
    """How another detector did."""

    name: str
    evaluation: Evaluation | None  # on the test rows, SCORED_ROWS of them at most; None: it could not be fitted
    agreement: float | None  # share of the model's alerts among these that are its alerts too; None: no alerts
    reason: str  # why there is no evaluation, else ""


def judge(parts: Parts, scores: Floats, threshold: float, budget: float, seed: int) -> tuple[Peer, ...]:
    """Fits the peers to training rows, sets their thresholds by validation rows, and judges them by test rows.

    Args:
      scores, threshold: the model's, of all test rows.
      budget: share of normal rows that may be alerts.
    """
    return tuple(_judge(name, parts, scores > threshold, budget, seed) for name in FITS)


def fit(name: str, rows: Matrix, seed: int) -> Scorer:
    """Fits one of FITS to rows in random order, float32 [n, F], the first of them if they are many.

    Raises:
      ValueError: rows it cannot be fitted to; says why.
    """
    sample = rows[:FOREST_ROWS].astype(np.float64)
    sample = sample[np.isfinite(sample).all(axis=1)]
    if len(sample) < 2:
        raise ValueError(f"{len(sample)} training rows")
    centre = np.median(sample, axis=0)
    middle = np.quantile(sample, [0.05, 0.1, 0.25, 0.75, 0.9, 0.95], axis=0)
    widest = np.max((middle[:2:-1] - middle[:3]) / np.array([[3.29], [2.563], [1.349]]), axis=0)
    spread = np.where(widest > 0, widest, np.maximum(np.minimum(sample.std(axis=0), _FAR), 1e-6))

    def scale(x: Floats) -> Scores:
        scaled = np.clip((x.astype(np.float64) - centre) / spread, -_FAR, _FAR)
        return np.nan_to_num(scaled, nan=_FAR)

    score = FITS[name](scale(sample.astype(np.float32)), seed % (1 << 32))
    return lambda x: score(scale(x))


def _judge(name: str, parts: Parts, alerts: NDArray[np.bool_], budget: float, seed: int) -> Peer:
    try:
        score = fit(name, parts.train.x, seed)
        limit = ScoreDistribution.fit(_scores(score, parts.validation.x)).threshold(budget)
        scores = _scores(score, parts.test.x)
    except (ValueError, ArithmeticError, np.linalg.LinAlgError, UserError) as error:
        return Peer(name, None, None, one_line(error, 200))
    n = len(scores)
    found = evaluate(scores, limit, parts.failed[:n], parts.kinds[:n], pa.array(parts.test.keys[:n]))
    alerts = alerts[:n]
    return Peer(name, found, float((scores[alerts] > limit).mean()) if alerts.any() else None, "")


def _scores(score: Scorer, rows: Matrix) -> Scores:
    return np.concatenate([score(chunk) for chunk in slices(rows[:SCORED_ROWS], _CHUNK)])


def _forest(rows: Scores, seed: int) -> Callable[[Scores], Scores]:
    from sklearn.ensemble import IsolationForest

    forest = IsolationForest(random_state=seed).fit(rows)
    return lambda x: -forest.score_samples(x)


def _mahalanobis(rows: Scores, seed: int) -> Callable[[Scores], Scores]:
    from sklearn.covariance import MinCovDet

    rows = rows[:COVARIANCE_ROWS]
    n, features = rows.shape
    if n < 2 * features + 2:
        raise ValueError(f"{n} training rows say nothing about a covariance of {features} features")
    if features > COVARIANCE_FEATURES:
        raise ValueError(f"a robust covariance of {features} features, more than {COVARIANCE_FEATURES}, takes too long")
    rows = rows + np.random.default_rng(seed).normal(0, JITTER, rows.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of determinants that rise by rounding
        fitted = MinCovDet(random_state=seed).fit(rows)
    precision = np.linalg.pinv(fitted.covariance_, hermitian=True)

    def distance(x: Scores) -> Scores:
        away = x - fitted.location_
        return np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", away, precision, away, optimize=True), 0))

    return distance


FITS: Mapping[str, Callable[[Scores, int], Callable[[Scores], Scores]]] = {
    "isolation forest": _forest,
    "robust Mahalanobis": _mahalanobis,
}


def explain(peers: Sequence[Peer]) -> list[str]:
    """A sentence for each peer without figures."""
    return [f"{peer.name}: no figures, {peer.reason}" for peer in peers if peer.evaluation is None]
