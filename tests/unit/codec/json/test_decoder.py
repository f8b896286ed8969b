from __future__ import annotations

import datetime
import json
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from beam_jobs.codec import EventDecoder, JsonDecoder, JsonEncoder
from beam_jobs.codec.avro.encoder import AvroEncoder

SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Event",
    "fields": [
        {"name": "car_id", "type": "string", "aliases": ["CAR_ID"]},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "speed", "type": "double", "default": 1.5},
        {"name": "level", "type": ["null", "int"]},
        {
            "name": "kind",
            "type": {"type": "enum", "name": "Kind", "symbols": ["A", "B"], "default": "B"},
            "default": "A",
        },
    ],
}
GOOD = b'{"car_id": "c1", "at": 5, "speed": 2.5, "level": 3, "kind": "A"}'


def decode(*values: bytes | None, columns: Any = None, schema: Any = None, strict: bool = False) -> Any:
    decoded = JsonDecoder(schema or SCHEMA, columns, strict).decode(pa.array(values, pa.binary()))
    decoded.rows.validate(full=True)
    return decoded


@pytest.mark.parametrize(
    ("value", "reason", "part"),
    [
        (None, "null_value", "tombstone"),
        (b"", "empty_value", "empty"),
        (b"  ", "invalid_json", "Expecting value"),
        (b'{"car_id": "c1"', "invalid_json", "the value is not JSON"),
        (GOOD + b"}", "invalid_json", "Extra data"),
        (GOOD + GOOD, "invalid_json", "Extra data"),
        (b'{"car_id": "a\nb", "at": 5}', "invalid_json", "control character"),
        (b'{"car_id": "a", "car_id": "b", "at": 5}', "invalid_json", 'the name "car_id" is given twice'),
        (b'{"car_id": "a", "at": 5, "speed": NaN}', "invalid_json", "NaN is not a JSON number"),
        (b'{"car_id": "a", "at": 5, "speed": Inf}', "invalid_json", "not JSON"),
        (b"[" * 100_000, "invalid_json", "nested too deep"),
        (b'{"car_id": "\xff", "at": 5}', "invalid_utf8", "byte 12 of the JSON text is not UTF-8"),
        (b'{"car_id": "\\ud800", "at": 5}', "invalid_utf8", "field 'car_id'"),
        (b'["c1"]', "wrong_type", 'the value is ["c1"], expected a JSON object'),
        (b'{"at": 5}', "missing_field", "field 'car_id' is missing or null, expected string"),
        (b'{"car_id": null, "at": 5}', "missing_field", "field 'car_id'"),
        (b'{"car_id": "a", "at": 5, "sped": 1}', "unknown_field", 'field "sped" is not in the schema'),
        (b'{"car_id": 7, "at": 5}', "wrong_type", "field 'car_id' is 7, expected string"),
        (
            b'{"car_id": "a", "at": "2024"}',
            "wrong_type",
            "field 'at' is \"2024\", expected timestamp-millis as an integer",
        ),
        (b'{"car_id": "a", "at": 5.5}', "wrong_type", "field 'at' is 5.5"),
        (b'{"car_id": "a", "at": 5, "speed": true}', "wrong_type", "field 'speed' is true, expected double"),
        (b'{"car_id": "a", "at": 5, "speed": 1e400}', "wrong_type", "field 'speed' is 1e400"),
        (b'{"car_id": "a", "at": 5, "level": 2147483648}', "invalid_value", "field 'level' is 2147483648"),
        (b'{"car_id": "a", "at": 5, "level": ' + b"9" * 5000 + b"}", "invalid_value", "99..., expected -2147483648 to"),
    ],
)
def test_bad_values_between_good_ones(value: bytes | None, reason: str, part: str) -> None:
    decoded = decode(*[GOOD] * 40, value, *[GOOD] * 40)
    assert decoded.errors.rows.tolist() == [40]
    assert list(decoded.errors.reasons) == [reason]
    assert part in decoded.errors.errors[0]
    assert "\n" not in decoded.errors.errors[0]
    assert len(decoded.errors.errors[0]) < 200
    assert decoded.rows.equals(decode(*[GOOD] * 80).rows)


def test_two_wrong_rows_do_not_make_a_right_one() -> None:
    decoded = decode(b'{"car_id": "a", "at":', b" 5}", GOOD + GOOD, b" ")
    assert list(decoded.errors.reasons) == ["invalid_json"] * 4


