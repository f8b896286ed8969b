"""What the detector is compared with, on the same rows and at the same budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Score = Callable[[NDArray[Any]], Floats]  # rows [n, F] to scores [n], higher is stranger

ROWS = 3_000  # for the robust covariance: more rows change nothing but the time


def isolation_forest(train: NDArray[Any], seed: int) -> Score:
    """scikit-learn's, with its own defaults."""
    from sklearn.ensemble import IsolationForest  # takes seconds to import

    forest = IsolationForest(random_state=seed).fit(train)
    return lambda x: -np.asarray(forest.score_samples(x))


def mahalanobis(train: NDArray[Any], seed: int) -> Score:
    """Distance from the robust centre in units of the robust covariance (minimum covariance determinant).

    Features are standardised by their middle, with a thousandth of noise: half of the rows on one plane have no
    determinant.
    """
    from sklearn.covariance import MinCovDet

    rng = np.random.default_rng(seed)
    low, middle, high = np.quantile(train, (0.05, 0.5, 0.95), axis=0)
    spread = np.where(high > low, high - low, 1.0)
    some = (train[:ROWS] - middle) / spread
    fitted = MinCovDet(random_state=seed).fit(some + 1e-3 * rng.normal(size=some.shape))
    return lambda x: np.sqrt(fitted.mahalanobis((x - middle) / spread))


PEERS = {"iforest": isolation_forest, "mahalanobis": mahalanobis}


def threshold(validation: Floats, budget: float) -> float:
    """What a user of the peers takes: the quantile of the scores of all validation rows."""
    return float(np.quantile(validation, 1 - budget))
