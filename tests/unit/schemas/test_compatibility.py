"""The known cases of the specification, and what the messages say."""

from __future__ import annotations

import json
from typing import Any

import pytest

import schemas
from beam_jobs.errors import UserError
from schemas.compatibility import LEVELS, check, main


def record(*fields: dict[str, Any], name: str = "R", **more: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields), **more}


def field(name: str, kind: Any = "int", **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, **more}


def enum(*symbols: str, name: str = "E", **more: Any) -> dict[str, Any]:
    return {"type": "enum", "name": name, "symbols": list(symbols), **more}


def fixed(size: int, name: str = "F", **more: Any) -> dict[str, Any]:
    return {"type": "fixed", "name": name, "size": size, **more}


def decimal(precision: int, scale: int) -> dict[str, Any]:
    return {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}


def logical(kind: str, name: str) -> dict[str, Any]:
    return {"type": kind, "logicalType": name}


def reads(reader: Any, writer: Any) -> bool:
    """Both directions of the check must agree on what a reader can read."""
    backward = not check(record(field("x", reader)), [record(field("x", writer))], "BACKWARD")
    forward = not check(record(field("x", writer)), [record(field("x", reader))], "FORWARD")
    assert backward == forward
    return backward


PROMOTIONS = {
    "int": {"long", "float", "double"},
    "long": {"float", "double"},
    "float": {"double"},
    "string": {"bytes"},
    "bytes": {"string"},
}
PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")


@pytest.mark.parametrize("writer", PRIMITIVES)
@pytest.mark.parametrize("reader", PRIMITIVES)
def test_promotions(reader: str, writer: str) -> None:
    assert reads(reader, writer) == (reader == writer or reader in PROMOTIONS.get(writer, ()))


@pytest.mark.parametrize(
    ("reader", "writer", "expected"),
    [
        (["null", "int"], "int", True),
        (["null", "long"], "int", True),
        (["null", "string"], "int", False),
        ("int", ["int"], True),
        ("int", ["null", "int"], False),
        (["null", "int"], ["int", "null"], True),
        (["null", "int", "string"], ["null", "int"], True),
        (["null", "int"], ["null", "int", "string"], False),
        ("double", ["int", "float", "long"], True),
        (["null", fixed(4)], fixed(8), False),
        ({"type": "array", "items": "long"}, {"type": "array", "items": "int"}, True),
        ({"type": "array", "items": "int"}, {"type": "array", "items": "long"}, False),
        ({"type": "map", "values": "string"}, {"type": "map", "values": "bytes"}, True),
        ({"type": "map", "values": "int"}, {"type": "array", "items": "int"}, False),
        (enum("A", "B"), enum("A"), True),
        (enum("A"), enum("A", "B"), False),
        (enum("A", default="A"), enum("A", "B"), True),
        (enum("A"), enum("A", name="E2"), False),
        (enum("A", aliases=["E2"]), enum("A", name="E2"), True),
        (enum("A"), "string", False),
        (enum("A", name="a.E"), enum("A", name="b.E"), True),  # the unqualified name counts
        (fixed(4), fixed(4), True),
        (fixed(4), fixed(5), False),
        (fixed(4), fixed(4, name="G"), False),
        (fixed(4, aliases=["G"]), fixed(4, name="G"), True),
        (fixed(4), "bytes", False),
        (record(name="S"), record(name="T"), False),
        (record(name="S", aliases=["T"]), record(name="T"), True),
        (record(name="S", aliases=["n.T"]), record(name="n.T"), True),
        (record(name="S", aliases=["m.T"]), record(name="n.T"), False),
        (["null", record(field("a"), name="S")], record(name="S"), False),
        (["null", record(field("a", default=1), name="S")], record(name="S"), True),
        (decimal(10, 2), decimal(10, 2), True),
        (decimal(12, 2), decimal(10, 2), False),
        (decimal(10, 3), decimal(10, 2), False),
        ("bytes", decimal(10, 2), True),
        (logical("long", "timestamp-millis"), "long", True),
        ("long", logical("long", "timestamp-millis"), True),
        (logical("long", "timestamp-micros"), logical("long", "timestamp-millis"), False),
        (logical("long", "timestamp-millis"), logical("int", "date"), False),
        (logical("long", "no-such-type"), logical("long", "timestamp-millis"), True),
    ],
)
def test_types(reader: Any, writer: Any, expected: bool) -> None:
    assert reads(reader, writer) == expected


@pytest.mark.parametrize(
    ("reader", "writer", "expected"),
    [
        ([field("a")], [field("a"), field("b")], True),
        ([field("b"), field("a")], [field("a"), field("b")], True),
        ([field("a"), field("b")], [field("a")], False),
        ([field("a"), field("b", default=1)], [field("a")], True),
        ([field("a"), field("b", ["null", "int"])], [field("a")], False),
        ([field("b", aliases=["a"])], [field("a")], True),
        ([field("b", aliases=["a"])], [field("a", "string")], False),
        ([field("b", aliases=["x", "a"])], [field("a")], True),
        ([field("a"), field("b", aliases=["a"])], [field("a")], False),  # "a" is taken by its own name
        ([field("b", aliases=["a"]), field("c", aliases=["a"])], [field("a")], False),
        ([field("a", enum("A", default="A"))], [], False),  # the default of an enum is not that of the field
    ],
)
def test_fields(reader: list[Any], writer: list[Any], expected: bool) -> None:
    assert (not check(record(*reader), [record(*writer)])) == expected


