"""How good a fitted model is: where its threshold lies, and what it says of rows that it has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model.alert_rate import AlertRate, ThresholdFit
from model.kinds.protocol import FittedModel, Scorer
from model.rows import CHUNK_ROWS, Floats, Part, slices
from model.training.distribution import ScoreDistribution
from model.training.evaluate import Evaluation, evaluate
from model.training.spool import Parts


@dataclass(frozen=True)
class Verdict:
    """What was found out about a model by held-out rows."""

    distribution: ScoreDistribution  # of the scores of validation rows that are no outliers
    limit: ThresholdFit
    scores: Floats  # [n], of the test rows
    deviation: dict[bool, NDArray[np.float64]]  # failed or not to [F]: root mean error of test rows; {}: not explained
    test_alerts: AlertRate
    evaluation: Evaluation


def judge(scorer: Scorer, fitted: FittedModel, validation: Part, parts: Parts, budget: float) -> Verdict:
    """Sets a threshold by the validation rows and judges it by the test rows.

    Args:
      scorer: the model as jobs will have it.
      validation: the rows that ``fitted`` speaks of.
      budget: share of normal rows that may be alerts.
    """
    kept = ~fitted.validation.left_out & validation.sound
    distribution = ScoreDistribution.fit(fitted.validation.scores[kept], validation.keys[kept])
    limit = distribution.fit_threshold(budget, fitted.validation.cut)
    scores, deviation = _score(scorer, parts)
    return Verdict(
        distribution=distribution,
        limit=limit,
        scores=scores,
        deviation=deviation,
        test_alerts=limit.compare(scores[~parts.failed]),
        evaluation=_evaluate(scores, limit.threshold, parts),
    )


def judge_baseline(fitted: FittedModel, validation: Part, parts: Parts, budget: float) -> Evaluation:
    """How another model does with a threshold for the same budget, by the same rows."""
    kept = ~fitted.validation.left_out & validation.sound
    threshold = ScoreDistribution.fit(fitted.validation.scores[kept]).threshold(budget)
    scores = [fitted.scorer.score(x) for x in slices(parts.test.x, CHUNK_ROWS)]
    return _evaluate(np.concatenate(scores), threshold, parts)


def _evaluate(scores: Floats, threshold: float, parts: Parts) -> Evaluation:
    return evaluate(scores, threshold, parts.failed, parts.kinds, pa.array(parts.test.keys))


def _score(scorer: Scorer, parts: Parts) -> tuple[Floats, dict[bool, NDArray[np.float64]]]:
    """Scores of the test rows, [n]; and the root mean error of each feature, [F], by whether rows failed."""
    scores, start = [], 0
    sums: dict[bool, Any] = {}
    for x in slices(parts.test.x, CHUNK_ROWS):
        block = scorer.explain(x)
        failed = parts.failed[start : start + len(block.score)]
        start += len(failed)
        scores.append(block.score)
        if block.error is not None:
            for which in np.unique(failed).tolist():
                sums[which] = sums.get(which, 0) + block.error[failed == which].sum(axis=0, dtype=np.float64)
    rows = {True: int(parts.failed.sum()), False: int((~parts.failed).sum())}
    return np.concatenate(scores), {which: np.sqrt(total / rows[which]) for which, total in sums.items()}
