"""What ``highbeam watch`` shows of a record, and what it says of one that is none of ours or a broker that is away."""

from __future__ import annotations

import json
from argparse import Namespace
from io import BytesIO
from typing import Any

import fastavro
import pytest

import schemas
from beam_jobs.errors import UserError
from beam_jobs.sandbox.process import free_port
from beam_jobs.steps.payload import ENCRYPTED, KEY_HEADER, Key
from beam_jobs.watch import Record, as_json, as_record, as_row, made_by, main, show
from schemas.source import SHIPPED_IDS
from schemas.writers import for_registry

LETTER = {
    "id": "t-0-7",
    "topic": "t",
    "partition": 0,
    "offset": 7,
    "timestamp": 1_795_330_800_000,
    "key": "Käfer".encode(),
    "value": b"\x00\xff",
    "headers": None,
    "stage": "decode",
    "reason": "truncated",
    "error": "cut short\x1b[31m",
    "failed_at": 1_795_330_800_250,
    "job": "score",
}
FEATURE = {"name": "speed", "observed": 12.5, "expected": float("nan"), "unit": "m/s", "share": 0.75, "rarity": None}
ALERT = {
    "id": "t-0-7",
    "key": "car-1",
    "event_time": 1_795_330_800_000,
    "score": 12.5,
    "threshold": 9.0,
    "percentile": 99.9,
    "model": "m",
    "version": "v",
    "source_topic": "t",
    "source_partition": 0,
    "source_offset": 7,
    "features": [FEATURE, {**FEATURE, "name": "draw", "expected": 2.0, "unit": None, "share": 0.2}],
}
SCORE = {**{name: ALERT[name] for name in ALERT if name not in ("id", "percentile", "features")}, "is_anomaly": True}
OURS = {"dead_letter": LETTER, "alert": ALERT, "score": SCORE}
IDS = {"dead_letter": "highbeam.DeadLetter", "alert": "highbeam.Alert", "score": "highbeam.Score"}
ROWS = {
    "dead_letter": "2026-11-22 07:00:00  t/0/7                         truncated           cut short\x1b[31m",
    "alert": "2026-11-22 07:00:00  car-1                      12.5  speed 12.5 m/s (75%); draw 12.5 (expected 2, 20%)",
    "score": "2026-11-22 07:00:00  car-1                      12.5  9",
}


def framed(name: str, schema_id: int | None = None) -> bytes:
    body = BytesIO()
    fastavro.schemaless_writer(body, schemas.load(name), OURS[name])
    return b"\0" + (schema_id or SHIPPED_IDS[IDS[name]]).to_bytes(4, "big") + body.getvalue()


def test_a_record_is_a_line_of_json() -> None:
    line = as_json(as_record(framed("dead_letter"), None))
    assert "\n" not in line
    shown = json.loads(line)
    assert (shown["offset"], shown["reason"], shown["headers"]) == (7, "truncated", None)
    assert (shown["key"], shown["value"]) == ("Käfer", "AP8=")
    assert shown["failed_at"] == "2026-11-22T07:00:00.250000+00:00"


def test_an_encrypted_dead_letter_says_so() -> None:
    key = Key(bytes(32))
    letter = {**LETTER, "headers": [{"key": KEY_HEADER, "value": key.id.encode()}], "key": None}
    sealed = {**letter, "value": key.encrypt(letter), "error": ENCRYPTED}
    body = BytesIO()
    fastavro.schemaless_writer(body, schemas.load("dead_letter"), sealed)
    record = as_record(b"\0" + SHIPPED_IDS["highbeam.DeadLetter"].to_bytes(4, "big") + body.getvalue(), None)
    assert record.fields["value"] == f"(encrypted with the key {key.id})"
    assert as_row(record).endswith("truncated           the record and what was wrong with it are encrypted")


def test_what_json_has_no_number_for_is_null() -> None:
    [first, second] = json.loads(as_json(as_record(framed("alert"), None)), parse_constant=pytest.fail)["features"]
    assert (first["expected"], second["expected"]) == (None, 2.0)


def test_the_time_of_an_alert_that_is_json_is_a_time() -> None:
    for millis, text in ((1_795_330_800_250, "2026-11-22T07:00:00.250Z"), (10**30, f"{10**30} ms")):
        value = json.dumps({**ALERT, "features": [], "event_time": millis}).encode()
        assert json.loads(as_json(as_record(value, None)))["event_time"] == text
        assert as_row(as_record(value, None)).startswith(text[:10])


