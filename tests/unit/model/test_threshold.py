"""Thresholds keep the alert budget, also where it is smaller than one row of the sample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from beam_jobs.errors import UserError
from model.threshold import MIN_ROWS, ScoreDistribution

SCORES = hnp.arrays(np.float64, st.integers(MIN_ROWS, 600), elements=st.floats(0, 1e6))


@pytest.mark.parametrize("budget", [0.05, 0.001, 0.0001])
@pytest.mark.parametrize("draw", ["exponential", "lognormal", "chisquare"])
def test_the_share_of_alerts_is_the_budget(draw: str, budget: float) -> None:
    random = np.random.default_rng(1)
    sample = {
        "exponential": lambda n: random.exponential(size=n),
        "lognormal": lambda n: random.lognormal(size=n),
        "chisquare": lambda n: random.chisquare(5, n),
    }[draw]
    unseen = sample(2_000_000)
    shares = [float(np.mean(unseen > ScoreDistribution.fit(sample(20_000)).threshold(budget))) for _ in range(15)]
    assert 0.6 * budget < np.median(shares) < 1.6 * budget


@settings(max_examples=50)
@given(SCORES, st.lists(st.floats(1e-7, 0.9), min_size=2, max_size=5))
def test_a_smaller_budget_never_gives_a_smaller_threshold(scores: np.ndarray, budgets: list[float]) -> None:
    distribution = ScoreDistribution.fit(scores)
    thresholds = np.array([distribution.threshold(budget) for budget in sorted(budgets, reverse=True)])
    assert np.isfinite(thresholds).all()
    assert (np.diff(thresholds) >= -1e-9 * np.abs(thresholds).max(initial=1)).all()


@settings(max_examples=50)
@given(SCORES)
def test_quantiles_ascend(scores: np.ndarray) -> None:
    levels, values = np.array(ScoreDistribution.fit(scores).quantiles()).T
    assert (np.diff(levels) > 0).all()
    assert (np.diff(values) >= 0).all()
    assert values[0] == scores.min()


@settings(max_examples=30)
@given(SCORES, st.sampled_from([0.5, 2.0, 1024.0]))
def test_the_unit_of_the_score_does_not_matter(scores: np.ndarray, factor: float) -> None:
    one, other = ScoreDistribution.fit(scores), ScoreDistribution.fit(scores * factor)
    assert other.threshold(1e-4) == pytest.approx(one.threshold(1e-4) * factor, rel=1e-6, abs=1e-9)


def test_equal_scores_have_no_tail() -> None:
    assert ScoreDistribution.fit(np.ones(1000)).threshold(1e-6) == 1


def test_too_few_rows_and_budgets_that_are_none_are_refused() -> None:
    with pytest.raises(UserError, match="at least 50 normal held-out rows and there are 3"):
        ScoreDistribution.fit(np.array([1.0, 2.0, 3.0, np.nan]))
    for budget in (0.0, 1.0, -1.0):
        with pytest.raises(UserError, match="alert_budget"):
            ScoreDistribution.fit(np.arange(100.0)).threshold(budget)
