"""The compiled network against its formula in numpy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from model.kinds.autoencoder.network import Dense, Network
from model.kinds.autoencoder.scaling import compress
from model.kinds.protocol import Scores

Floats = NDArray[np.float32]


def network(features: int = 7, hidden: int = 5, seed: int = 1) -> Network:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Floats:
        return rng.normal(0, 0.4, shape).astype(np.float32)

    def positive() -> Floats:
        return rng.uniform(0.5, 3, features).astype(np.float32)

    layers = (
        Dense(normal(features, hidden), normal(hidden), True),
        Dense(normal(hidden, features), normal(features), False),
    )
    cross = normal(features, features)
    return Network(normal(features) * 50, positive() * 9, layers, positive(), cross, positive(), 10.0, 1000.0)


def by_formula(model: Network, x: Floats) -> Scores:
    """``keras_network.py``'s head comment, row by row in float64."""
    x64 = x.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        standard = (x64 - model.mean) / model.spread
        if model.bend:
            standard = compress(standard, model.bend)
        rebuilt = np.clip(standard, -model.clip, model.clip)
        for layer in model.layers:
            rebuilt = rebuilt @ layer.kernel.astype(np.float64) + layer.bias
            if layer.elu:
                rebuilt = np.where(rebuilt > 0, rebuilt, np.expm1(np.minimum(rebuilt, 0)))
        residual = (standard - rebuilt) * (model.spread / model.residual_spread)
        correction = np.clip(residual, -model.clip, model.clip) @ model.cross.astype(np.float64)
        normal = rebuilt - correction * (model.residual_spread / model.spread)
        if model.bend:
            normal = model.bend * np.sinh(normal / model.bend)
        expected = normal * model.spread + model.mean
        deviation = (residual + correction) / model.deviation_spread
        deviation = np.clip(deviation, -model.limit, model.limit)
        error = np.square(deviation if model.least is None else np.maximum(deviation, model.least))
        score = np.sqrt(np.mean(error if model.plain else np.square(error), axis=1))
    return Scores(*(values.astype(np.float32) for values in (score, expected, error)))


@pytest.mark.parametrize("bend", [0.0, 4.0])
@pytest.mark.parametrize("rows", [0, 1, 255, 256, 257, 1000])
def test_scores_and_reasons_follow_the_formula(rows: int, bend: float) -> None:
    model = replace(network(), bend=bend)
    x = (np.random.default_rng(rows).normal(0, 1, (rows, 7)) * 60).astype(np.float32)
    found, wanted = model.explain(x), by_formula(model, x)
    assert found.expected.shape == found.error.shape == (rows, 7)
    np.testing.assert_allclose(found.score, wanted.score, rtol=2e-4)
    np.testing.assert_allclose(found.expected, wanted.expected, rtol=2e-4, atol=2e-3)
    np.testing.assert_allclose(found.error, wanted.error, rtol=5e-4, atol=5e-4)


def test_a_row_has_the_same_bits_alone_in_any_block_and_explained() -> None:
    model = network()
    x = (np.random.default_rng(3).normal(0, 1, (700, 7)) * 60).astype(np.float32)
    together = model.score(x)
    assert model.explain(x).score.tobytes() == together.tobytes()
    assert np.concatenate([model.score(x[i : i + 1]) for i in range(700)]).tobytes() == together.tobytes()


def test_what_lies_far_outside_keeps_a_sane_expectation() -> None:
    model = network()
    x = np.full((1, 7), 1e30, np.float32)
    found, wanted = model.explain(x), by_formula(model, x)
    np.testing.assert_allclose(found.expected, wanted.expected, rtol=1e-3)
    assert (found.error == model.limit**2).all()


def test_a_nan_stays_in_its_row() -> None:
    model = network()
    x = np.zeros((3, 7), np.float32)
    x[1, 2] = np.nan
    score = model.explain(x).score
    assert np.isnan(score).tolist() == [False, True, False]


@pytest.mark.parametrize("plain", [False, True])
def test_less_than_expected_counts_nothing_where_only_more_is_suspicious(plain: bool, tmp_path: Path) -> None:
    model = network()
    least = np.where(np.arange(7) < 3, 0, -model.limit).astype(np.float32)
    sided = replace(model, least=least, plain=plain)
    x = (np.random.default_rng(4).normal(0, 1, (600, 7)) * 60).astype(np.float32)
    found, wanted, both = sided.explain(x), by_formula(sided, x), model.explain(x)
    np.testing.assert_allclose(found.score, wanted.score, rtol=2e-4)
    np.testing.assert_allclose(found.error, wanted.error, rtol=5e-4, atol=5e-4)
    less = (both.error > 1e-3) & (x < both.expected)
    assert less[:, :3].any()
    assert (found.error[:, :3][less[:, :3]] == 0).all()
    np.testing.assert_array_equal(found.error[:, 3:], both.error[:, 3:])
    np.testing.assert_allclose(found.error[:, :3][~less[:, :3]], both.error[:, :3][~less[:, :3]], atol=1e-3)
    sided.save(tmp_path / "network.npz")
    assert Network.load(tmp_path / "network.npz").score(x).tobytes() == found.score.tobytes()


def test_a_file_made_before_there_were_sides_scores_as_it_did(tmp_path: Path) -> None:
    model = network()
    model.save(tmp_path / "network.npz")
    with np.load(tmp_path / "network.npz") as file:
        assert "least" not in file
    x = (np.random.default_rng(5).normal(0, 1, (300, 7)) * 60).astype(np.float32)
    loaded = Network.load(tmp_path / "network.npz").score(x)
    assert loaded.tobytes() == replace(model, least=np.full(7, -model.limit, np.float32)).score(x).tobytes()
