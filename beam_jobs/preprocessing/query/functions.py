"""The functions with more to them: times, text, personal data and windows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa
from sqlglot import exp

from beam_jobs.preprocessing.fields import Field
from beam_jobs.preprocessing.pii import MAX_CHARACTERS, MAX_DECIMALS
from beam_jobs.preprocessing.query.compiler import (
    Compiled,
    Compiler,
    Handler,
    WindowFeature,
    join,
    pseudonym_column,
    sql_of,
)
from beam_jobs.preprocessing.query.numbers import rounded
from beam_jobs.preprocessing.query.types import BIGINT, DOUBLE, TEXT, TIMESTAMP, Type, column, converted

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
    if part not in _PARTS:
        c.fail(node, f"EXTRACT({part.upper()} ...) is not supported; use one of {', '.join(_PARTS)}")
    operand = c.compile(node.expression)
    if operand.kind != "timestamp":
        c.fail(node, f"{sql_of(node)}: {sql_of(node.expression)} is a {operand.kind}; EXTRACT needs a timestamp")
    return join(f"extract:{part}", BIGINT, _PARTS[part](operand.expr).cast(pl.Int64), operand)


# Text.


def text(name: str, type_: Type, operation: Callable[[pl.Expr], pl.Expr]) -> Handler:
    def handler(c: Compiler, node: Any) -> Compiled:
        operand = c.string(node.this)
        return join(name, type_, operation(operand.expr), operand)

    return handler


def letters(function: Callable[[pa.Array], pa.Array]) -> Callable[[pl.Expr], pl.Expr]:
    """LOWER or UPPER of letter by letter, as DuckDB has it, by the library it takes; Polars makes SS of ß."""

    def run(texts: pl.Series) -> pl.Series:
        return pl.Series(function(texts.to_arrow().cast(pa.large_string())))

    return lambda expr: expr.map_batches(run, return_dtype=pl.String, is_elementwise=True)


def substring(c: Compiler, node: exp.Substring) -> Compiled:
    operand = c.string(node.this)
    start = c.whole_number(node.args.get("start"), "SUBSTRING start", 1, 1_000_000)
    length = c.whole_number(node.args.get("length"), "SUBSTRING length", 0, 1_000_000, default=1_000_000)
    return join(f"substring:{start}:{length}", TEXT, operand.expr.str.slice(start - 1, length), operand)


def concat(c: Compiler, node: Any) -> Compiled:
    """CONCAT skips nulls, || is null if one operand is."""
    piped = isinstance(node, exp.DPipe)
    operands = [c.string(part) for part in ([node.this, node.expression] if piped else node.expressions)]
    expr = pl.concat_str([o.expr for o in operands], ignore_nulls=not piped)
    return join("pipe" if piped else "concat", TEXT, expr, *operands)


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
        TEXT,
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
        type_, expr = DOUBLE, rounded(converted(*column(field), DOUBLE), DOUBLE, digits)
    elif field.kind == "string":
        digits = c.whole_number(node.expressions[1], f"generalize({field.name}, ...)", 1, MAX_CHARACTERS)
        type_, expr = TEXT, pl.col(field.name).str.slice(0, digits)
    else:
        c.fail(node, f"{sql_of(node)}: {field.name} is a {field.kind}; generalize needs a number or a text")
    return Compiled(expr, type_, f"(generalize:{digits} {json.dumps(field.name)})", frozenset({field.name}))


# Windows: the one form that says which other rows are meant.

_WINDOW_FUNCTIONS: dict[type[exp.Expression], str] = {
    exp.Avg: "avg",
    exp.Sum: "sum",
    exp.Count: "count",
    exp.Min: "min",
    exp.Max: "max",
    exp.Stddev: "stddev_samp",
    exp.StddevSamp: "stddev_samp",
}
_MILLISECONDS = {"SECOND": 1000, "MINUTE": 60_000, "HOUR": 3_600_000, "DAY": 86_400_000}
_LONGEST_DAYS = 31  # every row of a window is held in memory


def window(c: Compiler, node: exp.Window) -> Compiled:
    """The value of a window: a column of the frame, filled before the expressions around it are computed."""
    function = _WINDOW_FUNCTIONS.get(type(node.this))
    if function is None:
        names = ", ".join(dict.fromkeys(_WINDOW_FUNCTIONS.values()))
        c.fail(
            node, f"{sql_of(node.this)} is not supported as a window; use one of {names} (CASE inside can choose rows)"
        )
    milliseconds = _length(c, node, _definition(c, node))
    called = node.this
    if called.args.get("expressions") or isinstance(called.this, exp.Distinct | exp.Order):
        c.fail(node, f"{sql_of(called)} is not supported as a window; it takes one argument and nothing else")
    if called.this.find(exp.Window):
        c.fail(node, f"{sql_of(node)}: a window of a window is not supported; use the field itself")
    if isinstance(called.this, exp.Star):
        argument = Compiled(pl.lit(0.0), DOUBLE, "*")
    elif function == "count":
        counted = c.compile(called.this)
        argument = join("known", DOUBLE, pl.when(counted.expr.is_not_null()).then(pl.lit(0.0)), counted)
    else:
        argument = c.double(called.this)
    text = f"(over:{function}:{milliseconds} {argument.text})"
    if text not in c.windows:
        c.windows[text] = WindowFeature(function, argument, milliseconds, f"window:{len(c.windows)}")
    return Compiled(pl.col(c.windows[text].column), DOUBLE, text, argument.columns | {c.event_time}, argument.raw_pii)


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


def _length(c: Compiler, node: exp.Window, definition: exp.Window) -> int:
    """Milliseconds of the one form of window there is."""
    frame = "RANGE BETWEEN INTERVAL '5' MINUTE PRECEDING AND CURRENT ROW"
    form = f"OVER (PARTITION BY {c.key} ORDER BY {c.event_time} {frame})"
    order = definition.args["order"].expressions if definition.args.get("order") else []
    if not order:
        c.fail(node, f"{sql_of(node)} has no ORDER BY, so it depends on how rows were cut into blocks; use {form}")
    by = [
        c.column(part).name if isinstance(part, exp.Column) else ""
        for part in definition.args.get("partition_by") or []
    ]
    along = [c.column(o.this).name if isinstance(o.this, exp.Column) and not o.args.get("desc") else "" for o in order]
    spec = definition.args.get("spec")
    given = {name: value for name, value in spec.args.items() if value} if spec is not None else {}
    start = given.pop("start", None)
    if (
        by != [c.key]
        or along != [c.event_time]
        or given.pop("kind", None) != "RANGE"
        or given.pop("start_side", None) != "PRECEDING"
        or given.pop("end", "CURRENT ROW") != "CURRENT ROW"
        or given
        or not isinstance(start, exp.Interval)
    ):
        c.fail(node, f"{sql_of(node)}: windows have the form {form}")
    amount = start.this.name if isinstance(start.this, exp.Literal) else ""
    unit = start.unit.name.upper().removesuffix("S") if isinstance(start.unit, exp.Var) else ""
    longest = _LONGEST_DAYS * _MILLISECONDS["DAY"]
    if not re.fullmatch(r"\d{1,9}", amount) or not 0 < int(amount) * _MILLISECONDS.get(unit, 0) <= longest:
        units = ", ".join(_MILLISECONDS)
        c.fail(node, f"{sql_of(start)}: a window is a whole number of {units}, at most {_LONGEST_DAYS} days")
    return int(amount) * _MILLISECONDS[unit]
