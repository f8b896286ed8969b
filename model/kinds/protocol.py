"""What a kind of model has to be able to do: learn from rows, be written and loaded, and score.

The smallest kind scores; a scorer may also explain its scores, with or without the values it expected. Who trains,
loads, checks, reports and writes alerts knows models through these types alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np

from model.outliers.cut import Cut
from model.rows import CHUNK_ROWS, Bools, Floats, Part, slices

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar("Settings", bound="DataclassInstance")


@dataclass(frozen=True)
class Scores:
    """What a model says of n rows."""

    score: Floats  # [n], 0 or more, higher is stranger; above the manifest's threshold: an alert
    expected: Floats | None = None  # [n, F], what a normal row would have shown, physical units; NaN: can't be said
    error: Floats | None = None  # [n, F], >= 0, each feature's part of the score; its share: error / error.sum(1)
    rarity: Floats | None = None  # [n, F], share of normal rows that show as much, 0..1; NaN: can't be said


class Scorer(Protocol):
    """A model in memory; several threads may call it. A row's score has the same bits in every block.

    What it raises decides what happens to a block (``beam_jobs.isolate``): ``BadRowsError`` names the rows to blame,
    ``RetryError`` says that none is.
    """

    def score(self, x: Floats) -> Floats:
        """Scores rows, float32 [n, F] in physical units, in any memory order, to float32 [n]; n may be 0."""
        ...

    def explain(self, x: Floats) -> Scores:
        """The same with reasons, for the few rows that need them; without, unless a kind has some."""
        return Scores(self.score(x))


def signed_deviations(scorer: Scorer, rows: Floats) -> Floats:
    """How far rows, [n, F], are from what was expected: the root of the error, with a sign.

    Raises:
      ValueError: the scorer does not say what it expected, or no error of each feature.
    """
    found = scorer.explain(rows)
    if found.error is None or found.expected is None:
        raise ValueError(f"{type(scorer).__name__} says neither what it expected nor by how much it was missed")
    deviations: Floats = np.copysign(np.sqrt(found.error), rows - found.expected)
    return deviations


@dataclass(frozen=True)
class Training(Generic[Settings]):
    """What a kind learns from, and how."""

    train: Part  # rows in physical units, in random order; some may be outliers that nobody has labelled
    validation: Part  # others, for stopping early and for the threshold
    features: tuple[str, ...]  # names of the columns
    settings: Settings  # the kind's own
    seed: int  # of everything random: a training repeats its results
    normal: Callable[[Floats], Bools] | None  # rows, [n, F], to those a person calls normal: never outliers; None: none
    logs: Path  # folder for the kind's own logs
    progress: Callable[[str, int, int, str], None]  # name of a step, how much of how many is done, a remark or ""


@dataclass(frozen=True)
class Judged:
    """The rows of one part, as the fitted model sees them."""

    scores: Floats  # [n]
    left_out: Bools  # [n], outliers: not learnt from, not counted for the threshold
    put_back: Bools  # [n], not left out, though they were at first: most keys show rows like them
    cut: Cut  # in the scores of training and validation rows together

    @classmethod
    def kept(cls, scorer: Scorer, part: Part) -> Judged:
        """For a kind that leaves no row out."""
        scores = np.concatenate([scorer.score(x) for x in slices(part.x, CHUNK_ROWS)])
        none = np.zeros(len(scores), np.bool_)
        return cls(scores, none, none, Cut(np.inf, 0.0, ""))


@dataclass(frozen=True)
class FittedModel:
    """A model, and its scores of the rows it was fitted to."""

    scorer: Scorer  # the model as it was trained: what it says of some rows becomes the golden vectors
    save: Callable[[Path], None]  # writes what ``ModelKind.load`` reads into a version's folder
    train: Judged
    validation: Judged
    loss: tuple[float, ...] = ()  # per epoch, for the report
    validation_loss: tuple[float, ...] = ()  # per epoch


def learns_from_labels(settings: Any) -> bool:
    """Whether a kind with such settings is to get rows labelled as failures."""
    return bool(getattr(settings, "labels", False))


def named_features(settings: Any) -> Sequence[tuple[str, str]]:
    """Fields of a kind's settings, and the features they name."""
    named: Sequence[tuple[str, str]] = getattr(settings, "named", ())
    return named


class ModelKind(Protocol[Settings]):
    """A kind of model."""

    @property
    def settings(self) -> type[Settings]:
        """A frozen dataclass of JSON's types, with defaults, that refuses wrong values with a ValueError.

        Its fields are keys of the section ``model`` in use_case.yaml; the error begins with the field's name. It may
        have attributes beside its fields: ``labels``, true if rows labelled as failures are to be among those it learns
        from, and ``named``, pairs of a field and a feature that it names.
        """
        ...

    @property
    def modules(self) -> tuple[str, ...]:
        """Modules that training needs and scoring does not; looked for before data is read, named in the manifest."""
        ...

    def fit(self, training: Training[Settings]) -> FittedModel:
        """Learns; UserError if the rows won't do."""
        ...

    def load(self, folder: Path) -> Scorer:
        """The model in a version's folder, whose files are as they were written; UserError if it can't be read.

        It imports none of ``modules``.
        """
        ...
