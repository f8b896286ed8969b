"""truncate(): never outside its cell, itself when cut again, nulls stay, however rows are cut into blocks."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import duckdb
import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.preprocessing import Preprocessor, compile_sql, grid
from beam_jobs.preprocessing.query.personal import UNITS

FLOATS = st.floats(-1e6, 1e6) | st.floats() | st.decimals(-400, 400, places=2).map(float)
LATITUDES = st.floats(-90, 90) | st.sampled_from([-90.0, 0.0, 89.99999, 90.0])
LONGITUDES = st.floats(-180, 180) | st.sampled_from([-180.0, 0.0, 180.0])
METRES = st.sampled_from([1_000.0, 2_500.0, 50_000.0, 5_000_000.0])
TIMES = st.datetimes(datetime(1, 2, 1), datetime(9998, 12, 31)) | st.none()


@given(st.lists(FLOATS, min_size=1, max_size=20), st.integers(-9, 2))
def test_decimals(values: list[float], decimals: int) -> None:
    x = np.array(values)
    with np.errstate(all="ignore"):
        cut = grid.to_decimals(x, decimals)
        assert np.array_equal(grid.to_decimals(cut, decimals), cut, equal_nan=True)
    for value, edge in zip(values, cut.tolist(), strict=True):
        if not math.isfinite(value):
            assert edge == value or (math.isnan(edge) and math.isnan(value))
        elif abs(value) < 2**52 / 10 ** max(decimals, 0):
            assert edge <= value < edge + 10.0**-decimals * 1.0001
            assert float(f"{edge:.{max(decimals, 0)}f}") == edge  # it has no more decimals
        else:
            assert edge <= value


@given(st.lists(st.tuples(LATITUDES, LONGITUDES), min_size=1, max_size=20), METRES)
def test_cells(places: list[tuple[float, float]], metres: float) -> None:
    north, east = (np.array(column) for column in zip(*places, strict=True))
    south, west = grid.latitude(north, metres), grid.longitude(east, metres, north)
    assert np.array_equal(grid.latitude(south, metres), south)
    assert np.array_equal(grid.longitude(west, metres, south), west)
    height = metres / grid.METRES_NORTH
    assert (south <= north).all()
    assert (north < south + height * (1 + 1e-9)).all()
    assert ((west <= east) & (west >= -180)).all()
    # Never farther away than a cell is wide, which is as many metres where it is narrowest.
    farthest = np.minimum(np.maximum(np.abs(south), np.abs(south + height)), 90.0)
    around = grid.METRES_EAST * np.cos(np.radians(farthest))
    width = metres / np.maximum(around, 1e-4)
    assert (east - west <= np.minimum(width, 360.0) * (1 + 1e-6)).all()


@given(st.lists(LONGITUDES, min_size=1))
def test_without_a_latitude_there_is_no_cell(east: list[float]) -> None:
    with np.errstate(all="ignore"):
        assert np.isnan(grid.longitude(np.array(east), 1000.0, np.full(len(east), math.nan))).all()


def _query(unit: str) -> Preprocessor:
    schema = {
        "type": "record",
        "name": "E",
        "fields": [
            {"name": "id", "type": "string"},
            {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "pii": "quasi"},
            {"name": "other", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}], "pii": "quasi"},
            {"name": "latitude", "type": ["null", "double"], "unit": "°", "pii": "quasi"},
            {"name": "longitude", "type": ["null", "double"], "unit": "°", "pii": "quasi"},
        ],
    }
    return compile_sql(
        f"SELECT id, truncate(at, '{unit}') AS at, "
        f"coalesce(date_diff('minute', TIMESTAMP '2000-01-01', truncate(other, '{unit}')), 0.5) AS other, "
        "coalesce(truncate(latitude, '5 km'), -99) AS latitude, "
        "coalesce(truncate(longitude, '5 km', latitude), -999) AS longitude FROM events",
        schema,
        key="id",
        event_time="at",
    )


QUERIES = {unit: _query(unit) for unit in UNITS}
ROWS = st.lists(
    st.tuples(TIMES.filter(bool), TIMES, LATITUDES | st.none(), LONGITUDES | st.none()), min_size=1, max_size=12
)


@given(ROWS, st.sampled_from(list(UNITS)), st.integers(0, 12))
def test_in_a_query(
    rows: list[tuple[datetime, datetime | None, float | None, float | None]], unit: str, at: int
) -> None:
    kind = pa.timestamp("us", "UTC")
    at_, other, north, east = (list(column) for column in zip(*rows, strict=True))
    utc = [None if t is None else t.replace(tzinfo=UTC) for t in other]
    block = pa.record_batch(
        {
            "id": ["x"] * len(rows),
            "at": pa.array([t.replace(tzinfo=UTC) for t in at_], kind),
            "other": pa.array(utc, kind),
            "latitude": pa.array(north, pa.float64()),
            "longitude": pa.array(east, pa.float64()),
        }
    )
    found = QUERIES[unit].apply(block).rows
    parts = [QUERIES[unit].apply(part).rows for part in (block.slice(0, at), block.slice(at))]
    assert pa.Table.from_batches(parts).combine_chunks() == pa.Table.from_batches([found])
    for row, (time, also, latitude, longitude) in zip(found.to_pylist(), rows, strict=True):
        (edge,) = duckdb.execute("SELECT date_trunc($1, $2::TIMESTAMP)", [unit, time]).fetchone()  # type: ignore[misc]
        assert row["at"].replace(tzinfo=None) == datetime(
            edge.year, edge.month, edge.day, getattr(edge, "hour", 0), getattr(edge, "minute", 0)
        )
        assert timedelta(0) <= time - row["at"].replace(tzinfo=None) <= timedelta(366)
        assert (row["other"] == 0.5) is (also is None)
        assert (row["latitude"] == -99) is (latitude is None)
        assert (row["longitude"] == -999) is (latitude is None or longitude is None)
