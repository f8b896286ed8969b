"""What memory is worth: cars that fail at once and cars that fail slowly, found with and without window features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs.sandbox.fleet import FAILURE_KINDS, SLOW_KINDS, Failure, Fleet
from beam_jobs.use_case import load_use_case
from bench.accuracy.detector import try_on
from bench.accuracy.figures import Found

BUDGET = 1e-4
INTERVAL_S, STEPS = 10.0, 1080  # three hours of a car
FIRST_MS = 4_500_000  # left out, with and without memory: windows fill, and hold the minutes of a cold engine
CARS, EVERY = 400, 4  # to train on, the fourth event of each: a car's are alike, and of few a network learns the cars
FLEETS, FLEET_CARS = 2, 200  # unseen ones for each training
SPAN_S = 9_900.0  # failures come in the first 80 % of it
KINDS = FAILURE_KINDS + SLOW_KINDS
TASKS = ("car_sensors", "car_sensors_history")


@dataclass(frozen=True)
class Cars:
    """Events of a fleet behind ``FIRST_MS``, as a use case sees them, in order of time."""

    x: NDArray[np.float32]  # [n, F]
    car: NDArray[np.uint64]  # [n]
    time_ms: NDArray[np.int64]  # [n]


def measure(name: str, seed: int) -> Found:
    """One use case, trained once on sound cars and judged by others."""
    found = Found(f"history.{name}")
    cars = _cars(name, Fleet(CARS, seed, 0.0, interval=INTERVAL_S), EVERY)
    rng = np.random.default_rng((seed, 5))
    part = rng.permutation(CARS) % 5  # of each car: 60 % training, 20 % validation
    rows = rng.permutation(len(cars.x))
    of = part[cars.car[rows].astype(np.int64)]
    train, validation = rows[of < 3], rows[of == 3]
    config = load_use_case(name).model.of_kind()
    made = try_on(found, cars.x[train], cars.car[train], cars.x[validation], cars.car[validation], config, seed)
    if made is None:
        return found
    normal: list[NDArray[np.float32]] = []  # scores of rows without a failure, by fleet
    failing: list[tuple[Failure, NDArray[np.float32], NDArray[np.int64]]] = []  # with scores and times from then on
    for number in range(FLEETS):
        fleet = _fleet(10_000 * (number + 1) + seed)
        cars = _cars(name, fleet)
        score = made.score(cars.x)
        since = np.full(FLEET_CARS, np.iinfo(np.int64).max)
        for car, failure in fleet.failures.items():
            since[int(car[-6:])] = failure.time_ms
        shows = cars.time_ms >= since[cars.car.astype(np.int64)]
        normal.append(score[~shows])
        for car, failure in fleet.failures.items():
            if failure.time_ms >= fleet.start_time + FIRST_MS:
                mine = shows & (cars.car == int(car[-6:]))
                failing.append((failure, score[mine], cars.time_ms[mine]))
    sound = np.concatenate(normal)
    found.add("rate_over_budget", (sound > made.threshold(BUDGET)).mean() / BUDGET)
    limit = np.quantile(sound, 1 - BUDGET)  # with and without memory as many false alerts
    for kind in KINDS:
        cases = [(score > limit, times - failure.time_ms) for failure, score, times in failing if failure.kind == kind]
        found.add(f"recall_{kind}", np.concatenate([alerts for alerts, _ in cases]).mean())
        found.add(f"found_{kind}", sum(alerts.any() for alerts, _ in cases) / len(cases))
        # A car that nobody finds counts with all the time in which it could have been.
        first = [after[alerts][0] if alerts.any() else after[-1] for alerts, after in cases]
        found.add(f"delay_{kind}", sum(first) / len(first) / 1000)
    return found


def _fleet(seed: int) -> Fleet:
    return Fleet(FLEET_CARS, seed, 0.5, interval=INTERVAL_S, span=SPAN_S, slow=True)


def _cars(name: str, fleet: Fleet, every: int = 1) -> Cars:
    """Three hours of a fleet, of each car one event of ``every``; windows see all of them."""
    preprocessor = load_use_case(name).preprocessor()
    block = fleet.step(STEPS)
    rows = preprocessor.apply(block, preprocessor.history()).rows
    assert rows.num_rows == block.num_rows  # none of this world's is filtered out
    times = block["event_time"].cast(pa.int64()).to_numpy()
    kept = times >= fleet.start_time + FIRST_MS
    ids = np.array([int(car[-6:]) for car in block["car_id"].to_pylist()], np.uint64)
    kept &= (np.arange(len(ids)) // fleet.cars + ids.astype(np.int64)) % every == 0
    x = np.stack([rows[feature].to_numpy() for feature in preprocessor.features], axis=1)
    return Cars(x[kept], ids[kept], times[kept])
