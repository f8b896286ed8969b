"""Events to features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs import dead_letters, metrics
from beam_jobs.block import Block, source_of, take, with_source
from beam_jobs.isolate import Isolate
from beam_jobs.preprocessing.preprocessor import Preprocessor
from beam_jobs.preprocessing.threads import one_thread


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
        one_thread()
        self._preprocessor.check_secrets()  # a key that is missing here is reported before the first block
        self._preprocessor.warm_up()
        columns = list(self._preprocessor.input_columns)
        apply = self._preprocessor.apply
        self._apply = Isolate(lambda events: apply(events.select(columns)), personal=self._preprocessor.personal)

    def process(self, events: Block) -> Iterator[Block | beam.pvalue.TaggedOutput]:
        parts, bad = self._apply(events)
        if len(bad):
            yield dead_letters.refused(source_of(events), bad, "preprocess", self._job)
        for part in parts:
            done = part.result
            if len(done.errors):
                yield dead_letters.refused(source_of(part.block), done.errors, "preprocess", self._job)
            metrics.inc(metrics.RECORDS_FILTERED, done.filtered)
            if done.rows.num_rows:
                yield traced(done.rows, part.block, done.kept, self._carry)


def traced(rows: Block, events: Block, kept: NDArray[np.int64], carry: Sequence[str]) -> Block:
    """Rows made of the events ``kept``, with the fields ``carry`` of these and the records they came from."""
    if carry:
        carried = take(events.select(list(carry)), kept)
        rows = pa.RecordBatch.from_arrays([*rows.columns, *carried.columns], names=[*rows.schema.names, *carry])
    return with_source(rows, source_of(events), kept)
