"""What the registry makes of a schema's text: parsed, checked as strictly as other registries do, and canonical."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from beam_jobs.codec.schema import NO_DEFAULT, AvroType, parse_schema
from beam_jobs.errors import UserError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
MAX_DEPTH = 64  # levels of JSON; a schema must load again wherever in the stack the log is replayed
_INTEGER_BITS = {"int": 31, "long": 63}


class InvalidSchemaError(ValueError):
    """A text that is no Avro schema; the message says where and why."""


@dataclass(frozen=True)
class ParsedSchema:
    """A valid Avro schema."""

    text: str  # JSON without superfluous space; what clients get
    canonical: str  # equal for texts that differ only in space, key order and {"type": "string"} for "string"
    avro: AvroType


def parse_text(text: str) -> ParsedSchema:
    """Parses and checks the JSON text of a schema.

    Raises:
      InvalidSchemaError: not JSON, not Avro, a name that Avro does not allow, or a default that does not fit its type.
    """
    try:
        schema = json.loads(text, parse_constant=_refuse_constant)
        _check_depth(schema, MAX_DEPTH)
        avro = parse_schema([schema]).branches[0] if isinstance(schema, str) else parse_schema(schema)
        _check(avro, set())
        compact = json.dumps(schema, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        compact.encode()  # a lone surrogate could not be sent back
        canonical = json.dumps(_normal(schema), separators=(",", ":"), sort_keys=True)
        return ParsedSchema(compact, canonical, avro)
    except InvalidSchemaError:
        raise
    except UserError as e:
        raise InvalidSchemaError(str(e)) from e
    except RecursionError:
        raise InvalidSchemaError(f"nested too deeply: use at most {MAX_DEPTH} levels of JSON") from None
    except (ValueError, TypeError, AttributeError, KeyError) as e:
        raise InvalidSchemaError(f"not a valid Avro schema: {e}") from e


def _refuse_constant(name: str) -> None:
    raise InvalidSchemaError(f"{name} is not JSON")


def _check_depth(value: Any, left: int) -> None:
    if left < 0:
        raise InvalidSchemaError(f"nested too deeply: use at most {MAX_DEPTH} levels of JSON")
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, left - 1)


def _normal(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_normal(item) for item in schema]
    if isinstance(schema, dict):
        if list(schema) == ["type"]:
            return _normal(schema["type"])
        return {
            key: _normal(value) if key in ("type", "items", "values", "fields") else value
            for key, value in schema.items()
        }
    return schema


def _check(avro: AvroType, seen: set[str]) -> None:
    """Names and defaults of a parsed schema; raises InvalidSchemaError."""
    if avro.name:
        if avro.name in seen:
            return
        seen.add(avro.name)
        for name in (avro.name, *avro.aliases):
            if not all(_NAME.fullmatch(part) for part in name.split(".")):
                raise InvalidSchemaError(f"{avro.kind} name {name!r}: use letters, digits and _, no digit first")
    if avro.kind == "enum":
        for symbol in avro.symbols:
            if not isinstance(symbol, str) or not _NAME.fullmatch(symbol):
                raise InvalidSchemaError(f"enum {avro.name!r} has the symbol {symbol!r}: use letters, digits and _")
        if len(set(avro.symbols)) < len(avro.symbols):
            raise InvalidSchemaError(f"enum {avro.name!r} has a symbol twice in {list(avro.symbols)}")
    for branch in avro.branches:
        _check(branch, seen)
    if avro.items is not None:
        _check(avro.items, seen)
    for entry in avro.fields:
        for name in (entry.name, *entry.aliases):
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise InvalidSchemaError(f"field {name!r} of {avro.name!r}: use letters, digits and _, no digit first")
        _check(entry.type, seen)
        if entry.default is not NO_DEFAULT and not _Fits().check(entry.default, entry.type):
            raise InvalidSchemaError(
                f"field {entry.name!r} of {avro.name!r} has the default {json.dumps(entry.default)}, "
                f"which is no {entry.type.label}: give it a value of that type"
            )


class _Fits:
    """Whether a JSON default is a value of a type; each pair is looked at once, or unions of unions take forever."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], bool] = {}

    def check(self, value: Any, avro: AvroType) -> bool:
        pair = (id(value), id(avro))
        if pair not in self._known:
            self._known[pair] = _fits(value, avro, self.check)
        return self._known[pair]


def _fits(value: Any, avro: AvroType, inner: Callable[[Any, AvroType], bool]) -> bool:
    kind = avro.kind
    if kind == "union":
        return any(inner(value, branch) for branch in avro.branches)
    if kind == "null":
        return value is None
    if kind == "boolean":
        return isinstance(value, bool)
    if kind in _INTEGER_BITS:
        bound = 1 << _INTEGER_BITS[kind]
        return isinstance(value, int) and not isinstance(value, bool) and -bound <= value < bound
    if kind in ("float", "double"):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "string":
        return isinstance(value, str)
    if kind in ("bytes", "fixed"):  # one character a byte
        return (
            isinstance(value, str) and all(ord(c) < 256 for c in value) and (kind == "bytes" or len(value) == avro.size)
        )
    if kind == "enum":
        return value in avro.symbols
    if kind == "array":
        return isinstance(value, list) and all(inner(item, avro.item) for item in value)
    if kind == "map":
        return isinstance(value, dict) and all(inner(item, avro.item) for item in value.values())
    return isinstance(value, dict) and all(
        inner(value[entry.name], entry.type) if entry.name in value else entry.default is not NO_DEFAULT
        for entry in avro.fields
    )
