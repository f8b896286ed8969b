"""``highbeam preview``: what passes, what is refused and why, and the exit status."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from beam_jobs.block import raw_block, with_source
from beam_jobs.codec.decoded import Decoded
from beam_jobs.errors import RowErrors, UserError
from beam_jobs.preview import main
from beam_jobs.samples.records import Part
from beam_jobs.samples.sample import Sample
from beam_jobs.samples.text import lines_of
from beam_jobs.sandbox.fleet import history
from beam_jobs.use_case import load_use_case
from tests.unit.samples.payments import write_use_case


@pytest.fixture(scope="module")
def cars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,000 events: 20 too fast, 10 filtered, 5 without a car."""
    frame = pl.DataFrame(pl.from_arrow(pa.Table.from_batches(list(history(1000, seed=2, cars=40)))))
    row = pl.int_range(pl.len())
    frame = frame.with_columns(
        speed=pl.when(row < 20).then(900.0).otherwise("speed"),
        battery_voltage=pl.when(row.is_between(100, 109)).then(0.0).otherwise("battery_voltage"),
        event_time=pl.col("event_time").dt.epoch("ms"),
    )
    file = tmp_path_factory.mktemp("cars") / "cars.jsonl"
    frame.write_ndjson(file)
    lines = file.read_text().splitlines()
    lines += [json.dumps({**json.loads(lines[500]), "car_id": None, "driver_name": "Jane Doe"})] * 5
    file.write_text("\n".join(lines))
    return file


