"""The first two steps of every job: raw blocks to events, events to features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa

from beam_jobs import dead_letters, metrics
from beam_jobs.block import Block, source_of, take, with_source
from beam_jobs.codec.decoded import Decoded
from beam_jobs.codec.decoder import EventDecoder, RevisionSchema, warm_up
from beam_jobs.preprocessing.preprocessor import Preprocessor

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
            yield _refused(raw, bad, "decode", self._job)
        for _, part, decoded in parts:
            if len(decoded.errors):
                yield _refused(part, decoded.errors, "decode", self._job)
            if decoded.rows.num_rows:
                yield with_source(decoded.rows, part, decoded.errors.good_rows(part.num_rows))


class Preprocess(beam.DoFn):
    """Events blocks to features blocks by the compiled SQL; rows the WHERE removes are counted.

    Args:
      carry: fields of the events that come out as they went in, beside what the query selects.
    """

    def __init__(self, preprocessor: Preprocessor, job: str, carry: Sequence[str] = ()) -> None:
        self._preprocessor = preprocessor
        self._job = job
        self._carry = tuple(carry)

    def setup(self) -> None:
        self._preprocessor.check_secrets()  # a key that is missing here is told before the first block
        self._preprocessor.warm_up()

    def process(self, events: Block) -> Iterator[Block | beam.pvalue.TaggedOutput]:
        columns = list(self._preprocessor.input_columns)
        parts, bad = dead_letters.isolate(lambda part: self._preprocessor.apply(part.select(columns)), events)
        if len(bad):
            yield _refused(source_of(events), bad, "preprocess", self._job)
        for _, part, done in parts:
            if len(done.errors):
                yield _refused(source_of(part), done.errors, "preprocess", self._job)
            metrics.inc(metrics.RECORDS_FILTERED, done.filtered)
            if done.rows.num_rows:
                rows = done.rows
                if self._carry:
                    carried = take(part.select(list(self._carry)), done.kept)
                    rows = pa.RecordBatch.from_arrays(
                        [*rows.columns, *carried.columns], names=[*rows.schema.names, *self._carry]
                    )
                yield with_source(rows, source_of(part), done.kept)


def _refused(raw: Block, errors: Any, stage: str, job: str) -> beam.pvalue.TaggedOutput:
    return beam.pvalue.TaggedOutput(dead_letters.TAG, dead_letters.dead_letter_block(raw, errors, stage, job))
