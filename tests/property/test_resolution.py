"""Schemas of readers and writers: Java's verdicts, the compatibility check and the decoder are of one mind."""

from __future__ import annotations

import io
import json
import re
from random import Random
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_jobs.codec import AvroDecoder
from beam_jobs.codec.avro import ops as op
from beam_jobs.codec.avro.decoder import Machine
from beam_jobs.codec.avro.program import UnresolvableError
from beam_jobs.codec.schema import NO_DEFAULT, AvroType, arrow_schema, parse_record, parse_schema
from beam_jobs.errors import UserError
from schemas.compatibility import check
from tests.property.avro_pairs import Pairs, verdicts

Schema = dict[str, Any]


def aliases_of_others(schema: Any) -> bool:
    """Whether a field has the name of another one as an alias: Java gives both the same value, which no reader does."""
    if isinstance(schema, list):
        return any(aliases_of_others(item) for item in schema)
    if not isinstance(schema, dict):
        return False
    fields = schema.get("fields", ())
    names = {entry["name"] for entry in fields}
    if any(names & set(entry.get("aliases", ())) for entry in fields):
        return True
    return any(aliases_of_others(schema.get(key)) for key in ("type", "items", "values", "fields"))


def test_the_check_says_what_java_says() -> None:
    """Stricter only where values would be misread, which Java does not look at."""
    wrong = []
    for writer, reader, java in verdicts():
        problems = check(reader, [writer], "BACKWARD")
        if java != (not problems) and not aliases_of_others(reader):
            if java and all("its values would be misread" in problem for problem in problems):
                continue
            wrong.append((java, problems, json.dumps(writer), json.dumps(reader)))
    assert wrong == []


def test_java_was_asked_about_enough() -> None:
    of = [java for _, _, java in verdicts()]
    assert sum(of) > 1_000
    assert len(of) - sum(of) > 1_000


def readable(reader: Schema) -> Schema:
    """The reader with the fields that columns can hold."""
    fields = []
    for entry in reader["fields"]:
        try:
            arrow_schema(reader, [entry["name"]])
            fields.append(entry)
        except UserError:
            continue
    return {**reader, "fields": fields}


def takes_every_value(reader: Schema, writer: Schema) -> bool:
    """Whether the decoder has a place for all that such a writer may write."""
    try:
        program = Machine(parse_record(reader), None).compiled(parse_schema(writer))
    except UnresolvableError:
        return False
    dropped = (program.ops[:, op.OP] == op.SYMBOL) & (program.ops[:, op.A] < 0)
    return not program.sentences and not dropped.any()


def fixed_decimals(schema: Schema) -> list[str]:
    return re.findall(r'"name": "([^"]+)"(?=[^{}]*"logicalType": "decimal")', json.dumps(schema))


def decoder_does_more(problem: str, names: list[str]) -> bool:
    """What only this decoder reads, rightly: timestamps of another unit, and decimals in whatever holds them."""
    units = re.search(r"is (local-)?timestamp-\w+ where the earlier schema has (local-)?timestamp-\w+:", problem)
    scales = re.search(r"is decimal\(\d+, (\d+)\) where the earlier schema has decimal\(\d+, (\d+)\)", problem)
    held = any(name.rpartition(".")[2] in problem for name in names) or (names and "is a fixed of" in problem)
    return bool((units is not None and units[1] == units[2]) or (scales is not None and scales[1] == scales[2]) or held)


def agree(writer: Schema, reader: Schema) -> bool:
    """Whether the pair is compatible; asserts that check and decoder agree on it."""
    problems = check(reader, [writer], "BACKWARD")
    whole = takes_every_value(reader, writer)
    names = fixed_decimals(writer) + fixed_decimals(reader)
    pair = f"writer {json.dumps(writer)}\nreader {json.dumps(reader)}\n{problems}"
    if not problems:
        assert whole, pair
    elif whole:
        assert all(decoder_does_more(problem, names) for problem in problems), pair
    return not problems


def test_the_decoder_takes_what_the_check_lets_through() -> None:
    for writer, reader, _ in verdicts():
        agree(writer, readable(reader))


