"""Reads a CSV file into rows of a schema, some thousand at a time; rows that do not fit are told with their number."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
from numpy.typing import NDArray

from beam_jobs.codec.columns import find_columns, missing_column
from beam_jobs.codec.csv.cells import convert
from beam_jobs.codec.csv.dialect import Dialect, header_of, unreadable
from beam_jobs.codec.decoded import Decoded
from beam_jobs.codec.schema import NO_DEFAULT, AvroField, arrow_schema, parse_record, selected_fields
from beam_jobs.errors import Reason, RowErrors, UserError, shown

_CHUNK_BYTES = 4 << 20  # of the file at a time
_TAIL_BYTES = 1 << 16  # in which the last line is looked for
_MAX_TOLD = 1_000  # rows of a wrong number of cells that are told one by one

Bad = dict[int, tuple[Reason, str]]  # row of a block -> what is wrong with it


def read_csv(
    file: str | os.PathLike[str],
    reader_schema: Mapping[str, Any],
    columns: Sequence[str] | None = None,
    dialect: Dialect = Dialect(),
) -> Iterator[Decoded]:
    """The rows of a CSV file with a header, and what is wrong with the others.

    A column belongs to the field of its name, of one of its aliases, or of its name in letters, digits and underscores
    (``columns.field_name``). Columns that are no field are left alone. An empty cell, and ``NA`` and the like where
    the field is no text, is null; texts may be in quotes, with line breaks and quotes (doubled) in them.

    Args:
      columns: the fields wanted, in that order (None: all).

    Yields:
      Blocks; sentences of errors begin with the number of the row in the file, the first below the header is 1.

    Raises:
      UserError: the file can't be read, has no header, lacks a column or has it twice, or a field is of a type that
        CSV has no form for.
    """
    where, fields = os.fspath(file), selected_fields(parse_record(reader_schema), columns)
    schema = arrow_schema(reader_schema, columns)
    names = {name for field in reader_schema["fields"] for name in (field["name"], *field.get("aliases", ()))}
    delimiter, header = header_of(Path(file), where, dialect.delimiter, names)
    places = find_columns(where, header, reader_schema, schema)
    ragged = _Ragged(len(header))
    try:
        with _Quotes(Path(file)) as quotes:
            reader = arrow_csv.open_csv(
                quotes,
                read_options=arrow_csv.ReadOptions(use_threads=False, block_size=_CHUNK_BYTES),
                parse_options=arrow_csv.ParseOptions(
                    delimiter=delimiter, newlines_in_values=True, invalid_row_handler=ragged
                ),
                convert_options=arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(header, pa.binary()),
                    include_columns=list(dict.fromkeys(places.values())) or header[:1],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                    null_values=[""],
                ),
            )
            read, last = 0, None
            for batch in reader:
                last = batch.slice(batch.num_rows - 1)
                block = _decoded(batch, fields, schema, places, dialect, ragged.numbers(read, batch.num_rows))
                read += batch.num_rows
                yield ragged.told(block)
            yield ragged.told(Decoded(pa.RecordBatch.from_pylist([], schema), RowErrors.none()))
            if quotes.odd and last is not None and quotes.swallowed(last, header, delimiter):
                raise UserError(f"{where}: a quote has no end, and all that follows it is one cell; close it")
    except (OSError, pa.ArrowException) as error:
        raise unreadable(where, error) from error
    except ValueError as error:
        raise UserError(
            f"{where}: CSV has no form for a field of the type {error}; write Avro or JSON lines"
        ) from error


class _Quotes(io.FileIO):
    """The file, with its quotes counted while it is read: Arrow takes all that follows an open one for one cell."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.odd = False
        self._tail = b""

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(-1 if size is None else size) or b""
        self.odd ^= data.count(b'"') % 2 == 1
        self._tail = (self._tail + data)[-_TAIL_BYTES:]
        return data

    def swallowed(self, last: pa.RecordBatch, header: Sequence[str], delimiter: str) -> bool:
        """Whether the last row that was read is another than the file's last line, though that is a whole row."""
        line = self._tail.rstrip(b"\r\n").rpartition(b"\n")[2].decode(errors="replace")
        cells = next(csv.reader([line], delimiter=delimiter), [])
        if len(cells) != len(header):
            return False
        read = {name: last.column(name)[0].as_py() or b"" for name in last.schema.names}
        return any(cells[header.index(name)] != value.decode(errors="replace") for name, value in read.items())


