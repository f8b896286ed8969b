"""A simulated fleet: sensor events of many cars, some of which fail, and the truth about which did.

The failures and their size are those of the reference simulator:

=============== ================================================== ===============================
kind            what the sensors show                              published rate per car and step
=============== ================================================== ===============================
tire            one tire at 20-25 instead of 30-35 psi             0.5 %
shock_absorber  one accelerometer at 3-4 instead of 0-1 m/s²,      1 %
                on bumps 5-7 instead of 2-3 m/s²
drive_shaft     vibration 150 instead of 100 times the speed       1 %
overheating     current 2.5 instead of 0.5 times the speed;        0.2 %
                the coolant slowly follows
firmware        control unit back at version 1000 instead of 2000  4 %
=============== ================================================== ===============================

Bumps (5 % of the steps of every car) are no failure. A failure stays.

The reference simulator knows no failure that comes slowly; cars do. With ``slow`` cars fail of these as well, all kinds
as often as each other:

=============== ==================================================
kind            what the sensors show
=============== ==================================================
slow_puncture   one tire loses 3 psi an hour
coolant_loss    the coolant is 6 degrees warmer each hour
weak_battery    the voltage is 2 V lower each hour
worn_bearing    vibration grows by 15 % an hour
stuck_sensor    the coolant's temperature stays at one reading
=============== ==================================================

At those rates nearly every car has failed after a few dozen steps, which no fleet does, so the number of failures is a
parameter instead: ``prevalence`` is the share of cars that fail within ``span``. Kinds get shares in proportion to the
*square root* of their published rate: the order of the rates stays, and the rarest kind (overheating, 3 % in direct
proportion) still gets 9 % of the failures. Car counts are rounded by largest remainder and every kind gets at least one
car as soon as five cars fail. A car fails at most once, at a time drawn uniformly from the first 80 % of the span.

Everything is columnar: one step of the whole fleet is a few dozen numpy operations, whatever its size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import schemas
from beam_jobs.codec.schema import arrow_schema
from beam_jobs.sandbox.owners import Cars, seeds

Floats = NDArray[np.float64]

PUBLISHED_RATES: Mapping[str, float] = MappingProxyType(
    {"tire": 0.005, "shock_absorber": 0.01, "drive_shaft": 0.01, "overheating": 0.002, "firmware": 0.04}
)
"""Kind of failure to its published probability per car and step."""

FAILURE_KINDS = tuple(PUBLISHED_RATES)
SLOW_KINDS = ("slow_puncture", "coolant_loss", "weak_battery", "worn_bearing", "stuck_sensor")
_KINDS = FAILURE_KINDS + SLOW_KINDS
BUMP_RATE = 0.05  # share of steps in which a car passes a bump
LAST_FAILURE = 0.8  # of the span: a car that fails sends events for at least the last fifth of it

WHEELS = ("1_1", "1_2", "2_1", "2_2")  # front left, front right, rear left, rear right

_SPEED_MEMORY_S = 60.0  # s; how long a car keeps about the same speed
_SPEED_MEAN, _SPEED_STD = 24.0, 9.0  # m/s
_COOLANT_MEMORY_S = 45.0  # s
_RANGE_S = 4 * 3600.0  # s; a full battery lasts about four hours


@dataclass(frozen=True)
class Failure:
    """The one failure of one car: from ``time_ms`` on, it stays."""

    car_id: str
    kind: str  # one of FAILURE_KINDS or SLOW_KINDS
    time_ms: int  # milliseconds since the epoch; events at or after it show the failure
    features: tuple[str, ...]  # sensors that show it


class Fleet:
    """Cars that send one event each per step.

    The same arguments give the same events, whatever the numbers of steps they are taken in.

    Args:
      cars: number of cars.
      seed: of everything random.
      prevalence: share of the cars, 0..1, that fail within the span.
      start_time: time of the first step, milliseconds since the epoch.
      interval: seconds between two events of one car.
      span: seconds of simulated time within which ``prevalence`` of the cars fail; nobody fails later.
      label: what ``failure_occurred`` says of a failed car: "true", as the devices do, or the "kind" of the failure.
      slow: cars fail of ``SLOW_KINDS`` as well.
    """

    def __init__(
        self,
        cars: int,
        seed: int = 0,
        prevalence: float = 0.1,
        start_time: int = 1_700_000_000_000,
        interval: float = 0.1,
        span: float = 60.0,
        label: Literal["true", "kind"] = "true",
        slow: bool = False,
    ) -> None:
        if cars < 1 or not 0 <= prevalence <= 1 or interval <= 0 or span <= 0:
            raise ValueError(f"Fleet(cars={cars}, prevalence={prevalence}, interval={interval}, span={span})")
        self.cars, self.interval, self.start_time = cars, interval, start_time
        self.step_count = 0
        self._schema = arrow_schema(schemas.load("car_sensor"))
        plan, drivers, self._motion, self._noise = (np.random.default_rng(s) for s in seeds(seed)[:4])
        self._cars = Cars.drawn(cars, drivers)
        self._heading = drivers.uniform(0, 2 * math.pi, cars)
        self._plan_failures(plan, prevalence, span, slow)
        names = _KINDS if label == "kind" else ("true",) * len(_KINDS)
        self._labels = pa.array(["false", *names], pa.string())
        self._label = self._kind + 1
        self._start_cars(drivers)

    @property
    def failures(self) -> Mapping[str, Failure]:
        """The truth: car_id to its failure, also of those still to come; cars that never fail are not in it."""
        return self._failures

    def has_failed(self, car_id: str, time_ms: int) -> bool:
        """Whether the car shows a failure at that event time."""
        failure = self._failures.get(car_id)
        return failure is not None and failure.time_ms <= time_ms

    @property
    def time_ms(self) -> int:
        """Time of the next step's first event, milliseconds since the epoch."""
        return self.start_time + round(self.step_count * self.interval * 1000)

    def step(self, steps: int = 1) -> pa.RecordBatch:
        """The next events: ``steps`` x ``cars`` rows of the CarSensor schema, in order of event time.

        The cars are spread evenly over the interval, so the load has no beat.
        """
        index = self.step_count + np.arange(steps, dtype=np.int64)
        times = self.start_time + np.rint((index[:, None] + self._phase) * (self.interval * 1000)).astype(np.int64)
        failed = times >= self._failure_time
        hours = np.where(failed, (times - np.minimum(times, self._failure_time)) / 3_600_000, 0.0)  # with the failure
        speed, coolant = self._move(steps, failed)
        battery = np.clip(self._battery - index[:, None] * (self.interval / _RANGE_S * 100), 0, 100)
        self.step_count += steps

        # One draw per step keeps the numbers independent of how many steps are taken at once.
        noise = np.empty((steps, 8, self.cars))
        uniform = np.empty((steps, 9, self.cars))
        for i in range(steps):
            self._noise.standard_normal(out=noise[i])
            self._noise.random(out=uniform[i])

        def is_kind(kind: str) -> NDArray[np.bool_]:
            return failed & (self._kind == _KINDS.index(kind))

        throttle = np.clip(0.05 + 0.85 * speed / 50 + 0.02 * noise[:, 0], 0, 1)
        air_flow = np.clip(3 + 1.6 * speed + 40 * throttle + 1.5 * noise[:, 1], 0, None)
        amperes = np.where(is_kind("overheating"), 2.5, 0.5)
        current = np.clip(amperes * speed + 0.5 * noise[:, 2], 0, None)
        gain = np.where(is_kind("drive_shaft"), 150.0, 100.0 + 15.0 * hours * is_kind("worn_bearing"))
        vibration = np.clip(gain * speed * (1 + 0.02 * noise[:, 3]) + 10 * noise[:, 4], 0, 7500)
        sag = 2.0 * hours * is_kind("weak_battery")
        voltage = np.clip(206 + 0.52 * battery - 0.05 * current + 0.4 * noise[:, 5], 204, 260) - sag
        air_temp = np.clip(self._air_temp + 0.3 * noise[:, 6], 15, 40)
        coolant = np.clip(coolant + 6.0 * hours * is_kind("coolant_loss") + 0.4 * noise[:, 7], 23, 102)
        coolant = np.where(is_kind("stuck_sensor"), self._warm, coolant)

        columns: dict[str, pa.Array] = {
            "car_id": _repeat(self._cars.ids, steps),
            "event_time": pa.array(times.ravel()).cast(pa.timestamp("ms", "UTC")),
            "coolant_temp": coolant,
            "intake_air_temp": air_temp,
            "intake_air_flow_speed": air_flow,
            "battery_percentage": battery,
            "battery_voltage": voltage,
            "current_draw": current,
            "speed": speed,
            "engine_vibration_amplitude": vibration,
            "throttle_pos": throttle,
            "control_unit_firmware": np.where(is_kind("firmware"), 1000, 2000),
            "vin": _repeat(self._cars.vins, steps),
            "driver_name": _repeat(self._cars.drivers, steps),
        }
        bump = uniform[:, 8] < BUMP_RATE
        for i, wheel in enumerate(WHEELS):
            flat = is_kind("tire") & (self._wheel == i)
            worn = is_kind("shock_absorber") & (self._wheel == i)
            # Sound tires stay near the car's own pressure; a flat one is anywhere in 20..25.
            leak = 3.0 * hours * (is_kind("slow_puncture") & (self._wheel == i))
            sound = np.clip(np.rint(self._tire[i] + uniform[:, i] - 0.5 - leak), np.where(leak > 0, 0, 30), 35)
            columns[f"tire_pressure_{wheel}"] = np.where(flat, np.floor(20 + 6 * uniform[:, i]), sound)
            low = np.where(worn, np.where(bump, 5, 3), np.where(bump, 2, 0))
            width = np.where(worn & bump, 2, 1)
            columns[f"accelerometer_{wheel}_value"] = low + width * uniform[:, 4 + i]
        metres = 1e-5 * self.interval * index[:, None]  # degrees; about one metre a second
        columns["latitude"] = self._cars.latitude + metres * np.cos(self._heading)
        columns["longitude"] = self._cars.longitude + metres * np.sin(self._heading)
        columns["failure_occurred"] = self._labels.take(pa.array(np.where(failed, self._label, 0).ravel()))
        return pa.RecordBatch.from_arrays(
            [_as_array(columns[field.name], field.type) for field in self._schema], schema=self._schema
        )

    def _plan_failures(self, rng: np.random.Generator, prevalence: float, span: float, slow: bool) -> None:
        """Chooses which car fails when, of what and at which wheel."""
        self._phase = np.arange(self.cars) / self.cars
        shares = np.ones(len(_KINDS)) if slow else np.sqrt(np.array(list(PUBLISHED_RATES.values())))
        counts = _share_out(round(self.cars * prevalence), shares)
        kinds = np.repeat(np.arange(len(counts)), counts)
        failing = rng.permutation(self.cars)[: len(kinds)]
        self._kind = np.full(self.cars, -1)
        self._kind[failing] = kinds
        self._wheel = rng.integers(0, len(WHEELS), self.cars)
        delay_ms = np.floor(rng.random(self.cars) * LAST_FAILURE * span * 1000).astype(np.int64)
        never = np.iinfo(np.int64).max
        self._failure_time = np.where(self._kind >= 0, self.start_time + delay_ms, never)
        failures: dict[str, Failure] = {}
        for car in np.sort(failing).tolist():
            kind = _KINDS[self._kind[car]]
            wheel = WHEELS[self._wheel[car]]
            features = {
                "tire": (f"tire_pressure_{wheel}",),
                "shock_absorber": (f"accelerometer_{wheel}_value",),
                "drive_shaft": ("engine_vibration_amplitude",),
                "overheating": ("current_draw", "coolant_temp"),
                "firmware": ("control_unit_firmware",),
                "slow_puncture": (f"tire_pressure_{wheel}",),
                "coolant_loss": ("coolant_temp",),
                "weak_battery": ("battery_voltage",),
                "worn_bearing": ("engine_vibration_amplitude",),
                "stuck_sensor": ("coolant_temp",),
            }[kind]
            car_id = self._cars.ids[car].as_py()
            failures[car_id] = Failure(car_id, kind, int(self._failure_time[car]), features)
        self._failures: Mapping[str, Failure] = MappingProxyType(failures)

    def _start_cars(self, rng: np.random.Generator) -> None:
        """State of each car at the first step, drawn from what it would be in the long run."""
        self._speed = np.clip(rng.normal(_SPEED_MEAN, _SPEED_STD, self.cars), 0, 50)
        warm = rng.normal(88, 2, self.cars)
        cold_start = rng.random(self.cars) < 0.1
        self._coolant = np.where(cold_start, rng.uniform(23, 80, self.cars), warm)
        self._warm = 86 + 0.08 * self._speed  # what a stuck sensor goes on to say
        self._battery = rng.uniform(10, 100, self.cars)
        self._air_temp = rng.uniform(17, 38, self.cars)
        self._tire = rng.uniform(30.0, 35.0, (len(WHEELS), self.cars))

    def _move(self, steps: int, failed: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        """Speed and coolant temperature, float64 [steps, cars]: what depends on the step before."""
        keep = math.exp(-self.interval / _SPEED_MEMORY_S)
        jolt = _SPEED_STD * math.sqrt(1 - keep * keep)
        warm = 1 - math.exp(-self.interval / _COOLANT_MEMORY_S)
        hot = failed & (self._kind == _KINDS.index("overheating"))
        speed, coolant = np.empty((steps, self.cars)), np.empty((steps, self.cars))
        for i in range(steps):
            drift = _SPEED_MEAN + keep * (self._speed - _SPEED_MEAN) + jolt * self._motion.standard_normal(self.cars)
            # Reflected at both ends: clipping would park cars at exactly 0 and 50 m/s.
            self._speed = np.clip(50 - np.abs(50 - np.abs(drift)), 0, 50)
            target = np.where(hot[i], 101.0, 86 + 0.08 * self._speed)
            self._coolant = self._coolant + warm * (target - self._coolant)
            speed[i], coolant[i] = self._speed, self._coolant
        return speed, coolant


def history(
    rows: int,
    seed: int = 1,
    prevalence: float = 0.2,
    cars: int | None = None,
    start_time: int = 1_690_000_000_000,
    interval: float = 1.0,
    label: Literal["true", "kind"] = "kind",
) -> Iterator[pa.RecordBatch]:
    """Training data: ``rows`` events of a fleet in blocks, oldest first.

    The fleet is large (``cars`` defaults to one per 50 rows, 20 to 2,000), so that a model sees many cars rather than
    many events of a few; failed cars are labelled by kind, so that it can be judged by kind.
    """
    cars = cars or min(2000, max(20, rows // 50))
    steps = max(1, math.ceil(rows / cars))
    fleet = Fleet(cars, seed, prevalence, start_time, interval, span=steps * interval, label=label)
    at_once = max(1, 32_768 // cars)
    left = rows
    while left > 0:
        block = fleet.step(at_once).slice(0, left)
        left -= block.num_rows
        yield block


def _share_out(failing: int, shares: Floats) -> NDArray[np.int64]:
    """How many of ``failing`` cars fail of each kind, int64 [kinds]: in proportion to shares, largest remainder."""
    least = 1 if failing >= len(shares) else 0
    exact = shares / shares.sum() * failing
    counts = np.maximum(np.floor(exact).astype(np.int64), least)
    while (missing := failing - int(counts.sum())) != 0:
        # Both ways, because the least of one car may have given out too many.
        gap = exact - counts
        counts[int(gap.argmax() if missing > 0 else np.where(counts > least, gap, np.inf).argmin())] += np.sign(missing)
    return counts


def _repeat(per_car: pa.Array, steps: int) -> pa.Array:
    return pa.concat_arrays([per_car] * steps)


def _as_array(values: pa.Array | NDArray[np.generic], type_: pa.DataType) -> pa.Array:
    if isinstance(values, pa.Array):
        return values if values.type == type_ else values.cast(type_)
    return pa.array(values.ravel()).cast(type_, safe=False)
