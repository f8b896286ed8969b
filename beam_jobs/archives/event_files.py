"""Files of events that no job wrote: Avro, Parquet, CSV and JSON lines, as rows of a use case's schema."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from beam_jobs.codec.avro.file import read_avro
from beam_jobs.codec.columns import Fit
from beam_jobs.codec.csv.reader import read_csv
from beam_jobs.codec.decoded import Decoded
from beam_jobs.codec.json.lines import read_json_lines
from beam_jobs.codec.parquet import open_parquet, readable
from beam_jobs.codec.schema import arrow_schema
from beam_jobs.errors import RowErrors
from beam_jobs.use_case import UseCase

_BATCH_ROWS = 32_768  # rows of a Parquet file at a time
_PAGES_BYTES = 1 << 20  # of a Parquet column at a time, however large its row group is

Reader = Callable[[Path, UseCase, Sequence[str]], Iterator[Decoded]]


def read_events(file: Path, use_case: UseCase, columns: Sequence[str]) -> Iterator[Decoded]:
    """Blocks of a file's rows, and what is wrong with the others; a file is read a few megabytes at a time.

    Args:
      columns: fields of the schema, in the order wanted.

    Raises:
      UserError: the file can't be read, lacks a field, or is Avro or Parquet and has a value that is none of its field.
    """
    return READERS[file.suffix](file, use_case, columns)


def _avro(file: Path, use_case: UseCase, columns: Sequence[str]) -> Iterator[Decoded]:
    for rows in read_avro(file, use_case.schema, columns):
        yield Decoded(rows, RowErrors.none())


def _parquet(file: Path, use_case: UseCase, columns: Sequence[str]) -> Iterator[Decoded]:
    wanted = arrow_schema(use_case.schema, columns)
    with readable(f"{file}: can't be read", "write it again"), file.open("rb") as opened:
        parquet = open_parquet(opened, buffer_size=_PAGES_BYTES, pre_buffer=False)
        fit = Fit(str(file), parquet.schema_arrow.names, use_case.schema, wanted)
        for batch in parquet.iter_batches(_BATCH_ROWS, columns=list(fit.columns.values())):
            yield Decoded(fit.rows(batch, batch.num_rows), RowErrors.none())


def _csv(file: Path, use_case: UseCase, columns: Sequence[str]) -> Iterator[Decoded]:
    return read_csv(file, use_case.schema, columns, use_case.csv)


def _json(file: Path, use_case: UseCase, columns: Sequence[str]) -> Iterator[Decoded]:
    return read_json_lines(file, use_case.schema, columns)


READERS: Mapping[str, Reader] = {
    ".avro": _avro,
    ".parquet": _parquet,
    ".csv": _csv,
    ".tsv": _csv,
    ".jsonl": _json,
    ".ndjson": _json,
}
"""Who reads a file, by the end of its name."""
