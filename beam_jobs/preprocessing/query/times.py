"""Timestamps, and the intervals between them."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import polars as pl
from sqlglot import exp

from beam_jobs.preprocessing.query.compiler import Compiled, Compiler, a_kind, join, sql_of
from beam_jobs.preprocessing.query.intervals import UNITS, from_text, unit_of
from beam_jobs.preprocessing.query.types import BIGINT, DOUBLE, INTERVAL, TIMESTAMP

_MOMENT = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d+)?)?( ?Z)?)?")


def timestamp(c: Compiler, node: exp.Cast) -> Compiled:
    """TIMESTAMP '2025-01-31 12:00:00'"""
    written, form = node.this.name, "write it as TIMESTAMP '2025-01-31 12:00:00', in UTC"
    try:
        moment = datetime.fromisoformat(written)
    except ValueError:
        c.fail(node, f"{sql_of(node)} is no timestamp; {form}")
    if not _MOMENT.fullmatch(written):
        # Standard SQL and DuckDB pass over an offset, others go by it.
        what = "has an offset" if moment.utcoffset() else "is in no form all readers agree on"
        c.fail(node, f"{sql_of(node)} {what}; {form} without one")
    moment = moment.replace(tzinfo=UTC)
    return Compiled(pl.lit(moment, TIMESTAMP.dtype), TIMESTAMP, f"timestamp:{moment.isoformat()}", constant=moment)


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
    if part == "epoch":
        return _epoch(c, node, node.expression)
    if part not in _PARTS:
        c.fail(node, f"EXTRACT({part.upper()} ...) is not supported; use one of {', '.join([*_PARTS, 'epoch'])}")
    operand = c.compile(node.expression)
    if operand.kind != "timestamp":
        c.fail(node, f"{sql_of(node)}: {sql_of(node.expression)} is {a_kind(operand.kind)}; EXTRACT needs a timestamp")
    return join(f"extract:{part}", BIGINT, _PARTS[part](operand.expr).cast(pl.Int64), operand)


# Intervals: microseconds, of which days have 24 hours.


def epoch(c: Compiler, node: exp.TimeToUnix) -> Compiled:
    return _epoch(c, node, node.this)


def _epoch(c: Compiler, node: Any, of: Any) -> Compiled:
    """Seconds, with their fractions: of an interval its length, of a timestamp those since 1970."""
    operand = c.compile(of)
    if operand.kind not in ("timestamp", "interval"):
        c.fail(node, f"{sql_of(node)}: {sql_of(of)} is {a_kind(operand.kind)}; it needs a timestamp or an interval")
    micros = operand.expr.cast(pl.Int64)
    return join("epoch", DOUBLE, micros.cast(pl.Float64) / 1e6, operand)


def moved(c: Compiler, node: exp.Add | exp.Sub, a: Compiled, b: Compiled) -> Compiled:
    """``+`` or ``-`` of which an operand is a timestamp or an interval."""
    name = node.key
    type_ = _MOVED.get((a.kind, name, b.kind))
    if type_ is None:
        form = "ts - ts, ts - INTERVAL '1' HOUR and the like"
        c.fail(node, f"{sql_of(node)}: {a.kind} and {b.kind} go together in {form}; CAST one, or use EXTRACT")
    left, right = a.expr.cast(pl.Int64), b.expr.cast(pl.Int64)
    return join(f"{name}:time", type_, (left - right if name == "sub" else left + right).cast(type_.dtype), a, b)


_MOVED = {
    ("timestamp", "sub", "timestamp"): INTERVAL,
    ("timestamp", "sub", "interval"): TIMESTAMP,
    ("timestamp", "add", "interval"): TIMESTAMP,
    ("interval", "add", "timestamp"): TIMESTAMP,
    ("interval", "sub", "interval"): INTERVAL,
    ("interval", "add", "interval"): INTERVAL,
}


def date_diff(c: Compiler, node: exp.DateDiff) -> Compiled:
    """How many ends of a unit lie between two timestamps: 1 of ``date_diff('minute', 12:00:59, 12:01:00)``."""
    unit = node.args["unit"].name.upper().removesuffix("S") if node.args.get("unit") else ""
    if unit not in UNITS or unit == "WEEK":
        units = ", ".join(name.lower() for name in UNITS if name != "WEEK")
        c.fail(node, f"{sql_of(node)}: the unit is one of {units}, in quotes")
    operands = []
    for side in (node.expression, node.this):
        operand = c.compile(side)
        if operand.kind != "timestamp":
            c.fail(node, f"{sql_of(node)}: {sql_of(side)} is {a_kind(operand.kind)}; it needs a timestamp")
        operands.append(operand)
    start, end = (operand.expr.cast(pl.Int64) // UNITS[unit] for operand in operands)  # // rounds down
    return join(f"date_diff:{unit}", BIGINT, end - start, *operands)


def interval(c: Compiler, node: Any) -> Compiled:
    """INTERVAL '5' MINUTE, INTERVAL '1 hour 30 minutes', to_minutes(5), '5 minutes'::INTERVAL and the like."""
    micros = microseconds(node)
    if micros is None:
        c.fail(node, f"{sql_of(node)} is no interval of a fixed length; write it as INTERVAL '5' MINUTE")
    return Compiled(pl.lit(micros, pl.Int64), INTERVAL, f"interval:{micros}", constant=micros)


TO = {f"to_{name.lower()}s": unit for name, unit in UNITS.items()}


def microseconds(node: Any) -> int | None:
    """The length of a constant interval as DuckDB reads it; None: it is none, or months and years, which vary."""
    if isinstance(node, exp.Paren):
        return microseconds(node.this)
    if isinstance(node, exp.Add):
        parts = [microseconds(node.this), microseconds(node.expression)]
        return None if None in parts else sum(part for part in parts if part is not None)
    if isinstance(node, exp.Cast) and node.to.this == exp.DataType.Type.INTERVAL and isinstance(node.this, exp.Literal):
        return from_text(node.this.name)
    if isinstance(node, exp.ToDays):
        return _whole(node.this, UNITS["DAY"])
    if isinstance(node, exp.Anonymous) and node.name.lower() in TO and len(node.expressions) == 1:
        return _whole(node.expressions[0], TO[node.name.lower()])
    if not isinstance(node, exp.Interval):
        return None
    unit = node.unit.name if isinstance(node.unit, exp.Var) else ""
    if unit and not node.args.get("fraction_in_string"):
        return _whole(node.this, unit_of(unit))
    return from_text(f"{node.this.name} {unit}") if isinstance(node.this, exp.Literal) else None


def _whole(amount: Any, factor: int | None) -> int | None:
    """Of a number beside a unit, of which DuckDB takes what stands before the point."""
    while isinstance(amount, exp.Paren):
        amount = amount.this
    text = amount.name if isinstance(amount, exp.Literal) else ""
    sign = -1 if text.startswith("-") else 1
    if isinstance(amount, exp.Neg) and isinstance(amount.this, exp.Literal):
        text, sign = amount.this.name, -1
    found = re.fullmatch(r"-?(\d{1,15})", text)
    return sign * int(found[1]) * factor if found and factor else None
