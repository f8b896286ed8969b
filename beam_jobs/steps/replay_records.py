"""Archived events as the records they were: keys, timestamps, Avro values, and a header that names the origin.

Fields tagged as personal data are not in the archive. With a Schema Registry the values are written in the event schema
without them, and readers that need none of them do not miss them. Without a registry every reader takes the event
schema for every record, so the values are written in it, with those fields null.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
import pyarrow as pa

from beam_jobs.block import SOURCE_PREFIX, Block
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.codec.schema import parse_record
from beam_jobs.errors import UserError
from beam_jobs.origin import origin, origin_headers
from beam_jobs.preprocessing.fields import fields_of
from beam_jobs.use_case import UseCase
from schemas.source import SchemaId, id_of


def value_schema(use_case: UseCase, registry: bool) -> dict[str, Any]:
    """The schema of replayed values.

    Raises:
      UserError: there is no registry, and a personal field can't be null.
    """
    personal = {name for name, field in fields_of(use_case.schema).items() if field.pii is not None}
    if registry:
        return {**use_case.schema, "fields": [f for f in use_case.schema["fields"] if f["name"] not in personal]}
    for field in parse_record(use_case.schema).fields:
        plain = field.type.non_null()
        if field.name in personal and not (plain and plain[1]):
            raise UserError(
                f"field {field.name!r} is personal data, so not in the archive, and can't be null: name a "
                "--schema_registry for values without it, or allow null in the schema"
            )
    return use_case.schema


def records(events: Block, encoder: AvroEncoder) -> Block:
    """The records of an events block, ready for a sink: key, value, headers, timestamp."""
    return pa.RecordBatch.from_arrays(
        [
            events.column(SOURCE_PREFIX + "key"),
            encoder.encode(events),
            origin_headers(origin(events)),
            events.column(SOURCE_PREFIX + "timestamp"),
        ],
        names=["key", "value", "headers", "timestamp"],
    )


class ToOriginalRecords(beam.DoFn):
    """Events blocks to records; see :func:`records`."""

    def __init__(self, schema: Mapping[str, Any], schema_id: SchemaId) -> None:
        self._schema, self._schema_id = schema, schema_id

    def setup(self) -> None:
        self._encoder = AvroEncoder(self._schema, id_of(self._schema_id))

    def process(self, events: Block) -> Iterator[Block]:
        yield records(events, self._encoder)
