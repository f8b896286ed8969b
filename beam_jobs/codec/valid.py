"""What a schema of one's own must keep to besides being readable: names, defaults, logical types that fit.

Records are read whatever their writer's schema says of these (registries keep many that others made); an .avsc file of
a use case, and what is registered, is refused with the place of the flaw.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable
from typing import Any

from beam_jobs.codec.schema import INTEGERS, LOGICAL_BASES, MAX_NAME, NO_DEFAULT, PRIMITIVES, AvroField, AvroType
from beam_jobs.errors import UserError, shown

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BASES = {  # what a logical type stands on
    **LOGICAL_BASES,
    "decimal": "bytes or fixed, with a precision, and a scale not larger than it",
    "uuid": "string, or fixed of 16 bytes",
}
_ALIKE = 0.85  # a logical type that is so much like a known one was meant to be it


def check_valid(schema: AvroType, strict: bool = True) -> None:
    """Checks a parsed schema.

    Args:
      strict: also refuses what Avro lets its readers ignore: a known logical type where it says nothing, an alias that
        two fields claim. A registry has to take that.

    Raises:
      UserError: a name, an alias or a symbol that Avro does not allow, or a default that is no value of its type; the
        message has the place, as ``CarSensor.position.lat``.
    """
    _Check(strict).type(schema, "")


class _Check:
    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self._seen: set[str] = set()

    def type(self, avro: AvroType, place: str) -> None:
        if self._strict and avro.declared in _BASES and avro.logical != avro.declared:
            raise UserError(
                f"Avro schema: {place or 'it'} has the logicalType {avro.declared!r} on {avro.kind}; it goes on "
                f"{_BASES[avro.declared]}"
            )
        self._misspelt(avro.declared, place)
        if avro.name:
            place = place or avro.name.rpartition(".")[2]
            if avro.name in self._seen:
                return
            self._seen.add(avro.name)
            self._names(avro, place)
        for branch in avro.branches:
            self.type(branch, place)
        if avro.items is not None:
            self.type(avro.items, place + ("[]" if avro.kind == "array" else "{}"))
        claimed: dict[str, str] = {}
        for entry in avro.fields:
            self._field(entry, f"{place}.{entry.name}")
            for alias in entry.aliases if self._strict else ():
                if claimed.setdefault(alias, entry.name) != entry.name:
                    raise UserError(
                        f"Avro schema: {place}.{entry.name} has the alias {alias!r}, which the field "
                        f"{claimed[alias]!r} has as well; leave one out"
                    )

    def _misspelt(self, logical: object, place: str) -> None:
        if not self._strict or not isinstance(logical, str) or logical in _BASES:
            return
        near = difflib.get_close_matches(logical[:MAX_NAME].lower(), _BASES, 1, _ALIKE)
        if near:
            raise UserError(
                f"Avro schema: {place or 'it'} has the logicalType {shown(logical)}, which says nothing; did you mean "
                f"{near[0]!r}?"
            )

    def _names(self, avro: AvroType, place: str) -> None:
        for name in (avro.name, *avro.aliases):
            if not all(_NAME.fullmatch(part) for part in name.split(".")):
                raise UserError(
                    f"Avro schema: {place} is a {avro.kind} with the name {shown(name)}: use letters, digits "
                    "and _, no digit first"
                )
        if avro.name in PRIMITIVES:
            raise UserError(
                f"Avro schema: {place} is a {avro.kind} with the name {avro.name!r}, which is a primitive type; "
                "choose another"
            )
        for number, symbol in enumerate(avro.symbols):
            if not _NAME.fullmatch(symbol):
                raise UserError(
                    f"Avro schema: {place} is an enum and has the symbol {shown(symbol)}: use letters, digits and _"
                )
            if symbol in avro.symbols[:number]:
                raise UserError(
                    f"Avro schema: {place} is an enum and has the symbol {shown(symbol)} twice; leave one out"
                )

    def _field(self, entry: AvroField, place: str) -> None:
        for name in (entry.name, *entry.aliases):
            if not _NAME.fullmatch(name):
                raise UserError(f"Avro schema: {place}: field {shown(name)}: use letters, digits and _, no digit first")
        logical = entry.properties.get("logicalType")
        self._misspelt(logical, place)
        if self._strict and isinstance(logical, str) and logical in _BASES:
            raise UserError(
                f"Avro schema: {place} has its logicalType beside the type, where it says nothing; write "
                f'"type": {{"type": "{entry.type.kind}", "logicalType": "{logical}"}}'
            )
        self.type(entry.type, place)
        if entry.default is not NO_DEFAULT and not _Fits().check(entry.default, entry.type):
            raise UserError(
                f"Avro schema: {place} has the default {shown(entry.default, form=json.dumps)}, which is no "
                f"{entry.type.label}: give it a value of that type"
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
    if kind in INTEGERS:
        low, high = INTEGERS[kind]
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
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
