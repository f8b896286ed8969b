"""Records whose schema has a GUID, as Confluent's producers write them: in a header, or before the value."""

from __future__ import annotations

import io
import uuid
from collections.abc import Mapping
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from confluent_kafka.schema_registry.serde import SchemaId

from beam_jobs.block import HEADERS_TYPE
from beam_jobs.codec import Decoded, EventDecoder
from beam_jobs.codec.avro.writers import OtherSchemaError

NEW: dict[str, Any] = {
    "type": "record",
    "name": "R",
    "fields": [{"name": "x", "type": "long"}, {"name": "y", "type": "string", "default": "none"}],
}
OLD: dict[str, Any] = {**NEW, "fields": NEW["fields"][:1]}
OURS, THEIRS, JSON, NOBODYS = (str(uuid.UUID(int=n)) for n in range(1, 5))


def by_guid(guid: str) -> Mapping[str, Any]:
    if guid == JSON:
        raise OtherSchemaError(f"schema GUID {guid} is JSON, not AVRO")
    return {OURS: NEW, THEIRS: OLD}[guid]


def body(schema: dict[str, Any], **row: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(dict(schema)), row)
    return out.getvalue()


def header(guid: str) -> list[tuple[str, bytes]]:
    return [("trace", b"7"), ("__value_schema_id", SchemaId("AVRO", guid=guid).guid_to_bytes())]


def decode(
    values: list[bytes | None], headers: list[list[tuple[str, bytes]] | None] | None = None, **more: Any
) -> Decoded:
    decoder = EventDecoder(NEW, {1: OLD}.__getitem__, **{"guid_schema": by_guid, **more})
    given = None
    if headers is not None:
        rows = [None if row is None else [{"key": k, "value": v} for k, v in row] for row in headers]
        given = pa.array(rows, HEADERS_TYPE)
    decoded = decoder.decode(pa.array(values, pa.binary()), given)
    decoded.rows.validate(full=True)
    return decoded


def test_the_header_names_the_schema_whatever_the_value_begins_with() -> None:
    """A body may begin with any byte: 0x00 is the long 0, 0x7b (a brace) is -62."""
    values = [body(OLD, x=x) for x in (0, -62, 5, 10**12)]
    decoded = decode(values, [header(THEIRS)] * 4)
    assert list(decoded.errors.errors) == []
    assert decoded.rows.to_pylist() == [{"x": x, "y": "none"} for x in (0, -62, 5, 10**12)]


def test_records_of_all_kinds_in_one_block_keep_their_order() -> None:
    framed = b"\0\0\0\0\1" + body(OLD, x=1)
    before = SchemaId("AVRO", guid=OURS).guid_to_bytes() + body(NEW, x=2, y="a")
    number = [("__value_schema_id", SchemaId("AVRO", schema_id=1).id_to_bytes())]
    values = [framed, before, body(NEW, x=3, y="b"), b'{"x": 4}', b'{"x": 5}', body(OLD, x=6), None]
    decoded = decode(values, [None, [], header(OURS), None, header(JSON), number, header(OURS)])
    assert [row["x"] for row in decoded.rows.to_pylist()] == [1, 2, 3, 4, 5, 6]
    assert [row["y"] for row in decoded.rows.to_pylist()] == ["none", "a", "b", "none", "none", "none"]
    assert list(decoded.errors.reasons) == ["null_value"]


@pytest.mark.parametrize("in_header", [True, False])
def test_an_unknown_guid_is_its_own_rows_affair(in_header: bool) -> None:
    good, bad = body(OLD, x=1), SchemaId("AVRO", guid=NOBODYS).guid_to_bytes()
    if in_header:
        decoded = decode([good] * 3, [header(THEIRS), [("__value_schema_id", bad)], header(THEIRS)])
    else:
        ours = SchemaId("AVRO", guid=THEIRS).guid_to_bytes()
        decoded = decode([ours + good, bad + good, ours + good])
    assert decoded.errors.rows.tolist() == [1]
    assert list(decoded.errors.reasons) == ["unknown_schema_id"]
    assert decoded.errors.errors[0] == f"schema GUID {NOBODYS} is not in the schema registry"
    assert decoded.rows.num_rows == 2


def test_damaged_bodies_and_headers() -> None:
    cut = SchemaId("AVRO", guid=OURS).guid_to_bytes() + b"\x02"
    decoded = decode([cut, b"\x02", b"\1short"], [[], [("__value_schema_id", b"\1abc")], []])
    assert list(decoded.errors.reasons) == ["truncated", "unknown_schema_id", "bad_magic_byte"]
    assert decoded.errors.errors[0] == "field 'y' at byte 18: the value ends before the field does"
    assert decoded.errors.errors[1] == (
        "the header __value_schema_id has 4 bytes, expected 1 and a GUID of 16, or 0 and an id of 4"
    )


def test_without_a_registry() -> None:
    """The schema of the use case is taken for what a header names; before a value, a GUID is as good as any garbage."""
    decoded = decode([body(NEW, x=1, y="a")], [header(NOBODYS)], guid_schema=None)
    assert decoded.rows.to_pylist() == [{"x": 1, "y": "a"}]
    values = [b'{"x": 1}', body(NEW, x=-62, y="{}"), b'{\n "x": 3}', body(NEW, x=-62, y="}")]
    decoded = decode(values, [header(NOBODYS)] * 4, guid_schema=None)  # -62 is a brace
    assert [row["x"] for row in decoded.rows.to_pylist()] == [1, -62, 3, -62]
    decoded = decode([SchemaId("AVRO", guid=OURS).guid_to_bytes() + body(NEW, x=1, y="a")], guid_schema=None)
    assert list(decoded.errors.reasons) == ["bad_magic_byte"]
    assert "for a schema's GUID give --schema_registry" in decoded.errors.errors[0]
