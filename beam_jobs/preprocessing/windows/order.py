"""Recorded rows in the order in which histories take them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc

_TOPIC, PARTITION, OFFSET = "_topic", "_partition", "_offset"  # as block.SOURCE_COLUMNS has them
RECORD_TIME = "_timestamp"
ORDER = "order:"  # the newest record time of a row's partition by then, microseconds: where it stands among all rows


def by_log(blocks: Sequence[pa.RecordBatch], event_time: str, rows: int = 32_768) -> Iterator[Iterator[pa.RecordBatch]]:
    """The rows of all blocks, log by log, each of which wants a history of its own.

    Rows that say in which partition they stood (``_topic``, ``_partition``, ``_offset``) come as they stood there, so
    that late ones see what they saw when they came. Others come by event time, for file after file is seldom in order,
    as one log; rows of one time stay as they were, those without a time come last. All rows are in memory at once.

    Args:
      blocks: of events.
      event_time: the column to go by.
      rows: of a block that comes out, at most.
    """
    recorded = [block for block in blocks if OFFSET in block.schema.names]
    if recorded:
        table = _table(recorded)
        place = table.schema.get_field_index(_TOPIC)
        table = table.set_column(place, _TOPIC, table[_TOPIC].cast(pa.string()))  # Arrow sorts no dictionaries
        table = table.take(pc.sort_indices(table, [(name, "ascending") for name in (_TOPIC, PARTITION, OFFSET)]))
        for start, end in _runs(table[_TOPIC]):
            topic = table[start:end]
            yield from (_cut(topic[first:last], rows) for first, last in _runs(topic[PARTITION]))
    others = [block for block in blocks if OFFSET not in block.schema.names]
    if others:
        table = _table(others)
        yield _cut(table.take(pc.sort_indices(table[event_time])), rows)  # stable


def _table(blocks: Sequence[pa.RecordBatch]) -> pa.Table:
    return pa.Table.from_batches(blocks).combine_chunks()  # to take from many chunks costs a copy of all of them


def _cut(table: pa.Table, rows: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(table), rows):
        yield from table.slice(start, rows).combine_chunks().to_batches()


def _runs(column: pa.ChunkedArray) -> Iterator[tuple[int, int]]:
    """Where each stretch of one value starts and ends."""
    return pairwise([0, *pc.run_end_encode(column.combine_chunks()).run_ends.to_pylist()])
