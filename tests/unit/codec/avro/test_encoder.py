from __future__ import annotations

import datetime
import io
from decimal import Decimal
from typing import Any

import fastavro
import pyarrow as pa
import pytest

import schemas
from beam_jobs.codec import AvroDecoder, AvroEncoder
from beam_jobs.errors import UserError


def record(*fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "record", "name": "R", "fields": list(fields)}


def one(avro: Any) -> dict[str, Any]:
    return record({"name": "x", "type": avro})


def read(schema: dict[str, Any], values: pa.BinaryArray) -> list[Any]:
    parsed = fastavro.parse_schema(schema)
    return [fastavro.schemaless_reader(io.BytesIO(value), parsed, None) for value in values.to_pylist()]


def sample(field: pa.Field) -> Any:
    kind = field.type
    if pa.types.is_map(kind):
        return [("one", sample(kind.item_field)), ("none", None)]
    if pa.types.is_list(kind):
        return [sample(kind.value_field), sample(kind.value_field)]
    if pa.types.is_struct(kind):
        return {part.name: sample(part) for part in kind}
    if pa.types.is_timestamp(kind):
        return datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    if pa.types.is_boolean(kind):
        return True
    if pa.types.is_floating(kind):
        return 1.5
    if pa.types.is_integer(kind):
        return 3
    return b"bytes" if pa.types.is_binary(kind) else "text"


@pytest.mark.parametrize("name", ["car_sensor", "score", "alert", "dead_letter"])
def test_every_shipped_schema(name: str) -> None:
    schema = schemas.load(name)
    encoder = AvroEncoder(schema, 5)
    full = {field.name: sample(field) for field in encoder.schema}
    sparse = {field.name: None if field.nullable else sample(field) for field in encoder.schema}
    rows = pa.RecordBatch.from_pylist([full, sparse], schema=encoder.schema)
    values = encoder.encode(rows)
    assert all(value[:5] == b"\0\0\0\0\x05" for value in values.to_pylist())
    decoded = AvroDecoder(schema, lambda _: schema).decode(values)
    assert len(decoded.errors) == 0
    assert decoded.rows.equals(rows)
    assert len(read(schema, pa.array([value[5:] for value in values.to_pylist()]))) == 2


@pytest.mark.parametrize(
    ("avro", "column", "expected"),
    [
        ("long", pa.array([1, 2], pa.int32()), [1, 2]),
        ("double", pa.array([1, 2], pa.int64()), [1.0, 2.0]),
        ("string", pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        ("string", pa.array(["a", "b"], pa.large_string()), ["a", "b"]),
        ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, pa.array(["B", "A"]), ["B", "A"]),
        ({"type": "array", "items": "long"}, pa.array([[1], []], pa.list_(pa.int32())), [[1], []]),
        ({"type": "array", "items": "long"}, pa.array([[1], []], pa.large_list(pa.int64())), [[1], []]),
    ],
)
def test_columns_of_another_type_are_cast(avro: Any, column: pa.Array, expected: list[Any]) -> None:
    schema = one(avro)
    rows = pa.record_batch({"x": column, "ignored": pa.nulls(2)})
    assert [row["x"] for row in read(schema, AvroEncoder(schema, None).encode(rows))] == expected


@pytest.mark.parametrize(
    ("avro", "column", "part"),
    [
        ("int", None, "field 'x' has no column and is not nullable"),
        ("int", pa.array([1, None]), "field 'x' has no value in some row"),
        ("int", pa.array([2**31]), "field 'x': a column of int64 does not fit int32"),
        ("long", pa.array(["a"]), "field 'x': a column of string does not fit int64"),
        (
            {"type": "enum", "name": "E", "symbols": ["A"]},
            pa.array(["A", "Z"]),
            "field 'x' has the value 'Z'; use one of A",
        ),
        ({"type": "array", "items": "int"}, pa.array([[1], [None]]), "field 'x\\[\\]' has no value"),
        (
            {"type": "map", "values": "int"},
            pa.array([[("a", None)]], pa.map_(pa.string(), pa.int32())),
            "field 'x\\[\\]'",
        ),
        (
            ["null", {"type": "record", "name": "I", "fields": [{"name": "y", "type": "int"}]}],
            pa.array([None, {"y": None}], pa.struct([("y", pa.int32())])),
            "field 'x.y' has no value",
        ),
        (
            {"type": "fixed", "name": "F", "size": 1, "logicalType": "decimal", "precision": 4},
            pa.array([Decimal(127), Decimal(128)], pa.decimal128(4, 0)),
            "field 'x' has a decimal that does not fit 1 bytes",
        ),
    ],
)
def test_rows_that_do_not_fit(avro: Any, column: pa.Array | None, part: str) -> None:
    rows = pa.record_batch({"y": [1]} if column is None else {"x": column})
    with pytest.raises(UserError, match=part):
        AvroEncoder(one(avro), None).encode(rows)


def test_a_nullable_field_without_a_column_is_null() -> None:
    schema = record({"name": "x", "type": ["null", "int"]}, {"name": "y", "type": "int"})
    assert read(schema, AvroEncoder(schema, None).encode(pa.record_batch({"y": [5]}))) == [{"x": None, "y": 5}]


def test_a_null_record_may_have_nulls_inside() -> None:
    inner = {"type": "record", "name": "I", "fields": [{"name": "y", "type": {"type": "array", "items": "int"}}]}
    schema = one(["null", inner])
    column = pa.array([None, {"y": [1]}, None], AvroEncoder(schema, None).schema.field("x").type)
    assert read(schema, AvroEncoder(schema, None).encode(pa.record_batch({"x": column}))) == [
        {"x": None},
        {"x": {"y": [1]}},
        {"x": None},
    ]


def test_no_rows() -> None:
    for avro in ("int", "string", {"type": "array", "items": "string"}, {"type": "map", "values": "bytes"}):
        encoder = AvroEncoder(one(avro), 1)
        empty = pa.RecordBatch.from_pylist([], schema=encoder.schema)
        assert len(encoder.encode(empty)) == 0
