"""Windows of every function and frame, in expressions and sub-selects, are what DuckDB says of rows in order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_jobs.preprocessing import Preprocessor, compile_sql

SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "E",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "row", "type": "int"},
        {"name": "a", "type": "double", "min": -1e6, "max": 1e6},
        {"name": "b", "type": ["null", "double"]},
        {"name": "f", "type": ["null", "float"]},
        {"name": "i", "type": ["null", "int"]},
        {"name": "l", "type": ["null", "long"]},
        {"name": "m", "type": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}]},
        {"name": "ok", "type": ["null", "boolean"]},
        {"name": "shop", "type": ["null", "string"]},
        {"name": "fraud", "type": ["null", "boolean"], "label": True},
    ],
}
TYPES = {
    "row": pa.int32(),
    "a": pa.float64(),
    "b": pa.float64(),
    "f": pa.float32(),
    "i": pa.int32(),
    "l": pa.int64(),
    "m": pa.decimal128(9, 2),
    "ok": pa.bool_(),
    "shop": pa.string(),
    "fraud": pa.bool_(),
}
FIVE = "RANGE BETWEEN INTERVAL '5' MINUTE PRECEDING AND CURRENT ROW"
FRAMES = {
    "w": FIVE,
    "short": "RANGE BETWEEN INTERVAL '1 minute 30 seconds' PRECEDING AND CURRENT ROW",
    "before": f"{FIVE} EXCLUDE CURRENT ROW",
    "past": "RANGE BETWEEN INTERVAL '37' MINUTES PRECEDING AND INTERVAL '7' MINUTES PRECEDING",
    "gone": "RANGE BETWEEN INTERVAL (400) SECOND PRECEDING AND to_seconds(1) PRECEDING",
    "hops": "RANGE BETWEEN (ts - time_bucket(INTERVAL '7 min', ts - INTERVAL '20 min')) PRECEDING AND CURRENT ROW",
    "trunc": "RANGE BETWEEN ts - date_trunc('minute', ts - INTERVAL '5m') PRECEDING AND CURRENT ROW",
    "week": "RANGE BETWEEN (ts - time_bucket('3 days'::INTERVAL, ts - INTERVAL 1 WEEK)) PRECEDING AND CURRENT ROW",
}
WINDOWS = ", ".join(f"{name} AS (PARTITION BY id ORDER BY ts {frame})" for name, frame in FRAMES.items())
NUMBER = st.one_of(st.integers(-30, 30).map(float), st.floats(-1e4, 1e4, width=32), st.just(-0.0))
WHOLE = st.integers(-40, 40)
ROW = st.tuples(
    st.sampled_from("xyz"),
    st.one_of(st.integers(1, 200_000_000), st.sampled_from([1, 60_000_000, 90_000_000, 300_000_000, 420_000_000])),
    NUMBER,
    st.none() | NUMBER,
    st.none() | NUMBER,
    st.none() | WHOLE,
    st.none() | WHOLE | st.integers(-(2**53), 2**53),
    st.none() | st.integers(-99_999, 99_999),
    st.none() | st.booleans(),
    st.none() | st.sampled_from(["", "a", "b", "ä"]),
    st.none() | st.booleans(),
)
SUMMED = ("a", "b", "f", "i", "m", "ok", "a * 2 - 1", "i + 1", "CASE WHEN a > 0 THEN i END", "m * 2")
CALLS = [
    *("count(*)", "count()", "bool_or(ok)", "bool_and(a > 0)", "sum(if(a > 0, i, -1))"),
    *(f"count({x})" for x in ("b", "shop", "ok", "ts", "a / b")),
    *(f"count(DISTINCT {x})" for x in ("a", "b", "i", "l", "m", "ok", "shop", "ts", "shop || 'x'", "i * l")),
    *(f"sum({x})" for x in SUMMED),
    *(f"avg({x})" for x in SUMMED if x != "ok"),
    *(f"{f}({x})" for f in ("min", "max") for x in (*SUMMED, "l", "a / b")),
    *(f"{f}({x})" for f in ("first_value", "last_value") for x in (*SUMMED, "l")),
    *("stddev_samp(a)", "var_samp(i)", "stddev(f)", "variance(m)", "mean(b)", "first(i)", "last(l)", "count_if(a > 0)"),
]
RANKED = [
    *(f"median({x})" for x in ("a", "b", "f", "i", "l", "m", "ok", "a / b", "a * 2 - 1", "CASE WHEN a > 0 THEN i END")),
    *(f"quantile_cont({x}, {q})" for x in ("a", "f", "i", "m") for q in ("0.9", "0.25", "0", "1.0", ".333")),
    *(f"quantile_disc({x}, {q})" for x in ("b", "f", "l", "m", "ok", "m * 2") for q in ("0.9", "0.25", "0", "1")),
    "quantile(i, 0.3)",
]
BY_ROW = sorted(name for name, frame in FRAMES.items() if "time_bucket" not in frame and "trunc" not in frame)
# Their windows are made of the rows whose label is known, so these say nothing of others.
LABELLED = ("count_if(fraud)", "avg(CASE WHEN fraud THEN 1 WHEN NOT fraud THEN 0 END)", "count(fraud)", "max(fraud)")


def as_number(call: str) -> str:
    of_booleans = "(ok" in call and call.startswith(("min", "max", "first", "last", "median", "quantile"))
    of_booleans = of_booleans or call.startswith("bool_")
    return f"CAST({call} AS INTEGER)" if of_booleans else call


def compiled(sql: str) -> Preprocessor:
    return compile_sql(sql, SCHEMA, key="id", event_time="ts")


def block(rows: list[tuple[Any, ...]]) -> pa.RecordBatch:
    ids, steps, a, b, f, i, long, m, ok, shop, fraud = zip(*rows, strict=True)
    start = np.datetime64("2026-03-01T00:00:00", "us")
    decimals = pa.array(m, pa.int64()).cast(pa.decimal128(19, 0))
    scaled = pa.Array.from_buffers(pa.decimal128(9, 2), len(m), decimals.buffers())
    values = {
        "row": range(len(rows)),
        "a": a,
        "b": b,
        "f": f,
        "i": i,
        "l": long,
        "ok": ok,
        "shop": shop,
        "fraud": fraud,
    }
    return pa.record_batch(
        {
            "id": pa.array(ids),
            "ts": pa.array(start + np.cumsum(steps), pa.timestamp("us", "UTC")),
            **{name: pa.array(column, TYPES[name]) for name, column in values.items()},
            "m": scaled,
        }
    )


def online(query: Preprocessor, events: pa.RecordBatch, cuts: list[int]) -> tuple[list[tuple[Any, ...]], list[int]]:
    """The rows, and which they are of the events."""
    history, places = query.history(), sorted({0, events.num_rows, *(min(cut, events.num_rows) for cut in cuts)})
    rows: list[tuple[Any, ...]] = []
    kept: list[int] = []
    for start, end in pairwise(places):
        done = query.apply(events.slice(start, end - start), history)
        rows += [tuple(row[name] for name in query.features) for row in done.rows.to_pylist()]
        kept += (done.kept + start).tolist()
        assert not set(done.errors.reasons) - {"not_finite"}
    return rows, kept


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 1}) as connected:
        yield connected


def check(connection: duckdb.DuckDBPyConnection, sql: str, rows: list[tuple[Any, ...]], cuts: list[int]) -> None:
    events, query = block(rows), compiled(sql)
    naive = events.set_column(1, "ts", events.column("ts").cast(pa.timestamp("us")))
    connection.register("events", pa.table(naive))
    names = ", ".join(query.features)
    expected = connection.execute(f"SELECT {names} FROM ({sql}) ORDER BY row").fetchall()
    theirs = [tuple(float(np.float32(float(value))) for value in row) for row in expected]
    ours, _ = online(query, events, cuts)
    finite = [row for row in theirs if all(np.isfinite(row))]
    assert len(ours) == len(finite)
    for mine, other in zip(ours, finite, strict=True):
        assert mine == pytest.approx(other, rel=1e-6, abs=1e-6), dict(
            zip(query.features, zip(mine, other, strict=True), strict=True)
        )


ROWS = st.lists(ROW, min_size=1, max_size=30)
CUTS = st.lists(st.integers(0, 30), max_size=4)
CALL = st.tuples(st.sampled_from(CALLS), st.sampled_from(sorted(FRAMES))) | st.tuples(
    st.sampled_from(RANKED), st.sampled_from(BY_ROW)
)


@settings(max_examples=60)
@given(
    calls=st.lists(CALL | st.tuples(st.sampled_from(LABELLED), st.just("past")), min_size=1, max_size=6),
    rows=ROWS,
    cuts=CUTS,
)
def test_every_function_and_frame(
    connection: duckdb.DuckDBPyConnection, calls: list[tuple[str, str]], rows: list[tuple[Any, ...]], cuts: list[int]
) -> None:
    features = [f"COALESCE({as_number(f'{call} OVER {name}')}, -77) AS x{n}" for n, (call, name) in enumerate(calls)]
    features = [f.replace("max(fraud) OVER past", "CAST(max(fraud) OVER past AS INTEGER)") for f in features]
    check(
        connection, f"SELECT id, ts, row, {', '.join(features)} FROM events WHERE a > -20 WINDOW {WINDOWS}", rows, cuts
    )


EXPRESSIONS = [
    "a - avg(a) OVER w",
    "COALESCE(extract(epoch FROM ts - last_value(ts) OVER before), -1)",
    "COALESCE(epoch(ts - min(ts) OVER w), -1)",
    "COALESCE(date_diff('second', last_value(ts) OVER before, ts), -1)",
    "COALESCE(date_diff('minute', first_value(ts) OVER w, ts), -1)",
    "CASE WHEN ts - last_value(ts) OVER before < INTERVAL '1 minute' THEN 1 ELSE 0 END",
    "CASE WHEN ts - last_value(ts) OVER before < to_minutes(1) THEN 1 ELSE 0 END",
    "CASE WHEN ts - first_value(ts) OVER w < '200 s'::INTERVAL THEN 1 ELSE 0 END",
    "CASE WHEN first_value(ok) OVER w THEN 1 ELSE 0 END",
    "count(*) OVER w / 2",
    "count(*) OVER w % 2 + COALESCE(sum(i) OVER w % 3, 0)",
    "CASE WHEN sum(m) OVER w = 0.3 THEN 1 WHEN min(m) OVER w < 0.1 THEN 2 ELSE 0 END",
    "CASE WHEN count(DISTINCT shop) OVER w > 1 AND count(DISTINCT l) OVER hops BETWEEN 1 AND 3 THEN a ELSE -a END",
    "COALESCE(round(avg(b) OVER past, 1), 0) - COALESCE(sum(b) OVER gone, 0)",
    "GREATEST(COALESCE(max(f) OVER week, 0), COALESCE(min(i) OVER trunc, 0))",
    "ln(1 + count(*) OVER w) + EXTRACT(hour FROM min(ts) OVER hops)",
    "COALESCE(epoch(ts - median(ts) OVER w), -1) + COALESCE(epoch(ts - quantile_disc(ts, 0.2) OVER past), -1)",
    "COALESCE(a / NULLIF(median(b) OVER past, 0), 0)",
]


@settings(max_examples=30)
@given(expressions=st.lists(st.sampled_from(EXPRESSIONS), min_size=1, max_size=4), rows=ROWS, cuts=CUTS)
def test_windows_stand_in_expressions(
    connection: duckdb.DuckDBPyConnection, expressions: list[str], rows: list[tuple[Any, ...]], cuts: list[int]
) -> None:
    features = ", ".join(f"{expression} AS x{n}" for n, expression in enumerate(expressions))
    check(connection, f"SELECT id, ts, row, {features} FROM events WINDOW {WINDOWS}", rows, cuts)


NESTED = [
    """SELECT id, ts, row, a,
              count(CASE WHEN a > 2.5 * mean THEN 1 END) OVER (PARTITION BY id ORDER BY ts {five}) AS often
       FROM (SELECT e.*, avg(a) OVER (PARTITION BY e.id ORDER BY e.ts {five}) AS mean FROM events e WHERE i > -20)""",
    """SELECT id, ts, row, a - mean AS off, n FROM (
           SELECT id, ts, row, a, avg(a) OVER w AS mean, count(*) OVER w AS n FROM events WINDOW w AS (
               PARTITION BY id ORDER BY ts {five})) AS t
       WHERE t.a >= mean AND n > 1""",
    """SELECT id, ts, row, COALESCE(sum(size) OVER past, 0) AS total, count(DISTINCT shop) OVER w AS shops
       FROM (SELECT id, ts, row, abs(a) AS size, shop FROM (SELECT * FROM events WHERE a <> 3) WHERE b IS NULL OR b > 0)
       WHERE size < 30 WINDOW {windows}""",
    """SELECT device AS id, seen AS ts, row, count(*) OVER (PARTITION BY device ORDER BY seen {five}) AS n,
              max(step) OVER (PARTITION BY device ORDER BY seen {five}) AS top
       FROM (SELECT id AS device, ts AS seen, row, COALESCE(epoch(ts - last_value(ts) OVER before), 0) AS step, fraud
             FROM events WINDOW {windows})
       WHERE step < 100""",
    """SELECT id, ts, row, COALESCE(avg(spread) OVER past, -1) AS before, spread FROM (
           SELECT *, COALESCE(max(mean) OVER w - min(mean) OVER w, 0) AS spread FROM (
               SELECT *, avg(a) OVER w AS mean FROM events WINDOW {windows})
           WHERE mean < 25 WINDOW {windows})
       WHERE spread >= 0 WINDOW {windows}""",
]


@settings(max_examples=30)
@given(sql=st.sampled_from(NESTED), rows=ROWS, cuts=CUTS)
def test_windows_of_windows_and_where_around_them(
    connection: duckdb.DuckDBPyConnection, sql: str, rows: list[tuple[Any, ...]], cuts: list[int]
) -> None:
    check(connection, sql.format(five=FIVE, windows=WINDOWS), rows, cuts)
