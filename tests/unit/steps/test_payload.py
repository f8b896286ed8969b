"""Dead letters that hold their records encrypted, or not at all; and what comes back of them."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import schemas
from beam_jobs import dead_letters, metrics
from beam_jobs.block import raw_block
from beam_jobs.codec.avro.decoder import AvroDecoder
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.errors import RowErrors, UserError
from beam_jobs.steps.payload import KEY_HEADER, Key, Payload, Policy, key_id, protect, restore
from beam_jobs.steps.redrive import Redrive
from beam_jobs.steps.write_dead_letters import _EncodeDeadLetters, left_out, without_payload

SCHEMA = schemas.load("dead_letter")
SECRET, OTHER = "0f" * 32, "1e" * 32
PERSONAL = b"VIN-4711"
RECORDS = [
    (PERSONAL, b"\xff" + PERSONAL, [("who", PERSONAL), ("none", None)]),
    (None, None, None),
    (b"", b"", []),
    (PERSONAL, PERSONAL * 3, None),
]
ERRORS = [f"field 'vin' is {PERSONAL.decode()}", "a tombstone", "empty", "not Avro"]
Headers = list[tuple[str, bytes | None]] | None
Record = tuple[bytes | None, bytes | None, Headers]


@pytest.fixture
def totals(monkeypatch: pytest.MonkeyPatch) -> metrics.JobState:
    fresh = metrics.JobState()
    monkeypatch.setattr(metrics, "STATE", fresh)
    return fresh


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DEAD_LETTER_KEY", SECRET)
    return "env:DEAD_LETTER_KEY"


def letters(records: list[Record] = RECORDS, errors: list[str] = ERRORS) -> pa.RecordBatch:
    n = len(records)
    keys, values, headers = ([record[i] for record in records] for i in range(3))
    raw = raw_block("events", [1] * n, list(range(n)), [5] * n, keys, values, headers)
    return dead_letters.dead_letter_block(raw, RowErrors(np.arange(n), ["truncated"] * n, errors), "decode", "j")


def written(policy: Policy, key: str | None) -> pa.RecordBatch:
    """What the step hands to the sink."""
    step = _EncodeDeadLetters(3, 1.0, pickle.loads(pickle.dumps(Payload(policy, key))))
    step.setup()
    (records,) = step.process(letters())
    return records


def read(records: pa.RecordBatch) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = AvroDecoder(SCHEMA, lambda _: SCHEMA).decode(records.column("value")).rows.to_pylist()
    return rows


def redriven(records: pa.RecordBatch, payload: Payload | None) -> list[dict[str, Any]]:
    step = Redrive((), lambda _: SCHEMA, payload)
    step.setup()
    n = records.num_rows
    topic = raw_block("dead", [0] * n, list(range(n)), [0] * n, records.column("key"), records.column("value"))
    (back,) = step.process(topic)
    return [{name: row[name] for name in ("key", "value", "headers")} for row in back.to_pylist()]


def test_kept_is_what_it_was(totals: metrics.JobState) -> None:
    records, before = written("keep", None), letters().drop_columns("failed_at").to_pylist()
    assert [
        {name: value for name, value in letter.items() if name != "failed_at"} for letter in read(records)
    ] == before
    assert records.column("key").to_pylist() == [record[0] for record in RECORDS]


@pytest.mark.parametrize("policy", ["encrypt", "drop"])
def test_nothing_personal_is_on_the_topic(policy: Policy, key: str, totals: metrics.JobState) -> None:
    records = written(policy, key if policy == "encrypt" else None)
    for column in records.columns:
        assert not any(PERSONAL in value for value in column.to_pylist() if value is not None)
    for letter, before in zip(read(records), letters().to_pylist(), strict=True):
        for name in ("id", "topic", "partition", "offset", "timestamp", "stage", "reason", "job"):
            assert letter[name] == before[name]


def test_what_was_encrypted_comes_back_as_it_was(key: str, totals: metrics.JobState) -> None:
    records = written("encrypt", key)
    assert redriven(records, Payload(key=key)) == redriven(written("keep", None), Payload())
    assert totals.snapshot()[metrics.REDRIVEN] == 2 * len(RECORDS)
    assert {h["key"]: h["value"] for letter in read(records) for h in letter["headers"]} == {
        KEY_HEADER: Key(bytes.fromhex(SECRET)).id.encode()
    }
    assert key_id(read(records)[0]) == Key(bytes.fromhex(SECRET)).id
    names = records.column("key").to_pylist()
    assert names[0] == names[3] != names[2]  # records of a key stay in order
    assert names[1] is None


@settings(max_examples=50, deadline=None)
@given(
    record=st.tuples(
        st.none() | st.binary(max_size=60),
        st.none() | st.binary(max_size=200),
        st.none() | st.lists(st.tuples(st.text(max_size=9), st.none() | st.binary(max_size=20)), max_size=3),
    ),
    error=st.text(max_size=50),
)
def test_any_record_comes_back(record: Record, error: str) -> None:
    before = letters([record], [error])
    keys = [Key(bytes.fromhex(SECRET))]
    _, sealed = protect(before, "encrypt", keys)
    again, damaged = restore(sealed, [Key(bytes.fromhex(OTHER)), *keys])
    assert not damaged.any()
    assert again.to_pylist() == before.to_pylist()
    assert restore(before, keys)[0].equals(before)  # what a producer wrote is never taken for encrypted


def test_a_sentence_that_quotes_no_record_is_kept_where_records_are_dropped() -> None:
    """As of an alert that a webhook refused."""
    kept = protect(letters(errors=["answered 400"] * len(RECORDS)), "drop", (), quotes=False)[1]
    assert set(kept.column("error").to_pylist()) == {"answered 400 (the alert is not kept)"}
    assert {letter[name] for letter in kept.to_pylist() for name in ("key", "value")} == {None}
    assert left_out(kept).all()  # and not put back without a value


def test_what_was_dropped_is_not_put_back(totals: metrics.JobState) -> None:
    """Put back it would be a tombstone."""
    records = written("drop", None)
    assert records.column("key").null_count == len(RECORDS)
    assert redriven(records, Payload()) == []
    assert totals.snapshot()[metrics.WITHOUT_PAYLOAD] == len(RECORDS)


def test_another_key_stops_before_anything_is_put_back(
    key: str, totals: metrics.JobState, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, ours = written("encrypt", key), Key(bytes.fromhex(SECRET)).id
    with pytest.raises(UserError, match=f"events-1-0 is encrypted with the key {ours}; name it with --dead_letter_key"):
        redriven(records, Payload())
    monkeypatch.setenv("DEAD_LETTER_KEY", OTHER)
    with pytest.raises(UserError, match=f"the key {ours}; --dead_letter_key has {Key(bytes.fromhex(OTHER)).id}"):
        redriven(records, Payload(key=key))
    monkeypatch.setenv("DEAD_LETTER_KEY", f"{OTHER}\n{SECRET}\n")
    assert len(redriven(records, Payload(key=key))) == len(RECORDS)
    assert len(redriven(records, None)) == len(RECORDS)  # a dry run counts them


@pytest.mark.parametrize(
    "change",
    [
        lambda letter: {**letter, "value": letter["value"][:-1] + bytes([letter["value"][-1] ^ 1])},
        lambda letter: {**letter, "value": letter["value"][:5]},
        lambda letter: {**letter, "id": "events-1-7"},
    ],
)
def test_what_was_changed_is_left(
    change: Callable[[dict[str, Any]], dict[str, Any]], key: str, totals: metrics.JobState
) -> None:
    first, *others = read(written("encrypt", key))
    block = pa.RecordBatch.from_pylist([change(first), *others], schema=letters().schema)
    records = pa.record_batch({"key": block.column("key"), "value": AvroEncoder(SCHEMA, 3).encode(block)})
    assert len(redriven(records, Payload(key=key))) == len(others)
    assert totals.snapshot()[metrics.UNREADABLE] == 1


def test_an_encrypted_letter_that_is_too_large_is_left_out(key: str, totals: metrics.JobState) -> None:
    short = without_payload(3, written("encrypt", key))
    assert redriven(short, Payload()) == []
    assert not any(PERSONAL.decode() in letter["error"] for letter in read(short))


def test_keys_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match=r"--dead_letter_payload encrypt needs a key; name it with --dead_letter_key"):
        Payload("encrypt")
    with caplog.at_level(logging.DEBUG):
        for reference in (SECRET, f"env: {SECRET}", f"file: {SECRET}"):
            with pytest.raises(UserError, match="--dead_letter_key: not a reference to a secret") as told:
                Payload("encrypt", reference)
            assert SECRET not in str(told.value)
        for text in ("", "short", SECRET[:-1], SECRET + "x", f"{SECRET} {SECRET[:5]}"):
            monkeypatch.setenv("KEY", text)
            with pytest.raises(
                UserError, match=r"--dead_letter_key: not 64 hexadecimal digits a line; make a key"
            ) as told:
                Payload("encrypt", "env:KEY").keys()
            assert SECRET[:6] not in str(told.value)
    assert SECRET not in caplog.text
