"""The property of every transform of blocks: apply(concat(a, b)) == concat(apply(a), apply(b)), errors included."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_jobs.preprocessing import Preprocessed, compile_sql

SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "E",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "a", "type": "double", "min": -100, "max": 100},
        {"name": "b", "type": ["null", "double"]},
        {"name": "n", "type": ["null", "int"], "min": 0, "max": 9},
        {"name": "s", "type": ["null", "string"]},
    ],
}
QUERIES = [
    compile_sql(f"SELECT id, at, {columns} FROM events {where}", SCHEMA, key="id", event_time="at")
    for columns, where in [
        ("a", ""),
        ("a, b, n, s", ""),
        ("a / n AS x, COALESCE(b, 0) AS y", "WHERE a > -50"),
        ("CASE WHEN s LIKE 'x%' THEN a ELSE b END AS x, LENGTH(s) AS y", "WHERE n IN (1, 2, NULL) OR b IS NULL"),
        ("GREATEST(a, b) AS x, LN(a) AS y", "WHERE NOT (n BETWEEN 2 AND 5)"),
        ("EXTRACT(hour FROM at) AS x, LOWER(s) AS low", "WHERE LENGTH(s) > 1"),
    ]
]
NUMBERS = st.one_of(st.floats(-101, 101), st.sampled_from([0.0, -0.0, 100.0, math.nan, math.inf, -math.inf, 1e300]))
ROWS = st.lists(
    st.tuples(
        st.text(max_size=3),
        st.integers(-(2**62), 2**62) | st.integers(0, 10**12),
        NUMBERS,
        st.none() | NUMBERS,
        st.none() | st.integers(-1, 10),
        st.none() | st.text("xyß%_", max_size=3),
    ),
    max_size=30,
)


def block(rows: list[tuple[Any, ...]]) -> pa.RecordBatch:
    types = [pa.string(), pa.timestamp("ms", "UTC"), pa.float64(), pa.float64(), pa.int32(), pa.string()]
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(types)
    return pa.RecordBatch.from_arrays(
        [pa.array(c, t) for c, t in zip(columns, types, strict=True)], names=["id", "at", "a", "b", "n", "s"]
    )


def summary(result: Preprocessed, first: int) -> list[Any]:
    """All that came out, with the rows counted from ``first``."""
    errors = result.errors
    return [
        result.rows.to_pylist(),
        (result.kept + first).tolist(),
        list(zip((errors.rows + first).tolist(), errors.reasons, errors.errors, strict=True)),
        result.filtered,
    ]


@settings(max_examples=60)
@given(rows=ROWS, cut=st.integers(0, 30), number=st.integers(0, len(QUERIES) - 1))
def test_any_split_gives_the_same(rows: list[tuple[Any, ...]], cut: int, number: int) -> None:
    query, whole = QUERIES[number], block(rows)
    cut = min(cut, len(rows))
    all_at_once = query.apply(whole)
    parts = [query.apply(whole.slice(0, cut)), query.apply(whole.slice(cut))]
    joined = [x + y for x, y in zip(summary(parts[0], 0), summary(parts[1], cut), strict=True)]
    assert summary(all_at_once, 0) == joined
    assert {part.rows.schema for part in parts} == {query.output_schema}


@settings(max_examples=60)
@given(rows=ROWS, number=st.integers(0, len(QUERIES) - 1))
def test_every_row_ends_once(rows: list[tuple[Any, ...]], number: int) -> None:
    query = QUERIES[number]
    result = query.apply(block(rows))
    kept, bad = result.kept.tolist(), result.errors.rows.tolist()
    assert len(kept) + len(bad) + result.filtered == len(rows)
    assert not set(kept) & set(bad)
    assert kept == sorted(set(kept))
    assert bad == sorted(set(bad))
    assert result.rows.num_rows == len(kept)
    for name in query.features:
        assert all(math.isfinite(value) for value in result.rows.column(name).to_pylist())
