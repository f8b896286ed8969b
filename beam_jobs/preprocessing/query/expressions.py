"""SQL expressions to Polars expressions: the allow-list.

HANDLERS holds what can be computed from one row alone, so no result depends on how rows were cut into blocks. What
the SQL means is fixed here and in functions.py, versioned by SEMANTICS_VERSION; docs/preprocessing.md describes it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
import polars as pl
from sqlglot import exp

from beam_jobs.preprocessing.query.compiler import DTYPES, Compiled, Compiler, Handler, Handlers, join, sql_of
from beam_jobs.preprocessing.query.functions import (
    cast,
    concat,
    extract,
    own_function,
    rounded,
    substring,
    text,
    window,
)

SEMANTICS_VERSION = 2  # raise it when the same SQL gives other values: models trained before no longer match

# Leaves.


def _column(c: Compiler, node: exp.Column) -> Compiled:
    field = c.column(node)
    return Compiled(
        pl.col(field.name),
        field.kind,
        json.dumps(field.name),
        frozenset({field.name}),
        frozenset({field.name} if field.pii else ()),
    )


def _literal(c: Compiler, node: exp.Literal) -> Compiled:
    if node.is_string:
        return Compiled(pl.lit(node.name), "string", f"'{json.dumps(node.name)}'")
    value = float(node.name)
    if not math.isfinite(value):
        c.fail(node, f"{node.name} is too large for a double precision number")
    return Compiled(pl.lit(value, pl.Float64), "number", repr(value))


def _float32_literal(c: Compiler, node: exp.Literal) -> Compiled:
    """A number as a float32 column would hold it."""
    literal = _literal(c, node)
    with np.errstate(over="ignore"):
        value = float(np.float32(node.name)) if literal.kind == "number" else math.inf
    return replace(literal, expr=pl.lit(value, pl.Float64)) if math.isfinite(value) else literal


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
        return join(name, "number", operation(left.expr, right.expr), left, right)

    return handler


def _fmod(operands: Sequence[pl.Series]) -> pl.Series:
    with np.errstate(invalid="ignore"):
        return pl.Series(np.fmod(*(operand.to_numpy() for operand in operands)))


def _remainder(a: pl.Expr, b: pl.Expr) -> pl.Expr:
    # C's fmod, exact and with the sign of the dividend; from a rounded quotient 0.5 % 0.01 would be 0, not 0.00999.
    exact = pl.map_batches([a, b], _fmod, return_dtype=pl.Float64, is_elementwise=True)
    return pl.when(a.is_not_null() & b.is_not_null()).then(exact)


def _function(name: str, operation: Callable[[pl.Expr], pl.Expr]) -> Handler:
    def handler(c: Compiler, node: Any) -> Compiled:
        operand = c.number(node.this)
        return join(name, "number", operation(operand.expr), operand)

    return handler


def _log(c: Compiler, node: exp.Log) -> Compiled:
    if node.args.get("expression") is None:
        operand = c.number(node.this)
        return join("log10", "number", operand.expr.log10(), operand)
    base, operand = c.number(node.this), c.number(node.expression)
    if base.text == "10.0":
        return join("log10", "number", operand.expr.log10(), operand)
    return join("log", "number", operand.expr.log() / base.expr.log(), base, operand)


def _round(c: Compiler, node: exp.Round) -> Compiled:
    operand = c.number(node.this)
    decimals = c.whole_number(node.args.get("decimals"), "ROUND", -15, 15, default=0)
    return join(f"round:{decimals}", "number", rounded(operand.expr, decimals), operand)


# Comparison and logic: three-valued, as in SQL. NaN is equal to itself and above every number (DuckDB, PostgreSQL).


def _compare(name: str, operation: Callable[[pl.Expr, pl.Expr], pl.Expr]) -> Handler:
    def handler(c: Compiler, node: Any) -> Compiled:
        left, right = c.same_kind([node.this, node.expression])
        return join(name, "boolean", operation(left.expr, right.expr), left, right)

    return handler


def _logic(name: str, operation: Callable[[pl.Expr, pl.Expr], pl.Expr]) -> Handler:
    def handler(c: Compiler, node: Any) -> Compiled:
        kind, nodes = type(node), []
        while type(node) is kind:  # a AND b AND c AND ..., perhaps thousands
            nodes.append(node.expression)
            node = node.this
        operands = [c.boolean(operand) for operand in [node, *reversed(nodes)]]
        whole = reduce(lambda left, right: join(name, "boolean", left.expr, left, right), operands)
        return replace(whole, expr=_balanced(operation, [operand.expr for operand in operands]))

    return handler


def _balanced(operation: Callable[[pl.Expr, pl.Expr], pl.Expr], exprs: list[pl.Expr]) -> pl.Expr:
    """All of them under one associative operation, nested as little as can be: Polars' stack ends somewhere."""
    while len(exprs) > 1:
        pairs = [operation(a, b) for a, b in zip(exprs[::2], exprs[1::2], strict=False)]
        exprs = pairs + exprs[len(pairs) * 2 :]
    return exprs[0]


def _not(c: Compiler, node: exp.Not) -> Compiled:
    operand = c.boolean(node.this)
    return join("not", "boolean", ~operand.expr, operand)


