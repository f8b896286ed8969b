"""Puts the columns of a lookup table beside rows that have its key."""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam
import pyarrow as pa
import pyarrow.csv

from beam_jobs import metrics
from beam_jobs.block import Block
from beam_jobs.preprocessing.threads import one_thread
from beam_jobs.steps.lookup import Lookup, LookupFile, Table


class Enrich(beam.DoFn):
    """Puts the columns of a lookup table behind those of each block; null where the key is not in it."""

    def __init__(self, file: LookupFile, every_s: float) -> None:
        self._file, self._every_s = file, every_s

    def setup(self) -> None:
        one_thread()
        self._lookup = Lookup(self._file, self._every_s)

    def process(self, block: Block) -> Iterator[Block]:
        yield enrich(block, self._file.key, self._lookup.current())


def enrich(block: Block, key: str, table: Table) -> Block:
    """The block with the table's columns behind its own; counts the rows that are not in the table."""
    found = table.find(block.column(key))
    metrics.inc(metrics.NOT_IN_LOOKUP, found.null_count)
    columns = table.columns_at(found)
    return pa.RecordBatch.from_arrays(
        [*block.columns, *columns.columns], names=[*block.schema.names, *columns.schema.names]
    )
