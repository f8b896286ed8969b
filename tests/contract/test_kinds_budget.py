"""Features that come in steps, such as counts: every kind keeps the alert budget on them, and still sees outliers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.kinds import KINDS
from model.kinds.protocol import FittedModel, Training
from model.kinds.steps import Steps
from model.rows import Floats, Part
from model.training.distribution import ScoreDistribution

SETTINGS: dict[str, dict[str, Any]] = {
    "autoencoder": {"hidden": [8, 4, 8], "epochs": 3},
    "average": {"of": [{"kind": "robust_distance"}, {"kind": "isolation_forest"}]},
    "isolation_forest": {},
    "robust_distance": {},
    "tail_probability": {},
}
BUDGET = 0.01
FEATURES = ("amount", "age", "tries", "visits", "flag")


def sound(rng: np.random.Generator, n: int) -> Floats:
    """Two measures, a count that is 0 in nine of ten, another count, a flag that is 0 in 97 of 100."""
    tries = np.where(rng.random(n) < 0.9, 0, 1 + rng.poisson(0.3, n))
    columns = [rng.lognormal(3, 0.6, n), rng.normal(40, 9, n), tries, rng.poisson(2, n), rng.random(n) < 0.03]
    return np.stack(columns, axis=1).astype(np.float32)


def part(x: Floats) -> Part:
    return Part(x, np.arange(len(x), dtype=np.uint64) % 40, np.zeros(len(x), np.int64))


def fitted(name: str, train: Floats, validation: Floats, seed: int, logs: Path) -> FittedModel:
    kind = KINDS.get(name)
    own = kind.settings(**SETTINGS[name])
    return kind.fit(Training(part(train), part(validation), FEATURES, own, seed, None, logs, lambda *_: None))


def threshold(made: FittedModel) -> float:
    judged = made.validation
    return ScoreDistribution.fit(judged.scores[~judged.left_out]).fit_threshold(BUDGET, judged.cut).threshold


@pytest.mark.parametrize("name", SETTINGS)
def test_steps_do_not_break_the_budget(name: str, tmp_path: Path) -> None:
    rates = []
    for seed in range(1 if name == "autoencoder" else 3):
        rng = np.random.default_rng(seed)
        made = fitted(name, sound(rng, 6000), sound(rng, 2000), seed, tmp_path)
        assert not made.train.left_out.any()
        rates.append(float((made.scorer.score(sound(rng, 20_000)) > threshold(made)).mean()))
    assert 0.5 * BUDGET < np.mean(rates) < 1.4 * BUDGET
    assert max(rates) < 2 * BUDGET


@pytest.mark.parametrize("name", ["average", "robust_distance"])  # of the others, how far is no matter of scores
def test_what_lies_beyond_all_steps_is_left_out(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    train, validation = sound(rng, 6000), sound(rng, 2000)
    strange = rng.random(len(train)) < 0.01
    train[strange, 0] *= 1000
    train[strange, 2] = 500
    left_out = fitted(name, train, validation, 3, tmp_path).train.left_out
    assert left_out[strange].all()
    assert left_out[~strange].mean() < 0.001


def test_a_step_is_blurred_as_far_as_the_next_begins_and_a_sentinel_is_none() -> None:
    rng = np.random.default_rng(4)
    rows = np.stack([rng.poisson(0.3, 5000), rng.normal(size=5000), np.zeros(5000)], axis=1).astype(np.float32)
    rows[:5, 0] = 999
    steps = Steps.of(rows)
    blurred = steps.blurred(rows, rng)
    assert np.array_equal(blurred[:, 1:], rows[:, 1:])  # measures, and what is always the same
    assert np.abs(blurred[:, 0] - rows[:, 0]).max() <= 0.5
    assert len(np.unique(blurred[:, 0])) > 4000
    ordered = np.sort(blurred[5:, 0])
    assert np.diff(ordered[:4900]).max() < 0.2  # no edge is left
    assert not Steps.of(rows[:, 1:])
    unseen = np.full((3, 3), 7, np.float32)
    assert np.array_equal(steps.blurred(unseen, rng), unseen)