def test_layout_aliases_and_defaults() -> None:
    pretty = json.dumps({"CAR_ID": "line\nbreak", "at": 1_700_000_000_000, "kind": "C"}, indent=2).encode()
    decoded = decode(pretty, b'{"car_id": "x", "CAR_ID": "y", "at": -1, "speed": 3, "level": null}')
    assert decoded.rows.to_pylist() == [
        {
            "car_id": "line\nbreak",
            "at": datetime.datetime(2023, 11, 14, 22, 13, 20, tzinfo=datetime.UTC),
            "speed": 1.5,
            "level": None,
            "kind": "B",
        },
        {
            "car_id": "x",
            "at": datetime.datetime(1969, 12, 31, 23, 59, 59, 999000, tzinfo=datetime.UTC),
            "speed": 3.0,
            "level": None,
            "kind": "A",
        },
    ]


def test_a_name_wins_over_an_alias() -> None:
    fields = [{"name": "b", "type": ["null", "long"], "aliases": ["a"]}, {"name": "a", "type": "long"}]
    decoded = decode(b'{"a": 1}', b'{"a": 2, "b": 3}', schema={"type": "record", "name": "R", "fields": fields})
    assert decoded.rows.to_pylist() == [{"b": None, "a": 1}, {"b": 3, "a": 2}]


def test_projection_refuses_unknown_names_only() -> None:
    values = [b'{"car_id": 7, "at": 5, "level": "x"}', b'{"car_id": "a", "at": 5, "other": 1}', b'{"at": 6}']
    decoded = decode(*values, columns=["level", "at"][1:])
    assert decoded.rows.schema.names == ["at"]
    assert decoded.rows.num_rows == 2
    assert list(decoded.errors.reasons) == ["unknown_field"]
    assert decode(GOOD, columns=[]).rows.num_rows == 1


RARE: dict[str, Any] = {
    "type": "record",
    "name": "Rare",
    "fields": [
        {"name": "b", "type": "bytes"},
        {"name": "f", "type": ["null", {"type": "fixed", "name": "F", "size": 2}]},
        {"name": "d", "type": {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}},
        {
            "name": "m",
            "type": {"type": "map", "values": ["null", {"type": "enum", "name": "E", "symbols": ["A", "B"]}]},
        },
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "x", "type": "float"},
    ],
}


def test_types_without_a_fast_path() -> None:
    text = '{"b": "aÿ\\u0000", "f": null, "d": "-12.50", "m": {"k": "B", "l": null}, "day": 1, "x": 0.1}'
    decoded = decode(text.encode(), schema=RARE)
    assert list(decoded.errors.errors) == []
    row = decoded.rows.to_pylist(maps_as_pydicts="strict")[0]
    assert row.pop("x") == pytest.approx(0.1)
    assert row == {
        "b": b"a\xff\0",
        "f": None,
        "d": Decimal("-12.50"),
        "m": {"k": "B", "l": None},
        "day": datetime.date(1970, 1, 2),
    }
    assert decode(JsonEncoder(RARE).encode(decoded.rows)[0].as_py(), schema=RARE).rows.equals(decoded.rows)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("b", "€", "invalid_value"),
        ("f", "abc", "invalid_value"),
        ("d", "1.234", "invalid_value"),
        ("d", "123", "invalid_value"),
        ("d", "1,5", "invalid_value"),
        ("d", 1.555, "invalid_value"),
        ("d", True, "wrong_type"),
        ("m", {"k": "C"}, "invalid_value"),
        ("m", [], "wrong_type"),
    ],
)
def test_bad_values_without_a_fast_path(name: str, value: Any, reason: str) -> None:
    row = {"b": "", "f": None, "d": "1.00", "m": {}, "day": 1, "x": 1, name: value}
    decoded = decode(json.dumps(row).encode(), schema=RARE)
    assert list(decoded.errors.reasons) == [reason]
    assert f"field '{name}" in decoded.errors.errors[0]


def test_numbers_json_cannot_write_become_null() -> None:
    schema = {"type": "record", "name": "R", "fields": [{"name": "x", "type": ["null", "double"]}]}
    rows = pa.record_batch({"x": [float("nan"), float("inf"), 1.5, None]})
    assert JsonEncoder(schema).encode(rows).to_pylist() == [b'{"x":null}', b'{"x":null}', b'{"x":1.5}', b'{"x":null}']


