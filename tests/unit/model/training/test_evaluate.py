"""Metrics against their definitions."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.training.evaluate import average_precision, evaluate, roc_auc

ROWS = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40).filter(
    lambda rows: 0 < sum(failed for _, failed in rows) < len(rows)
)


@given(ROWS)
def test_roc_auc_is_the_probability_that_a_failure_scores_higher(rows: list[tuple[int, bool]]) -> None:
    scores, failed = np.array([s for s, _ in rows], float), np.array([f for _, f in rows])
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[failed] for b in scores[~failed]]
    assert roc_auc(scores, failed) == pytest.approx(np.mean(pairs))


@given(ROWS)
def test_average_precision_sums_precision_over_steps_of_recall(rows: list[tuple[int, bool]]) -> None:
    scores, failed = np.array([s for s, _ in rows], float), np.array([f for _, f in rows])
    expected = before = 0.0
    for threshold in sorted(set(scores), reverse=True):
        above = scores >= threshold
        recall = failed[above].sum() / failed.sum()
        expected += failed[above].mean() * (recall - before)
        before = recall
    assert average_precision(scores, failed) == pytest.approx(expected)


def test_an_evaluation_counts_rows_and_keys_by_kind() -> None:
    result = evaluate(
        scores=np.array([9.0, 1, 9, 1, 1, 9]),
        threshold=5,
        failed=np.array([True, True, True, True, False, False]),
        kinds=pa.array(["tire", "tire", "tire", "firmware", "", ""]),
        keys=pa.array(["a", "a", "b", "c", "d", "d"]),
    )
    assert (result.rows, result.failures) == (6, 4)
    assert result.recall == 0.5
    assert result.precision == pytest.approx(2 / 3)
    assert result.false_alert_share == 0.5
    assert result.recall_by_kind == {"tire": pytest.approx(2 / 3), "firmware": 0}
    assert result.keys_caught_by_kind == {"tire": 1, "firmware": 0}


def test_without_labels_there_is_little_to_say() -> None:
    n = 5
    blank = pa.array([""] * n)
    result = evaluate(np.arange(n), 3, np.zeros(n, bool), blank, blank)
    assert result.roc_auc is result.average_precision is result.recall is result.precision is None
    assert result.false_alert_share == pytest.approx(0.2)
