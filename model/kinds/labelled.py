"""Learning from rows that are labelled, for kinds whose settings say ``labels``."""

from __future__ import annotations

from typing import Any

import numpy as np

from beam_jobs.errors import UserError
from model.kinds.protocol import Training
from model.rows import Bools, Floats, take_first

MOST_ROWS = 1 << 21  # learnt from at most; they are in memory


def rows_to_learn(training: Training[Any], kind: str) -> tuple[Floats, Bools]:
    """The first training rows, [n, F], and which of them are failures, [n].

    Raises:
      UserError: all of them are failures, or none is.
    """
    train = training.train
    x = take_first(train.x, np.ones(len(train.x), np.bool_), MOST_ROWS)
    failed = ~train.sound[: len(x)]
    if not failed.any() or failed.all():
        raise UserError(
            f"{int(failed.sum()):,} of {len(x):,} rows to learn from are labelled as failures: the kind {kind} needs "
            "both; use more data, or a kind that needs no labels, such as tail_probability"
        )
    return x, failed
