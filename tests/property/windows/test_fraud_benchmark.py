"""The fraud benchmark's inputs in training and jobs are what DuckDB says of all rows."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from beam_jobs.preprocessing.stages import Unordered
from beam_jobs.preprocessing.whole import over_all
from beam_jobs.preprocessing.windows.order import by_log
from beam_jobs.sandbox.payments import benchmark
from beam_jobs.use_case import UseCase, load_use_case
from bench.accuracy.fraud import features_of


@pytest.fixture(scope="module")
def payments() -> pa.Table:
    """16,000 payments of 80 days, of which no two are of one customer and second."""
    table = benchmark(customers=100, terminals=400, days=80).table()
    assert len(table.group_by(["customer_id", "event_time"]).aggregate([])) == len(table)
    return table


@pytest.mark.parametrize("name", ["fraud_benchmark", "fraud_benchmark_history"])
def test_the_inputs_are_duckdbs_bit_for_bit(payments: pa.Table, name: str) -> None:
    use_case, unordered = load_use_case(name), Unordered()
    logs = by_log(payments.to_batches(max_chunksize=3000), use_case.event_time)
    parts = [result for _, result in over_all(use_case.preprocessor(), logs, unordered)]
    assert not any(len(part.errors) for part in parts)
    assert not unordered.phrases()
    order = [("event_time", "ascending"), ("customer_id", "ascending")]
    found = pa.Table.from_batches([part.rows for part in parts]).sort_by(order)
    assert len(found) == len(payments)
    column = payments.schema.get_field_index("event_time")
    in_utc = payments.set_column(column, "event_time", payments["event_time"].cast(pa.timestamp("ms")))
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.register("events", in_utc)
        ordered = f"SELECT * FROM ({use_case.sql}) ORDER BY event_time, customer_id::VARCHAR"
        said = connection.sql(ordered).to_arrow_table()
    assert said["customer_id"].cast(pa.string()).equals(found["customer_id"])
    for feature in use_case.preprocessor().features:
        computed, expected = (table[feature].cast(pa.float32()).to_numpy() for table in (found, said))
        wrong = np.flatnonzero(computed.view(np.int32) != expected.view(np.int32))
        assert not len(wrong), (feature, computed[wrong[:3]], expected[wrong[:3]])
        assert len(np.unique(computed)) > 1, feature


@pytest.mark.nightly  # a minute of CPU; by day no two payments are of one customer and second
def test_rows_that_duckdb_has_otherwise_are_those_of_one_customer_and_second() -> None:
    """To SQL two such payments see each other; here the earlier does not see what comes after it.

    A millisecond later, the second of a pair is later to SQL too: then every row is the same.
    """
    made = benchmark()
    place = made.customer * (1 << 40) + made.time_s
    order = np.argsort(place, kind="stable")
    pairs = np.flatnonzero(place[order][1:] == place[order][:-1])
    earlier, later = order[pairs], order[pairs + 1]
    assert len(pairs) == len(np.unique(made.customer[later])) == 29
    theirs = np.isin(made.customer, made.customer[later])
    table = made.table()
    times = table["event_time"].cast(pa.int64()).to_numpy() + np.isin(np.arange(len(table)), later)
    column = table.schema.get_field_index("event_time")
    moved = table.set_column(column, "event_time", pa.array(times).cast(pa.timestamp("ms", "UTC")))
    use_case = load_use_case("fraud_benchmark_history")
    names = use_case.preprocessor().features
    of_card = [i for i, name in enumerate(names) if not name.startswith("terminal_")]
    table, moved = (each.filter(pa.array(theirs)) for each in (table, moved))
    found = features_of(use_case, table)[:, of_card]
    assert np.array_equal(found, _in_duckdb(use_case, moved)[:, of_card])
    other = found != _in_duckdb(use_case, table)[:, of_card]
    first = np.isin(np.flatnonzero(theirs), earlier)
    counts = {names[i]: int(n) for i, n in zip(of_card, other[~first].sum(axis=0), strict=True) if n}
    assert counts == {"amount_to_median_max_14d": 106}
    assert other[first].any(axis=1).all()


def _in_duckdb(use_case: UseCase, events: pa.Table) -> np.ndarray:
    """The features of all rows, [n, F], in the order of their numbers."""
    column = events.schema.get_field_index("event_time")
    in_utc = events.set_column(column, "event_time", events["event_time"].cast(pa.timestamp("ms")))
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.register("events", in_utc)
        sql = use_case.sql.replace("SELECT", "SELECT payment_id,", 1)
        said = connection.sql(f"SELECT * FROM ({sql}) ORDER BY payment_id").to_arrow_table()
    names = use_case.preprocessor().features
    return np.column_stack([said[name].cast(pa.float32()).to_numpy() for name in names])
