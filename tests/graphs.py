"""The graphs of the jobs, made without a broker, a bucket or a model; and the names of their steps at the last release.

    python -m tests.graphs     # records the names, in transform_names.json: when a version is released

Dataflow keeps the state of a running job under these names: a version with others cannot take a running job over.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import apache_beam as beam
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2 as api
from apache_beam.runners import DirectRunner
from apache_beam.runners.portability.fn_api_runner import translations

import beam_jobs
from beam_jobs import archive, redrive, replay, score
from beam_jobs.archives.read import ArchiveInput
from beam_jobs.archives.rows import archive_schema
from beam_jobs.archives.sink import ArchiveSettings
from beam_jobs.io.block_reader import BlockSettings
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.transforms import KafkaInput, KafkaOutput
from beam_jobs.io.pubsub.address import PubSubAddress
from beam_jobs.io.pubsub.transforms import PubSubInput, PubSubOutput
from beam_jobs.io.sink import Sink
from beam_jobs.io.source import MessageIds, Source
from beam_jobs.preflight.archive import ArchiveJob
from beam_jobs.preflight.redrive import RedriveJob
from beam_jobs.preflight.replay import ReplayJob
from beam_jobs.preflight.score import ScoreJob
from beam_jobs.steps.lookup import LookupFile
from beam_jobs.steps.payload import Payload
from beam_jobs.use_case import UseCase, load_use_case
from model.registry import ModelVersion
from schemas.source import ShippedSchemas

RECORDED = Path(__file__).with_name("transform_names.json")
CARS = load_use_case("car_sensors")
WRITERS = ShippedSchemas(CARS.schema)
IDS = {"alert": 1, "score": 2, "dead_letter": 3}
ARCHIVED = ArchiveInput(("gs://bucket/a.avro", "gs://bucket/b.avro"), CARS, "events", None, None)
BLOCKS = BlockSettings(block_rows=1000, max_latency_s=0.1)

Wire = Callable[[beam.Pipeline], Any]


def _on(bus: str, name: str) -> Sink:
    if bus == "kafka":
        return KafkaOutput(KafkaAddress("broker:9092", name))
    return PubSubOutput(PubSubAddress("my-project", name))


def _source(bus: str) -> Source:
    if bus == "kafka":
        return KafkaInput(KafkaAddress("broker:9092", "events"), group_id="g", blocks=BLOCKS)
    return PubSubInput(PubSubAddress("my-project", "events"), "events", blocks=BLOCKS)


def _score(bus: str, archived: bool = False) -> Wire:
    model = ModelVersion("car_sensors", "v", "gs://bucket/v", None, cast(Any, None), "0")
    job = ScoreJob(
        name="score/car_sensors",
        use_case=CARS,
        preprocessor=CARS.preprocessor(),
        model=model,
        source=ARCHIVED if archived else _source(bus),
        writers=WRITERS,
        alerts=_on(bus, "alerts"),
        scores=_on(bus, "scores"),
        dead_letters=_on(bus, "dead"),
        max_dead_letter_rate=0.9,
        payload=Payload(),
        schema_ids=IDS,
    )
    return partial(score.build, job=job)


def archived(bus: str, use_case: UseCase = CARS) -> Wire:
    """The graph of an archive of features."""
    schema = archive_schema(use_case, "features")
    job = ArchiveJob(
        name="archive/car_sensors",
        use_case=use_case,
        content="features",
        columns=("car_id", "event_time"),
        source=_source(bus),
        writers=WRITERS,
        write=ArchiveSettings(
            *("gs://bucket/x", "cars", schema, CARS.event_time),
            ids=MessageIds("events", "events", 600.0, 600.0) if bus == "pubsub" else None,
        ),
        lookup=LookupFile("gs://bucket/cars.csv", "car_id", pa.string(), ({"name": "fleet", "type": "string"},)),
        lookup_every_s=30.0,
        dead_letters=_on(bus, "dead"),
        max_dead_letter_rate=0.9,
        payload=Payload(),
        schema_ids=IDS,
    )
    return partial(archive.build, job=job)


def _replay(bus: str) -> Wire:
    job = ReplayJob(ARCHIVED, cast(Any, None), None, _on(bus, "again"), CARS.schema, 1)
    return partial(replay.build, job=job)


def _redrive(bus: str) -> Wire:
    return partial(redrive.build, job=RedriveJob(_source(bus), WRITERS, _on(bus, "events"), ()))


GRAPHS: dict[str, Wire] = {
    "score, Kafka": _score("kafka"),
    "score, Pub/Sub": _score("pubsub"),
    "score, an archive": _score("kafka", archived=True),
    "archive, Kafka": archived("kafka"),
    "archive, Pub/Sub": archived("pubsub"),
    "replay, Kafka": _replay("kafka"),
    "replay, Pub/Sub": _replay("pubsub"),
    "redrive, Kafka": _redrive("kafka"),
    "redrive, Pub/Sub": _redrive("pubsub"),
}


def stages(pipeline: api.Pipeline) -> list[list[str]]:
    """The names of the transforms of each stage that a portable runner makes of a graph, fused as far as can be."""
    phases = [translations.expand_sdf, translations.expand_gbk, translations.greedily_fuse, translations.sort_stages]
    primitives = common_urns.primitives
    known = frozenset([primitives.IMPULSE.urn, primitives.FLATTEN.urn, primitives.GROUP_BY_KEY.urn])
    _, found = translations.create_and_optimize_stages(pipeline, phases=phases, known_runner_urns=known)
    return [[transform.unique_name for transform in stage.transforms] for stage in found]


def stage_of_windows(pipeline: api.Pipeline) -> list[str]:
    """The one stage that computes windows."""
    [found] = [names for names in stages(pipeline) if "Preprocess/ParDo(PreprocessWindows)" in names]
    return found


@dataclass(frozen=True)
class Step:
    """A transform of a graph."""

    name: str
    outputs: tuple[str, ...]  # tags and types
    leaf: bool  # it has no parts
    within_io: bool  # it is a part of a transform of beam_jobs.io
    of_io: bool  # it is one


class _Steps(PipelineVisitor):
    def __init__(self) -> None:
        self.found: list[Step] = []
        self._within: list[str] = []  # transforms of beam_jobs.io that we are in

    def enter_composite_transform(self, node: AppliedPTransform) -> None:
        self._add(node, leaf=False)
        if _of_io(node):
            self._within.append(node.full_label)

    def leave_composite_transform(self, node: AppliedPTransform) -> None:
        if self._within and self._within[-1] == node.full_label:
            self._within.pop()

    def visit_transform(self, node: AppliedPTransform) -> None:
        self._add(node, leaf=True)

    def _add(self, node: AppliedPTransform, leaf: bool) -> None:
        is_sink = _of_io(node) and "Write" in type(node.transform).__name__  # what it gives nobody reads
        types = [] if is_sink else [f"{tag}: {output.element_type}" for tag, output in node.outputs.items()]
        self.found.append(Step(node.full_label, tuple(types), leaf, bool(self._within), _of_io(node)))


def _of_io(node: AppliedPTransform) -> bool:
    return type(node.transform).__module__.startswith(("beam_jobs.io.", "beam_jobs.archives."))


@cache
def steps(graph: str, runner: str) -> tuple[Step, ...]:
    """All transforms of a graph, as it is made for a runner, in its order."""
    # Another runner than the options say constructs it: nothing is asked of the service.
    pipeline = beam.Pipeline(DirectRunner(), PipelineOptions([f"--runner={runner}"]))
    GRAPHS[graph](pipeline)
    found = _Steps()
    pipeline.visit(found)
    return tuple(found.found)


def names(graph: str) -> list[str]:
    """The names of what a graph does on Dataflow."""
    return [step.name for step in steps(graph, "DataflowRunner") if step.leaf]


if __name__ == "__main__":
    recorded = {"release": beam_jobs.__version__, "names": {graph: names(graph) for graph in GRAPHS}}
    RECORDED.write_text(json.dumps(recorded, indent=2) + "\n")
