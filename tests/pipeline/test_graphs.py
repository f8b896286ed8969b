"""One graph a job: the same on every runner but inside io/, under names that a running job can be updated by."""

from __future__ import annotations

import json

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners import DirectRunner

import beam_jobs
from beam_jobs.use_case import load_use_case
from tests.graphs import GRAPHS, RECORDED, archived, names, stage_of_windows, steps

RUNNERS = ("DirectRunner", "DataflowRunner")
every_graph = pytest.mark.parametrize("graph", GRAPHS)


@every_graph
def test_it_is_the_same_here_and_on_dataflow(graph: str) -> None:
    here, there = ([step for step in steps(graph, runner) if not step.within_io] for runner in RUNNERS)
    assert sum(step.of_io for step in here) >= 2  # it reads and it writes
    assert here == there


@every_graph
def test_only_pubsub_differs_inside_io(graph: str) -> None:
    here, there = (steps(graph, runner) for runner in RUNNERS)
    assert (here == there) is ("Pub/Sub" not in graph)


@pytest.mark.parametrize("graph", list(json.loads(RECORDED.read_text())["names"]))
def test_a_running_job_of_the_last_release_can_be_updated(graph: str) -> None:
    recorded = json.loads(RECORDED.read_text())
    assert names(graph) == recorded["names"][graph], (
        f"a job of {recorded['release']} that runs on Dataflow keeps its state under the recorded names; restore them, "
        "or say in the changelog that it can't be updated (--transform_name_mapping) and run python -m tests.graphs"
    )


def test_every_graph_is_recorded() -> None:
    recorded = json.loads(RECORDED.read_text())
    assert set(recorded["names"]) == set(GRAPHS)
    assert recorded["release"] == beam_jobs.__version__


@every_graph
def test_no_name_is_there_twice(graph: str) -> None:
    found = names(graph)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("runner", RUNNERS)
def test_windows_are_in_the_stage_that_reads_so_both_are_in_one_process(runner: str) -> None:
    pipeline = beam.Pipeline(DirectRunner(), PipelineOptions([f"--runner={runner}"]))
    archived("kafka", load_use_case("car_sensors_history"))(pipeline)
    found = stage_of_windows(pipeline.to_runner_api())
    assert {"Read/Read/ReadUnbounded/Process", "Decode/ParDo(DecodeEvents)", "Archive/Write"} <= set(found)
