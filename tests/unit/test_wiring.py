"""What score and archive wire alike: events in, a sink of dead letters for each step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor
from apache_beam.testing.util import assert_that, equal_to

import schemas
from beam_jobs import wiring
from beam_jobs.archives.read import ReadFromArchive
from beam_jobs.block import Block, raw_block
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.io.kafka.transforms import KafkaInput
from beam_jobs.preflight.score import ScoreJob
from beam_jobs.running.fn_api import LocalRunner
from beam_jobs.sandbox.fleet import Fleet
from beam_jobs.steps.write_dead_letters import WriteDeadLetters
from tests.graphs import ARCHIVED, GRAPHS

SCORE = cast(ScoreJob, cast(Any, GRAPHS["score, Kafka"]).keywords["job"])
COLUMNS = ("car_id", "event_time", "speed")


def steps(pipeline: beam.Pipeline, within: bool = False) -> dict[str, type]:
    """The transforms at the top of a pipeline, by name; with what is within them as well."""
    found: dict[str, type] = {}

    class Look(PipelineVisitor):
        def enter_composite_transform(self, node: AppliedPTransform) -> None:
            if node.full_label and (within or "/" not in node.full_label):
                found[node.full_label] = type(node.transform)

        def visit_transform(self, node: AppliedPTransform) -> None:
            self.enter_composite_transform(node)

    pipeline.visit(Look())
    return found


def test_a_topic_gives_events_with_the_columns_that_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    good = AvroEncoder(schemas.load("car_sensor"), 1).encode(Fleet(3, seed=3, prevalence=0).step()).to_pylist()
    block = raw_block("events", [0] * 4, [0, 1, 2, 3], [0] * 4, [None] * 4, [*good, b"\x01"])
    monkeypatch.setattr(KafkaInput, "read", lambda _: beam.Create([block]))
    with beam.Pipeline(LocalRunner()) as pipeline:
        events, bad = wiring.read_events(pipeline, SCORE, COLUMNS)
        assert list(bad) == ["Decode"]
        assert_that(events | "Events" >> beam.Map(decoded), equal_to([(3, True, False)]), "EventsCheck")
        assert_that(bad["Decode"] | "Bad" >> beam.Map(reasons), equal_to([["bad_magic_byte"]]), "BadCheck")


def decoded(block: Block) -> tuple[int, bool, bool]:
    """Its rows, and whether it has the columns that are asked for, and another one of the events."""
    names = set(block.schema.names)
    return block.num_rows, set(COLUMNS) <= names, "driver_name" in names


def reasons(block: Block) -> list[str]:
    return list(block["reason"].to_pylist())


def test_an_archive_is_read_as_it_is() -> None:
    pipeline = beam.Pipeline()
    _, bad = wiring.read_events(pipeline, replace(SCORE, source=ARCHIVED), COLUMNS)
    assert bad == {}
    assert steps(pipeline) == {"Read": ReadFromArchive}


def test_each_step_has_its_own_sink_of_dead_letters() -> None:
    pipeline = beam.Pipeline(options=PipelineOptions([]))
    letters = {name: pipeline | name >> beam.Create([]) for name in ("One", "Two")}
    wiring.write_dead_letters(letters, SCORE)
    found = steps(pipeline)
    assert {name for name, kind in found.items() if kind is WriteDeadLetters} == {"DeadLettersOne", "DeadLettersTwo"}


@pytest.mark.parametrize("graph", [graph for graph in GRAPHS if graph.startswith(("score", "archive"))])
def test_nothing_is_flattened(graph: str) -> None:
    """It would end the fused stage: offsets would be committed before the outputs are written."""
    pipeline = beam.Pipeline()
    GRAPHS[graph](pipeline)
    assert beam.Flatten not in steps(pipeline, within=True).values()
