"""Avro schemas as the codec reads them, and their Arrow form.

=====================================  ==========================================
Avro                                   Arrow
=====================================  ==========================================
int, long, float, double, boolean      int32, int64, float32, float64, bool
string, string or fixed(16) (uuid)     string; of a fixed, in its 36 characters
bytes, fixed(n)                        binary, fixed_size_binary(n)
enum                                   dictionary(int32, string)
timestamp-millis, -micros, -nanos      timestamp(ms | us | ns, UTC)
local-timestamp-...                    timestamp without a zone
date, time-millis, time-micros         date32, time32(ms), time64(us)
decimal(p, s) in bytes or fixed        decimal128(p, s)
array, map, record                     list, map, struct
["null", T], [T, "null"]               nullable T
=====================================  ==========================================

    >>> arrow_schema({"type": "record", "name": "R", "fields": [{"name": "speed", "type": ["null", "double"]}]})
    speed: double
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from beam_jobs.errors import UserError, shown

PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
_COMPLEX = ("record", "enum", "array", "map", "fixed")
MAX_DECIMAL_PRECISION = 38  # digits that 128 bits hold

LOGICAL_ARROW: Mapping[tuple[str, str], pa.DataType] = {
    ("int", "date"): pa.date32(),
    ("int", "time-millis"): pa.time32("ms"),
    ("long", "time-micros"): pa.time64("us"),
    ("long", "timestamp-millis"): pa.timestamp("ms", "UTC"),
    ("long", "timestamp-micros"): pa.timestamp("us", "UTC"),
    ("long", "timestamp-nanos"): pa.timestamp("ns", "UTC"),
    ("long", "local-timestamp-millis"): pa.timestamp("ms"),
    ("long", "local-timestamp-micros"): pa.timestamp("us"),
    ("long", "local-timestamp-nanos"): pa.timestamp("ns"),
}
LOGICAL_BASES = {logical: kind for kind, logical in LOGICAL_ARROW} | {"decimal": "bytes", "uuid": "string"}
_MEANT = {"timestamp": "timestamp-millis", "datetime": "timestamp-millis", "number": "double"}  # types elsewhere
PLAIN_ARROW: Mapping[str, pa.DataType] = {
    "null": pa.null(),
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "bytes": pa.binary(),
    "string": pa.string(),
}

# What a schema may cost; writers' schemas are read from a registry that others can write to.
MAX_TEXT = 1 << 20  # bytes of JSON; the size of a Kafka message, where registries keep a schema
MAX_TYPES = 50_000  # types written out in it, and aliases; half a second
MAX_NESTING = 64  # levels of types, one inside the other; each takes five calls of Python's 1,000
MAX_NAME = 500  # characters; full names are made of namespace and name, for every type of a namespace anew
MAX_COLUMNS = 10_000  # of a reader, nested ones too; records used in several places count in each
MAX_FIXED = (1 << 31) - 1  # bytes; an int in the specification
MAX_WIDTH = 1 << 40  # where adding up sizes stops: no value is as long

INTEGERS = {"int": (-(1 << 31), (1 << 31) - 1), "long": (-(1 << 63), (1 << 63) - 1)}  # least and largest
WIDTHS = {"null": 0, "boolean": 1, "float": 4, "double": 8}  # bytes
UUID_BYTES = 16
NO_DEFAULT = object()

Schema = Mapping[str, Any] | Sequence[Any]
"""An Avro schema as its JSON is read: an object, or a list, which is a union."""


class SchemaTooLargeError(UserError):
    """A schema would take more time or memory than any schema of a record needs."""


@dataclass(frozen=True)
class AvroField:
    """A field of a record."""

    name: str
    type: AvroType
    default: Any  # as in the schema's JSON; NO_DEFAULT where there is none
    aliases: tuple[str, ...]  # without those that are other fields' names: those fields take the values
    properties: Mapping[str, Any]  # everything else the schema says of the field: unit, min, max, ...
    personal: bool  # it, or something in it, is tagged pii: messages leave its values out


@dataclass(eq=False)
class AvroType:
    """A node of a parsed schema. Named types that refer to themselves make it a graph: compare with ``is``."""

    kind: str  # a primitive's name, or fixed, enum, array, map, record, union
    name: str = ""  # full name of a fixed, enum or record
    logical: str | None = None  # a logical type this codec knows and that fits the kind
    declared: str | None = None  # the logicalType as the schema has it, fitting or not
    pii: Any = None  # the tag of the type, or of something in it; of several "direct", else the first
    aliases: tuple[str, ...] = ()  # full names
    fields: list[AvroField] = field(default_factory=list)
    symbols: tuple[str, ...] = ()
    symbol_default: str | None = None
    branches: list[AvroType] = field(default_factory=list)  # of a union
    items: AvroType | None = None  # of an array, or the values of a map
    size: int = 0  # bytes of a fixed
    precision: int = 0  # decimal digits
    scale: int = 0
    width: int | None = None  # bytes of every value, at most MAX_WIDTH; None: they vary, or the type contains itself
    columns: int = 1  # that hold it, at most MAX_WIDTH; unions count all their branches
    levels: int = 1  # types inside one another, in itself 1

    def __post_init__(self) -> None:
        self.width = WIDTHS.get(self.kind)

    def holds(self, parts: Iterable[AvroType]) -> None:
        """Takes ``columns``, ``levels`` and ``pii`` from the types directly inside."""
        for part in parts:
            self.tag(part.pii)
            self.columns = min(self.columns + part.columns, MAX_WIDTH)
            self.levels = max(self.levels, part.levels + 1)

    def tag(self, pii: Any) -> None:
        """Adds a tag to ``pii``; None and False are none."""
        if pii and (self.pii is None or pii == "direct"):
            self.pii = pii

    @property
    def label(self) -> str:
        """What to call the type in a sentence."""
        return f"{self.kind} {self.name}" if self.name else self.logical or self.kind

    @property
    def item(self) -> AvroType:
        """The element type of an array, the value type of a map."""
        assert self.items is not None
        return self.items

    def non_null(self) -> tuple[AvroType, bool] | None:
        """(T, nullable) of T, [T] or [null, T]; None for a union with more branches."""
        if self.kind != "union":
            return self, self.kind == "null"
        values = [branch for branch in self.branches if branch.kind != "null"]
        if len(values) > 1 or not self.branches:
            return None
        nullable = len(values) < len(self.branches)
        return (values[0] if values else self.branches[0]), nullable


def parse_schema(schema: Schema | str) -> AvroType:
    """Parses an Avro schema: a dict, a list (union), the JSON text of either, or the name of a primitive.

    Raises:
      SchemaTooLargeError: the schema is over one of the bounds above, whether it is valid or not.
      UserError: no value can be read with the schema; the message has the place, as ``CarSensor.position.lat``. What
        does not matter to a reader of values, such as a wrong default, is let through: see ``valid.py``.
    """
    if isinstance(schema, str) and schema not in PRIMITIVES:
        schema = schema_of_text(schema)
    try:
        return _Parser().parse(schema, "", "")
    except (TypeError, AttributeError, RecursionError) as e:
        raise UserError(f"Avro schema is malformed ({e}); check it against the Avro specification") from None


def schema_of_text(text: str) -> Any:
    """The schema in a text, as JSON has it.

    Raises:
      SchemaTooLargeError: there is too much of it, or it is nested too deep.
      UserError: it is not JSON.
    """
    if len(text) > MAX_TEXT:
        raise SchemaTooLargeError(f"Avro schema has {len(text):,} characters; use at most {MAX_TEXT:,}")
    try:
        return json.loads(text)
    except RecursionError:
        raise SchemaTooLargeError("Avro schema is JSON nested too deep to be read; nest it less") from None
    except ValueError as e:
        raise UserError(f"Avro schema is not valid JSON ({e}); pass the text of an .avsc file") from None


def parse_record(schema: Mapping[str, Any] | str) -> AvroType:
    """The parsed schema of events: a record whose fields can become columns.

    Raises:
      SchemaTooLargeError: it has more than ``MAX_COLUMNS`` columns, or more than ``MAX_NESTING`` levels of them.
      UserError: the schema is not a record, or not valid Avro.
    """
    parsed = parse_schema(schema)
    if parsed.kind != "record":
        raise UserError(f"Avro schema of events is {parsed.label!r}; make it a record")
    if parsed.columns > MAX_COLUMNS or parsed.levels > MAX_NESTING:
        raise SchemaTooLargeError(
            f"Avro schema {parsed.name!r} has {parsed.columns:,} columns in {parsed.levels:,} levels (a record counts "
            f"wherever it is used); use at most {MAX_COLUMNS:,} in {MAX_NESTING}"
        )
    return parsed


class _Parser:
    """Parses one schema. ``place``: the outermost record's name and the fields down to the type; "" outside of any."""

    def __init__(self) -> None:
        self.named: dict[str, AvroType] = {}
        self.types = 0  # so far
        self.depth = 0  # of the type at hand

    def parse(self, schema: Any, namespace: str, place: str) -> AvroType:
        self.types += 1
        self.depth += 1
        if self.types > MAX_TYPES:
            raise SchemaTooLargeError(f"Avro schema has more than {MAX_TYPES:,} types; split it")
        if self.depth > MAX_NESTING:
            raise SchemaTooLargeError(f"{_at(place)} is nested deeper than {MAX_NESTING} levels; nest it less")
        parsed = self.one(schema, namespace, place)
        if isinstance(schema, Mapping):
            parsed.tag(schema.get("pii"))
        self.depth -= 1
        return parsed

    def one(self, schema: Any, namespace: str, place: str) -> AvroType:
        if isinstance(schema, str):
            return self.reference(schema, namespace, place)
        if isinstance(schema, Sequence):
            branches = [self.parse(branch, namespace, place) for branch in schema]
            keys = [branch.name or branch.kind for branch in branches]
            if len(set(keys)) < len(keys) or "union" in keys:
                raise UserError(f"{_at(place)} has the union {shown(keys)}; branches must differ and not be unions")
            union = AvroType("union", branches=branches)
            union.holds(branches)
            return union
        if not isinstance(schema, Mapping) or "type" not in schema:
            raise UserError(f"{_at(place)} is {shown(schema)}; expected a type name, a list or an object with 'type'")
        kind = schema["type"]
        if kind == "error":
            kind = "record"
        if not isinstance(kind, str):  # {"type": {"type": ...}}: an extra pair of braces is common
            return self.parse(kind, namespace, place)
        if kind in PRIMITIVES:
            return _with_logical(AvroType(kind), schema)
        if kind in ("array", "map"):
            key = "items" if kind == "array" else "values"
            if key not in schema:
                raise UserError(f"{_at(place)} is {_a(kind)} without {key!r}; add it")
            inner = place + ("[]" if kind == "array" else "{}")
            listed = AvroType(kind, items=self.parse(schema[key], namespace, inner))
            listed.holds([listed.item])
            return listed
        if kind in ("record", "enum", "fixed"):
            return self.define(kind, schema, namespace, place)
        return self.reference(kind, namespace, place)

    def reference(self, name: str, namespace: str, place: str) -> AvroType:
        if name in PRIMITIVES:
            return AvroType(name)
        for full in (_full_name(name, namespace), name):
            if full in self.named:
                return self.named[full]
        known = [*PRIMITIVES, *_COMPLEX, *self.named, *(full.rpartition(".")[2] for full in self.named)]
        meant = _MEANT.get(name.lower())
        near = [meant] if meant else difflib.get_close_matches(name[:MAX_NAME], [*known, *LOGICAL_BASES], n=1)
        remedy = f"did you mean {near[0]!r}?" if near else "define it there"
        if near and near[0] in LOGICAL_BASES:
            remedy = f'did you mean {{"type": "{LOGICAL_BASES[near[0]]}", "logicalType": "{near[0]}"}}?'
        raise UserError(f"{_at(place)} has the type {shown(name)}, which is not defined before it; {remedy}")

    def define(self, kind: str, schema: Mapping[str, Any], namespace: str, place: str) -> AvroType:
        if not isinstance(schema.get("name"), str) or not schema["name"]:
            raise UserError(f"{_at(place)} is {_a(kind)} without a name; add 'name'")
        space = namespace if schema.get("namespace") is None else schema["namespace"]
        if not isinstance(space, str):
            raise UserError(f"{_at(place)} has the namespace {shown(space)}; write a name, or leave it out")
        name = _full_name(_checked(schema["name"]), _checked(space))
        place = place or name.rpartition(".")[2]
        if name in self.named:
            raise UserError(f"{_at(place)} defines {name!r} a second time; refer to it by its name")
        inner = name.rpartition(".")[0]
        given = _aliases(schema, place)
        self.types += len(given)
        aliases = tuple(_full_name(_checked(alias), inner) for alias in given)
        parsed = self.named[name] = AvroType(kind, name=name, aliases=aliases)
        if kind == "record":
            if not isinstance(schema.get("fields"), list | tuple):
                raise UserError(f"{_at(place)} is a record and has no list 'fields'; add it")
            names = Counter(entry.get("name") for entry in schema["fields"] if isinstance(entry, Mapping))
            for entry in schema["fields"]:
                parsed.fields.append(self.field(entry, inner, place, names))
            parts = [entry.type for entry in parsed.fields]
            parsed.holds(parts)
            for made in parsed.fields:
                parsed.tag(made.properties.get("pii"))
            widths = [part.width for part in parts]
            parsed.width = None if None in widths else min(sum(w for w in widths if w), MAX_WIDTH)
        elif kind == "enum":
            symbols = schema.get("symbols")
            if not isinstance(symbols, list | tuple):
                raise UserError(
                    f"Avro schema is malformed: {place} is an enum and has the symbols {shown(symbols)}; "
                    "expected a list of names"
                )
            for symbol in symbols:
                if not isinstance(symbol, str):
                    raise UserError(f"{_at(place)} is an enum and has the symbol {shown(symbol)}; expected a name")
            parsed.symbols = tuple(symbols)
            parsed.symbol_default = schema.get("default")
            if parsed.symbol_default is not None and parsed.symbol_default not in parsed.symbols:
                raise UserError(
                    f"{_at(place)} is an enum and has the default {shown(parsed.symbol_default)}; "
                    f"use one of {', '.join(parsed.symbols[:10])}"
                )
        else:
            size = schema.get("size", -1)
            if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_FIXED:
                found = "a number of many digits" if isinstance(size, int) and size > MAX_WIDTH else shown(size)
                raise UserError(f"{_at(place)} is a fixed and has the size {found}; use a number of bytes below 2**31")
            parsed.size = parsed.width = size
            _with_logical(parsed, schema)
        return parsed

    def field(self, entry: Any, namespace: str, record: str, names: Mapping[Any, int]) -> AvroField:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            raise UserError(f"{_at(record)} has the field {shown(entry)} without a name; add 'name'")
        name = _checked(entry["name"])
        place = f"{record}.{name}"
        if names[name] > 1:
            raise UserError(f"{_at(place)}: the record has a field twice, {name!r}; rename one")
        if "type" not in entry:
            raise UserError(f"{_at(place)} has no type; add 'type'")
        parsed = self.parse(entry["type"], namespace, place)
        known = ("name", "type", "default", "aliases", "doc", "order")
        return AvroField(
            name=name,
            type=parsed,
            default=entry.get("default", NO_DEFAULT),
            aliases=tuple(alias for alias in _aliases(entry, place) if alias not in names),
            properties={key: value for key, value in entry.items() if key not in known},
            personal=bool(entry.get("pii") or parsed.pii),
        )


