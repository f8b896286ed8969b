"""The net to beat, as Keras calculates it and as it is loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from beam_jobs.errors import UserError
from model.kinds.car_baseline.kind import KIND, NoSettings
from model.kinds.car_baseline.network import RANGES
from model.kinds.protocol import Training
from model.rows import Part


def part(n: int, seed: int) -> Part:
    random = np.random.default_rng(seed)
    x = np.stack([random.uniform(*(limits or (0, 1)), n) for limits in RANGES.values()], axis=1).astype(np.float32)
    return Part(x, np.zeros(n, np.uint64), np.zeros(n, np.int64))


def training(features: tuple[str, ...]) -> Training[NoSettings]:
    return Training(part(400, 1), part(100, 2), features, NoSettings(), 3, None, Path(), lambda *_: None)


def test_it_is_loaded_as_it_was_trained(tmp_path: Path) -> None:
    fitted = KIND.fit(training(tuple(RANGES)))
    fitted.save(tmp_path)
    loaded, x = KIND.load(tmp_path), part(1000, 4).x[:]
    scores = loaded.score(x)
    np.testing.assert_allclose(scores, fitted.scorer.score(x), rtol=1e-4)
    np.testing.assert_array_equal(np.concatenate([loaded.score(x[:7]), loaded.score(x[7:])]), scores)
    assert loaded.explain(x).error is None
    assert loaded.score(x[:0]).shape == (0,)
    assert not fitted.train.left_out.any()
    np.testing.assert_array_equal(KIND.fit(training(tuple(RANGES))).validation.scores, fitted.validation.scores)


def test_a_feature_that_it_needs_is_named() -> None:
    with pytest.raises(UserError, match=r"car_baseline needs the feature speed; .* --no-baseline"):
        KIND.fit(training(tuple(name for name in RANGES if name != "speed")))


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "baseline.npz").write_bytes(b"none")
    with pytest.raises(UserError, match=r"baseline\.npz can't be read .* train again"):
        KIND.load(tmp_path)
