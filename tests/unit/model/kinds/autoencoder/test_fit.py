"""A detector fitted to rows of which a few are what it is to find."""

from __future__ import annotations

import numpy as np
import pytest

from model.kinds import tf
from model.kinds.autoencoder.fit import Fitted, fit
from model.kinds.autoencoder.settings import NetworkConfig
from model.kinds.protocol import signed_deviations
from model.rows import Floats, Part
from model.training.distribution import ScoreDistribution

MIX = np.random.default_rng(1).normal(size=(3, 6))
CONFIG = NetworkConfig(hidden=(8, 3, 8), epochs=4)
STATE = np.array([6, -6, 5, 0, 4, -5.0])


def readings(rows: int, seed: int) -> Floats:
    random = np.random.default_rng(seed)
    x = 5 + random.normal(size=(rows, 3)) @ MIX + 0.3 * random.standard_t(4, size=(rows, 6))
    return x.astype(np.float32)


def part(x: Floats, keys: int = 200) -> Part:
    return Part(x, np.random.default_rng(7).integers(0, keys, len(x)).astype(np.uint64), np.arange(len(x)))


def fitted(x: Floats, validation: Floats | None = None, **more: object) -> Fitted:
    tf.keras().utils.set_random_seed(3)
    return fit(part(x), part(readings(3000, 2) if validation is None else validation), CONFIG, 3, **more)  # type: ignore[arg-type]


def threshold(found: Fitted) -> float:
    return ScoreDistribution.fit(found.validation.scores[~found.validation.left_out]).threshold(0.01)


def found(detector: Fitted, sigmas: float) -> float:
    """Share of readings off by so many standard deviations, one feature each, that are alerts."""
    rows = readings(2000, 5)
    spread, feature = rows.std(axis=0), np.arange(len(rows)) % 6
    rows[np.arange(len(rows)), feature] += sigmas * spread[feature]
    return float(np.mean(detector.compiled.score(rows) > threshold(detector)))


def outliers(share: float) -> tuple[Floats, np.ndarray]:
    x, random = readings(9000, 1), np.random.default_rng(4)
    bad = random.random(len(x)) < share
    x[bad] += random.choice([-1, 1], (bad.sum(), 6)) * random.uniform(30, 300, (bad.sum(), 6))
    return x, bad


@pytest.fixture(scope="module")
def usual() -> Fitted:
    """Fitted to rows of which one in a hundred is an outlier."""
    return fitted(outliers(0.01)[0])


@pytest.mark.parametrize("share", [0.0015, 0.05])
def test_outliers_are_left_out_and_found(share: float) -> None:
    x, bad = outliers(share)
    detector = fitted(x)
    np.testing.assert_array_equal(detector.train.left_out, bad)
    assert 0.006 < np.mean(detector.compiled.score(readings(20_000, 6)) > threshold(detector)) < 0.016
    assert found(detector, 45) == found(detector, 10) == 1


def test_one_sentinel_blinds_neither_scale_nor_threshold() -> None:
    x, validation = readings(9000, 1), readings(3000, 2)
    x[5, 2], validation[9, 3] = 65535, -9999
    detector = fitted(x, validation)
    assert found(detector, 10) > 0.99
    assert detector.compiled.score(x)[5] > 100 * threshold(detector)


def test_rows_a_person_calls_normal_are_never_left_out() -> None:
    x = readings(9000, 1)
    few = part(x).keys < 4  # a state of four keys
    x[few] += STATE.astype(np.float32) * 3

    def normal(rows: Floats) -> np.ndarray:
        return rows[:, 0] - rows[:, 1] > 24

    assert fitted(x).train.left_out[few].mean() > 0.9
    kept = fitted(x, normal=normal).train.left_out
    assert not kept[normal(x)].any()


def test_the_keras_network_says_the_same_as_the_compiled_one(usual: Fitted) -> None:
    rows = np.concatenate([readings(500, 8), readings(500, 8) * 1e3, np.full((1, 6), 3e38, np.float32)])
    said, ours = usual.network(rows, training=False), usual.compiled.explain(rows)
    np.testing.assert_allclose(ours.score, said["score"], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(ours.error, said["error"], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(ours.expected, said["expected"], rtol=1e-3, atol=1e-3)
    deviations = signed_deviations(usual.compiled, rows)
    np.testing.assert_array_equal(np.sign(deviations), np.sign(rows - ours.expected))


def test_the_same_seed_gives_the_same_detector(usual: Fitted) -> None:
    np.testing.assert_array_equal(fitted(outliers(0.01)[0]).train.scores, usual.train.scores)
