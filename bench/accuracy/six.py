"""The six features: alerts on unseen normal rows, strange readings found, what training said."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.accuracy import peers
from bench.accuracy.detector import Detector, train_on, try_on
from bench.accuracy.figures import Found
from bench.accuracy.world import CASES, FEATURES, World, draw, struck
from model.kinds.autoencoder.settings import NetworkConfig
from model.outliers.groups import find_groups
from model.training.normal import Condition, compile_normal

BUDGET = 0.01
SIZES = (45, 10, 5)  # standard deviations of one feature
CONFIG = NetworkConfig(hidden=(8, 3, 8))
NAMES = tuple(f"f{i}" for i in range(FEATURES))
TASKS = tuple(case.name for case in CASES)


def measure(name: str, seed: int) -> Found:
    """One case, trained once."""
    case = next(case for case in CASES if case.name == name)
    world, found = draw(case, seed), Found(f"six.{name}")
    test, normal = world.test, world.test.x[~world.test.state]
    readings = {size: struck(normal, size, seed) for size in SIZES}
    for peer, make in peers.PEERS.items():
        score = make(world.train, seed)
        threshold = peers.threshold(score(world.validation), BUDGET)
        found.add(f"{peer}_rate", _share(score(test.x) > threshold))
        for size, (rows, _) in readings.items():
            found.add(f"{peer}_found_{size}", _share(score(rows) > threshold))
    made = try_on(found, world.train, world.train_keys, world.validation, world.validation_keys, CONFIG, seed)
    if made is None:
        return found
    threshold = made.threshold(BUDGET)
    alerts = made.score(test.x) > threshold
    found.add("rate", _share(alerts))
    for size, (rows, which) in readings.items():
        scores, blamed = made.explain(rows)
        hit = scores > threshold
        found.add(f"found_{size}", _share(hit))
        found.add(f"top_1_{size}", _share(blamed == which))
        if case.odd:
            found.add(f"odd_found_{size}", _share(hit[np.isin(which, case.odd)]))
    if test.state.any():
        found.add("state_rate", _share(alerts[test.state]))
        _call_normal(world, made, seed, found)
    return found


def _call_normal(world: World, made: Detector, seed: int, found: Found) -> None:
    """What a person does who finds the rare state in the report: calls those groups normal and trains again."""
    lost = made.left_out & world.train_state
    no_times = np.zeros(len(lost), np.int64)
    rows = world.train.astype(np.float32)
    groups, _ = find_groups(rows, world.train_keys, no_times, made.left_out, made.deviations, NAMES)
    inside = [compile_normal([Condition(group.where, group.name)], NAMES) for group in groups]
    mine = [holds for holds in inside if holds and _share(world.train_state[holds(rows) & made.left_out]) > 0.5]

    def normal(some: NDArray[np.float32]) -> NDArray[np.bool_]:
        return np.any([holds(some) for holds in mine], axis=0) if mine else np.zeros(len(some), np.bool_)

    found.add("state_left_out", lost.sum() / world.train_state.sum())
    found.add("named", _share(normal(rows)[lost]) if lost.any() else 1.0)
    if mine:  # otherwise there is nothing to call normal: all stays as it is
        parts = (world.train, world.train_keys, world.validation, world.validation_keys)
        made = train_on(*parts, CONFIG, seed, normal)
    alerts = made.score(world.test.x) > made.threshold(BUDGET)
    found.add("called_normal_rate", _share(alerts))
    found.add("called_normal_state_rate", _share(alerts[world.test.state]))


def _share(rows: NDArray[np.bool_]) -> float:
    return float(rows.mean())
