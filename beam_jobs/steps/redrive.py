"""Dead letters as the records they were, for their topic again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

import schemas
from beam_jobs import metrics
from beam_jobs.block import Block, raw_block
from beam_jobs.codec.avro.decoder import AvroDecoder
from beam_jobs.codec.avro.writers import WriterSchema
from beam_jobs.errors import UNDELIVERED_ALERT
from beam_jobs.steps.decode import without_tombstones
from beam_jobs.steps.payload import Payload, restore
from beam_jobs.steps.write_dead_letters import left_out

REDRIVES_HEADER = "highbeam.redrives"  # how often a record was put back, a decimal number


class Redrive(beam.DoFn):
    """Raw blocks of a dead-letter topic to the records they were, ready for a sink.

    Args:
      reasons: only dead letters with one of these reasons; when empty all that hold a record of the input.
      writer_schema: schemas of the dead letters by id, whatever version wrote them.
      payload: with the key of those that are encrypted; None: they are counted as they are.
    """

    def __init__(
        self,
        reasons: Sequence[str],
        writer_schema: WriterSchema,
        payload: Payload | None = None,
    ) -> None:
        self._reasons = tuple(reasons)
        self._writer_schema = writer_schema
        self._payload = payload

    def setup(self) -> None:
        self._keys = None if self._payload is None else self._payload.keys()
        self._decoder = AvroDecoder(schemas.load("dead_letter"), self._writer_schema)

    def process(self, raw: Block) -> Iterator[Block]:
        raw = without_tombstones(raw)
        decoded = self._decoder.decode(raw.column("value"))
        metrics.inc(metrics.UNREADABLE, len(decoded.errors))
        letters = decoded.rows
        reasons = letters.column("reason")
        if self._reasons:
            letters = letters.filter(pc.is_in(reasons, pa.array(self._reasons, pa.string())))
        else:  # an alert is no event
            letters = letters.filter(pc.not_equal(reasons, UNDELIVERED_ALERT))
        metrics.inc(metrics.RECORDS_FILTERED, decoded.rows.num_rows - letters.num_rows)
        cut = left_out(letters)
        metrics.inc(metrics.WITHOUT_PAYLOAD, int(cut.sum()))
        letters = letters.filter(pa.array(~cut))
        if self._keys is not None:
            letters, damaged = restore(letters, self._keys)
            metrics.inc(metrics.UNREADABLE, int(damaged.sum()))
            letters = letters.filter(pa.array(~damaged))
        yield original_records(letters)
        for reason in pc.value_counts(letters.column("reason")).to_pylist():  # written by now: see WriteDeadLetters
            metrics.inc(metrics.REDRIVEN, reason["counts"], reason["values"])
        metrics.inc(metrics.REDRIVEN, letters.num_rows)


def original_records(letters: Block) -> Block:
    """The records as they were before they became dead letters, with one more redrive counted in their headers.

    Args:
      letters: a block of ``dead_letter.avsc`` rows.

    Returns:
      A block with key, value, headers and timestamp columns, ready for a sink.
    """
    headers = []
    for old in letters.column("headers").to_pylist():
        kept = [(h["key"], h["value"]) for h in old or [] if h["key"] != REDRIVES_HEADER]
        before = [h["value"] for h in old or [] if h["key"] == REDRIVES_HEADER]
        headers.append([*kept, (REDRIVES_HEADER, json.dumps(_number(before) + 1).encode())])
    return raw_block(
        "",
        letters.column("partition"),
        letters.column("offset"),
        letters.column("timestamp").view(pa.int64()),
        letters.column("key"),
        letters.column("value"),
        headers,
    ).select(["key", "value", "headers", "timestamp"])


def _number(values: list[bytes | None]) -> int:
    try:
        return max(int(value or b"0") for value in values)
    except ValueError:  # none, or a header of somebody else's making
        return 0