class _Ragged:
    """Rows with more or fewer cells than the header: they are left out, and told with the block they come in."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._lines: list[int] = []  # rows of the file they are, ascending; the first below the header is 1
        self._waiting: list[str] = []
        self._untold = 0

    def __call__(self, row: Any) -> str:
        number = 0 if row.number is None else row.number - 1
        self._lines.append(number)
        if len(self._waiting) < _MAX_TOLD:
            self._waiting.append(
                f"row {number:,}: has {row.actual_columns} cells, expected {self._columns} as the header has"
                f"{_inside(row.text)}"
            )
        else:
            self._untold += 1
        return "skip"

    def numbers(self, read: int, rows: int) -> NDArray[np.int64]:
        """Which rows of the file the next ``rows`` are, after ``read`` good ones: int64 [rows]."""
        good = np.arange(read, read + rows, dtype=np.int64)
        before = np.array(self._lines, np.int64) - 1 - np.arange(len(self._lines))  # good rows before each
        return good + np.searchsorted(before, good, side="right") + 1

    def told(self, block: Decoded) -> Decoded:
        """The block with those that have come up since, as errors of rows behind its own."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return block
        waiting += [waiting[-1]] * self._untold
        self._untold = 0
        first = block.rows.num_rows + len(block.errors)
        errors = block.errors
        reasons: list[Reason] = ["wrong_type"] * len(waiting)
        return Decoded(
            block.rows,
            RowErrors(
                np.concatenate([errors.rows, np.arange(first, first + len(waiting))]),
                [*errors.reasons, *reasons],
                [*errors.errors, *waiting],
            ),
        )


def _inside(text: str | None) -> str:
    """What to say of a row that goes over many lines."""
    lines = (text or "").count("\n")
    return f"; {lines:,} more lines are inside its quotes" if lines else ""


def _decoded(
    batch: pa.RecordBatch,
    fields: Sequence[AvroField],
    schema: pa.Schema,
    places: Mapping[str, str],
    dialect: Dialect,
    numbers: NDArray[np.int64],
) -> Decoded:
    bad: Bad = {}
    arrays = [
        _column(batch.column(places[field.name]), field, dialect, bad)
        if field.name in places
        else missing_column(wanted, None if field.default is NO_DEFAULT else field.default, batch.num_rows)
        for field, wanted in zip(fields, schema, strict=True)
    ]
    rows = sorted(bad)
    errors = RowErrors(
        np.array(rows, np.int64),
        [bad[row][0] for row in rows],
        [f"row {numbers[row]:,}: {bad[row][1]}" for row in rows],
    )
    good = errors.good_rows(batch.num_rows)
    arrays = [array.take(pa.array(good)) for array in arrays] if rows else arrays
    return Decoded(pa.RecordBatch.from_arrays(arrays, schema=schema), errors)


def _column(cells: pa.Array, field: AvroField, dialect: Dialect, bad: Bad) -> pa.Array:
    """A column as its field, or nulls where ``bad`` now says why."""
    plain = field.type.non_null()
    if plain is None:
        raise ValueError("union")
    kind, nullable = plain
    texts = _texts(cells, field, bad)
    found = convert(texts, kind, dialect)
    for row in np.flatnonzero(found.bad).tolist():
        bad.setdefault(
            row,
            (
                "wrong_type",
                f"field {field.name!r} is {shown(texts[row].as_py(), field.personal)}, expected {kind.label}",
            ),
        )
    if not nullable and found.values.null_count:
        for row in np.flatnonzero(found.values.is_null().to_numpy(zero_copy_only=False)).tolist():
            bad.setdefault(row, ("missing_field", f"field {field.name!r} is empty, expected {kind.label}"))
    return found.values


def _texts(cells: pa.Array, field: AvroField, bad: Bad) -> pa.Array:
    """Bytes as text; null where they are no UTF-8."""
    try:
        return cells.cast(pa.string())
    except pa.ArrowInvalid:
        texts: list[str | None] = []
        for row, value in enumerate(cells.to_pylist()):
            try:
                texts.append(None if value is None else value.decode())
            except UnicodeDecodeError as error:
                texts.append(None)
                bad[row] = ("invalid_utf8", f"field {field.name!r}: byte {error.start} is not UTF-8; save it as UTF-8")
        return pa.array(texts, pa.string())
