"""How rare values are, against the sample itself and against the law it was drawn from."""

from __future__ import annotations

import numpy as np
import pytest

from model.kinds.tails import MOST, Tails


def heights(sample: np.ndarray, x: list[float], both: bool = False) -> np.ndarray:
    return Tails.fit([sample], [both]).heights_of([np.array(x, np.float32)])[0]


def test_within_a_sample_of_few_values_it_is_the_share_of_the_sample() -> None:
    sample = np.repeat([0.0, 1.0, 5.0], [90, 9, 1])
    np.testing.assert_allclose(np.exp(-heights(sample, [-3, 0, 1, 5])), np.array([101, 101, 11, 2]) / 101, rtol=1e-6)
    np.testing.assert_allclose(np.exp(-heights(sample, [0, 1, 5], both=True)), [1, 22 / 101, 4 / 101], rtol=1e-6)


@pytest.mark.parametrize(("n", "tolerance"), [(1000, 0.4), (200_000, 0.2)])
def test_beyond_a_sample_a_power_law_goes_on(n: int, tolerance: float) -> None:
    """Of a Pareto sample with exponent 2 the share beyond x is x^-2, far outside the sample as well."""
    sample = np.random.default_rng(4).pareto(2, n) + 1
    x = [5.0, 20.0, 1e4, 1e6]
    np.testing.assert_allclose(heights(sample, x), 2 * np.log(x), rtol=tolerance)


def test_a_light_tail_falls_faster_than_a_heavy_one() -> None:
    random = np.random.default_rng(5)
    light, heavy = heights(random.normal(0, 1, 5000), [50.0]), heights(random.standard_t(2, 5000), [50.0])
    assert light > 2 * heavy


@pytest.mark.parametrize("both", [False, True])
def test_a_curve_never_falls_away_from_the_middle(both: bool) -> None:
    for sample in (
        np.random.default_rng(6).lognormal(0, 2, 3000),
        np.full(100, 7.0),
        np.zeros(100),
        np.arange(3.0),
        np.repeat([0.0, 1.0], [999, 1]),
    ):
        x = np.concatenate([np.linspace(np.median(sample), sample.max() + 1, 500), [1e6, 1e30, np.inf]])
        found = heights(sample, x.tolist(), both)
        assert (np.diff(found) >= -1e-5).all()
        assert np.isfinite(found).all()
        assert found[0] == pytest.approx(0, abs=0.8 if both else 1.2 if len(sample) == 3 else 0.8)
        assert found[-1] <= MOST
        assert found[-2] > found[0]


def test_small_values_count_only_where_both_sides_do() -> None:
    sample = np.random.default_rng(7).normal(0, 1, 5000)
    assert heights(sample, [-30])[0] == 0
    assert heights(sample, [-30], both=True)[0] == pytest.approx(heights(sample, [30], both=True)[0], rel=0.3)


def test_what_is_no_number_has_no_height() -> None:
    assert np.isnan(heights(np.arange(9.0), [float("nan")]))[0]
