"""JSON lines, an object a line, as rows of a schema: what jobs read from a topic, in a file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from beam_jobs.codec.decoded import Decoded
from beam_jobs.codec.json.decoder import JsonDecoder
from beam_jobs.errors import RowErrors, UserError

CHUNK_BYTES = 4 << 20  # of the file at a time
MAX_LINE = 64 << 20  # bytes

_BOM = b"\xef\xbb\xbf"


def read_json_lines(
    file: str | os.PathLike[str], reader_schema: Mapping[str, Any], columns: Sequence[str] | None = None
) -> Iterator[Decoded]:
    """The rows of a file of JSON objects, a line each, and what is wrong with the others; empty lines are none.

    Args:
      columns: the fields wanted, in that order (None: all).

    Yields:
      Blocks; sentences of errors begin with the number of the line, from 1 on.

    Raises:
      UserError: the file can't be read.
    """
    where, decoder = os.fspath(file), JsonDecoder(reader_schema, columns)
    for numbers, lines in numbered_lines(Path(where)):
        decoded = decoder.decode(pa.array(lines, pa.binary()))
        errors = decoded.errors
        told = [f"line {numbers[row]:,}: {text}" for row, text in zip(errors.rows.tolist(), errors.errors, strict=True)]
        yield Decoded(decoded.rows, RowErrors(errors.rows, errors.reasons, told))


def numbered_lines(file: Path) -> Iterator[tuple[list[int], list[bytes]]]:
    """The lines of a file that are not empty, with their numbers, some megabytes at a time.

    Raises:
      UserError: the file can't be read, or has a line of more than MAX_LINE bytes.
    """
    number = 1
    try:
        with file.open("rb") as opened:
            for lines in _chunks(opened, file):
                kept = [(number + i, line) for i, line in enumerate(lines) if line.strip()]
                number += len(lines)
                if kept:
                    yield [i for i, _ in kept], [line for _, line in kept]
    except OSError as error:
        raise UserError(
            f"{file}: can't be read ({error.strerror or error}); check the path, and your rights"
        ) from error


def _chunks(opened: IO[bytes], file: Path) -> Iterator[list[bytes]]:
    rest = opened.read(len(_BOM)).removeprefix(_BOM)
    while chunk := opened.read(CHUNK_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_LINE:
            raise UserError(f"{file}: has a line of more than {MAX_LINE >> 20} MB; is it JSON lines, an object a line?")
        yield lines
    yield [rest]
