"""The functions of text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
import pyarrow as pa
from sqlglot import exp

from beam_jobs.preprocessing.query.compiler import Compiled, Compiler, Handler, join
from beam_jobs.preprocessing.query.types import TEXT, Type


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
