"""Windows: online, in any blocks, equals the definition bit by bit, and DuckDB's windows over the whole data set."""

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

from beam_jobs.preprocessing import compile_sql

SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "E",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "row", "type": "int"},
        {"name": "a", "type": "double", "min": -1e6, "max": 1e6},
        {"name": "b", "type": ["null", "double"]},
    ],
}
SQL = """
    SELECT id, ts, row,
           a - avg(a) OVER w AS off, COALESCE(sum(b) OVER w, -1) AS total,
           count(*) OVER w AS n, count(b) OVER short AS known,
           COALESCE(min(b) OVER w, 0) AS low, max(a + 1) OVER short AS high,
           COALESCE(stddev_samp(a) OVER w, 0) AS spread
    FROM events
    WHERE a > -20
    WINDOW w AS (PARTITION BY id ORDER BY ts RANGE BETWEEN INTERVAL '5' MINUTE PRECEDING AND CURRENT ROW),
           short AS (PARTITION BY id ORDER BY ts RANGE BETWEEN INTERVAL 90 SECONDS PRECEDING AND CURRENT ROW)
"""
QUERY = compile_sql(SQL, SCHEMA, key="id", event_time="ts")
NUMBERS = st.one_of(st.floats(-1e4, 1e4), st.integers(-30, 30).map(float), st.just(-0.0))
CUTS = st.lists(st.integers(0, 40), max_size=6)


def rows_of(steps: st.SearchStrategy[int]) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """Key, step of the time in seconds, two numbers."""
    return st.lists(st.tuples(st.sampled_from("xyz"), steps, NUMBERS, st.none() | NUMBERS), min_size=1, max_size=40)


def block(rows: list[tuple[Any, ...]]) -> pa.RecordBatch:
    ids, steps, a, b = zip(*rows, strict=True)
    return pa.record_batch(
        {
            "id": pa.array(ids),
            "ts": pa.array(np.cumsum(steps) * 1000, pa.timestamp("ms", "UTC")),
            "row": pa.array(range(len(rows)), pa.int32()),
            "a": pa.array(a, pa.float64()),
            "b": pa.array(b, pa.float64()),
        }
    )


def online(events: pa.RecordBatch, cuts: list[int]) -> list[dict[str, Any]]:
    history, places = QUERY.history(), sorted({0, events.num_rows, *(min(cut, events.num_rows) for cut in cuts)})
    parts = [QUERY.apply(events.slice(start, end - start), history) for start, end in pairwise(places)]
    assert not any(len(part.errors) for part in parts)
    return [row for part in parts for row in part.rows.to_pylist()]


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 1}) as connected:
        yield connected


@settings(max_examples=60)
@given(rows=rows_of(st.integers(1, 200)), cuts=CUTS)
def test_in_order_it_is_what_duckdb_says(
    connection: duckdb.DuckDBPyConnection, rows: list[tuple[Any, ...]], cuts: list[int]
) -> None:
    events = block(rows)
    naive = events.set_column(1, "ts", events.column("ts").cast(pa.timestamp("ms")))
    connection.register("events", pa.table(naive))
    names = list(QUERY.features)
    expected = connection.execute(f"SELECT {', '.join(names)} FROM ({SQL}) ORDER BY row").fetchall()
    found = [tuple(row[name] for name in names) for row in online(events, cuts)]
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-3)


@settings(max_examples=100)
@given(rows=rows_of(st.integers(-400, 400)), cuts=CUTS)
def test_any_cut_gives_the_same_bits(rows: list[tuple[Any, ...]], cuts: list[int]) -> None:
    """In whatever order rows come, late ones and ones of the same time too."""
    events = block(rows)
    assert online(events, cuts) == online(events, [])