def _between(c: Compiler, node: exp.Between) -> Compiled:
    value, low, high = c.same_kind([node.this, node.args["low"], node.args["high"]])
    return join("between", "boolean", (value.expr >= low.expr) & (value.expr <= high.expr), value, low, high)


def _in(c: Compiler, node: exp.In) -> Compiled:
    if node.args.get("query"):
        c.fail(node, "a subquery is not supported: a row must be computed from its own fields")
    value, *choices = c.same_kind([node.this, *node.expressions])
    expr = _balanced(pl.Expr.or_, [value.expr == choice.expr for choice in choices])
    if len(choices) >= _MANY and not any(choice.columns for choice in choices):
        constants = pl.select([choice.expr.alias(str(i)) for i, choice in enumerate(choices)]).row(0)
        if all(constant == constant for constant in constants) and None not in constants:  # no NaN, no NULL
            expr = value.expr.is_in(pl.Series(sorted(set(constants)), dtype=DTYPES.get(value.kind)).implode())
    return join("in", "boolean", expr, value, *choices)


def _is(c: Compiler, node: exp.Is) -> Compiled:
    if isinstance(node.expression, exp.Null):
        operand = c.compile(node.this)
        return join("is_null", "boolean", operand.expr.is_null(), operand)
    if not isinstance(node.expression, exp.Boolean):
        c.fail(node, f"{sql_of(node)} is not supported; use IS [NOT] NULL, TRUE or FALSE")
    operand, truth = c.boolean(node.this), bool(node.expression.this)
    return join(f"is_{truth}".lower(), "boolean", operand.expr.eq_missing(pl.lit(truth)), operand)


def _like(c: Compiler, node: exp.Like) -> Compiled:
    operand = c.string(node.this)
    if not (isinstance(node.expression, exp.Literal) and node.expression.is_string):
        c.fail(node, f"{sql_of(node)}: the pattern of LIKE must be a text in quotes")
    pattern = node.expression.name
    parts = {"%": ".*", "_": "."}
    regex = r"(?s)\A" + "".join(parts.get(char, re.escape(char)) for char in pattern) + r"\z"
    expr = operand.expr.str.contains(regex)
    negate = bool(node.args.get("negate"))
    return join(f"{'not_' if negate else ''}like:{json.dumps(pattern)}", "boolean", ~expr if negate else expr, operand)


# Choice.


def _case(c: Compiler, node: exp.Case) -> Compiled:
    branches = node.args["ifs"]
    default = node.args.get("default")
    values = c.same_kind([branch.args["true"] for branch in branches] + ([default] if default is not None else []))
    if node.this is not None:
        subject, *keys = c.same_kind([node.this, *(branch.this for branch in branches)])
        tests = [join("eq", "boolean", subject.expr == key.expr, subject, key) for key in keys]
    else:
        tests = [c.boolean(branch.this) for branch in branches]
    otherwise = values[len(tests)] if default is not None else Compiled(pl.lit(None), "null", "null")
    expr = otherwise.expr
    for test, value in reversed(list(zip(tests, values, strict=False))):
        expr = pl.when(test.expr).then(value.expr).otherwise(expr)
    parts = [part for pair in zip(tests, values, strict=False) for part in pair]
    return join("case", values[0].kind, expr, *parts, otherwise)


def _coalesce(c: Compiler, node: exp.Coalesce) -> Compiled:
    operands = c.same_kind([node.this, *node.expressions])
    return join("coalesce", operands[0].kind, pl.coalesce(*[o.expr for o in operands]), *operands)


def _nullif(c: Compiler, node: exp.Nullif) -> Compiled:
    value, other = c.same_kind([node.this, node.expression])
    expr = pl.when(value.expr == other.expr).then(pl.lit(None)).otherwise(value.expr)
    return join("nullif", value.kind, expr, value, other)


def _extreme(name: str, wins: Callable[[pl.Expr, pl.Expr], pl.Expr]) -> Handler:
    """LEAST and GREATEST: nulls are skipped (DuckDB, PostgreSQL)."""

    def pick(a: pl.Expr, b: pl.Expr) -> pl.Expr:
        return pl.when(a.is_null() | wins(b, a)).then(b).otherwise(a)

    def handler(c: Compiler, node: Any) -> Compiled:
        operands = [c.number(operand) for operand in (node.this, *node.expressions)]
        return join(name, "number", reduce(pick, [o.expr for o in operands]), *operands)

    return handler


_MANY = 10  # values of an IN: they are looked up, not compared one by one
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
    exp.Cast: (cast, ("this", "to")),
    exp.TryCast: (cast, ("this", "to", "safe")),
    exp.Extract: (extract, _TWO),
    exp.Lower: (text("lower", "string", lambda s: s.str.to_lowercase()), ("this",)),
    exp.Upper: (text("upper", "string", lambda s: s.str.to_uppercase()), ("this",)),
    exp.Length: (text("length", "number", lambda s: s.str.len_chars().cast(pl.Float64)), ("this",)),
    exp.Substring: (substring, ("this", "start", "length")),
    exp.Concat: (concat, ("expressions", "safe", "coalesce")),
    exp.DPipe: (concat, (*_TWO, "safe")),
    exp.Anonymous: (own_function, ("this", "expressions")),
    exp.Window: (window, ("this", "partition_by", "order", "spec", "over", "alias")),
}
