"""Dead letters: every record that could not be handled, with the reason, the original bytes and where it came from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

import schemas
from beam_jobs import metrics
from beam_jobs.block import RAW_SCHEMA, Block, raw_block, take
from beam_jobs.codec.avro import AvroDecoder
from beam_jobs.codec.avro_encoder import AvroEncoder
from beam_jobs.codec.schema import arrow_schema
from beam_jobs.errors import RowErrors, UserError
from beam_jobs.io import bus
from beam_jobs.io.kafka_config import KafkaConfig
from beam_jobs.io.uri import Address
from schemas.source import SchemaId, id_of

T = TypeVar("T")

TAG = "dead_letters"  # the tagged output of every step that can refuse a record
_MIN_WINDOW = 1_000  # records; a smaller sample says little about a rate
_MAX_WINDOW = 100_000  # records; then the rate is taken afresh, so that a good past cannot hide a bad present
_KEPT_BYTES = 100_000  # of a key, or of all headers, of a record that is larger than the dead-letter topic takes
_LEFT_OUT = "left out: larger than the dead-letter topic takes)"
REDRIVES_HEADER = "highbeam.redrives"  # how often a record was put back, a decimal number


def dead_letter_block(raw: Block, errors: RowErrors, stage: str, job: str) -> Block:
    """Makes dead letters of the rows of ``raw`` that are in error.

    Args:
      raw: a raw block; ``errors.rows`` are indexes into it.
      stage: the step that refused them: "decode", "preprocess" or "score".
      job: the name of the job and its use case, "score/car_sensors".

    Returns:
      A block of ``dead_letter.avsc`` rows; the id is "topic-partition-offset", the same on every replay.
    """
    source = take(raw, errors.rows)
    n = source.num_rows
    topics, partitions, offsets = (source.column(name).to_pylist() for name in ("topic", "partition", "offset"))
    now = int(time.time() * 1000)
    columns = {
        **{name: source.column(name) for name in RAW_SCHEMA.names},
        "topic": source.column("topic").cast(pa.string()),
        "id": pa.array([f"{t}-{p}-{o}" for t, p, o in zip(topics, partitions, offsets, strict=True)]),
        "stage": pa.array([stage] * n, pa.string()),
        "reason": pa.array(errors.reasons, pa.string()),
        "error": pa.array(errors.errors, pa.string()),
        "failed_at": pa.array(np.full(n, now)).cast(pa.timestamp("ms", "UTC")),
        "job": pa.array([job] * n, pa.string()),
    }
    schema = arrow_schema(schemas.load("dead_letter"))
    return pa.RecordBatch.from_arrays([columns[f.name].cast(f.type) for f in schema], schema=schema)


def isolate(function: Callable[[Block], T], block: Block) -> tuple[list[tuple[int, Block, T]], RowErrors]:
    """Applies ``function`` to ``block``; where it raises, to its halves, down to the single rows that make it raise.

    Returns:
      The parts that went through as (first row, part, result), in order, and the rows that did not
      (reason "unexpected_error"). A ``UserError`` is about the job, not about a row, and is raised.
    """
    try:
        return [(0, block, function(block))], RowErrors.none()
    except UserError:
        raise
    except Exception as error:  # whatever a bug or a bad row raises: the neighbours go on
        if block.num_rows <= 1:
            text = f"{type(error).__name__}: {error}"
            return [], RowErrors(np.zeros(block.num_rows, np.int64), ("unexpected_error",), (text[:500],))
    half = block.num_rows // 2
    left, bad_left = isolate(function, block.slice(0, half))
    right, bad_right = isolate(function, block.slice(half))
    return (
        [*left, *((half + start, part, result) for start, part, result in right)],
        RowErrors(
            np.concatenate([bad_left.rows, bad_right.rows + half]),
            (*bad_left.reasons, *bad_right.reasons),
            (*bad_left.errors, *bad_right.errors),
        ),
    )


def step(name: str, fn: beam.DoFn, blocks: beam.PCollection) -> tuple[beam.PCollection, beam.PCollection]:
    """What a step lets through, and its dead letters. Typed: Beam pickles elements of no type to measure them."""
    typed = beam.ParDo(fn).with_output_types(Block, **{TAG: Block})
    out = blocks | name >> typed.with_outputs(TAG, main="good")
    return out.good, out[TAG]


def _count(letters: Block) -> None:
    """Adds dead letters to the metrics, in all and by reason."""
    metrics.inc(metrics.DEAD_LETTERS, letters.num_rows)
    for reason in pc.value_counts(letters.column("reason")).to_pylist():
        metrics.inc(f"{metrics.DEAD_LETTERS}.{reason['values']}", reason["counts"])


class DeadLetterLimit:
    """Says when so much is bad that something else must be wrong: a wrong topic, a wrong registry, a wrong schema."""

    def __init__(self, max_rate: float) -> None:
        self._max_rate = max_rate
        self._read, self._bad = self._totals()

    @staticmethod
    def _totals() -> tuple[int, int]:
        counts, _ = metrics.TOTALS.snapshot()
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

    def __init__(self, schema_id: SchemaId, max_rate: float) -> None:
        self._schema_id = schema_id
        self._max_rate = max_rate

    def setup(self) -> None:
        self._encoder = AvroEncoder(schemas.load("dead_letter"), id_of(self._schema_id))
        self._limit = DeadLetterLimit(self._max_rate)

    def process(self, letters: Block) -> Iterator[Block]:
        yield pa.RecordBatch.from_arrays([letters.column("key"), self._encoder.encode(letters)], names=["key", "value"])
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
    """Which dead letters hold their record no more, bool [n]: see :func:`without_payload`."""
    cut = pc.ends_with(letters.column("error"), _LEFT_OUT)
    return pc.and_(cut, letters.column("value").is_null()).to_numpy(zero_copy_only=False)


class WriteDeadLetters(beam.PTransform):
    """Writes blocks of dead letters to a topic, keyed as the original records were."""

    def __init__(self, address: Address, config: KafkaConfig, schema_id: SchemaId, max_rate: float) -> None:
        super().__init__()
        self._address = address
        self._config = config
        self._schema_id = schema_id
        self._max_rate = max_rate

    def expand(self, letters: beam.PCollection[pa.RecordBatch]) -> beam.PCollection:
        return (
            letters
            | "Encode" >> beam.ParDo(_EncodeDeadLetters(self._schema_id, self._max_rate)).with_output_types(Block)
            | "Write"
            >> bus.write(
                self._address,
                self._config,
                on_too_large=partial(without_payload, self._schema_id),
                at_once=True,
            )
        )


class Redrive(beam.DoFn):
    """Raw blocks of a dead-letter topic to the records they were, ready for a sink.

    Args:
      reasons: only dead letters with one of these reasons; all when empty.
      writer_schema: schemas of the dead letters by id, whatever version wrote them.
    """

    def __init__(self, reasons: Sequence[str], writer_schema: Callable[[int], dict[str, Any]]) -> None:
        self._reasons = tuple(reasons)
        self._writer_schema = writer_schema

    def setup(self) -> None:
        self._decoder = AvroDecoder(schemas.load("dead_letter"), self._writer_schema)

    def process(self, raw: Block) -> Iterator[Block]:
        decoded = self._decoder.decode(raw.column("value"))
        metrics.inc(metrics.UNREADABLE, len(decoded.errors))
        letters = decoded.rows
        if self._reasons:
            wanted = pc.is_in(letters.column("reason"), pa.array(self._reasons, pa.string()))
            letters = letters.filter(wanted)
        metrics.inc(metrics.RECORDS_FILTERED, decoded.rows.num_rows - letters.num_rows)
        cut = left_out(letters)
        metrics.inc(metrics.WITHOUT_PAYLOAD, int(cut.sum()))
        letters = letters.filter(pa.array(~cut))
        yield original_records(letters)
        for reason in pc.value_counts(letters.column("reason")).to_pylist():  # written by now: see WriteDeadLetters
            metrics.inc(f"{metrics.REDRIVEN}.{reason['values']}", reason["counts"])
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
