"""The Avro codec against fastavro, for schemas and values nobody thought of."""

from __future__ import annotations

import datetime
import io
import itertools
import math
import struct
import uuid
from decimal import Context, Decimal
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_jobs.codec import AvroDecoder, AvroEncoder, read_avro, write_avro
from beam_jobs.codec.decoded import Decoded

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
checked = settings(max_examples=60)

PRIMITIVES = ["boolean", "int", "long", "float", "double", "bytes", "string", "null"]
LOGICALS: list[dict[str, Any]] = [
    {"type": "int", "logicalType": "date"},
    {"type": "int", "logicalType": "time-millis"},
    {"type": "long", "logicalType": "time-micros"},
    {"type": "long", "logicalType": "timestamp-millis"},
    {"type": "long", "logicalType": "timestamp-micros"},
    {"type": "long", "logicalType": "local-timestamp-millis"},
    {"type": "long", "logicalType": "local-timestamp-micros"},
    {"type": "string", "logicalType": "uuid"},
]
INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
DATETIMES = st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2200, 1, 1))
UTC = datetime.UTC


@st.composite
def avro_types(draw: st.DrawFn, names: itertools.count[int], depth: int = 2, nullable: bool = True) -> Any:
    kinds = ["primitive", "primitive", "logical", "enum", "fixed", "decimal"]
    if depth:
        kinds += ["array", "map", "record"]
    kind = draw(st.sampled_from(kinds))
    if nullable and draw(st.booleans()):
        inner = draw(avro_types(names, depth, nullable=False))
        if inner == "null":
            return inner
        return draw(st.sampled_from([["null", inner], [inner, "null"]]))
    if kind == "primitive":
        return draw(st.sampled_from(PRIMITIVES))
    if kind == "logical":
        return draw(st.sampled_from(LOGICALS))
    name = f"N{next(names)}"
    if kind == "enum":
        return {"type": "enum", "name": name, "symbols": ["A", "B", "C"][: draw(st.integers(1, 3))]}
    if kind == "fixed":
        return {"type": "fixed", "name": name, "size": draw(st.integers(0, 9))}
    if kind == "decimal":
        precision = draw(st.integers(1, 38))
        logical = {"logicalType": "decimal", "precision": precision, "scale": draw(st.integers(0, precision))}
        if draw(st.booleans()):
            return {"type": "bytes", **logical}
        size = (math.ceil(math.log2(10**precision)) + 1 + 7) // 8 + draw(st.integers(0, 2))
        return {"type": "fixed", "name": name, "size": size, **logical}
    if kind == "array":
        return {"type": "array", "items": draw(avro_types(names, depth - 1))}
    if kind == "map":
        return {"type": "map", "values": draw(avro_types(names, depth - 1))}
    return draw(records(names, depth - 1, name))


@st.composite
def records(draw: st.DrawFn, names: itertools.count[int], depth: int, name: str) -> dict[str, Any]:
    types = draw(st.lists(avro_types(names, depth), min_size=1, max_size=5))
    return {"type": "record", "name": name, "fields": [{"name": f"f{i}", "type": t} for i, t in enumerate(types)]}


