"""Learning from rows that nobody has labelled, for kinds that learn quickly: what looks like an outlier is left out.

A model of all rows scores them; those beyond a gap that no tail makes (``model.outliers.cut``) are left out, but for
what a person calls normal, and a model of the others takes its place. Gaps are looked for in the scores of rows whose
counts are blurred (``steps.py``): the edge of a step is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from model.kinds.protocol import FittedModel, Judged, Scorer, Training
from model.kinds.steps import Steps
from model.outliers.cut import Cut, find_cut
from model.rows import CHUNK_ROWS, Bools, Floats, Matrix, Part, slices, take_first

ROUNDS = 2  # of leaving out
SAMPLE_ROWS = 1 << 18  # learnt from at most: of rows in random order more change little

S = TypeVar("S", bound=Scorer)


def scores_of(scorer: Scorer, rows: Matrix) -> Floats:
    """Of all rows, [n]."""
    return np.concatenate([np.empty(0, np.float32), *(scorer.score(x) for x in slices(rows, CHUNK_ROWS))])


def fit_kept(
    training: Training[Any], learn: Callable[[Floats], S], save: Callable[[S, Path], None], rows: int = SAMPLE_ROWS
) -> FittedModel:
    """Fits a model to the rows that are no outliers.

    Args:
      learn: rows, [n, F], ``rows`` of them at most, to a model.
      save: writes a model into a folder.
    """
    train = training.train
    kept, never = train.sound, apply_normal(training.normal, train.x)
    for round_ in range(ROUNDS + 1):
        training.progress("fitting", round_, ROUNDS + 1, "")
        scorer = learn(take_first(train.x, kept, rows))
        scores = scores_of(scorer, train.x)
        cut = _cut(training, scorer, [(train, scores)])
        before, kept = kept, train.sound & ((scores <= cut.score) | never)
        if (kept == before).all():
            break
    training.progress("fitting", ROUNDS + 1, ROUNDS + 1, "")
    return judged(
        training, scorer, lambda folder: save(scorer, folder), scores, scores_of(scorer, training.validation.x)
    )


def judged(
    training: Training[Any],
    scorer: Scorer,
    save: Callable[[Path], None],
    of_train: Floats,
    of_validation: Floats,
    some: bool = True,
) -> FittedModel:
    """A model, and which rows it calls outliers: those beyond the cut in its scores of all rows, [n] and [m].

    Args:
      some: whether there may be any.
    """
    train, validation = training.train, training.validation
    cut = _cut(training, scorer, [(train, of_train), (validation, of_validation)])
    if not some:
        cut = Cut(np.inf, 0.0, cut.doubt)

    def of(scores: Floats, part: Part) -> Judged:
        left_out = (scores > cut.score) & part.sound & ~apply_normal(training.normal, part.x)
        return Judged(scores, left_out, np.zeros(len(scores), np.bool_), cut)

    return FittedModel(scorer, save, of(of_train, train), of(of_validation, validation))


def _cut(training: Training[Any], scorer: Scorer, parts: Sequence[tuple[Part, Floats]]) -> Cut:
    """Where outliers begin among the sound rows of parts that score so, [n] each."""
    steps = Steps.of(take_first(training.train.x, training.train.sound, SAMPLE_ROWS))
    rng = np.random.default_rng((training.seed, 5))
    found = []
    for part, scores in parts:
        if steps:
            blurred = (scorer.score(steps.blurred(x, rng)) for x in slices(part.x, CHUNK_ROWS))
            scores = np.concatenate([np.empty(0, np.float32), *blurred])
        found.append(scores[part.sound])
    return find_cut(np.concatenate(found))


def apply_normal(normal: Callable[[Floats], Bools] | None, rows: Matrix) -> Bools:
    """Rows, [n], that a person calls normal."""
    if normal is None:
        return np.zeros(len(rows), np.bool_)
    return np.concatenate([np.empty(0, np.bool_), *(normal(x) for x in slices(rows, CHUNK_ROWS))])
