"""Thresholds keep the alert budget, also where it is smaller than one row of the sample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from beam_jobs.errors import UserError
from model.outliers.cut import Cut
from model.training.distribution import MIN_ROWS, ScoreDistribution

NO_CUT = Cut(np.inf, 0.0, "")
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


def test_rows_above_the_cut_that_were_kept_are_counted_among_test_rows_too() -> None:
    body, rare = np.linspace(1, 2, 950), np.linspace(30, 40, 50)  # a rare state that most keys show, above the cut
    fitted = ScoreDistribution.fit(np.concatenate([body, rare])).fit_threshold(0.1, Cut(10.0, 0.01, ""))
    found = fitted.compare(np.concatenate([body, rare, [500.0]]))
    assert (found.rows, found.outliers) == (1000, 1)
    below = ScoreDistribution.fit(body).fit_threshold(0.1, Cut(10.0, 0.05, ""))
    assert below.compare(np.concatenate([body, rare])).outliers == 50


def test_a_budget_that_rows_can_answer_is_counted() -> None:
    """A log-normal body and a few normal rows far out, as real scores have them."""
    for outliers in (0, 2, 6, 12):
        random = np.random.default_rng(1)
        body = np.exp(random.normal(np.log(0.3), 1.1, 3480 - outliers))
        scores = np.concatenate([body, random.uniform(300, 3000, outliers)])
        fitted = ScoreDistribution.fit(scores)
        for budget in (0.03, 0.01):
            found = fitted.fit_threshold(budget, NO_CUT)
            assert np.mean(scores > found.threshold) == pytest.approx(budget, rel=0.03)
            assert found.how.startswith("counted: ")
        assert fitted.fit_threshold(0.003, NO_CUT).how.startswith("a Pareto tail fitted to the 120 highest of 3,480")


def test_a_step_of_equal_scores_is_alerted_on_whole_or_not_at_all() -> None:
    scores = np.repeat([1.0, 2.0, 3.0, 4.0, 5.0], [3500, 300, 120, 60, 20])
    for budget, share in ((0.02, 0.02), (0.018, 0.02), (0.006, 0.005), (0.06, 0.05)):
        found = ScoreDistribution.fit(scores).fit_threshold(budget, NO_CUT)
        assert np.mean(scores > found.threshold) == pytest.approx(share)
        assert found.share == pytest.approx(share)
        assert found.threshold not in scores  # rounding elsewhere does not move a step across it


def test_rows_of_one_key_that_are_alike_widen_the_interval() -> None:
    inside: dict[str, list[bool]] = {"alike": [], "apart": []}
    true = np.sort(
        np.random.default_rng(7).lognormal(0, 0.3, 400_000) * np.random.default_rng(8).lognormal(0, 0.3, 400_000)
    )
    for seed in range(60):
        random = np.random.default_rng(seed)
        keys = np.repeat(np.arange(100), 40)
        scores = random.lognormal(0, 0.3, 4000) * random.lognormal(0, 0.3, 100)[keys]
        for name, whose in (("alike", keys), ("apart", None)):
            found = ScoreDistribution.fit(scores, whose).fit_threshold(0.01, NO_CUT)
            rate = float(np.mean(true > found.threshold))
            inside[name].append(found.low <= rate <= found.high)
    assert np.mean(inside["apart"]) < 0.75 < 0.8 < np.mean(inside["alike"])
    independent = ScoreDistribution.fit(scores, np.arange(4000)).fit_threshold(0.01, NO_CUT)
    assert independent.design_effect == pytest.approx(1, abs=0.01)
    assert "independent" not in independent.how
    scores[:40] = 100.0  # one car of a hundred is strange
    assert "which say as much as" in ScoreDistribution.fit(scores, keys).fit_threshold(0.01, NO_CUT).how
