"""JSON values one at a time: the exact and slow path, for the rows the block reader does not take.

It gives the same values as the fast path of ``json.py`` and, for bad rows, the reason. Numbers stay text until their
type is known, so that they are read once and rounded once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from beam_jobs.codec.avro.program import INT32, INT64, RANGES
from beam_jobs.codec.schema import NO_DEFAULT, AvroField, AvroType, walk_names
from beam_jobs.errors import Reason, shown

_INTEGER = re.compile(r"-?[0-9]+")
_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?")


class RowError(Exception):
    """One row cannot be read: (reason, sentence)."""

    def __init__(self, reason: Reason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason: Reason = reason


class Number(str):
    """The text of a JSON number."""

    __slots__ = ()


def parse_row(value: bytes, record: AvroType, wanted: Sequence[AvroField]) -> dict[str, Any]:
    """The wanted fields of one JSON object, as ``pa.array`` takes them.

    Args:
      record: the reader schema; names it does not know are refused even when they are not wanted.
      wanted: fields of ``record``.

    Raises:
      RowError: with the reason and a sentence that names the field, the value and what was expected.
    """
    try:
        text = value.decode()
    except UnicodeDecodeError as e:
        raise RowError("invalid_utf8", f"byte {e.start} of the JSON text is not UTF-8") from None
    try:
        parsed = json.loads(
            text, parse_int=Number, parse_float=Number, parse_constant=_refuse_constant, object_pairs_hook=_unique
        )
    except RecursionError:
        raise RowError("invalid_json", "the JSON text is nested too deep") from None
    except ValueError as e:
        raise RowError("invalid_json", f"the value is not JSON: {e}") from None
    if not isinstance(parsed, dict):
        personal = any(entry.personal for entry in record.fields)  # nobody knows of which field it is
        raise RowError("wrong_type", f"the value is {_show(parsed, personal)}, expected a JSON object")
    return _fields(parsed, record.fields, wanted, "")


def _fields(
    value: Mapping[str, Any], known: Sequence[AvroField], wanted: Sequence[AvroField], path: str, personal: bool = False
) -> dict[str, Any]:
    names = {name for entry in known for name in walk_names(entry)}
    for name in value:
        if name not in names:
            raise RowError("unknown_field", f"field {_show(path + name, personal)} is not in the schema")
    out: dict[str, Any] = {}
    for entry in wanted:
        given = [value[name] for name in walk_names(entry) if value.get(name) is not None]
        name = path + entry.name
        if given:
            out[entry.name] = convert(given[0], entry.type, name, personal or entry.personal)
            continue
        plain = entry.type.non_null()
        assert plain is not None
        if plain[1] and (any(alias in value for alias in walk_names(entry)) or entry.default in (None, NO_DEFAULT)):
            out[entry.name] = None
        elif entry.default is not NO_DEFAULT and entry.default is not None:
            out[entry.name] = convert(_as_parsed(entry.default), entry.type, name, personal or entry.personal)
        else:
            raise RowError("missing_field", f"field {name!r} is missing or null, expected {plain[0].label}")
    return out


def convert(value: Any, avro: AvroType, path: str, personal: bool = False) -> Any:
    """A parsed JSON value as ``pa.array`` takes it: enums as their symbols, dates and times as integers.

    Args:
      personal: it is of a field tagged pii.
    """
    plain = avro.non_null()
    assert plain is not None
    target, nullable = plain
    kind = target.kind
    if value is None:
        if nullable:
            return None
        raise RowError("missing_field", f"field {path!r} is null, expected {target.label}")
    if kind == "record" and isinstance(value, dict):
        return _fields(value, target.fields, target.fields, path + ".", personal)
    if kind == "array" and isinstance(value, list):
        return [convert(item, target.item, path + "[]", personal) for item in value]
    if kind == "map" and isinstance(value, dict):
        return [(_text(key, path), convert(item, target.item, path + "[]", personal)) for key, item in value.items()]
    if kind == "boolean" and isinstance(value, bool):
        return value
    if isinstance(value, Number):
        if kind in ("int", "long") and _INTEGER.fullmatch(value):
            return _integer(value, target, path, personal)
        if kind in ("float", "double"):
            arrow = pa.float32() if kind == "float" else pa.float64()
            number = pa.scalar(str(value)).cast(arrow).as_py()
            if number - number == 0:  # finite
                return number
    elif isinstance(value, str):
        if kind == "enum":
            if value in target.symbols or target.symbol_default is not None:
                return value if value in target.symbols else target.symbol_default
            raise RowError(
                "invalid_value", f"field {path!r} is {_show(value, personal)}, expected one of {target.symbols}"
            )
        if kind == "string":
            return _text(value, path)
        if target.logical == "decimal":
            return _decimal(value, target, path, personal)
        if kind in ("bytes", "fixed"):
            return _binary(value, target, path, personal)
    raise RowError("wrong_type", f"field {path!r} is {_show(value, personal)}, expected {_expected(target)}")


def _integer(text: str, target: AvroType, path: str, personal: bool) -> int:
    low, high = RANGES.get(target.logical or "", INT32 if target.kind == "int" else INT64)
    number = int(text) if len(text) <= 20 else high + 1
    if low <= number <= high:
        return number
    raise RowError("invalid_value", f"field {path!r} is {_show(Number(text), personal)}, expected {low} to {high}")


def _decimal(text: str, target: AvroType, path: str, personal: bool) -> pa.Scalar:
    whole, _, fraction = text.lstrip("-").partition(".")
    digits = len(whole.lstrip("0")) + target.scale
    if not _DECIMAL.fullmatch(text) or len(fraction) > target.scale or digits > target.precision:
        expected = f"a decimal in quotes with up to {target.precision} digits, {target.scale} after the point"
        raise RowError("invalid_value", f"field {path!r} is {_show(text, personal)}, expected {expected}")
    return pa.scalar(text).cast(pa.decimal128(target.precision, target.scale)).as_py()


def _binary(text: str, target: AvroType, path: str, personal: bool) -> bytes:
    try:
        raw = text.encode("latin-1")
    except UnicodeEncodeError:
        raise RowError(
            "invalid_value", f"field {path!r} is {_show(text, personal)}, expected bytes as characters up to U+00FF"
        ) from None
    if target.kind == "fixed" and len(raw) != target.size:
        raise RowError("invalid_value", f"field {path!r} has {len(raw)} bytes, expected {target.size}")
    return raw


def _text(text: str, path: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RowError("invalid_utf8", f"field {path!r} has half of a surrogate pair, expected UTF-8") from None
    return text


def _as_parsed(default: Any) -> Any:
    """A default as the JSON parser above would give it."""
    return json.loads(json.dumps(default), parse_int=Number, parse_float=Number)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the name {_show(twice)} is given twice")
    return out


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _expected(target: AvroType) -> str:
    if target.logical in RANGES or target.logical == "date" or "timestamp" in (target.logical or ""):
        return f"{target.label} as an integer"
    return target.label


def _show(value: Any, personal: bool = False) -> str:
    return shown(value, personal, form=str if isinstance(value, Number) else json.dumps)
