"""OVER: features over other rows of the key, in the one form that says which rows are meant."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
from sqlglot import exp

from beam_jobs.preprocessing.fields import Field
from beam_jobs.preprocessing.pii import Protected
from beam_jobs.preprocessing.query.compiler import Compiled, Compiler, WindowFeature, a_kind, join, roots, sql_of
from beam_jobs.preprocessing.query.intervals import to_text
from beam_jobs.preprocessing.query.times import microseconds
from beam_jobs.preprocessing.query.types import (
    BIGINT,
    BOOLEAN,
    DOUBLE,
    INT128,
    TIMESTAMP,
    Type,
    decimal,
    integer,
)
from beam_jobs.preprocessing.windows.frames import QUANTILES, Frame

_FUNCTIONS: dict[type[exp.Expression], str] = {
    exp.Count: "count",
    exp.CountIf: "sum",  # NULL of no rows, as in DuckDB
    exp.Sum: "sum",
    exp.Avg: "avg",
    exp.Min: "min",
    exp.Max: "max",
    exp.LogicalOr: "max",  # bool_or, bool_and
    exp.LogicalAnd: "min",
    exp.Stddev: "stddev_samp",
    exp.StddevSamp: "stddev_samp",
    exp.Variance: "var_samp",
    exp.FirstValue: "first_value",
    exp.First: "first_value",
    exp.LastValue: "last_value",
    exp.Last: "last_value",
    exp.Median: "quantile_cont",
    exp.PercentileCont: "quantile_cont",
    exp.PercentileDisc: "quantile_disc",
    exp.Quantile: "quantile_disc",
}
_NAMES = (
    "avg, sum, count, min, max, stddev_samp, var_samp, count(DISTINCT x), first_value, last_value, median, "
    "quantile_cont, quantile_disc"
)
_TWO = {"this", "expression"}
_ARGUMENTS: dict[type[exp.Expression], set[str]] = {
    exp.Count: {"this", "big_int"},
    exp.PercentileCont: _TWO,
    exp.PercentileDisc: _TWO,
    exp.Quantile: {"this", "quantile"},
}
_LONGEST_DAYS = 400
_DAY = 86_400_000_000  # microseconds
_EXACT_DOUBLE = 2**53  # integers up to here are doubles
_SHARE = re.compile(r"[01]|[01]?\.\d{1,9}")  # as a decimal: of a double DuckDB counts otherwise
_PREVIOUS = "last_value(x) OVER (... RANGE BETWEEN INTERVAL '1' HOUR PRECEDING AND CURRENT ROW EXCLUDE CURRENT ROW)"
_CASE = "CASE inside can choose rows: sum(CASE WHEN ok THEN amount END)"
_REMEDIES: dict[type[exp.Expression], str] = {
    exp.Filter: _CASE,
    exp.Lag: f"lag passes over the frame, so it never ends; the previous value is {_PREVIOUS}",
    exp.Lead: "lead sees what is still to come; training and scoring would not mean the same",
    exp.ApproxDistinct: "count(DISTINCT x) is exact here",
    exp.IgnoreNulls: "NULL counts as a value there; choose rows with WHERE, in a sub-select if need be",
    exp.AnyValue: "which value that is nothing says; use first_value, last_value, min or max",
}
_REMEDIES[exp.ApproxQuantile] = "quantile_cont(x, 0.9) is exact here"


def window(c: Compiler, node: exp.Window) -> Compiled:
    """The value of a window: a column of the frame, filled before the expressions around it are computed."""
    called = node.this.this if isinstance(node.this, exp.RespectNulls) else node.this
    if isinstance(called, exp.Anonymous) and called.name.lower() == "mean":
        called = exp.Avg(this=called.expressions[0] if len(called.expressions) == 1 else None)
    if isinstance(called, exp.IgnoreNulls) and isinstance(called.this, exp.AnyValue):
        called = called.this  # which passes over NULL
    function = _FUNCTIONS.get(type(called))
    if function is None:
        remedy = _REMEDIES.get(type(called), f"use one of {_NAMES} (CASE inside can choose rows)")
        c.fail(node, f"{sql_of(node.this)} is not supported as a window; {remedy}")
    definition = _definition(c, node)
    by, frame = _key(c, node, definition), _frame(c, node, definition)
    of = called.this
    if of is None and isinstance(called, exp.Count):
        of = exp.Star()
    if isinstance(of, exp.Distinct) and function == "count" and len(of.expressions) == 1 and not of.args.get("on"):
        function, of = "count_distinct", of.expressions[0]
    share = _share(c, called)
    more = {name for name, value in called.args.items() if value} - _ARGUMENTS.get(type(called), {"this"})
    if more or isinstance(of, exp.Distinct | exp.Order | None):
        c.fail(node, f"{sql_of(called)} is not supported as a window; it takes one argument and nothing else")
    if of.find(exp.Window):
        c.fail(
            node,
            f"{sql_of(node)}: a window of a window is written around a sub-select, as sum(x) OVER (...) of one with "
            "avg(y) OVER (...) AS x",
        )
    ends = f"{to_text(frame.end_us)} before now" if frame.end_us else "now"
    late = f", and takes {to_text(c.label_us)} (label_delay)" if c.label_us else ""
    with c.seeing_labels(frame.end_us >= max(c.label_us, 1), f"{late}, but {sql_of(node)} ends {ends}"):
        argument: Compiled | None
        text, type_ = "", BIGINT
        if function == "count" and not isinstance(of, exp.Star):
            argument, text = _counted(c, of)
        elif share is None:
            argument, type_ = _argument(c, called, function, of)
        else:
            if frame.hop_us:
                c.fail(
                    node,
                    f"{sql_of(node)}: a quantile needs every row of its window, and the hop form keeps none; write "
                    "RANGE BETWEEN INTERVAL '7' DAY PRECEDING AND CURRENT ROW",
                )
            function, argument, type_ = _ranked(c, called, function, of)
    return _feature(c, function, by, frame, argument, type_, share or Fraction(0), text)


def _feature(
    c: Compiler,
    function: str,
    by: str | None,
    frame: Frame,
    argument: Compiled | None,
    type_: Type,
    share: Fraction,
    of: str = "",
) -> Compiled:
    """A window, which is computed once however often it is written; and its value in its type.

    Args:
      of: canonical text of what it is about; "": of the argument.
    """
    of = of or (argument.text if argument is not None else "time")
    known = f"{function}:{frame.start_us}:{frame.end_us}:{frame.hop_us}:{int(frame.exclude_current)}"
    if function in QUANTILES:
        known += f":{share}"
    text = f"(over:{c.stage}:{known} {of})" if by is None else f'(over:{c.stage}:{known} by "{by}" {of})'
    column = f"window:{c.stage}:{len(c.windows)}"
    labels = argument is not None and any(c.fields[name].label for name in roots(argument) & c.fields.keys())
    feature = c.windows.setdefault(text, WindowFeature(function, argument, frame, column, text, by, labels, share))
    columns = frozenset({c.event_time} if by is None else {c.event_time, by})
    columns |= argument.columns if argument is not None else frozenset()
    values = pl.col(feature.column)
    if function == "quantile_cont" and type_ == TIMESTAMP:
        values = values.round(mode="half_away_from_zero")
    expr = _typed(values, type_)
    return Compiled(expr, type_, text, columns, argument.raw_pii if argument is not None else frozenset())


def _typed(expr: pl.Expr, type_: Type) -> pl.Expr:
    """The double that a window gives, in the type it stands for."""
    if type_ == BOOLEAN:
        return expr != 0
    if type_ == TIMESTAMP:
        return expr.cast(pl.Int64).cast(type_.dtype)
    if type_.exact and type_.dtype == pl.Int64:
        return expr.clip(-_LARGEST, _LARGEST).cast(pl.Int64)
    return expr.cast(type_.dtype, strict=False)


_LARGEST = float(np.nextafter(2.0**63, 0))  # double of 64 bits


def _argument(c: Compiler, called: Any, function: str, of: Any) -> tuple[Compiled | None, Type]:
    """What is aggregated, as a double, and the type of the result. None: each row, or its time."""
    if isinstance(of, exp.Star):
        return None, BIGINT
    if isinstance(called, exp.CountIf):
        return _number(c.boolean(of)), BIGINT
    if isinstance(called, exp.LogicalOr | exp.LogicalAnd):
        return _number(c.boolean(of)), BOOLEAN
    if function in ("avg", "stddev_samp", "var_samp"):
        return c.double(of), DOUBLE
    operand = c.compile(of)
    if operand.type.name in ("null", "other"):
        operand = c.number(of, operand)  # NULL is an integer, others are refused
    if operand.text == f'"{c.event_time}"' and function != "sum":
        return None, BIGINT if function == "count_distinct" else TIMESTAMP
    if function == "count_distinct":
        return _distinguished(operand), BIGINT
    if operand.kind == "string":
        c.fail(called, f"{sql_of(called)}: texts are not kept, only counted: use count(DISTINCT x), or CASE inside")
    if function == "sum":
        if operand.kind not in ("number", "boolean"):
            c.fail(called, f"{sql_of(of)} is {a_kind(operand.kind)}; {sql_of(called)} needs a number")
        if operand.type == BOOLEAN or operand.type.name == "integer":
            return _number(operand), integer(INT128)
        if operand.type.exact and operand.type.bound <= _EXACT_DOUBLE:
            return _number(operand), decimal(INT128, operand.type.scale)
        return c.convert(operand, DOUBLE, of), DOUBLE
    if operand.type.name == "decimal" and operand.type.bound > _EXACT_DOUBLE:
        return c.convert(operand, DOUBLE, of), DOUBLE
    return _number(operand), operand.type


def _counted(c: Compiler, of: Any) -> tuple[Compiled, str]:
    """A double that is NULL where what is counted is, the one that other windows over it have; and its text."""
    operand = c.compile(of)
    if operand.type.name in ("null", "other"):
        operand = c.number(of, operand)
    known = join("known", DOUBLE, pl.when(operand.expr.is_not_null()).then(pl.lit(0.0)), operand)
    return known if operand.kind == "string" else _number(operand), known.text


def _share(c: Compiler, called: Any) -> Fraction | None:
    """Which quantile is asked for; None: none is."""
    if isinstance(called, exp.Median):
        return Fraction(1, 2)
    if not isinstance(called, exp.PercentileCont | exp.PercentileDisc | exp.Quantile):
        return None
    written = called.args.get("quantile" if isinstance(called, exp.Quantile) else "expression")
    text = written.name if isinstance(written, exp.Literal) and not written.is_string else ""
    if not _SHARE.fullmatch(text) or Fraction(text) > 1:
        c.fail(called, f"{sql_of(called)}: write the share as a number from 0 to 1, such as quantile_cont(x, 0.9)")
    return Fraction(text)


def _ranked(c: Compiler, called: Any, function: str, of: Any) -> tuple[str, Compiled | None, Type]:
    """The function of a quantile as DuckDB has it for the type of the argument, that, and the type of the result."""
    operand = c.compile(of)
    type_ = operand.type
    if type_.name in ("null", "other"):
        operand = c.number(of, operand)
        type_ = operand.type
    if operand.kind in ("string", "interval") or (type_ == BOOLEAN and isinstance(called, exp.PercentileCont)):
        c.fail(called, f"{sql_of(of)} is {a_kind(operand.kind)}; {sql_of(called)} needs a number or a timestamp")
    if type_ == BOOLEAN:
        return "quantile_disc", _number(operand), type_
    if type_ == TIMESTAMP:
        return function, None if operand.text == f'"{c.event_time}"' else _number(operand), type_
    if type_.name == "decimal" and type_.bound > _EXACT_DOUBLE:
        return function, c.convert(operand, DOUBLE, of), DOUBLE
    if function == "quantile_disc":
        return function, _number(operand), type_
    if type_.name == "decimal":
        if operand.text not in {f'"{name}"' for name in c.fields}:
            c.fail(called, f"{sql_of(called)}: of a decimal that is computed write CAST({sql_of(of)} AS DOUBLE)")
        return "quantile_line", _number(operand), type_
    if type_.name == "float":
        return "quantile_line", _number(operand), type_
    return function, _number(operand), DOUBLE


def _number(operand: Compiled) -> Compiled:
    """The operand as a double: a decimal times 10^scale, a time in microseconds, TRUE as 1."""
    expr = operand.expr.cast(pl.Int64) if operand.type.name in ("timestamp", "interval", "boolean") else operand.expr
    text = f"(scaled {operand.text})" if operand.type.scale else operand.text
    return replace(operand, expr=expr.cast(pl.Float64), type=DOUBLE, text=text)


def _distinguished(operand: Compiled) -> Compiled:
    """The operand as a double that is equal where it is, but for one chance in 2**63."""
    type_ = operand.type
    if type_.name in ("float", "double", "boolean", "timestamp") or (type_.exact and type_.bound <= _EXACT_DOUBLE):
        return _number(operand)
    return join(
        "hash", DOUBLE, operand.expr.map_batches(_hashes, return_dtype=pl.Float64, is_elementwise=True), operand
    )


# The same in each process: what a partition's history knows may come from a snapshot of another one (hashes_stamp).
_SEED = 0x9E3779B97F4A7C15
_FINITE = np.uint64(0xFFFF_FFFF_FFFF_FFFF ^ 1 << 62)  # without this bit no pattern is NaN or infinite


def _hashes(values: pl.Series) -> pl.Series:
    hashed = pl.Series((values.hash(_SEED).to_numpy() & _FINITE).view(np.float64))
    return pl.select(pl.when(values.is_not_null()).then(hashed)).to_series() if values.null_count() else hashed


def hashes_stamp() -> bytes:
    """Another one where hashes are others, as by another release of Polars, or perhaps on another processor."""
    samples = (pl.Series(["a text", ""]), pl.Series([1 << 60]), pl.Series([1 << 70], dtype=pl.Int128))
    return b"".join(values.hash(_SEED).to_numpy().tobytes() for values in samples)


# Which rows are meant.


def _definition(c: Compiler, node: exp.Window) -> exp.Window:
    """What stands in the parentheses behind OVER, or in the WINDOW clause under the name behind it."""
    name = node.args.get("alias")
    if name is None:
        return node
    definition = c.named_windows.get(name.name.lower())
    if definition is None:
        known = ", ".join(c.named_windows) or "none"
        c.fail(node, f"{sql_of(node)}: no window is named {name.name}; the WINDOW clause defines {known}")
    if node.args.get("partition_by") or node.args.get("order") or node.args.get("spec"):
        c.fail(node, f"{sql_of(node)}: a named window can't be extended; write OVER {name.name}")
    return definition


def _key(c: Compiler, node: exp.Window, definition: exp.Window) -> str | None:
    """The field whose rows a window is about; None: the key of the use case."""
    parts = definition.args.get("partition_by") or []
    if len(parts) == 1 and _is(c, parts[0], c.key):
        return None
    field = _field(c, parts[0]) if len(parts) == 1 else None
    if field is None:
        c.fail(node, f"{sql_of(node)}: windows have the form {_form(c)}, or PARTITION BY one other field")
    if field.kind not in ("string", "number") or field.floating or field.label or field.name == c.event_time:
        what = "the label" if field.label else a_kind(field.kind)
        c.fail(node, f"PARTITION BY {field.name}: it is {what}; a key is a text, an int or a long")
    if field.pii and field.kind != "string":
        c.fail(node, f"PARTITION BY {field.name}: personal data (pii: {field.pii}) has a pseudonym only as a text")
    if field.pii:
        c.protected.add(Protected(field.name))  # which stands for it wherever rows of a key are told
    c.second_keys.add(field.name)
    if len(c.second_keys) > 1:
        others = " and ".join(sorted(c.second_keys))
        c.fail(
            node,
            f"windows by {c.key}, {others}: two keys are the most; leave the windows of one of them to a use case of "
            "its own",
        )
    return field.name


def _field(c: Compiler, node: Any) -> Field | None:
    """The field that a column is, or that a pseudonym stands for; None: it is neither."""
    found = c.lookup(node)[1] if isinstance(node, exp.Column) else None
    if isinstance(found, Field):
        return found
    fields = [each.field for each in c.protected if found is not None and found.text == each.text]
    return c.fields[fields[0]] if fields else None


def _form(c: Compiler) -> str:
    range_ = "RANGE BETWEEN INTERVAL '5' MINUTE PRECEDING AND CURRENT ROW"
    return f"OVER (PARTITION BY {c.key} ORDER BY {c.event_time} {range_})"


def _frame(c: Compiler, node: exp.Window, definition: exp.Window) -> Frame:
    form = _form(c)
    order = definition.args["order"].expressions if definition.args.get("order") else []
    if not order:
        c.fail(node, f"{sql_of(node)} has no ORDER BY, so it depends on how rows were cut into blocks; use {form}")
    along = [_is(c, part.this, c.event_time) and not part.args.get("desc") for part in order]
    spec = definition.args.get("spec")
    given = {name: value for name, value in spec.args.items() if value} if spec is not None else {}
    kind, start, start_side = given.pop("kind", None), given.pop("start", None), given.pop("start_side", None)
    end, end_side = given.pop("end", "CURRENT ROW"), given.pop("end_side", None)
    exclude = given.pop("exclude", exp.var("NO OTHERS")).name.upper()
    if (
        along != [True]
        or (kind, start_side) != ("RANGE", "PRECEDING")
        or not isinstance(start, exp.Expression)
        or (
            (end, end_side) != ("CURRENT ROW", None)
            and (end_side != "PRECEDING" or not isinstance(end, exp.Expression))
        )
        or exclude not in ("NO OTHERS", "CURRENT ROW")
        or given
    ):
        why = ""
        if kind not in (None, "RANGE"):
            why = f" {kind} depends on how many rows came, not on time;"
        elif "FOLLOWING" in (start_side, end_side):
            why = " what follows is not known yet when a row is scored;"
        c.fail(node, f"{sql_of(node)}:{why} windows have the form {form}")
    start_us, hop_us = _start(c, start)
    end_us = 0 if end_side is None else _length(c, end, 0)
    if start_us < end_us:
        c.fail(node, f"{sql_of(node)}: the window ends before it starts; write the longer interval first")
    return Frame(start_us, end_us, hop_us, exclude == "CURRENT ROW" and not end_us)


def _is(c: Compiler, node: Any, name: str) -> bool:
    """Whether a column is the key or the event time, or stands for it."""
    found = c.lookup(node)[1] if isinstance(node, exp.Column) else None
    if isinstance(found, Field):
        return found.name == name
    return found is not None and any(each.field == name and each.text == found.text for each in c.protected)


def _start(c: Compiler, node: Any) -> tuple[int, int]:
    """Where a window starts: how long before the row, and to a multiple of what this is rounded down."""
    inner = node.unnest()
    if not isinstance(inner, exp.Sub) or not _is(c, inner.this, c.event_time):
        return _length(c, node, 1), 0
    bucket, hop = inner.expression.unnest(), None
    if isinstance(bucket, exp.DateBin) and {name for name, value in bucket.args.items() if value} <= _TWO:
        hop, back = microseconds(bucket.this), bucket.expression.unnest()
    elif isinstance(bucket, exp.TimestampTrunc | exp.DateTrunc):
        unit = bucket.args["unit"].name
        hop, back = microseconds(exp.Interval(this=exp.Literal.string("1"), unit=exp.var(unit))), bucket.this.unnest()
    if (
        hop is None
        or hop <= 0
        or not isinstance(back, exp.Sub)
        or not _is(c, back.this, c.event_time)
        or _length(c, back.expression, 1) < hop
    ):
        t = c.event_time
        c.fail(
            node,
            f"{sql_of(node)}: a window that starts at a full hour is RANGE BETWEEN "
            f"({t} - time_bucket(INTERVAL '1 hour', {t} - INTERVAL '7 day')) PRECEDING AND CURRENT ROW",
        )
    return _length(c, back.expression, 1), hop


def _length(c: Compiler, node: Any, least: int) -> int:
    """Microseconds of an interval."""
    length = microseconds(node)
    if length is None or not least <= length <= _LONGEST_DAYS * _DAY:
        c.fail(
            node,
            f"{sql_of(node)}: a window is as long as an interval such as '5' MINUTE, '12' HOUR or '30' DAY, at most "
            f"{_LONGEST_DAYS} days",
        )
    return length
