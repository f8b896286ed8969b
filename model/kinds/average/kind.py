"""Several kinds as one: the mean of how rare each of them calls a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from beam_jobs.errors import UserError
from model.arrays import read_arrays
from model.kinds import KINDS
from model.kinds.average.settings import MOST, AverageSettings
from model.kinds.kept import judged, scores_of
from model.kinds.protocol import FittedModel, ModelKind, Scorer, Scores, Training, learns_from_labels
from model.kinds.tails import Tails
from model.rows import Floats

FILE_NAME = "average.npz"


@dataclass(frozen=True)
class AverageScorer(Scorer):
    """The mean of -log of the share of normal rows that each kind scores as high: no scale of one outweighs another."""

    members: Sequence[Scorer]
    tails: Tails  # a curve for each, of its scores

    def score(self, x: Floats) -> Floats:
        return self._mean(self.tails.heights_of([member.score(x) for member in self.members]))

    def explain(self, x: Floats) -> Scores:
        """Shares are the members', by their parts of the score; what is expected is the first's that says it."""
        said = [member.explain(x) for member in self.members]
        heights = self.tails.heights_of([each.score for each in said])
        error = None
        for each, height in zip(said, heights, strict=True):
            if each.error is not None:
                share = each.error / np.maximum(each.error.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
                error = share * height[:, None] + (0 if error is None else error)
        return Scores(
            self._mean(heights),
            expected=_first([each.expected for each in said]),
            error=error,
            rarity=_first([each.rarity for each in said]),
        )

    def _mean(self, heights: Floats) -> Floats:
        total = np.zeros(heights.shape[1], np.float32)
        for each in heights:  # one after the other: the same bits in every block
            total += each
        return total / np.float32(len(heights))


def _first(values: Sequence[Floats | None]) -> Floats | None:
    """Of each feature of each row the first that is a number."""
    found = None
    for each in values:
        if each is not None:
            found = each if found is None else np.where(np.isnan(found), each, found)
    return found


class Average:
    """Says how rare several kinds call a row together; see docs/kinds.md."""

    settings = AverageSettings
    modules = ()

    def fit(self, training: Training[AverageSettings]) -> FittedModel:
        """Fits each kind to the rows it may learn from, and takes the tails of its scores of the validation rows."""
        members, samples = training.settings.members, []
        fitted: list[FittedModel] = []
        for name, own in members:
            some = replace(training, settings=own)
            if not learns_from_labels(own):
                train, validation = training.train.without_failures(), training.validation.without_failures()
                some = replace(some, train=train, validation=validation)
            fitted.append(KINDS.get(name).fit(some))
            kept = ~fitted[-1].validation.left_out & some.validation.sound
            samples.append(fitted[-1].validation.scores[kept])
        scorer = AverageScorer([each.scorer for each in fitted], Tails.fit(samples, [False] * len(samples)))
        names = [name for name, _ in members]

        def save(folder: Path) -> None:
            for place, each in zip(_places(folder, names), fitted, strict=True):
                place.mkdir()
                each.save(place)
            arrays: dict[str, Any] = {"kinds": np.array(names), **scorer.tails.arrays()}
            np.savez(folder / FILE_NAME, **arrays)

        scores = scores_of(scorer, training.train.x), scores_of(scorer, training.validation.x)
        # What none of them calls an outlier is none: a mean of scores has gaps that none of them has.
        outliers = any(part.left_out.any() for each in fitted for part in (each.train, each.validation))
        return judged(training, scorer, save, *scores, some=outliers)

    def load(self, folder: Path) -> Scorer:
        """What ``fit`` saved."""
        path = folder / FILE_NAME
        try:
            arrays = read_arrays(path)
            kinds = arrays.get("kinds", np.empty(0))
            if kinds.dtype.kind != "U" or kinds.ndim != 1 or not 2 <= len(kinds) <= MOST:
                raise ValueError("it names no kinds")
            names = kinds.tolist()
            if "average" in names:
                raise ValueError("it names itself")
            tails = Tails.of(arrays, len(names))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} can't be read ({error}); train again") from error
        members = [KINDS.get(name).load(place) for name, place in zip(names, _places(folder, names), strict=True)]
        return AverageScorer(members, tails)


def _places(folder: Path, names: Sequence[str]) -> list[Path]:
    """A folder for each member."""
    return [folder / f"member_{i}" for i in range(len(names))]


KIND: ModelKind[AverageSettings] = Average()