def test_a_row_ends_in_the_attributes_of_the_event() -> None:
    record = Record("alert", {**ALERT, "attributes": {"plant": "Köln", "route": None}})
    assert as_row(record) == f"{ROWS['alert']}  plant=Köln"
    assert json.loads(as_json(record))["attributes"] == {"plant": "Köln", "route": None}


@pytest.mark.parametrize("name", OURS)
def test_a_record_is_a_row_of_a_table(name: str) -> None:
    assert as_row(as_record(framed(name), None)) == ROWS[name]


@pytest.mark.parametrize("name", ["alert", "score"])
def test_records_written_as_json_are_rows_too(name: str) -> None:
    text = json.dumps({**OURS[name], "features": [FEATURE | {"expected": None}]} if name == "alert" else OURS[name])
    record = as_record(text.encode(), None)
    assert record.kind == name
    assert as_row(record).startswith("2026-11-22 07:00:00  car-1 ")


def test_with_a_registry_its_schema_is_taken() -> None:
    record = as_record(framed("dead_letter", 77), for_registry(None, schemas.load("dead_letter")))
    assert (record.kind, record.fields["offset"]) == ("dead_letter", 7)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (framed("alert", 77), "schema id 77, which no job writes; is --schema_registry needed"),
        (framed("alert")[:20], "can't be decoded"),
        (b"\x00\x00", "neither framed Avro nor a JSON object"),
        (b"hello", "neither framed Avro nor a JSON object"),
        (b"{hello", "not JSON"),
    ],
)
def test_another_record_is_one_line(value: bytes, what: str) -> None:
    with pytest.raises(UserError, match=what) as refused:
        as_record(value, None)
    assert "\n" not in str(refused.value)


def given(**values: Any) -> Namespace:
    return Namespace(**({"format": "json", "count": None} | values))


def test_others_are_left_out_and_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    show(iter([b"hello", framed("score"), b"hello", framed("score"), framed("score")]), None, given(count=2))
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 2
    assert said.err.count("left out: ") == 1


def test_a_table_has_a_head_and_nothing_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    show(iter([framed("dead_letter"), framed("dead_letter"), framed("alert")]), None, given(format="table"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["failed", "2026-11-22", "2026-11-22", "event", "2026-11-22"]
    assert not any("\x1b" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ([f"kafka://127.0.0.1:{free_port()}/alerts", "--count", "1"], "no broker answers"),
        (["kafka://h/alerts", "--count", "0"], "--count 0: expected"),
        (["kafka://h/alerts", "--from", "0:1"], "no offsets"),
        (["alerts"], "kafka://"),
    ],
)
def test_what_will_not_do_is_one_line(words: list[str], what: str) -> None:
    with pytest.raises(UserError, match=what):
        main(words)


@pytest.mark.parametrize(
    "text", ['{"features": [{"name": "x"}]}', '{"is_anomaly": true}', '{"reason": null, "topic": 1}']
)
def test_json_that_only_looks_like_a_job_s_is_shown_as_it_is(text: str) -> None:
    assert as_row(as_record(text.encode(), None)) == text


def test_json_that_nests_too_deep_is_left_out() -> None:
    with pytest.raises(UserError, match="not JSON"):
        as_record(b'{"a":' + b"[" * 100_000, None)


@pytest.mark.parametrize(
    ("feature", "said"),
    [
        ({"expected": 2.0, "share": 1.0}, "speed 12.5 m/s (expected 2, 100%)"),  # of the autoencoder
        ({"expected": 2.0, "rarity": 0.000_083, "share": 0.6}, "speed 12.5 m/s (expected 2, 1 in 12,000, 60%)"),
        ({"rarity": 0.3, "share": 0.6}, "speed 12.5 m/s (1 in 3.3, 60%)"),
        ({"rarity": 0.0, "share": 0.6}, "speed 12.5 m/s (60%)"),
        ({"rarity": 1e-300, "share": 0.6}, "speed 12.5 m/s (1 in 1,000,000,000,000, 60%)"),
        ({"share": 0.6}, "speed 12.5 m/s (60%)"),  # of trees
    ],
)
def test_what_made_an_alert_is_said_as_its_kind_of_model_knows_it(feature: dict[str, float], said: str) -> None:
    assert made_by({"features": [FEATURE | feature]}) == said
    old = {name: value for name, value in (FEATURE | feature).items() if name != "rarity"}
    assert made_by({"features": [old]})


@pytest.mark.parametrize(("severity", "said"), [("critical", "critical: speed"), ("low", " speed"), (None, " speed")])
def test_an_alert_says_that_it_is_more_severe_than_most(severity: str | None, said: str) -> None:
    assert said in as_row(Record("alert", {**ALERT, "severity": severity}))
    assert " speed" in as_row(Record("alert", ALERT))  # of a release that did not say it
