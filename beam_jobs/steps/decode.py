"""Raw blocks to events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apache_beam as beam

from beam_jobs import dead_letters
from beam_jobs.block import Block, with_source
from beam_jobs.codec.decoded import Decoded
from beam_jobs.codec.events import EventDecoder, RevisionSchema, warm_up

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
        self._decoder = EventDecoder(self._schema, self._writer_schema, self._columns, self._revision_schema)

    def _decode(self, raw: Block) -> Decoded:
        return self._decoder.decode(raw.column("value"), raw.column("headers"))

    def process(self, raw: Block) -> Iterator[Block | beam.pvalue.TaggedOutput]:
        parts, bad = dead_letters.isolate(self._decode, raw)
        if len(bad):
            yield dead_letters.refused(raw, bad, "decode", self._job)
        for _, part, decoded in parts:
            if len(decoded.errors):
                yield dead_letters.refused(part, decoded.errors, "decode", self._job)
            if decoded.rows.num_rows:
                yield with_source(decoded.rows, part, decoded.errors.good_rows(part.num_rows))
