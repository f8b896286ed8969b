"""A value of a field tagged pii stands in no message, whatever is wrong with it and wherever it is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.codec.columns import Fit
from beam_jobs.codec.events import EventDecoder
from beam_jobs.codec.schema import arrow_schema
from beam_jobs.errors import PERSONAL, UserError
from beam_jobs.preprocessing.checks import check_ranges
from beam_jobs.preprocessing.fields import fields_of

MARK, NUMBER = "Jane", 4242424242424242  # what must not be seen

TYPES: dict[str, Any] = {
    "boolean": "boolean",
    "int": "int",
    "long": "long",
    "float": "float",
    "double": "double",
    "string": "string",
    "bytes": "bytes",
    "enum": {"type": "enum", "name": "Enum", "symbols": ["A", "B"]},
    "fixed": {"type": "fixed", "name": "Fixed", "size": 3},
    "decimal": {"type": "bytes", "logicalType": "decimal", "precision": 5, "scale": 2},
    "date": {"type": "int", "logicalType": "date"},
    "time": {"type": "int", "logicalType": "time-millis"},
    "millis": {"type": "long", "logicalType": "timestamp-millis"},
    "micros": {"type": "long", "logicalType": "timestamp-micros"},
    "array": {"type": "array", "items": "int"},
    "map": {"type": "map", "values": "int"},
    "record": {"type": "record", "name": "Inner", "fields": [{"name": "x", "type": "int"}]},
}
VALUES: tuple[Any, ...] = (
    f"{MARK} Doe, \x1b[2J" * 9,
    f"{NUMBER}",
    "\ud800" + MARK,
    "€" + MARK,
    NUMBER,
    NUMBER * 10**9,
    NUMBER + 0.25,
    True,
    [MARK],
    {MARK: MARK},
    {"x": MARK},
    [NUMBER],
    {MARK: NUMBER},
    {"x": NUMBER},
)


def schema(kind: str, tag_beside: bool = False) -> dict[str, Any]:
    """One field of the type, tagged beside "name" or beside the inner "type"."""
    plain = TYPES[kind]
    if tag_beside:
        plain = {**(plain if isinstance(plain, dict) else {"type": plain}), "pii": "direct"}
        return {"type": "record", "name": "E", "fields": [{"name": "who", "type": ["null", plain]}]}
    return {"type": "record", "name": "E", "fields": [{"name": "who", "type": plain, "pii": "direct"}]}


def is_silent(text: str) -> bool:
    return text.isprintable() and MARK not in text and "424242" not in text


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("kind", TYPES)
def test_json(kind: str, beside: bool) -> None:
    decoder = EventDecoder(schema(kind, beside), lambda _: None)
    texts = [json.dumps({"who": value}).encode() for value in VALUES]
    errors = decoder.decode(pa.array(texts, pa.binary())).errors.errors
    assert errors  # each type refuses some of them
    assert [error for error in errors if not is_silent(error)] == []
    shown = [error for error in errors if PERSONAL in error]
    assert shown


def test_a_document_that_is_no_object_is_not_shown() -> None:
    decoder = EventDecoder(schema("int"), lambda _: None)
    texts = [f" {json.dumps(value)}".encode() for value in (MARK, NUMBER, [MARK], None, True)]
    errors = decoder.decode(pa.array([*texts, f'{{"who": "{MARK}'.encode()], pa.binary())).errors.errors
    assert len(errors) == 6
    assert all(map(is_silent, errors))


@pytest.mark.parametrize("kind", TYPES)
def test_avro(kind: str) -> None:
    """Values of every other type, and of none."""
    wanted = schema(kind)
    said = []
    for body in (b"\xff" * 12, b"\x7f" * 30, b"\x02", varint(NUMBER), varint(-NUMBER), b"\x14" + b"\xff" * 10):
        framed = pa.array([b"\0\0\0\0\1" + body], pa.binary())
        said += EventDecoder(wanted, lambda _: schema(kind)).decode(framed).errors.errors
    assert all(map(is_silent, said))
    if kind not in ("float", "double", "long", "micros", "millis"):  # of which all bits are values
        assert said


def varint(number: int) -> bytes:
    rest, out = (number << 1) ^ (number >> 63), bytearray()
    while rest >= 0x80:
        out.append((rest & 0x7F) | 0x80)
        rest >>= 7
    return bytes([*out, rest])


def columns() -> Iterator[pa.Array]:
    yield pa.array([None, f"{MARK} \x1b[2J\n" * 99])
    yield pa.array([f"{MARK}".encode() + b"\xff"])
    yield pa.array([NUMBER])
    yield pa.array([NUMBER + 0.25])
    yield pa.array([NUMBER], pa.uint64())
    yield pa.array([NUMBER], pa.timestamp("us"))
    yield pa.array([[MARK]])
    yield pa.array([{"x": MARK}])
    yield pa.array([f"{MARK}"]).dictionary_encode()


@pytest.mark.parametrize("kind", TYPES)
def test_columns_and_files(kind: str, tmp_path: Path) -> None:
    wanted, said = schema(kind), []
    for array in columns():
        for refuse in (
            lambda: Fit("x", ["who"], wanted, arrow_schema(wanted)).rows({"who": array}, len(array)),  # noqa: B023
            lambda: AvroEncoder(wanted, None).encode(pa.record_batch({"who": array})),  # noqa: B023
        ):
            try:
                refuse()
            except UserError as error:
                said.append(str(error))
                shows = None if error.__suppress_context__ else error.__context__  # in a stack trace
                said.append(f"cause: {shows}")
    assert said
    assert [text for text in said if not is_silent(text)] == []


def test_limits() -> None:
    limited = {
        "type": "record",
        "name": "E",
        "fields": [
            {"name": "age", "type": "long", "pii": "quasi", "max": 130, "unit": "years"},
            {"name": "born", "type": TYPES["millis"], "pii": "quasi"},
        ],
    }
    batch = pa.record_batch({"age": pa.array([NUMBER]), "born": pa.array([NUMBER * 99], pa.timestamp("ms", "UTC"))})
    (error,) = check_ranges(batch, list(fields_of(limited).values())).errors
    assert is_silent(error)
    assert error.count(PERSONAL) == 2


VIN = {"name": "vin", "type": "int", "pii": "direct"}
CAR = {"type": "record", "name": "Car", "fields": [VIN, {"name": "size", "type": "int"}]}


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        (CAR, {"vin": MARK, "size": 1}),
        (CAR, [MARK]),
        (["null", CAR], {"vin": MARK, "size": 1}),
        ({"type": "array", "items": CAR}, [{"vin": MARK, "size": 1}]),
        ({"type": "map", "values": {"type": "int", "pii": "quasi"}}, {"a": MARK}),
        ({"type": "array", "items": {"type": "int", "pii": "quasi"}}, [MARK]),
    ],
)
def test_tags_inside_a_field_are_tags_of_the_field(kind: Any, document: Any) -> None:
    """Messages leave its values out, and no archive of events has it."""
    wanted = {"type": "record", "name": "E", "fields": [{"name": "who", "type": kind}]}
    assert fields_of(wanted)["who"].pii is not None
    again = [{"name": "size", "type": "int"}, {"name": "other", "type": "Car"}] if "Car" in str(kind) else []
    fields = fields_of({**wanted, "fields": [*wanted["fields"], *again]})
    assert [name for name, field in fields.items() if field.pii] == ["who", *(["other"] if again else [])]
    texts = pa.array([json.dumps({"who": document}).encode()], pa.binary())
    (said,) = EventDecoder(wanted, lambda _: None).decode(texts).errors.errors
    with pytest.raises(UserError) as refused:
        Fit("x", ["who"], wanted, arrow_schema(wanted)).rows({"who": pa.array([document])}, 1)
    assert PERSONAL in said
    assert is_silent(said)
    assert is_silent(str(refused.value))
