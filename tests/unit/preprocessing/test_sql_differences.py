"""docs/preprocessing.md says where the SQL differs from DuckDB; each row of its table is true."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from sqlglot import exp

from beam_jobs.errors import UserError
from beam_jobs.preprocessing.fields import fields_of
from beam_jobs.preprocessing.query.compiler import Compiler, with_steps
from beam_jobs.preprocessing.query.expressions import HANDLERS
from beam_jobs.preprocessing.query.parser import parse

PAGE = (Path(__file__).parents[3] / "docs/preprocessing.md").read_text(encoding="utf-8")
TABLE = PAGE.partition("### Where it differs from DuckDB")[2].partition("\nThe last bit")[0]
ROWS = re.findall(r"^\|[^|`]*(?:`[^`]*`[^|`]*)*\| `([^`]+)` \| ([^|]+) \| ([^|]+) \|$", TABLE, re.MULTILINE)


def decimal(scale: int) -> dict[str, Any]:
    return {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": scale}


TYPES = {"i": "int", "l": "long", "d": "double", "s": "string", "q": decimal(9), "w": decimal(0)}
SCHEMA = {"type": "record", "name": "E", "fields": [{"name": name, "type": type_} for name, type_ in TYPES.items()]}
EVENT = pa.record_batch(
    {
        "i": pa.array([7], pa.int32()),
        "l": [2**63 - 1],
        "d": [1e300],
        "s": ["x"],
        "q": pa.array([Decimal("1.5")], pa.decimal128(38, 9)),
        "w": pa.array([Decimal(2)], pa.decimal128(38, 0)),
    }
)


def shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "NULL" if value is None else str(value).lower()
    number = float(value)
    return str(int(value)) if value == value // 1 and abs(number) != float("inf") else str(number)


def ours(sql: str) -> str:
    try:
        value = Compiler(HANDLERS, fields_of(SCHEMA), sql, "SQL", "", "").compile(parse(sql, "SQL", "", exp.Condition))
    except UserError:
        return "refused"
    found = with_steps(pl.DataFrame(pl.from_arrow(EVENT)), [value]).select(value.expr).item()
    return shown(found if found is None or not value.type.exact else Fraction(found, 10**value.type.scale))


def theirs(sql: str) -> str:
    with duckdb.connect() as connection:
        connection.register("events", pa.table(EVENT))
        try:
            return shown(connection.sql(f"SELECT {sql} FROM events").fetchall()[0][0])
        except duckdb.Error:
            return "error"


def test_the_table_is_found() -> None:
    assert len(ROWS) == TABLE.count("\n| ") - 1  # without its head; the line below has no space


@pytest.mark.parametrize(("sql", "in_duckdb", "here"), ROWS)
def test_a_row_is_true(sql: str, in_duckdb: str, here: str) -> None:
    assert (theirs(sql), ours(sql)) == (in_duckdb.strip(), here.strip())
