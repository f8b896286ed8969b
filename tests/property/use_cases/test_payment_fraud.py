"""The features of payment_fraud, block by block as a job has them, are those of the whole data set in DuckDB."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from beam_jobs.preprocessing import Preprocessor
from beam_jobs.sandbox.frauds import simulate
from beam_jobs.use_case import load_use_case

CARDS, DAYS = 120, 55


@pytest.fixture
def query(monkeypatch: pytest.MonkeyPatch) -> Preprocessor:
    monkeypatch.setenv("HIGHBEAM_PII_KEY", "0123456789abcdef")
    return load_use_case("payment_fraud").preprocessor()


def in_duckdb(events: pa.Table, sql: str) -> pa.Table:
    """The SQL as it stands; a pseudonym is as good as the text, and a generalized number is a rounded one."""
    times = events["event_time"].cast(pa.timestamp("ms"))
    with duckdb.connect() as connection:
        connection.execute("CREATE MACRO pseudonymize(x) AS x; CREATE MACRO generalize(x, digits) AS round(x, digits)")
        connection.register("events", events.set_column(1, "event_time", times))
        return connection.sql(f"SELECT * FROM ({sql}) ORDER BY payment_id").to_arrow_table()


@pytest.mark.parametrize("rows", [3_000, 977])
def test_every_feature_is_what_duckdb_says_bit_for_bit(query: Preprocessor, rows: int) -> None:
    payments = simulate(CARDS, DAYS, seed=5, prevalence=0.03)
    events, history = payments.table(), query.history()
    blocks = [query.apply(b, history) for b in events.combine_chunks().to_batches(max_chunksize=rows)]
    assert not sum(len(block.errors.rows) for block in blocks)
    ours = pa.Table.from_batches([block.rows for block in blocks]).sort_by("payment_id")
    theirs = in_duckdb(events, load_use_case("payment_fraud").sql)
    assert ours.num_rows == theirs.num_rows == len(payments)
    for name in query.features:
        wanted = theirs[name].cast(pa.float64()).to_numpy().astype(np.float32)
        assert np.array_equal(ours[name].to_numpy(), wanted), name
        assert wanted.min() < wanted.max(), f"{name} says nothing here"


def test_a_payments_own_label_does_not_reach_its_features(query: Preprocessor) -> None:
    events = simulate(CARDS, DAYS, seed=5, prevalence=0.03).table()
    last = events.num_rows - 1  # that no window of another row sees
    label = events.schema.get_field_index("fraud")
    features = []
    for fraud in ("none", "card_testing"):
        labels = pa.array([*events["fraud"].to_pylist()[:last], fraud])
        changed = events.set_column(label, "fraud", labels).combine_chunks().to_batches()[0]
        features.append(query.apply(changed, query.history()).rows)
    assert features[0].equals(features[1])
    known = features[0]["merchant_frauds_30d"].to_numpy()
    assert known.max() > 0  # others' labels do, once they are known


def test_no_personal_value_is_among_what_leaves(query: Preprocessor) -> None:
    events = simulate(30, 20, seed=6, prevalence=0.03).table().combine_chunks().to_batches()[0]
    rows = query.apply(events, query.history()).rows
    for tagged in ("card", "customer", "device"):
        secrets = set(events[tagged].to_pylist())
        for name in rows.schema.names:
            assert not secrets & set(rows[name].to_pylist()), name


def test_positions_leave_rounded_to_a_kilometre(query: Preprocessor) -> None:
    events = simulate(30, 20, seed=6, prevalence=0.03).table()
    rounded = events
    for name in ("latitude", "longitude"):
        column = pa.array([round(value, 2) for value in events[name].to_pylist()])
        rounded = rounded.set_column(events.schema.get_field_index(name), name, column)
    exact, coarse = (query.apply(t.combine_chunks().to_batches()[0], query.history()).rows for t in (events, rounded))
    assert not events.equals(rounded)
    assert exact.equals(coarse)
