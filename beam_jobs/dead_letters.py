"""Dead letters: every record that could not be handled, with the reason, the original bytes and where it came from."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import apache_beam as beam
import numpy as np
import pyarrow as pa

import schemas
from beam_jobs.block import RAW_SCHEMA, Block, take
from beam_jobs.codec.schema import arrow_schema
from beam_jobs.errors import RowErrors, UserError

T = TypeVar("T")

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


def refused(raw: Block, errors: RowErrors, stage: str, job: str) -> beam.pvalue.TaggedOutput:
    """The dead letters of :func:`dead_letter_block` as a step puts them out."""
    return beam.pvalue.TaggedOutput(TAG, dead_letter_block(raw, errors, stage, job))
