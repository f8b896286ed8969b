from __future__ import annotations

import datetime
import io
import struct
import time
from decimal import Decimal
from typing import Any

import fastavro
import pyarrow as pa
import pytest

from beam_jobs.codec import AvroDecoder
from beam_jobs.codec.avro.ops import MAX_EMPTY_ITEMS
from beam_jobs.codec.decoded import Decoded
from beam_jobs.errors import UserError


def record(*fields: dict[str, Any], name: str = "R", **more: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields), **more}


def field(name: str, avro: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": avro, **more}


def array(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


def enum(*symbols: str, **more: Any) -> dict[str, Any]:
    return {"type": "enum", "name": "E", "symbols": list(symbols), **more}


def body(schema: dict[str, Any], row: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), row)
    return out.getvalue()


def framed(raw: bytes, schema_id: int = 1) -> bytes:
    return struct.pack(">BI", 0, schema_id) + raw


def decode(reader: dict[str, Any], raw: bytes | list[bytes], writer: Any = None, columns: Any = None) -> Decoded:
    bodies = raw if isinstance(raw, list) else [raw]
    decoder = AvroDecoder(reader, lambda _: writer or reader, columns)
    decoded = decoder.decode(pa.array([framed(b) for b in bodies], pa.binary()))
    decoded.rows.validate(full=True)
    assert decoded.rows.num_rows + len(decoded.errors) == len(bodies)
    return decoded


def error(decoded: Decoded) -> tuple[str, str]:
    assert len(decoded.errors) == 1
    return decoded.errors.reasons[0], decoded.errors.errors[0]


def value(decoded: Decoded, name: str = "x") -> Any:
    assert list(decoded.errors.errors) == []
    return decoded.rows.column(name).to_pylist(maps_as_pydicts="strict")[0]


@pytest.mark.parametrize(
    ("raw", "reason", "sentence"),
    [
        (None, "null_value", "the value is null (a tombstone)"),
        (b"", "empty_value", "the value has no bytes"),
        (b"\x05abc", "bad_magic_byte", "the first byte is 0x05, expected 0x00 (Confluent framing)"),
        (b"\0\0\0", "truncated_header", "the value has 3 bytes, expected 0x00 and a schema id of 4 bytes"),
        (framed(b"", 9), "unknown_schema_id", "schema id 9 is not in the schema registry"),
        (framed(b"", 2**32 - 1), "unknown_schema_id", "schema id 4294967295 is not in the schema registry"),
    ],
)
def test_the_header(raw: bytes | None, reason: str, sentence: str) -> None:
    schema = record(field("x", "int"))
    good = framed(body(schema, {"x": 5}))
    decoded = AvroDecoder(schema, {1: schema}.__getitem__).decode(pa.array([good, raw, good], pa.binary()))
    assert decoded.errors.rows.tolist() == [1]
    assert error(decoded) == (reason, sentence)
    assert decoded.rows.to_pydict() == {"x": [5, 5]}


NINES = b"\xff" * 9
HUGE = NINES + b"\x01"  # -2**63
BIG = b"\xfe" + b"\xff" * 8 + b"\x01"  # 2**63 - 1


@pytest.mark.parametrize(
    ("avro", "raw", "reason", "part"),
    [
        ("int", b"", "truncated", "field 'x' at byte 5: the value ends before the field does"),
        ("int", b"\x80", "truncated", "field 'x'"),
        ("int", NINES + b"\x02", "invalid_value", "more than 64 bits"),
        ("long", b"\xff" * 10 + b"\x01", "invalid_value", "more than 64 bits"),
        ("long", b"\x80" * 5000, "invalid_value", "more than 64 bits"),
        ("int", b"\x80\x80\x80\x80\x10", "invalid_value", "2147483648 is outside the range"),
        ("double", b"1234567", "truncated", "field 'x'"),
        ("float", b"123", "truncated", "field 'x'"),
        ("boolean", b"", "truncated", "field 'x'"),
        ("boolean", b"\x02", "invalid_value", "byte 0x02, expected a boolean"),
        ("string", b"\x08abc", "truncated", "field 'x'"),
        ("string", BIG, "truncated", "field 'x'"),
        ("string", b"\x01", "invalid_value", "the length -1 is negative"),
        ("bytes", HUGE, "invalid_value", "negative"),
        ("string", b"\x02\xff", "invalid_utf8", "field 'x' at byte 5: the string's 1 bytes are not UTF-8"),
        ("string", b"\x06\xed\xa0\x80", "invalid_utf8", "not UTF-8"),
        ("string", b"\x04\xc0\x80", "invalid_utf8", "not UTF-8"),
        ("string", b"\x08\xf4\x90\x80\x80", "invalid_utf8", "not UTF-8"),
        (enum("A", "B"), b"\x04", "invalid_value", "enum symbol number 2, expected 0 to 1"),
        (enum("A", "B"), b"\x01", "invalid_value", "enum symbol number -1"),
        (["null", "int"], b"\x04", "invalid_value", "union branch 2, expected 0 to 1"),
        (["null", "int"], b"\x01", "invalid_value", "union branch -1"),
        ({"type": "fixed", "name": "F", "size": 4}, b"123", "truncated", "field 'x'"),
        (array("int"), BIG, "invalid_value", "announces 9223372036854775807 items"),
        (array("int"), HUGE + b"\x00", "invalid_value", "negative"),
        (array("int"), b"\x01\x01", "invalid_value", "negative"),
        (array("int"), b"\x01" + BIG, "truncated", "field 'x'"),
        (array("int"), b"\x04\x02", "truncated", "field 'x[]'"),
        (array("null"), struct.pack("<I", 0xFFFFFFF) + b"\x00", "invalid_value", "items, more than"),
        ({"type": "map", "values": "int"}, b"\x02\x08ab", "truncated", "field 'x key'"),
        ({"type": "int", "logicalType": "time-millis"}, b"\x01", "invalid_value", "-1 is outside"),
        ({"type": "bytes", "logicalType": "decimal", "precision": 2}, b"\x02\x64", "invalid_value", "more digits"),
        (
            {"type": "bytes", "logicalType": "decimal", "precision": 2},
            b"\x22" + b"\x01" * 17,
            "invalid_value",
            "digits",
        ),
        ("int", b"\x02\x00\x00", "trailing_bytes", "2 bytes after the last field"),
    ],
)
def test_damaged_bodies(avro: Any, raw: bytes, reason: str, part: str) -> None:
    schema = record(field("x", avro))
    got = error(decode(schema, raw))
    assert got[0] == reason
    assert part in got[1]
    wide = record(field("x", avro), field("y", "int"))  # stepping over the field does not trust it either
    skipped = decode(wide, raw, columns=["y"])
    assert skipped.rows.num_rows + len(skipped.errors) == 1


def test_hostile_counts_cost_neither_time_nor_memory() -> None:
    schema = record(field("x", array(record(name="Empty"))), field("y", array(array("null"))))
    flood = b"\xc8\x01" * 40_000  # blocks of 100 items of no bytes
    started = time.thread_time()
    for columns in (None, ["y"]):
        assert error(decode(schema, flood, columns=columns))[0] == "invalid_value"
    assert time.thread_time() - started < 5
    fine = b"\xc8\x01\x00" + b"\x00"
    assert len(value(decode(schema, fine))) == MAX_EMPTY_ITEMS


def test_recursive_types_are_stepped_over_to_a_limit() -> None:
    tree = record(field("children", array("Tree")), field("n", "long"), name="Tree")
    writer = record(field("t", tree), field("x", "string"))
    reader = record(field("x", "string"))
    row = {"t": {"children": [{"children": [], "n": 1}, {"children": [{"children": [], "n": 3}], "n": 2}], "n": 9}}
    assert value(decode(reader, body(writer, {**row, "x": "end"}), writer)) == "end"
    assert value(decode(writer, body(writer, {**row, "x": "end"}), writer, ["x"])) == "end"
    reason, sentence = error(decode(reader, b"\x02" * 10_000, writer))
    assert reason == "invalid_value"
    assert "field 'Tree.children' at byte" in sentence
    assert "nested deeper than 200 levels" in sentence


def test_lists_larger_than_the_first_guess() -> None:
    schema = record(field("x", array(array("int"))), field("y", {"type": "map", "values": "string"}))
    rows = [{"x": [[i] * 50 for i in range(n)], "y": {str(i): "v" for i in range(n)}} for n in (0, 300, 1)]
    decoded = decode(schema, [body(schema, row) for row in rows])
    assert decoded.rows.to_pylist(maps_as_pydicts="strict") == rows


def test_bad_rows_leave_nothing_behind() -> None:
    schema = record(field("x", array("string")), field("n", ["null", "int"]))
    good = [body(schema, {"x": [f"{i}"] * i, "n": i if i % 2 else None}) for i in range(6)]
    mixed = [raw for b in good for raw in (b, b[:-1], b + b"\0")]
    assert decode(schema, mixed).rows.equals(decode(schema, good).rows)


def test_blocks_in_a_list_may_say_their_size() -> None:
    schema = record(field("x", array("int")), field("y", "int"))
    raw = b"\x03\x04\x02\x04" + b"\x02\x06" + b"\x00" + b"\x08"  # -2 items in 2 bytes, 1 item, end
    assert decode(schema, raw).rows.to_pylist() == [{"x": [1, 2, 3], "y": 4}]
    assert value(decode(schema, raw, columns=["y"]), "y") == 4


MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
MICROS = {"type": "long", "logicalType": "timestamp-micros"}


def test_timestamps_of_another_unit_are_converted() -> None:
    micros, millis = record(field("x", MICROS)), record(field("x", MILLIS))
    moment = datetime.datetime(2024, 5, 1, 12, 0, 0, 5000, datetime.UTC)
    assert value(decode(micros, body(millis, {"x": moment}), millis)) == moment
    assert value(decode(millis, body(micros, {"x": moment}), micros)) == moment
    before = moment.replace(year=1960, microsecond=5001)
    assert value(decode(millis, body(micros, {"x": before}), micros)) == before.replace(microsecond=5000)
    assert error(decode(micros, BIG, millis))[0] == "invalid_value"
    assert value(decode(millis, b"\x02", record(field("x", "long")))) == datetime.datetime.fromtimestamp(
        0.001, datetime.UTC
    )


def test_names_and_aliases() -> None:
    writer = record(field("SPEED", "double"), field("old", enum("A", "B")), name="org.old.Reading")
    renamed_enum = {"type": "enum", "name": "Kind", "symbols": ["B", "A"], "aliases": ["org.old.E"]}
    reader = record(field("speed", "double", aliases=["v", "SPEED"]), field("old", renamed_enum), name="new.Reading")
    decoded = decode(reader, body(writer, {"SPEED": 1.5, "old": "A"}), writer)
    assert decoded.rows.to_pylist() == [{"speed": 1.5, "old": "A"}]
    strict = record(field("old", {**renamed_enum, "aliases": []}))
    reason, sentence = error(decode(strict, body(writer, {"SPEED": 1.5, "old": "A"}), writer))
    assert reason == "unresolvable"
    assert "add the alias 'org.old.E'" in sentence


def test_a_name_wins_over_an_alias() -> None:
    writer = record(field("a", "int"), field("b", "int"))
    reader = record(field("b", "int", aliases=["a"]), field("c", "int", aliases=["a"]))
    assert decode(reader, b"\x02\x04", writer).rows.to_pylist() == [{"b": 2, "c": 1}]


@pytest.mark.parametrize(
    ("avro", "default", "expected"),
    [
        ("null", None, None),
        ("boolean", True, True),
        ("int", -5, -5),
        ("long", 2**62, 2**62),
        ("float", 1.5, 1.5),
        ("double", 3, 3.0),
        ("string", "é", "é"),
        ("string", "", ""),
        ("bytes", "ÿ\u0000", b"\xff\0"),
        ({"type": "fixed", "name": "F", "size": 2}, "ab", b"ab"),
        (enum("A", "B"), "B", "B"),
        (["int", "null"], 5, 5),
        (["null", "int"], None, None),
        (["null", "int"], 5, 5),
        (array(array("int")), [[1], [], [2, 3]], [[1], [], [2, 3]]),
        ({"type": "map", "values": ["null", "int"]}, {"a": 1, "b": None}, {"a": 1, "b": None}),
        (record(field("i", "int"), field("j", "string", default="d"), name="In"), {"i": 1}, {"i": 1, "j": "d"}),
        (["null", record(field("i", array("int")), name="In")], None, None),
        ({"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}, "\u00ff", Decimal("-0.01")),
        (MILLIS, 0, datetime.datetime.fromtimestamp(0, datetime.UTC)),
    ],
)
def test_defaults(avro: Any, default: Any, expected: Any) -> None:
    writer = record(field("y", "int"))
    reader = record(field("x", avro, default=default), field("y", "int"))
    assert value(decode(reader, b"\x02", writer)) == expected
    full = AvroDecoder(reader, {1: reader, 2: writer}.__getitem__)  # beside rows that have the field
    rows = pa.array([framed(b"\x04", 2), framed(b"\x06", 2)], pa.binary())
    assert full.decode(rows).rows.column("x").to_pylist(maps_as_pydicts="strict") == [expected] * 2


@pytest.mark.parametrize(
    ("avro", "default"),
    [("int", "a"), ("int", 2**31), ("int", None), ("boolean", 1), (enum("A"), "B"), ("string", 5), (array("int"), {})],
)
def test_a_wrong_default_is_refused_at_once(avro: Any, default: Any) -> None:
    with pytest.raises(UserError, match="field 'x' has the default"):
        AvroDecoder(record(field("x", avro, default=default)), lambda _: {})


def test_what_the_reader_has_no_place_for_fails_only_where_it_occurs() -> None:
    writer = record(field("x", ["null", "int", "string"]), field("e", enum("A", "OLD")))
    reader = record(field("x", ["null", "long"]), field("e", enum("A")))
    rows = [{"x": 1, "e": "A"}, {"x": "text", "e": "A"}, {"x": None, "e": "A"}, {"x": 2, "e": "OLD"}]
    decoded = decode(reader, [body(writer, row) for row in rows], writer)
    assert decoded.rows.to_pylist() == [rows[0], rows[2]]
    assert list(decoded.errors.reasons) == ["unresolvable", "unresolvable"]
    assert "the writer's string has no place in the reader's long" in decoded.errors.errors[0]
    assert "field 'e'" in decoded.errors.errors[1]
    assert decode(record(field("x", "int")), body(writer, rows[2]), writer).errors.reasons[0] == "unresolvable"


@pytest.mark.parametrize(
    ("writer", "part"),
    [
        (record(field("y", "int")), "field 'x' is not in the writer's schema 'R' and has no default"),
        (record(field("x", "string")), "field 'x': the writer's string has no place in the reader's long"),
        ({"type": "string"}, "the writer's schema is 'string', expected a record"),
        (record(field("x", "Missing")), "has the type 'Missing', which is not defined"),
        ({"nonsense": 1}, "schema id 2"),
        (record({"name": "x"}), "schema id 2"),
        (record(field("x", {"type": "enum", "name": "E", "symbols": 5})), "malformed"),
    ],
)
def test_a_schema_that_does_not_resolve_spoils_its_own_rows_only(writer: Any, part: str) -> None:
    reader = record(field("x", "long"))
    decoder = AvroDecoder(reader, {1: reader, 2: writer}.__getitem__)
    for _ in range(2):
        decoded = decoder.decode(pa.array([framed(b"\x02"), framed(b"\x02", 2), framed(b"\x04")], pa.binary()))
        assert decoded.rows.to_pydict() == {"x": [1, 2]}
        assert decoded.errors.reasons[0] == "unresolvable"
        assert part in decoded.errors.errors[0]


def test_of_a_union_of_events_the_readers_own_are_read() -> None:
    ours, theirs = record(field("x", "long"), name="n.Ours"), record(field("z", "string"), name="n.Theirs")
    decoded = decode(ours, [b"\x02\x0a", b"\x04\x02z", b"\0", b"\x02\x0c", b"\x08"], ["null", ours, theirs])
    assert decoded.rows.to_pydict() == {"x": [5, 6]}
    assert list(decoded.errors.reasons) == ["unresolvable", "unresolvable", "invalid_value"]
    assert "the event: the writer's record n.Theirs has no place in the reader's" in decoded.errors.errors[0]
    whole = decode(ours, [b"\0\x0a"] * 200, [ours])
    assert whole.rows.num_rows == 200


def test_an_id_that_turns_up_later_is_found() -> None:
    schema = record(field("x", "int"))
    known: dict[int, Any] = {}
    decoder = AvroDecoder(schema, known.__getitem__)
    values = pa.array([framed(b"\x02")], pa.binary())
    assert error(decoder.decode(values))[0] == "unknown_schema_id"
    known[1] = schema
    assert decoder.decode(values).rows.to_pydict() == {"x": [1]}


def test_a_registry_says_why_it_has_no_schema() -> None:
    def refuse(_: int) -> dict[str, Any]:
        raise LookupError("schema id 1 is PROTOBUF, not AVRO")

    decoded = AvroDecoder(record(field("x", "int")), refuse).decode(pa.array([framed(b"\x02")], pa.binary()))
    assert error(decoded) == ("unknown_schema_id", "schema id 1 is PROTOBUF, not AVRO")


def test_a_registry_that_is_down_is_not_the_rows_fault() -> None:
    def down(_: int) -> dict[str, Any]:
        raise UserError("registry is down")

    with pytest.raises(UserError, match="registry is down"):
        AvroDecoder(record(field("x", "int")), down).decode(pa.array([framed(b"\x02")], pa.binary()))


@pytest.mark.parametrize(
    ("reader", "columns", "part"),
    [
        (
            record(field("x", ["int", "string"])),
            None,
            "field 'x' is a union of .*'int', 'string'.*; keep 'null' and one",
        ),
        (record(field("x", ["null", "R"])), None, "field 'x.x' is the recursive record 'R'|field 'x' is the recursive"),
        (
            record(field("x", {"type": "bytes", "logicalType": "decimal", "precision": 39})),
            None,
            "field 'x' is a decimal of 39 digits; use at most 38",
        ),
        (record(field("x", "int")), ["y"], "column 'y' is not a field of 'R'; its fields are x"),
        ({"type": "string"}, None, "make it a record"),
    ],
)
def test_reader_schemas_no_column_can_hold(reader: dict[str, Any], columns: Any, part: str) -> None:
    with pytest.raises(UserError, match=part):
        AvroDecoder(reader, lambda _: reader, columns)


def test_a_field_no_column_can_hold_may_stay_unread() -> None:
    schema = record(field("x", ["int", "string"]), field("y", "int"))
    assert value(decode(schema, body(schema, {"x": "skip", "y": 3}), columns=["y"]), "y") == 3


def test_blocks_without_rows_or_columns() -> None:
    schema = record(field("x", array("string")), field("y", ["null", "int"]))
    empty = AvroDecoder(schema, lambda _: schema).decode(pa.array([], pa.binary()))
    assert empty.rows.num_rows == 0
    assert empty.rows.schema.names == ["x", "y"]
    none = decode(schema, body(schema, {"x": [], "y": 1}), columns=[])
    assert (none.rows.num_rows, none.rows.num_columns) == (1, 0)


def test_large_binary_and_slices_are_taken_as_they_are() -> None:
    schema = record(field("x", "int"))
    values = pa.array([framed(b"\x02"), None, framed(b"\x04")], pa.large_binary())
    decoder = AvroDecoder(schema, lambda _: schema)
    assert decoder.decode(values).rows.to_pydict() == {"x": [1, 2]}
    assert decoder.decode(values.slice(2)).rows.to_pydict() == {"x": [2]}


@pytest.mark.parametrize("avro", ["double", "long", "int"])
def test_errors_name_the_field_among_neighbours_of_one_type(avro: str) -> None:
    schema = record(*(field(name, avro) for name in "abc"))
    whole = body(schema, {"a": 1, "b": 2, "c": 3})
    one = len(whole) // 3
    for i, name in enumerate("abc"):
        assert error(decode(schema, whole[: i * one])) == (
            "truncated",
            f"field {name!r} at byte {5 + i * one}: the value ends before the field does",
        )
