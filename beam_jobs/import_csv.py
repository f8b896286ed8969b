"""Makes a use case and an archive of events from a CSV file: what to train on, to replay and to score.

    python -m beam_jobs.import_csv readings.csv --key room --event_time time --output cold_rooms

The folder gets use_case.yaml, an Avro schema and preprocess.sql, all to be edited, and the rows in events/.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from sqlglot import exp

from beam_jobs.archives.rows import archive_schema
from beam_jobs.block import MAX_BLOCK_ROWS
from beam_jobs.codec.avro.file import write_avro
from beam_jobs.codec.schema import arrow_schema
from beam_jobs.errors import UserError, one_line
from beam_jobs.terminal.cli import run
from beam_jobs.terminal.commands import BEGIN
from beam_jobs.use_case import UseCase, load_use_case

_MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
_YEAR_FIRST = (pa.csv.ISO8601, "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y/%m/%d", "%Y-%m-%d %H:%M")  # with no doubt
_SECONDS_BELOW = 10**11  # an epoch number below it counts seconds, one above it milliseconds


@dataclass(frozen=True)
class Columns:
    """The columns of a file, by what they are; ``event_time``, ``key`` and ``label`` as the file calls them."""

    event_time: str
    key: str | None = None  # None: all rows are of one device, named like the file
    label: str | None = None
    delimiter: str = ","
    time_format: str | None = None  # as strptime has it; None: ISO 8601, or seconds or milliseconds since 1970


def import_csv(path: Path, columns: Columns, output: Path) -> str:
    """Writes the folder of the use case; returns what is in it, in some lines.

    Args:
      output: a folder that is not there yet; its name is the use case's.

    Raises:
      UserError: the file can't be read, lacks a column or a value that each row needs, or the folder is there.
    """
    if not re.fullmatch(r"[A-Za-z_]\w*", output.name, re.ASCII):
        raise UserError(f"--output {output}: name the folder with letters, digits and _, as the use case is called")
    if output.exists():
        raise UserError(f"--output {output} is there already; name a new folder, or remove that one")
    table, names = _named(_read(path, columns))
    for flag, name in (("--event_time", columns.event_time), ("--key", columns.key), ("--label", columns.label)):
        if name is not None and name not in names:
            raise UserError(f"{flag} {name}: {path} has no such column; it has {', '.join(names)}")
    at, label = names[columns.event_time], None if columns.label is None else names[columns.label]
    if columns.key is None and "device" in names.values():
        raise UserError(f"{path} has a column 'device': is it the key? --key device says so")
    if columns.key is None:
        table = table.append_column("device", pa.array([path.stem] * table.num_rows))
    key = "device" if columns.key is None else names[columns.key]
    table = table.set_column(table.column_names.index(at), at, _times(table.column(at), columns))
    for name in (key, at):
        if table.column(name).null_count:
            row = table.column(name).is_null().index(True).as_py() + 1
            raise UserError(f"{path}: row {row} has no {name}; each event needs one")
    empty = [name for name in table.column_names if pa.types.is_null(table.column(name).type)]
    table = table.drop_columns(empty).sort_by(at)
    numbers = [f.name for f in table.schema if f.name not in (key, at, label) and _is_number(f.type)]
    features = [name for name in numbers if pc.count_distinct(table.column(name)).as_py() > 2]
    if not features:
        raise UserError(f"{path}: no column of changing numbers beside key and time; there is nothing to learn")
    schema, sql = _schema(output.name, table, label, names), _sql(table, key, at, numbers, features)
    _write(output, table, schema, sql, _settings(output.name, key, at, len(features)))
    lines = [f"{table.num_rows:,} events, {len(features)} features: {', '.join(features)}"]
    if left := [name for name in table.column_names if name not in (key, at, label, *features)]:
        lines.append(f"in the events, but no features (see preprocess.sql): {', '.join(left)}")
    if empty:
        lines.append(f"left out, without a value: {', '.join(empty)}")
    return "\n".join(lines)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _write(output: Path, table: pa.Table, schema: dict[str, Any], sql: str, settings: str) -> None:
    """The folder, or nothing where something of it is refused."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".import-") as scratch:
        draft = Path(scratch) / output.name
        (draft / "events").mkdir(parents=True)
        texts = {
            f"{output.name}.avsc": json.dumps(schema, indent=2, ensure_ascii=False) + "\n",
            "preprocess.sql": sql,
            "use_case.yaml": settings,
        }
        for name, text in texts.items():
            (draft / name).write_text(text, encoding="utf-8")
        use_case = load_use_case(str(draft))
        use_case.preprocessor()  # what it refuses is said now
        _write_events(draft / "events/part-0.avro", table, use_case)
        draft.rename(output)


