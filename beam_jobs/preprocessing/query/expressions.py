"""SQL expressions to Polars expressions: the allow-list.

HANDLERS holds what can be computed from one row alone, so no result depends on how rows were cut into blocks. What
the SQL means is fixed here and in the files beside it, versioned by SEMANTICS_VERSION; docs/preprocessing.md has it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import polars as pl
import pyarrow.compute as pc
from sqlglot import exp

from beam_jobs.preprocessing.query.compiler import DEEPEST, Compiled, Compiler, Handler, Handlers, join, sql_of
from beam_jobs.preprocessing.query.functions import concat, letters, substring, text
from beam_jobs.preprocessing.query.numbers import (
    absolute,
    arithmetic,
    atan2,
    cast,
    divide,
    function,
    log,
    negative,
    power,
    remainder,
    round_,
    sign,
    whole,
)
from beam_jobs.preprocessing.query.personal import own_function
from beam_jobs.preprocessing.query.times import TO, date_diff, epoch, extract, interval, timestamp
from beam_jobs.preprocessing.query.types import (
    BIGINT,
    BOOLEAN,
    DOUBLE,
    FLOAT,
    NULL,
    TEXT,
    Type,
    column,
    constant,
    number,
)
from beam_jobs.preprocessing.query.windows import window

SEMANTICS_VERSION = 3  # raise it when the same SQL gives other values: models trained before no longer match

# Leaves.


def _column(c: Compiler, node: exp.Column) -> Compiled:
    _, field = c.lookup(node)
    if isinstance(field, Compiled):
        return field
    expr, type_ = column(field)
    pii = frozenset({field.name} if field.pii else ())
    return Compiled(expr, type_, json.dumps(field.name), frozenset({field.name}), pii)


def _literal(c: Compiler, node: exp.Literal) -> Compiled:
    if node.is_string:
        return Compiled(pl.lit(node.name), TEXT, f"'{json.dumps(node.name)}'", constant=node.name)
    found = number(node.name)
    if found is None:
        c.fail(node, f"{node.name} is no number; write it as 12, 0.5 or 1e-3")
    type_, value = found
    if not math.isfinite(value):
        c.fail(node, f"{node.name} is too large for a double precision number")
    return _number(value, type_)


def _number(value: int | float, type_: Type) -> Compiled:
    text = repr(value)
    if type_.exact:
        digits, scale = value, type_.scale  # 1.50 is 1.5
        while scale and digits % 10 == 0:
            digits, scale = digits // 10, scale - 1
        text = f"{digits}/1e{scale}" if scale else str(digits)
    return Compiled(pl.lit(value, type_.dtype), type_, text, constant=value)


def _float32_literal(c: Compiler, node: exp.Literal) -> Compiled:
    """A number as a float32 column would hold it, if it would."""
    literal = _literal(c, node)
    if literal.kind != "number":
        return literal
    value = constant(literal.constant, literal.type, FLOAT)
    return _number(value, FLOAT) if math.isfinite(value) else literal


def _cast(c: Compiler, node: exp.Cast) -> Compiled:
    if node.to.this == exp.DataType.Type.INTERVAL and isinstance(node.this, exp.Literal):
        return interval(c, node)
    if node.to.sql(dialect="duckdb") == "TIMESTAMP" and isinstance(node.this, exp.Literal):
        return timestamp(c, node)
    return cast(c, node)


def _true_false(c: Compiler, node: exp.Boolean) -> Compiled:
    value = bool(node.this)
    return Compiled(pl.lit(value), BOOLEAN, str(value).lower(), constant=value)


def _pi(c: Compiler, node: exp.Pi) -> Compiled:
    return _number(math.pi, DOUBLE)


def _null(c: Compiler, node: exp.Null) -> Compiled:
    return Compiled(pl.lit(None), NULL, "null")


def _paren(c: Compiler, node: exp.Paren) -> Compiled:
    return c.compile(node.this)


# Comparison and logic: three-valued, as in SQL. NaN is equal to itself and above every number (DuckDB, PostgreSQL).


_COMPARISONS: dict[str, Callable[[pl.Expr, pl.Expr], pl.Expr]] = {
    "eq": pl.Expr.eq,
    "ne": pl.Expr.ne,
    "lt": pl.Expr.lt,
    "le": pl.Expr.le,
    "gt": pl.Expr.gt,
    "ge": pl.Expr.ge,
    "not_distinct": pl.Expr.eq_missing,
    "distinct": pl.Expr.ne_missing,
}
_MIRRORED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}


def _compared(name: str, left: Compiled, right: Compiled) -> pl.Expr:
    """The comparison of two operands of one type."""
    if not left.columns:  # Polars makes one row of a literal on the left and a column that is one value
        name, left, right = _MIRRORED.get(name, name), right, left
    return _COMPARISONS[name](left.expr, right.expr)


def _compare(name: str) -> Handler:
    def handler(c: Compiler, node: Any) -> Compiled:
        left, right = c.same_kind([node.this, node.expression])
        return join(name, BOOLEAN, _compared(name, left, right), left, right)

    return handler


def _logic(name: str, operation: Callable[[pl.Expr, pl.Expr], pl.Expr]) -> Handler:
    def handler(c: Compiler, node: Any) -> Compiled:
        kind, nodes = type(node), []
        while type(node) is kind:  # a AND b AND c AND ..., perhaps thousands
            nodes.append(node.expression)
            node = node.this
        operands = [c.boolean(operand) for operand in [node, *reversed(nodes)]]
        whole = join(name, BOOLEAN, _balanced(operation, [operand.expr for operand in operands]), *operands)
        text = f"({name} " * len(nodes) + operands[0].text + "".join(f" {operand.text})" for operand in operands[1:])
        return replace(whole, text=text, depth=whole.depth + len(operands).bit_length())

    return handler


def _balanced(operation: Callable[[pl.Expr, pl.Expr], pl.Expr], exprs: list[pl.Expr]) -> pl.Expr:
    """All of them under one associative operation, nested as little as can be: Polars' stack ends somewhere."""
    while len(exprs) > 1:
        pairs = [operation(a, b) for a, b in zip(exprs[::2], exprs[1::2], strict=False)]
        exprs = pairs + exprs[len(pairs) * 2 :]
    return exprs[0]


