"""The functions with more to them: rounding, casts, times, text, personal data and windows."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
from sqlglot import exp

from beam_jobs.preprocessing.compiler import Compiled, Compiler, Handler, WindowFeature, join, pseudonym_column, sql_of
from beam_jobs.preprocessing.fields import Field, Kind
from beam_jobs.preprocessing.pii import MAX_CHARACTERS, MAX_DECIMALS


def half_away(x: pl.Expr) -> pl.Expr:
    # Polars' own rounding of halves differs between its versions.
    size = x.abs()
    floor = size.floor()
    return x.sign() * (floor + ((size - floor) >= 0.5).cast(pl.Float64))


def rounded(x: pl.Expr, decimals: int) -> pl.Expr:
    scale = 10.0 ** abs(decimals)
    if decimals == 0:
        return half_away(x)
    return half_away(x * scale) / scale if decimals > 0 else half_away(x / scale) * scale


def cast(c: Compiler, node: exp.Cast) -> Compiled:
    target = node.to.sql().upper()
    if target.startswith("TIMESTAMP") and isinstance(node.this, exp.Literal):
        return _timestamp(c, node)
    operand = c.compile(node.this)
    if target in ("DOUBLE", "FLOAT", "REAL") and operand.kind in ("number", "boolean", "string", "null"):
        return join("cast:double", "number", operand.expr.cast(pl.Float64, strict=False), operand)
    if target in ("INT", "BIGINT", "INTEGER") and operand.kind in ("number", "boolean", "null"):
        # Halves go to the even neighbour, as in DuckDB; what does not fit is NULL.
        number = operand.expr.cast(pl.Float64)
        even = (number / 2).floor() * 2
        rounded = pl.when((number - even).abs() == 0.5).then(even)
        whole = rounded.when((number - even) == 1.5).then(even + 2).otherwise(half_away(number))
        limit = 2.0**31 if target != "BIGINT" else 2.0**63
        expr = pl.when((whole >= -limit) & (whole < limit)).then(whole)
        return join(f"cast:{'bigint' if target == 'BIGINT' else 'int'}", "number", expr, operand)
    if target in ("TEXT", "VARCHAR") and operand.kind in ("string", "null"):
        return join("cast:text", "string", operand.expr.cast(pl.String), operand)
    c.fail(
        node,
        f"{sql_of(node)}: a {operand.kind} can't be cast to {target}; use DOUBLE, INTEGER or BIGINT",
    )


def _timestamp(c: Compiler, node: exp.Cast) -> Compiled:
    try:
        moment = datetime.fromisoformat(node.this.name)
    except ValueError:
        c.fail(node, f"{sql_of(node)} is no timestamp; write it as TIMESTAMP '2025-01-31 12:00:00' (UTC)")
    moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    return Compiled(pl.lit(moment, pl.Datetime("us", "UTC")), "timestamp", f"timestamp:{moment.isoformat()}")


_PARTS: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "second": lambda t: t.dt.second(),
    "minute": lambda t: t.dt.minute(),
    "hour": lambda t: t.dt.hour(),
    "day": lambda t: t.dt.day(),
    "month": lambda t: t.dt.month(),
    "dow": lambda t: t.dt.weekday() % 7,  # Sunday 0
    "isodow": lambda t: t.dt.weekday(),  # Monday 1, Sunday 7
}


def extract(c: Compiler, node: exp.Extract) -> Compiled:
    part = node.this.name.lower()
    if part not in _PARTS:
        c.fail(node, f"EXTRACT({part.upper()} ...) is not supported; use one of {', '.join(_PARTS)}")
    operand = c.compile(node.expression)
    if operand.kind != "timestamp":
        c.fail(node, f"{sql_of(node)}: {sql_of(node.expression)} is a {operand.kind}; EXTRACT needs a timestamp")
    return join(f"extract:{part}", "number", _PARTS[part](operand.expr).cast(pl.Float64), operand)


# Text.


def text(name: str, kind: Kind, operation: Callable[[pl.Expr], pl.Expr]) -> Handler:
    def handler(c: Compiler, node: Any) -> Compiled:
        operand = c.string(node.this)
        return join(name, kind, operation(operand.expr), operand)

    return handler


def substring(c: Compiler, node: exp.Substring) -> Compiled:
    operand = c.string(node.this)
    start = c.whole_number(node.args.get("start"), "SUBSTRING start", 1, 1_000_000)
    length = c.whole_number(node.args.get("length"), "SUBSTRING length", 0, 1_000_000, default=1_000_000)
    return join(f"substring:{start}:{length}", "string", operand.expr.str.slice(start - 1, length), operand)


def concat(c: Compiler, node: Any) -> Compiled:
    """CONCAT passes over nulls, || is null if one operand is."""
    piped = isinstance(node, exp.DPipe)
    operands = [c.string(part) for part in ([node.this, node.expression] if piped else node.expressions)]
    expr = pl.concat_str([o.expr for o in operands], ignore_nulls=not piped)
    return join("pipe" if piped else "concat", "string", expr, *operands)


# Personal data.


def own_function(c: Compiler, node: exp.Anonymous) -> Compiled:
    name = node.name.lower()
    if name == "pseudonymize":
        return _pseudonymize(c, node)
    if name == "generalize":
        return _generalize(c, node)
    c.refuse(node)


def _plain_argument(c: Compiler, node: exp.Anonymous, count: int, example: str) -> Field:
    if len(node.expressions) != count or not isinstance(node.expressions[0], exp.Column):
        c.fail(node, f"{sql_of(node)}: write it as {example}, on a plain column")
    return c.column(node.expressions[0])


def _pseudonymize(c: Compiler, node: exp.Anonymous) -> Compiled:
    field = _plain_argument(c, node, 1, "pseudonymize(column)")
    if field.kind != "string":
        c.fail(
            node,
            f"{sql_of(node)}: {field.name} is a {field.kind}; pseudonymize needs a text; use generalize",
        )
    c.pseudonyms.add(field.name)
    return Compiled(
        pl.col(pseudonym_column(field.name)),
        "string",
        f"(pseudonymize {json.dumps(field.name)})",
        frozenset({field.name}),
    )


def _generalize(c: Compiler, node: exp.Anonymous) -> Compiled:
    field = _plain_argument(c, node, 2, "generalize(column, 1)")
    if field.pii == "direct":
        c.fail(
            node,
            f"{sql_of(node)}: {field.name} identifies a person directly; pseudonymize or drop it",
        )
    if field.kind == "number":
        digits = c.whole_number(node.expressions[1], f"generalize({field.name}, ...)", -9, MAX_DECIMALS)
        expr = rounded(pl.col(field.name).cast(pl.Float64), digits)
    elif field.kind == "string":
        digits = c.whole_number(node.expressions[1], f"generalize({field.name}, ...)", 1, MAX_CHARACTERS)
        expr = pl.col(field.name).str.slice(0, digits)
    else:
        c.fail(node, f"{sql_of(node)}: {field.name} is a {field.kind}; generalize needs a number or a text")
    return Compiled(expr, field.kind, f"(generalize:{digits} {json.dumps(field.name)})", frozenset({field.name}))


# Windows: the one form that says which other rows are meant.

_WINDOW_FUNCTIONS: dict[type[exp.Expression], str] = {
    exp.Avg: "avg",
    exp.Sum: "sum",
    exp.Min: "min",
    exp.Max: "max",
    exp.Count: "count",
}
_SECONDS = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86400}


def window(c: Compiler, node: exp.Window) -> Compiled:
    frame = "RANGE BETWEEN INTERVAL '5' MINUTE PRECEDING AND CURRENT ROW"
    form = f"OVER (PARTITION BY {c.key} ORDER BY {c.event_time} {frame})"
    partition = [part.name for part in node.args.get("partition_by") or [] if isinstance(part, exp.Column)]
    order = [
        (o.this.name, bool(o.args.get("desc")))
        for o in (node.args["order"].expressions if node.args.get("order") else [])
    ]
    if not order:
        c.fail(node, f"{sql_of(node)} has no ORDER BY, so it depends on how rows were cut into blocks; use {form}")
    function = _WINDOW_FUNCTIONS.get(type(node.this))
    if function is None:
        c.fail(node, f"{sql_of(node.this)} is not supported as a window; use {', '.join(_WINDOW_FUNCTIONS.values())}")
    spec = node.args.get("spec")
    start = spec.args.get("start") if spec is not None else None
    if (
        partition != [c.key]
        or order != [(c.event_time, False)]
        or spec is None
        or spec.args.get("kind") != "RANGE"
        or not isinstance(start, exp.Interval)
        or start.unit is None
        or start.unit.name.upper() not in _SECONDS
        or spec.args.get("start_side") != "PRECEDING"
        or spec.args.get("end") != "CURRENT ROW"
    ):
        c.fail(node, f"{sql_of(node)}: windows have the form {form}")
    length = timedelta(seconds=float(start.this.name) * _SECONDS[start.unit.name.upper()])
    argument = (
        c.compile(node.this.this) if not isinstance(node.this.this, exp.Star) else Compiled(pl.lit(1), "number", "*")
    )
    c.windows.append(WindowFeature(function, argument.text, length))
    c.fail(node, f"{sql_of(node)}: window features are not supported yet by this version; remove the column")
