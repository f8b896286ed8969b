"""The fraud benchmark's inputs in training and jobs: what DuckDB says of all rows, and no label before its time."""

from __future__ import annotations

from dataclasses import replace

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from beam_jobs.preprocessing.stages import Unordered
from beam_jobs.preprocessing.whole import over_all
from beam_jobs.preprocessing.windows.order import by_log
from beam_jobs.sandbox.payments import benchmark
from beam_jobs.use_case import UseCase, load_use_case


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


DAY = 40  # whose labels are turned round


def days_changed(use_case: UseCase, payments: pa.Table) -> set[int]:
    """Days after DAY on which a payment's features are others once all labels of DAY are turned round."""
    day = np.asarray(payments["event_time"].cast(pa.int64())) // 86_400_000
    day -= day[0]
    scenario = payments["scenario"].to_numpy()
    turned = pa.array(np.where(day == DAY, (scenario == 0).astype(np.int32), scenario))
    column = payments.schema.get_field_index("scenario")
    found = []
    for table in (payments, payments.set_column(column, "scenario", turned)):
        logs = by_log(table.to_batches(), use_case.event_time)
        parts = list(over_all(use_case.preprocessor(), logs, Unordered()))
        ids = np.concatenate([events["payment_id"].to_numpy()[result.kept] for events, result in parts])
        rows = pa.Table.from_batches([result.rows for _, result in parts]).take(pa.array(np.argsort(ids)))
        found.append(np.stack([rows[name].to_numpy() for name in use_case.preprocessor().features], axis=1))
    return {int(each) - DAY for each in day[(found[0] != found[1]).any(axis=1)]}


@pytest.mark.parametrize("name", ["fraud_benchmark", "fraud_benchmark_history"])
def test_a_label_reaches_no_payment_of_the_next_seven_days(payments: pa.Table, name: str) -> None:
    changed = days_changed(load_use_case(name), payments)
    assert min(changed) == 7
    assert len(changed) > 7


def test_a_planted_leak_is_seen(payments: pa.Table) -> None:
    """Were the label an ordinary field, its own row could read it."""
    use_case = load_use_case("fraud_benchmark")
    fields = [{k: v for k, v in field.items() if k != "label"} for field in use_case.schema["fields"]]
    sql = use_case.sql.replace(
        "INTERVAL '8' DAY PRECEDING AND INTERVAL '7' DAY PRECEDING", "INTERVAL '1' DAY PRECEDING AND CURRENT ROW"
    )
    assert sql != use_case.sql
    leaking = replace(
        use_case,
        schema={**use_case.schema, "fields": fields},
        label=None,
        lateness=replace(use_case.lateness, label_ms=0),
        sql=sql,
    )
    assert min(days_changed(leaking, payments)) == 0