def _not(c: Compiler, node: exp.Not) -> Compiled:
    operand = c.boolean(node.this)
    return join("not", BOOLEAN, ~operand.expr, operand)


def _between(c: Compiler, node: exp.Between) -> Compiled:
    value, low, high = c.same_kind([node.this, node.args["low"], node.args["high"]])
    value = c.once(value)
    return join("between", BOOLEAN, _compared("ge", value, low) & _compared("le", value, high), value, low, high)


def _in(c: Compiler, node: exp.In) -> Compiled:
    """Literals are looked up in a set, however many; others are compared one by one."""
    if node.args.get("query"):
        c.fail(node, "a subquery is not supported: a row must be computed from its own fields")
    value, *choices = c.same_kind([node.this, *node.expressions])
    value = c.once(value)
    constants = {choice.constant for choice in choices if choice.constant is not None}
    tests = [_compared("eq", value, choice) for choice in choices if choice.constant is None]
    if constants or not tests:
        dtype = pl.Boolean if value.type == NULL else value.type.dtype
        tests.append(value.expr.cast(dtype).is_in(pl.Series(sorted(constants), dtype=dtype).implode()))
    expr = _balanced(pl.Expr.or_, tests)
    return join("in", BOOLEAN, expr, value, *choices)


def _is(c: Compiler, node: exp.Is) -> Compiled:
    if isinstance(node.expression, exp.Null):
        operand = c.compile(node.this)
        return join("is_null", BOOLEAN, operand.expr.is_null(), operand)
    if not isinstance(node.expression, exp.Boolean):
        c.fail(node, f"{sql_of(node)} is not supported; use IS [NOT] NULL, TRUE or FALSE")
    operand, truth = c.boolean(node.this), bool(node.expression.this)
    return join(f"is_{truth}".lower(), BOOLEAN, operand.expr.eq_missing(pl.lit(truth)), operand)


def _like(c: Compiler, node: exp.Like) -> Compiled:
    operand = c.string(node.this)
    if not (isinstance(node.expression, exp.Literal) and node.expression.is_string):
        c.fail(node, f"{sql_of(node)}: the pattern of LIKE must be a text in quotes")
    pattern = node.expression.name
    parts = {"%": ".*", "_": "."}
    regex = r"(?s)\A" + "".join(parts.get(char, re.escape(char)) for char in pattern) + r"\z"
    expr = operand.expr.str.contains(regex)
    negate = bool(node.args.get("negate"))
    return join(f"{'not_' if negate else ''}like:{json.dumps(pattern)}", BOOLEAN, ~expr if negate else expr, operand)


