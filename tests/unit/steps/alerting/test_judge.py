"""Alerts by a version's threshold, and by a budget, where they are few enough to be counted by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from beam_jobs.steps.alerting.active_keys import HOUR_MS, ActiveKeys, hashes
from beam_jobs.steps.alerting.budget import DAY_MS, AlertBudget
from beam_jobs.steps.alerting.judge import SEVERITIES, ByBudget, ByThreshold, Judged

# One normal row in 10 scores above 1, one in 100 above 2, and so on.
QUANTILES = [(0.0, 0.0), *((1 - 10.0**-k, float(k)) for k in range(1, 8))]


def no_keys() -> pa.Array:
    raise AssertionError("nobody wants to know")


def floats(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def test_the_threshold_of_a_version_and_how_severe_it_is() -> None:
    judge = ByThreshold(3.0, QUANTILES)
    judged = judge(floats(2, 3, 3.5, 4.5, np.nan, 5.5, 7, 900, np.inf), np.zeros(9, np.int64), no_keys)
    assert np.flatnonzero(judged.alert).tolist() == [2, 3, 5, 6, 7]
    assert judged.severity.to_pylist() == ["low", "medium", "high", "critical", "critical"]
    assert np.isnan(judged.recent).all()
    assert judged.over == 0
    assert set(judged.threshold.tolist()) == {3.0}


@pytest.mark.parametrize(("threshold", "score"), [(0.0, 1.0), (50.0, 60.0)])
def test_a_threshold_that_no_quantile_knows(threshold: float, score: float) -> None:
    judged = ByThreshold(threshold, QUANTILES)(floats(score), np.zeros(1, np.int64), no_keys)
    assert judged.severity.to_pylist()[0] in SEVERITIES


def by_budget(text: str, **more: Callable[[], float]) -> ByBudget:
    return ByBudget(AlertBudget.parse(text), 3.0, QUANTILES, **more)


def test_rows_beyond_the_budget_are_no_alerts_and_counted() -> None:
    """Half of a full bucket is there at first: 5 alerts, and the one that 1,000 records earn."""
    judge = by_budget("1/1000")
    judged = judge(np.full(1000, 9, np.float32), np.zeros(1000, np.int64), no_keys)
    assert judged.alert.sum() == 6
    assert np.flatnonzero(judged.alert).tolist() == [0, 1, 2, 3, 4, 999]
    assert judged.over == 994


def test_a_quiet_day_saves_up_no_more_than_a_bucket() -> None:
    judge = by_budget("100/day")
    times = np.array([0, 30 * DAY_MS, *[30 * DAY_MS + 1] * 100])
    judged = judge(floats(*[0, 0], *[9] * 100), times, no_keys)
    assert judged.alert.sum() == 10


def test_a_clock_in_the_future_earns_what_has_passed() -> None:
    now = 10 * DAY_MS
    judge = by_budget("100/day", now=lambda: now / 1000)
    assert judge(np.full(10, 9, np.float32), np.full(10, now - 1000), no_keys).alert.sum() == 5
    assert judge(np.full(10, 9, np.float32), np.full(10, 10**15), no_keys).alert.sum() == 0
    assert judge(np.full(10, 9, np.float32), np.full(10, now), no_keys).alert.sum() == 0


def test_scores_that_are_all_the_same_are_no_alerts() -> None:
    """But at the start, where the threshold is the version's."""
    judge, same = by_budget("1/100"), np.full(1000, 2, np.float32)
    alerts = [judge(same, np.zeros(1000, np.int64), no_keys).alert.sum() for _ in range(5)]
    assert alerts[1:] == [0, 0, 0, 0]


def test_the_highest_of_many_that_tie_are_alerts() -> None:
    """A kind whose scores have steps: one row in 50 has the highest, the budget is one in 100."""
    judge = by_budget("1/100")
    scores = np.where(np.arange(20_000) % 50 == 0, 9, 2).astype(np.float32)
    judged = judge(scores, np.zeros(20_000, np.int64), no_keys)
    assert set(scores[judged.alert].tolist()) == {9.0}
    assert judged.alert.sum() == pytest.approx(200, abs=10)


def test_what_is_no_number_is_no_alert_and_does_no_harm() -> None:
    judge, rng = by_budget("1/100"), np.random.default_rng(1)
    scores = rng.exponential(size=20_000).astype(np.float32)
    scores[::7] = np.nan
    scores[::11] = np.inf
    judged = judge(scores, np.zeros(20_000, np.int64), no_keys)
    assert np.isfinite(scores[judged.alert]).all()
    assert judged.alert.sum() == pytest.approx(200, abs=10)


def test_alerts_say_how_high_among_the_scores_of_late_and_how_severe() -> None:
    judge, rng = by_budget("1/100"), np.random.default_rng(1)
    judge(rng.exponential(size=20_000).astype(np.float32), np.zeros(20_000, np.int64), no_keys)
    judged = judge(floats(*[0.1] * 200, 40), np.zeros(201, np.int64), no_keys)
    assert np.flatnonzero(judged.alert).tolist() == [200]
    assert judged.recent[0] > 99.5
    assert judged.severity.to_pylist() == ["critical"]
    shares = []
    for _ in range(20):
        found: Judged = judge(rng.exponential(size=20_000).astype(np.float32), np.zeros(20_000, np.int64), no_keys)
        shares.append(np.array(found.severity.to_pylist()) == "low")
        assert ((found.recent > 90) & (found.recent <= 100)).all()
    assert 0.75 < np.concatenate(shares).mean() < 0.98


@pytest.mark.parametrize("keys", [100, 3000, 50_000])
def test_keys_of_the_last_day_are_counted(keys: int) -> None:
    active = ActiveKeys()
    names = pa.array([f"card-{i}" for i in range(keys)])
    for hour in range(30):
        active.add(hashes(names.slice(hour % 2 * keys // 2, keys // 2)), hour * HOUR_MS)
    assert active.count == pytest.approx(keys, rel=0.05)
    active.add(hashes(names.slice(0, 10)), 100 * HOUR_MS)
    assert active.count == 10


def test_a_budget_by_keys_asks_for_them() -> None:
    judge, rng = by_budget("20/1000keys"), np.random.default_rng(1)
    keys = pa.array([f"card-{i}" for i in range(5000)])
    alerts = [0, 0, 0]
    for day in range(3):
        for minute in range(0, 1440, 30):
            time = day * DAY_MS + minute * 60_000
            scores = rng.exponential(size=5000).astype(np.float32)
            alerts[day] += judge(scores, np.full(5000, time), lambda: keys).alert.sum()
    assert alerts[1:] == pytest.approx([100, 100], abs=10)
