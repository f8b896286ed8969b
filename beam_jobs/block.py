"""The element of every pipeline: a block, one ``pyarrow.RecordBatch`` of many records.

A block comes in two shapes.

*raw*: what the broker handed out, one row a record, in :data:`RAW_SCHEMA`::

    >>> raw = raw_block("sensor-data", [0, 0], [41, 42], [1700000000000, 1700000000500],
    ...                 keys=[b"car-1", None], values=[b"\\x00\\x00\\x00\\x00\\x01...", None])
    >>> raw.num_rows, raw.column("offset").to_pylist()
    (2, [41, 42])

A null ``value`` is a tombstone and is kept as one. The rows of a block belong to one topic; they may come from
several partitions and are in offset order within each.

*events*: the columns of the event schema, beside the raw columns under their names with a leading underscore
(:data:`SOURCE_COLUMNS`), so that each row can be traced back, byte for byte, to the record it came from::

    >>> import pyarrow as pa
    >>> events = with_source(pa.record_batch({"speed": [12.5]}), raw, [0])
    >>> events.schema.names
    ['speed', '_topic', '_partition', '_offset', '_timestamp', '_key', '_value', '_headers']
    >>> source_of(events).equals(raw.slice(0, 1))
    True

Blocks are cut and joined without copying a row at a time::

    >>> concat([raw.slice(0, 1), raw.slice(1)]).equals(raw)
    True

The element's Beam timestamp is the block's smallest record timestamp, as :func:`beam_time` gives it; the column keeps
what the record says, any 64 bits. A coder for blocks is registered when this module is imported.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from apache_beam import coders
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Timestamp
from numpy.typing import NDArray

HEADERS_TYPE = pa.list_(pa.struct([pa.field("key", pa.string(), nullable=False), pa.field("value", pa.binary())]))

RAW_SCHEMA = pa.schema(
    [
        pa.field("topic", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("timestamp", pa.timestamp("ms", "UTC"), nullable=False),  # broker or producer time
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field("headers", HEADERS_TYPE),
    ]
)
"""One row a record, as it left the broker."""

NO_RECORDS = pa.RecordBatch.from_pylist([], RAW_SCHEMA)
SOURCE_PREFIX = "_"
SOURCE_COLUMNS = tuple(SOURCE_PREFIX + name for name in RAW_SCHEMA.names)
"""The raw columns as they stand in an events block."""

_STRETCH = b"highbeam.stretch"  # key in a block's metadata

MAX_BLOCK_ROWS = 32768  # rows; smaller costs overhead, larger leaves the caches (docs/performance.md)

_EARLIEST_MS = MIN_TIMESTAMP.micros // 1000
_LATEST_MS = GlobalWindow().max_timestamp().micros // 1000  # an element beyond it belongs to no window

Block: TypeAlias = pa.RecordBatch


def raw_block(
    topic: str,
    partitions: Any,
    offsets: Any,
    timestamps_ms: Any,
    keys: Any,
    values: Any,
    headers: Any = None,
) -> Block:
    """Builds a raw block from arrays or lists of one length n.

    Args:
      topic: the topic all rows belong to.
      partitions, offsets, timestamps_ms: int32 [n], int64 [n], int64 [n] (milliseconds since the epoch).
      keys, values: bytes or None [n], or ``pa.BinaryArray``.
      headers: None (no record has headers), or a list of None or lists of (key, value), or an array of HEADERS_TYPE.
    """
    n = len(offsets)
    if headers is None:
        headers = pa.nulls(n, HEADERS_TYPE)
    elif not isinstance(headers, pa.Array):
        headers = pa.array(
            [None if h is None else [{"key": k, "value": v} for k, v in h] for h in headers], HEADERS_TYPE
        )
    return pa.RecordBatch.from_arrays(
        [
            pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([topic], pa.string())),
            pa.array(partitions, pa.int32()),
            pa.array(offsets, pa.int64()),
            pa.array(timestamps_ms, pa.int64()).cast(pa.timestamp("ms", "UTC")),
            keys if isinstance(keys, pa.Array) else pa.array(keys, pa.binary()),
            values if isinstance(values, pa.Array) else pa.array(values, pa.binary()),
            headers,
        ],
        schema=RAW_SCHEMA,
    )


def with_source(rows: Block, raw: Block, raw_rows: Sequence[int] | NDArray[np.int64] | None = None) -> Block:
    """Puts the raw columns beside ``rows``.

    Row i of ``rows`` came from row ``raw_rows[i]`` of ``raw``; ``raw_rows`` ascends, without duplicates (None: row i).
    The stretch of ``raw`` goes along.
    """
    source = raw if raw_rows is None or len(raw_rows) == raw.num_rows else take(raw, raw_rows)
    return pa.RecordBatch.from_arrays(
        [*rows.columns, *source.columns], names=[*rows.schema.names, *SOURCE_COLUMNS], metadata=raw.schema.metadata
    )


def source_of(events: Block) -> Block:
    """The raw block an events block came from, row by row."""
    return pa.RecordBatch.from_arrays([events.column(name) for name in SOURCE_COLUMNS], schema=RAW_SCHEMA)


@dataclass(frozen=True)
class Stretch:
    """Which part of a log a block is: all its records between two offsets, less what is none (markers, aborted ones)
    and what a step has left out.

    >>> block = Stretch({0: (40, 43)}, "id").on(raw_block("t", [0], [42], [0], [None], [b"x"]))
    >>> stretch_of(with_source(pa.record_batch({"speed": [12.5]}), block))
    Stretch(partitions={0: (40, 43)}, topic_id='id', idle=frozenset())
    """

    partitions: Mapping[int, tuple[int, int]]  # partition -> its first offset, and the one after its last
    topic_id: str = ""  # of the topic they are offsets in; "": not known
    idle: frozenset[int] = frozenset()  # partitions of the reader in which nothing was left to be read

    def on(self, block: Block) -> Block:
        """The block, which says that it is this stretch."""
        text = json.dumps([self.topic_id, [(p, *span) for p, span in self.partitions.items()], sorted(self.idle)])
        return block.replace_schema_metadata({_STRETCH: text.encode()})


def stretch_of(block: Block) -> Stretch | None:
    """The part of a log that a block came from, raw or events; None: its source does not say."""
    text = (block.schema.metadata or {}).get(_STRETCH)
    if text is None:
        return None
    topic_id, spans, idle = json.loads(text)
    return Stretch({p: (start, end) for p, start, end in spans}, topic_id, frozenset(idle))


def take(block: Block, rows: Sequence[int] | NDArray[np.int64]) -> Block:
    """The given rows, in the given order (a copy)."""
    return block.take(pa.array(rows, pa.int64()))


def concat(blocks: Sequence[Block]) -> Block:
    """One block of all rows, in order. All blocks have one schema; at least one block."""
    if len(blocks) == 1:
        return blocks[0]
    return pa.concat_batches(blocks)


def split(block: Block, max_rows: int = MAX_BLOCK_ROWS) -> Iterator[Block]:
    """Slices of at most ``max_rows`` rows that share the block's memory; none for an empty block."""
    for start in range(0, block.num_rows, max_rows):
        yield block.slice(start, max_rows)


