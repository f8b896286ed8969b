"""The types of the SQL, which are DuckDB's, and how a value of one becomes a value of another.

====================  =============================================  ==========================
type                  of                                             in a frame
====================  =============================================  ==========================
integer               int, long; ``5``                               Int64, Int128 where needed
decimal               decimal; ``0.5``                               the same, times 10^scale
float, double         float, double; ``5e0`` is a double             Float32, Float64
boolean, text         boolean; string, uuid and enum                 Boolean, String
timestamp             timestamp-millis, timestamp-micros             microseconds, UTC
interval              timestamp - timestamp; ``INTERVAL '1' HOUR``   Int64, microseconds
====================  =============================================  ==========================

Integers and decimals are exact. How large they can get is known when the SQL is compiled (``bound``), so 64 bits are
used where they do, and only what 128 bits may not hold is checked when rows come.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs.preprocessing.fields import Field, Kind

Floats = NDArray[np.floating[Any]]
Name = Literal["integer", "decimal", "float", "double", "boolean", "text", "timestamp", "interval", "null", "other"]

INT32, INT64, INT128 = 2**31, 2**63, 2**127 - 1  # no value of so many bits is further from 0
MAX_DIGITS = 38  # of a decimal
_EXACT_DOUBLE = 2**53  # integers up to here are doubles
_EXACT_POWER = 22  # powers of ten up to here are doubles
_KINDS: dict[Name, Kind] = {
    "boolean": "boolean",
    "text": "string",
    "timestamp": "timestamp",
    "interval": "interval",
    "null": "null",
}
_TYPES: dict[Name, Any] = {
    "float": pl.Float32,
    "double": pl.Float64,
    "boolean": pl.Boolean,
    "text": pl.String,
    "timestamp": pl.Datetime("us", "UTC"),
    "interval": pl.Int64,  # microseconds
    "null": pl.Null,
}


@dataclass(frozen=True)
class Type:
    """Type of an expression."""

    name: Name
    bound: int = 0  # of an exact number: no value, times 10^scale, is further from 0; at most INT128
    scale: int = 0  # of a decimal: digits after the point

    @property
    def exact(self) -> bool:
        return self.name in ("integer", "decimal")

    @property
    def kind(self) -> Kind:
        return "number" if self.exact or self.name in ("float", "double") else _KINDS.get(self.name, "other")

    @property
    def dtype(self) -> Any:
        if self.exact:
            return pl.Int64 if self.bound <= INT64 else pl.Int128
        return _TYPES[self.name]

    def __str__(self) -> str:
        return f"{self.name}:{self.scale}" if self.name == "decimal" else self.name


FLOAT, DOUBLE, BOOLEAN, TEXT = Type("float"), Type("double"), Type("boolean"), Type("text")
TIMESTAMP, INTERVAL = Type("timestamp"), Type("interval")
NULL, OTHER = Type("null"), Type("other")


INTEGER, BIGINT = Type("integer", INT32), Type("integer", INT64)


def integer(bound: int) -> Type:
    return decimal(bound, 0, "integer")


def decimal(bound: int, scale: int, name: Name = "decimal") -> Type:
    # INT64 is the bound of what 64 bits hold, so the one value -INT64 has no positive counterpart there.
    return Type(name, min(bound + (bound == INT64), INT128), scale)


_FIELDS = {"int": INTEGER, "long": BIGINT, "float": FLOAT, "double": DOUBLE}


def column(field: Field) -> tuple[pl.Expr, Type]:
    """A field of the frame as an expression, and its type."""
    expr = pl.col(field.name)
    if field.kind == "timestamp":
        return expr.cast(TIMESTAMP.dtype), TIMESTAMP  # Polars compares milliseconds and microseconds as milliseconds
    if field.kind != "number":
        return expr, {"boolean": BOOLEAN, "string": TEXT}.get(field.kind, OTHER)
    branches = field.type if isinstance(field.type, list) else [field.type]
    (avro,) = [branch for branch in branches if branch != "null"]
    if isinstance(avro, dict) and avro.get("logicalType") == "decimal":
        type_ = decimal(10 ** int(avro["precision"]) - 1, int(avro.get("scale", 0)))
        return expr.to_physical().cast(type_.dtype), type_
    type_ = _FIELDS[avro["type"] if isinstance(avro, dict) else avro]
    return (expr.cast(type_.dtype) if type_ == INTEGER else expr), type_


def number(text: str) -> tuple[Type, int | float] | None:
    """What a number in the SQL is: its type and its value, times 10^scale if exact. None: DuckDB has no such number.

    A number with an exponent, or of more than 38 digits, is a double.
    """
    if not re.fullmatch(r"(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text):
        return None
    whole, point, fraction = text.partition(".")
    if "e" not in text.lower() and len(text) - len(point) <= MAX_DIGITS + (not point):
        value = int(whole + fraction)
        if not point and value <= INT128:
            return integer(value), value
        if point:
            return decimal(value, len(fraction)), value
    return DOUBLE, float(text)


def common(types: Iterable[Type]) -> Type:
    """The type in which DuckDB compares or chooses among numbers of these types; ``null`` of nothing else."""
    return reduce(_wider, types, NULL)


def _wider(a: Type, b: Type) -> Type:
    if a == b or b.name == "null":
        return a
    if a.name == "null":
        return b
    for type_ in (DOUBLE, FLOAT):
        if type_ in (a, b):
            return type_
    scale = max(a.scale, b.scale)
    bound = max(a.bound * 10 ** (scale - a.scale), b.bound * 10 ** (scale - b.scale))
    return replace(a if a.name == "decimal" else b, bound=min(bound, INT128), scale=scale)


def constant(value: int | float, type_: Type, to: Type) -> int | float:
    """The value of a literal as one of the number type ``to``."""
    if to.exact:
        return int(value) * 10 ** (to.scale - type_.scale)
    exact = float(f"{value}e-{type_.scale}") if type_.exact else float(value)
    with np.errstate(over="ignore"):
        return exact if to == DOUBLE else float(np.float32(exact))


def converted(expr: pl.Expr, type_: Type, to: Type) -> pl.Expr:
    """The expression, of one number type, in another that common() found; NULL where 128 bits do not hold it."""
    if type_ == to:
        return expr
    if to.exact:
        factor = 10 ** (to.scale - type_.scale)
        if type_.bound * factor > INT128:
            expr = pl.when(expr.is_between(-(INT128 // factor), INT128 // factor)).then(expr)
        expr = expr.cast(to.dtype)
        return expr if factor == 1 else expr * pl.lit(factor, to.dtype)
    if type_.exact and type_.scale:
        if type_.bound <= _EXACT_DOUBLE and type_.scale <= _EXACT_POWER:
            expr = divided(expr.cast(pl.Float64), pl.lit(10.0**type_.scale), DOUBLE)
        else:  # by its digits, which is slower and right
            expr = (expr.cast(pl.String) + pl.lit(f"e-{type_.scale}")).cast(pl.Float64)
    return expr.cast(to.dtype)


def by_numpy(function: Callable[..., Floats], type_: Type, *operands: pl.Expr) -> pl.Expr:
    """A function of float arrays [n], element by element; NULL where an operand is."""

    def run(columns: Sequence[pl.Series]) -> pl.Series:
        with np.errstate(all="ignore"):
            values = function(*(column.to_numpy() for column in columns))
        if not any(column.null_count() for column in columns):
            return pl.Series(values)
        nulls = reduce(np.logical_or, [column.is_null().to_numpy() for column in columns])
        return pl.Series(pa.array(values, mask=np.broadcast_to(nulls, values.shape), from_pandas=False))

    return pl.map_batches(list(operands), run, return_dtype=type_.dtype, is_elementwise=True)


def divided(a: pl.Expr, b: pl.Expr, type_: Type) -> pl.Expr:
    """``a / b``, rounded once even where ``b`` is one value for all rows: Polars takes its reciprocal there."""
    return by_numpy(np.divide, type_, a, b)
