"""JSON values one at a time: the exact and slow path, for the rows the block reader does not take.

It gives the same values as the fast path of ``json.py`` and, for bad rows, the reason. Numbers stay text until their
type is known, so that they are read once and rounded once.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from decimal import Context, Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from beam_jobs.codec.avro.program import RANGES
from beam_jobs.codec.json.iso import DATE, INSTANT, LOCAL, NOT_ISO, TIME, iso_value
from beam_jobs.codec.schema import INTEGERS, NO_DEFAULT, AvroField, AvroType, walk_names
from beam_jobs.codec.uuids import PATTERN as UUID_TEXT
from beam_jobs.errors import Reason, shown

_INTEGER = re.compile(r"-?[0-9]+")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_EXACT = Context(prec=200)
MAX_EXPONENT_TEXT = 100  # characters of a decimal with an exponent
MAX_POWER = 20  # of ten, beyond any integer's
_ISO = {"millis": 3, "micros": 6, "nanos": 9}


class RowError(Exception):
    """One row cannot be read: (reason, sentence)."""

    def __init__(self, reason: Reason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason: Reason = reason


class Number(str):
    """The text of a JSON number."""

    __slots__ = ()


def parse_row(value: bytes, record: AvroType, wanted: Sequence[AvroField], strict: bool) -> dict[str, Any]:
    """The wanted fields of one JSON object, as ``pa.array`` takes them.

    Args:
      record: the reader schema; names it does not know are refused even when they are not wanted.
      wanted: fields of ``record``.
      strict: as :class:`JsonDecoder` has it.

    Raises:
      RowError: with the reason and a sentence that names the field, the value and what was expected.
    """
    try:
        text = (value if strict else value.removeprefix(codecs.BOM_UTF8)).decode()
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
    return _fields(parsed, record.fields, wanted, "", strict, False)


def _fields(
    value: Mapping[str, Any],
    known: Sequence[AvroField],
    wanted: Sequence[AvroField],
    path: str,
    strict: bool,
    personal: bool,
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
            out[entry.name] = convert(given[0], entry.type, name, strict, personal or entry.personal)
            continue
        plain = entry.type.non_null()
        assert plain is not None
        if plain[1] and (any(alias in value for alias in walk_names(entry)) or entry.default in (None, NO_DEFAULT)):
            out[entry.name] = None
        elif entry.default is not NO_DEFAULT and entry.default is not None:
            out[entry.name] = _default(entry, name, strict)
        else:
            raise RowError("missing_field", f"field {name!r} is missing or null, expected {plain[0].label}")
    return out


def convert(value: Any, avro: AvroType, path: str, strict: bool, personal: bool = False) -> Any:
    """A parsed JSON value as ``pa.array`` takes it: enums as their symbols, dates and times as integers.

    Args:
      strict: as :class:`JsonDecoder` has it.
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
        return _fields(value, target.fields, target.fields, path + ".", strict, personal)
    if kind == "array" and isinstance(value, list):
        return [convert(item, target.item, path + "[]", strict, personal) for item in value]
    if kind == "map" and isinstance(value, dict):
        items = [(key, convert(item, target.item, path + "[]", strict, personal)) for key, item in value.items()]
        return [(_text(key, path), item) for key, item in items]
    if kind == "boolean" and isinstance(value, bool):
        return value
    if isinstance(value, Number):
        if kind in ("int", "long"):
            whole = value if strict else _whole(value)
            if _INTEGER.fullmatch(whole):
                return _integer(whole, value, target, path, personal)
        if target.logical == "decimal" and not strict:
            return _decimal(value, target, path, strict, personal)
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
            return _decimal(value, target, path, strict, personal)
        if kind == "fixed" and target.logical == "uuid":
            if re.fullmatch(UUID_TEXT, value) and not strict:
                return value.lower()
            if len(value) != target.size and not strict:
                raise RowError("invalid_value", f"field {path!r} is {_show(value, personal)}, expected a UUID")
            return str(uuid.UUID(bytes=_binary(value, target, path, personal)))
        if kind in ("bytes", "fixed"):
            return _binary(value, target, path, personal)
        if not strict and (number := _iso(value, target)) is not None:
            return _integer(str(number), value, target, path, personal)
    raise RowError("wrong_type", f"field {path!r} is {_show(value, personal)}, expected {_expected(target, strict)}")