def test_avro_and_json_mixed() -> None:
    rows = decode(GOOD).rows
    avro = AvroEncoder(SCHEMA, 4).encode(rows)[0].as_py()
    values = [avro, GOOD, None, b" " + GOOD, b"", avro[:-1], b"\x01", b"{", avro]
    decoded = EventDecoder(SCHEMA, lambda _: SCHEMA).decode(pa.array(values, pa.binary()))
    assert decoded.rows.equals(pa.concat_batches([rows] * 4))
    assert decoded.errors.rows.tolist() == [2, 4, 5, 6, 7]
    assert list(decoded.errors.reasons) == [
        "null_value",
        "empty_value",
        "truncated",
        "bad_magic_byte",
        "invalid_json",
    ]
    assert decoded.errors.errors[3] == "the first byte is 0x01, expected 0x00 (Confluent-framed Avro) or { (JSON)"
    empty = EventDecoder(SCHEMA, lambda _: SCHEMA).decode(pa.array([], pa.binary()))
    assert (empty.rows.num_rows, empty.rows.schema) == (0, rows.schema)


DEEP = [*list(range(100, 1100, 50)), 100000, 2000000]


@pytest.mark.parametrize(("opener", "closer"), [("[", "]"), ('{"y":', "}")])
@pytest.mark.parametrize("where", ['{"x":', '{"list":', '{"inner":', '{"other":', ""])
def test_nesting_without_end_is_its_own_rows_affair(where: str, opener: str, closer: str) -> None:
    inner = {"type": "record", "name": "I", "fields": [{"name": "y", "type": "double"}]}
    nullable = [("x", "long"), ("list", {"type": "array", "items": "long"}), ("inner", inner)]
    schema = {
        "type": "record",
        "name": "R",
        "fields": [{"name": name, "type": ["null", t], "default": None} for name, t in nullable],
    }
    bad = [f"{where}{opener * n}1{closer * n}{'}' if where else ''}" for n in DEEP] + [where + opener * 100_000]
    decoded = JsonDecoder(schema).decode(pa.array(['{"x":1}', *bad, '{"x":2}'], pa.binary()))
    assert decoded.rows.column("x").to_pylist() == [1, 2]
    assert len(decoded.errors) == len(bad)
    assert set(decoded.errors.reasons) <= {"invalid_json", "wrong_type", "unknown_field"}
    assert all(len(error) < 300 for error in decoded.errors.errors)


@pytest.mark.parametrize("number", ["1" * 1_000_000, "1e" + "9" * 1_000_000, "-" + "1" * 100_000 + ".5"])
def test_numbers_without_end(number: str) -> None:
    schema = {"type": "record", "name": "R", "fields": [{"name": "x", "type": "long"}, {"name": "d", "type": "double"}]}
    texts = [f'{{"x": {number}, "d": 1}}', f'{{"x": 1, "d": {number}}}', '{"x": 1, "d": 2}']
    decoded = JsonDecoder(schema).decode(pa.array(texts, pa.binary()))
    assert decoded.rows.to_pydict() == {"x": [1], "d": [2.0]}
    assert all(len(error) < 300 for error in decoded.errors.errors)


def logical(kind: str, name: str, **more: Any) -> Any:
    return ["null", {"type": kind, "logicalType": name, **more}]


