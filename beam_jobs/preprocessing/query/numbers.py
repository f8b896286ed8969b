"""Numbers: arithmetic, rounding and casts, each in the type that DuckDB computes it in.

Integers and decimals are computed exactly, with 128 bits where 64 may not do; what 128 bits do not hold is NULL.
With a ``float`` in it an operation is one of 32 bits, with a ``double`` one of 64. ``/`` of exact numbers is a double.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sqlglot import exp

from beam_jobs.preprocessing.query.compiler import Compiled, Compiler, Handler, a_kind, join, sql_of
from beam_jobs.preprocessing.query.times import moved
from beam_jobs.preprocessing.query.types import (
    BIGINT,
    DOUBLE,
    FLOAT,
    INT32,
    INT128,
    INTEGER,
    MAX_DIGITS,
    TEXT,
    Floats,
    Type,
    by_numpy,
    common,
    decimal,
    divided,
    integer,
)

Operation = Callable[[pl.Expr, pl.Expr], pl.Expr]


def arithmetic(name: str, operation: Operation, bound: Callable[[int, int], int]) -> Handler:
    """``+``, ``-`` or ``*``; ``bound`` of the result, from those of two exact operands."""

    def handler(c: Compiler, node: Any) -> Compiled:
        a, b = c.compile(node.this), c.compile(node.expression)
        if name != "mul" and not {"timestamp", "interval"}.isdisjoint((a.kind, b.kind)):
            return moved(c, node, a, b)
        a, b = c.number(node.this, a), c.number(node.expression, b)
        type_ = common((a.type, b.type))
        if type_.exact:
            return _exact(c, node, name, operation, bound, a, b, type_)
        a, b = c.convert(a, type_, node.this), c.convert(b, type_, node.expression)
        return join(name, type_, operation(a.expr, b.expr), a, b)

    return handler


def _exact(
    c: Compiler,
    node: Any,
    name: str,
    operation: Operation,
    bound: Callable[[int, int], int],
    a: Compiled,
    b: Compiled,
    type_: Type,
) -> Compiled:
    scale = a.type.scale + b.type.scale if name == "mul" else type_.scale
    if scale > MAX_DIGITS:
        c.fail(node, f"{sql_of(node)} has {scale} digits after the point, at most {MAX_DIGITS} fit; CAST one to DOUBLE")
    if name != "mul":
        a, b = c.convert(a, type_, node.this), c.convert(b, type_, node.expression)
    most = bound(a.type.bound, b.type.bound)
    result = decimal(most, scale, type_.name)
    if most > INT128:
        a, b = c.once(a), c.once(b)
    wide = integer(max(most, a.type.bound, b.type.bound)).dtype  # most is 0 if one of them is
    value = operation(a.expr.cast(wide), b.expr.cast(wide)).cast(result.dtype)
    if most > INT128:
        about = operation(a.expr.cast(pl.Float64), b.expr.cast(pl.Float64))
        value = pl.when(about.abs() < _SURELY_HELD).then(value)
    return join(name, result, value, a, b)


_SURELY_HELD = 1.7014e38  # below 2**127, further than an estimate in double precision errs


def divide(c: Compiler, node: exp.Div) -> Compiled:
    a, b = c.number(node.this), c.number(node.expression)
    type_ = common((a.type, b.type))
    type_ = DOUBLE if type_.exact else type_
    a, b = c.convert(a, type_, node.this), c.convert(b, type_, node.expression)
    return join("div", type_, a.expr / b.expr if b.columns else divided(a.expr, b.expr, type_), a, b)


def remainder(c: Compiler, node: exp.Mod) -> Compiled:
    """With the sign of the dividend; of a division by 0 NULL if exact, else NaN."""
    a, b = c.number(node.this), c.number(node.expression)
    type_ = common((a.type, b.type))
    a, b = c.convert(a, type_, node.this), c.convert(b, type_, node.expression)
    if not type_.exact:
        # C's fmod, exact; from a rounded quotient 0.5 % 0.01 would be 0, not 0.00999.
        return join("mod", a.type, by_numpy(np.fmod, a.type, a.expr, b.expr), a, b)
    result = decimal(min(a.type.bound, b.type.bound), a.type.scale, a.type.name)
    wide = integer(max(a.type.bound, b.type.bound)).dtype
    a, b = c.once(a), c.once(b)
    size = a.expr.cast(wide).abs() % b.expr.cast(wide).abs()
    value = pl.when(b.expr != 0).then(size * a.expr.cast(wide).sign())
    return join("mod", result, value.cast(result.dtype), a, b)


def function(name: str, operation: Callable[[pl.Expr], pl.Expr]) -> Handler:
    """A function of a double."""

    def handler(c: Compiler, node: Any) -> Compiled:
        operand = c.double(node.this)
        return join(name, DOUBLE, operation(operand.expr), operand)

    return handler


def atan2(c: Compiler, node: exp.Atan2) -> Compiled:
    y, x = c.double(node.this), c.double(node.expression)
    return join("atan2", DOUBLE, pl.arctan2(y.expr, x.expr), y, x)


def power(c: Compiler, node: exp.Pow) -> Compiled:
    a, b = c.once(c.double(node.this)), c.double(node.expression)
    expr = a.expr.pow(b.expr)
    if b.constant == 0.5:  # which Polars takes for SQRT, and that of -infinity is NaN
        expr = pl.when(a.expr == -math.inf).then(math.inf).otherwise(expr)
    return join("pow", DOUBLE, expr, a, b)


def log(c: Compiler, node: exp.Log) -> Compiled:
    # NumPy's: of 1,000 it is 3, while Polars divides logarithms to base e.
    if node.args.get("expression") is None:
        operand = c.double(node.this)
        return join("log10", DOUBLE, by_numpy(np.log10, DOUBLE, operand.expr), operand)
    base, operand = c.double(node.this), c.double(node.expression)
    expr = by_numpy(np.log10, DOUBLE, operand.expr) / by_numpy(np.log10, DOUBLE, base.expr)
    return join("log", DOUBLE, expr, base, operand)


def negative(c: Compiler, node: exp.Neg) -> Compiled:
    operand = c.number(node.this)
    if operand.constant is not None:
        value = -operand.constant
        return replace(operand, expr=pl.lit(value, operand.type.dtype), constant=value, text=f"-{operand.text}")
    if not operand.type.exact:
        return join("neg", operand.type, -operand.expr, operand)
    type_ = decimal(operand.type.bound, operand.type.scale, operand.type.name)
    return join("neg", type_, pl.lit(0, type_.dtype) - operand.expr.cast(type_.dtype), operand)


def absolute(c: Compiler, node: exp.Abs) -> Compiled:
    operand = c.number(node.this)
    type_ = operand.type
    if type_.exact:
        type_ = decimal(type_.bound, type_.scale, type_.name)
    return join("abs", type_, operand.expr.cast(type_.dtype).abs(), operand)


def sign(c: Compiler, node: exp.Sign) -> Compiled:
    operand = c.number(node.this)
    expr = operand.expr.sign() if operand.type.exact else operand.expr.sign().fill_nan(0.0)
    return join("sign", integer(1), expr.cast(pl.Int64), operand)


def whole(name: str, operation: Callable[[pl.Expr], pl.Expr]) -> Handler:
    """FLOOR or CEIL: of a decimal a decimal, of an integer a double."""

    def handler(c: Compiler, node: Any) -> Compiled:
        operand = c.number(node.this)
        if operand.type.name == "integer":
            return join(name, DOUBLE, c.convert(operand, DOUBLE, node.this).expr, operand)
        if not operand.type.exact:
            return join(name, operand.type, operation(operand.expr), operand)
        factor = 10**operand.type.scale
        type_ = decimal(operand.type.bound // factor + 1, 0)
        down = pl.lit(factor, operand.type.dtype)
        if name == "floor":
            expr = operand.expr // down
        else:
            expr = pl.lit(0, operand.type.dtype) - (pl.lit(0, operand.type.dtype) - operand.expr) // down
        return join(name, type_, expr.cast(type_.dtype), operand)

    return handler


def round_(c: Compiler, node: exp.Round) -> Compiled:
    operand = c.number(node.this)
    decimals = c.whole_number(node.args.get("decimals"), "ROUND", -15, 15, default=0)
    if not operand.type.exact:
        return join(f"round:{decimals}", operand.type, rounded(operand.expr, operand.type, decimals), operand)
    if decimals >= operand.type.scale:
        return join(f"round:{decimals}", operand.type, operand.expr, operand)
    operand = c.once(operand)
    type_, expr = _rounded_exactly(operand, decimals)
    return join(f"round:{decimals}", type_, expr, operand)


def _rounded_exactly(operand: Compiled, decimals: int) -> tuple[Type, pl.Expr]:
    """Type and value of an exact number with fewer decimals than it has; halves go away from zero."""
    unit, back = 10 ** (operand.type.scale - decimals), 10 ** max(0, -decimals)
    wide = integer(operand.type.bound + unit).dtype
    size = operand.expr.cast(wide).abs()
    near = (size + pl.lit(unit // 2, wide)) // pl.lit(unit, wide) * pl.lit(back, wide)
    type_ = decimal((operand.type.bound // unit + 1) * back, max(0, decimals), operand.type.name)
    return type_, (near * operand.expr.cast(wide).sign()).cast(type_.dtype)


def rounded(x: pl.Expr, type_: Type, decimals: int) -> pl.Expr:
    """A float or double to so many decimals, by its exact value: 1.005, which is a little less, to 1.0."""

    def run(values: Floats) -> Floats:
        return round_half_away(values.astype(np.float64), decimals).astype(values.dtype)

    return by_numpy(run, type_, x)


def round_half_away(x: NDArray[np.float64], decimals: int) -> NDArray[np.float64]:
    scale = 10.0 ** abs(decimals)
    scaled = x if decimals == 0 else x * scale if decimals > 0 else x / scale
    size = np.abs(scaled)
    down = np.floor(size)
    up = size - down >= 0.5
    if decimals > 0 and np.any(half := size - down == 0.5):
        up &= ~(half & (_error_of_product(x, scale, scaled) * np.sign(x) < 0))
    near = np.copysign(down + up, x)
    result = near if decimals == 0 else near / scale if decimals > 0 else near * scale
    return np.where(np.isfinite(result), result, x)


def _error_of_product(x: NDArray[np.float64], y: float, product: NDArray[np.float64]) -> NDArray[np.float64]:
    """``x * y - product`` without rounding (Dekker)."""

    def halves(value: Any) -> tuple[Any, Any]:
        high = value * 134217729.0  # 2**27 + 1
        high = high - (high - value)
        return high, value - high

    (a, b), (c, d) = halves(x), halves(y)
    return np.asarray(((a * c - product) + a * d + b * c) + b * d)


# Casts.

_TARGETS: dict[str, Type] = {"DOUBLE": DOUBLE, "REAL": FLOAT, "INT": INTEGER, "BIGINT": BIGINT, "TEXT": TEXT}


_SPACES = " \t\n\v\f\r"
_DIGITS = r"[0-9]+(?:_[0-9]+)*"
_NUMBER = (
    rf"(?i)\A[+-]?(?:(?:{_DIGITS}\.?(?:{_DIGITS})?|\.{_DIGITS})(?:e[+-]?{_DIGITS})?|nan(?:\(\w*\))?|inf(?:inity)?)\z"
)


def cast(c: Compiler, node: exp.Cast) -> Compiled:
    """CAST and TRY_CAST: NULL where there is no such value."""
    operand = c.compile(node.this)
    written = node.to.sql(dialect="duckdb")
    target = _TARGETS.get(written)
    name = f"cast:{written.lower()}"
    if target in (FLOAT, DOUBLE) and operand.kind == "string":
        return join(name, target, _parsed(operand.expr).cast(target.dtype), operand)
    if target in (FLOAT, DOUBLE) and operand.kind in ("number", "null"):
        return join(name, target, *_to_float(c, node, operand, target))
    if target in (INTEGER, BIGINT) and operand.kind == "number":
        return join(name, target, *_to_integer(c, operand, target))
    if target == TEXT and operand.kind == "string":
        return operand
    if target is not None and (operand.kind == "null" or (operand.kind == "boolean" and target != TEXT)):
        return join(name, target, operand.expr.cast(target.dtype), operand)
    remedy = "CAST it to DOUBLE first" if operand.kind == "string" else "use DOUBLE, REAL, INTEGER or BIGINT"
    c.fail(node, f"{sql_of(node)}: {a_kind(operand.kind)} can't be cast to {written}; {remedy}")


def _parsed(text: pl.Expr) -> pl.Expr:
    """Texts that are numbers as DuckDB reads them, in a form that Polars reads; NULL for others."""
    bare = text.str.strip_chars(_SPACES)
    plain = bare.str.replace_all("_", "", literal=True).str.replace(r"(?i)(nan).*", "nan")
    return pl.when(bare.str.contains(_NUMBER)).then(plain)


def _to_float(c: Compiler, node: exp.Cast, operand: Compiled, target: Type) -> tuple[pl.Expr, Compiled]:
    """The number as a float or double, and the operand it is made of."""
    if operand.type != DOUBLE or target == DOUBLE:
        return c.convert(operand, target, node.this).expr, operand
    operand = c.once(operand)
    value = operand.expr.cast(pl.Float32)
    return pl.when(value.is_infinite() == operand.expr.is_infinite()).then(value), operand


def _to_integer(c: Compiler, operand: Compiled, target: Type) -> tuple[pl.Expr, Compiled]:
    """The number as one of 32 or 64 bits, and the operand it is made of."""
    if operand.type.exact:
        operand = c.once(operand)
        near = _rounded_exactly(operand, 0)[1] if operand.type.scale else operand.expr
    else:  # halves to the even neighbour
        near = by_numpy(np.rint, operand.type, operand.expr)
    near = near.cast(pl.Int64, strict=False)
    if target == INTEGER and operand.type != INTEGER:
        near = pl.when(near.is_between(-INT32, INT32 - 1)).then(near)
    return near, operand
