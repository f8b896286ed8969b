"""Tail probabilities as a kind of model: the rarer the values of a row, the stranger it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import UserError
from model.arrays import check_arrays, read_arrays
from model.kinds.kept import fit_kept
from model.kinds.protocol import FittedModel, ModelKind, Scorer, Scores, Training
from model.kinds.tail_probability.rates import fit_rate, rate_heights
from model.kinds.tail_probability.settings import TailSettings
from model.kinds.tails import Tails
from model.rows import Floats

FILE_NAME = "tails.npz"


@dataclass(frozen=True)
class TailScorer(Scorer):
    """The root of the sum of the squares of -log of each input's tail probability; nothing in it is left to chance."""

    inputs: NDArray[np.int64]  # [k], columns with a curve
    tails: Tails  # k curves
    rates: NDArray[np.int64]  # [r, 2], columns of events and of their trials
    laws: NDArray[np.float64]  # [r, 2], alpha and beta

    def score(self, x: Floats) -> Floats:
        return self._score(self.heights(x))

    def explain(self, x: Floats) -> Scores:
        """With how rare each input is; expected is the median or, of events, the mean of so many trials."""
        heights, columns = self.heights(x), self.columns
        error, (expected, rarity) = np.zeros(x.shape, np.float32), np.full((2, *x.shape), np.nan)
        error[:, columns] = np.square(heights).T
        rarity[:, columns] = np.exp(-heights.astype(np.float64)).T
        expected[:, self.inputs] = self.tails.medians
        shares = self.laws[:, 0] / self.laws.sum(axis=1)
        expected[:, self.rates[:, 0]] = x[:, self.rates[:, 1]] * shares
        return Scores(self._score(heights), expected.astype(np.float32), error, rarity.astype(np.float32))

    @property
    def columns(self) -> list[int]:
        """Of the inputs and of the events, which ``heights`` are of: [k + r]."""
        return [*self.inputs.tolist(), *self.rates[:, 0].tolist()]

    def heights(self, x: Floats) -> Floats:
        """-log of the tail probabilities, [k + r, n]."""
        columns = np.ascontiguousarray(x.T, np.float32)
        found = np.empty((len(self.inputs) + len(self.rates), len(x)), np.float32)
        found[: len(self.inputs)] = self.tails.heights_of([columns[i] for i in self.inputs.tolist()])
        for out, (events, trials), (alpha, beta) in zip(
            found[len(self.inputs) :], self.rates.tolist(), self.laws.tolist(), strict=True
        ):
            rate_heights(columns[events], columns[trials], alpha, beta, out)
        return found

    @staticmethod
    def _score(heights: Floats) -> Floats:
        total = np.zeros(heights.shape[1], np.float32)
        for each in heights:  # one after the other: the same bits in every block
            total += each * each
        return np.sqrt(total)

    def save(self, folder: Path) -> None:
        """Writes ``tails.npz``."""
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _TYPES} | self.tails.arrays()
        np.savez(folder / FILE_NAME, **arrays)

    @classmethod
    def load(cls, folder: Path) -> TailScorer:
        """The counterpart of ``save``; UserError if the file can't be read."""
        path = folder / FILE_NAME
        try:
            arrays = read_arrays(path)
            check_arrays(arrays, _TYPES)
            inputs, rates, laws = (arrays[name] for name in _TYPES)
            if (laws <= 0).any():
                raise ValueError("a law is not above 0")
            return cls(inputs, Tails.of(arrays, len(inputs)), rates, laws)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} can't be read ({error}); train again") from error


_TYPES: dict[str, tuple[type[Any], tuple[str | int, ...]]] = {
    "inputs": (np.int64, ("k",)),
    "rates": (np.int64, ("r", 2)),
    "laws": (np.float64, ("r", 2)),
}


def learn_tails(own: TailSettings, features: Sequence[str], rows: Floats) -> TailScorer:
    """Curves and laws of rows, [n, F], of which no one looks whether they are outliers."""
    place = {name: i for i, name in enumerate(features)}
    of_rates = {name for pair in own.rates for name in pair}
    names = own.inputs or tuple(name for name in features if name not in of_rates)
    inputs = np.array([place[name] for name in names], np.int64)
    rates = np.array([[place[name] for name in pair] for pair in own.rates], np.int64).reshape(-1, 2)
    tails = Tails.fit([rows[:, i] for i in inputs.tolist()], [name not in own.only_more for name in names])
    laws = [fit_rate(rows[:, events], rows[:, trials]) for events, trials in rates.tolist()]
    return TailScorer(inputs, tails, rates, np.array(laws, np.float64).reshape(-1, 2))


class TailProbability:
    """Says how rare each value is; see docs/kinds.md."""

    settings = TailSettings
    modules = ()

    def fit(self, training: Training[TailSettings]) -> FittedModel:
        """Takes curves and laws of rows that are no outliers."""
        own, features = training.settings, training.features
        return fit_kept(training, lambda rows: learn_tails(own, features, rows), TailScorer.save)

    def load(self, folder: Path) -> Scorer:
        """What ``TailScorer.save`` wrote."""
        return TailScorer.load(folder)


KIND: ModelKind[TailSettings] = TailProbability()
