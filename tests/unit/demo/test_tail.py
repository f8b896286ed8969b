"""What ``demo.tail`` prints of a record, and what it says of a record that is none of ours or a broker that is away."""

from __future__ import annotations

import json
from io import BytesIO

import fastavro
import pytest

import schemas
from beam_jobs.errors import UserError
from demo.broker import free_port
from demo.tail import as_json, main
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
    "error": "cut short",
    "failed_at": 1_795_330_800_250,
    "job": "score",
}


def framed(schema_id: int) -> bytes:
    body = BytesIO()
    fastavro.schemaless_writer(body, schemas.load("dead_letter"), LETTER)
    return b"\0" + schema_id.to_bytes(4, "big") + body.getvalue()


def test_a_record_is_a_line_of_json() -> None:
    line = as_json(framed(SHIPPED_IDS["highbeam.DeadLetter"]), None)
    assert "\n" not in line
    shown = json.loads(line)
    assert (shown["offset"], shown["reason"], shown["headers"]) == (7, "truncated", None)
    assert (shown["key"], shown["value"]) == ("Käfer", "AP8=")
    assert shown["failed_at"] == "2026-11-22T07:00:00.250000+00:00"


def test_with_a_registry_its_schema_is_taken() -> None:
    assert json.loads(as_json(framed(77), for_registry(None, schemas.load("dead_letter"))))["offset"] == 7


def test_another_record_is_one_line() -> None:
    with pytest.raises(UserError, match="schema id 77, which no job writes"):
        as_json(framed(77), None)


def test_a_broker_that_is_away_is_one_line() -> None:
    with pytest.raises(UserError, match="no broker answers"):
        main([f"kafka://127.0.0.1:{free_port()}/alerts", "--count", "1"])
