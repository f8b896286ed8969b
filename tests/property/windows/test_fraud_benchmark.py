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
from beam_jobs.use_case import load_use_case


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
