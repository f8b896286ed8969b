"""A version is loaded only as it was trained; its scores explain themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from beam_jobs.errors import UserError
from beam_jobs.sandbox.fleet import history
from beam_jobs.use_case import load_use_case
from model import manifest
from model.kinds import tf
from model.kinds.autoencoder.network import FILE_NAME as NETWORK_FILE
from model.kinds.autoencoder.network import Network
from model.loaded import GOLDEN_FILE, LoadedModel, read_golden, write_golden
from model.training.train import Trained

TRAINING = {"tensorflow", "keras", "sklearn", "matplotlib", "tensorboard"}


@pytest.fixture(scope="module")
def model(trained: Trained) -> LoadedModel:
    return LoadedModel.load(trained.path)


@pytest.fixture(scope="module")
def rows(trained: Trained) -> np.ndarray:
    """Normal rows, float32 [n, F]."""
    blocks = history(1000, seed=8, cars=120, prevalence=0)
    features = load_use_case("car_sensors").preprocessor()
    rows = pa.Table.from_batches(features.apply(block).rows for block in blocks)
    return np.stack([rows[name].to_numpy() for name in trained.manifest.features], axis=1)[:500]


def rehash(version: Path) -> None:
    """Makes the manifest agree with the files, as whoever tampers on purpose would."""
    described = manifest.read(version)
    text = replace(described, files=manifest.file_hashes(version)).to_json()
    (version / manifest.FILE_NAME).write_text(text, encoding="utf-8")


def test_scores_have_the_shapes_they_promise(model: LoadedModel, rows: np.ndarray) -> None:
    scores = model.explain(rows)
    assert scores.score.shape == (500,)
    assert scores.expected.shape == scores.error.shape == rows.shape
    assert {a.dtype for a in (scores.score, scores.expected, scores.error)} == {np.dtype(np.float32)}
    assert (scores.error >= 0).all()
    np.testing.assert_allclose(scores.score, np.sqrt((scores.error**2).mean(axis=1)), rtol=1e-4)


def test_scoring_needs_nothing_that_only_training_does(trained: Trained) -> None:
    """Loading and scoring work where nothing of it can be imported, and do not ask for it: they would where it can."""
    code = f"""
import sys
from pathlib import Path

class Absent:
    asked = set()

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {TRAINING!r}:
            self.asked.add(name)
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
import numpy as np
import beam_jobs.score
from model.loaded import LoadedModel
model = LoadedModel.load(Path({str(trained.path)!r}))
assert model.explain(np.zeros((3, 19), np.float32)).error.shape == (3, 19)
assert not Absent.asked, Absent.asked
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_scores_do_not_depend_on_the_block(model: LoadedModel, rows: np.ndarray) -> None:
    parts = [model.score(part) for part in (rows[:1], rows[1:77], rows[77:])]
    np.testing.assert_array_equal(np.concatenate(parts), model.score(rows))  # the same bits
    assert model.score(rows[:0]).shape == (0,)
    assert model.explain(rows[:0]).expected.shape == (0, rows.shape[1])


def test_the_explanation_has_the_same_score(model: LoadedModel, rows: np.ndarray) -> None:
    np.testing.assert_allclose(model.explain(rows).score, model.score(rows), rtol=1e-4)


def test_expected_values_are_in_physical_units(model: LoadedModel, rows: np.ndarray) -> None:
    expected = model.explain(rows).expected
    spread = rows.std(axis=0) + 0.01 * np.abs(rows).max(axis=0)
    assert (np.abs(expected.mean(axis=0) - rows.mean(axis=0)) < spread).all()


@pytest.mark.parametrize(
    ("feature", "factor", "shift"),
    [("control_unit_firmware", 0.5, 0), ("tire_pressure_2_1", 1, -12), ("current_draw", 5, 20)],
)
def test_a_broken_sensor_raises_the_score_and_is_named(
    model: LoadedModel, rows: np.ndarray, feature: str, factor: float, shift: float
) -> None:
    column = model.manifest.features.index(feature)
    broken = rows.copy()
    broken[:, column] = factor * broken[:, column] + shift
    scores = model.explain(broken)
    assert np.median(scores.score) > 5 * np.median(model.score(rows))
    assert np.mean(scores.error.argmax(axis=1) == column) > 0.9


def test_absurd_but_finite_values_have_finite_scores(model: LoadedModel, rows: np.ndarray) -> None:
    for value in (1e30, -1e30, 0.0):
        scores = model.explain(np.full_like(rows[:3], value))
        assert np.isfinite(model.score(np.full_like(rows[:3], value))).all()
        assert np.isfinite(scores.score).all()
        assert np.isfinite(scores.expected).all()
        assert np.isfinite(scores.error).all()


def test_several_threads_may_score(model: LoadedModel, rows: np.ndarray) -> None:
    alone = model.score(rows)
    with ThreadPoolExecutor(4) as pool:
        for scores in pool.map(model.score, [rows] * 16):
            np.testing.assert_array_equal(scores, alone)


