"""Statistics are those that DuckDB says, and none of them needs good data."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from beam_jobs.samples.statistics import BINS, QUANTILES, column_of, histogram_of

RANDOM = np.random.default_rng(3)
COLUMNS = {
    "even": pa.array(RANDOM.random(1000)),
    "skewed": pa.array(RANDOM.lognormal(0, 3, 1000), mask=RANDOM.random(1000) < 0.1),
    "float32": pa.array(RANDOM.normal(1e6, 1, 777).astype(np.float32)),
    "whole": pa.array(RANDOM.integers(-5, 5, 1000)),
    "one": pa.array([0.1] * 10),
    "single": pa.array([7]),
    "boolean": pa.array([True, None, False, True]),
    "decimal": pa.array(["1.25", "-3.50", None, "8.00"]).cast(pa.decimal128(6, 2)),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_numbers_are_duckdbs(name: str) -> None:
    column = column_of(name, "feature", None, pa.chunked_array([COLUMNS[name]]))
    with duckdb.connect() as connection:
        connection.register("t", pa.table({"x": COLUMNS[name]}))
        x = "x::DOUBLE" if name != "boolean" else "x::INT::DOUBLE"
        quantiles = ", ".join(f"quantile_cont({x}, {q})" for q in QUANTILES)
        figures = f"min({x}), avg({x}), max({x}), stddev_pop({x}), {quantiles}"
        said = connection.execute(
            f"SELECT count(*), count(*) - count(x), count(DISTINCT x), {figures} FROM t"
        ).fetchone()
        summary = connection.execute("SELECT count, null_percentage FROM (SUMMARIZE t)").fetchone()
    assert said is not None
    assert summary is not None
    numbers = column.numbers
    assert numbers is not None
    assert (column.count, column.nulls, column.values) == said[:3]
    assert (column.count, round(100 * column.null_share, 2)) == (summary[0], float(summary[1]))
    found = (numbers.least, numbers.mean, numbers.most, numbers.spread, *numbers.quantiles)
    np.testing.assert_allclose(found, said[3:], rtol=1e-6, atol=1e-9)
    assert sum(numbers.histogram.counts) == column.count - column.nulls


def test_a_histogram_counts_each_value_where_numpy_does() -> None:
    values = RANDOM.random(5000)
    counts, edges = np.histogram(values, BINS)
    found = histogram_of(values)
    assert np.abs(np.array(found.counts) - counts).sum() <= 2  # at an edge either side will do
    assert (found.low, found.high) == (edges[0], edges[-1])
    assert not found.below
    assert not found.above


def test_few_far_away_do_not_hide_the_others() -> None:
    found = histogram_of(np.concatenate([RANDOM.random(1000), [1e9, -1e9]]))
    assert found.below
    assert found.above
    assert found.high - found.low < 1
    assert sum(found.counts) == 1002
    assert np.count_nonzero(found.counts) == BINS


def test_integers_have_a_bar_each() -> None:
    assert histogram_of(np.array([3.0, 5.0, 5.0, 4.0, 5.0])).counts == (1, 1, 3)


@pytest.mark.parametrize(
    ("values", "not_finite", "note"),
    [
        ([np.nan, 1.0, np.inf], 2, "2 values are not finite"),
        ([np.nan, np.nan], 2, "2 values are not finite"),
        ([None, None], 0, "no value at all"),
        ([2.0, 2.0], 0, "one value: it says nothing"),
        ([1.0, 2.0, 1.0], 0, "two values: a switch"),
        ([1.7e308, -1.7e308, 3.0], 0, ""),
    ],
)
def test_any_double_is_taken(values: list[float | None], not_finite: int, note: str) -> None:
    column = column_of("x", "feature", None, pa.chunked_array([pa.array(values, pa.float64())]))
    assert (column.not_finite, column.note) == (not_finite, note)
    assert (column.numbers is None) == (column.nulls + not_finite == len(values))


def test_of_personal_data_nothing_is_kept_but_how_many_there_are() -> None:
    ages = pa.chunked_array([pa.array([31, None, 47])])
    column = column_of("age", "input", "years", ages, [31, None, 47], personal=True)
    assert (column.nulls, column.values, column.numbers, column.top, column.first) == (1, 2, None, (), ())


def test_texts_have_their_most_frequent_ones_and_records_none() -> None:
    texts = pa.chunked_array([pa.array(["b", "a", None, "b"]).dictionary_encode()])
    assert column_of("t", "attribute", None, texts).top == (("b", 2), ("a", 1))
    records = column_of("r", "input", None, pa.chunked_array([pa.array([{"a": 1}, None])]))
    assert (records.values, records.nulls, records.top) == (None, 1, ())
