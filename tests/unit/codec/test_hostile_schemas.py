"""Whatever schema somebody registers costs little, and spoils its own records only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_jobs.codec.avro import writers as avro_writers
from beam_jobs.codec.avro.decoder import AvroDecoder, Machine
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.codec.avro.ops import MAX_EMPTY_ITEMS
from beam_jobs.codec.events import EventDecoder
from beam_jobs.codec.schema import MAX_COLUMNS, SchemaTooLargeError, parse_record, parse_schema
from beam_jobs.errors import UserError

INNER = {"type": "record", "name": "Inner", "fields": [{"name": "x", "type": ["null", "long"], "default": None}]}
READER: dict[str, Any] = {
    "type": "record",
    "name": "R",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "speed", "type": "double", "default": 0.0},
        {"name": "parts", "type": {"type": "array", "items": INNER}, "default": []},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9}, "default": ""},
    ],
}
ROWS = pa.RecordBatch.from_pylist(
    [{"id": f"car-{i}", "speed": float(i), "parts": [{"x": i}], "price": i} for i in range(5)],
    schema=AvroEncoder(READER, 1).schema,
)
GOOD: list[bytes] = AvroEncoder(READER, 1).encode(ROWS).to_pylist()


def plus(*types: Any) -> dict[str, Any]:
    """The reader's schema with more fields."""
    return {**READER, "fields": READER["fields"] + [{"name": f"z{i}", "type": t} for i, t in enumerate(types)]}


