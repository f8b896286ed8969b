from __future__ import annotations

import copy
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest

import schemas
from beam_jobs import codec, jit
from beam_jobs.codec.fingerprint import fingerprint
from beam_jobs.codec.schema import arrow_schema, parse_schema
from beam_jobs.codec.valid import check_valid
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


def sensor(kind: Any, **more: Any) -> dict[str, Any]:
    position = {"type": "record", "name": "Position", "fields": [{"name": "lat", "type": kind, **more}]}
    fields = [{"name": "id", "type": "string"}, {"name": "position", "type": ["null", position]}]
    return {"type": "record", "name": "CarSensor", "namespace": "highbeam", "fields": fields}


ENUM = {"type": "enum", "name": "E", "symbols": ["A", "B"]}


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        ("doubel", {}, "has the type 'doubel', which is not defined before it; did you mean 'double'?"),
        ("timestamp", {}, 'did you mean {"type": "long", "logicalType": "timestamp-millis"}?'),
        ("date", {}, 'did you mean {"type": "int", "logicalType": "date"}?'),
        ("number", {}, "did you mean 'double'?"),
        ({"type": "array", "items": "strnig"}, {}, "lat[] has the type 'strnig'"),
        ({"type": "map", "values": {"type": "rec"}}, {}, "lat{} has the type 'rec'"),
        ({"type": "record", "fields": []}, {}, "is a record without a name; add 'name'"),
        ({"type": "record", "name": "", "fields": []}, {}, "is a record without a name; add 'name'"),
        ({"type": "record", "name": "X"}, {}, "is a record and has no list 'fields'; add it"),
        ({"type": "record", "name": "X", "fields": [{"name": "y"}]}, {}, "lat.y has no type; add 'type'"),
        (
            {"type": "record", "name": "X", "fields": [{"type": "int"}]},
            {},
            "has the field {'type': 'int'} without a name",
        ),
        ({"type": "record", "name": "X", "fields": [5]}, {}, "has the field 5 without a name"),
        ({"type": "enum", "name": "X"}, {}, "is an enum and has the symbols None"),
        ({**ENUM, "default": "C"}, {}, "is an enum and has the default 'C'; use one of A, B"),
        (["null", ["null", "int"]], {}, "branches must differ and not be unions"),
        (["int", "string", "int"], {}, "branches must differ and not be unions"),
        (
            {"type": "fixed", "name": "F", "aliases": "G", "size": 4},
            {},
            "has the aliases 'G'; expected a list of names",
        ),
        ({"type": "fixed", "name": "F"}, {}, "is a fixed and has the size -1"),
        ({"type": "record", "name": "CarSensor", "namespace": "highbeam", "fields": []}, {}, "a second time"),
        ({}, {}, "is {}; expected a type name"),
    ],
)
def test_flaws_no_value_can_be_read_with_name_the_place(kind: Any, more: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_schema(sensor(kind, **more))
    assert str(caught.value).startswith("Avro schema: CarSensor.position.lat") or "malformed" in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_field_twice_names_it() -> None:
    schema = sensor("double")
    schema["fields"].append({"name": "id", "type": "int"})
    with pytest.raises(UserError, match=r"^Avro schema: CarSensor.id: the record has a field twice, 'id'; rename one$"):
        parse_schema(schema)


LONG_TIME = {"type": "string", "logicalType": "timestamp-millis"}


@pytest.mark.parametrize(
    ("kind", "more", "message", "strict"),
    [
        ("int", {"default": "5"}, 'has the default "5", which is no int', False),
        ("int", {"default": 2**31}, "has the default 2147483648, which is no int", False),
        ("long", {"default": 1.5}, "has the default 1.5, which is no long", False),
        ("boolean", {"default": 1}, "has the default 1, which is no boolean", False),
        (["null", "int"], {"default": "x"}, 'has the default "x", which is no union', False),
        (ENUM, {"default": "C"}, 'has the default "C", which is no enum', False),
        (
            {"type": "array", "items": "int"},
            {"default": [1, "a"]},
            'has the default [1, "a"], which is no array',
            False,
        ),
        ({"type": "fixed", "name": "F", "size": 2}, {"default": "a"}, 'has the default "a", which is no fixed', False),
        ({"type": "enum", "name": "X", "symbols": ["A", "A"]}, {}, "has the symbol 'A' twice; leave one out", False),
        ({"type": "enum", "name": "X", "symbols": ["A B"]}, {}, "has the symbol 'A B'", False),
        ({"type": "fixed", "name": "a-b", "size": 2}, {}, "is a fixed with the name 'highbeam.a-b'", False),
        ({"type": "fixed", "name": "string", "namespace": "", "size": 2}, {}, "which is a primitive type", False),
        ("int", {"aliases": ["1st"]}, "field '1st': use letters, digits and _, no digit first", False),
        ({"type": "long", "logicalType": "timestamp-milis"}, {}, "did you mean 'timestamp-millis'?", True),
        ({"type": "string", "logicalType": "UUID"}, {}, "which says nothing; did you mean 'uuid'?", True),
        ("long", {"logicalType": "timestamp_millis"}, "did you mean 'timestamp-millis'?", True),
        (LONG_TIME, {}, "has the logicalType 'timestamp-millis' on string; it goes on long", True),
        ({"type": "int", "logicalType": "decimal", "precision": 4}, {}, "it goes on bytes or fixed", True),
        ({"type": "bytes", "logicalType": "decimal", "precision": 2, "scale": 3}, {}, "a scale not larger", True),
        ("long", {"logicalType": "timestamp-millis"}, "beside the type, where it says nothing; write", True),
    ],
)
def test_flaws_a_schema_of_ones_own_must_not_have(kind: Any, more: Any, message: str, strict: bool) -> None:
    parsed = parse_schema(sensor(kind, **more))  # as a writer's it is taken
    with pytest.raises(UserError) as caught:
        check_valid(parsed)
    assert str(caught.value).startswith("Avro schema: CarSensor.position.lat")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    if strict:
        check_valid(parsed, strict=False)
    else:
        with pytest.raises(UserError):
            check_valid(parsed, strict=False)


def test_what_is_fine_is_let_through() -> None:
    for name in schemas.names():
        check_valid(parse_schema(schemas.load(name)))
    recursive = sensor(["null", "CarSensor"], default=None)
    recursive["fields"][1]["type"][1]["fields"][0]["aliases"] = ["latitude"]
    check_valid(parse_schema(recursive))
    for other in ("something-else", "duration", "big-decimal", "time-nanos", "datetime"):
        check_valid(parse_schema(sensor({"type": "string", "logicalType": other}, default="")))
    check_valid(parse_schema(sensor("string", logicalType=["date"])))  # says nothing


def test_two_fields_can_not_share_an_alias() -> None:
    schema = sensor("double")
    schema["fields"] = [{"name": name, "type": "int", "aliases": ["old"]} for name in ("a", "b")]
    with pytest.raises(UserError, match=r"CarSensor\.b has the alias 'old', which the field 'a' has as well"):
        check_valid(parse_schema(schema))


def test_a_namespace_of_null_is_the_one_around() -> None:
    inner = {"type": "fixed", "name": "F", "namespace": None, "size": 1}
    fields = [{"name": "x", "type": inner}, {"name": "y", "type": "a.F"}]
    parsed = parse_schema({"type": "record", "name": "R", "namespace": "a", "fields": fields})
    assert parsed.fields[0].type is parsed.fields[1].type
