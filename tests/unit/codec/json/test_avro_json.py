"""Avro's JSON and Avro without a frame, as Pub/Sub marks them; fastavro writes them."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
import pyarrow as pa

from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.codec.events import ENCODING, REVISION, SCHEMA_NAME, EventDecoder
from beam_jobs.codec.json.avro_json import AvroJsonDecoder
from beam_jobs.codec.json.decoder import JsonEncoder

SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "R",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "speed", "type": ["null", "double"], "default": None},
        {"name": "tags", "type": {"type": "array", "items": ["null", "string"]}},
        {"name": "kind", "type": ["null", {"type": "enum", "name": "Kind", "symbols": ["A", "B"]}], "default": None},
        {"name": "inner", "type": {"type": "record", "name": "I", "fields": [{"name": "n", "type": ["null", "long"]}]}},
        {"name": "limit", "type": ["int", "null"], "default": 3},
        {"name": "counts", "type": {"type": "map", "values": ["null", "long"]}},
    ],
}
ROWS: list[dict[str, Any]] = [
    {"id": "a", "speed": 1.5, "tags": ["x", None], "kind": "B", "inner": {"n": 7}, "limit": 9, "counts": {"k": 4}},
    {"id": "b", "speed": None, "tags": [], "kind": None, "inner": {"n": None}, "limit": None, "counts": {"k": None}},
] * 40
NEWER = {**SCHEMA, "fields": [{"name": "extra", "type": "long"}, *SCHEMA["fields"]]}
HEADERS = pa.list_(pa.struct([pa.field("key", pa.string(), nullable=False), pa.field("value", pa.binary())]))


def avro_json(row: dict[str, Any]) -> bytes:
    out = io.StringIO()
    fastavro.json_writer(out, SCHEMA, [row])  # type: ignore[arg-type]
    return out.getvalue().encode()


def plain(rows: pa.RecordBatch) -> list[dict[str, Any]]:
    return [{**row, "counts": dict(row["counts"])} for row in rows.to_pylist()]


def test_avro_json_is_read_as_fastavro_wrote_it() -> None:
    decoded = AvroJsonDecoder(SCHEMA).decode(pa.array([avro_json(row) for row in ROWS], pa.binary()))
    assert len(decoded.errors) == 0
    assert plain(decoded.rows) == ROWS
    assert decoded.rows.schema.equals(AvroEncoder(SCHEMA, None).schema)


def test_bad_rows_are_reported_and_the_others_go_on() -> None:
    bad = [b'{"id": "a", "speed": 1.5}', b"nothing", json.dumps({"id": 3}).encode()]
    values = pa.array([avro_json(ROWS[0]), *bad, avro_json(ROWS[1])], pa.binary())
    decoded = AvroJsonDecoder(SCHEMA).decode(values)
    assert plain(decoded.rows) == ROWS[:2]
    assert decoded.errors.rows.tolist() == [1, 2, 3]


def test_defaults_and_decimals() -> None:
    schema = {
        "type": "record",
        "name": "D",
        "fields": [
            {"name": "amount", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
            {"name": "limit", "type": ["int", "null"], "default": 3},
        ],
    }
    values = [json.dumps({"amount": "\x04\u00d2"}).encode(), json.dumps({"amount": "\u00ff", "limit": None}).encode()]
    rows = AvroJsonDecoder(schema).decode(pa.array(values, pa.binary())).rows.to_pylist()
    assert [(str(row["amount"]), row["limit"]) for row in rows] == [("12.34", 3), ("-0.01", None)]


def headers(**given: str) -> list[dict[str, Any]] | None:
    names = {"encoding": ENCODING, "name": SCHEMA_NAME, "revision": REVISION}
    return [{"key": "other", "value": b"x"}] + [{"key": names[n], "value": v.encode()} for n, v in given.items()]


def test_encodings_are_mixed_in_one_block_and_the_order_kept() -> None:
    typed = AvroJsonDecoder(SCHEMA).decode(pa.array([avro_json(row) for row in ROWS[:2]], pa.binary())).rows
    bare = AvroEncoder(SCHEMA, None).encode(typed).to_pylist()
    framed = AvroEncoder(SCHEMA, 5).encode(typed).to_pylist()
    newer = io.BytesIO()
    fastavro.schemaless_writer(newer, NEWER, ROWS[1] | {"extra": 1})  # type: ignore[arg-type]
    given: list[tuple[bytes | None, list[dict[str, Any]] | None]] = [
        (framed[0], None),
        (bare[1], headers(encoding="BINARY")),
        (avro_json(ROWS[0]), headers(encoding="JSON")),
        (bare[1][:-1], headers(encoding="BINARY")),
        (newer.getvalue(), headers(encoding="BINARY", name="projects/p/schemas/s", revision="r2")),
        (JsonEncoder(SCHEMA).encode(typed.slice(0, 1))[0].as_py(), None),
        (bare[1], headers(encoding="BINARY", name="projects/p/schemas/s", revision="gone")),
        (None, headers(encoding="BINARY")),
    ]
    asked = []

    def revision(name: str) -> dict[str, Any]:
        asked.append(name)
        if name.endswith("@gone"):
            raise LookupError(f"schema {name} is not to be had")
        return NEWER

    decoder = EventDecoder(SCHEMA, lambda _: SCHEMA, revision_schema=revision)
    for start in (0, 1):  # a slice of a larger block as well
        values = pa.array([value for value, _ in given], pa.binary())[start:]
        found = decoder.decode(values, pa.array([h for _, h in given], HEADERS)[start:])
        expected = [ROWS[0], ROWS[1], ROWS[0], ROWS[1], ROWS[0]]
        assert plain(found.rows) == expected[start:]
        assert (found.errors.rows + start).tolist() == [3, 6, 7]
        assert list(found.errors.reasons) == ["truncated", "unknown_schema_id", "null_value"]
    assert "s@gone is not to be had" in found.errors.errors[1]
    assert asked == ["projects/p/schemas/s@r2", "projects/p/schemas/s@gone", "projects/p/schemas/s@gone"]


def test_a_union_in_a_namespace_is_said_not_to_be_read() -> None:
    kind = {"type": "enum", "name": "Kind", "namespace": "n", "symbols": ["A"]}
    schema = {"type": "record", "name": "R", "fields": [{"name": "kind", "type": ["null", kind]}]}
    values = pa.array([b'{"kind": {"n.Kind": "A"}}'], pa.binary())
    decoded = EventDecoder(schema, lambda _: schema).decode(values, pa.array([headers(encoding="JSON")], HEADERS))
    assert list(decoded.errors.reasons) == ["unresolvable"]