def _read(path: Path, columns: Columns) -> pa.Table:
    texts = [columns.key, columns.label, columns.event_time if columns.time_format else None]
    try:
        return pa.csv.read_csv(
            path,
            parse_options=pa.csv.ParseOptions(delimiter=columns.delimiter),
            convert_options=pa.csv.ConvertOptions(
                column_types={name: pa.string() for name in texts if name},
                strings_can_be_null=True,
                timestamp_parsers=_YEAR_FIRST,
            ),
        )
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{path}: can't be read as CSV ({one_line(error, 300)}); --delimiter is what parts columns"
        ) from error


def _named(table: pa.Table) -> tuple[pa.Table, dict[str, str]]:
    """The table with names that Avro takes and types that events have, and the name of each column of the file."""
    names: dict[str, str] = {}
    for column in table.column_names:
        name = re.sub(r"\W+", "_", column, flags=re.ASCII).strip("_") or "column"
        name = f"c{name}" if name[0].isdigit() else name
        if name in names.values():
            raise UserError(f"two columns are called {name}, the second one {column!r}; rename one of them")
        names[column] = name
    kept = (pa.types.is_floating, pa.types.is_boolean, pa.types.is_null, pa.types.is_timestamp)
    columns = []
    for column in table.columns:
        if pa.types.is_integer(column.type):
            columns.append(column.cast(pa.int64()))
        elif pa.types.is_date(column.type):
            columns.append(column.cast(pa.timestamp("ms")))
        else:
            columns.append(column if any(is_kind(column.type) for is_kind in kept) else column.cast(pa.string()))
    return pa.table(columns, names=list(names.values())), names


def _times(column: pa.ChunkedArray, columns: Columns) -> pa.ChunkedArray:
    """Event times in milliseconds, UTC."""
    if columns.time_format is not None:
        try:
            parsed = pl.Series(column).str.to_datetime(columns.time_format, time_unit="ms", time_zone=None).to_arrow()
        except pl.exceptions.PolarsError as error:
            raise UserError(f"--time_format {columns.time_format}: {one_line(error, 200)}") from error
        column = pa.chunked_array([parsed])
    elif pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        largest = pc.max(pc.abs(column)).as_py() or 0
        column = pc.cast(pc.multiply(column, 1000 if largest < _SECONDS_BELOW else 1), pa.int64(), safe=False)
    elif not pa.types.is_timestamp(column.type):
        raise UserError(
            f"--event_time {columns.event_time}: not all of its values are times like 2026-11-22T07:00:00Z or seconds "
            "since 1970; --time_format says what they are, such as '%d.%m.%Y %H:%M'"
        )
    return column.cast(pa.timestamp("ms", tz="UTC"), safe=False)


def _schema(name: str, table: pa.Table, label: str | None, names: Mapping[str, str]) -> dict[str, Any]:
    fields, origin = [], {name: column for column, name in names.items()}
    for column in table.schema:
        kind: Any = "string"
        if pa.types.is_timestamp(column.type):
            kind = _MILLIS
        elif pa.types.is_boolean(column.type):
            kind = "boolean"
        elif pa.types.is_integer(column.type):
            kind = "long"
        elif pa.types.is_floating(column.type):
            kind = "double"
        field: dict[str, Any] = {"name": column.name, "type": kind}
        if column.name == label:
            field["label"] = True
        if table.column(column.name).null_count:
            field |= {"type": ["null", kind], "default": None}
        if origin.get(column.name, column.name) != column.name:
            field["doc"] = f"Column {origin[column.name]!r} of the file."
        fields.append(field)
    return {"type": "record", "name": name, "fields": fields}


