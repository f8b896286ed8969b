"""Learning from rows that nobody has labelled, for kinds that learn quickly: what looks like an outlier is left out.

A model of all rows scores them; those beyond a gap that no tail makes (``model.outliers.cut``) are left out, but for
what a person calls normal, and a model of the others takes its place.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from model.kinds.protocol import FittedModel, Judged, Scorer, Training
from model.outliers.cut import find_cut
from model.rows import CHUNK_ROWS, Bools, Floats, Matrix, slices, take_first

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
    train, validation = training.train, training.validation
    kept, never = train.sound, apply_normal(training.normal, train.x)
    for round_ in range(ROUNDS + 1):
        training.progress("fitting", round_, ROUNDS + 1, "")
        scorer = learn(take_first(train.x, kept, rows))
        scores = scores_of(scorer, train.x)
        before, kept = kept, train.sound & ((scores <= find_cut(scores[train.sound]).score) | never)
        if (kept == before).all():
            break
    training.progress("fitting", ROUNDS + 1, ROUNDS + 1, "")
    of_validation = scores_of(scorer, validation.x)
    cut = find_cut(np.concatenate([scores[train.sound], of_validation[validation.sound]]))

    def judged(scores: Floats, never: Bools) -> Judged:
        return Judged(scores, (scores > cut.score) & ~never, np.zeros(len(scores), np.bool_), cut)

    return FittedModel(
        scorer=scorer,
        save=lambda folder: save(scorer, folder),
        train=judged(scores, never),
        validation=judged(of_validation, apply_normal(training.normal, validation.x)),
    )


def apply_normal(normal: Callable[[Floats], Bools] | None, rows: Matrix) -> Bools:
    """Rows, [n], that a person calls normal."""
    if normal is None:
        return np.zeros(len(rows), np.bool_)
    return np.concatenate([np.empty(0, np.bool_), *(normal(x) for x in slices(rows, CHUNK_ROWS))])
