"""How many persons the rows of an archive tell apart, and what to generalise: ``highbeam privacy report``.

Exit status 0: each class has as many persons as are wanted; 1: some have fewer.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from beam_jobs import page
from beam_jobs.archives.read import SUFFIXES, find
from beam_jobs.block import MAX_BLOCK_ROWS
from beam_jobs.codec.avro.container import read_header
from beam_jobs.codec.avro.file import read_avro
from beam_jobs.codec.parquet import open_parquet, readable
from beam_jobs.codec.schema import arrow_schema
from beam_jobs.errors import UserError, one_line
from beam_jobs.preprocessing.fields import fields_of
from beam_jobs.samples.text import grid
from beam_jobs.storage.files import open_file, root_of
from beam_jobs.terminal.cli import EXIT_FAILED, run, say
from beam_jobs.terminal.commands import PRIVACY
from beam_jobs.use_case import UseCase, load_use_case

if TYPE_CHECKING:
    from beam_jobs.privacy.classes import Classes, Found, Sizes

_SAY_EVERY_S = 5.0
_GIVEN = "--quasi_identifiers"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command line's to a parser."""
    add = parser.add_argument
    add("archive", metavar="ARCHIVE", help="its folder, gs:// or a path; or one .avro or .parquet file")
    add("--use_case", metavar="NAME", help="whose schema says what is quasi, and whose key says who a row is about")
    add(
        _GIVEN,
        metavar="COLUMNS",
        help="the columns to look at, with commas; default: what the use case makes of fields tagged quasi",
    )
    add(
        "--key",
        metavar="COLUMN",
        help="who a row is about; default: the use case's key, without one each row is another person",
    )
    add(
        "--k", type=int, default=5, metavar="N", help="persons that no class should have fewer of; default: %(default)s"
    )
    add("--html", metavar="FILE", help="write a page with all of it, which needs nothing beside it")
    add(
        "--memory_mb",
        type=int,
        default=1024,
        metavar="N",
        help="memory to count in, the rest goes to the temporary folder; default: %(default)s",
    )
    add("--verbose", action="store_true", help="show stack traces")


@dataclass(frozen=True)
class Report:
    """What was found; holds no value of any column."""

    archive: str
    key: str | None  # column that says who a row is about
    wanted: int
    rows: int
    persons: int
    found: Found
    sizes: Sequence[Sizes]
    columns: Sequence[tuple[str, Found, Found]]  # name, it alone, the others without it
    remedy: Sequence[tuple[str, str, str]] | None  # column, what to do, as SQL; None: there is none
    after: Found | None  # by that

    def tables(self) -> Iterator[tuple[str, list[list[str]]]]:
        """Titles, and tables with heads."""
        who = "persons" if self.key else "rows"
        sizes = [[f"{who} in a class", "classes", "rows", "share of rows"]]
        sizes += [[_span(s), f"{s.classes:,}", f"{s.rows:,}", self._share(s.rows)] for s in self.sizes]
        yield "Classes", sizes
        columns = [["column", "values", "rows alone by it", "k of it", "k without it"]]
        columns += [
            [
                name,
                f"{alone.classes:,}",
                f"{alone.alone:,} ({self._share(alone.alone)})",
                f"{alone.k:,}",
                f"{without.k:,}",
            ]
            for name, alone, without in self.columns
        ]
        yield "Columns", columns
        if self.remedy:
            yield f"To reach k = {self.wanted:,}", [["column", "cut", "in the SQL"], *map(list, self.remedy)]

    def facts(self) -> Iterator[str]:
        """What is in no table, a line each."""
        names = ", ".join(name for name, _, _ in self.columns)
        whose = f"{self.persons:,} persons by {self.key}" if self.key else "each of another person, for no key is named"
        yield f"{self.archive}: {self.rows:,} rows, {whose}"
        yield f"quasi-identifiers: {names}"
        yield (
            f"k = {self.found.k:,}: the smallest of {self.found.classes:,} classes; {self.found.alone:,} rows "
            f"({self._share(self.found.alone)}) are the only person's of their class, {self.found.below:,} "
            f"({self._share(self.found.below)}) are in classes of fewer than {self.wanted:,}"
        )
        if self.remedy is None:
            yield f"no cut reaches k = {self.wanted:,}: there are {self.persons:,} persons in all"
        elif not self.remedy:
            yield f"nothing to do: each class has {self.wanted:,} or more"
        elif self.after is not None:
            yield (
                f"with the cuts below k = {self.after.k:,}, in {self.after.classes:,} classes, and none of them can be "
                f"a step finer; or leave out the {self.found.below:,} rows of small classes"
            )

    def lines(self) -> Iterator[str]:
        """All of it, for a terminal."""
        for fact in self.facts():
            yield one_line(fact, 2000)
        for title, rows in self.tables():
            yield ""
            yield title
            yield from grid([[one_line(text) for text in row] for row in rows], [False] + [True] * (len(rows[0]) - 1))

    def html(self) -> str:
        """All of it, as a page."""
        parts = [page.paragraph(fact) for fact in self.facts()]
        for title, rows in self.tables():
            parts += [f"<h2>{title}</h2>", page.table(rows)]
        return page.page("Who can be told apart", "".join(parts))

    def _share(self, rows: int) -> str:
        return f"{rows / self.rows:.2%}" if self.rows else "0 %"


