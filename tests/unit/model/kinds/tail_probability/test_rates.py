"""The law of events and trials, against SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import betabinom

from model.kinds.tail_probability.rates import TRIALS, fit_rate, rate_heights


def heights(events: np.ndarray, trials: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    out = np.empty(len(events), np.float32)
    rate_heights(events.astype(np.float32), trials.astype(np.float32), alpha, beta, out)
    return out


@pytest.mark.parametrize(("alpha", "beta"), [(0.01, 1.1), (0.5, 50.0), (3.0, 2.0)])
def test_the_tail_is_scipys(alpha: float, beta: float) -> None:
    n = np.repeat([0, 1, 2, 7, 40, 900], 8)
    k = np.minimum(np.tile([0, 1, 2, 3, 7, 20, 39, 900], 6), n)
    tails = [logsumexp(betabinom.logpmf(np.arange(i, of + 1), of, alpha, beta)) for i, of in zip(k, n, strict=True)]
    wanted = -np.array(tails)
    np.testing.assert_allclose(heights(k, n, alpha, beta), np.where(k == 0, 0, wanted), rtol=1e-4, atol=1e-5)


def test_more_events_of_as_many_trials_are_rarer_and_more_trials_less_so() -> None:
    events, trials = np.meshgrid(np.arange(1, 30), np.arange(30, 200), indexing="ij")
    found = heights(events.ravel(), trials.ravel(), 0.02, 1.5).reshape(events.shape)
    assert (np.diff(found, axis=0) > 0).all()
    assert (np.diff(found, axis=1) < 0).all()


def test_odd_numbers_are_borne() -> None:
    """Negative, fractional, more events than trials, and so many that a sum over them would never end."""
    k, n = np.array([[-1, 4], [2.4, 4], [9, 4], [3, 0], [1e18, 1e18], [1e9, 3e18], [5, 1e30]]).T
    found = heights(k, n, 0.5, 5.0)
    assert np.isfinite(found).all()
    assert found[0] == 0
    assert found[1] == heights(np.array([2]), np.array([4]), 0.5, 5.0)
    assert found[4] == heights(np.array([TRIALS]), np.array([TRIALS]), 0.5, 5.0)
    assert np.isnan(heights(np.array([np.nan, 1]), np.array([1, np.nan]), 0.5, 5.0)).all()


def test_the_law_of_a_sample_is_found() -> None:
    random = np.random.default_rng(8)
    trials = random.integers(1, 60, 40_000)
    events = random.binomial(trials, random.beta(0.5, 20, len(trials)))
    alpha, beta = fit_rate(events, trials)
    assert alpha == pytest.approx(0.5, rel=0.1)
    assert beta == pytest.approx(20, rel=0.1)


@pytest.mark.parametrize(("events", "trials"), [([0], [0]), ([0, 0], [5, 9]), ([1], [1]), ([4, 4], [4, 4])])
def test_a_sample_that_says_little_still_makes_a_law(events: list[int], trials: list[int]) -> None:
    alpha, beta = fit_rate(np.array(events, np.float32), np.array(trials, np.float32))
    assert 0 < alpha < 1e5
    assert 0 < beta < 1e5
