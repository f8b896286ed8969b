"""fastavro is the oracle: what the check allows, a reader can read; what it forbids, some value breaks."""

from __future__ import annotations

import copy
import io
from typing import Any

import fastavro
from hypothesis import given, note
from hypothesis import strategies as st

from schemas.compatibility import check
from tests.property.avro_pairs import DEFAULTS, PRIMITIVES

SYMBOLS = ("A", "B", "C", "D")
NAMES = ("f0", "f1", "f2", "f3", "f4")


@st.composite
def types(draw: st.DrawFn, depth: int, path: str) -> Any:
    """A type; a named type's name is its place, so each is defined once."""
    kinds = ["primitive", "primitive", "enum", "fixed", "decimal"]
    if depth:
        kinds += ["array", "map", "union", "record"]
    match draw(st.sampled_from(kinds)):
        case "enum":
            symbols = draw(st.lists(st.sampled_from(SYMBOLS), min_size=1, unique=True))
            out = {"type": "enum", "name": f"E{path}", "symbols": symbols}
            return out | ({"default": symbols[0]} if draw(st.booleans()) else {})
        case "fixed":
            return {"type": "fixed", "name": f"F{path}", "size": draw(st.integers(1, 2))}
        case "decimal":
            scale = draw(st.integers(0, 2))
            return {"type": "bytes", "logicalType": "decimal", "precision": 8, "scale": scale}
        case "array":
            return {"type": "array", "items": draw(types(depth - 1, path + "i"))}
        case "map":
            return {"type": "map", "values": draw(types(depth - 1, path + "v"))}
        case "union":
            return draw(st.lists(st.sampled_from(PRIMITIVES), min_size=1, max_size=3, unique=True))
        case "record":
            return draw(records(depth - 1, path))
        case _:
            return draw(st.sampled_from(PRIMITIVES))


@st.composite
def records(draw: st.DrawFn, depth: int, path: str) -> Any:
    names = draw(st.lists(st.sampled_from(NAMES), max_size=3, unique=True))
    fields = [draw(fields_of(name, depth, path)) for name in names]
    return {"type": "record", "name": f"R{path}", "fields": fields}


@st.composite
def fields_of(draw: st.DrawFn, name: str, depth: int, path: str) -> Any:
    kind = draw(types(depth, f"{path}_{name}"))
    out: dict[str, Any] = {"name": name, "type": kind}
    if isinstance(kind, str) and draw(st.booleans()):
        out["default"] = DEFAULTS[kind]
    return out


@st.composite
def evolved(draw: st.DrawFn, schema: Any, depth: int, path: str) -> Any:
    """The schema with some places changed, as its owner might."""
    if draw(st.integers(0, 9)) == 0:
        return draw(types(depth, path))
    if isinstance(schema, list):
        if draw(st.booleans()):
            return [*schema, *([x] if (x := draw(st.sampled_from(PRIMITIVES))) not in schema else [])]
        return draw(st.sampled_from([schema, schema[::-1], schema[:-1] or schema, schema[0]]))
    if isinstance(schema, str):
        wider = {"int": ["long", "double"], "long": ["float"], "float": ["double"], "string": ["bytes"]}.get(schema, [])
        nullable = ["null", schema] if schema != "null" else schema
        return draw(st.sampled_from([schema, schema, nullable, *wider]))
    out = copy.deepcopy(schema)
    match out["type"]:
        case "array":
            out["items"] = draw(evolved(out["items"], depth - 1, path + "i"))
        case "map":
            out["values"] = draw(evolved(out["values"], depth - 1, path + "v"))
        case "enum" if draw(st.booleans()):
            out["symbols"] = draw(st.permutations(out["symbols"]))[: draw(st.integers(1, 4))]
            if out.get("default") not in out["symbols"]:
                out.pop("default", None)
        case "record":
            for entry in out["fields"]:
                if draw(st.integers(0, 5)) == 0:  # renamed, with or without an alias
                    old = entry["name"]
                    entry["name"] = f"{old}_renamed"
                    if draw(st.booleans()):
                        entry["aliases"] = [old]
                    entry["type"] = draw(evolved(entry["type"], depth - 1, f"{path}_{old}"))
                else:
                    entry["type"] = draw(evolved(entry["type"], depth - 1, f"{path}_{entry['name']}"))
                entry.pop("default", None)
                if isinstance(entry["type"], str) and draw(st.booleans()):
                    entry["default"] = DEFAULTS[entry["type"]]
            if out["fields"] and draw(st.integers(0, 3)) == 0:
                out["fields"].pop()
            if draw(st.booleans()):
                out["fields"].append(draw(fields_of("added", 0, path)))
    return out


