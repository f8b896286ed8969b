"""The submission to Dataflow without a submission: names, packages, waiting."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import DebugOptions, PipelineOptions, StandardOptions, WorkerOptions
from apache_beam.runners.dataflow.dataflow_runner import DataflowPipelineResult, DataflowRunner
from apache_beam.runners.dataflow.internal.apiclient import DataflowApplicationClient
from google.cloud import dataflow as api

from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.transforms import KafkaInput, ReadFromKafka
from beam_jobs.running.dataflow import target as dataflow
from beam_jobs.target import Graph
from tests.services.dataflow import FakeDataflow

Result = Callable[..., Any]


@pytest.fixture
def submitted(dataflow_service: FakeDataflow) -> Result:
    """A job that comes to these states, one a look."""

    def result(*states: str) -> Any:
        dataflow_service.states = [f"JOB_STATE_{state}" for state in states]
        words = [
            "--no_auth",
            f"--dataflow_endpoint={dataflow_service.url}",
            "--project=my-project",
            "--region=us-central1",
        ]
        options = PipelineOptions(words)
        runner = DataflowRunner()
        runner.dataflow_client = DataflowApplicationClient(options, "gs://bucket/temp")
        return DataflowPipelineResult(api.Job(id=dataflow_service.run_forever("cars")), runner, options)

    return result


@pytest.fixture
def no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.mark.usefixtures("no_sleep")
def test_each_state_is_said_once(submitted: Result, capsys: pytest.CaptureFixture[str]) -> None:
    assert dataflow.watch(submitted("PENDING", "PENDING", "RUNNING", "RUNNING", "DONE")) == 0
    said = capsys.readouterr().err.splitlines()
    assert [re.sub(r"^\d\d:\d\d:\d\d ", "", text) for text in said] == ["pending", "running", "done"]


@pytest.mark.usefixtures("no_sleep")
def test_a_failure_is_one_line(
    submitted: Result, dataflow_service: FakeDataflow, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "Traceback (most recent call last):\n  File x\nUserError: no such topic"
    time = "2026-11-22T00:00:00Z"
    dataflow_service.messages = [
        {"id": "1", "time": time, "messageText": text, "messageImportance": "JOB_MESSAGE_ERROR"}
    ]
    assert dataflow.watch(submitted("RUNNING", "RUNNING", "FAILED")) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: job 2026-11-22_00_00_00-1 ended as failed: ")
    assert last.endswith("UserError: no such topic")


@pytest.mark.usefixtures("no_sleep")
@pytest.mark.parametrize(("state", "status"), [("DRAINED", 0), ("UPDATED", 0), ("CANCELLED", 1)])
def test_ends_that_somebody_else_brought(submitted: Result, state: str, status: int) -> None:
    assert dataflow.watch(submitted("RUNNING", state)) == status
    assert dataflow.watch(submitted(state)) == status


def test_ctrl_c_ends_the_waiting_and_not_the_job(
    submitted: Result,
    dataflow_service: FakeDataflow,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupted)
    assert dataflow.watch(submitted("RUNNING")) == 130
    assert "goes on without this terminal" in capsys.readouterr().err
    assert {request.method for request in dataflow_service.requests} == {"GET"}


def test_a_name_is_one_that_dataflow_takes() -> None:
    assert re.fullmatch(r"highbeam-score-my-cars-2-[0-9]{8}-[0-9]{6}", dataflow.job_name("score/My_cars.2"))
    assert len(dataflow.job_name(f"archive/{'x' * 100}")) <= 63


def pipeline(*words: str) -> beam.Pipeline:
    made = beam.Pipeline("FnApiRunner", PipelineOptions(["--runner=DataflowRunner", *words]))
    dataflow.fit(made.options, Graph.of(made))
    return made


def test_a_job_without_a_stream_is_a_batch_job() -> None:
    made = pipeline()
    made | beam.Create([1, 2])
    dataflow.fit(made.options, Graph.of(made))
    assert made.options.view_as(StandardOptions).streaming is False
    assert made.options.view_as(WorkerOptions).max_num_workers is None


@pytest.mark.parametrize("words", [[], ["--max_num_workers=3", "--experiments=use_multiple_sdk_containers"]])
def test_what_reads_by_our_source_is_given_bounds(words: list[str]) -> None:
    made = pipeline(*words)
    made | ReadFromKafka(KafkaInput(KafkaAddress("h:1", "t")))
    dataflow.fit(made.options, Graph.of(made))
    assert made.options.view_as(StandardOptions).streaming is True
    assert made.options.view_as(WorkerOptions).max_num_workers == (3 if words else dataflow.READERS)
    debug = made.options.view_as(DebugOptions)
    assert bool(debug.lookup_experiment("no_use_multiple_sdk_containers")) is not bool(words)
