"""The simulated fleet shows the published failures, repeats itself, and knows the truth."""

from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import schemas
from beam_jobs.codec.schema import arrow_schema
from beam_jobs.sandbox.fleet import BUMP_RATE, FAILURE_KINDS, LAST_FAILURE, SLOW_KINDS, WHEELS, Fleet, history

START = 1_700_000_000_000


def frame(fleet: Fleet, steps: int) -> pl.DataFrame:
    """Events with the kind of failure the simulator knows of, "" before and without."""
    events = pl.DataFrame(pl.from_arrow(fleet.step(steps)))
    truth = pl.DataFrame(
        {
            "car_id": list(fleet.failures),
            "kind": [f.kind for f in fleet.failures.values()],
            "since": [f.time_ms for f in fleet.failures.values()],
        },
        schema={"car_id": pl.String, "kind": pl.String, "since": pl.Int64},
    )
    joined = events.join(truth, on="car_id", how="left", maintain_order="left")
    shown = pl.col("event_time").dt.epoch("ms") >= pl.col("since")
    return joined.with_columns(kind=pl.when(shown).then("kind").otherwise(pl.lit("")))


@pytest.fixture(scope="module")
def events() -> pl.DataFrame:
    return frame(Fleet(200, seed=3, prevalence=0.5, interval=1.0, span=100), 100)


def test_rows_have_the_shipped_schema_and_its_limits() -> None:
    schema = schemas.load("car_sensor")
    block = Fleet(50, seed=1, prevalence=1).step(20)
    assert block.schema.equals(arrow_schema(schema))
    block.validate(full=True)
    for field in schema["fields"]:
        if "min" in field:
            values = block[field["name"]].to_numpy()
            assert values.min() >= field["min"], field["name"]
            assert values.max() <= field["max"], field["name"]
    assert block["driver_name"].null_count == block["vin"].null_count == block["latitude"].null_count == 0


def test_one_event_per_car_and_step_in_order_of_time() -> None:
    fleet = Fleet(7, interval=0.5, start_time=START)
    block = fleet.step(3)
    times = block["event_time"].cast(pa.int64()).to_numpy()
    assert block.num_rows == 21
    assert (np.diff(times) >= 0).all()
    assert times[0] == START
    assert set(Counter(block["car_id"].to_pylist()).values()) == {3}
    assert fleet.time_ms == START + 1500


def test_the_same_seed_gives_the_same_events_however_the_steps_are_taken() -> None:
    def table(*steps: int, seed: int = 5) -> pa.Table:
        fleet = Fleet(11, seed=seed, prevalence=0.5)
        return pa.Table.from_batches([fleet.step(n) for n in steps]).combine_chunks()

    assert table(7).equals(table(1, 4, 2))
    assert not table(7).equals(table(7, seed=6))


@pytest.mark.parametrize(("cars", "prevalence"), [(200, 0.1), (1000, 0.05), (30, 0.0), (10, 1.0), (3, 0.5)])
def test_prevalence_is_the_share_of_cars_that_fail_within_the_span(cars: int, prevalence: float) -> None:
    fleet = Fleet(cars, prevalence=prevalence, span=60, start_time=START)
    assert len(fleet.failures) == round(cars * prevalence)
    for failure in fleet.failures.values():
        assert START <= failure.time_ms <= START + LAST_FAILURE * 60_000


def test_every_kind_has_its_share_and_the_rates_keep_their_order() -> None:
    assert set(Counter(f.kind for f in Fleet(50, prevalence=0.1).failures.values())) == set(FAILURE_KINDS)
    counts = Counter(f.kind for f in Fleet(2000, prevalence=0.5).failures.values())
    assert counts["firmware"] > counts["shock_absorber"] == counts["drive_shaft"] > counts["tire"]
    assert counts["tire"] > counts["overheating"] >= 80


def test_failures_stay_and_the_label_follows_the_truth(events: pl.DataFrame) -> None:
    assert ((events["kind"] != "") == (events["failure_occurred"] == "true")).all()
    failed = events.group_by("car_id", maintain_order=True).agg(pl.col("failure_occurred") == "true")
    assert all(labels == sorted(labels) for labels in failed["failure_occurred"].to_list())
    fleet = Fleet(200, seed=3, prevalence=0.5, interval=1.0, span=100)
    failure = next(iter(fleet.failures.values()))
    assert fleet.has_failed(failure.car_id, failure.time_ms)
    assert not fleet.has_failed(failure.car_id, failure.time_ms - 1)


