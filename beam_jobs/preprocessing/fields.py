"""What preprocessing has to know about the fields of an Avro record schema."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from beam_jobs.codec.schema import parse_record
from beam_jobs.errors import UserError

Kind = Literal["number", "string", "boolean", "timestamp", "interval", "null", "other"]
"""Type of a value in the SQL; "null" is the untyped NULL, "other" what the SQL can not handle."""

_PRIMITIVES: dict[str, Kind] = {
    "int": "number",
    "long": "number",
    "float": "number",
    "double": "number",
    "boolean": "boolean",
    "string": "string",
    "enum": "string",
}
# Avro lets a field have any attribute. One that looks like a tag and is none would be a privacy tag nobody acts on.
_TAGS = ("pii", "unit", "min", "max", "label")
_LONG_FOR = {"minimum": "min", "maximum": "max"}
_LOGICAL: dict[str, Kind] = {
    "timestamp-millis": "timestamp",
    "timestamp-micros": "timestamp",
    "uuid": "string",
    "decimal": "number",
}


@dataclass(frozen=True)
class Field:
    """One top-level field of the event schema."""

    name: str
    kind: Kind
    type: Any  # Avro type, as it stands in the schema
    floating: bool  # float or double: may hold NaN and infinities
    nullable: bool
    unit: str | None
    minimum: float | None  # physical limits, inclusive; None: not limited
    maximum: float | None
    pii: Literal["direct", "quasi"] | None  # of the field, or of something in it
    label: bool

    def fingerprint(self) -> dict[str, Any]:
        """What a model depends on; JSON-serialisable. Documentation, aliases and defaults are not part of it."""
        return {
            "name": self.name,
            "type": self.type,
            "unit": self.unit,
            "min": self.minimum,
            "max": self.maximum,
            "pii": self.pii,
        }


def fields_of(schema: Mapping[str, Any]) -> dict[str, Field]:
    """The fields of a record schema by name, in its order.

    Raises:
      UserError: the schema is no record, or a tag has a value nobody would act on (``"pii": true``).
    """
    if schema.get("type") != "record":
        raise UserError(f"schema: type is {schema.get('type')!r}; events need a record schema")
    inside = {entry.name: entry.type.pii for entry in parse_record(schema).fields}
    return {field["name"]: _field(field, inside[field["name"]]) for field in schema["fields"]}


def _field(field: Mapping[str, Any], inside: Any) -> Field:
    """A field; ``inside``: the pii tag of its type, or of a field of a field."""
    name, type_ = field["name"], field["type"]
    branches = type_ if isinstance(type_, list) else [type_]
    values = [branch for branch in branches if branch != "null"]
    value = values[0] if len(values) == 1 else None
    base, logical = (value.get("type"), value.get("logicalType")) if isinstance(value, dict) else (value, None)
    kind: Kind = "other"
    if logical is not None:
        # An unknown logical type on a plain one is, by the Avro specification, the plain one.
        known = logical.startswith(("date", "time", "local-timestamp", "duration"))
        kind = _LOGICAL.get(logical, "other" if known else _PRIMITIVES.get(str(base), "other"))
    elif isinstance(base, str):
        kind = _PRIMITIVES.get(base, "other")
    tags = {**(value if isinstance(value, dict) else {}), **field}  # a tag may stand beside either "type"
    for key in tags:
        alike = difflib.get_close_matches(_LONG_FOR.get(key.lower(), key.lower()), _TAGS, 1, 0.75)
        if alike and key != alike[0]:
            raise UserError(f"schema: field {name}: {key!r} is not a tag; write {alike[0]!r}")
    minimum, maximum = _limit(name, tags, "min"), _limit(name, tags, "max")
    if minimum is not None and maximum is not None and minimum > maximum:
        raise UserError(f"schema: field {name}: min {minimum} is above max {maximum}; no value could be right")
    pii = inside if inside == "direct" else tags.get("pii", inside)
    if pii not in (None, "direct", "quasi"):
        raise UserError(f'schema: field {name}: pii is {pii!r}; use "direct" or "quasi", or remove the tag')
    return Field(
        name=name,
        kind=kind,
        type=type_,
        floating=base in ("float", "double"),
        nullable="null" in branches,
        unit=tags.get("unit"),
        minimum=minimum,
        maximum=maximum,
        pii=pii,
        label=bool(tags.get("label", False)),
    )


def _limit(name: str, tags: Mapping[str, Any], key: str) -> float | None:
    limit = tags.get(key)
    if limit is None or (isinstance(limit, int | float) and not isinstance(limit, bool)):
        return limit
    raise UserError(f"schema: field {name}: {key} is {limit!r}; use a number, or remove it")
