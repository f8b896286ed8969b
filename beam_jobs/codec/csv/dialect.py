"""How a CSV file is written: what parts its columns, what stands before decimals, how it writes times."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from beam_jobs.codec.columns import field_name
from beam_jobs.errors import UserError, one_line

DELIMITERS = (",", ";", "\t", "|")
HEADER_BYTES = 1 << 20  # in which the header has to end
EPOCHS = {"seconds": 1000, "milliseconds": 1}  # since 1970-01-01, in milliseconds

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_NO_UTF_8 = "is not UTF-8; save it as UTF-8 (iconv -f LATIN1 -t UTF-8, or the encoding it has)"


@dataclass(frozen=True)
class Dialect:
    """What a use case says of its CSV files, under ``csv`` of use_case.yaml."""

    delimiter: str | None = None  # None: the one of DELIMITERS that makes the most of the header
    decimal: str = "."  # before decimals: "." or ","
    times: str | None = None  # as strptime has it, "seconds" or "milliseconds"; None: ISO 8601, or the field's own unit

    def __post_init__(self) -> None:
        """Checks the settings; UserError names the one that is wrong."""
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise UserError(f"delimiter {self.delimiter!r}: expected one character, such as ';'")
        if self.decimal not in (".", ","):
            raise UserError(f"decimal {self.decimal!r}: expected '.' or ','")
        if self.times is not None and self.times not in EPOCHS and "%" not in self.times:
            raise UserError(f"times {self.times!r}: expected a format like '%d.%m.%Y %H:%M', or {', '.join(EPOCHS)}")


def header_of(file: Path, where: str, delimiter: str | None, known: Collection[str] = ()) -> tuple[str, list[str]]:
    """The delimiter of a file, and the names of its columns.

    Args:
      where: the file, for errors.
      delimiter: None: that of which most of ``known`` become columns; where none does, that which makes the most.

    Raises:
      UserError: the file can't be read, or has no header.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(HEADER_BYTES)
    except OSError as error:
        raise UserError(
            f"{where}: can't be read ({error.strerror or error}); check the path, and your rights"
        ) from error
    text = data.decode("utf-8-sig", errors="replace")
    if data.startswith(_UTF_16) or "\ufffd" in text.strip().partition("\n")[0]:
        raise UserError(f"{where}: {_NO_UTF_8}")
    if not text.strip():
        raise UserError(f"{where}: is empty; write a header and rows")
    rows = {sign: _first(text, sign, where) for sign in ([delimiter] if delimiter else DELIMITERS)}
    best = max(rows, key=lambda sign: (len(set(known) & {*rows[sign], *map(field_name, rows[sign])}), len(rows[sign])))
    return best, rows[best]


def unreadable(where: str, error: Exception) -> UserError:
    """What Arrow can't read of a file, as a sentence."""
    text = one_line(error, 300)
    if "UTF8" in text:
        return UserError(f"{where}: {_NO_UTF_8}")
    if "straddling" in text:
        return UserError(f"{where}: has a row of several megabytes; is a quote without its end?")
    return UserError(f"{where}: can't be read as CSV ({text})")


def _first(text: str, delimiter: str, where: str) -> list[str]:
    try:
        return next(row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row)
    except (csv.Error, StopIteration) as error:
        raise UserError(f"{where}: has no header ({one_line(error, 200)}); write the columns' names first") from error