def test_failures_look_as_published(events: pl.DataFrame) -> None:
    of = {kind: rows for (kind,), rows in events.group_by("kind")}
    tires, wheels = [f"tire_pressure_{w}" for w in WHEELS], [f"accelerometer_{w}_value" for w in WHEELS]

    lowest = of["tire"].select(pl.min_horizontal(tires)).to_series()
    assert lowest.is_between(20, 25).all()
    assert set(lowest.to_list()) == set(range(20, 26))

    highest = of["shock_absorber"].select(pl.max_horizontal(wheels)).to_series()
    assert (highest.is_between(3, 4) | highest.is_between(5, 7)).all()

    shaft = of["drive_shaft"].filter(pl.col("speed").is_between(10, 45))
    assert abs((shaft["engine_vibration_amplitude"] / shaft["speed"]).mean() - 150) < 2
    hot = of["overheating"].filter(pl.col("speed") > 10)
    assert abs((hot["current_draw"] / hot["speed"]).mean() - 2.5) < 0.1
    assert of["overheating"]["coolant_temp"].max() > of[""]["coolant_temp"].quantile(0.99)
    assert set(of["firmware"]["control_unit_firmware"].to_list()) == {1000}


def test_failures_that_come_slowly_grow_with_the_hours() -> None:
    fleet = Fleet(100, seed=3, prevalence=1, interval=30, span=3600, slow=True)
    since = {car: failure.time_ms for car, failure in fleet.failures.items()}
    assert Counter(f.kind for f in fleet.failures.values()) == dict.fromkeys((*FAILURE_KINDS, *SLOW_KINDS), 10)
    events = frame(fleet, 480)  # four hours: the last is three after any failure began
    hours = (pl.col("event_time").dt.epoch("ms") - pl.col("car_id").replace_strict(since)) / 3_600_000
    of = {kind: rows for (kind,), rows in events.with_columns(hours=hours).group_by("kind")}
    late = {kind: rows.filter(pl.col("hours").is_between(2, 3)) for kind, rows in of.items()}
    lowest = late["slow_puncture"].select(pl.min_horizontal(f"tire_pressure_{w}" for w in WHEELS)).to_series()
    assert lowest.is_between(20, 30).all()
    warm = 86 + 0.08 * late["coolant_loss"]["speed"]
    assert (late["coolant_loss"]["coolant_temp"] - warm).mean() > 10
    assert late["coolant_loss"]["coolant_temp"].max() <= 102
    volts = late["weak_battery"].select(
        206 + 0.52 * pl.col("battery_percentage") - 0.05 * pl.col("current_draw") - pl.col("battery_voltage")
    )
    assert 4.5 < volts.to_series().mean() < 5.5
    worn = late["worn_bearing"].filter(pl.col("speed").is_between(10, 45))
    assert abs((worn["engine_vibration_amplitude"] / worn["speed"]).mean() - 137.5) < 4
    stuck = of["stuck_sensor"].group_by("car_id").agg(pl.col("coolant_temp").n_unique())
    assert set(stuck["coolant_temp"].to_list()) == {1}


def test_sound_cars_are_sound(events: pl.DataFrame) -> None:
    sound = events.filter(pl.col("kind") == "")
    for wheel in WHEELS:
        assert sound[f"tire_pressure_{wheel}"].is_between(30, 35).all()
        shaken = sound[f"accelerometer_{wheel}_value"]
        assert (shaken.is_between(0, 1) | shaken.is_between(2, 3)).all()
        assert abs((shaken >= 2).mean() - BUMP_RATE) < 0.01
    assert set(sound["control_unit_firmware"].to_list()) == {2000}
    driving = sound.filter(pl.col("speed") > 10)
    assert abs((driving["engine_vibration_amplitude"] / driving["speed"]).mean() - 100) < 1
    assert abs((driving["current_draw"] / driving["speed"]).mean() - 0.5) < 0.01


def test_speed_is_smooth(events: pl.DataFrame) -> None:
    jumps = events.select(pl.col("speed").diff().over("car_id").abs()).to_series()
    assert jumps.quantile(0.99) < 6  # m/s from one second to the next


def test_history_has_exactly_the_rows_asked_for_and_kinds_as_labels() -> None:
    blocks = list(history(5003, seed=4))
    assert sum(block.num_rows for block in blocks) == 5003
    labels = {label for block in blocks for label in block["failure_occurred"].to_pylist()}
    assert labels == {"false", *FAILURE_KINDS}


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="prevalence=2"):
        Fleet(10, prevalence=2)
