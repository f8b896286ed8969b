"""Raw blocks to events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apache_beam as beam

from beam_jobs import dead_letters
from beam_jobs.block import Block, with_source
from beam_jobs.codec.decoded import Decoded
from beam_jobs.codec.events import EventDecoder, RevisionSchema, warm_up
from beam_jobs.isolate import Isolate

Writers = Callable[[int], dict[str, Any]]


class DecodeEvents(beam.DoFn):
    """Raw blocks to events blocks; what cannot be decoded goes to the tagged output as dead letters."""

    def __init__(
        self,
        schema: dict[str, Any],
        columns: Sequence[str],
        writer_schema: Writers,
        job: str,
        revision_schema: RevisionSchema | None = None,
    ) -> None:
        self._schema = schema
        self._columns = tuple(columns)
        self._writer_schema = writer_schema
        self._job = job
        self._revision_schema = revision_schema

    def setup(self) -> None:
        warm_up()  # the first block must not wait for the compiler
        decoder = EventDecoder(self._schema, self._writer_schema, self._columns, self._revision_schema)

        def decode(raw: Block) -> Decoded:
            return decoder.decode(raw.column("value"), raw.column("headers"))

        self._decode = Isolate(decode)

    def process(self, raw: Block) -> Iterator[Block | beam.pvalue.TaggedOutput]:
        parts, bad = self._decode(raw)
        if len(bad):
            yield dead_letters.refused(raw, bad, "decode", self._job)
        for part in parts:
            decoded = part.result
            if len(decoded.errors):
                yield dead_letters.refused(part.block, decoded.errors, "decode", self._job)
            if decoded.rows.num_rows:
                yield with_source(decoded.rows, part.block, decoded.errors.good_rows(part.block.num_rows))