def test_what_passes_and_what_is_refused_and_why(cars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--use_case", "car_sensors", "--input", str(cars)]) == 1
    said = capsys.readouterr().out
    assert "looked at   1,005 rows" in said
    assert "passed      970, 10 filtered by the WHERE\nrefused     25 (2.49%)\n" in said
    assert "20 preprocess, out_of_range: speed is 900 m/s, expected 0 to 100" in said
    assert "5 decode, missing_field: line 1,001: field 'car_id' is missing or null, expected string" in said
    assert said.count("field 'car_id'") == 3  # examples
    assert "Jane Doe" not in said
    assert "control_unit_firmware" in said
    assert "two values: a switch" in said
    assert "  speed (m/s) " in said


def test_the_exit_status_is_of_the_share_that_is_refused(cars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--use_case", "car_sensors", "--input", str(cars)]
    assert main([*words, "--max_refused", "0.03"]) == 0
    assert main([*words, "--rows", "20"]) == 1
    assert "passed      0," in capsys.readouterr().out


def test_an_sql_with_windows_is_given_the_rows_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "w.avsc").write_text(
        '{"type": "record", "name": "W", "fields": [{"name": "k", "type": "string"}, {"name": "at", "type": '
        '{"type": "long", "logicalType": "timestamp-millis"}}, {"name": "x", "type": "double"}]}'
    )
    (tmp_path / "use_case.yaml").write_text("schema: w.avsc\nkey: k\nevent_time: at\n")
    window = "OVER (PARTITION BY k ORDER BY at RANGE BETWEEN INTERVAL 10 SECONDS PRECEDING AND CURRENT ROW)"
    (tmp_path / "preprocess.sql").write_text(f"SELECT k, at, sum(x) {window} AS total FROM events")
    (tmp_path / "x.csv").write_text(
        "k,at,x\na,2026-11-22 07:00:02,4\na,2026-11-22 07:00:00,1\na,2026-11-22 07:00:01,2\n"
    )
    assert main(["--use_case", str(tmp_path), "--input", str(tmp_path / "x.csv")]) == 0
    [row] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  total")]
    assert row.split()[1:4] == ["1", "3.6667", "7"]


def test_rows_that_windows_do_not_see_in_order_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rows of a log in its order, whatever their times are; the lateness is the use case's, or an option's."""
    rows = [("a", 7200_000, 7200_000), ("a", 7199_000, 7200_001), ("a", 6000_000, 7200_002), ("a", 9_000_000, 7200_003)]
    (tmp_path / "w.avsc").write_text(
        '{"type": "record", "name": "W", "fields": [{"name": "k", "type": "string"}, {"name": "at", "type": '
        '{"type": "long", "logicalType": "timestamp-millis"}}, {"name": "x", "type": "double"}]}'
    )
    (tmp_path / "use_case.yaml").write_text("schema: w.avsc\nkey: k\nevent_time: at\nwindow_lateness: 1 minute\n")
    window = "OVER (PARTITION BY k ORDER BY at RANGE BETWEEN INTERVAL 10 SECONDS PRECEDING AND CURRENT ROW)"
    (tmp_path / "preprocess.sql").write_text(f"SELECT k, at, sum(x) {window} AS total FROM events")
    raw = raw_block("t", [0] * 4, range(4), [record for _, _, record in rows], [None] * 4, [b""] * 4)
    times = pa.array([at for _, at, _ in rows], pa.timestamp("ms", "UTC"))
    decoded = pa.record_batch({"k": ["a"] * 4, "at": times, "x": [1.0, 2.0, 4.0, 8.0]})
    sourced = with_source(decoded, raw)
    for given, unordered in (
        ({}, ["1 came late", "1 came too late for windows", "1 are ahead of their record's time"]),
        ({"window_lateness": "1 hour", "window_clock_skew": "1h"}, ["2 came late"]),
    ):
        sample = Sample(load_use_case(str(tmp_path)).with_lateness(given))
        for part in (slice(2, 4), slice(0, 2)):
            sample.add(Part(Decoded(sourced.slice(part.start, 2), RowErrors.none()), False))
        checked = sample.checked()
        assert [said[: len(start)] for said, start in zip(checked.unordered, unordered, strict=True)] == unordered
        assert checked.features[0].numbers is not None
        assert checked.features[0].numbers.most == 8
    assert "in windows  2 came late" in list(lines_of(checked, "x", 80))


def sourced(partitions: list[int], offsets: list[int], times: list[int]) -> pa.RecordBatch:
    """Payments of one card, as they stood on a topic."""
    n = len(times)
    rows = {
        "card": ["a"] * n,
        "ts": pa.array(times, pa.timestamp("ms", "UTC")),
        "amount": [2.0] * n,
        "merchant": ["m"] * n,
        "age": pa.array([50] * n, pa.int32()),
        "online": [True] * n,
    }
    return with_source(pa.record_batch(rows), raw_block("t", partitions, offsets, times, [None] * n, [b""] * n))


def test_windows_know_the_records_before_the_sample_and_nothing_else_does(tmp_path: Path) -> None:
    sample = Sample(load_use_case(write_use_case(tmp_path / "cards")))
    sample.add(Part(Decoded(sourced([0, 0], [3, 4], [0, 900_000]), RowErrors.none()), before=True))
    sample.add(Part(Decoded(sourced([0], [5], [1_000_000]), RowErrors.none())))
    checked = sample.checked()
    assert (checked.rows, checked.passed, checked.unordered) == (1, 1, [])
    assert [column.first for column in checked.features if column.name == "payments"] == [(3.0,)]


def test_a_key_in_two_partitions_is_named(tmp_path: Path) -> None:
    sample = Sample(load_use_case(write_use_case(tmp_path / "cards")))
    sample.add(Part(Decoded(sourced([0, 1], [3, 4], [0, 1000]), RowErrors.none())))
    [phrase] = sample.checked().unordered
    assert phrase.startswith("partitions 0 and 1 hold records of the same card")


def test_features_and_events_are_not_mixed(tmp_path: Path) -> None:
    sample = Sample(load_use_case(write_use_case(tmp_path / "cards")))
    sample.add(Part(Decoded(sourced([0], [3], [0]), RowErrors.none())))
    with pytest.raises(UserError, match="holds features as well as events"):
        sample.add(Part(Decoded(sourced([0], [4], [1]), RowErrors.none()), preprocessed=True))


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--input", "nowhere.csv"], "--input nowhere.csv"),
        (["--input", "pubsub://p/t"], "reads topics of Kafka and files"),
        (["--input", "x.csv", "--rows", "0"], "--rows 0"),
        (["--input", "x.csv", "--max_refused", "2"], "--max_refused 2"),
    ],
)
def test_what_will_not_do_is_one_line(words: list[str], what: str) -> None:
    with pytest.raises(UserError, match=what):
        main(["--use_case", "car_sensors", *words])