LOOSE: dict[str, Any] = {
    "type": "record",
    "name": "Loose",
    "fields": [
        {"name": name, "type": kind, "default": None}
        for name, kind in {
            "millis": logical("long", "timestamp-millis"),
            "micros": logical("long", "timestamp-micros"),
            "nanos": logical("long", "timestamp-nanos"),
            "local": logical("long", "local-timestamp-micros"),
            "day": logical("int", "date"),
            "time": logical("int", "time-millis"),
            "n": ["null", "long"],
            "i": ["null", "int"],
            "d": logical("bytes", "decimal", precision=6, scale=2),
            "whole": logical("bytes", "decimal", precision=3),
            "list": ["null", {"type": "array", "items": {"type": "long", "logicalType": "timestamp-millis"}}],
        }.items()
    ],
}
DAY = 86_400_000
NEW_YEAR = 1_767_225_600_000  # 2026-01-01T00:00:00Z


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("millis", '"2026-01-01T00:00:00Z"', NEW_YEAR),
        ("millis", '"2026-01-01T00:00Z"', NEW_YEAR),
        ("millis", '"2026-01-01 01:30:00+01:30"', NEW_YEAR),
        ("millis", '"2025-12-31T19:00:00-0500"', NEW_YEAR),
        ("millis", '"2026-01-01T01:00:00+01"', NEW_YEAR),
        ("millis", '"2026-01-01t00:00:00,1239z"', NEW_YEAR + 123),
        ("millis", '"1969-12-31T23:59:59.9995Z"', -1),
        ("millis", '"0001-01-01T00:00:00Z"', -62_135_596_800_000),
        ("millis", '"9999-12-31T23:59:59.999Z"', 253_402_300_799_999),
        ("millis", '"2024-02-29T00:00:00Z"', 1_709_164_800_000),
        ("millis", "1767225600000.0", NEW_YEAR),
        ("millis", "1.7672256E12", NEW_YEAR),
        ("micros", '"2026-01-01T00:00:00.123456789Z"', NEW_YEAR * 1000 + 123_456),
        ("nanos", '"2026-01-01T00:00:00.123456789Z"', NEW_YEAR * 1_000_000 + 123_456_789),
        ("local", '"2026-01-01T00:00:00.5"', NEW_YEAR * 1000 + 500_000),
        ("day", '"2026-01-01"', NEW_YEAR // DAY),
        ("day", '"1969-12-31"', -1),
        ("time", '"23:59:59.9999"', DAY - 1),
        ("time", '"00:30"', 1_800_000),
        ("n", "1.0", 1),
        ("n", "-0.0", 0),
        ("n", "-0", 0),
        ("n", "12e2", 1200),
        ("n", "1.25E+2", 125),
        ("n", "1200e-2", 12),
        ("n", "9007199254740993.0", 9_007_199_254_740_993),
        ("n", "9223372036854775807.000", 2**63 - 1),
        ("n", "-9.223372036854775808e18", -(2**63)),
        ("i", "2147483647.0", 2**31 - 1),
        ("d", "12.5", Decimal("12.50")),
        ("d", "12", Decimal("12.00")),
        ("d", '"-12.500"', Decimal("-12.50")),
        ("d", "1.2e1", Decimal("12.00")),
        ("d", "0.10", Decimal("0.10")),
        ("d", "-0.0", Decimal("0.00")),
        ("d", "9999.99", Decimal("9999.99")),
        ("whole", "999.0", Decimal("999")),
        ("list", '["2026-01-01T00:00:00Z", 5, 6.0]', [NEW_YEAR, 5, 6]),
        # what is refused
        ("millis", '"2026-01-01"', None),
        ("millis", '"2026-01-01T00:00:00"', None),
        ("millis", '"2026-01-01T24:00:00Z"', None),
        ("millis", '"2026-01-01T23:59:60Z"', None),
        ("millis", '"2026-02-29T00:00:00Z"', None),
        ("millis", '"2026-13-01T00:00:00Z"', None),
        ("millis", '"0000-01-01T00:00:00Z"', None),
        ("millis", '"20260101T000000Z"', None),
        ("millis", '"2026-W01-1T00:00:00Z"', None),
        ("millis", '"2026-01-01T00:00:00.Z"', None),
        ("millis", '"2026-01-01T00:00:00Z "', None),
        ("millis", '"2026-01-01T00:00:00+24:00"', None),
        ("millis", '"\\uff12026-01-01T00:00:00Z"', None),
        ("millis", '"1767225600000"', None),
        ("millis", "1767225600000.5", None),
        ("nanos", '"2300-01-01T00:00:00Z"', None),
        ("local", '"2026-01-01T00:00:00Z"', None),
        ("day", '"2026-01-01T00:00:00Z"', None),
        ("time", '"24:00:00"', None),
        ("time", '"12:00:00Z"', None),
        ("n", "1.5", None),
        ("n", '"1"', None),
        ("n", "9223372036854775808.0", None),
        ("n", "1e400", None),
        ("n", "1e-1", None),
        ("n", "01.0", None),
        ("n", "1.", None),
        ("n", "NaN", None),
        ("i", "2147483648.0", None),
        ("d", "1.234", None),
        ("d", "10000", None),
        ("d", '"+1.5"', None),
        ("d", "01.5", None),
        ("d", '"1e-999999999"', None),
        ("d", "1e999999999999999999999", None),
        ("whole", "1.5", None),
    ],
)
def test_values_as_producers_write_them(name: str, given: str, expected: Any) -> None:
    """Right or refused, in a block of others, by either path, and never under ``strict``."""
    value = f'{{"{name}": {given}}}'.encode()
    for others in (0, 40):
        decoded = decode(*[b"{}"] * others, value, *[b"{}"] * others, schema=LOOSE)
        if expected is None:
            assert decoded.errors.rows.tolist() == [others]
            continue
        assert list(decoded.errors.errors) == []
        found = decoded.rows.column(name)[others : others + 1]
        if name == "list":
            found = found.cast(pa.list_(pa.int64()))
        elif pa.types.is_temporal(found.type):
            found = found.view(pa.int32() if found.type.bit_width == 32 else pa.int64())
        assert found.to_pylist() == [expected]
    if expected is not None and not given.lstrip("-").isdigit() and given != '"-12.500"':
        assert len(decode(value, schema=LOOSE, strict=True).errors) == 1