def _integer(text: str, given: str, target: AvroType, path: str, personal: bool) -> int:
    low, high = RANGES.get(target.logical or "", INTEGERS[target.kind])
    number = int(text) if len(text) <= 20 else high + 1
    if low <= number <= high:
        return number
    raise RowError("invalid_value", f"field {path!r} is {_show(given, personal)}, expected {low} to {high}")


def _whole(text: str) -> str:
    """A JSON number without point and exponent, where it is whole; else as it is."""
    if _INTEGER.fullmatch(text):
        return text
    with contextlib.suppress(ArithmeticError):  # an exponent of many digits
        number = Decimal(text)
        if number.is_zero():
            return "0"
        if number.adjusted() >= MAX_POWER:
            return f"{number:.0f}" if number.adjusted() < 2 * MAX_POWER else "9" * 2 * MAX_POWER
        if number == number.to_integral_value():
            return str(int(number))
    return text


def _iso(text: str, target: AvroType) -> int | None:
    """The number that a text is as a date or time of the type; None: it is none."""
    logical, unit = target.logical or "", (target.logical or "").rpartition("-")[2]
    kinds = {"date": DATE, "time": TIME, "timestamp": INSTANT, "local-timestamp": LOCAL}
    kind = kinds.get(logical.removesuffix(f"-{unit}"))
    if kind is None or target.kind not in ("int", "long"):
        return None
    raw = bytearray(text.encode(errors="surrogatepass"))
    number = iso_value(np.frombuffer(raw or bytearray(1), np.uint8), 0, len(raw), kind, _ISO.get(unit, 0))
    return None if number == NOT_ISO else int(number)


def decimal_pattern(target: AvroType, strict: bool) -> str:
    """What matches the texts of decimals that fit a type; without exponents, which few have."""
    whole, zeros = target.precision - target.scale, "" if strict else "0*"
    before = f"(0*[0-9]{{1,{whole}}}|0+)" if whole else "0+"
    after = f"[0-9]{{1,{target.scale}}}{zeros}" if target.scale else zeros.replace("*", "+")
    return f"^-?{before}" + (rf"(\.{after})?$" if after else "$")


def _decimal(text: str, target: AvroType, path: str, strict: bool, personal: bool) -> Decimal:
    exponent = not strict and len(text) < MAX_EXPONENT_TEXT and _NUMBER.fullmatch(text)
    if exponent or re.fullmatch(decimal_pattern(target, strict), text):
        with contextlib.suppress(ArithmeticError):  # an exponent of many digits
            number = Decimal(text)
            if number.is_zero() or number.adjusted() < target.precision - target.scale:
                exact = number.quantize(Decimal(1).scaleb(-target.scale), context=_EXACT)
                if exact == number:
                    return exact
    how = "in quotes " if strict else ""
    expected = f"a decimal {how}with up to {target.precision} digits, {target.scale} after the point"
    raise RowError("invalid_value", f"field {path!r} is {_show(text, personal)}, expected {expected}")


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


def _default(entry: AvroField, path: str, strict: bool) -> Any:
    """A field's default, as the JSON parser above would give it; that of a decimal is its bytes, as Avro has it."""
    plain = entry.type.non_null()
    if plain is not None and plain[0].logical == "decimal":
        raw = entry.default.encode("latin-1")
        return Decimal(int.from_bytes(raw, "big", signed=True)).scaleb(-plain[0].scale, _EXACT)
    given = json.loads(json.dumps(entry.default), parse_int=Number, parse_float=Number)
    return convert(given, entry.type, path, strict)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the name {_show(twice)} is given twice")
    return out


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _expected(target: AvroType, strict: bool) -> str:
    logical = target.logical or ""
    if logical in RANGES or logical == "date" or "timestamp" in logical:
        offset = " with Z or an offset" if logical.startswith("timestamp") else ""
        return f"{target.label} as an integer" + ("" if strict else f" or in ISO 8601{offset}")
    return target.label


def _show(value: Any, personal: bool = False) -> str:
    return shown(value, personal, form=str if isinstance(value, Number) else json.dumps)
