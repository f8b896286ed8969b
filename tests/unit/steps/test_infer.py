"""What a model says of a block: with reasons or without, of all rows or, where it raises, of those it can score."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from beam_jobs import metrics
from beam_jobs.block import Block
from beam_jobs.errors import BadRowsError, RetryError
from beam_jobs.steps import infer as h
from beam_jobs.steps.alerting.budget import AlertBudget
from beam_jobs.steps.alerting.judge import SEVERITIES
from model.kinds.protocol import Scorer, Scores
from model.loaded import LoadedModel
from model.rows import Floats
from tests.unit.model.samples import MANIFEST

FEATURES = ("a", "b")


class Sum(Scorer):
    """The sum of the features; says why as far as it is told to, and can't score what is above 100."""

    def __init__(self, expected: bool = False, error: bool = False) -> None:
        self.expected, self.error, self.calls = expected, error, 0

    def score(self, x: Floats) -> Floats:
        self.calls += 1
        if (x > 100).any():
            raise ValueError("above 100")
        return x.sum(axis=1, dtype=np.float32)

    def explain(self, x: Floats) -> Scores:
        expected = np.where(x > 50, np.nan, 0).astype(np.float32) if self.expected else None
        return Scores(self.score(x), expected, x if self.error else None)


def block(*rows: tuple[float, float]) -> Block:
    columns = np.array(rows, np.float32).T
    return pa.record_batch(dict(zip(FEATURES, columns, strict=True)))


def score(scorer: Scorer, rows: Block) -> Block:
    described = replace(MANIFEST, features=FEATURES, threshold=10.0)
    return h.score_block(rows, LoadedModel(Path(), described, scorer), FEATURES)


def test_a_model_with_reasons() -> None:
    scored = score(Sum(expected=True, error=True), block((1, 2), (60, 3), (4, 5), (9, 9)))
    assert scored.column(h.SCORE).to_pylist() == [3, 63, 9, 18]
    assert scored.column(h.FEATURE_ERROR).to_pylist() == [None, [60, 3], None, [9, 9]]
    assert str(scored.column(h.EXPECTED).to_pylist()) == "[None, [nan, 0.0], None, [0.0, 0.0]]"


@pytest.mark.parametrize(
    ("error", "expected", "reasons"),
    [(False, None, None), (True, "[nan, nan]", "[60.0, 3.0]")],
)
@pytest.mark.parametrize("also", [False, True])
def test_a_model_without_all_reasons(error: bool, expected: str | None, reasons: str | None, also: bool) -> None:
    """What it expected is no reason without a feature's part of the score."""
    scored = score(Sum(expected=also and not error, error=error), block((1, 2), (60, 3)))
    assert str(scored.column(h.EXPECTED).to_pylist()) == f"[None, {expected}]"
    assert str(scored.column(h.FEATURE_ERROR).to_pylist()) == f"[None, {reasons}]"
    assert scored.schema.field(h.EXPECTED).type == scored.schema.field(h.FEATURE_ERROR).type == pa.list_(pa.float32())


def test_rows_that_make_it_raise_have_no_score_and_their_neighbours_do() -> None:
    rows = [(1.0, 2.0)] * 300
    rows[7] = rows[200] = (101, 0)
    rows[201] = (50, 1)
    scorer = Sum(expected=True, error=True)
    scored = score(scorer, block(*rows))
    found = scored.column(h.SCORE).to_numpy()
    assert np.flatnonzero(np.isnan(found)).tolist() == [7, 200]
    assert scored.column(h.FEATURE_ERROR)[201].as_py() == [50, 1]
    assert scorer.calls < 100


def test_rows_it_names_have_no_score() -> None:
    class Named(Sum):
        def score(self, x: Floats) -> Floats:
            if (x > 100).any():
                raise BadRowsError((x > 100).any(axis=1), "above 100")
            return super().score(x)

    scored = score(Named(), block((1, 2), (200, 1), (3, 4)))
    assert str(scored.column(h.SCORE).to_pylist()) == "[3.0, nan, 7.0]"


