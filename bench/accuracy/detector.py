"""The product's training on arrays: no files, no registry, no report, the same network and threshold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import UserError
from bench.accuracy.figures import Found
from model.kinds import tf
from model.kinds.autoencoder.fit import fit
from model.kinds.autoencoder.network import Network
from model.kinds.autoencoder.settings import NetworkConfig
from model.kinds.protocol import signed_deviations
from model.rows import Floats, Part
from model.training.distribution import ScoreDistribution

Keys = NDArray[np.uint64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Detector:
    """A trained network, the threshold's distribution, and what training said about its rows."""

    network: Network  # what jobs score with
    normal: Floats  # scores of the validation rows that count as normal
    left_out: Bools  # of the training rows
    doubt: str  # why it cannot tell outliers from the tail; "": it can

    def explain(self, x: NDArray[Any]) -> tuple[Floats, NDArray[np.int64]]:
        """The scores of rows, [n, F] in physical units, and the feature with the largest error of each; [n]."""
        said = self.network.explain(np.asarray(x, np.float32))
        return said.score, np.argmax(np.asarray(said.error), axis=1)

    def score(self, x: NDArray[Any]) -> Floats:
        """Scores of rows, [n, F] to float32 [n]."""
        return self.network.score(np.asarray(x, np.float32))

    def deviations(self, x: NDArray[Any]) -> Floats:
        """How far readings, [n, F], are from what was expected, in spreads of normal rows, with a sign; [n, F]."""
        return signed_deviations(self.network, np.asarray(x, np.float32))

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
    normal: Callable[[Floats], Bools] | None = None,
) -> Detector:
    """Trains on rows nobody has labelled, [n, F] and [m, F], in random order; ``normal``: what a person calls normal.

    Raises:
      UserError: the training refuses such rows.
    """
    keras = tf.keras(threads=1)
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    fitted = fit(_part(train, train_keys), _part(validation, validation_keys), config, seed, normal=normal)
    judged = fitted.validation
    usual = judged.scores[~judged.left_out]
    return Detector(fitted.compiled, usual, fitted.train.left_out, judged.cut.doubt)


def try_on(
    found: Found,
    train: NDArray[Any],
    train_keys: Keys,
    validation: NDArray[Any],
    validation_keys: Keys,
    config: NetworkConfig,
    seed: int,
) -> Detector | None:
    """``train_on``, with what it says of its rows among the figures; None: it refused them."""
    try:
        made = train_on(train, train_keys, validation, validation_keys, config, seed)
    except UserError as error:
        found.refused(str(error))
        return None
    found.said(made.doubt)
    found.add("left_out", made.left_out.mean())
    return made


def _part(x: NDArray[Any], keys: Keys) -> Part:
    return Part(np.ascontiguousarray(x, np.float32), keys, np.zeros(len(x), np.int64))