def logical_free(schema: Any) -> Any:
    """Without logical types: fastavro then writes the numbers and bytes themselves."""
    if isinstance(schema, list):
        return [logical_free(branch) for branch in schema]
    if isinstance(schema, dict):
        return {key: logical_free(value) for key, value in schema.items() if key != "logicalType"}
    return schema


def drawn(avro: AvroType, random: Random, depth: int = 0) -> Any:
    """A value for fastavro's writer."""
    match avro.kind:
        case "union":
            at = 0 if depth > 4 else random.randrange(len(avro.branches))
            branch = avro.branches[at]
            value = drawn(branch, random, depth + 1)
            return branch.name or branch.kind, value  # as fastavro wants it
        case "record":
            return {entry.name: drawn(entry.type, random, depth + 1) for entry in avro.fields}
        case "array":
            return [drawn(avro.item, random, depth + 1) for _ in range(random.randrange(3))]
        case "map":
            return {f"k{i}": drawn(avro.item, random, depth + 1) for i in range(random.randrange(3))}
        case "enum":
            return avro.symbols[random.randrange(len(avro.symbols))]
        case "fixed":
            return bytes(avro.size - 1) + bytes([random.randrange(100)])
    return {
        "null": None,
        "boolean": random.randrange(2) == 1,
        "int": random.randrange(86_400),
        "long": random.randrange(86_400),
        "float": random.randrange(100) / 4,
        "double": random.randrange(100) / 4,
        "bytes": bytes([random.randrange(100)]),
        "string": f"é{random.randrange(9)}",
    }[avro.kind]


def expected(value: Any, writer: AvroType, reader: AvroType) -> Any:
    """What a reader of the specification makes of a written value; logical types as their numbers."""
    if writer.kind == "union":
        name, inner = value
        branch = next(b for b in writer.branches if (b.name or b.kind) == name)
        return expected(inner, branch, reader)
    if reader.kind == "union":
        if writer.kind == "null":
            return None
        return expected(value, writer, next(b for b in reader.branches if b.kind != "null"))
    match reader.kind:
        case "record":
            return {entry.name: _field(value, writer, reader, entry) for entry in reader.fields}
        case "array":
            return [expected(item, writer.item, reader.item) for item in value]
        case "map":
            return {key: expected(item, writer.item, reader.item) for key, item in value.items()}
        case "enum":
            return value if value in reader.symbols else reader.symbol_default
        case "float":
            return float(np.float32(value))
        case "double":
            return float(value)
        case "bytes" | "fixed" if reader.logical == "decimal":
            return int.from_bytes(value, "big", signed=True)
        case "bytes":
            return value.encode() if isinstance(value, str) else value
        case "string":
            return value.decode() if isinstance(value, bytes) else value
    return value


def _field(value: Any, writer: AvroType, reader: AvroType, entry: Any) -> Any:
    written = {source.name: source for source in writer.fields}
    own = {other.name for other in reader.fields}
    names = [entry.name, *(alias for alias in entry.aliases if alias not in own)]
    found = next((name for name in names if name in written), None)
    if found is not None:
        return expected(value[found], written[found].type, entry.type)
    assert entry.default is not NO_DEFAULT
    return entry.default.encode() if entry.type.kind == "bytes" else entry.default


def numbers(array: pa.Array) -> Any:
    """A column as Python's values; dates and times as their numbers, decimals without their point."""
    kind = array.type
    if pa.types.is_struct(kind):
        parts = [numbers(array.field(i)) for i in range(kind.num_fields)]
        rows = zip(*parts, strict=True) if parts else [()] * len(array)
        names = [field.name for field in kind]
        valid = array.is_valid().to_pylist()
        return [dict(zip(names, row, strict=True)) if ok else None for row, ok in zip(rows, valid, strict=True)]
    if pa.types.is_map(kind) or pa.types.is_list(kind):
        out = []
        for i in range(len(array)):
            if not array[i].is_valid:
                out.append(None)
            elif pa.types.is_map(kind):
                at, end = array.offsets[i].as_py(), array.offsets[i + 1].as_py()
                keys = array.keys.slice(at, end - at).to_pylist()
                out.append(dict(zip(keys, numbers(array.items.slice(at, end - at)), strict=True)))
            else:
                out.append(numbers(array[i].values))
        return out
    if pa.types.is_temporal(kind):
        array = array.view(pa.int32() if kind.bit_width == 32 else pa.int64())
    if pa.types.is_decimal(kind):
        return [None if d is None else int(d.scaleb(kind.scale)) for d in array.to_pylist()]
    return array.to_pylist()


