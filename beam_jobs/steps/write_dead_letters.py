"""Writes dead letters to their topic, and stops the job when nearly everything becomes one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

import schemas
from beam_jobs import metrics
from beam_jobs.block import Block
from beam_jobs.codec.avro.decoder import AvroDecoder
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.errors import UserError
from beam_jobs.io.sink import Sink, WriteSettings
from beam_jobs.steps.payload import ALERT_DROPPED, DROPPED, Payload, protect
from schemas.source import SchemaId, id_of

_MIN_WINDOW = 1_000  # records; a smaller sample says little about a rate
_MAX_WINDOW = 100_000  # records; then the rate is taken afresh, so that a good past cannot hide a bad present
_KEPT_BYTES = 100_000  # of a key, or of all headers, of a record that is larger than the dead-letter topic takes
_LEFT_OUT = "left out: larger than the dead-letter topic takes)"


def _count(letters: Block) -> None:
    """Adds dead letters to the metrics, in all and by reason."""
    metrics.inc(metrics.DEAD_LETTERS, letters.num_rows)
    for reason in pc.value_counts(letters.column("reason")).to_pylist():
        metrics.inc(metrics.DEAD_LETTERS, reason["counts"], reason["values"])


class DeadLetterLimit:
    """Says when so much is bad that something else must be wrong: a wrong topic, a wrong registry, a wrong schema."""

    def __init__(self, max_rate: float) -> None:
        self._max_rate = max_rate
        self._read, self._bad = self._totals()

    @staticmethod
    def _totals() -> tuple[int, int]:
        counts = metrics.STATE.snapshot()
        return counts[metrics.RECORDS_READ], counts[metrics.DEAD_LETTERS]

    def check(self, example: str) -> None:
        """Raises UserError when the share of dead letters among the records read since the last reset is too high."""
        read, bad = self._totals()
        window, bad_window = read - self._read, bad - self._bad
        if window < _MIN_WINDOW:
            return
        if bad_window > self._max_rate * window:
            raise UserError(
                f"stopped: {bad_window:,} of the last {window:,} records went to dead letters, more than "
                f"--max_dead_letter_rate {self._max_rate:g}; the newest says: {example}"
            )
        if window >= _MAX_WINDOW:
            self._read, self._bad = read, bad


class _EncodeDeadLetters(beam.DoFn):
    """Dead letters to records for the topic; stops the job when nearly everything is bad."""

    def __init__(self, schema_id: SchemaId, max_rate: float, payload: Payload, of_records: bool = True) -> None:
        self._schema_id = schema_id
        self._of_records = of_records
        self._max_rate = max_rate
        self._payload = payload

    def setup(self) -> None:
        self._keys = self._payload.keys()
        self._encoder = AvroEncoder(schemas.load("dead_letter"), id_of(self._schema_id))
        self._limit = DeadLetterLimit(self._max_rate)

    def process(self, letters: Block) -> Iterator[Block]:
        keys, letters = protect(letters, self._payload.policy, self._keys, quotes=self._of_records)
        yield pa.RecordBatch.from_arrays([keys, self._encoder.encode(letters)], names=["key", "value"])
        if not self._of_records:
            return
        # The sink beside this step has them acknowledged by now: what is counted, or stops the job, is on the topic.
        _count(letters)
        self._limit.check(letters.column("error")[letters.num_rows - 1].as_py())


def without_payload(schema_id: SchemaId, records: Block) -> Block:
    """Dead letters that are larger than their topic takes, without the original value; the error says so.

    A key or headers of more than ``_KEPT_BYTES`` are left out as well: what stands in must not be too large again.
    """
    schema = schemas.load("dead_letter")
    letters = AvroDecoder(schema, lambda _: schema).decode(records.column("value")).rows
    metrics.inc(metrics.WITHOUT_PAYLOAD, letters.num_rows)
    keys, errors = [], []
    headers: list[list[dict[str, Any]] | None] = []
    for letter in letters.select(["key", "value", "headers", "error"]).to_pylist():
        given = letter["headers"] or []
        sizes = {
            "value": len(letter["value"] or b""),
            "key": len(letter["key"] or b""),
            "headers": sum(len(h["key"]) + len(h["value"] or b"") for h in given),
        }
        out = [name for name, size in sizes.items() if name == "value" or size > _KEPT_BYTES]
        keys.append(None if "key" in out else letter["key"])
        headers.append(None if "headers" in out else letter["headers"])
        what = " and ".join(f"the {name} of {sizes[name]:,} bytes" for name in out)
        errors.append(f"{letter['error']} ({what} {'is' if len(out) == 1 else 'are'} {_LEFT_OUT}")
    columns = {name: letters.column(name) for name in letters.schema.names} | {
        "key": pa.array(keys, pa.binary()),
        "value": pa.nulls(letters.num_rows, pa.binary()),
        "headers": pa.array(headers, letters.schema.field("headers").type),
        "error": pa.array(errors, pa.string()),
    }
    short = pa.RecordBatch.from_arrays(list(columns.values()), schema=letters.schema)
    return pa.RecordBatch.from_arrays(
        [short.column("key"), AvroEncoder(schema, id_of(schema_id)).encode(short)], names=["key", "value"]
    )


def left_out(letters: Block) -> NDArray[np.bool_]:
    """Which dead letters hold their record no more, bool [n]: it was too large (``without_payload``), or not kept."""
    errors = letters.column("error")
    cut = pc.or_(
        pc.ends_with(errors, _LEFT_OUT), pc.or_(pc.equal(errors, DROPPED), pc.ends_with(errors, ALERT_DROPPED))
    )
    return pc.and_(cut, letters.column("value").is_null()).to_numpy(zero_copy_only=False)


class WriteDeadLetters(beam.PTransform):
    """Writes blocks of dead letters to a topic, keyed as the original records were.

    Args:
      max_rate: share of bad records that stops the job.
      payload: what they hold of their records.
      of_records: they stand for records that were read, and count as such.
    """

    def __init__(
        self,
        sink: Sink,
        schema_id: SchemaId,
        max_rate: float,
        payload: Payload | None = None,
        of_records: bool = True,
    ) -> None:
        super().__init__()
        self._sink = sink
        self._schema_id = schema_id
        self._max_rate = max_rate
        self._payload = payload or Payload()
        self._of_records = of_records

    def expand(self, letters: beam.PCollection[pa.RecordBatch]) -> beam.PCollection:
        encode = _EncodeDeadLetters(self._schema_id, self._max_rate, self._payload, self._of_records)
        return (
            letters
            | "Encode" >> beam.ParDo(encode).with_output_types(Block)
            | "Write"
            >> self._sink.write(WriteSettings(on_too_large=partial(without_payload, self._schema_id), at_once=True))
        )