def _span(sizes: Sizes) -> str:
    if sizes.most is None:
        return f"{sizes.least:,} or more"
    return f"{sizes.least:,}" if sizes.most == sizes.least else f"{sizes.least:,} to {sizes.most:,}"


def columns_of(path: str) -> pa.Schema:
    """The columns of a file, as they are read; UserError where it is none."""
    with readable(f"{path}: can't be read", "restore it"), open_file(path) as file:
        if path.endswith(".parquet"):
            return pa.schema([_plain(field) for field in open_parquet(file).schema_arrow])
        return pa.schema([_plain(field) for field in arrow_schema(json.loads(read_header(file).schema))])


def rows_of(paths: Sequence[str], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows of all files in the columns of a schema; says now and then how far it is."""
    rows, said = 0, time.monotonic()
    for done, path in enumerate(paths):
        if missing := [name for name in schema.names if name not in columns_of(path).names]:
            raise UserError(f"{path} has no column {missing[0]}; name the folder of one archive")
        for batch in _batches(path, schema.names):
            columns = [batch.column(name) for name in schema.names]
            cast = [c if c.type == t else c.cast(t) for c, t in zip(columns, schema.types, strict=True)]
            yield pa.RecordBatch.from_arrays(cast, schema=schema)
            rows += batch.num_rows
            if time.monotonic() - said > _SAY_EVERY_S:
                said = time.monotonic()
                say(f"read {rows:,} rows, {done:,} of {len(paths):,} files")


def _batches(path: str, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    with readable(f"{path}: can't be read", "restore it"), open_file(path) as file:
        if path.endswith(".parquet"):
            yield from open_parquet(file).iter_batches(MAX_BLOCK_ROWS, columns=list(names))
            return
        schema = json.loads(read_header(file).schema)
        file.seek(0)
        yield from read_avro(file, schema, names)


def _plain(field: pa.Field) -> pa.Field:
    """A column in a type that counting knows: enums as texts, times without their zone, which is UTC."""
    type_ = field.type
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    if pa.types.is_timestamp(type_):
        type_ = pa.timestamp(type_.unit)
    return pa.field(field.name, type_)


def quasi_of(use_case: UseCase) -> tuple[list[str], frozenset[str]]:
    """Columns that the SQL makes of fields tagged quasi, and which of them can't be cut."""
    fields = fields_of(use_case.schema)
    outputs = [
        o
        for o in use_case.preprocessor().outputs
        if o.name != use_case.key and any(fields[name].pii == "quasi" for name in o.value.columns)
    ]
    whole = frozenset(o.name for o in outputs if o.value.text.startswith(("(pseudonymize", "(encrypt")))
    return [o.name for o in outputs], whole


def look(given: argparse.Namespace) -> Report:
    """Reads the archive, and counts.

    Raises:
      UserError: it can't be read, a column is not in it, or no column is named.
    """
    try:
        from beam_jobs.privacy.classes import Classes
    except ModuleNotFoundError as error:
        raise UserError(f"highbeam privacy report needs {error.name}; pip install 'highbeam[privacy]'") from None
    if given.k < 2 or given.memory_mb < 64:
        raise UserError(f"--k {given.k}, --memory_mb {given.memory_mb}: at least 2 persons, and 64 MB")
    use_case = load_use_case(given.use_case) if given.use_case else None
    quasi, whole = ([], frozenset[str]()) if use_case is None else quasi_of(use_case)
    if given.quasi_identifiers:
        quasi = [name.strip() for name in given.quasi_identifiers.split(",") if name.strip()]
    if not quasi:
        why = f"{given.use_case} selects nothing of a field tagged quasi" if use_case else "no use case is named"
        raise UserError(f"{why}, so no column is known to be a quasi-identifier; name them with {_GIVEN} a,b")
    key = given.key or (use_case.key if use_case else None)
    root = root_of(given.archive)
    paths = [root] if root.endswith(SUFFIXES) else find(root)
    have = columns_of(paths[0])
    for name in dict.fromkeys([*quasi, *([key] if key else [])]):
        if name not in have.names:
            raise UserError(f"{given.archive} has no column {name}; it has {', '.join(have.names)}")
    if key in quasi:
        raise UserError(
            f"{key} says who a row is about, so it is no quasi-identifier; leave it out, or name another --key"
        )
    schema = pa.schema([have.field(name) for name in dict.fromkeys([*quasi, *([key] if key else [])])])
    with tempfile.TemporaryDirectory(prefix="highbeam-privacy-") as scratch:
        classes = Classes(
            schema,
            rows_of(paths, schema),
            list(dict.fromkeys(quasi)),
            key,
            given.k,
            Path(scratch),
            given.memory_mb,
            whole,
        )
        try:
            return _counted(classes, given, key)
        finally:
            classes.close()


def _counted(classes: Classes, given: argparse.Namespace, key: str | None) -> Report:
    as_it_is = dict.fromkeys(classes.quasi, 0)
    found = classes.at(as_it_is)
    said = [time.monotonic()]

    def tried(step: Found) -> None:
        if time.monotonic() - said[0] > _SAY_EVERY_S:
            said[0] = time.monotonic()
            say(f"looking for cuts: {step.below:,} rows are in classes of fewer than {given.k:,}")

    levels = classes.generalized(tried) if classes.rows else as_it_is
    remedy = None
    if levels is not None:
        steps = [(name, classes.ladders[name][level]) for name, level in levels.items() if level]
        remedy = [(name, step.says, step.sql.replace("COLUMN", name) or f"leave {name} out") for name, step in steps]
    return Report(
        archive=given.archive,
        key=key,
        wanted=given.k,
        rows=classes.rows,
        persons=classes.persons,
        found=found,
        sizes=classes.sizes(as_it_is),
        columns=[(name, classes.alone(name), classes.without(name)) for name in classes.quasi],
        remedy=remedy,
        after=classes.at(levels) if levels else None,
    )


def main(argv: Sequence[str]) -> int:
    """Parses, counts, and shows what came of it."""
    given = PRIVACY["privacy report"].parser().parse_args(argv)
    report = look(given)
    for line in report.lines():
        print(line)
    if given.html:
        page.write_page(given.html, report.html())
        print(f"page: {one_line(given.html)}")
    return 0 if report.found.k >= given.k or not report.rows else EXIT_FAILED


if __name__ == "__main__":
    run(main)