def test_a_byte_order_mark_is_skipped() -> None:
    marked = b"\xef\xbb\xbf" + GOOD
    assert decode(GOOD, marked, GOOD).rows.equals(decode(*[GOOD] * 3).rows)
    assert decode(marked, schema=RARE).errors.reasons[0] != "invalid_json"
    assert decode(marked, strict=True).errors.reasons[0] == "invalid_json"
    decoded = EventDecoder(SCHEMA, lambda _: SCHEMA).decode(pa.array([marked, b"\xef\xbb" + GOOD], pa.binary()))
    assert decoded.rows.num_rows == 1
    assert list(decoded.errors.reasons) == ["invalid_utf8"]


def test_the_default_of_a_decimal_is_its_bytes() -> None:
    decimal = {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}
    schema = {"type": "record", "name": "R", "fields": [{"name": "d", "type": decimal, "default": "\u00ff"}]}
    assert decode(b"{}", b'{"d": 1}', schema=schema).rows.to_pydict() == {"d": [Decimal("-0.01"), Decimal("1.00")]}


def test_times_as_texts_go_the_vectorised_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("a row was read by Python")

    monkeypatch.setattr("beam_jobs.codec.json.decoder.parse_row", refuse)
    texts = ['{"millis": "2026-01-01T00:00:00Z", "d": 1.5, "n": 2.0}', '{"millis": 5}', '{"millis": 6.0, "d": "1.5"}']
    decoder = JsonDecoder({**LOOSE})
    for _ in range(2):
        decoded = decoder.decode(pa.array([text.encode() for text in texts] * 100, pa.binary()))
        assert decoded.rows.num_rows == 300


UUIDS: dict[str, Any] = {
    "type": "record",
    "name": "R",
    "fields": [
        {"name": "id", "type": {"type": "fixed", "name": "U", "size": 16, "logicalType": "uuid"}},
        {"name": "other", "type": ["null", "U"], "default": None},
    ],
}
GIVEN = "00010203-0405-0607-0809-0a0b0c0d0e0f"


def test_a_uuid_in_a_fixed_is_its_text() -> None:
    text = json.dumps({"id": GIVEN.upper(), "other": GIVEN}).encode()
    for others in (0, 40):
        values = [json.dumps({"id": GIVEN}).encode()] * others
        decoded = decode(*values, text, b'{"id": "x"}', schema=UUIDS)
        assert decoded.rows.to_pylist() == [{"id": GIVEN, "other": None}] * others + [{"id": GIVEN, "other": GIVEN}]
        assert list(decoded.errors.errors) == ["field 'id' is \"x\", expected a UUID"]
    avro = AvroEncoder(UUIDS, 1).encode(decoded.rows.slice(40))
    assert avro.to_pylist() == [b"\0\0\0\0\1" + bytes(range(16)) + b"\x02" + bytes(range(16))]
    assert EventDecoder(UUIDS, lambda _: UUIDS).decode(avro).rows.equals(decoded.rows.slice(40))
    raw = json.dumps({"id": bytes(range(16)).decode("latin-1")}).encode()
    assert decode(raw, schema=UUIDS, strict=True).rows.column("id").to_pylist() == [GIVEN]
    assert len(decode(text, schema=UUIDS, strict=True).errors) == 1
