from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from beam_jobs.codec.avro.decoder import AvroDecoder
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.errors import UserError
from beam_jobs.preprocessing import PiiPolicy, Preprocessor, compile_sql

TIME = {"type": "long", "logicalType": "timestamp-micros"}
FIELDS: list[dict[str, Any]] = [
    {"name": "card", "type": "string", "pii": "direct"},
    {"name": "merchant", "type": ["null", "string"]},
    {"name": "car", "type": "long"},
    {"name": "ts", "type": TIME},
    {"name": "amount", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
    {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["fuel", "parking"]}},
    {"name": "latitude", "type": ["null", "double"], "pii": "quasi"},
    {"name": "driver", "type": ["null", "string"], "pii": "direct"},
    {"name": "score", "type": "double"},
    {"name": "fraud", "type": "boolean", "label": True},
]
RANGE = "ORDER BY ts RANGE BETWEEN INTERVAL '1' HOUR PRECEDING AND CURRENT ROW)"
CARD, SHOP = f"(PARTITION BY card {RANGE}", f"(PARTITION BY merchant {RANGE}"
KEY = "a secret of sixteen bytes or more"


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGHBEAM_TEST_LEGS", KEY)


def compiled(columns: str, source: str = "events", tail: str = "") -> Preprocessor:
    sql = f"SELECT pseudonymize(card) AS card, ts, {columns} FROM {source} {tail}"
    schema = {"type": "record", "name": "Payment", "fields": FIELDS}
    return compile_sql(sql, schema, PiiPolicy("env:HIGHBEAM_TEST_LEGS"), key="card", event_time="ts")


BOTH = f"count(*) OVER {CARD} AS a, count(*) OVER {SHOP} AS b"
FAR = f"SELECT *, avg(score) OVER {SHOP} AS there FROM events"