def min_timestamp(block: Block) -> Timestamp:
    """The element timestamp of a block: the smallest record timestamp of its rows (raw or events; not empty)."""
    name = "timestamp" if "timestamp" in block.schema.names else SOURCE_PREFIX + "timestamp"
    return beam_time(int(millis_of(block.column(name)).min()))


def millis_of(times: pa.Array) -> NDArray[np.int64]:
    """A column of timestamps in milliseconds since the epoch, int64 [n]; finer ones rounded down, nulls 0.

    Arrow's own cast refuses microseconds that are no whole milliseconds.
    """
    numbers = times.view(pa.int64())
    numbers = (numbers.fill_null(0) if numbers.null_count else numbers).to_numpy()
    finer = {"ms": 1, "us": 1_000, "ns": 1_000_000}[times.type.unit]
    return numbers if finer == 1 else numbers // finer


def beam_time(millis: int) -> Timestamp:
    """Milliseconds since the epoch as Beam's time; beyond its ends, the years ±292,000, the nearer end."""
    return Timestamp(micros=min(max(millis, _EARLIEST_MS), _LATEST_MS) * 1000)


class BlockCoder(coders.Coder):
    """Blocks as one Arrow IPC stream.

    A slice is written as its own rows only: Arrow's IPC writer truncates buffers to the slice, where pickle would
    write the whole parent.
    """

    def encode(self, value: Block) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, value.schema) as writer:
            writer.write_batch(value)
        return bytes(sink.getvalue())

    def decode(self, encoded: bytes) -> Block:
        with pa.ipc.open_stream(encoded) as reader:
            return reader.read_next_batch()

    def estimate_size(self, value: Block) -> int:
        """Bytes, without encoding (Beam's default would encode every sampled block for a metric)."""
        return int(value.nbytes)

    def is_deterministic(self) -> bool:
        return True

    def to_type_hint(self) -> type:
        return pa.RecordBatch

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


coders.registry.register_coder(pa.RecordBatch, BlockCoder)
