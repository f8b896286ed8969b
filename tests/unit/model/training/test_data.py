"""Training data: one preprocessing for files and stream, whole cars held out, errors that name the column."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_jobs.codec.avro.file import write_avro
from beam_jobs.errors import UserError
from beam_jobs.sandbox.fleet import FAILURE_KINDS, history
from beam_jobs.use_case import load_use_case
from model.training.data import Counts, read, source

CARS = load_use_case("car_sensors")
NOON = 1_795_348_800_000  # 2026-11-22T12:00:00Z


@dataclass(frozen=True)
class Loaded:
    """All rows of some files."""

    x: np.ndarray
    keys: pa.Array
    times: np.ndarray
    kinds: pa.Array
    counts: Counts


def load(pattern: str, limit: int | None = None, start: str | None = None, until: str | None = None) -> Loaded:
    counts = Counts()
    parts = list(read(CARS, source(pattern, start, until), counts, Path("/nowhere"), limit))
    return Loaded(
        np.concatenate([part.x for part in parts]),
        pa.concat_arrays([part.keys for part in parts]),
        np.concatenate([part.times for part in parts]),
        pa.concat_arrays([part.kinds for part in parts]),
        counts,
    )


def table(rows: int = 1000, **columns: pl.Expr) -> pl.DataFrame:
    blocks = history(rows, seed=2, cars=40, prevalence=0.5)
    return pl.DataFrame(pl.from_arrow(pa.Table.from_batches(list(blocks)))).with_columns(**columns)


def save(frame: pl.DataFrame, path: Path) -> str:
    pq.write_table(frame.to_arrow(), path)
    return str(path)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return load(save(table(), tmp_path_factory.mktemp("data") / "a.parquet"))


def test_avro_and_parquet_give_the_same_rows(tmp_path: Path, rows: Loaded) -> None:
    write_avro(tmp_path / "a.avro", CARS.schema, history(1000, seed=2, cars=40, prevalence=0.5))
    avro = load(str(tmp_path))
    np.testing.assert_array_equal(avro.x, rows.x)
    np.testing.assert_array_equal(avro.times, rows.times)
    assert avro.keys.equals(rows.keys)
    assert avro.kinds.equals(rows.kinds)
    assert [file.name for file in avro.counts.files] == ["a.avro"]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_text_files_give_the_same_rows_and_count_the_wrong_ones(tmp_path: Path, rows: Loaded, ending: str) -> None:
    file, frame = tmp_path / f"a.{ending}", table()
    if ending == "csv":
        frame.write_csv(file)
        file.write_text(f"{file.read_text()}too,short\n")
    else:
        frame.with_columns(pl.col("event_time").dt.epoch("ms")).write_ndjson(file)
        file.write_text(f"{file.read_text()}{{no json\n")
    text = load(str(file))
    np.testing.assert_array_equal(text.x, rows.x)
    np.testing.assert_array_equal(text.times, rows.times)
    assert text.keys.equals(rows.keys)
    assert text.kinds.equals(rows.kinds)
    assert text.counts.read == 1001
    [loss] = text.counts.losses()
    assert "1 refused: " in loss
    assert ("row 1,001: has 2 cells" if ending == "csv" else "line 1,001: ") in loss
    assert load(str(file), limit=1000).counts.read == 1000


def test_labels_become_kinds(rows: Loaded) -> None:
    labels = table()["failure_occurred"].to_list()
    assert rows.kinds.to_pylist() == ["" if label == "false" else label for label in labels]
    assert set(rows.kinds.to_pylist()) == {"", *FAILURE_KINDS}


@pytest.mark.parametrize(("label", "failed"), [("False", 0), (None, 0), ("", 0), ("TRUE", 1000), ("Tire", 1000)])
def test_spellings_of_the_label(tmp_path: Path, label: str | None, failed: int) -> None:
    path = save(table(failure_occurred=pl.lit(label, pl.String)), tmp_path / "a.parquet")
    assert sum(kind != "" for kind in load(path).kinds.to_pylist()) == failed


def test_rows_the_stream_would_refuse_are_counted_by_reason(tmp_path: Path) -> None:
    row = pl.int_range(pl.len())
    frame = table(
        speed=pl.when(row < 10).then(-1.0).when(row < 15).then(float("nan")).otherwise("speed"),
        battery_voltage=pl.when(row.is_between(100, 119)).then(0.0).otherwise("battery_voltage"),
    )
    data = load(save(frame, tmp_path / "a.parquet"))
    assert data.counts.refused == {"out_of_range": 10, "not_finite": 5}
    assert data.counts.filtered == 20
    assert len(data.x) + data.counts.filtered + 15 == data.counts.read == 1000


def test_a_limit_spans_files(tmp_path: Path) -> None:
    for name in ("a", "b", "cc"):
        save(table(200), tmp_path / f"{name}.parquet")
    limited = load(str(tmp_path), limit=300)
    assert [(file.name, file.rows) for file in limited.counts.files] == [("a.parquet", 200), ("b.parquet", 100)]
    assert load(str(tmp_path / "?.parquet")).counts.read == 400


def test_a_column_may_go_by_an_alias(tmp_path: Path, rows: Loaded) -> None:
    path = save(table().rename({"tire_pressure_1_1": "tire_pressure_11", "speed": "SPEED"}), tmp_path / "a.parquet")
    np.testing.assert_array_equal(load(path).x, rows.x)


def test_files_that_will_not_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \.avro, \.parquet, .* or \.ndjson file there"):
        source(str(tmp_path))
    with pytest.raises(UserError, match=r"no \.avro, \.parquet, .* or \.ndjson file there"):
        source(str(tmp_path / "*.parquet"))
    with pytest.raises(UserError, match=r"--data 's3://bucket/data': expected gs://"):
        source("s3://bucket/data")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UserError, match=r"is no \.avro, \.parquet, \.csv, \.tsv, \.jsonl or \.ndjson; write"):
        source(str(tmp_path / "a.txt"))
    (tmp_path / "broken.parquet").write_text("PAR1")
    with pytest.raises(UserError, match=r"broken\.parquet: can't be read"):
        load(str(tmp_path / "broken.parquet"))
    with pytest.raises(UserError, match="no column 'speed'"):
        load(save(table(100).drop("speed"), tmp_path / "x.parquet"))
    twice = table(100).to_arrow()
    pq.write_table(twice.append_column("speed", twice["speed"]), tmp_path / "twice.parquet")
    with pytest.raises(UserError, match=r"twice\.parquet: has the column 'speed' more than once"):
        load(str(tmp_path / "twice.parquet"))
    with pytest.raises(UserError, match="column 'speed' has nulls"):
        load(save(table(100, speed=pl.lit(None, pl.Float64)), tmp_path / "x.parquet"))
    with pytest.raises(UserError, match=r"column 'speed' is .*string and can't become double"):
        load(save(table(100, speed=pl.lit("fast")), tmp_path / "x.parquet"))
    with pytest.raises(
        UserError, match=r"100 refused: out_of_range \(speed is -1 m/s, expected 0 to \d+\): nothing left to train on"
    ):
        load(save(table(100, speed=pl.lit(-1.0)), tmp_path / "x.parquet"))


def test_a_split_of_an_archive_reads_the_hours_asked_for_alone(tmp_path: Path) -> None:
    blocks = list(history(4000, seed=2, cars=40, start_time=NOON, interval=144.0))  # 4 hours of 1,000 rows
    for hour, block in enumerate(pa.Table.from_batches(blocks).to_batches(max_chunksize=1000)):
        folder = tmp_path / "date=2026-11-22" / f"hour={12 + hour}"
        folder.mkdir(parents=True)
        write_avro(folder / "part-a.avro", CARS.schema, [block])
    (tmp_path / "_archive").mkdir()
    (tmp_path / "_archive" / "unfinished.avro").write_text("half a file")
    (tmp_path / "date=2026-11-22/hour=15/part-b.avro").write_text("damaged")
    found = load(str(tmp_path), start="2026-11-22T13:30:00Z", until=str(NOON + 3 * 3_600_000))
    assert found.counts.read == 500 + 1000
    assert found.times.min() >= NOON + 90 * 60_000
    assert found.times.max() < NOON + 3 * 3_600_000
    assert [(f.name, f.rows) for f in found.counts.files] == [
        ("date=2026-11-22/hour=13/part-a.avro", 500),
        ("date=2026-11-22/hour=14/part-a.avro", 1000),
    ]
    for file in found.counts.files:
        assert file.sha256 == hashlib.sha256((tmp_path / file.name).read_bytes()).hexdigest()
    assert json.loads(found.counts.list_files())[1]["rows"] == 1000
    with pytest.raises(UserError, match=r"hour=15/part-b\.avro: can't be read"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("start", "until", "message"),
    [
        ("0:17", None, "--from 0:17: expected an event time"),
        (None, "noon", "--until noon: expected an event time"),
        ("2026-11-22", "2026-11-21", "--from 2026-11-22 is not before --until 2026-11-21"),
        ("2027-01-01", None, "nothing left to train on"),
    ],
)
def test_times_that_will_not_do(tmp_path: Path, start: str | None, until: str | None, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        load(save(table(100), tmp_path / "a.parquet"), start=start, until=until)


def test_hours_without_files_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "date=2026-11-22" / "hour=12"
    folder.mkdir(parents=True)
    save(table(100), folder / "a.parquet")
    with pytest.raises(UserError, match="none of its 1 files is of that time"):
        load(str(tmp_path), start="2027-01-01")