def _at(place: str) -> str:
    return f"Avro schema: {place}" if place else "Avro schema: it"


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "ae" else f"a {kind}"


def _aliases(schema: Mapping[str, Any], place: str) -> tuple[str, ...]:
    given = schema.get("aliases") or ()
    if not isinstance(given, list | tuple) or not all(isinstance(alias, str) for alias in given):
        raise UserError(f"{_at(place)} has the aliases {shown(given)}; expected a list of names")
    return tuple(given)


def _checked(name: str) -> str:
    if len(name) > MAX_NAME:
        raise SchemaTooLargeError(f"Avro schema has the name {name[:20]!r}..., longer than {MAX_NAME:,} characters")
    return name


def _full_name(name: str, namespace: str) -> str:
    return name if "." in name or not namespace else f"{namespace}.{name}"


def _with_logical(parsed: AvroType, schema: Mapping[str, Any]) -> AvroType:
    logical = schema.get("logicalType")
    parsed.declared = logical if isinstance(logical, str) else None
    uuid = logical == "uuid" and (parsed.kind == "string" or (parsed.kind == "fixed" and parsed.size == UUID_BYTES))
    if (parsed.kind, logical) in LOGICAL_ARROW or uuid:
        parsed.logical = logical
    elif logical == "decimal" and parsed.kind in ("bytes", "fixed"):
        precision, scale = schema.get("precision"), schema.get("scale", 0)
        if not isinstance(precision, int) or not isinstance(scale, int) or not 0 <= scale <= precision or not precision:
            return parsed  # by the specification an invalid logical type is ignored
        parsed.logical, parsed.precision, parsed.scale = "decimal", precision, scale
    return parsed


