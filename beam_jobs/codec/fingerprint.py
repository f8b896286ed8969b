"""What a schema says about values, as one short text: models are bound to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from beam_jobs.codec.schema import NO_DEFAULT, AvroField, AvroType, parse_schema

_TELLING = ("unit", "min", "max")  # field properties that change what a value means; docs and aliases do not


def fingerprint(schema: Mapping[str, Any] | str) -> str:
    """SHA-256, hex, of what the schema says about values: names, types, order, defaults, logical types, unit, min, max.

    Docs, aliases and tags such as ``pii`` change nothing in the values and are left out.
    """
    described = _describe(parse_schema(schema), set())
    text = json.dumps(described, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _describe(avro: AvroType, seen: set[str]) -> Any:
    if avro.kind == "union":
        return [_describe(branch, seen) for branch in avro.branches]
    if avro.name in seen:
        return avro.name
    out: dict[str, Any] = {"type": avro.kind}
    if avro.name:
        seen.add(avro.name)
        out["name"] = avro.name
    if avro.logical:
        out["logicalType"] = avro.logical
    if avro.logical == "decimal":
        out |= {"precision": avro.precision, "scale": avro.scale}
    if avro.kind == "fixed":
        out["size"] = avro.size
    if avro.kind == "enum":
        out |= {"symbols": list(avro.symbols), "default": avro.symbol_default}
    if avro.items is not None:
        out["items"] = _describe(avro.items, seen)
    if avro.kind == "record":
        out["fields"] = [_describe_field(entry, seen) for entry in avro.fields]
    return out


def _describe_field(entry: AvroField, seen: set[str]) -> dict[str, Any]:
    out = {"name": entry.name, "type": _describe(entry.type, seen)}
    if entry.default is not NO_DEFAULT:
        out["default"] = entry.default
    return out | {key: entry.properties[key] for key in _TELLING if key in entry.properties}
