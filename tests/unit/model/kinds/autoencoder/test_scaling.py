"""Centre and spread that a few wrong values can't move."""

from __future__ import annotations

import numpy as np
import pytest

from model.kinds.autoencoder.scaling import BEND, FARTHEST, Scaling, compress

N = 12_000
RANDOM = np.random.default_rng(5)
NORMAL = RANDOM.normal(20, 3, N)


def column(values: object) -> np.ndarray:
    return np.asarray(values, np.float32).reshape(-1, 1)


def with_outliers(share: float, value: float) -> np.ndarray:
    values = NORMAL.copy()
    values[: int(share * N)] = value
    return values


@pytest.mark.parametrize("fit", [Scaling.robust, Scaling.fit])
@pytest.mark.parametrize(
    ("share", "value"), [(0, 0), (1 / N, 65535), (0.0015, -300), (0.01, 3e38), (0.05, -1e30), (0.08, 1e6)]
)
def test_a_few_wrong_values_move_neither_centre_nor_spread(fit: object, share: float, value: float) -> None:
    scaling = fit(column(with_outliers(share, value)))  # type: ignore[operator]
    assert scaling.mean[0] == pytest.approx(20, abs=0.5)
    assert scaling.spread[0] == pytest.approx(3, rel=0.4)


@pytest.mark.parametrize("fit", [Scaling.robust, Scaling.fit])
@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (np.where(RANDOM.random(N) < 0.5, 0, RANDOM.normal(size=N)), 0.5, 1.1),  # half constant
        (np.where(RANDOM.random(N) < 0.92, 0, RANDOM.poisson(3, N)), 0.4, 2.5),  # zero-inflated counts
        (np.where(RANDOM.random(N) < 0.97, 0, RANDOM.poisson(3, N)), 0.3, 2.5),
        (np.where(RANDOM.random(N) < 0.997, 0, 5), 0.5, 5),  # a rare event
        (1e6 + RANDOM.normal(size=N), 0.9, 1.1),  # a large offset
        (np.where(RANDOM.random(N) < 0.04, 1000, 2000), 100, 1000),  # two versions
        (RANDOM.lognormal(0, 2, N), 1, 30),  # a heavy tail
        (RANDOM.integers(0, 5, N), 1, 2.5),  # categories
        (RANDOM.normal(0, 1e-9, N), 0.9e-9, 1.1e-9),  # nanoamperes in amperes
        (RANDOM.standard_cauchy(N), 0.7, 6),
    ],
)
def test_awkward_features_keep_a_sensible_spread(fit: object, values: np.ndarray, low: float, high: float) -> None:
    scaling = fit(column(values))  # type: ignore[operator]
    assert low <= scaling.spread[0] <= high
    assert not scaling.constant[0]


@pytest.mark.parametrize("fit", [Scaling.robust, Scaling.fit])
def test_a_constant_feature_has_a_spread(fit: object) -> None:
    rows = np.array([[2000, 0, 1e9]] * N, np.float32)
    rows[0, 0] = 65535
    scaling = fit(rows)  # type: ignore[operator]
    assert scaling.constant.all()
    np.testing.assert_allclose(scaling.spread, [20, 1e-6, 1e7], rtol=1e-6)


def test_far_values_are_compressed_not_cut_off() -> None:
    z = np.array([-45, -5, -0.5, 0, 0.5, 5, 45, 1e6, 1e30])
    squeezed = compress(z, BEND)
    assert np.all(np.diff(squeezed) > 0)
    np.testing.assert_allclose(squeezed[2:5], z[2:5], rtol=0.01)  # the middle stays
    np.testing.assert_allclose(BEND * np.sinh(squeezed[:-1] / BEND), z[:-1], rtol=1e-9)
    assert squeezed[-1] == pytest.approx(BEND * np.arcsinh(FARTHEST))