def read_right(writer: Schema, reader: Schema, random: Random) -> None:
    """Asserts that written values are read, all of them and as the specification has it."""
    parsed = parse_schema(writer)
    values = [drawn(parsed, random) for _ in range(3)]
    plain = fastavro.parse_schema(logical_free(writer))
    framed = []
    for value in values:
        out = io.BytesIO(b"\0\0\0\0\1")
        out.seek(5)
        fastavro.schemaless_writer(out, plain, value)
        framed.append(out.getvalue())
    decoded = AvroDecoder(reader, lambda _: writer).decode(pa.array(framed, pa.binary()))
    assert list(decoded.errors.errors) == []
    wanted = parse_record(reader)
    assert numbers(decoded.rows.to_struct_array()) == [expected(value, parsed, wanted) for value in values]


@given(st.randoms(use_true_random=False), st.integers(0, 2**32))
@settings(max_examples=150)
def test_what_is_compatible_is_read_right(random: Random, seed: int) -> None:
    writer, reader = Pairs(random).pair()
    reader = readable(reader)
    if agree(writer, reader):
        read_right(writer, reader, Random(seed))


def test_known_pairs_are_read_right() -> None:
    for number, (writer, reader, java) in enumerate(verdicts()[:400]):
        narrowed = readable(reader)
        if java and narrowed["fields"] and not check(narrowed, [writer], "BACKWARD"):
            read_right(writer, narrowed, Random(number))


def record(*fields: Any, name: str = "E", **more: Any) -> Schema:
    return {"type": "record", "name": name, "fields": [{"name": n, "type": t} for n, t in fields], **more}


def test_two_types_of_one_name_in_a_union() -> None:
    both = ["null", record(("x", "string"), name="a.Reading"), record(("x", "double"), name="b.Reading")]
    event = record(("u", both))
    assert check(event, [event], "FULL") == []
    inherited = record(("u", both), namespace="a")  # names with a namespace of their own stay what they are
    assert check(inherited, [event], "FULL") == []
    swapped = record(("u", [both[0], both[2], both[1]]))
    assert check(swapped, [event], "FULL") == []
    other = record(
        ("u", ["null", record(("x", "string"), name="a.Reading"), record(("x", "string"), name="b.Reading")])
    )
    assert check(other, [event], "BACKWARD") == [
        "field 'u.x' is string where the earlier schema has double: keep double"
    ]


def test_the_event_itself_may_have_any_name() -> None:
    """Flink calls it record, Spark topLevelRecord: readers do not look at it, the check does."""
    theirs, ours = record(("x", "long"), name="topLevelRecord"), record(("x", "long"))
    assert check(ours, [theirs])
    decoded = AvroDecoder(ours, lambda _: theirs).decode(pa.array([b"\0\0\0\0\1\x02"], pa.binary()))
    assert decoded.rows.to_pydict() == {"x": [1]}


DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}


@pytest.mark.parametrize(("reader", "writer"), [(DECIMAL, "string"), ("string", DECIMAL)])
def test_a_decimal_is_no_text(reader: Any, writer: Any) -> None:
    new, old = record(("d", reader)), record(("d", writer))
    assert "its values would be misread" in check(new, [old])[0]
    decoded = AvroDecoder(new, lambda _: old).decode(pa.array([b"\0\0\0\0\1\x02a"], pa.binary()))
    assert list(decoded.errors.reasons) == ["unresolvable"]
