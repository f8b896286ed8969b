"""The product's training on arrays: no files, no registry, no report, the same network and threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model import autoencoder, tf
from model.autoencoder import NetworkConfig
from model.network import Scores
from model.rows import Floats
from model.threshold import ScoreDistribution

Keys = NDArray[np.uint64]
Bools = NDArray[np.bool_]

BLOCK = 65_536  # rows scored at a time


@dataclass(frozen=True)
class Detector:
    """A trained network, the threshold's distribution, and what training said about its rows."""

    network: Any  # keras.Model, as the product exports it
    normal: Floats  # scores of the validation rows that count as normal
    left_out: float  # share of the training rows, 0..1
    doubt: str  # why it cannot tell outliers from the tail; "": it can

    def explain(self, x: NDArray[Any]) -> Scores:
        """What it says of rows, [n, F] in physical units."""
        rows = np.asarray(x, np.float32)
        parts = [self.network(rows[i : i + BLOCK], training=False) for i in range(0, len(rows), BLOCK)]
        return Scores(*(np.concatenate([np.asarray(p[name]) for p in parts]) for name in Scores.__annotations__))

    def score(self, x: NDArray[Any]) -> Floats:
        """Scores of rows, [n, F] to float32 [n]."""
        return self.explain(x).score

    def threshold(self, budget: float) -> float:
        """The score above which a share of ``budget`` of normal rows is expected."""
        return ScoreDistribution.fit(self.normal).threshold(budget)


def train_on(
    train: NDArray[Any],
    train_keys: Keys,
    validation: NDArray[Any],
    validation_keys: Keys,
    config: NetworkConfig,
    seed: int,
) -> Detector:
    """Trains on rows nobody has labelled, [n, F] and [m, F], in random order.

    Raises:
      UserError: the training refuses such rows.
    """
    keras = tf.keras(threads=1)
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    rows, held_out = (np.ascontiguousarray(x, np.float32) for x in (train, validation))
    network = autoencoder.train(rows, held_out, config, [], seed).network
    scores = np.asarray(network(held_out, training=False)["score"])
    return Detector(network, scores, 0.0, "")
