"""A logistic regression as a kind of model: of how rare each value is, and of the square of that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import UserError
from model.arrays import check_arrays, read_arrays
from model.kinds.labelled import rows_to_learn
from model.kinds.logistic_regression.settings import LogisticSettings
from model.kinds.protocol import FittedModel, Judged, ModelKind, Scorer, Scores, Training
from model.kinds.tail_probability.kind import TailScorer, learn_tails
from model.rows import Floats

FILE_NAME = "logistic_regression.npz"


@dataclass(frozen=True)
class LogisticScorer(Scorer):
    """-log of the chance that a row is none of the failures.

    The log odds are bias + the sum over inputs of w h + v h², with h the -log tail probability, no larger than the
    largest that was learnt from.
    """

    tails: TailScorer
    most: NDArray[np.float32]  # [k], largest heights
    weights: NDArray[np.float32]  # [k, 2], w and v
    bias: NDArray[np.float32]  # [1]

    def score(self, x: Floats) -> Floats:
        return self._surprise(self._parts(self._heights(x)))

    def explain(self, x: Floats) -> Scores:
        """Shares are what speaks for a failure; expected values and how rare they are, as the tails say it."""
        parts, said = self._parts(self._heights(x)), self.tails.explain(x)
        error = np.zeros(x.shape, np.float32)
        error[:, self.tails.columns] = np.maximum(parts, 0).T
        return Scores(self._surprise(parts), said.expected, error, said.rarity)

    def _heights(self, x: Floats) -> Floats:
        return np.minimum(self.tails.heights(x), self.most[:, None])

    def _parts(self, heights: Floats) -> Floats:
        """What each input adds to the log odds, [k, n]."""
        return (self.weights[:, :1] + self.weights[:, 1:] * heights) * heights

    def _surprise(self, parts: Floats) -> Floats:
        odds = np.full(parts.shape[1], self.bias[0], np.float32)
        for each in parts:  # one after the other: the same bits in every block
            odds += each
        return np.logaddexp(np.float32(0), odds)

    def save(self, folder: Path) -> None:
        """Writes ``logistic_regression.npz``, and the tails beside it."""
        self.tails.save(folder)
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _TYPES}
        np.savez(folder / FILE_NAME, **arrays)

    @classmethod
    def load(cls, folder: Path) -> LogisticScorer:
        """The counterpart of ``save``; UserError if a file can't be read."""
        tails, path = TailScorer.load(folder), folder / FILE_NAME
        try:
            arrays = read_arrays(path)
            check_arrays(arrays, _TYPES, {"k": len(tails.columns)})
            return cls(tails, *(arrays[name] for name in _TYPES))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} can't be read ({error}); train again") from error


_TYPES: dict[str, tuple[type[Any], tuple[str | int, ...]]] = {
    "most": (np.float32, ("k",)),
    "weights": (np.float32, ("k", 2)),
    "bias": (np.float32, (1,)),
}


class LogisticRegression:
    """Says how likely a failure is by how rare values are; see docs/kinds.md."""

    settings = LogisticSettings
    modules = ("sklearn",)

    def fit(self, training: Training[LogisticSettings]) -> FittedModel:
        """Learns from rows and their labels; UserError if none is a failure."""
        from sklearn import linear_model

        own, train = training.settings, training.train
        x, failed = rows_to_learn(training, "logistic_regression")
        training.progress("fitting", 0, 1, "")
        tails = learn_tails(own, training.features, x[~failed])
        heights = tails.heights(x)
        most = heights.max(axis=1)
        inputs = np.concatenate([heights, np.square(heights)]).T.astype(np.float64)
        middle, spread = inputs.mean(axis=0), np.maximum(inputs.std(axis=0), np.finfo(np.float32).tiny)
        inputs -= middle
        inputs /= spread
        found = linear_model.LogisticRegression(C=own.strength, max_iter=3000).fit(inputs, failed)
        weights = found.coef_[0] / spread
        bias = found.intercept_[0] - float(weights @ middle)
        scorer = LogisticScorer(
            tails,
            most.astype(np.float32),
            np.ascontiguousarray(weights.reshape(2, -1).T, np.float32),
            np.array([bias], np.float32),
        )
        training.progress("fitting", 1, 1, "")
        return FittedModel(scorer, scorer.save, Judged.kept(scorer, train), Judged.kept(scorer, training.validation))

    def load(self, folder: Path) -> Scorer:
        """What ``LogisticScorer.save`` wrote."""
        return LogisticScorer.load(folder)


KIND: ModelKind[LogisticSettings] = LogisticRegression()
