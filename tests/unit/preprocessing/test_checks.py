"""Rows that are refused before and after the query, and what is said of them."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest

from beam_jobs.preprocessing import Preprocessed, compile_sql

SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "E",
    "fields": [
        {"name": "id", "type": ["null", "string"]},
        {"name": "at", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}]},
        {"name": "pressure", "type": "int", "unit": "psi", "min": 0, "max": 100},
        {"name": "speed", "type": ["null", "double"], "unit": "m/s", "min": 0},
        {"name": "drift", "type": "double"},
    ],
}


def apply(sql: str, **columns: Any) -> Preprocessed:
    query = compile_sql(sql, SCHEMA, key="id", event_time="at")
    types = {
        "id": pa.string(),
        "at": pa.timestamp("us", "UTC"),
        "pressure": pa.int32(),
        "speed": pa.float64(),
        "drift": pa.float64(),
    }
    n = len(next(iter(columns.values())))
    defaults = {"id": ["a"] * n, "at": [0] * n, "pressure": [30] * n, "speed": [1.0] * n, "drift": [0.0] * n}
    return query.apply(
        pa.record_batch(
            {name: pa.array(columns.get(name, defaults[name]), types[name]) for name in query.input_columns}
        )
    )


ALL = "SELECT id, at, pressure, speed, drift FROM events"


def test_sentences() -> None:
    result = apply(
        ALL,
        pressure=[30, 250, 30, 30, -1, 30, 30],
        speed=[1.0, 1.0, -0.5, math.nan, math.inf, 1.0, None],
        drift=[0.0, 0.0, 0.0, 0.0, 0.0, -math.inf, 0.0],
    )
    assert result.kept.tolist() == [0]
    assert result.filtered == 0
    assert result.errors.rows.tolist() == [1, 2, 3, 4, 5, 6]
    assert list(zip(result.errors.reasons, result.errors.errors, strict=True)) == [
        ("out_of_range", "pressure is 250 psi, expected 0 to 100"),
        ("out_of_range", "speed is -0.5 m/s, expected at least 0"),
        ("not_finite", "speed is NaN, expected at least 0"),
        ("out_of_range", "pressure is -1 psi, expected 0 to 100; speed is infinity, expected at least 0"),
        ("not_finite", "drift is -infinity, expected a finite number"),
        ("null_feature", "speed is null; give it a default with COALESCE, or filter such rows with WHERE"),
    ]


@pytest.mark.parametrize("kind", ["float", "double"])
@pytest.mark.parametrize("limits", [{}, {"min": -60}, {"max": 1e300}, {"min": -1e300, "max": 5.5}])
def test_what_is_not_finite_is_inside_no_limits(kind: str, limits: dict[str, float]) -> None:
    at = {"type": "long", "logicalType": "timestamp-millis"}
    fields = [{"name": "id", "type": "string"}, {"name": "at", "type": at}, {"name": "x", "type": kind, **limits}]
    query = compile_sql(
        "SELECT id, at, LEAST(x, 120) AS capped, CASE WHEN x > 90 THEN 1 ELSE 0 END AS hot FROM events",
        {"type": "record", "name": "E", "fields": fields},
        key="id",
        event_time="at",
    )
    values = [5.5, math.inf, -math.inf, math.nan, -3.0]
    rows = {"id": pa.array(["a"] * 5), "at": pa.array([0] * 5, pa.timestamp("ms", "UTC"))}
    result = query.apply(pa.record_batch({**rows, "x": pa.array(values, pa.float32() if kind == "float" else None)}))
    assert result.kept.tolist() == [0, 4]
    assert result.errors.reasons == ["not_finite"] * 3


def test_rows_are_checked_before_they_are_filtered() -> None:
    result = apply(ALL + " WHERE pressure < 50", pressure=[250, 70, 30])
    assert result.errors.rows.tolist() == [0]
    assert (result.filtered, result.kept.tolist()) == (1, [2])


def test_a_null_may_be_filtered_or_replaced() -> None:
    assert apply(ALL + " WHERE speed IS NOT NULL", speed=[None, 1.0]).filtered == 1
    sql = "SELECT id, at, COALESCE(speed, 7) AS speed FROM events"
    assert apply(sql, speed=[None, 1.0]).rows.column("speed").to_pylist() == [7.0, 1.0]


@pytest.mark.parametrize(("drift", "shown"), [(1.0, "infinity"), (-1.0, "-infinity"), (0.0, "NaN")])
def test_a_division_by_zero_is_an_error_of_the_row(drift: float, shown: str) -> None:
    result = apply("SELECT id, at, drift / pressure AS x FROM events", pressure=[0, 2], drift=[drift, drift])
    assert result.kept.tolist() == [1]
    assert result.errors.reasons == ["not_finite"]
    assert result.errors.errors == [f"x is {shown} after the query, expected a finite number"]


def test_what_does_not_fit_into_float32_is_an_error_of_the_row() -> None:
    result = apply("SELECT id, at, drift, drift * 10 AS x FROM events", drift=[1e300, 1e38, 1e30])
    assert result.kept.tolist() == [2]
    assert result.errors.reasons == ["not_finite", "not_finite"]


def test_key_and_time_must_be_there() -> None:
    result = apply(ALL, id=["a", None, "a", None], at=[0, 0, None, None])
    assert result.kept.tolist() == [0]
    assert result.errors.reasons == ["null_key", "null_event_time", "null_key"]


def test_times_no_calendar_has() -> None:
    result = apply(ALL + " WHERE EXTRACT(hour FROM at) = 0", at=[0, 2**62, -(2**62), 3_600_000_000])
    assert result.kept.tolist() == [0]
    assert result.filtered == 1
    assert result.errors.reasons == ["out_of_range", "out_of_range"]
    assert "years 1 to 9999" in result.errors.errors[0]


def test_event_time_comes_out_in_milliseconds() -> None:
    result = apply(ALL, at=[1_700_000_000_123_456])
    assert result.rows.column("at").cast(pa.int64()).to_pylist() == [1_700_000_000_123]


def test_all_rows_bad_and_no_row() -> None:
    result = apply(ALL, pressure=[101, 102])
    assert (result.rows.num_rows, len(result.errors), result.filtered) == (0, 2, 0)
    result = apply(ALL, pressure=[])
    assert (result.rows.num_rows, len(result.errors), result.filtered) == (0, 0, 0)


def test_limits_of_a_long_are_exact() -> None:
    at = {"type": "long", "logicalType": "timestamp-millis"}
    fields = [{"name": "id", "type": "string"}, {"name": "at", "type": at}]
    fields += [
        {"name": "account", "type": "long", "min": -0.5, "max": 2**53},
        {"name": "all", "type": "long", "max": 1e300},
    ]
    schema = {"type": "record", "name": "E", "fields": fields}
    query = compile_sql('SELECT id, at, account, "all" FROM events', schema, key="id", event_time="at")
    accounts = [2**53, 2**53 + 1, -1, 0]
    block = {
        "id": ["a"] * 4,
        "at": pa.array([0] * 4, pa.timestamp("ms", "UTC")),
        "account": accounts,
        "all": [2**62] * 4,
    }
    result = query.apply(pa.record_batch(block))
    assert result.kept.tolist() == [0, 3]
    assert list(result.errors.errors) == [
        "account is 9007199254740993, expected -0.5 to 9007199254740992",
        "account is -1, expected -0.5 to 9007199254740992",
    ]
