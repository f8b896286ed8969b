"""SQL expressions to Polars expressions, by an allow-list.

Each sqlglot node type has a handler here or is refused, and so is each argument of a node that its handler does not
read. The allow-list holds what can be computed from one row alone, so no result depends on how rows were cut into
blocks. The meaning is fixed here and versioned by SEMANTICS_VERSION; docs/preprocessing.md describes it.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any, NoReturn

import polars as pl
from sqlglot import exp

from beam_jobs.errors import UserError
from beam_jobs.preprocessing.fields import Field, Kind
from beam_jobs.preprocessing.pii import MAX_CHARACTERS, MAX_DECIMALS

SEMANTICS_VERSION = 1  # raise it when the same SQL gives other values: models trained before no longer match

_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Compiled:
    """One expression, ready to run."""

    expr: pl.Expr
    kind: Kind
    text: str  # canonical form, independent of spelling and of sqlglot's version; goes into the fingerprint
    columns: frozenset[str] = _NONE  # fields it reads
    raw_pii: frozenset[str] = _NONE  # tagged fields it reads outside pseudonymize() and generalize()


@dataclass(frozen=True)
class WindowFeature:
    """``function(argument) OVER (PARTITION BY key ORDER BY event_time RANGE …)``: recognised, not computed yet."""

    function: str  # "avg", "sum", "min", "max", "count"
    argument: str  # canonical text of the expression it aggregates
    preceding: timedelta  # length of the window, which ends at the row itself


def pseudonym_column(field: str) -> str:
    """Column of the frame that holds the pseudonyms of a field; no Avro name has a colon."""
    return f"pseudonym:{field}"


class Compiler:
    """Compiles the expressions of one query; collects the windows and the pseudonymised fields it meets."""

    def __init__(self, fields: Mapping[str, Field], sql: str, source: str, key: str, event_time: str) -> None:
        self.fields = fields
        self.sql = sql
        self.source = source
        self.key = key
        self.event_time = event_time
        self.tables = {"events"}
        self.windows: list[WindowFeature] = []
        self.pseudonyms: set[str] = set()

    def compile(self, node: Any) -> Compiled:
        entry = _HANDLERS.get(type(node))
        if entry is None:
            self.refuse(node)
        handler, allowed = entry
        for name, value in node.args.items():
            if value and name not in allowed:  # even a flag: NOT LIKE is LIKE with one
                self.fail(node, f"{name.rstrip('_').upper()} is not supported in {_name(node)}")
        return handler(self, node)

    def fail(self, node: Any, message: str) -> NoReturn:
        """Raises the UserError ``message`` with the place of ``node`` in the SQL in front, if it is known."""
        starts = [part.meta["start"] for part in node.walk() if "start" in part.meta] if node is not None else []
        raise UserError(f"{place(self.source, self.sql, min(starts, default=None))}: {message}")

    def number(self, node: Any) -> Compiled:
        """The operand as float64: all arithmetic is done in double precision."""
        return self._typed(node, "number", "a number")

    def string(self, node: Any) -> Compiled:
        return self._typed(node, "string", "a text")

    def boolean(self, node: Any) -> Compiled:
        return self._typed(node, "boolean", "true or false (a comparison)")

    def _typed(self, node: Any, kind: Kind, wanted: str) -> Compiled:
        operand = self.compile(node)
        if operand.kind not in (kind, "null"):
            self.fail(node, f"{_sql(node)} is a {operand.kind}; {_sql(node.parent)} needs {wanted}")
        return replace(operand, expr=operand.expr.cast(_DTYPES[kind]), kind=kind)

    def same_kind(self, nodes: Sequence[Any]) -> list[Compiled]:
        """Operands that must have one type, brought to it."""
        operands = [self.compile(node) for node in nodes]
        kinds = dict.fromkeys(operand.kind for operand in operands if operand.kind != "null")
        if len(kinds) > 1:
            parts = ", ".join(f"{_sql(n)} is a {o.kind}" for n, o in zip(nodes, operands, strict=True))
            self.fail(nodes[0], f"{_sql(nodes[0].parent)} mixes types: {parts}; use CAST")
        kind: Kind = next(iter(kinds), "null")
        if kind == "other":
            self.fail(nodes[0], f"{_sql(nodes[0].parent)} uses a field whose type the SQL can't handle")
        dtype = _DTYPES.get(kind)
        return [replace(o, expr=o.expr if dtype is None else o.expr.cast(dtype), kind=kind) for o in operands]

    def column(self, node: exp.Column) -> Field:
        """The field a column names; without quotes the case may differ, as in SQL."""
        if node.args.get("table") and node.table.lower() not in self.tables:
            self.fail(node, f"{_sql(node)}: nested fields are not supported; use top-level fields of the schema")
        field = self.fields.get(node.name)
        if field is None and not node.this.args.get("quoted"):
            matches = [f for name, f in self.fields.items() if name.lower() == node.name.lower()]
            field = matches[0] if len(matches) == 1 else None
        if field is None:
            self.fail(node, f"unknown column {node.name}{did_you_mean(node.name, self.fields)}")
        if field.label:
            self.fail(node, f"{field.name} is the label: unknown when an event is scored; remove it from the SQL")
        return field

    def refuse(self, node: Any) -> NoReturn:
        name = _name(node)
        function = node.name.lower() if isinstance(node, exp.Anonymous) else name.lower()
        if isinstance(node, exp.Query | exp.Subquery | exp.Exists):
            self.fail(node, "a subquery is not supported: a row must be computed from its own fields")
        if isinstance(node, exp.Star):
            self.fail(node, "* is not supported: name each feature, their order is the model's contract")
        if function in _UNSTABLE or name.startswith("Current"):
            self.fail(node, f"{_sql(node)} gives another value on each replay; use the fields of the event")
        if isinstance(node, exp.AggFunc | exp.IgnoreNulls | exp.RespectNulls | exp.Filter) or function in _ORDERED:
            self.fail(
                node,
                f"{_sql(node)} depends on other rows, so on how they were cut into blocks; "
                "only OVER (PARTITION BY key ORDER BY event_time RANGE ...) defines which rows are meant",
            )
        if isinstance(node, exp.Anonymous):
            self.fail(node, f"unknown function {node.name}{did_you_mean(node.name.lower(), FUNCTIONS)}")
        if isinstance(node, exp.Func) and not isinstance(node, exp.Binary):
            self.fail(node, f"{_sql(node)}: this function is not supported; use one of {', '.join(FUNCTIONS)}")
        self.fail(node, f"{_sql(node)} is not supported; see docs/preprocessing.md for the SQL that is")


def place(source: str, sql: str, start: int | None) -> str:
    """ "preprocess.sql line 2, column 8" of a character of the SQL; only the source if it is not known."""
    if start is None:
        return source
    line = sql.count("\n", 0, start) + 1
    return f"{source} line {line}, column {start - (sql.rfind(chr(10), 0, start) + 1) + 1}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=1, cutoff=0.6)
    if close:
        return f"; did you mean {next(n for n in names if n.lower() == close[0])}?"
    return f"; use one of {', '.join(names)}"


def _name(node: Any) -> str:
    return type(node).__name__


def _sql(node: Any) -> str:
    text = str(node.sql(dialect="duckdb", comments=False))
    return text if len(text) <= 60 else text[:57] + "..."


_DTYPES: dict[Kind, Any] = {"number": pl.Float64, "string": pl.String, "boolean": pl.Boolean}


def _join(name: str, kind: Kind, expr: pl.Expr, *operands: Compiled) -> Compiled:
    return Compiled(
        expr,
        kind,
        f"({name} {' '.join(o.text for o in operands)})",
        frozenset().union(*(o.columns for o in operands)),
        frozenset().union(*(o.raw_pii for o in operands)),
    )


# Leaves.


def _column(c: Compiler, node: exp.Column) -> Compiled:
    field = c.column(node)
    return Compiled(
        pl.col(field.name),
        field.kind,
        json.dumps(field.name),
        frozenset({field.name}),
        frozenset({field.name}) if field.pii else _NONE,
    )


def _literal(c: Compiler, node: exp.Literal) -> Compiled:
    if node.is_string:
        return Compiled(pl.lit(node.name), "string", f"'{json.dumps(node.name)}'")
    value = float(node.name)
    if not math.isfinite(value):
        c.fail(node, f"{node.name} is too large for a double precision number")
    return Compiled(pl.lit(value, pl.Float64), "number", repr(value))


def _true_false(c: Compiler, node: exp.Boolean) -> Compiled:
    return Compiled(pl.lit(bool(node.this)), "boolean", str(bool(node.this)).lower())


def _null(c: Compiler, node: exp.Null) -> Compiled:
    return Compiled(pl.lit(None), "null", "null")


def _paren(c: Compiler, node: exp.Paren) -> Compiled:
    return c.compile(node.this)


# Arithmetic: double precision, NULL if an operand is; x / 0 is infinite or NaN, which ends as an error of the row.


def _arithmetic(name: str, operation: Callable[[pl.Expr, pl.Expr], pl.Expr]) -> Handler:
    def handler(c: Compiler, node: Any) -> Compiled:
        left, right = c.number(node.this), c.number(node.expression)
        return _join(name, "number", operation(left.expr, right.expr), left, right)

    return handler


def _remainder(a: pl.Expr, b: pl.Expr) -> pl.Expr:
    # The sign of the dividend, as in SQL; Polars' own % has the sign of the divisor.
    quotient = (a.abs() / b.abs()).floor()
    return a.sign() * (a.abs() - quotient * b.abs())


def _function(name: str, operation: Callable[[pl.Expr], pl.Expr]) -> Handler:
    def handler(c: Compiler, node: Any) -> Compiled:
        operand = c.number(node.this)
        return _join(name, "number", operation(operand.expr), operand)

    return handler


def _log(c: Compiler, node: exp.Log) -> Compiled:
    if node.args.get("expression") is None:
        operand = c.number(node.this)
        return _join("log10", "number", operand.expr.log10(), operand)
    base, operand = c.number(node.this), c.number(node.expression)
    if base.text == "10.0":
        return _join("log10", "number", operand.expr.log10(), operand)
    return _join("log", "number", operand.expr.log() / base.expr.log(), base, operand)


def _half_away(x: pl.Expr) -> pl.Expr:
    # Polars' own rounding of halves differs between its versions.
    size = x.abs()
    floor = size.floor()
    return x.sign() * (floor + ((size - floor) >= 0.5).cast(pl.Float64))


def _rounded(x: pl.Expr, decimals: int) -> pl.Expr:
    scale = 10.0 ** abs(decimals)
    if decimals == 0:
        return _half_away(x)
    return _half_away(x * scale) / scale if decimals > 0 else _half_away(x / scale) * scale


def _round(c: Compiler, node: exp.Round) -> Compiled:
    operand = c.number(node.this)
    decimals = _integer(c, node.args.get("decimals"), "ROUND", -15, 15, default=0)
    return _join(f"round:{decimals}", "number", _rounded(operand.expr, decimals), operand)


def _integer(c: Compiler, node: Any, what: str, low: int, high: int, default: int | None = None) -> int:
    if node is None and default is not None:
        return default
    text = node.sql().replace(" ", "") if node is not None else "nothing"
    if not re.fullmatch(r"-?\d+", text) or not low <= int(text) <= high:
        c.fail(node, f"{what} got {text}; it needs a whole number from {low} to {high}")
    return int(text)


# Comparison and logic: three-valued, as in SQL. NaN is equal to itself and above every number (DuckDB, PostgreSQL).


def _compare(name: str, operation: Callable[[pl.Expr, pl.Expr], pl.Expr]) -> Handler:
    def handler(c: Compiler, node: Any) -> Compiled:
        left, right = c.same_kind([node.this, node.expression])
        return _join(name, "boolean", operation(left.expr, right.expr), left, right)

    return handler


def _logic(name: str, operation: Callable[[pl.Expr, pl.Expr], pl.Expr]) -> Handler:
    def handler(c: Compiler, node: Any) -> Compiled:
        left, right = c.boolean(node.this), c.boolean(node.expression)
        return _join(name, "boolean", operation(left.expr, right.expr), left, right)

    return handler


def _not(c: Compiler, node: exp.Not) -> Compiled:
    operand = c.boolean(node.this)
    return _join("not", "boolean", ~operand.expr, operand)


def _between(c: Compiler, node: exp.Between) -> Compiled:
    value, low, high = c.same_kind([node.this, node.args["low"], node.args["high"]])
    return _join("between", "boolean", (value.expr >= low.expr) & (value.expr <= high.expr), value, low, high)


def _in(c: Compiler, node: exp.In) -> Compiled:
    if node.args.get("query"):
        c.fail(node, "a subquery is not supported: a row must be computed from its own fields")
    value, *choices = c.same_kind([node.this, *node.expressions])
    equal = [value.expr == choice.expr for choice in choices]
    return _join("in", "boolean", reduce(pl.Expr.or_, equal), value, *choices)


def _is(c: Compiler, node: exp.Is) -> Compiled:
    if isinstance(node.expression, exp.Null):
        operand = c.compile(node.this)
        return _join("is_null", "boolean", operand.expr.is_null(), operand)
    if not isinstance(node.expression, exp.Boolean):
        c.fail(node, f"{_sql(node)} is not supported; use IS [NOT] NULL, TRUE or FALSE")
    operand, truth = c.boolean(node.this), bool(node.expression.this)
    return _join(f"is_{truth}".lower(), "boolean", operand.expr.eq_missing(pl.lit(truth)), operand)


def _like(c: Compiler, node: exp.Like) -> Compiled:
    operand = c.string(node.this)
    if not (isinstance(node.expression, exp.Literal) and node.expression.is_string):
        c.fail(node, f"{_sql(node)}: the pattern of LIKE must be a text in quotes")
    pattern = node.expression.name
    parts = {"%": ".*", "_": "."}
    regex = r"(?s)\A" + "".join(parts.get(char, re.escape(char)) for char in pattern) + r"\z"
    expr = operand.expr.str.contains(regex)
    negate = bool(node.args.get("negate"))
    return _join(f"{'not_' if negate else ''}like:{json.dumps(pattern)}", "boolean", ~expr if negate else expr, operand)


# Choice.


def _case(c: Compiler, node: exp.Case) -> Compiled:
    branches = node.args["ifs"]
    default = node.args.get("default")
    values = c.same_kind([branch.args["true"] for branch in branches] + ([default] if default is not None else []))
    if node.this is not None:
        subject, *keys = c.same_kind([node.this, *(branch.this for branch in branches)])
        tests = [_join("eq", "boolean", subject.expr == key.expr, subject, key) for key in keys]
    else:
        tests = [c.boolean(branch.this) for branch in branches]
    otherwise = values[len(tests)] if default is not None else Compiled(pl.lit(None), "null", "null")
    expr = otherwise.expr
    for test, value in reversed(list(zip(tests, values, strict=False))):
        expr = pl.when(test.expr).then(value.expr).otherwise(expr)
    parts = [part for pair in zip(tests, values, strict=False) for part in pair]
    return _join("case", values[0].kind, expr, *parts, otherwise)


def _coalesce(c: Compiler, node: exp.Coalesce) -> Compiled:
    operands = c.same_kind([node.this, *node.expressions])
    return _join("coalesce", operands[0].kind, pl.coalesce(*[o.expr for o in operands]), *operands)


def _nullif(c: Compiler, node: exp.Nullif) -> Compiled:
    value, other = c.same_kind([node.this, node.expression])
    expr = pl.when(value.expr == other.expr).then(pl.lit(None)).otherwise(value.expr)
    return _join("nullif", value.kind, expr, value, other)


def _extreme(name: str, wins: Callable[[pl.Expr, pl.Expr], pl.Expr]) -> Handler:
    """LEAST and GREATEST: nulls are passed over (DuckDB, PostgreSQL)."""

    def pick(a: pl.Expr, b: pl.Expr) -> pl.Expr:
        return pl.when(a.is_null() | wins(b, a)).then(b).otherwise(a)

    def handler(c: Compiler, node: Any) -> Compiled:
        operands = [c.number(operand) for operand in (node.this, *node.expressions)]
        return _join(name, "number", reduce(pick, [o.expr for o in operands]), *operands)

    return handler


def _cast(c: Compiler, node: exp.Cast) -> Compiled:
    target = node.to.sql().upper()
    if target.startswith("TIMESTAMP") and isinstance(node.this, exp.Literal):
        return _timestamp(c, node)
    operand = c.compile(node.this)
    if target in ("DOUBLE", "FLOAT", "REAL") and operand.kind in ("number", "boolean", "string", "null"):
        return _join("cast:double", "number", operand.expr.cast(pl.Float64, strict=False), operand)
    if target in ("INT", "BIGINT", "INTEGER") and operand.kind in ("number", "boolean", "null"):
        # Halves go to the even neighbour, as in DuckDB; what does not fit is NULL.
        number = operand.expr.cast(pl.Float64)
        even = (number / 2).floor() * 2
        rounded = pl.when((number - even).abs() == 0.5).then(even)
        whole = rounded.when((number - even) == 1.5).then(even + 2).otherwise(_half_away(number))
        limit = 2.0**31 if target != "BIGINT" else 2.0**63
        expr = pl.when((whole >= -limit) & (whole < limit)).then(whole)
        return _join(f"cast:{'bigint' if target == 'BIGINT' else 'int'}", "number", expr, operand)
    if target in ("TEXT", "VARCHAR") and operand.kind in ("string", "null"):
        return _join("cast:text", "string", operand.expr.cast(pl.String), operand)
    c.fail(
        node,
        f"{_sql(node)}: a {operand.kind} can't be cast to {target}; use DOUBLE, INTEGER or BIGINT",
    )


def _timestamp(c: Compiler, node: exp.Cast) -> Compiled:
    try:
        moment = datetime.fromisoformat(node.this.name)
    except ValueError:
        c.fail(node, f"{_sql(node)} is no timestamp; write it as TIMESTAMP '2025-01-31 12:00:00' (UTC)")
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


def _extract(c: Compiler, node: exp.Extract) -> Compiled:
    part = node.this.name.lower()
    if part not in _PARTS:
        c.fail(node, f"EXTRACT({part.upper()} ...) is not supported; use one of {', '.join(_PARTS)}")
    operand = c.compile(node.expression)
    if operand.kind != "timestamp":
        c.fail(node, f"{_sql(node)}: {_sql(node.expression)} is a {operand.kind}; EXTRACT needs a timestamp")
    return _join(f"extract:{part}", "number", _PARTS[part](operand.expr).cast(pl.Float64), operand)


# Text.


def _text(name: str, kind: Kind, operation: Callable[[pl.Expr], pl.Expr]) -> Handler:
    def handler(c: Compiler, node: Any) -> Compiled:
        operand = c.string(node.this)
        return _join(name, kind, operation(operand.expr), operand)

    return handler


def _substring(c: Compiler, node: exp.Substring) -> Compiled:
    operand = c.string(node.this)
    start = _integer(c, node.args.get("start"), "SUBSTRING start", 1, 1_000_000)
    length = _integer(c, node.args.get("length"), "SUBSTRING length", 0, 1_000_000, default=1_000_000)
    return _join(f"substring:{start}:{length}", "string", operand.expr.str.slice(start - 1, length), operand)


def _concat(c: Compiler, node: Any) -> Compiled:
    """CONCAT passes over nulls, || is null if one operand is."""
    piped = isinstance(node, exp.DPipe)
    operands = [c.string(part) for part in ([node.this, node.expression] if piped else node.expressions)]
    expr = pl.concat_str([o.expr for o in operands], ignore_nulls=not piped)
    return _join("pipe" if piped else "concat", "string", expr, *operands)


# Personal data.


def _own_function(c: Compiler, node: exp.Anonymous) -> Compiled:
    name = node.name.lower()
    if name == "pseudonymize":
        return _pseudonymize(c, node)
    if name == "generalize":
        return _generalize(c, node)
    c.refuse(node)


def _plain_argument(c: Compiler, node: exp.Anonymous, count: int, example: str) -> Field:
    if len(node.expressions) != count or not isinstance(node.expressions[0], exp.Column):
        c.fail(node, f"{_sql(node)}: write it as {example}, on a plain column")
    return c.column(node.expressions[0])


def _pseudonymize(c: Compiler, node: exp.Anonymous) -> Compiled:
    field = _plain_argument(c, node, 1, "pseudonymize(column)")
    if field.kind != "string":
        c.fail(
            node, f"{_sql(node)}: {field.name} is a {field.kind}; pseudonymize needs a text, use generalize for numbers"
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
            node, f"{_sql(node)}: {field.name} identifies a person directly; use pseudonymize({field.name}) or drop it"
        )
    if field.kind == "number":
        digits = _integer(c, node.expressions[1], f"generalize({field.name}, ...)", -9, MAX_DECIMALS)
        expr = _rounded(pl.col(field.name).cast(pl.Float64), digits)
    elif field.kind == "string":
        digits = _integer(c, node.expressions[1], f"generalize({field.name}, ...)", 1, MAX_CHARACTERS)
        expr = pl.col(field.name).str.slice(0, digits)
    else:
        c.fail(node, f"{_sql(node)}: {field.name} is a {field.kind}; generalize needs a number or a text")
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


def _window(c: Compiler, node: exp.Window) -> Compiled:
    frame = "RANGE BETWEEN INTERVAL '5' MINUTE PRECEDING AND CURRENT ROW"
    form = f"OVER (PARTITION BY {c.key} ORDER BY {c.event_time} {frame})"
    partition = [part.name for part in node.args.get("partition_by") or [] if isinstance(part, exp.Column)]
    order = [
        (o.this.name, bool(o.args.get("desc")))
        for o in (node.args["order"].expressions if node.args.get("order") else [])
    ]
    if not order:
        c.fail(node, f"{_sql(node)} has no ORDER BY, so it depends on how rows were cut into blocks; use {form}")
    function = _WINDOW_FUNCTIONS.get(type(node.this))
    if function is None:
        c.fail(node, f"{_sql(node.this)} is not supported as a window; use {', '.join(_WINDOW_FUNCTIONS.values())}")
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
        c.fail(node, f"{_sql(node)}: windows have the form {form}")
    length = timedelta(seconds=float(start.this.name) * _SECONDS[start.unit.name.upper()])
    argument = (
        c.compile(node.this.this) if not isinstance(node.this.this, exp.Star) else Compiled(pl.lit(1), "number", "*")
    )
    c.windows.append(WindowFeature(function, argument.text, length))
    c.fail(node, f"{_sql(node)}: window features are not supported yet by this version; remove the column")


Handler = Callable[[Compiler, Any], Compiled]

_TWO = ("this", "expression")
_SAFE = ("typed", "safe")  # flags of sqlglot that do not change what is computed here

_HANDLERS: dict[type[Any], tuple[Handler, Sequence[str]]] = {
    exp.Column: (_column, ("this", "table")),
    exp.Literal: (_literal, ("this", "is_string")),
    exp.Boolean: (_true_false, ("this",)),
    exp.Null: (_null, ()),
    exp.Paren: (_paren, ("this",)),
    exp.Neg: (_function("neg", lambda x: -x), ("this",)),
    exp.Add: (_arithmetic("add", lambda a, b: a + b), (*_TWO, *_SAFE)),
    exp.Sub: (_arithmetic("sub", lambda a, b: a - b), (*_TWO, *_SAFE)),
    exp.Mul: (_arithmetic("mul", lambda a, b: a * b), (*_TWO, *_SAFE)),
    exp.Div: (_arithmetic("div", lambda a, b: a / b), (*_TWO, *_SAFE)),
    exp.Mod: (_arithmetic("mod", _remainder), (*_TWO, *_SAFE)),
    exp.Pow: (_arithmetic("pow", lambda a, b: a.pow(b)), (*_TWO, *_SAFE)),
    exp.Abs: (_function("abs", pl.Expr.abs), ("this",)),
    exp.Sqrt: (_function("sqrt", pl.Expr.sqrt), ("this",)),
    exp.Exp: (_function("exp", pl.Expr.exp), ("this",)),
    exp.Ln: (_function("ln", lambda x: x.log()), ("this",)),
    exp.Log: (_log, _TWO),
    exp.Sign: (_function("sign", pl.Expr.sign), ("this",)),
    exp.Floor: (_function("floor", pl.Expr.floor), ("this",)),
    exp.Ceil: (_function("ceil", pl.Expr.ceil), ("this",)),
    exp.Round: (_round, ("this", "decimals")),
    exp.EQ: (_compare("eq", pl.Expr.eq), _TWO),
    exp.NEQ: (_compare("ne", pl.Expr.ne), _TWO),
    exp.LT: (_compare("lt", pl.Expr.lt), _TWO),
    exp.LTE: (_compare("le", pl.Expr.le), _TWO),
    exp.GT: (_compare("gt", pl.Expr.gt), _TWO),
    exp.GTE: (_compare("ge", pl.Expr.ge), _TWO),
    exp.NullSafeEQ: (_compare("not_distinct", pl.Expr.eq_missing), _TWO),
    exp.NullSafeNEQ: (_compare("distinct", pl.Expr.ne_missing), _TWO),
    exp.And: (_logic("and", lambda a, b: a & b), _TWO),
    exp.Or: (_logic("or", lambda a, b: a | b), _TWO),
    exp.Not: (_not, ("this",)),
    exp.Between: (_between, ("this", "low", "high")),
    exp.In: (_in, ("this", "expressions", "query")),
    exp.Is: (_is, _TWO),
    exp.Like: (_like, (*_TWO, "negate")),
    exp.Case: (_case, ("this", "ifs", "default")),
    exp.Coalesce: (_coalesce, ("this", "expressions")),
    exp.Nullif: (_nullif, _TWO),
    exp.Least: (_extreme("least", lambda a, b: a < b), ("this", "expressions", "ignore_nulls")),
    exp.Greatest: (_extreme("greatest", lambda a, b: a > b), ("this", "expressions", "ignore_nulls")),
    exp.Cast: (_cast, ("this", "to")),
    exp.TryCast: (_cast, ("this", "to", "safe")),
    exp.Extract: (_extract, _TWO),
    exp.Lower: (_text("lower", "string", lambda s: s.str.to_lowercase()), ("this",)),
    exp.Upper: (_text("upper", "string", lambda s: s.str.to_uppercase()), ("this",)),
    exp.Length: (_text("length", "number", lambda s: s.str.len_chars().cast(pl.Float64)), ("this",)),
    exp.Substring: (_substring, ("this", "start", "length")),
    exp.Concat: (_concat, ("expressions", "safe", "coalesce")),
    exp.DPipe: (_concat, (*_TWO, "safe")),
    exp.Anonymous: (_own_function, ("this", "expressions")),
    exp.Window: (_window, ("this", "partition_by", "order", "spec", "over")),
}

FUNCTIONS = (
    *(
        "abs",
        "sqrt",
        "exp",
        "ln",
        "log",
        "log10",
        "power",
        "sign",
        "floor",
        "ceil",
        "round",
        "mod",
        "least",
        "greatest",
    ),
    *("coalesce", "nullif", "cast", "extract", "lower", "upper", "length", "substring", "concat"),
    *("pseudonymize", "generalize"),
)
"""Functions the SQL may use, beside operators, CASE, BETWEEN, IN, LIKE and IS."""

_UNSTABLE = {
    "rand",
    "random",
    "randn",
    "uuid",
    "now",
    "today",
    "setseed",
    "txid_current",
    "nextval",
    "currval",
    "localtime",
}
_UNSTABLE |= {"localtimestamp", "transaction_timestamp", "get_current_timestamp", "gen_random_uuid", "uuidv4", "uuidv7"}
_ORDERED = {"rownumber", "rank", "denserank", "percentrank", "cumedist", "ntile", "lag", "lead", "first", "last"}
_ORDERED |= {"firstvalue", "lastvalue", "nthvalue", "row_number", "dense_rank", "percent_rank", "cume_dist"}