def arrow_type(avro: AvroType, where: str) -> tuple[pa.DataType, bool]:
    """(type, nullable) of a parsed type; ``where`` names it in errors.

    Raises:
      UserError: Arrow columns cannot hold it: a union of several types, a recursive record, more than 38 digits.
    """
    return _arrow_type(avro, where, ())


def _arrow_type(avro: AvroType, where: str, inside: tuple[AvroType, ...]) -> tuple[pa.DataType, bool]:
    plain = avro.non_null()
    if plain is None:
        kinds = [branch.label for branch in avro.branches]
        raise UserError(f"field {where!r} is a union of {kinds}, a column holds one type; keep 'null' and one of them")
    value, nullable = plain
    if value.kind == "record":
        if value in inside:
            raise UserError(
                f"field {where!r} is the recursive record {value.name!r}; leave it out of the reader schema"
            )
        fields = []
        for entry in value.fields:
            inner, inner_nullable = _arrow_type(entry.type, f"{where}.{entry.name}", (*inside, value))
            fields.append(pa.field(entry.name, inner, nullable=inner_nullable))
        return pa.struct(fields), nullable
    if value.kind in ("array", "map"):
        inner, inner_nullable = _arrow_type(value.item, f"{where}[]", inside)
        if value.kind == "array":
            return pa.list_(pa.field("item", inner, nullable=inner_nullable)), nullable
        return pa.map_(pa.string(), pa.field("value", inner, nullable=inner_nullable)), nullable
    if value.kind == "enum":
        return pa.dictionary(pa.int32(), pa.string()), nullable
    if value.logical == "decimal":
        if value.precision > MAX_DECIMAL_PRECISION:
            raise UserError(
                f"field {where!r} is a decimal of {value.precision} digits; use at most {MAX_DECIMAL_PRECISION}"
            )
        return pa.decimal128(value.precision, value.scale), nullable
    if value.logical == "uuid":
        return pa.string(), nullable
    if value.kind == "fixed":
        return pa.binary(value.size), nullable
    if value.logical is None:
        return PLAIN_ARROW[value.kind], nullable
    return LOGICAL_ARROW[value.kind, value.logical], nullable


