"""The six features: alerts on unseen normal rows, strange readings found, what training said."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import UserError
from bench.accuracy import peers
from bench.accuracy.detector import train_on
from bench.accuracy.figures import Found
from bench.accuracy.world import CASES, draw, struck
from model.autoencoder import NetworkConfig

BUDGET = 0.01
SIZES = (45, 10, 5)  # standard deviations of one feature
CONFIG = NetworkConfig(hidden=(8, 3, 8))
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
    try:
        made = train_on(world.train, world.train_keys, world.validation, world.validation_keys, CONFIG, seed)
    except UserError as error:
        found.refused(str(error))
        return found
    found.said(made.doubt)
    found.add("left_out", made.left_out)
    threshold = made.threshold(BUDGET)
    alerts = made.score(test.x) > threshold
    found.add("rate", _share(alerts))
    if test.state.any():
        found.add("state_rate", _share(alerts[test.state]))
    for size, (rows, which) in readings.items():
        said = made.explain(rows)
        hit = said.score > threshold
        found.add(f"found_{size}", _share(hit))
        found.add(f"top_1_{size}", _share(said.error.argmax(axis=1) == which))
        if case.odd:
            found.add(f"odd_found_{size}", _share(hit[np.isin(which, case.odd)]))
    return found


def _share(rows: NDArray[np.bool_]) -> float:
    return float(rows.mean())