def record(name: str, *types: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": f"f{i}", "type": t} for i, t in enumerate(types)]}


def enum(symbols: Any) -> dict[str, Any]:
    return {"type": "enum", "name": "E", "symbols": symbols}


def only(name: str, avro: Any) -> dict[str, Any]:
    """The reader's schema with its first field and another type for one more."""
    return {**READER, "fields": [READER["fields"][0], {"name": name, "type": avro}]}


def chain(n: int) -> Iterator[Any]:
    """Records that have the one before them."""
    yield record("C0", "string")
    for i in range(1, n):
        yield record(f"C{i}", f"C{i - 1}")


def nested(n: int, wrap: Callable[[int, Any], Any]) -> Any:
    inner: Any = "int"
    for i in range(n):
        inner = wrap(i, inner)
    return inner


def laughs(n: int, leaf: Any) -> Iterator[Any]:
    """Records that have the one before them twice: 2**n leaves."""
    yield record("L0", leaf)
    for i in range(1, n):
        yield record(f"L{i}", f"L{i - 1}", f"L{i - 1}")


UNRESOLVABLE, TOO_LARGE, INVALID = "unresolvable", "schema_too_large", ("invalid_value", "trailing_bytes", "truncated")

HOSTILE: dict[str, tuple[Any, Any]] = {
    "a fixed of 10**30": (plus({"type": "fixed", "name": "F", "size": 10**30}), UNRESOLVABLE),
    "a fixed of 10**5000": (plus({"type": "fixed", "name": "F", "size": 10**5000}), UNRESOLVABLE),
    "a fixed of True": (plus({"type": "fixed", "name": "F", "size": True}), UNRESOLVABLE),
    "the largest fixeds": (plus(*({"type": "fixed", "name": f"F{i}", "size": 2**31 - 1} for i in range(40))), INVALID),
    "a decimal in a fixed of 2**63": (only("price", {"type": "fixed", "name": "F", "size": 2**63}), UNRESOLVABLE),
    "a decimal of 10**9 digits": (plus({"type": "bytes", "logicalType": "decimal", "precision": 10**9}), INVALID),
    "laughs of nothing": (plus(*laughs(40, "null")), INVALID),
    "laughs of a byte": (plus(*laughs(200, "boolean")), INVALID),
    "laughs of a string": (plus(*laughs(40, "string")), INVALID),
    "laughs of lists": (plus(*laughs(40, {"type": "array", "items": "null"})), INVALID),
    "a long chain of records": (plus(*chain(3000)), INVALID),
    "records of nothing, 400 of one name": (
        only("parts", {"type": "array", "items": [record(f"a{i}.Inner", *["null"] * 90) for i in range(400)]}),
        INVALID,
    ),
    "a record that holds itself": (plus(record("I", "I")), INVALID),
    "two that hold each other": (plus(record("I", record("J", "I", "I"), "J")), INVALID),
    "lists of itself": (plus(record("I", {"type": "array", "items": "I"})), INVALID),
    "lists in lists": (plus(nested(900, lambda i, t: {"type": "array", "items": t})), TOO_LARGE),
    "records in records": (plus(nested(300, lambda i, t: record(f"D{i}", t))), TOO_LARGE),
    "types in types": (plus(nested(5000, lambda i, t: {"type": t})), TOO_LARGE),
    "unions in unions": (plus(nested(900, lambda i, t: [t])), TOO_LARGE),
    "30,000 nullable fields": (plus(*[["null", "string"]] * 30_000), TOO_LARGE),
    "a union of 20,000 names": (plus([record(f"U{i}") for i in range(20_000)]), INVALID),
    "an enum of 200,000 symbols": (plus(enum([f"S{i}" for i in range(200_000)])), INVALID),
    "a type 200,000 times": (plus(record("X", *["null"] * 200_000)), TOO_LARGE),
    "a name of a megabyte": (plus(record("X" * 1_000_000, "int")), TOO_LARGE),
    "a namespace of a megabyte": ({**plus(*chain(1000)), "namespace": "n" * 1_000_000}, TOO_LARGE),
    "an alias of a megabyte": ({**READER, "aliases": ["a" * 1_000_000]}, TOO_LARGE),
    "aliases without end": ({**READER, "aliases": ["a"] * 200_000}, TOO_LARGE),
    "a default of 5 MB": ({**READER, "fields": [{**READER["fields"][0], "default": "d" * 5_000_000}]}, INVALID),
    "symbols that are none": (plus(enum([{"a": 1}, []])), UNRESOLVABLE),
    "symbols that are a text": (plus(enum("abc")), UNRESOLVABLE),
    "a number as namespace": ({**READER, "namespace": 5}, UNRESOLVABLE),
    "a number as alias": ({**READER, "aliases": [5]}, UNRESOLVABLE),
    "fields that are null": ({**READER, "fields": None}, UNRESOLVABLE),
    "a list": ([], UNRESOLVABLE),
    "nothing": ({}, UNRESOLVABLE),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_schema_costs_a_second_and_its_own_records(name: str) -> None:
    schema, reasons = HOSTILE[name]
    asked: list[int] = []

    def writer_schema(schema_id: int) -> Any:
        asked.append(schema_id)
        return READER if schema_id == 1 else schema

    decoder = EventDecoder(READER, writer_schema)
    bad = b"\0\0\0\0\2" + GOOD[0][5:] + bytes(40)
    started = time.thread_time()
    for _ in range(3):
        decoded = decoder.decode(pa.array([*GOOD[:2], bad, *GOOD[2:], bad], pa.binary()))
        assert decoded.rows == ROWS
        assert decoded.errors.rows.tolist() == [2, 6]
        assert set(decoded.errors.reasons) <= ({reasons} if isinstance(reasons, str) else set(reasons))
        assert all(len(error) <= avro_writers.MAX_SENTENCE for error in decoded.errors.errors)
        assert decoder.decode(pa.array(GOOD, pa.binary())).rows == ROWS
    assert time.thread_time() - started < 5  # most take milliseconds
    assert sorted(asked) == [1, 2]


ATTRIBUTES = ["type", "name", "fields", "items", "values", "symbols", "size", "aliases", "namespace", "default"]
ATTRIBUTES += ["logicalType", "precision", "scale"]
JSON = st.recursive(
    st.sampled_from(["null", "long", "string", "record", "R", "Inner", "", 5, -1, None, True, 10**30, 1.5]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(ATTRIBUTES), inner, max_size=5),
        st.builds(record, st.sampled_from(["R", "Inner", "A", "b.Inner"]), inner, inner),
    ),
    max_leaves=12,
)
SCHEMAS = st.one_of(JSON, st.builds(plus, JSON, JSON), st.builds(record, st.just("R"), JSON))


@given(schema=SCHEMAS, tail=st.binary(max_size=9))
@settings(deadline=None)
def test_any_json_for_a_schema_leaves_the_neighbours_alone(schema: Any, tail: bytes) -> None:
    decoder = AvroDecoder(READER, lambda schema_id: READER if schema_id == 1 else schema)
    for _ in range(2):
        decoded = decoder.decode(pa.array([*GOOD, b"\0\0\0\0\2" + GOOD[0][5:] + tail], pa.binary()))
        assert decoded.rows.slice(0, len(GOOD)) == ROWS
        assert decoded.rows.num_rows + len(decoded.errors) == len(GOOD) + 1


def values(ids: list[int], tail: Callable[[int], int]) -> pa.BinaryArray:
    return pa.array([b"\0" + i.to_bytes(4, "big") + GOOD[0][5:] + bytes(tail(i)) for i in ids], pa.binary())


def test_the_price_of_a_new_id_does_not_depend_on_those_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avro_writers, "MAX_KEPT", 5_000)
    decoder = AvroDecoder(READER, lambda i: plus(record(f"X{i}", "string")))
    took = []
    for start in range(2, 2402, 400):
        started = time.thread_time()
        for i in range(start, start + 400):
            assert decoder.decode(values([i], lambda _: 1)).rows.num_rows == 1
        took.append(time.thread_time() - started)
    assert min(took[3:]) < 3 * max(took[:3])
    known = decoder._writers._known
    assert known.currsize <= 5_000
    assert len(decoder._writers._distinct) <= len(known) + 1
    assert decoder.decode(values([2], lambda _: 1)).rows.num_rows == 1  # a dropped one comes back


