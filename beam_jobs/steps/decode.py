"""Raw blocks to events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow.compute as pc

from beam_jobs import dead_letters, metrics
from beam_jobs.block import Block, concat, with_source
from beam_jobs.codec.avro.writers import NamedSchema, WriterSchema
from beam_jobs.codec.decoded import Decoded
from beam_jobs.codec.events import EventDecoder, warm_up
from beam_jobs.codec.schema import parse_record
from beam_jobs.errors import RowErrors
from beam_jobs.isolate import Isolate


@dataclass(frozen=True)
class EventSettings:
    """What counts as an event."""

    skip_tombstones: bool = False  # records without a value are counted and left out; otherwise dead letters
    json_strict: bool = False  # as ``strict`` of JsonDecoder


class DecodeEvents(beam.DoFn):
    """Raw blocks to events blocks, one each; what cannot be decoded goes to the tagged output as dead letters."""

    def __init__(
        self,
        schema: dict[str, Any],
        columns: Sequence[str],
        writer_schema: WriterSchema,
        job: str,
        revision_schema: NamedSchema | None = None,
        settings: EventSettings = EventSettings(),
        guid_schema: NamedSchema | None = None,
    ) -> None:
        self._schema = schema
        self._columns = tuple(columns)
        self._writer_schema = writer_schema
        self._job = job
        self._revision_schema = revision_schema
        self._settings = settings
        self._guid_schema = guid_schema

    def setup(self) -> None:
        warm_up()  # the first block must not wait for the compiler
        decoder = EventDecoder(
            self._schema,
            self._writer_schema,
            self._columns,
            self._revision_schema,
            self._settings.json_strict,
            self._guid_schema,
        )

        def decode(raw: Block) -> Decoded:
            return decoder.decode(raw.column("value"), raw.column("headers"))

        personal = any(field.personal for field in parse_record(self._schema).fields)
        self._decode = Isolate(decode, personal=personal)

    def process(self, raw: Block) -> Iterator[Block | beam.pvalue.TaggedOutput]:
        if self._settings.skip_tombstones:
            raw = without_tombstones(raw)
        events, refused = self.decode(raw)
        for block, errors in refused:
            yield dead_letters.refused(block, errors, "decode", self._job)
        if events is not None:
            yield events

    def decode(self, raw: Block) -> tuple[Block | None, list[tuple[Block, RowErrors]]]:
        """The events of a raw block, and which records of which blocks are none; nothing of it is counted.

        One block of events, for windows go by which part of the log a block is; None: there are none.
        """
        parts, bad = self._decode(raw)
        refused = [(raw, bad)] if len(bad) else []
        events = []
        for part in parts:
            decoded = part.result
            if len(decoded.errors):
                refused.append((part.block, decoded.errors))
            if decoded.rows.num_rows:
                events.append(with_source(decoded.rows, part.block, decoded.errors.good_rows(part.block.num_rows)))
        return concat(events) if events else None, refused


def without_tombstones(raw: Block) -> Block:
    """The records of a block that have a value; the others are counted as tombstones."""
    values = raw.column("value")
    if not values.null_count:
        return raw
    metrics.inc(metrics.TOMBSTONES, values.null_count)
    return raw.filter(pc.is_valid(values))