def selected_fields(record: AvroType, columns: Sequence[str] | None) -> list[AvroField]:
    """The fields of a record that ``columns`` names, in the order of ``columns`` (None: all fields).

    Raises:
      UserError: a column is not a field of the record.
    """
    if columns is None:
        return list(record.fields)
    by_name = {entry.name: entry for entry in record.fields}
    for name in columns:
        if name not in by_name:
            raise UserError(f"column {name!r} is not a field of {record.name!r}; its fields are {', '.join(by_name)}")
    return [by_name[name] for name in dict.fromkeys(columns)]


def arrow_schema(avro: Mapping[str, Any] | str, columns: Sequence[str] | None = None) -> pa.Schema:
    """The Arrow schema of decoded rows.

    Args:
      avro: a record schema.
      columns: the fields wanted, in that order (None: all, in the schema's order).

    Raises:
      UserError: the schema is invalid, has a type no column can hold among the wanted fields, or lacks a column.
    """
    record = parse_record(avro)
    fields = []
    for entry in selected_fields(record, columns):
        inner, nullable = _arrow_type(entry.type, entry.name, (record,))
        fields.append(pa.field(entry.name, inner, nullable=nullable))
    return pa.schema(fields)


def walk_names(entry: AvroField) -> Iterator[str]:
    """The names a field goes by: its own, then its aliases."""
    yield entry.name
    yield from entry.aliases