def test_identical_schemas_share_a_program() -> None:
    decoder = AvroDecoder(READER, lambda i: {**READER, "doc": f"version {i}", "aliases": [f"a{i}"]})
    decoded = decoder.decode(values(list(range(1, 300)), lambda _: 0))
    assert decoded.rows.num_rows == 299
    assert len(decoder._writers._distinct) == 1


def test_a_block_of_more_schemas_than_fit_together_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [1, 2, 3, 77, 4, 1, 5, 6, 7, 8, 77, 9, 1, 1, 2]

    def schema(schema_id: int) -> Any:
        if schema_id == 77:
            return plus({"type": "fixed", "name": "F", "size": 10**30})
        return plus(*[["null", "string"]] * schema_id)

    whole = AvroDecoder(READER, schema).decode(values(ids, lambda i: i + (i == 5)))
    monkeypatch.setattr(avro_writers, "MAX_JOINED", 100)
    runs: list[int] = []
    run = Machine.run
    monkeypatch.setattr(Machine, "run", lambda *args: runs.append(1) or run(*args))  # type: ignore[func-returns-value]
    parts = AvroDecoder(READER, schema).decode(values(ids, lambda i: i + (i == 5)))
    assert len(runs) > 3
    assert parts.rows == whole.rows
    assert parts.errors.rows.tolist() == whole.errors.rows.tolist() == [3, 6, 10]
    assert (parts.errors.reasons, parts.errors.errors) == (whole.errors.reasons, whole.errors.errors)


def test_a_block_of_garbage_ids_takes_no_longer_than_its_rows() -> None:
    decoder = AvroDecoder(READER, {1: READER}.__getitem__)
    n = 50_000
    started = time.thread_time()
    decoded = decoder.decode(values([*range(1000, 1000 + n), 1], lambda _: 0))
    assert time.thread_time() - started < 5
    assert decoded.rows.num_rows == 1
    assert set(decoded.errors.reasons) == {"unknown_schema_id"}


def test_a_registry_that_changes_its_mind_is_asked_once() -> None:
    answers = iter([READER, record("Other", "int")])
    decoder = AvroDecoder(READER, lambda _: next(answers))
    for _ in range(3):
        assert decoder.decode(pa.array(GOOD, pa.binary())).rows == ROWS


def test_a_source_may_refuse_a_schema_as_too_large() -> None:
    def writer_schema(schema_id: int) -> Any:
        if schema_id == 2:
            raise SchemaTooLargeError("it has 5 GB")
        return READER

    decoded = AvroDecoder(READER, writer_schema).decode(values([1, 2], lambda _: 0))
    assert (decoded.rows.num_rows, decoded.errors.reasons) == (1, ["schema_too_large"])
    assert decoded.errors.errors == ["schema id 2: it has 5 GB"]


