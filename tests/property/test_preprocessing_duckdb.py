"""DuckDB running the same SQL over the same rows is the oracle of what the SQL means."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_jobs.preprocessing import compile_sql

SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "E",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "a", "type": "double"},
        {"name": "b", "type": ["null", "double"]},
        {"name": "n", "type": ["null", "int"]},
        {"name": "s", "type": ["null", "string"]},
    ],
}
# Of a decimal that no double holds (1.775) DuckDB versions round the exact value or the scaled one: none is asked here.
EXPRESSIONS = [
    *("a + b", "a - b * 2", "-a", "a / b", "n / 2", "a / n", "a % 7", "MOD(a, b)", "n % 4"),
    *(
        "ABS(a)",
        "SIGN(a)",
        "FLOOR(a)",
        "CEIL(a)",
        "ROUND(a)",
        "ROUND(EXP(a / 1000), 2)",
        "EXP(a / 1000)",
        "POWER(a, 2)",
    ),
    *("SQRT(ABS(a))", "LN(ABS(a) + 1)", "LOG(ABS(a) + 1)", "LOG10(ABS(b) + 1)", "LOG(2, ABS(a) + 1)"),
    *(
        "SIN(a)",
        "COS(a)",
        "TAN(a)",
        "ASIN(SIN(a))",
        "ACOS(COS(a))",
        "ATAN(a)",
        "ATAN2(a, b)",
        "RADIANS(a)",
        "DEGREES(a)",
    ),
    *("6371 * 2 * ASIN(SQRT(SIN(RADIANS(a - b) / 2) ^ 2))", "a * PI()"),
    *("LEAST(a, b, n)", "GREATEST(a, b, n)", "COALESCE(b, n, a)", "NULLIF(a, b)", "NULLIF(n, 1)"),
    *("CAST(a AS INTEGER)", "CAST(n AS DOUBLE)", "CAST(a > b AS INTEGER)", "CAST(a / 2 AS BIGINT)"),
    *("CASE WHEN a > b THEN a WHEN n > 0 THEN n END", "CASE n WHEN 1 THEN a WHEN 2 THEN b ELSE 0 END"),
    *("EXTRACT(hour FROM ts)", "EXTRACT(dow FROM ts)", "EXTRACT(isodow FROM ts)", "EXTRACT(minute FROM ts)"),
    *("EXTRACT(month FROM ts)", "EXTRACT(day FROM ts)", "EXTRACT(second FROM ts)"),
    *("LENGTH(s)", "LENGTH(CONCAT(s, 'x', UPPER(s)))", "LENGTH(s || 'x')", "LENGTH(SUBSTRING(s, 2, 1))"),
]
CONDITIONS = [
    *("a > b", "a >= 0 AND n < 5", "a < 0 OR b < 0", "NOT (a > b)", "NOT (a > b OR n = 1)", "b IS NULL", "b = n"),
    *("n IN (1, 2)", "n IN (1, NULL)", "n NOT IN (1, NULL)", "n NOT IN (1, 2)", "a BETWEEN -1 AND b"),
    *("a NOT BETWEEN b AND 5", "(a > b) IS TRUE", "(a > b) IS NOT TRUE", "(a > b) IS FALSE", "b IS DISTINCT FROM n"),
    *("b IS NOT DISTINCT FROM n", "s LIKE 'x%'", "s LIKE '_y%'", "s NOT LIKE '%.%'", "s LIKE 'x.y'", "s < 'y'"),
    *("LOWER(s) = 'x'", "s IN ('x', 'xy')", "a <> n", "ts < TIMESTAMP '2001-01-01 12:00:00'", "SUBSTRING(s, 2) = 'y'"),
    *("COALESCE(a > b, n > 1, FALSE)", "CASE WHEN n > 2 THEN a > 0 ELSE b > 0 END", "(a > b) = (n > 1)"),
]
# Where rounding and comparisons are sharp: halves, whole numbers, both zeros.
NUMBERS = st.one_of(
    st.integers(-40, 40).map(lambda i: i / 2), st.floats(-1e4, 1e4).map(lambda x: round(x, 4)), st.just(-0.0)
)
ROWS = st.lists(
    st.tuples(
        st.integers(0, 2_000_000_000_000),
        NUMBERS,
        st.none() | NUMBERS,
        st.none() | st.integers(-3, 9),
        st.none() | st.text("xyX. ", max_size=4),
    ),
    min_size=1,
    max_size=20,
)


def block(rows: list[tuple[Any, ...]]) -> pa.RecordBatch:
    ts, a, b, n, s = zip(*rows, strict=True)
    return pa.record_batch(
        {
            "id": pa.array([str(i) for i in range(len(rows))]),
            "ts": pa.array(ts, pa.timestamp("ms", "UTC")),
            "a": pa.array(a, pa.float64()),
            "b": pa.array(b, pa.float64()),
            "n": pa.array(n, pa.int32()),
            "s": pa.array(s, pa.string()),
        }
    )


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 1}) as connected:
        yield connected


def duck(connection: duckdb.DuckDBPyConnection, sql: str, rows: pa.RecordBatch) -> list[tuple[Any, ...]]:
    # DuckDB's type without a time zone, as its EXTRACT of one with it needs an extension.
    naive = rows.set_column(1, "ts", rows.column("ts").cast(pa.timestamp("ms")))
    connection.register("events", pa.table(naive))
    return connection.execute(sql).fetchall()


@pytest.mark.parametrize("expression", EXPRESSIONS)
@settings(max_examples=12)
@given(rows=ROWS)
def test_expressions(connection: duckdb.DuckDBPyConnection, expression: str, rows: list[tuple[Any, ...]]) -> None:
    sql = f"SELECT id, ts, {expression} AS x FROM events"
    events = block(rows)
    result = compile_sql(sql, SCHEMA, key="id", event_time="ts").apply(events)
    with np.errstate(over="ignore"):
        expected = {key: math.nan if x is None else float(np.float32(x)) for key, _, x in duck(connection, sql, events)}
    finite = {key: x for key, x in expected.items() if math.isfinite(x)}
    ours = dict(zip(result.rows.column("id").to_pylist(), result.rows.column("x").to_pylist(), strict=True))
    assert ours == pytest.approx(finite, rel=1e-6, abs=1e-9)
    assert [str(row) for row in result.errors.rows] == [key for key in expected if key not in finite]


@pytest.mark.parametrize("condition", CONDITIONS)
@settings(max_examples=12)
@given(rows=ROWS)
def test_conditions(connection: duckdb.DuckDBPyConnection, condition: str, rows: list[tuple[Any, ...]]) -> None:
    sql = f"SELECT id, ts, a FROM events WHERE {condition}"
    events = block(rows)
    result = compile_sql(sql, SCHEMA, key="id", event_time="ts").apply(events)
    assert result.rows.column("id").to_pylist() == [row[0] for row in duck(connection, sql, events)]
    assert result.filtered == len(rows) - len(result.kept)
