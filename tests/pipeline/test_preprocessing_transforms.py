"""Decode and preprocess as Beam steps: every record ends in exactly one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.testing.test_pipeline import TestPipeline as Pipeline
from apache_beam.testing.util import assert_that

import schemas
from beam_jobs import dead_letters, metrics
from beam_jobs.block import Block, raw_block
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.sandbox.fleet import Fleet
from beam_jobs.steps.decode import DecodeEvents, EventSettings
from beam_jobs.steps.preprocess import Preprocess
from beam_jobs.use_case import load_use_case

CAR_SENSOR = schemas.load("car_sensor")


def events(n: int) -> pa.RecordBatch:
    return Fleet(n, seed=3, prevalence=0).step()


def replace(batch: pa.RecordBatch, name: str, values: Any) -> pa.RecordBatch:
    i = batch.schema.get_field_index(name)
    return batch.set_column(i, batch.schema.field(i), pa.array(values, batch.schema.field(i).type))


def raw(values: list[bytes | None]) -> Block:
    n = len(values)
    return raw_block("events", [0] * n, list(range(n)), [0] * n, [b"k"] * n, values)


def has(expected: list[tuple[Any, ...]], *columns: str) -> Callable[[list[Block]], None]:
    """A check for assert_that: the rows of all blocks, in these columns."""

    def check(blocks: list[Block]) -> None:
        found = [tuple(row[c] for c in columns) for block in blocks for row in block.to_pylist()]
        assert found == expected, f"{found} instead of {expected}"

    return check


def run(
    values: list[bytes | None],
    features: list[tuple[int, bytes]],
    decode: list[tuple[int, str]],
    preprocess: list[tuple[int, str, bytes]],
    skip_tombstones: bool = False,
) -> None:
    """Runs the two steps over one block and compares the three outputs."""
    use_case = load_use_case("car_sensors")
    compiled = use_case.preprocessor()
    step = DecodeEvents(
        use_case.schema, compiled.input_columns, lambda _: CAR_SENSOR, "test", settings=EventSettings(skip_tombstones)
    )
    with Pipeline("FnApiRunner") as p:
        decoded = (
            p
            | beam.Create([raw(values)])
            | "Decode" >> beam.ParDo(step).with_outputs(dead_letters.TAG, main="good").with_output_types(Block)
        )
        done = decoded.good | "Preprocess" >> beam.ParDo(Preprocess(compiled, "test")).with_outputs(
            dead_letters.TAG, main="good"
        ).with_output_types(Block)
        assert_that(done.good, has(features, "_offset", "_value"), "features")
        assert_that(decoded[dead_letters.TAG], has(decode, "offset", "reason"), "undecodable")
        assert_that(done[dead_letters.TAG], has(preprocess, "offset", "reason", "value"), "refused")


def test_good_records_become_features_with_their_source() -> None:
    values = AvroEncoder(CAR_SENSOR, 1).encode(events(5)).to_pylist()
    run(values, features=list(enumerate(values)), decode=[], preprocess=[])


def test_bad_records_are_dead_letters_and_their_neighbours_go_on() -> None:
    good = events(4)
    speed = good.column("speed").to_pylist()
    broken = replace(good, "speed", [speed[0], float("nan"), 1e6, speed[3]])
    values = AvroEncoder(CAR_SENSOR, 1).encode(broken).to_pylist()
    run(
        [*values, None, b"", b"\x01\x02", values[0][:-3], b'{"car_id": "x"}'],
        features=[(0, values[0]), (3, values[3])],
        decode=[
            (4, "null_value"),
            (5, "empty_value"),
            (6, "bad_magic_byte"),
            (7, "truncated"),
            (8, "missing_field"),
        ],
        preprocess=[(1, "not_finite", values[1]), (2, "out_of_range", values[2])],
    )


def test_tombstones_are_counted_and_their_neighbours_go_on() -> None:
    values = AvroEncoder(CAR_SENSOR, 1).encode(events(2)).to_pylist()
    before = metrics.STATE.snapshot()[metrics.TOMBSTONES]
    run(
        [None, values[0], None, b"", values[1]],
        features=[(1, values[0]), (4, values[1])],
        decode=[(3, "empty_value")],
        preprocess=[],
        skip_tombstones=True,
    )
    assert metrics.STATE.snapshot()[metrics.TOMBSTONES] - before == 2


def test_a_block_of_bad_records_alone_has_no_features() -> None:
    run([b"", None], features=[], decode=[(0, "empty_value"), (1, "null_value")], preprocess=[])
