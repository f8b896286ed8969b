"""Training data: one preprocessing for files and stream, whole cars held out, errors that name the column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import use_cases
from beam_jobs.codec.avro_file import write_avro
from beam_jobs.errors import UserError
from demo.fleet import FAILURE_KINDS, history
from model.data import TrainingData, find_files, read, split

CARS = use_cases.load("car_sensors")


def table(rows: int = 1000, **columns: pl.Expr) -> pl.DataFrame:
    blocks = history(rows, seed=2, cars=40, prevalence=0.5)
    return pl.DataFrame(pl.from_arrow(pa.Table.from_batches(list(blocks)))).with_columns(**columns)


def save(frame: pl.DataFrame, path: Path) -> str:
    pq.write_table(frame.to_arrow(), path)
    return str(path)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    return read(CARS, save(table(), tmp_path_factory.mktemp("data") / "a.parquet"))


def test_avro_and_parquet_give_the_same_rows(tmp_path: Path, rows: TrainingData) -> None:
    write_avro(tmp_path / "a.avro", CARS.schema, history(1000, seed=2, cars=40, prevalence=0.5))
    avro = read(CARS, str(tmp_path))
    np.testing.assert_array_equal(avro.x, rows.x)
    np.testing.assert_array_equal(avro.times, rows.times)
    assert avro.keys.equals(rows.keys)
    assert avro.kinds.equals(rows.kinds)
    assert avro.files == ("a.avro",)


def test_labels_become_kinds(rows: TrainingData) -> None:
    labels = table()["failure_occurred"].to_list()
    assert rows.kinds.to_pylist() == ["" if label == "false" else label for label in labels]
    assert set(rows.kinds.to_pylist()) == {"", *FAILURE_KINDS}
    np.testing.assert_array_equal(rows.failed, [label != "false" for label in labels])


@pytest.mark.parametrize(("label", "failed"), [("False", 0), (None, 0), ("", 0), ("TRUE", 1000), ("Tire", 1000)])
def test_spellings_of_the_label(tmp_path: Path, label: str | None, failed: int) -> None:
    path = save(table(failure_occurred=pl.lit(label, pl.String)), tmp_path / "a.parquet")
    assert read(CARS, path).failed.sum() == failed


def test_rows_the_stream_would_refuse_are_counted_by_reason(tmp_path: Path) -> None:
    row = pl.int_range(pl.len())
    frame = table(
        speed=pl.when(row < 10).then(-1.0).when(row < 15).then(float("nan")).otherwise("speed"),
        battery_voltage=pl.when(row.is_between(100, 119)).then(0.0).otherwise("battery_voltage"),
    )
    data = read(CARS, save(frame, tmp_path / "a.parquet"))
    assert data.refused == {"out_of_range": 10, "not_finite": 5}
    assert data.filtered == 20
    assert len(data.x) + data.filtered + 15 == data.read == 1000


def test_a_limit_spans_files(tmp_path: Path) -> None:
    for name in "abc":
        save(table(200), tmp_path / f"{name}.parquet")
    assert read(CARS, str(tmp_path), limit=300).read == 300
    assert read(CARS, str(tmp_path / "[ab].parquet")).read == 400


def test_a_column_may_go_by_an_alias(tmp_path: Path, rows: TrainingData) -> None:
    path = save(table().rename({"tire_pressure_1_1": "tire_pressure_11", "speed": "SPEED"}), tmp_path / "a.parquet")
    np.testing.assert_array_equal(read(CARS, path).x, rows.x)


def test_files_that_will_not_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \.avro or \.parquet file there"):
        find_files(str(tmp_path))
    with pytest.raises(UserError, match=r"no \.avro or \.parquet file there"):
        find_files(str(tmp_path / "*.parquet"))
    with pytest.raises(UserError, match="only local files"):
        find_files("gs://bucket/data")
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(UserError, match=r"neither \.avro nor \.parquet"):
        find_files(str(tmp_path / "a.csv"))
    (tmp_path / "broken.parquet").write_text("PAR1")
    with pytest.raises(UserError, match=r"broken\.parquet: can't be read"):
        read(CARS, str(tmp_path / "broken.parquet"))
    with pytest.raises(UserError, match="no column 'speed'"):
        read(CARS, save(table(100).drop("speed"), tmp_path / "x.parquet"))
    with pytest.raises(UserError, match="column 'speed' has nulls"):
        read(CARS, save(table(100, speed=pl.lit(None, pl.Float64)), tmp_path / "x.parquet"))
    with pytest.raises(UserError, match=r"column 'speed' is .*string and can't become double"):
        read(CARS, save(table(100, speed=pl.lit("fast")), tmp_path / "x.parquet"))
    with pytest.raises(UserError, match="100 out_of_range: nothing left to train on"):
        read(CARS, save(table(100, speed=pl.lit(-1.0)), tmp_path / "x.parquet"))


def test_a_car_is_wholly_on_one_side(rows: TrainingData) -> None:
    parts = split(rows, 0.2, seed=1)
    keys = np.array(rows.keys.to_pylist(), object)
    sides = [set(keys[mask]) for mask in (parts.train, parts.validation, parts.test)]
    assert sum(len(side) for side in sides) == len(set.union(*sides))
    assert parts.by == "key"
    assert not rows.failed[parts.train | parts.validation].any()
    assert rows.failed[parts.test].any()


def test_the_split_depends_on_seed_and_key_alone(tmp_path: Path, rows: TrainingData) -> None:
    one, again, other = (split(rows, 0.2, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.train, again.train)
    assert (one.train != other.train).any()
    half = read(CARS, save(table().slice(500), tmp_path / "a.parquet"))
    np.testing.assert_array_equal(split(half, 0.2, 1).test, one.test[500:])


def test_a_split_by_time_holds_out_the_newest(rows: TrainingData) -> None:
    parts = split(rows, 0.25, seed=1, by="time")
    assert parts.test.sum() == 250
    assert rows.times[parts.train].max() <= rows.times[parts.validation].min()
    assert rows.times[parts.validation].max() <= rows.times[parts.test].min()


def test_few_cars_are_split_by_time(tmp_path: Path) -> None:
    path = save(table(400, car_id=pl.lit("car-1")), tmp_path / "a.parquet")
    assert split(read(CARS, path), 0.2, seed=1).by == "time"
