"""Parquet files of any writer, whole or damaged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from beam_jobs.errors import UserError, one_line


def open_parquet(source: IO[bytes] | pa.NativeFile, **settings: Any) -> pq.ParquetFile:
    """A file to read; checksums are looked at, where pages have one.

    Times of 96 bits (Impala, old Spark) come in microseconds: nanoseconds hold the years 1677 to 2262 and wrap
    around without a word.
    """
    return pq.ParquetFile(source, page_checksum_verification=True, coerce_int96_timestamp_unit="us", **settings)


@contextmanager
def readable(what: str, remedy: str) -> Iterator[None]:
    """Around reading: whatever a damaged file makes a reader raise is one line.

    Args:
      what: "PATH: can't be read".

    Raises:
      UserError: for any exception but that of a caller's own.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Arrow raises OSError, five errors of its own, UnicodeDecodeError, KeyError
        raise UserError(f"{what} ({one_line(error, 200)}); {remedy}") from error