def values(schema: Any) -> st.SearchStrategy[Any]:
    """Values of a schema, for fastavro's writer."""
    if isinstance(schema, list):
        return st.sampled_from(schema).flatmap(lambda branch: values(branch).map(lambda v: (branch, v)))
    if isinstance(schema, str):
        return {
            "null": st.none(),
            "boolean": st.booleans(),
            "int": st.integers(-(2**31), 2**31 - 1),
            "long": st.integers(-(2**63), 2**63 - 1),
            "float": st.floats(width=32),
            "double": st.floats(),
            "bytes": st.text(max_size=3).map(str.encode),  # UTF-8, or no reader could take them for a string
            "string": st.text(max_size=3),
        }[schema]
    match schema["type"]:
        case "enum":
            return st.sampled_from(schema["symbols"])
        case "fixed":
            return st.binary(min_size=schema["size"], max_size=schema["size"])
        case "array":
            return st.lists(values(schema["items"]), max_size=2)
        case "map":
            return st.dictionaries(st.text(max_size=2), values(schema["values"]), max_size=2)
        case "record":
            return st.fixed_dictionaries({entry["name"]: values(entry["type"]) for entry in schema["fields"]})
        case _:
            return st.decimals(0, 100, places=schema["scale"])


def plain(schema: Any) -> Any:
    """Without decimals: fastavro takes the writer's for every reader, so it cannot judge them."""
    if isinstance(schema, list):
        return [plain(branch) for branch in schema]
    if isinstance(schema, dict):
        if schema.get("logicalType"):
            return "bytes"
        return {k: plain(v) if k in ("type", "items", "values", "fields") else v for k, v in schema.items()}
    return schema


writers = records(2, "")


@given(st.data())
def test_what_is_allowed_can_be_read(data: st.DataObject) -> None:
    writer = plain(data.draw(writers))
    reader = plain(data.draw(evolved(writer, 2, "")))
    allowed = not check(reader, [writer], "BACKWARD")
    assert allowed == (not check(writer, [reader], "FORWARD"))
    assert (allowed and not check(writer, [reader], "BACKWARD")) == (not check(reader, [writer], "FULL"))
    note(f"writer {writer}\nreader {reader}\nallowed {allowed}")
    parsed_writer, parsed_reader = fastavro.parse_schema(writer), fastavro.parse_schema(reader)
    if allowed:
        for value in data.draw(st.lists(values(writer), min_size=1, max_size=3)):
            buffer = io.BytesIO()
            fastavro.schemaless_writer(buffer, parsed_writer, value)
            buffer.seek(0)
            fastavro.schemaless_reader(buffer, parsed_writer, parsed_reader)
            assert not buffer.read()


@given(st.data())
def test_what_is_forbidden_breaks_on_some_value(data: st.DataObject) -> None:
    """Only where every value shows the break: a missing field, another kind of type, a name, a size."""
    writer = plain(data.draw(writers))
    reader = copy.deepcopy(writer)
    reader["fields"].append({"name": "added", "type": data.draw(st.sampled_from(PRIMITIVES))})
    assert check(reader, [writer], "BACKWARD")
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(writer), data.draw(values(writer)))
    buffer.seek(0)
    try:
        fastavro.schemaless_reader(buffer, fastavro.parse_schema(writer), fastavro.parse_schema(reader))
    except fastavro.read.SchemaResolutionError:
        return
    raise AssertionError("fastavro read a record without the field")


@given(writers)
def test_every_schema_follows_itself(schema: Any) -> None:
    assert check(schema, [schema, schema], "FULL_TRANSITIVE") == []