def test_the_keras_file_gives_the_same_scores_without_this_package(model: LoadedModel, rows: np.ndarray) -> None:
    network = tf.keras().saving.load_model(model.path / "model.keras")
    np.testing.assert_allclose(np.asarray(network(rows)["score"]), model.score(rows), rtol=1e-3)


def test_without_the_compiled_network_tensorflow_scores_the_saved_model(
    version: Path, model: LoadedModel, rows: np.ndarray
) -> None:
    (version / NETWORK_FILE).unlink()
    rehash(version)
    graph = LoadedModel.load(version)
    np.testing.assert_allclose(graph.score(rows), model.score(rows), rtol=1e-3)
    np.testing.assert_allclose(graph.explain(rows).expected, model.explain(rows).expected, rtol=1e-3, atol=1e-2)


def test_without_the_compiled_network_and_tensorflow_the_remedy_is_told(
    version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (version / NETWORK_FILE).unlink()
    rehash(version)
    monkeypatch.setattr(tf, "_loaded", {})
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UserError, match=r"needs TensorFlow, .* run pip install 'highbeam\[train\]'"):
        LoadedModel.load(version)


def test_a_version_that_names_no_kind_is_an_autoencoder(version: Path, model: LoadedModel, rows: np.ndarray) -> None:
    path = version / manifest.FILE_NAME
    described = json.loads(path.read_text(encoding="utf-8"))
    assert described.pop("kind") == "autoencoder"
    path.write_text(json.dumps(described), encoding="utf-8")
    np.testing.assert_array_equal(LoadedModel.load(version).score(rows), model.score(rows))


@pytest.mark.parametrize("name", ["score", "error"])
def test_golden_vectors_must_hold_what_the_model_says(version: Path, name: str) -> None:
    x, scores = read_golden(version / GOLDEN_FILE)
    changed = replace(scores, error=None) if name == "error" else replace(scores, score=scores.score * np.nan)
    write_golden(version / GOLDEN_FILE, x, changed)
    rehash(version)
    with pytest.raises(UserError, match=f"{name} differs by inf"):
        LoadedModel.load(version)


def test_a_missing_reading_has_no_score(model: LoadedModel, rows: np.ndarray) -> None:
    broken = rows[:3].copy()
    broken[1, 4] = np.nan
    np.testing.assert_array_equal(np.isfinite(model.score(broken)), [True, False, True])


def test_layers_that_do_not_fit_are_refused(version: Path) -> None:
    network = Network.load(version / NETWORK_FILE)
    short = replace(network, layers=(replace(network.layers[0], bias=network.layers[0].bias[:-1]), *network.layers[1:]))
    short.save(version / NETWORK_FILE)
    rehash(version)
    with pytest.raises(UserError, match=r"network\.npz: the layers don't fit together"):
        LoadedModel.load(version)


def test_a_changed_file_is_refused(version: Path) -> None:
    with (version / "model.keras").open("ab") as file:
        file.write(b"!")
    with pytest.raises(UserError, match=r"model\.keras has changed since it was trained"):
        LoadedModel.load(version)


def test_a_missing_file_is_refused(version: Path) -> None:
    (version / "saved_model" / "fingerprint.pb").unlink()
    with pytest.raises(UserError, match=r"fingerprint\.pb is missing"):
        LoadedModel.load(version)


def test_an_added_file_is_refused(version: Path) -> None:
    (version / "saved_model" / "assets" / "code.txt").write_text("")
    with pytest.raises(UserError, match=r"code\.txt is not in the manifest"):
        LoadedModel.load(version)


def test_golden_vectors_that_are_not_repeated_are_refused(version: Path) -> None:
    x, scores = read_golden(version / GOLDEN_FILE)
    score = scores.score.copy()
    score[0] *= 1.01
    write_golden(version / GOLDEN_FILE, x, replace(scores, score=score))
    rehash(version)
    with pytest.raises(UserError, match=r"golden\.parquet: score differs by .* from when the model was trained"):
        LoadedModel.load(version)


def test_golden_vectors_of_other_features_are_refused(version: Path) -> None:
    x, scores = read_golden(version / GOLDEN_FILE)
    write_golden(version / GOLDEN_FILE, x[:, 1:], scores)
    rehash(version)
    with pytest.raises(UserError, match="features, the manifest has"):
        LoadedModel.load(version)


def test_a_model_that_can_not_be_read_is_refused(version: Path) -> None:
    (version / NETWORK_FILE).unlink()
    (version / "saved_model" / "saved_model.pb").write_bytes(b"no graph")
    rehash(version)
    with pytest.raises(UserError, match="saved_model can't be loaded"):
        LoadedModel.load(version)


def test_a_folder_without_a_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"manifest\.json: No such file"):
        LoadedModel.load(tmp_path)
