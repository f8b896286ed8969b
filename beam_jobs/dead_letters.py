"""Dead letters: every record that could not be handled, with the reason, the original bytes and where it came from."""

from __future__ import annotations

import time

import apache_beam as beam
import numpy as np
import pyarrow as pa

import schemas
from beam_jobs.block import RAW_SCHEMA, Block, take
from beam_jobs.codec.schema import arrow_schema
from beam_jobs.errors import RowErrors

TAG = "dead_letters"  # the tagged output of every step that can refuse a record


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


def step(name: str, fn: beam.DoFn, blocks: beam.PCollection) -> tuple[beam.PCollection, beam.PCollection]:
    """What a step lets through, and its dead letters. Typed: Beam pickles elements of no type to measure them."""
    typed = beam.ParDo(fn).with_output_types(Block, **{TAG: Block})
    out = blocks | name >> typed.with_outputs(TAG, main="good")
    return out.good, out[TAG]


def refused(raw: Block, errors: RowErrors, stage: str, job: str) -> beam.pvalue.TaggedOutput:
    """The dead letters of :func:`dead_letter_block` as a step puts them out."""
    return beam.pvalue.TaggedOutput(TAG, dead_letter_block(raw, errors, stage, job))