def test_namesakes_at_every_level_are_tried_a_bounded_number_of_times() -> None:
    """Unions of 30 records that match by their unqualified name, five levels deep, and fail at the last: 30**5."""

    def levels(branches: Callable[[str, Any], Any], leaf: Any) -> Any:
        for i in range(5):
            leaf = branches(f"L{i}", leaf)
        return leaf

    def union(name: str, inner: Any) -> list[Any]:
        known = [branch["name"] for branch in inner] if isinstance(inner, list) else inner
        return [record(f"n{i}.{name}", known if i else inner) for i in range(30)]

    reader = record("R", "string", levels(record, "long"))
    writer = record("R", "string", levels(union, "boolean"))
    decoder = AvroDecoder(reader, {1: reader, 2: writer}.__getitem__)
    started = time.thread_time()
    decoded = decoder.decode(pa.array([b"\0\0\0\0\1\2a\2", b"\0\0\0\0\2\2a\0\0\0\0\0\0"], pa.binary()))
    assert (decoded.rows.num_rows, decoded.errors.reasons) == (1, ["schema_too_large"])
    assert time.thread_time() - started < 5


@pytest.mark.parametrize("items", [record("Inner"), record("Inner", "null"), record("Inner", record("Deep"))])
def test_items_of_no_bytes_are_few(items: Any) -> None:
    """2**62 items in 10 bytes, in blocks with and without their size, read and stepped over."""
    writers = {1: only("parts", {"type": "array", "items": items}), 2: only("m", {"type": "map", "values": items})}
    writers[3] = only("z", {"type": "array", "items": items})
    hundred, many = b"\xc8\x01", b"\xfe" + b"\xff" * 7 + b"\x7f"
    counts = [many, b"\xff" * 9 + b"\x01" + b"\0", b"\xff" + many[1:] + b"\2", hundred * 40 + b"\0"]
    bad = [b"\0\0\0\0" + bytes([i]) + b"\2a" + count for i in writers for count in counts]
    fine = b"\0\0\0\0\1\2a" + hundred + b"\0"
    decoded = AvroDecoder(READER, writers.__getitem__).decode(pa.array([*bad, fine], pa.binary()))
    assert decoded.errors.rows.tolist() == list(range(len(bad)))
    assert set(decoded.errors.reasons) <= {"invalid_value", "truncated", "trailing_bytes"}
    assert len(decoded.rows.column("parts")[0]) == MAX_EMPTY_ITEMS
    assert decoded.rows.nbytes < 10_000


def test_one_long_list_does_not_enlarge_the_blocks_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = {"type": "record", "name": "R", "fields": [{"name": "x", "type": {"type": "array", "items": "int"}}]}
    decoder = AvroDecoder(reader, lambda _: reader)
    n = 500_000
    long = b"\0\0\0\0\1" + b"\xc0\x84\x3d" + b"\2" * n + b"\0"
    assert len(decoder.decode(pa.array([long], pa.binary())).rows.column("x")[0]) == n
    sizes: list[int] = []
    empty = np.empty
    monkeypatch.setattr("beam_jobs.codec.avro.decoder.np.empty", lambda size, *a: sizes.append(size) or empty(size, *a))  # type: ignore[func-returns-value]
    for _ in range(2):
        short = decoder.decode(pa.array([b"\0\0\0\0\1\2\2\0"] * 1000, pa.binary()))
        assert short.rows.num_rows == 1000
    assert max(size for size in sizes if isinstance(size, int | np.integer)) < 200_000


def test_readers_are_bounded_where_records_are_used_again_and_again() -> None:
    with pytest.raises(SchemaTooLargeError, match=f"use at most {MAX_COLUMNS:,}"):
        parse_record(plus(*laughs(40, "int")))
    with pytest.raises(SchemaTooLargeError, match="levels"):
        parse_record(plus(*chain(300)))
    parse_schema(plus(*laughs(40, "int")))  # a writer may


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[" * 200_000, SchemaTooLargeError),
        ('{"a":' * 100_000, SchemaTooLargeError),
        ('"' + "x" * (2 << 20) + '"', SchemaTooLargeError),
        ("1" * 10_000, UserError),
        ("nonsense", UserError),
    ],
)
def test_texts_of_schemas(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        parse_schema(text)
