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


def decode(*values: bytes | None, columns: Any = None, schema: Any = None) -> Any:
    decoded = JsonDecoder(schema or SCHEMA, columns).decode(pa.array(values, pa.binary()))
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
        (b"\xef\xbb\xbf" + GOOD, "invalid_json", "BOM"),
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
        (b'{"car_id": "a", "at": 5.0}', "wrong_type", "field 'at' is 5.0"),
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
        ("d", 1.5, "wrong_type"),
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