@pytest.mark.parametrize(
    ("columns", "source", "tail", "said"),
    [
        (f"count(*) OVER {SHOP} AS b", "events", "", "all windows are by merchant, and none by the key card"),
        (f"{BOTH}, count(*) OVER (PARTITION BY car {RANGE} AS c", "events", "", "two keys are the most"),
        (BOTH.replace("BY merchant", "BY score"), "events", "", "PARTITION BY score: it is a number; a key is a text"),
        (BOTH.replace("BY merchant", "BY fraud"), "events", "", "fraud is the label"),
        (BOTH.replace("BY merchant", "BY ts"), "events", "", "PARTITION BY ts: it is a timestamp"),
        (BOTH.replace("BY merchant", "BY latitude"), "events", "", "a key is a text, an int or a long"),
        (BOTH.replace("BY merchant", "BY merchant, car"), "events", "", "PARTITION BY one other field"),
        (
            f"{BOTH}, avg(there) OVER {CARD} AS c",
            f"({FAR})",
            "",
            "put the windows by merchant into the out",
        ),
        (f"avg(score) OVER {CARD} AS c, there", f"({FAR})", "WHERE score > 1", "put the windows by merchant into the"),
        (f"{BOTH}, avg(generalize(latitude, 1)) OVER {SHOP} AS c", "events", "", "a window by merchant needs latitude"),
        (
            f"{BOTH}, generalize(latitude, 1) + count(*) OVER {SHOP} AS c",
            "events",
            "",
            "c needs latitude, personal",
        ),
    ],
)
def test_refused(columns: str, source: str, tail: str, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        compiled(columns, source, tail)


def events(n: int) -> pa.RecordBatch:
    chance = np.random.default_rng(1)
    times = 1_700_000_000_000_001 + np.cumsum(chance.integers(1, 10**9, n))
    return pa.record_batch(
        {
            "card": pa.array([f"card-{i}" for i in chance.integers(0, 5, n)]),
            "merchant": pa.array([None if i == 0 else f"shop-{i}" for i in chance.integers(0, 4, n)]),
            "car": pa.array(chance.integers(0, 3, n)),
            "ts": pa.array(times).cast(pa.timestamp("us", "UTC")),
            "amount": pa.array([Decimal(int(i)).scaleb(-2) for i in chance.integers(0, 10**6, n)], pa.decimal128(9, 2)),
            "kind": pa.array(chance.choice(["fuel", "parking"], n)).dictionary_encode(),
            "latitude": pa.array(chance.uniform(-60, 60, n), mask=chance.random(n) < 0.0),
            "driver": pa.array([f"driver-{i}" for i in chance.integers(0, 3, n)]),
            "score": chance.uniform(0, 10, n),
            "fraud": pa.array(chance.random(n) < 0.2),
            "_partition": pa.array(np.zeros(n, np.int32)),
            "_offset": pa.array(np.arange(n)),
            "_timestamp": pa.array(1_700_000_000_000 + np.arange(n) * 500_000).cast(pa.timestamp("ms", "UTC")),
        }
    )


QUERY = (
    f"generalize(latitude, 1) AS latitude, amount, kind, score > 5 AS high, "
    f"sum(amount) OVER {CARD} AS spent, sum(amount) OVER {SHOP} AS sold, "
    f"count(DISTINCT pseudonymize(card)) OVER {SHOP} AS cards, "
    f"count(DISTINCT pseudonymize(driver)) OVER {SHOP} AS drivers, "
    f"amount / 2 + max(amount) OVER {SHOP} - often AS mixed",
    f"(SELECT *, count(*) OVER {CARD} AS often FROM events WHERE score > 1)",
    "WHERE generalize(latitude, 1) > -50",
)


def test_the_two_parts_make_what_the_whole_makes() -> None:
    query, rows = compiled(*QUERY), events(500)
    whole = query.apply(rows, query.history())
    assert len(whole.kept) > 300
    legs = query.legs()
    keys, shipped = legs.ship(legs.before().advance(query.prepare(rows).rows).rows)
    values = AvroEncoder(legs.schema, None).encode(shipped)
    decoded = AvroDecoder(legs.schema, lambda _: legs.schema).decode_bare(values, np.zeros(len(values), np.int64))
    behind = query.behind(legs)
    history = behind.history()
    assert history is not None
    assert behind.finish(history.advance(legs.received(keys, decoded.rows)).rows).rows.equals(whole.rows)


def test_no_personal_data_goes_along() -> None:
    query, rows = compiled(*QUERY), events(200)
    legs = query.legs()
    keys, shipped = legs.ship(legs.before().advance(query.prepare(rows).rows).rows)
    there = b"".join([*AvroEncoder(legs.schema, None).encode(shipped).to_pylist(), *keys.cast(pa.binary()).to_pylist()])
    assert b"shop-1" in there
    assert b"card-" not in there
    assert b"driver-" not in there
    assert not any(value.tobytes() in there for value in rows["latitude"].to_numpy())


def test_a_second_key_that_is_personal_goes_as_its_pseudonym() -> None:
    query = compiled(BOTH.replace("BY merchant", "BY driver"))
    legs, rows = query.legs(), events(50)
    keys, _ = legs.ship(legs.before().advance(query.prepare(rows).rows).rows)
    assert query.second_key == "driver"
    assert set(map(len, keys.to_pylist())) == {65}  # "=" and 64 digits


def test_windows_by_the_key_come_first_where_nothing_is_between() -> None:
    query = compiled(f"count(*) OVER {CARD} AS c, there", f"({FAR})")
    assert [stage.by for stage in query.stages] == [None, "merchant"]


def test_records_of_another_query_are_known_by_their_schema_id() -> None:
    """What is computed behind the cut differs, so what goes along is the same."""
    here, there = (compiled(f"{BOTH}, sum(score) OVER {SHOP} * {n} AS c").legs() for n in (2, 3))
    assert here.schema["fields"] == there.schema["fields"]
    with pytest.raises(LookupError, match="of another SQL"):
        here.writer_schema(there.schema_id)
