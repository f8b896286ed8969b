"""Thousands of expressions at random mean what DuckDB makes of them: every type, edge values, NULL, NaN, infinities."""

from __future__ import annotations

import math
import random
from decimal import Decimal
from fractions import Fraction
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from sqlglot import exp

from beam_jobs.errors import UserError
from beam_jobs.preprocessing.fields import fields_of
from beam_jobs.preprocessing.query.compiler import Compiled, Compiler, with_steps
from beam_jobs.preprocessing.query.expressions import HANDLERS
from beam_jobs.preprocessing.query.parser import parse
from tests.property.sql_expressions import SCHEMA, Generator, rows

SEEDS, EXPRESSIONS, AT_ONCE, ROWS = 8, 1250, 125, 20
ARROW = {"float": pa.float32(), "double": pa.float64(), "boolean": pa.bool_(), "text": pa.string()}


class Watching(Compiler):
    """A compiler that knows whether a decimal got near 38 digits, where DuckDB drops digits (docs/preprocessing.md)."""

    large = False

    def compile(self, node: Any) -> Compiled:
        compiled = super().compile(node)
        self.large |= compiled.type.name == "decimal" and compiled.type.bound > 10**33
        return compiled


def compiled(compiler: Watching, expression: str) -> Compiled | None:
    """None: refused, or with decimals too large to compare."""
    compiler.sql, compiler.large = expression, False
    try:
        value = compiler.compile(parse(expression, "SQL", "an expression", exp.Condition))
    except UserError:
        return None
    return None if compiler.large else value


def ours(values: list[Compiled], block: pa.RecordBatch) -> list[list[Any]]:
    """Of each value the rows; exact numbers as fractions."""
    frame = with_steps(pl.DataFrame(pl.from_arrow(block)), values)
    found = frame.select(value.expr.alias(str(i)) for i, value in enumerate(values))
    columns = [found.get_column(str(i)).to_list() for i in range(len(values))]
    return [
        [x if x is None or not value.type.exact else Fraction(x, 10**value.type.scale) for x in column]
        for value, column in zip(values, columns, strict=True)
    ]


def theirs(connection: duckdb.DuckDBPyConnection, expressions: list[str]) -> list[pa.ChunkedArray | None]:
    """Of each expression the rows, NULL where DuckDB raises an error; None: it refuses the expression."""
    sql = ", ".join(f"TRY({expression}) AS x{i}" for i, expression in enumerate(expressions))
    try:
        return list(connection.sql(f"SELECT {sql} FROM events").to_arrow_table().columns)
    except duckdb.Error:
        if len(expressions) == 1:
            return [None]
        half = len(expressions) // 2
        return theirs(connection, expressions[:half]) + theirs(connection, expressions[half:])


def same(a: Any, b: Any, tolerance: float) -> bool:
    if a is None or b is None or isinstance(a, bool | str):
        return type(a) is type(b) and a == b
    if isinstance(a, Fraction):
        return isinstance(b, int | Decimal) and a == Fraction(b)
    # The sign of an infinity is that of a zero, of which neither says anything.
    return isinstance(b, float) and (
        abs(a) == abs(b) == math.inf or a == b or (a != a and b != b) or abs(a - b) <= tolerance * abs(b)
    )


def plain(connection: duckdb.DuckDBPyConnection, expression: str) -> list[Any] | None:
    """The rows without TRY, which DuckDB computes for each row apart; None: it raises an error."""
    try:
        return [row[0] for row in connection.sql(f"SELECT {expression} FROM events").fetchall()]
    except duckdb.Error:
        return None


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(2, SEEDS))])
def test_expressions_mean_what_duckdb_makes_of_them(seed: int) -> None:
    rng = random.Random(seed)
    generator, compared = Generator(rng), 0
    for _ in range(EXPRESSIONS // AT_ONCE):
        block = rows(rng, ROWS)
        naive = pa.table({name: local(block.column(name)) for name in block.schema.names})
        compiler = Watching(HANDLERS, fields_of(SCHEMA), "", "SQL", "", "")
        pairs = [(text, compiled(compiler, text)) for text in (generator.expression() for _ in range(AT_ONCE))]
        known = [(text, value) for text, value in pairs if value is not None]
        mine = ours([value for _, value in known], block)
        with duckdb.connect(config={"threads": 1}) as connection:
            connection.register("events", naive)
            for (text, value), left, right in zip(known, mine, theirs(connection, [t for t, _ in known]), strict=True):
                if right is None:
                    continue
                compared += 1
                assert right.type in (pa.null(), ARROW.get(value.type.name, right.type)), text
                tolerance = 1e-14 if text.startswith(("LOG", "POWER", "2 ^")) else 0.0
                wanted, raised = right.to_pylist(), False
                if None in wanted and not all(map(same, left, wanted, [tolerance] * ROWS)):
                    without_try = plain(connection, text)
                    wanted, raised = without_try or wanted, without_try is None
                for i, (a, b) in enumerate(zip(left, wanted, strict=True)):
                    # Where DuckDB raises an error, NULL is what that part of the expression is, and it goes on.
                    if not (raised and b is None):
                        assert same(a, b, tolerance), f"{text}: {a}, not {b}, of {block.slice(i, 1).to_pylist()}"
    assert compared > 0.9 * EXPRESSIONS


def local(column: pa.Array) -> pa.Array:
    """Times without a zone: DuckDB's type of them, as its functions of one with a zone need an extension."""
    return column.cast(pa.timestamp("us")) if pa.types.is_timestamp(column.type) else column
