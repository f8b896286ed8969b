"""The tail extends a sample by what its largest scores say, and knows how well."""

from __future__ import annotations

import math

import numpy as np
import pytest

from model.training.pareto import FEWEST_ROWS, TAIL_ROWS, Tail


@pytest.mark.parametrize("index", [0.5, 1.0, 3.0])
def test_a_power_law_is_extended_as_one(index: float) -> None:
    tails = [Tail.fit(np.sort(1 + np.random.default_rng(seed).pareto(index, 5000))[::-1], 5000) for seed in range(40)]
    assert tails[0].count == TAIL_ROWS
    assert np.mean([tail.shape for tail in tails]) == pytest.approx(0, abs=0.05)
    assert np.mean([tail.scale for tail in tails]) == pytest.approx(1 / index, rel=0.05)
    rates = np.array([tail.score(0.5) ** -index for tail in tails])
    assert np.median(rates) == pytest.approx(0.5 / 5000, rel=0.35)
    inside = [low <= rate <= high for rate, (low, high) in zip(rates, (t.interval(0.5) for t in tails), strict=True)]
    assert np.mean(inside) > 0.8


def test_score_and_above_are_inverse() -> None:
    tail = Tail.fit(np.sort(np.random.default_rng(0).lognormal(size=2000))[::-1], 2000)
    for above in (0.01, 1.0, 19.0):
        assert tail.above(tail.score(above)) == pytest.approx(above)


def test_fewer_rows_give_a_wider_interval() -> None:
    few, many = (
        Tail.fit(np.sort(np.random.default_rng(0).lognormal(size=rows))[::-1], rows).interval(rows / 1000)
        for rows in (500, 10_000)
    )
    assert few[1] - few[0] > 2 * (many[1] - many[0])
    assert few[0] < 0.001 < few[1]


@pytest.mark.parametrize("top", [np.zeros(0), np.ones(1), np.ones(2 * FEWEST_ROWS - 1), np.array([1.0, 1e-200])])
def test_a_handful_of_scores_is_no_tail(top: np.ndarray) -> None:
    assert Tail.fit(top, 1000).count == 0


def test_scores_beyond_all_numbers_stay_numbers() -> None:
    tail = Tail.fit(np.geomspace(1e308, 1e306, 400), 400)
    assert np.isfinite(tail.score(1e-12))


@pytest.mark.parametrize("share", [0.006, 0.012])
def test_a_rare_state_far_above_the_others_has_a_tail_of_its_own(share: float) -> None:
    """As a flag does that is set in few rows: a tail fitted across the gap reaches 1,000 times too far."""
    rates = []
    for seed in range(20):
        random = np.random.default_rng(seed)
        state = random.random(9000) < share
        scores = np.exp(random.normal(0, 0.5, 9000)) * np.where(state, 400, 1)
        top = np.sort(scores)[::-1]
        found = Tail.fit(top, len(top))
        assert found.start > 50
        threshold = found.score(0.9)  # a budget of 0.0001
        rates.append(share * math.erfc(np.log(threshold / 400) / 0.5 / math.sqrt(2)) / 2)
    assert 0.5e-4 < np.mean(rates) < 1.5e-4
