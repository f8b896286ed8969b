"""The network in physical units: of any unit, in Keras, in its files and in the compiled loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.kinds import tf
from model.kinds.autoencoder import keras_network
from model.kinds.autoencoder.keras_network import ResidualModel, Selected, _core, assemble, batches, compiled, export
from model.kinds.autoencoder.scaling import Scaling
from model.kinds.autoencoder.settings import NetworkConfig

UNITS = np.array([1e-30, 1e-12, 1e-7, 1, 1e6, 1e15, 1e18])
LARGEST = np.finfo(np.float32).max


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """In spreads."""
    random = np.random.default_rng(0)
    return 3 + random.normal(size=(2000, 2)) @ random.normal(size=(2, 7)) + 0.3 * random.normal(size=(2000, 7))


@pytest.mark.parametrize("rule", [{}, {"only_more": np.arange(7) % 2 == 0, "variance": True}])
def test_the_unit_of_a_feature_does_not_matter(rows: np.ndarray, tmp_path: Path, rule: dict[str, Any]) -> None:
    tf.keras().utils.set_random_seed(1)
    core = _core(7, NetworkConfig(hidden=(4, 2, 4)))
    residuals = ResidualModel.fit(np.random.default_rng(1).normal(size=(500, 7)), **rule)
    x = (rows * UNITS).astype(np.float32)
    plain = compiled(core, Scaling.fit(rows.astype(np.float32)), residuals).explain(rows.astype(np.float32))
    scaling = Scaling.fit(x)
    network, ours = assemble(core, scaling, residuals), compiled(core, scaling, residuals).explain(x)
    np.testing.assert_allclose(ours.score, plain.score, rtol=1e-3)
    np.testing.assert_allclose(ours.expected / UNITS, plain.expected, rtol=1e-3, atol=1e-3)
    export(network, tmp_path)
    saved = tf.tensorflow().saved_model.load(str(tmp_path / "saved_model"))
    for other in (network, tf.keras().saving.load_model(tmp_path / "model.keras"), saved.serve):
        said = other(tf.tensorflow().constant(x))
        np.testing.assert_allclose(said["score"], ours.score, rtol=1e-3)
        np.testing.assert_allclose(said["error"], ours.error, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(said["expected"] / UNITS, ours.expected / UNITS, rtol=1e-3, atol=1e-3)


def test_any_finite_row_has_a_finite_score(rows: np.ndarray) -> None:
    core = _core(7, NetworkConfig(hidden=(4, 2, 4)))
    residuals = ResidualModel.fit(np.random.default_rng(1).normal(size=(500, 7)))
    scaling = Scaling.fit((rows * UNITS).astype(np.float32))
    wild = np.random.default_rng(2).choice([0, 1e-45, -1, 65535, 1e25, LARGEST, -LARGEST], (500, 7)).astype(np.float32)
    ours = compiled(core, scaling, residuals).explain(wild)
    said = assemble(core, scaling, residuals)(wild, training=False)
    for found, wanted in ((ours.score, said["score"]), (ours.error, said["error"]), (ours.expected, said["expected"])):
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


def test_correlated_residuals_predict_each_other() -> None:
    random = np.random.default_rng(0)
    common = random.normal(size=(5000, 1))
    residuals = np.hstack([common + 0.1 * random.normal(size=(5000, 2)), random.normal(size=(5000, 1))])
    fitted = ResidualModel.fit(residuals)
    assert fitted.deviation_spread[0] < 0.3  # of a residual that another one tells
    assert fitted.deviation_spread[2] == pytest.approx(1, abs=0.1)


def test_each_epoch_has_its_rows_in_an_order_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras_network, "CHUNK_ROWS", 300)
    rows = np.arange(1000, dtype=np.float32).reshape(-1, 1)
    scaling = Scaling(np.zeros(1), np.full(1, 1000.0), np.zeros(1, np.bool_))

    def epochs(seed: int) -> list[list[float]]:
        data = batches(rows, scaling, 64, seed, selected)
        found = [[x.numpy() for x, _ in data] for _ in range(2)]
        assert [len(x) for x in found[0]] == [64] * (selected.count // 64) + [selected.count % 64]
        return [np.concatenate(epoch)[:, 0].tolist() for epoch in found]

    selected = Selected(np.ones(1000, np.bool_), 0.0)
    first, second = epochs(7)
    assert first != second
    assert sorted(first) == sorted(second) == scaling.scale(rows)[:, 0].tolist()
    assert epochs(7) == [first, second]
    selected = Selected(rows[:, 0] >= 200, 0.1)
    assert selected.count == 720
    selected.learnt = rows[:, 0] >= 280
    assert sorted(epochs(7)[0]) == scaling.scale(rows[280:])[:, 0].tolist()