def _sql(table: pa.Table, key: str, at: str, numbers: Sequence[str], features: Sequence[str]) -> str:
    lines = ["-- What the model sees: numbers are features. Expressions and a WHERE are welcome.", "SELECT"]
    for name in (key, at, *numbers):
        line = f"  {exp.to_identifier(name).sql('duckdb')}{'' if name == features[-1] else ','}"
        empty = table.column(name).null_count
        if name in numbers and name not in features:
            line = f"  -- {name}: a feature should have more than two values"
        elif empty:
            line += f"  -- empty in {empty:,} rows, which are refused: COALESCE says what it is then"
        lines.append(line)
    return "\n".join([*lines, "FROM events", ""])


def _settings(name: str, key: str, at: str, features: int) -> str:
    wide, narrow = max(4, features * 4 // 3), max(1, features // 2)
    return (
        f"schema: {name}.avsc\nkey: {json.dumps(key)}\nevent_time: {json.dumps(at)}\n"
        "model:\n"
        f"  hidden: [{wide}, {narrow}, {wide}]  # units of the hidden layers\n"
        "  alert_budget: 0.001  # share of normal events that may raise an alert\n"
    )


def _write_events(path: Path, table: pa.Table, use_case: UseCase) -> None:
    """The rows as an archive of events has them: from one partition, in the order of their times."""
    schema = archive_schema(use_case, "events")
    n = table.num_rows
    own = {
        "source_topic": pa.repeat(use_case.name, n),
        "source_partition": pa.repeat(0, n),
        "source_offset": pa.array(range(n), pa.int64()),
        "source_timestamp": table.column(use_case.event_time),
        "source_key": table.column(use_case.key).cast(pa.string()).cast(pa.binary()),
    }
    arrow = arrow_schema(schema)
    columns = [own[f.name] if f.name in own else table.column(f.name) for f in arrow]
    rows = pa.table([column.cast(f.type) for column, f in zip(columns, arrow, strict=True)], schema=arrow)
    write_avro(path, schema, rows.combine_chunks().to_batches(MAX_BLOCK_ROWS))


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command line's to a parser."""
    parser.description = (__doc__ or "").strip()
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="the CSV file, with a header; it is read into memory")
    add("--event_time", required=True, metavar="COLUMN", help="the column with the time of the event")
    add("--key", metavar="COLUMN", help="the column that names the device or account; default: all rows are of one")
    add("--label", metavar="COLUMN", help="the column that says what failed; never a feature")
    add("--output", required=True, type=Path, metavar="FOLDER", help="the use case's folder; it must not exist")
    add("--delimiter", default=",", metavar="CHARACTER", help="what parts columns; default: %(default)s")
    add(
        "--time_format",
        metavar="FORMAT",
        help="of the times, such as '%%d.%%m.%%Y %%H:%%M'; default: ISO 8601 or epoch",
    )
    add("--verbose", action="store_true", help="show stack traces")


def main(argv: Sequence[str]) -> int:
    """Parses, imports, says what happened to it and what to do next."""
    given = BEGIN["import-csv"].parser().parse_args(argv)
    if len(given.delimiter) != 1:
        raise UserError(f"--delimiter {given.delimiter!r}: expected one character")
    columns = Columns(given.event_time, given.key, given.label, given.delimiter, given.time_format)
    print(import_csv(given.file, columns, given.output))
    print(f"next  python -m model.train --use_case {given.output} --data {given.output}/events --registry models")
    return 0


if __name__ == "__main__":
    run(main)
