"""What a job on Flink is given, when it is ended, and that it ends where only the user can help."""

from __future__ import annotations

import logging
import threading
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions, StandardOptions

from beam_jobs import metrics
from beam_jobs.errors import UserError
from beam_jobs.running.flink import Flink
from beam_jobs.target import Graph, target_of
from beam_jobs.terminal import options
from beam_jobs.terminal.commands import JOBS

LIVE = Graph(bounded=False, state=False, windows=False, own_source=True)
WORKER = logging.getLogger("apache_beam.runners.worker.sdk_worker")


class Result:
    """A job that runs until it is cancelled."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def cancel(self) -> None:
        self.cancelled.set()

    def wait_until_finish(self) -> None:
        assert self.cancelled.wait(20)
        raise RuntimeError("Pipeline job failed in state CANCELLED")


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> tuple[Flink, Result]:
    """One that was submitted."""
    metrics.STATE.reset()
    monkeypatch.setattr("beam_jobs.running.flink._LOOK_S", 0.01)
    monkeypatch.setattr(beam.Pipeline, "run", lambda self: None)
    parsed = PipelineOptions(["--runner=FlinkRunner", "--environment_type=LOOPBACK"])
    flink = Flink(parsed)
    flink.prepare("score/x", live=True)
    pipeline = beam.Pipeline("DirectRunner", parsed)
    flink.submit(pipeline, LIVE)
    assert pipeline.options.view_as(StandardOptions).streaming
    yield flink, Result()
    for each in list(WORKER.filters):
        WORKER.removeFilter(each)


def test_it_commits_and_hands_bundles_out_one_by_one_unless_told_otherwise() -> None:
    words = ["--runner=FlinkRunner", "--max_bundle_size=7", "--use_case=x"]
    parsed = options.parse(JOBS["archive"].parser(), words)
    JOBS["archive"].check([*words, "--input=x", "--output=x", "--dead_letters=x"])
    target_of(parsed).prepare("archive/x", live=False)
    given = parsed.view_as(options.FlinkOptions)
    assert (given.checkpointing_interval, given.max_bundle_size) == (1000, 7)
    assert parsed.view_as(PortableOptions).job_server_timeout > 10**8


@pytest.mark.parametrize(
    ("words", "here"),
    [
        ([], True),  # Beam's default with a Flink of its own
        (["--environment_type=LOOPBACK", "--flink_master=host:8081"], True),
        (["--flink_master=host:8081"], False),
        (["--environment_type=EXTERNAL"], False),
    ],
)
def test_where_its_steps_run(words: list[str], here: bool) -> None:
    assert target_of(PipelineOptions(["--runner=FlinkRunner", *words])).describe().here == here


def test_it_is_ended_when_its_reader_is(job: tuple[Flink, Result]) -> None:
    flink, result = job
    waiting: list[Any] = []
    thread = threading.Thread(target=lambda: waiting.append(flink.wait(result)))  # type: ignore[arg-type]
    thread.start()
    assert not result.cancelled.wait(0.1)
    metrics.inc(metrics.READERS_FINISHED)
    thread.join(20)
    assert waiting == [0]


def test_it_is_ended_by_what_only_the_user_can_mend(job: tuple[Flink, Result]) -> None:
    flink, result = job
    WORKER.error("Error processing instruction %s. Original traceback is\n%s\n", "7", "  ValueError: try again\n")
    assert flink._failure is None
    trace = "Traceback\n  …\nbeam_jobs.errors.UserError: the topic is gone; make it [while running 'Read']\n"
    WORKER.error("Error processing instruction %s. Original traceback is\n%s\n", "8", trace)
    with pytest.raises(UserError, match=r"^the topic is gone; make it$"):
        flink.wait(result)  # type: ignore[arg-type]


def test_a_job_that_ends_otherwise_has_failed(job: tuple[Flink, Result]) -> None:
    flink, result = job
    result.cancel()  # by somebody else
    with pytest.raises(RuntimeError, match="CANCELLED"):
        flink.wait(result)  # type: ignore[arg-type]