def test_recursive_records() -> None:
    def tree(*fields: dict[str, Any]) -> dict[str, Any]:
        return record(*fields, field("next", ["null", "R"]))

    assert check(tree(field("v", "long")), [tree(field("v", "int"))]) == []
    assert len(check(tree(field("v", "int")), [tree(field("v", "long"))])) == 1


def test_levels() -> None:
    first = record(field("a"))
    added = record(field("a"), field("b"))
    added_with_default = record(field("a"), field("b", default=0))
    assert {level for level in LEVELS if not check(added, [first], level)} == {
        "NONE", "FORWARD", "FORWARD_TRANSITIVE",
    }  # fmt: skip
    assert {level for level in LEVELS if not check(first, [added], level)} == {
        "NONE", "BACKWARD", "BACKWARD_TRANSITIVE",
    }  # fmt: skip
    assert all(not check(added_with_default, [first], level) for level in LEVELS)


def test_only_transitive_levels_look_behind_the_newest() -> None:
    history = [record(field("a")), record(field("a"), field("b", default=0))]
    new = record(field("a"), field("b"))
    assert check(new, history, "BACKWARD") == []
    assert check(new, history, "FULL") == []
    assert len(check(new, history, "BACKWARD_TRANSITIVE")) == 1
    assert len(check(new, history, "FULL_TRANSITIVE")) == 1
    assert check(new, [], "FULL_TRANSITIVE") == []


@pytest.mark.parametrize(
    ("new", "old", "level", "message"),
    [
        ([field("speed")], [], "BACKWARD", "field 'speed' was added without a default: give it a default"),
        ([], [field("a")], "FORWARD", "field 'a' was removed, and the earlier schema has no default for it: keep it"),
        (
            [field("a", "string")],
            [field("a")],
            "BACKWARD",
            "field 'a' is string where the earlier schema has int: keep int, or widen it to long, float, double",
        ),
        (
            [field("a", "long")],
            [field("a")],
            "FORWARD",
            "field 'a' is long where the earlier schema has int: keep int, which readers of the earlier schema expect",
        ),
        (
            [field("a", enum("X"))],
            [field("a", enum("X", "Y"))],
            "BACKWARD",
            "field 'a' lost the enum symbols Y: keep them, or give the enum a default",
        ),
        (
            [field("a", enum("X", "Y"))],
            [field("a", enum("X"))],
            "FORWARD",
            "field 'a' has new enum symbols Y, and the earlier enum has no default: leave them out",
        ),
        (
            [field("a", ["null", "int"])],
            [field("a", ["null", "int", "string"])],
            "BACKWARD",
            "field 'a' no longer takes string (it takes null, int): keep string in the union",
        ),
        (
            [field("a", decimal(9, 2))],
            [field("a", decimal(9, 3))],
            "BACKWARD",
            "field 'a' is decimal(9, 2) where the earlier schema has decimal(9, 3): "
            "keep it, its values would be misread",
        ),
        (
            [field("a", {"type": "array", "items": record(field("b", "string"), name="S")})],
            [field("a", {"type": "array", "items": record(field("b", "boolean"), name="S")})],
            "BACKWARD",
            "field 'a[].b' is string where the earlier schema has boolean: keep boolean",
        ),
    ],
)
def test_messages_name_the_field_and_the_remedy(new: Any, old: Any, level: str, message: str) -> None:
    assert check(record(*new), [record(*old)], level) == [message]


def test_message_for_a_renamed_record() -> None:
    assert check(record(name="New"), [record(name="Old")]) == [
        "the schema is record New where the earlier schema has record Old: keep the name, or give it the alias 'Old'"
    ]


def test_shipped_schemas_follow_themselves_and_take_the_other_spellings() -> None:
    for name in ("car_sensor", "score", "alert", "dead_letter"):
        schema = schemas.load(name)
        assert check(schema, [json.dumps(schema)], "FULL_TRANSITIVE") == []
    spelled = schemas.load("car_sensor")
    for entry in spelled["fields"]:
        entry["name"] = next((alias for alias in entry.pop("aliases", []) if alias.isupper()), entry["name"])
    assert check(schemas.load("car_sensor"), [spelled]) == []


def test_unknown_level() -> None:
    with pytest.raises(UserError, match="BACKWRD"):
        check("int", ["int"], "BACKWRD")


def test_command(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = tmp_path / "old.avsc", tmp_path / "new.avsc"
    old.write_text(json.dumps(record()))
    new.write_text(json.dumps(record(field("speed"))))
    assert main([str(new), str(old)]) == 1
    assert capsys.readouterr().out == "field 'speed' was added without a default: give it a default\n"
    assert main([str(new), str(old), "--level", "FORWARD"]) == 0
    with pytest.raises(UserError, match=r"missing\.avsc"):
        main([str(new), str(tmp_path / "missing.avsc")])