@pytest.mark.parametrize("error", [RuntimeError("no such graph"), RetryError("away"), MemoryError()])
def test_a_model_that_is_broken_makes_no_dead_letters(error: Exception) -> None:
    class Broken(Sum):
        def score(self, x: Floats) -> Floats:
            self.calls += 1
            raise error

    scorer = Broken()
    with pytest.raises(MemoryError if isinstance(error, MemoryError) else RetryError):
        score(scorer, block(*[(1, 2)] * 8192))
    assert scorer.calls <= 2


def test_how_rare_each_value_is_comes_along_where_the_kind_says_it() -> None:
    class Rare(Sum):
        def explain(self, x: Floats) -> Scores:
            return replace(super().explain(x), rarity=np.where(x > 50, 0.001, np.nan).astype(np.float32))

    scored = score(Rare(error=True), block((1, 2), (60, 3)))
    assert str(scored.column(h.RARITY).to_pylist()) == f"[None, [{float(np.float32(0.001))}, nan]]"
    assert h.RARITY not in score(Sum(error=True), block((1, 2), (60, 3))).schema.names


class Reported(Sum):
    """Scores what is above 100, and can't say why."""

    def score(self, x: Floats) -> Floats:
        return x.sum(axis=1, dtype=np.float32)

    def explain(self, x: Floats) -> Scores:
        if (x > 100).any():
            raise ValueError("above 100")
        return Scores(self.score(x), None, x)


def test_a_row_whose_alert_can_not_be_explained_has_no_score_and_its_neighbours_do() -> None:
    scored = score(Reported(), block((1, 2), (101, 3), (60, 3)))
    assert str(scored.column(h.SCORE).to_pylist()) == "[3.0, nan, 63.0]"
    assert scored.column(h.ALERT).to_pylist() == [False, False, True]
    assert scored.column(h.FEATURE_ERROR).to_pylist() == [None, None, [60, 3]]


def test_a_threshold_makes_alerts_that_say_how_severe_they_are() -> None:
    scored = score(Sum(), block((1, 2), (60, 3), (5, 5)))
    assert scored.column(h.ALERT).to_pylist() == [False, True, False]
    assert [severity in SEVERITIES for severity in scored.column(h.SEVERITY).to_pylist()] == [False, True, False]
    assert scored.column(h.RECENT_PERCENTILE).to_pylist() == [None] * 3


def test_a_budget_decides_in_place_of_the_threshold() -> None:
    described = replace(MANIFEST, features=FEATURES, threshold=130.0)
    described = replace(described, score_quantiles=((0.0, 0.0), (0.5, 33.0), (0.99, 130.0), (0.9999, 180.0)))
    model = LoadedModel(Path(), described, Sum(expected=True, error=True))
    judge, rng = h.judge_of(model, AlertBudget.parse("1/100")), np.random.default_rng(1)
    before = metrics.STATE.snapshot()[h.OVER_BUDGET]
    found = []
    for _ in range(10):
        rows = block(*rng.exponential(20, (1000, 2)).clip(0, 90).tolist())
        found.append(h.score_block(rows, model, FEATURES, judge))
    alert = np.concatenate([scored.column(h.ALERT).to_numpy(zero_copy_only=False) for scored in found])
    assert alert.sum() == pytest.approx(100, abs=10)
    h.score_block(block(*[(90.0, 91.0)] * 500), model, FEATURES, judge)
    assert metrics.STATE.snapshot()[h.OVER_BUDGET] > before
    last = found[-1].to_pylist()
    for row in (row for row in last if row[h.ALERT]):
        assert row[h.SCORE] > row[h.THRESHOLD] > 30
        assert row[h.RECENT_PERCENTILE] > 95
        assert row[h.FEATURE_ERROR] == [row["a"], row["b"]]
    assert all(row[h.FEATURE_ERROR] is row[h.SEVERITY] is None for row in last if not row[h.ALERT])