# Choice.


def _if(c: Compiler, node: exp.If) -> Compiled:
    """if(a > b, x, y)"""
    branch = exp.If(this=node.this, true=node.args["true"])
    return c.compile(exp.Case(ifs=[branch], default=node.args.get("false")))


def _case(c: Compiler, node: exp.Case) -> Compiled:
    ifs, default = node.args["ifs"], node.args.get("default")
    chosen = [branch.args["true"] for branch in ifs] + ([default] if default is not None else [])
    values = c.same_kind(chosen)
    if node.this is not None:
        subject = c.once(c.compile(node.this))
        tests = []
        for branch in ifs:
            left, right = c.alike([subject, c.compile(branch.this)], [node.this, branch.this])
            tests.append(join("eq", BOOLEAN, _compared("eq", left, right), left, right))
    else:
        tests = [c.boolean(branch.this) for branch in ifs]
    nothing = Compiled(pl.lit(None), NULL, "null")
    otherwise = values[len(tests)] if default is not None else c.convert(nothing, values[0].type, node)
    branches = []
    for test, value in zip(tests, values, strict=False):
        if test.columns:
            branches.append((test, value))
        elif c.once(test).constant:
            otherwise = value
            break
    result = otherwise
    for test, value in reversed(branches):
        expr = pl.when(test.expr).then(value.expr).otherwise(result.expr)
        result = join("", values[0].type, expr, test, value, result)
        if result.depth >= DEEPEST:
            result = c.once(result)
    whole = join("case", values[0].type, result.expr, *(part for branch in branches for part in branch), otherwise)
    return replace(whole, steps=result.steps, depth=result.depth, constant=result.constant)


def _coalesce(c: Compiler, node: exp.Coalesce) -> Compiled:
    operands = c.same_kind([node.this, *node.expressions])
    known = next((i for i, operand in enumerate(operands) if operand.constant is not None), len(operands))
    operands = operands[: known + 1]  # those after a value that is never NULL say nothing
    if len(operands) == 1:
        return operands[0]
    return join("coalesce", operands[0].type, pl.coalesce(*[o.expr for o in operands]), *operands)


def _nullif(c: Compiler, node: exp.Nullif) -> Compiled:
    """Compared in the type that holds both, but of the type of the first."""
    operands = [c.once(c.compile(node.this)), c.compile(node.expression)]
    value, other = c.alike(operands, [node.this, node.expression])
    expr = pl.when(_compared("eq", value, other).fill_null(False)).then(pl.lit(None)).otherwise(operands[0].expr)
    return join("nullif", operands[0].type, expr, value, other)


def _extreme(name: str, horizontal: Callable[..., pl.Expr]) -> Handler:
    """LEAST and GREATEST: nulls are skipped, NaN is above every number."""

    def handler(c: Compiler, node: Any) -> Compiled:
        nodes = [node.this, *node.expressions]
        operands = [c.once(o) for o in c.alike([c.number(operand) for operand in nodes], nodes)]
        type_ = operands[0].type
        expr = horizontal([o.expr for o in operands])
        if name == "greatest" and not type_.exact:  # Polars passes over a NaN
            expr = pl.when(pl.any_horizontal([o.expr.is_nan() for o in operands])).then(math.nan).otherwise(expr)
        return join(name, type_, expr.cast(type_.dtype), *operands)

    return handler


def _called(c: Compiler, node: exp.Anonymous) -> Compiled:
    return interval(c, node) if node.name.lower() in TO else own_function(c, node)


_TWO = ("this", "expression")
_SAFE = ("typed", "safe")  # flags of sqlglot that do not change what is computed here

_LITERAL = ("this", "is_string")
float32_literal = (_float32_literal, _LITERAL)

