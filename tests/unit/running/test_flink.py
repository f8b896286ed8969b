"""What a job on Flink is given, when it is ended, and that it ends where only the user can help."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, PortableOptions, StandardOptions

from beam_jobs import metrics
from beam_jobs.errors import UserError
from beam_jobs.running.flink import Flink, cancel
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
    assert parsed.view_as(GoogleCloudOptions).job_name.startswith("archive-x-")
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


@contextmanager
def cluster(
    jobs: list[tuple[str, str]], status: int = 200, body: bytes | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Flink's REST interface with jobs of names and states; its address, and what it was asked to change."""
    changed: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = [{"jid": str(i), "name": name, "state": state} for i, (name, state) in enumerate(jobs)]
            self._answer(json.dumps({"jobs": known}).encode() if body is None else body)

        def do_PATCH(self) -> None:
            changed.append(self.path)
            self._answer(b"{}")

        def _answer(self, text: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *words: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}", changed
        finally:
            server.shutdown()
            thread.join()


def test_it_is_cancelled_on_the_cluster_by_its_name() -> None:
    with cluster([("app-7", "CANCELED"), ("other", "RUNNING"), ("app-7", "RESTARTING")]) as (address, changed):
        assert cancel(address, "app-7") == ""
        assert cancel(f"http://{address}", "app-7") == ""
    assert changed == ["/jobs/2?mode=cancel"] * 2


@pytest.mark.parametrize("jobs", [[], [("app-7", "FINISHED")], [("app-7", "RUNNING"), ("app-7", "RUNNING")]])
def test_no_job_is_cancelled_that_may_be_somebody_elses(jobs: list[tuple[str, str]]) -> None:
    with cluster(jobs) as (address, changed):
        assert "jobs of the name app-7" in cancel(address, "app-7")
    assert changed == []


@pytest.mark.parametrize(("status", "body"), [(404, None), (200, b"<html>"), (200, b'{"jobs": 3}'), (200, b"[]")])
def test_what_is_no_flink_is_named(status: int, body: bytes | None) -> None:
    with cluster([("app-7", "RUNNING")], status, body) as (address, _):
        assert cancel(address, "app-7").startswith(f"{address} does not answer as Flink does: ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], None),  # a cluster of Beam's own
        (["--job_endpoint=h:1"], "--flink_master is not given"),
        (["--job_endpoint=h:1", "--flink_master=127.0.0.1:1", "--job_name=x"], "127.0.0.1:1 does not answer"),
    ],
)
def test_a_job_that_stays_on_the_cluster_is_named(
    words: list[str], said: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    metrics.STATE.reset()
    metrics.inc(metrics.READERS_FINISHED)
    flink, result = Flink(PipelineOptions(["--runner=FlinkRunner", *words])), Result()
    flink._ends_itself = False
    assert flink.wait(result) == 0  # type: ignore[arg-type]
    logging.error("org.apache.flink.runtime.client.JobCancellationException: Job was cancelled.")
    logging.getLogger().removeFilter(logging.getLogger().filters[-1])
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == (0 if said is None else 1)
    assert said is None or said in told[0]