def values_of(avro: Any) -> st.SearchStrategy[Any]:
    if isinstance(avro, list):
        return st.one_of([values_of(branch) for branch in avro])
    kind = avro if isinstance(avro, str) else avro["type"]
    logical = avro.get("logicalType") if isinstance(avro, dict) else None
    if logical == "decimal":
        limit = 10 ** avro["precision"] - 1
        return st.integers(-limit, limit).map(lambda n: Decimal(n).scaleb(-avro["scale"], _WIDE))
    if logical == "uuid":
        return st.uuids().map(str)
    if logical == "date":
        return st.dates()
    if logical in ("time-millis", "time-micros"):
        cut = 1000 if logical == "time-millis" else 1
        return st.times().map(lambda t: t.replace(microsecond=t.microsecond // cut * cut))
    if logical:
        cut = 1000 if logical.endswith("millis") else 1
        zone = None if logical.startswith("local") else UTC
        return DATETIMES.map(lambda t: t.replace(microsecond=t.microsecond // cut * cut, tzinfo=zone))
    simple: dict[str, st.SearchStrategy[Any]] = {
        "null": st.none(),
        "boolean": st.booleans(),
        "int": INT32,
        "long": INT64,
        "float": st.floats(width=32),
        "double": st.floats(),
        "bytes": st.binary(max_size=20),
        "string": st.text(max_size=12),
    }
    if kind in simple:
        return simple[kind]
    if kind == "enum":
        return st.sampled_from(avro["symbols"])
    if kind == "fixed":
        return st.binary(min_size=avro["size"], max_size=avro["size"])
    if kind == "array":
        return st.lists(values_of(avro["items"]), max_size=4)
    if kind == "map":
        return st.dictionaries(st.text(max_size=4), values_of(avro["values"]), max_size=3)
    return st.fixed_dictionaries({field["name"]: values_of(field["type"]) for field in avro["fields"]})


@st.composite
def schemas_and_rows(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    schema = draw(records(itertools.count(), 2, "Event"))
    return schema, draw(st.lists(values_of(schema), max_size=8))


_WIDE = Context(prec=60)


def frame(schema_id: int, body: bytes) -> bytes:
    return struct.pack(">BI", 0, schema_id) + body


def fastavro_bytes(parsed: Any, row: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, parsed, row)
    return out.getvalue()


def comparable(value: Any) -> Any:
    """NaN equal to itself, floats told from ints, UUIDs and zones in one form."""
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [comparable(item) for item in value]
    if isinstance(value, float):
        return ("float", repr(value))
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, datetime.datetime) and value.tzinfo:
        return value.astimezone(UTC).isoformat()
    return value


def rows_of(decoded: Decoded) -> Any:
    decoded.rows.validate(full=True)
    return comparable(decoded.rows.to_pylist(maps_as_pydicts="strict"))


@given(schemas_and_rows())
@checked
def test_decodes_what_fastavro_writes(case: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    schema, rows = case
    parsed = fastavro.parse_schema(schema)
    bodies = [fastavro_bytes(parsed, row) for row in rows]
    decoded = AvroDecoder(schema, lambda _: schema).decode(pa.array([frame(1, b) for b in bodies], pa.binary()))
    assert len(decoded.errors) == 0, decoded.errors.errors
    assert rows_of(decoded) == comparable([fastavro.schemaless_reader(io.BytesIO(b), parsed, None) for b in bodies])


@given(schemas_and_rows(), st.data())
@checked
def test_encodes_what_fastavro_reads(case: tuple[dict[str, Any], list[dict[str, Any]]], data: st.DataObject) -> None:
    schema, rows = case
    parsed = fastavro.parse_schema(schema)
    values = pa.array([frame(7, fastavro_bytes(parsed, row)) for row in rows], pa.binary())
    decoder = AvroDecoder(schema, lambda _: schema)
    block = decoder.decode(values).rows
    encoded = AvroEncoder(schema, 7).encode(block)
    bodies = [value[5:] for value in encoded.to_pylist()]
    again = [fastavro.schemaless_reader(io.BytesIO(body), parsed, None) for body in bodies]
    assert comparable(again) == comparable(block.to_pylist(maps_as_pydicts="strict"))
    assert decoder.decode(encoded).rows.equals(block) or "nan" in str(again)
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(start, len(rows)))
    assert AvroEncoder(schema, 7).encode(block.slice(start, stop - start)).equals(encoded.slice(start, stop - start))


@given(schemas_and_rows(), st.sampled_from(["null", "deflate"]))
@settings(checked, max_examples=25)
def test_files(case: tuple[dict[str, Any], list[dict[str, Any]]], codec: str) -> None:
    schema, rows = case
    parsed = fastavro.parse_schema(schema)
    theirs, ours = io.BytesIO(), io.BytesIO()
    fastavro.writer(theirs, parsed, rows, codec=codec, sync_interval=40)
    batches = list(read_avro(io.BytesIO(theirs.getvalue()), schema))
    assert sum(batch.num_rows for batch in batches) == len(rows)
    assert write_avro(ours, schema, batches, codec) == len(rows)
    expected = list(fastavro.reader(io.BytesIO(theirs.getvalue())))
    assert comparable(list(fastavro.reader(io.BytesIO(ours.getvalue())))) == comparable(expected)
    got = [row for batch in batches for row in batch.to_pylist(maps_as_pydicts="strict")]
    assert comparable(got) == comparable(expected)


@given(schemas_and_rows(), st.data())
@checked
def test_split_and_projection_change_nothing(
    case: tuple[dict[str, Any], list[dict[str, Any]]], data: st.DataObject
) -> None:
    schema, rows = case
    parsed = fastavro.parse_schema(schema)
    good = [frame(1, fastavro_bytes(parsed, row)) for row in rows]
    junk = data.draw(st.lists(st.one_of(st.none(), st.binary(max_size=9)), max_size=4))
    values = pa.array(data.draw(st.permutations(good + junk)), pa.binary())
    decoder = AvroDecoder(schema, {1: schema}.__getitem__)
    whole = decoder.decode(values)
    assert whole.rows.num_rows + len(whole.errors) == len(values)
    cut = data.draw(st.integers(0, len(values)))
    parts = [decoder.decode(values.slice(0, cut)), decoder.decode(values.slice(cut))]
    assert comparable([r for p in parts for r in rows_of(p)]) == rows_of(whole)
    assert [*parts[0].errors.rows, *(parts[1].errors.rows + cut)] == whole.errors.rows.tolist()
    assert [*parts[0].errors.errors, *parts[1].errors.errors] == list(whole.errors.errors)
    names = data.draw(st.lists(st.sampled_from([f["name"] for f in schema["fields"]]), unique=True))
    exact = AvroDecoder(schema, {1: schema}.__getitem__).decode(pa.array(good, pa.binary()))
    some = AvroDecoder(schema, {1: schema}.__getitem__, names).decode(pa.array(good, pa.binary()))
    assert len(some.errors) == 0
    assert some.rows.num_rows == len(good)
    same = exact.rows.select(names)
    assert comparable(some.rows.to_pylist(maps_as_pydicts="strict")) == comparable(
        same.to_pylist(maps_as_pydicts="strict")
    )


PLAIN = {
    "type": "record",
    "name": "Plain",
    "fields": [
        {"name": "s", "type": "string"},
        {"name": "n", "type": ["null", "long", "bytes"]},  # skipped: text is not checked there
        {"name": "l", "type": {"type": "array", "items": ["null", {"type": "array", "items": "double"}]}},
        {"name": "m", "type": {"type": "map", "values": "bytes"}},
        {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}},
        {"name": "f", "type": "float"},
    ],
}
PLAIN_READER = {**PLAIN, "fields": [f for f in PLAIN["fields"] if f["name"] != "n"]}  # type: ignore[attr-defined]


@given(st.data())
@settings(checked, max_examples=100)
def test_what_damaged_bytes_decode_to_is_what_fastavro_sees(data: st.DataObject) -> None:
    parsed = fastavro.parse_schema(PLAIN)
    bodies = []
    for row in data.draw(st.lists(values_of(PLAIN), min_size=1, max_size=4)):
        body = bytearray(fastavro_bytes(parsed, row))
        for _ in range(data.draw(st.integers(0, 3))):
            at = data.draw(st.integers(0, len(body) - 1))
            body[at] ^= 1 << data.draw(st.integers(0, 7))
        cut = data.draw(st.integers(0, len(body))) if data.draw(st.booleans()) else len(body)
        bodies.append(bytes(body[:cut]))
    decoder = AvroDecoder(PLAIN_READER, lambda _: PLAIN)
    decoded = decoder.decode(pa.array([frame(1, body) for body in bodies], pa.binary()))
    good = decoded.errors.good_rows(len(bodies))
    assert len(good) == decoded.rows.num_rows
    for row, got in zip(good, rows_of(decoded), strict=True):
        stream = io.BytesIO(bodies[row])
        expected = fastavro.schemaless_reader(stream, parsed, None)
        del expected["n"]
        assert got == comparable(expected)
        assert not stream.read()


@given(schemas_and_rows(), st.lists(st.binary(max_size=60), max_size=6), st.booleans())
@checked
def test_any_bytes_end_in_rows_or_errors(
    case: tuple[dict[str, Any], list[dict[str, Any]]], values: list[bytes], framed: bool
) -> None:
    schema, _ = case
    array = pa.array([frame(1, value) if framed else value for value in values], pa.binary())
    for columns in (None, [schema["fields"][-1]["name"]]):
        decoded = AvroDecoder(schema, {1: schema}.__getitem__, columns).decode(array)
        decoded.rows.validate(full=True)
        assert decoded.rows.num_rows + len(decoded.errors) == len(values)
        assert all(error and "\n" not in error for error in decoded.errors.errors)


PROMOTIONS = {"int": ["long", "float", "double"], "long": ["float", "double"], "float": ["double"]} | {
    "string": ["bytes"],
    "bytes": ["string"],
}


@st.composite
def evolutions(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """(writer, reader): fields dropped, added with a default, reordered, promoted, renamed, made nullable or not."""
    names = itertools.count()
    writer = draw(records(names, 1, "Event"))
    fields = []
    for field in writer["fields"]:
        change = draw(st.sampled_from(["keep", "drop", "alias", "promote", "nullable", "required", "enum"]))
        new = dict(field)
        avro = field["type"]
        if change == "drop":
            continue
        if change == "alias":
            new |= {"name": f"new_{field['name']}", "aliases": ["other", field["name"]]}
        elif change == "promote" and isinstance(avro, str) and avro in PROMOTIONS:
            new["type"] = draw(st.sampled_from(PROMOTIONS[avro]))
        elif change == "nullable" and not isinstance(avro, list) and avro != "null":
            new["type"] = ["null", avro]
        elif change == "required" and isinstance(avro, list):
            new["type"] = next(branch for branch in avro if branch != "null")
        elif change == "enum" and isinstance(avro, dict) and avro["type"] == "enum":
            new["type"] = {**avro, "symbols": ["Z", "A"], **draw(st.sampled_from([{}, {"default": "Z"}]))}
        fields.append(new)
    added = [
        {"name": "added_text", "type": "string", "default": "ö"},
        {"name": "added_null", "type": ["null", "double"], "default": None},
        {"name": "added_long", "type": ["long", "null"], "default": 5},
        {"name": "added_list", "type": {"type": "array", "items": "int"}, "default": [1, 2]},
        {"name": "added_map", "type": {"type": "map", "values": "double"}, "default": {"a": 1.5}},
    ]
    fields += draw(st.lists(st.sampled_from(added), unique_by=lambda f: f["name"]))
    return writer, {"type": "record", "name": "Event", "fields": draw(st.permutations(fields))}


def narrowed(value: Any, avro: Any) -> Any:
    """fastavro leaves a promoted integer's digits in a float; a float has 24 bits."""
    if isinstance(avro, list):
        avro = next(branch for branch in avro if branch != "null")
    return float(np.float32(value)) if avro == "float" and value is not None else value


@given(evolutions(), st.data())
@settings(checked, max_examples=80)
def test_resolution_is_fastavros(case: tuple[dict[str, Any], dict[str, Any]], data: st.DataObject) -> None:
    writer, reader = case
    parsed, parsed_reader = fastavro.parse_schema(writer), fastavro.parse_schema(reader)
    bodies = [fastavro_bytes(parsed, row) for row in data.draw(st.lists(values_of(writer), max_size=6))]
    decoder = AvroDecoder(reader, lambda _: writer)
    decoded = decoder.decode(pa.array([frame(1, body) for body in bodies], pa.binary()))
    bad = dict(zip(decoded.errors.rows.tolist(), decoded.errors.reasons, strict=True))
    got = iter(rows_of(decoded))
    for i, body in enumerate(bodies):
        try:
            row = fastavro.schemaless_reader(io.BytesIO(body), parsed, parsed_reader)
        except (fastavro.read.SchemaResolutionError, UnicodeDecodeError):
            assert bad.get(i) in ("unresolvable", "invalid_utf8")
            continue
        types = {field["name"]: field["type"] for field in reader["fields"]}
        expected = {field["name"]: narrowed(row[field["name"]], types[field["name"]]) for field in reader["fields"]}
        assert i not in bad, decoded.errors.errors
        assert next(got) == comparable(expected)


@given(st.data())
@checked
def test_several_writers_in_one_block_keep_their_order(data: st.DataObject) -> None:
    reader = {
        "type": "record",
        "name": "R",
        "fields": [{"name": "i", "type": "double"}, {"name": "t", "type": ["null", "string"], "default": None}],
    }
    writers: dict[int, dict[str, Any]] = {
        1: {"type": "record", "name": "R", "fields": [{"name": "i", "type": "int"}]},
        2: {
            "type": "record",
            "name": "R",
            "fields": [{"name": "t", "type": "string"}, {"name": "i", "type": ["long", "double"]}],
        },
        3: {"type": "record", "name": "R", "fields": [{"name": "t", "type": "string"}]},  # lacks i: unresolvable
    }
    parsed = {key: fastavro.parse_schema(value) for key, value in writers.items()}
    ids = data.draw(st.lists(st.sampled_from([1, 2, 3, 4]), max_size=20))
    values = [
        frame(4, b"") if key == 4 else frame(key, fastavro_bytes(parsed[key], {"i": n, "t": f"t{n}"}))
        for n, key in enumerate(ids)
    ]
    decoded = AvroDecoder(reader, writers.__getitem__).decode(pa.array(values, pa.binary()))
    assert decoded.rows.to_pylist() == [
        {"i": float(n), "t": None if key == 1 else f"t{n}"} for n, key in enumerate(ids) if key < 3
    ]
    reasons = {3: "unresolvable", 4: "unknown_schema_id"}
    assert list(decoded.errors.reasons) == [reasons[key] for key in ids if key > 2]