HANDLERS: Handlers = {
    exp.Column: (_column, ("this", "table")),
    exp.Literal: (_literal, _LITERAL),
    exp.Boolean: (_true_false, ("this",)),
    exp.Null: (_null, ()),
    exp.Paren: (_paren, ("this",)),
    exp.Neg: (negative, ("this",)),
    exp.Add: (arithmetic("add", lambda a, b: a + b, lambda a, b: a + b), (*_TWO, *_SAFE)),
    exp.Sub: (arithmetic("sub", lambda a, b: a - b, lambda a, b: a + b), (*_TWO, *_SAFE)),
    exp.Mul: (arithmetic("mul", lambda a, b: a * b, lambda a, b: a * b), (*_TWO, *_SAFE)),
    exp.Div: (divide, (*_TWO, *_SAFE)),
    exp.Mod: (remainder, (*_TWO, *_SAFE)),
    exp.Pow: (power, (*_TWO, *_SAFE)),
    exp.Abs: (absolute, ("this",)),
    exp.Sqrt: (function("sqrt", pl.Expr.sqrt), ("this",)),
    exp.Exp: (function("exp", pl.Expr.exp), ("this",)),
    exp.Ln: (function("ln", lambda x: x.log()), ("this",)),
    exp.Log: (log, _TWO),
    exp.Sin: (function("sin", pl.Expr.sin), ("this",)),
    exp.Cos: (function("cos", pl.Expr.cos), ("this",)),
    exp.Tan: (function("tan", pl.Expr.tan), ("this",)),
    exp.Asin: (function("asin", pl.Expr.arcsin), ("this",)),
    exp.Acos: (function("acos", pl.Expr.arccos), ("this",)),
    exp.Atan: (function("atan", pl.Expr.arctan), ("this",)),
    exp.Atan2: (atan2, _TWO),
    exp.Radians: (function("radians", pl.Expr.radians), ("this",)),
    exp.Degrees: (function("degrees", pl.Expr.degrees), ("this",)),
    exp.Pi: (_pi, ()),
    exp.Sign: (sign, ("this",)),
    exp.Floor: (whole("floor", pl.Expr.floor), ("this",)),
    exp.Ceil: (whole("ceil", pl.Expr.ceil), ("this",)),
    exp.Round: (round_, ("this", "decimals")),
    exp.EQ: (_compare("eq"), _TWO),
    exp.NEQ: (_compare("ne"), _TWO),
    exp.LT: (_compare("lt"), _TWO),
    exp.LTE: (_compare("le"), _TWO),
    exp.GT: (_compare("gt"), _TWO),
    exp.GTE: (_compare("ge"), _TWO),
    exp.NullSafeEQ: (_compare("not_distinct"), _TWO),
    exp.NullSafeNEQ: (_compare("distinct"), _TWO),
    exp.And: (_logic("and", lambda a, b: a & b), _TWO),
    exp.Or: (_logic("or", lambda a, b: a | b), _TWO),
    exp.Not: (_not, ("this",)),
    exp.Between: (_between, ("this", "low", "high")),
    exp.In: (_in, ("this", "expressions", "query")),
    exp.Is: (_is, _TWO),
    exp.Like: (_like, (*_TWO, "negate")),
    exp.Case: (_case, ("this", "ifs", "default")),
    exp.If: (_if, ("this", "true", "false")),
    exp.Coalesce: (_coalesce, ("this", "expressions")),
    exp.Nullif: (_nullif, _TWO),
    exp.Least: (_extreme("least", pl.min_horizontal), ("this", "expressions", "ignore_nulls")),
    exp.Greatest: (_extreme("greatest", pl.max_horizontal), ("this", "expressions", "ignore_nulls")),
    exp.Cast: (_cast, ("this", "to")),
    exp.TryCast: (_cast, ("this", "to", "safe")),
    exp.Extract: (extract, _TWO),
    exp.TimeToUnix: (epoch, ("this",)),
    exp.DateDiff: (date_diff, (*_TWO, "unit", "date_part_boundary")),
    exp.Interval: (interval, ("this", "unit", "fraction_in_string")),
    exp.Lower: (text("lower", TEXT, letters(pc.utf8_lower)), ("this",)),
    exp.Upper: (text("upper", TEXT, letters(pc.utf8_upper)), ("this",)),
    exp.Length: (text("length", BIGINT, lambda s: s.str.len_chars().cast(pl.Int64)), ("this",)),
    exp.Substring: (substring, ("this", "start", "length")),
    exp.Concat: (concat, ("expressions", "safe", "coalesce")),
    exp.DPipe: (concat, (*_TWO, "safe")),
    exp.ToDays: (interval, ("this",)),
    exp.Anonymous: (_called, ("this", "expressions")),
    exp.Window: (window, ("this", "partition_by", "order", "spec", "over", "alias")),
}
