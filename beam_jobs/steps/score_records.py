"""Features to scores, scores to records for the topics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import apache_beam as beam
import pyarrow as pa

import schemas
from beam_jobs import dead_letters, metrics
from beam_jobs.block import Block, source_of, take
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.codec.json.decoder import JsonEncoder
from beam_jobs.preprocessing.preprocessor import Preprocessor
from beam_jobs.steps import alerts
from beam_jobs.use_case import UseCase
from schemas.source import SchemaId, id_of

ROWS = "rows"  # the tagged output of alerts before they are encoded


class CheckScores(beam.DoFn):
    """Passes scored rows on; what can't be written as a score goes to the tagged output as a dead letter.

    Args:
      key: column of the events' key.
      attributes: text columns that scores and alerts carry along.
    """

    def __init__(self, job: str, key: str, attributes: Sequence[str] = ()) -> None:
        self._job = job
        self._key = key
        self._attributes = tuple(attributes)

    def process(self, scored: Block) -> Iterator[Block | beam.pvalue.TaggedOutput]:
        bad = alerts.unwritable(scored, self._key, self._attributes)
        if len(bad):
            yield dead_letters.refused(source_of(scored), bad, "score", self._job)
            scored = take(scored, bad.good_rows(scored.num_rows))
        metrics.inc(metrics.RECORDS_SCORED, scored.num_rows)
        if scored.num_rows:
            yield scored


class ToRecords(beam.DoFn):
    """Scored blocks to records (key, value), as ``rows`` makes and ``schema`` encodes them.

    A block without rows is passed on: the sink measures the latency of every block, alerts or none.

    Args:
      schema_id: in front of each Avro value; None: the values are JSON.
      also_rows: they go out as rows, too, under the tag ROWS.
    """

    def __init__(
        self,
        rows: Callable[[Block], Block],
        schema: dict[str, Any],
        schema_id: SchemaId | None,
        count_as: metrics.Metric | None = None,
        also_rows: bool = False,
    ) -> None:
        self._also_rows = also_rows
        self._rows = rows
        self._schema = schema
        self._schema_id = schema_id
        self._count_as = count_as

    def setup(self) -> None:
        id_ = self._schema_id
        self._encoder = JsonEncoder(self._schema) if id_ is None else AvroEncoder(self._schema, id_of(id_))
        alerts.warm_up()

    def process(self, scored: Block) -> Iterator[Block | beam.pvalue.TaggedOutput]:
        rows = self._rows(scored)
        if self._count_as:
            metrics.inc(self._count_as, rows.num_rows)
        key = rows.column("key").cast(pa.binary())
        yield pa.RecordBatch.from_arrays([key, self._encoder.encode(rows)], names=["key", "value"])
        if self._also_rows:
            yield beam.pvalue.TaggedOutput(ROWS, rows)


def to_alerts(
    use_case: UseCase,
    preprocessor: Preprocessor,
    schema_id: SchemaId | None,
    also_rows: bool = False,
) -> ToRecords:
    """The anomalies of scored blocks as records of ``alert.avsc``; without an id as JSON."""
    rows = partial(
        alerts.alert_rows,
        key=use_case.key,
        event_time=use_case.event_time,
        features=preprocessor.features,
        units=preprocessor.units,
        attributes=preprocessor.attributes,
        told=use_case.story,
    )
    return ToRecords(rows, schemas.load("alert"), schema_id, metrics.ALERTS, also_rows)


def to_scores(use_case: UseCase, schema_id: SchemaId) -> ToRecords:
    """Every row of scored blocks as records of ``score.avsc``."""
    attributes = use_case.preprocessor().attributes
    rows = partial(alerts.score_rows, key=use_case.key, event_time=use_case.event_time, attributes=attributes)
    return ToRecords(rows, schemas.load("score"), schema_id)
