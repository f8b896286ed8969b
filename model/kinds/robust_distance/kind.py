"""The robust Mahalanobis distance as a kind of model: how far a row lies from the middle, as features vary together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import UserError
from beam_jobs.jit import compiled
from model.arrays import check_arrays, read_arrays
from model.kinds.autoencoder.scaling import FARTHEST, Scaling
from model.kinds.kept import fit_kept
from model.kinds.protocol import FittedModel, ModelKind, Scorer, Scores, Training
from model.kinds.rules import Rules, check, is_number
from model.rows import Floats

Doubles = NDArray[np.float64]

FILE_NAME = "distance.npz"
STEPS = 20  # of leaving out the farthest, at most
TILE = 256  # rows that are worked on together


@dataclass(frozen=True)
class DistanceSettings:
    """Keys of the section ``model`` of a use case; ValueError, naming the field, for a value that won't do."""

    trim: float = 0.1  # share of the rows, the farthest, that the covariance does not come from
    ridge: float = 1e-3  # squared spreads added to the variance of each feature: its own noise

    def __post_init__(self) -> None:
        check(self, _RULES)


_RULES: Rules = {
    "trim": (lambda x: is_number(x) and 0 <= x <= 0.5, "a share from 0 to 0.5"),
    "ridge": (lambda x: is_number(x) and 1e-9 <= x <= 1e6, "a number from 1e-9 to 1e6"),
}


@dataclass(frozen=True)
class DistanceScorer(Scorer):
    """The distance, in standard deviations."""

    centre: Doubles  # [F], physical units
    spread: Doubles  # [F], physical units
    precision: Doubles  # [F, F], inverse covariance of features in spreads; symmetric

    def score(self, x: Floats) -> Floats:
        """The root of the sum of the squares of what each feature adds to those before it."""
        of_rows = np.empty(len(x))
        products(self._scaled(x), self._root, of_rows, np.empty((0, 0)))
        return np.sqrt(of_rows).astype(np.float32)

    def explain(self, x: Floats) -> Scores:
        """With what the other features let expect of each, and how far off it is in spreads of that, squared."""
        away, scaled = np.empty((x.shape[1], len(x))), self._scaled(x)
        products(scaled, self.precision, np.empty(len(x)), away)
        own = np.diag(self.precision)[:, None]
        expected = (scaled - away / own) * self.spread[:, None] + self.centre[:, None]
        error = np.minimum(away * away / own, np.finfo(np.float32).max / x.shape[1])
        return Scores(self.score(x), _rows(expected), _rows(error))

    def _scaled(self, x: Floats) -> Doubles:
        scaled = (np.ascontiguousarray(x.T, np.float64) - self.centre[:, None]) / self.spread[:, None]
        return np.clip(scaled, -FARTHEST, FARTHEST)

    @cached_property
    def _root(self) -> Doubles:
        """[F, F]; its product with itself is the precision."""
        return np.ascontiguousarray(np.linalg.cholesky(self.precision).T)

    def save(self, folder: Path) -> None:
        """Writes ``distance.npz``."""
        np.savez(folder / FILE_NAME, centre=self.centre, spread=self.spread, precision=self.precision)

    @classmethod
    def load(cls, path: Path) -> DistanceScorer:
        """The counterpart of ``save``; UserError if the file can't be read."""
        try:
            arrays = read_arrays(path)
            check_arrays(arrays, _TYPES)
            made = cls(*(arrays[name] for name in _TYPES))
            if (made.spread <= 0).any() or not np.allclose(made.precision, made.precision.T):
                raise ValueError("a spread is not above 0, or the precision is not symmetric")
            made._root  # noqa: B018 - it is there from the start, or the file is refused
            return made
        except (OSError, ValueError, np.linalg.LinAlgError) as error:
            raise UserError(f"{path} can't be read ({error}); train again") from error


_TYPES: dict[str, tuple[type[Any], tuple[str | int, ...]]] = {
    "centre": (np.float64, ("f",)),
    "spread": (np.float64, ("f",)),
    "precision": (np.float64, ("f", "f")),
}


def _rows(columns: Doubles) -> Floats:
    return np.ascontiguousarray(columns.T, np.float32)


def learn(rows: Floats, trim: float, ridge: float) -> DistanceScorer:
    """Mean and covariance of the rows, [n, F], without the farthest (the C-steps of Rousseeuw and Van Driessen 1999).

    It begins at medians and robust spreads, which a tenth of wrong rows can't move, instead of at hundreds of random
    subsets: as good for the few outliers there are, and quick with any number of rows.
    """
    scaling = Scaling.robust(rows)
    z = np.clip((rows - scaling.mean) / scaling.spread, -FARTHEST, FARTHEST)
    count = max(2, round((1 - trim) * len(z)))
    distances, before = np.square(z).sum(axis=1), None
    for _ in range(STEPS):
        nearest = np.sort(np.argpartition(distances, count - 1)[:count])
        if before is not None and (nearest == before).all():
            break
        before, kept = nearest, z[nearest]
        mean = kept.mean(axis=0)
        covariance = (kept - mean).T @ (kept - mean) / count + ridge * np.eye(z.shape[1])
        precision = np.linalg.inv(covariance)
        away = z - mean
        distances = np.einsum("ni,ij,nj->n", away, precision, away, optimize=True)
    precision = (precision + precision.T) / 2
    return DistanceScorer(scaling.mean + mean * scaling.spread, scaling.spread, precision)


@compiled
def products(x: Doubles, matrix: Doubles, squares: Doubles, out: Doubles) -> None:
    """Products of a matrix, [F, F], with rows in columns, [F, n], into ``out``, [F, n] or [0, 0] for not wanted.

    Into ``squares``, [n], goes the sum of their squares.
    """
    features, n = x.shape
    wanted = out.shape[0] > 0
    total = np.empty(TILE)
    for start in range(0, n, TILE):
        rows = min(TILE, n - start)
        squares[start : start + rows] = 0
        for f in range(features):
            total[:rows] = 0
            for i in range(features):
                factor = matrix[f, i]
                for j in range(rows):
                    total[j] += factor * x[i, start + j]
            for j in range(rows):
                squares[start + j] += total[j] * total[j]
                if wanted:
                    out[f, start + j] = total[j]


class RobustDistance:
    """Says how far a row is from the middle; see docs/kinds.md."""

    settings = DistanceSettings
    modules = ()

    def fit(self, training: Training[DistanceSettings]) -> FittedModel:
        """Takes mean and covariance of rows that are no outliers."""
        own = training.settings
        return fit_kept(training, lambda rows: learn(rows, own.trim, own.ridge), DistanceScorer.save)

    def load(self, folder: Path) -> Scorer:
        """What ``DistanceScorer.save`` wrote."""
        return DistanceScorer.load(folder / FILE_NAME)


KIND: ModelKind[DistanceSettings] = RobustDistance()
