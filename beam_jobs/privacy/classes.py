"""How many persons rows tell apart by some of their columns: counted by DuckDB, which spills what memory does not hold.

A class is the rows that are alike in all of the columns. Of k persons in the smallest class, nobody who knows these
columns of a person can tell the person from k - 1 others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from duckdb.func import ARROW

from beam_jobs.preprocessing.grid import to_decimals
from beam_jobs.preprocessing.pii import MAX_CHARACTERS, MAX_DECIMALS

_TIMES = ("minute", "hour", "day", "month", "year")  # each is made of whole ones of those before it
_COARSEST = -9  # decimals of truncate
_SIZES = (1, 2, 5, 10, 100, 1000)  # from where on classes are counted together


@dataclass(frozen=True)
class Level:
    """One way to have a column, coarser than those before it."""

    says: str  # what is done: "to the hour"
    sql: str  # in the SQL of a use case, of COLUMN; "": the column is left out
    expr: str  # in DuckDB


@dataclass(frozen=True)
class Found:
    """What some columns tell apart."""

    k: int  # persons in the smallest class; 0: there are no rows
    classes: int
    alone: int  # rows in classes of one person
    below: int  # rows in classes of fewer persons than are wanted


@dataclass(frozen=True)
class Sizes:
    """Classes of so many persons."""

    least: int
    most: int | None  # None: any more
    classes: int
    rows: int


class Classes:
    """The rows of an archive as far as they differ in the quasi-identifiers and the person.

    Args:
      batches: of the quasi-identifiers and the person, any number of rows each.
      quasi: the columns; at least one.
      person: the column that says who a row is about; None: each row is of another person.
      whole: columns that can't be cut, only left out: pseudonyms, say.
      wanted: persons that a class should have.
      scratch: a folder for what memory does not hold.
      memory_mb: what DuckDB may use of it.
    """

    def __init__(
        self,
        schema: pa.Schema,
        batches: Iterable[pa.RecordBatch],
        quasi: Sequence[str],
        person: str | None,
        wanted: int,
        scratch: Path,
        memory_mb: int,
        whole: frozenset[str] = frozenset(),
    ) -> None:
        self.quasi, self._person, self._wanted = tuple(quasi), person, wanted
        config: dict[str, Any] = {"memory_limit": f"{memory_mb}MB", "temp_directory": str(scratch / "spilled")}
        self._db = duckdb.connect(config=config)
        self._db.create_function("cut", _cut, ["DOUBLE", "INTEGER"], "DOUBLE", type=ARROW)
        rows = pa.RecordBatchReader.from_batches(schema, batches)
        self._db.register("source", rows)
        columns = [f"{_exact(schema.field(name))} AS q{i}" for i, name in enumerate(quasi)]
        who = [] if person is None else [f"{_quoted(person)} AS person"]
        self._db.execute(
            f"CREATE TABLE base AS SELECT {', '.join([*columns, *who])}, count(*) AS n FROM source GROUP BY ALL"
        )
        self._db.unregister("source")
        self.rows = int(self._one("SELECT coalesce(sum(n), 0) FROM base")[0])
        persons = "sum(n)" if person is None else "count(DISTINCT person) + (count(*) > count(person))::INT"
        self.persons = int(self._one(f"SELECT coalesce({persons}, 0) FROM base")[0])
        self.ladders = {name: self._ladder(f"q{i}", schema.field(name), name in whole) for i, name in enumerate(quasi)}

    def close(self) -> None:
        """Closes the database; the folder is the caller's."""
        self._db.close()

    def at(self, levels: Mapping[str, int]) -> Found:
        """What the columns tell apart at these places of their ladders."""
        k, classes, alone, below = self._one(
            f"SELECT coalesce(min(p), 0), count(*), coalesce(sum(r) FILTER (p = 1), 0), "
            f"coalesce(sum(r) FILTER (p < {self._wanted}), 0) FROM ({self._grouped(levels)})"
        )
        return Found(int(k), int(classes), int(alone), int(below))

    def sizes(self, levels: Mapping[str, int]) -> list[Sizes]:
        """The classes by how many persons they have, those of none left out."""
        found = []
        for i, least in enumerate(_SIZES):
            most = _SIZES[i + 1] - 1 if i + 1 < len(_SIZES) else None
            wanted = f"p >= {least}" + ("" if most is None else f" AND p <= {most}")
            classes, rows = self._one(
                f"SELECT count(*), coalesce(sum(r), 0) FROM ({self._grouped(levels)}) WHERE {wanted}"
            )
            if classes:
                found.append(Sizes(least, most, int(classes), int(rows)))
        return found

    def alone(self, name: str) -> Found:
        """What one column tells apart."""
        return self.at({other: 0 if other == name else len(self.ladders[other]) - 1 for other in self.quasi})

    def without(self, name: str) -> Found:
        """What the others tell apart."""
        return self.at({other: 0 if other != name else len(self.ladders[other]) - 1 for other in self.quasi})

    def generalized(self, tried: Callable[[Found], None]) -> dict[str, int] | None:
        """Places on the ladders at which classes have as many persons as wanted, none of which may be one finer.

        From the columns as they are, the step is taken that leaves the fewest rows in classes that are too small;
        at the end each column is made as fine again as the others allow.

        Args:
          tried: called with what each step has found.

        Returns:
          None: there are none, not even without any of the columns: there are not as many persons.
        """
        levels = dict.fromkeys(self.quasi, 0)
        found = self.at(levels)
        while found.k < self._wanted:
            steps = [name for name in self.quasi if levels[name] + 1 < len(self.ladders[name])]
            if not steps:
                return None
            outcomes = {name: self.at({**levels, name: levels[name] + 1}) for name in steps}
            # Of steps that help alike, the one with the most left to give up.
            best = min(steps, key=lambda name: (outcomes[name].below, -self._left(name, levels[name])))
            levels[best] += 1
            found = outcomes[best]
            tried(found)
        for name in sorted(self.quasi, key=lambda name: -levels[name]):
            while levels[name] and self.at({**levels, name: levels[name] - 1}).k >= self._wanted:
                levels[name] -= 1
        return levels

    def _left(self, name: str, level: int) -> int:
        return len(self.ladders[name]) - level

    def _grouped(self, levels: Mapping[str, int]) -> str:
        """A query of the classes, with persons ``p`` and rows ``r``."""
        exprs = [self.ladders[name][level].expr for name, level in levels.items()]
        columns = ", ".join(f"{expr} AS c{i}" for i, expr in enumerate(exprs) if expr)
        names = ", ".join(f"c{i}" for i, expr in enumerate(exprs) if expr)
        group = f" GROUP BY {names}" if names else " HAVING count(*) > 0"
        if self._person is None:
            of = f"SELECT {columns}, n FROM base" if columns else "SELECT n FROM base"
            return f"SELECT sum(n) AS p, sum(n) AS r FROM ({of}){group}"
        by = f"{columns}, person" if columns else "person"
        return f"SELECT count(*) AS p, sum(n) AS r FROM (SELECT {by}, sum(n) AS n FROM base GROUP BY ALL){group}"

    def _ladder(self, column: str, field: pa.Field, whole: bool) -> list[Level]:
        """The ways to have a column, the finest first; those that tell apart as much as the one before are left out."""
        ladder, before = [Level("as it is", field.name, column)], self._different(column)
        for level in () if whole else self._coarser(column, field.type):
            different = self._different(level.expr)
            if different < before:
                ladder.append(level)
                before = different
            if different == 1:
                break
        return [*ladder, Level("left out", "", "")]

    def _different(self, expr: str) -> int:
        return int(self._one(f"SELECT count(*) FROM (SELECT DISTINCT {expr} FROM base)")[0])

    def _coarser(self, column: str, type_: pa.DataType) -> list[Level]:
        if pa.types.is_timestamp(type_) or pa.types.is_date(type_):
            return [Level(f"to the {u}", f"truncate(COLUMN, '{u}')", f"date_trunc('{u}', {column})") for u in _TIMES]
        if pa.types.is_floating(type_) or pa.types.is_decimal(type_) or pa.types.is_integer(type_):
            first = -1 if pa.types.is_integer(type_) else MAX_DECIMALS
            return [
                Level(_decimals(d), f"truncate(COLUMN, {d})", f"cut({column}::DOUBLE, {d})")
                for d in range(first, _COARSEST - 1, -1)
            ]
        if pa.types.is_string(type_) or pa.types.is_large_string(type_):
            return [
                Level(
                    f"the first {n} characters" if n > 1 else "the first character",
                    f"generalize(COLUMN, {n})",
                    f"substring({column}, 1, {n})",
                )
                for n in range(MAX_CHARACTERS, 0, -1)
            ]
        return []

    def _one(self, sql: str) -> tuple[Any, ...]:
        row = self._db.execute(sql).fetchone()
        assert row is not None
        return tuple(row)


def _decimals(decimals: int) -> str:
    if decimals > 0:
        return f"to {decimals} decimal{'s'[: decimals != 1]}"
    return "to whole numbers" if decimals == 0 else f"to {10**-decimals:,}s"


def _exact(field: pa.Field) -> str:
    """A column as it is kept; a float as the decimals it is shown with, by which 48.29 is not a little less."""
    name = _quoted(field.name)
    return f"{name}::VARCHAR::DOUBLE" if pa.types.is_float32(field.type) else name


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _cut(values: Any, decimals: Any) -> Any:
    """``truncate`` of the SQL, for DuckDB."""
    if not len(values):
        return pa.array([], pa.float64())
    with np.errstate(all="ignore"):
        return pa.array(to_decimals(values.to_numpy(), int(decimals[0].as_py())))  # one literal in all rows
