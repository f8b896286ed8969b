"""The functions with more to them: times, text, personal data and windows."""

from __future__ import annotations

import json
from collections.abc import Callable
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
    join,
    pseudonym_column,
    sql_of,
)
from beam_jobs.preprocessing.query.numbers import rounded
from beam_jobs.preprocessing.query.types import DOUBLE, TEXT, Type, column, converted

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
