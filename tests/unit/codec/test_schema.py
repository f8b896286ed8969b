from __future__ import annotations

import copy
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest

import schemas
from beam_jobs import codec, jit
from beam_jobs.codec.schema import arrow_schema, fingerprint, parse_schema
from beam_jobs.errors import UserError


def test_arrow_types() -> None:
    schema = arrow_schema(schemas.load("dead_letter"))
    assert pa.types.is_list(schema.field("headers").type)
    sensor = schemas.load("car_sensor")
    assert arrow_schema(sensor).field("event_time").type == pa.timestamp("ms", "UTC")
    assert not arrow_schema(sensor).field("event_time").nullable
    assert arrow_schema(sensor, ["speed", "car_id"]).names == ["speed", "car_id"]


def test_fingerprint_follows_meaning_not_wording() -> None:
    schema = schemas.load("car_sensor")
    same = copy.deepcopy(schema)
    same["doc"] = "other words"
    same["fields"][2].pop("doc", None)
    same["fields"][2]["aliases"] = ["another"]
    assert fingerprint(same) == fingerprint(schema)
    for key, value in (("unit", "K"), ("name", "renamed"), ("max", 12345), ("type", "float")):
        other = copy.deepcopy(schema)
        other["fields"][2][key] = value
        assert fingerprint(other) != fingerprint(schema), key
    assert len(fingerprint(schema)) == 64


def test_named_types_are_found_by_either_name() -> None:
    inner = {"type": "record", "name": "In", "namespace": "a.b", "fields": [{"name": "i", "type": "int"}]}
    outer = {
        "type": "record",
        "name": "c.Out",
        "fields": [{"name": "x", "type": inner}, {"name": "y", "type": "a.b.In"}],
    }
    parsed = parse_schema(outer)
    assert parsed.fields[0].type is parsed.fields[1].type
    assert parsed.fields[0].type.name == "a.b.In"


@pytest.mark.parametrize(
    ("schema", "part"),
    [
        ("{", "not valid JSON"),
        ({"type": "record", "name": "R"}, "no list 'fields'"),
        ({"type": "record", "fields": []}, "without a name"),
        ({"type": "array"}, "array without 'items'"),
        ({"type": "fixed", "name": "F", "size": -1}, "has the size -1"),
        ({"type": "enum", "name": "E", "symbols": ["A"], "default": "B"}, "has the default 'B'"),
        (["int", "int"], "branches must differ"),
        ({"type": "record", "name": "R", "fields": [{"name": "x", "type": "int"}] * 2}, "has a field twice"),
        ([{"type": "fixed", "name": "F", "size": 1}, {"type": "enum", "name": "F", "symbols": []}], "a second time"),
        (5, "expected a type name"),
        ({"type": "enum", "name": "E", "symbols": 5}, "malformed"),
    ],
)
def test_invalid_schemas(schema: Any, part: str) -> None:
    with pytest.raises(UserError, match=part) as caught:
        parse_schema(schema)
    assert "\n" not in str(caught.value)


def test_exported_names() -> None:
    for name in codec.__all__:
        assert hasattr(codec, name)


def test_warm_up_compiles_all() -> None:
    codec.warm_up()


def test_without_a_folder_for_the_cache_it_still_compiles() -> None:
    real = jit.numba.njit

    def no_cache(**options: Any) -> Any:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return real(**options)

    with mock.patch.object(jit.numba, "njit", no_cache):
        assert jit.compiled(lambda x: x + 1)(1) == 2
