"""Cars: unlabelled failures among the training rows, bumps that are none, and which sensor gets the blame."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs.sandbox.fleet import FAILURE_KINDS, WHEELS, Fleet, history
from beam_jobs.use_case import load_use_case
from bench.accuracy.detector import try_on
from bench.accuracy.figures import Found

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

BUDGET = 1e-4
ROWS = 80_000  # of the history, its failures included
FLEETS, CARS, STEPS = 4, 200, 300  # unseen ones for each training, 60,000 rows each
SHARES = {"0": 0.0, "0_1": 0.001, "1": 0.01, "5": 0.05}  # of the rows that are failures nobody has labelled
TASKS = (*SHARES, "again")  # "again": without failures once more, with another seed, for the rate of alerts


@dataclass(frozen=True)
class Cars:
    """Events of a fleet."""

    x: Floats  # [n, F]
    car: NDArray[np.uint64]  # [n]
    kind: NDArray[np.str_]  # [n], of the failure the row shows; "false": none
    blame: NDArray[np.bool_]  # [n, F], features that show it


def measure(name: str, seed: int) -> Found:
    """One share of failures, trained once."""
    found = Found(f"cars.{name}")
    train, validation = _unlabelled(SHARES.get(name, 0.0), seed + 1000 * (name == "again"))
    config = load_use_case("car_sensors").model.of_kind()
    made = try_on(found, train.x, train.car, validation.x, validation.car, config, seed)
    if made is None:
        return found
    worlds = [_fleet(10_000 * (1 + (name == "again")) + 10 * seed + i) for i in range(FLEETS)]
    cars = _concat(worlds)
    score, blamed = made.explain(cars.x)
    alerts = score > made.threshold(BUDGET)
    normal, bump = cars.kind == "false", _bumps(cars.x)
    found.add("rate_over_budget", alerts[normal].mean() / BUDGET)
    found.add("bump_rate_over_budget", alerts[normal & bump].mean() / BUDGET)
    if name == "again":
        return found
    top = np.take_along_axis(cars.blame, blamed[:, None], axis=1)[:, 0]
    found.add("top_1", top[~normal].mean())
    found.add("top_1_of_alerts", top[~normal & alerts].mean() if (~normal & alerts).any() else 0)
    for kind in FAILURE_KINDS:
        found.add(f"recall_{kind}", alerts[cars.kind == kind].mean())
    return found


def _unlabelled(share: float, seed: int) -> tuple[Cars, Cars]:
    """Training and validation rows, by car: the sound ones, and whole failing cars until the share is reached."""
    cars, rng = _history(seed), np.random.default_rng((seed, 5))
    sound = np.flatnonzero(cars.kind == "false")
    failed = np.flatnonzero(cars.kind != "false")
    failing = rng.permutation(np.unique(cars.car[failed]))
    place = np.argsort(failing)[np.searchsorted(np.sort(failing), cars.car[failed])]  # of a row's car in that order
    chosen = failed[np.argsort(place, kind="stable")][: round(share / (1 - share) * len(sound))]
    part = rng.permutation(int(cars.car.max()) + 1) % 5  # of each car: 60 % training, 20 % validation
    rows = rng.permutation(np.concatenate([sound, chosen]))
    of = part[cars.car[rows].astype(np.int64)]
    return _some(cars, rows[of < 3]), _some(cars, rows[of == 3])


def _some(cars: Cars, rows: NDArray[np.int64]) -> Cars:
    return Cars(*(getattr(cars, part)[rows] for part in Cars.__annotations__))


@lru_cache(maxsize=1)
def _history(seed: int) -> Cars:
    return _concat([_cars(block, {}) for block in history(ROWS, seed)])


@lru_cache(maxsize=FLEETS)
def _fleet(seed: int) -> Cars:
    fleet = Fleet(CARS, seed, prevalence=0.1, interval=1.0, span=STEPS, label="kind")
    features = {car: failure.features for car, failure in fleet.failures.items()}
    return _cars(fleet.step(STEPS), features)


def _concat(parts: list[Cars]) -> Cars:
    return Cars(*(np.concatenate([getattr(p, name) for p in parts]) for name in Cars.__annotations__))


def _cars(block: pa.RecordBatch, failing: dict[str, tuple[str, ...]]) -> Cars:
    """Events as the model sees them; none of this world's is filtered out."""
    preprocessor = load_use_case("car_sensors").preprocessor()
    names = preprocessor.features
    rows = preprocessor.apply(block).rows
    x = np.stack([rows[name].to_numpy() for name in names], axis=1)
    kind = np.array(block["failure_occurred"].to_pylist())
    ids = block["car_id"].to_pylist()
    blame = np.zeros(x.shape, np.bool_)
    for car, features in failing.items():
        shown = {*features, *(("vibration_per_speed",) if "engine_vibration_amplitude" in features else ())}
        mine = (np.array(ids) == car) & (kind != "false")
        blame[mine] = [name in shown for name in names]
    return Cars(x, np.array([int(car[-6:]) for car in ids], np.uint64), kind, blame)


def _bumps(x: Floats) -> Bools:
    """Rows in which every wheel jolts at once: 2 to 3 m/s² where smooth road has 0 to 1."""
    names = load_use_case("car_sensors").preprocessor().features
    jolts = x[:, [names.index(f"accelerometer_{wheel}_value") for wheel in WHEELS]]
    return np.asarray(jolts.min(axis=1) >= 1.5)
