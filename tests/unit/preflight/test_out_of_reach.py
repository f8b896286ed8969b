"""Jobs submitted to Dataflow from a machine that reaches Google, and neither brokers, nor the registry, nor Pub/Sub."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import schemas
from beam_jobs import archive, redrive, replay, score
from beam_jobs.io.pubsub import client as pubsub_client
from beam_jobs.preflight.archive import archive_job
from beam_jobs.preflight.score import ScoreJob, score_job
from beam_jobs.sandbox.process import Tansu
from beam_jobs.steps.score_records import to_alerts
from beam_jobs.storage import files
from beam_jobs.terminal import cli, commands, options
from beam_jobs.use_case import load_use_case
from model.manifest import FILE_NAME, DataSummary, Manifest
from schemas.registry.server import RegistryServer
from schemas.source import Registration
from schemas.writers import for_registry
from tests.integration.dataflow_jobs import IMAGE, write_archive
from tests.services.dataflow import FakeDataflow
from tests.services.google import TokenServer

CARS = load_use_case("car_sensors")
JOBS: dict[str, Callable[[list[str]], int]] = {
    "score": score.main,
    "archive": archive.main,
    "replay": replay.main,
    "redrive": redrive.main,
}
Said = Callable[..., list[str]]


@pytest.fixture
def refusing() -> Iterator[str]:
    """An address that refuses connections."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
def mute() -> Iterator[str]:
    """An address that takes connections, and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def models(bucket: str) -> str:
    """A registry of models with one that fits the use case, as far as a submission looks at it."""
    preprocessor = CARS.preprocessor()
    data = DataSummary("/data", 1, "00", 1, 1, None, None, "2026-01-01", "2026-01-02", 7)
    units = (None,) * len(preprocessor.features)
    described = Manifest(
        "car_sensors", "v1", "2026-01-01", "car_sensors", tuple(preprocessor.features), units,
        preprocessor.fingerprint, "s", 1.5, 0.001, ((0.0, 1.0), (1.0, 2.0)), data, {}, {}, {}, {},
    )  # fmt: skip
    folder = f"{bucket}/models/car_sensors"
    files.write_bytes(f"{folder}/versions/v1/{FILE_NAME}", described.to_json().encode())
    files.write_bytes(f"{folder}/aliases.json", b'{"champion": "v1"}')
    return f"{bucket}/models"


@pytest.fixture
def words(bucket: str, models: str, dataflow_service: FakeDataflow, tokens: TokenServer) -> Callable[..., list[str]]:
    """The command line of a job on a bus, but for its name."""
    tokens.issue("a-token")
    write_archive(f"{bucket}/events")

    def of(job: str, bus: str, **changes: str) -> list[str]:
        given = {"use_case": "car_sensors"} if job != "redrive" else {}
        given |= {"input": f"{bus}/events", "dead_letters": f"{bus}/dead"} if job in ("score", "archive") else {}
        given |= {"model": models, "alerts": f"{bus}/alerts", "scores": f"{bus}/scores"} if job == "score" else {}
        given |= {"output": f"{bucket}/archive"} if job == "archive" else {}
        given |= {"input": f"{bucket}/events", "output": f"{bus}/again"} if job == "replay" else {}
        given |= {"input": f"{bus}/dead", "output": f"{bus}/events"} if job == "redrive" else {}
        given |= {
            "runner": "DataflowRunner",
            "project": "my-project",
            "region": "us-central1",
            "temp_location": f"{bucket}/temp",
            "dataflow_endpoint": dataflow_service.url,
            "sdk_container_image": IMAGE,
            "wait": "no",
        }
        return [f"--{name}={value}" for name, value in (given | changes).items()]

    return of


@pytest.fixture
def said(words: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]) -> Said:
    """Runs a job's command; what it says on stderr."""

    def run(status: int, job: str, bus: str, **changes: str) -> list[str]:
        with pytest.raises(SystemExit) as end:
            cli.run(JOBS[job], words(job, bus, **changes))
        printed = capsys.readouterr().err
        assert end.value.code == status, printed
        assert "Traceback" not in printed
        return printed.splitlines()

    return run


ASKED = {
    "score": {"topic events", "group", "topic alerts", "topic dead", "topic scores"},
    "archive": {"topic events", "group", "topic dead", "the id of events"},
    "replay": {"topic again"},
    "redrive": {"topic dead", "group", "topic events"},
}


def passed_over(lines: list[str]) -> set[str]:
    """What the lines say was not checked."""
    found = [line.removeprefix("not checked from here: ") for line in lines if line.startswith("not checked")]
    names = [re.sub(r"^group .*", "group", re.split("[;,]", line)[0]) for line in found]
    assert len(set(names)) == len(names)  # each is said once
    return set(names)


@pytest.mark.parametrize("job", JOBS)
def test_a_job_is_submitted_where_no_broker_and_no_registry_is_in_reach(
    job: str, said: Said, refusing: str, dataflow_service: FakeDataflow
) -> None:
    url = f"http://{refusing}"
    lines = said(0, job, f"kafka://{refusing}", schema_registry=url)
    subjects = {"score": ("alerts", "scores", "dead"), "archive": ("dead",), "replay": ("again",)}.get(job, ())
    assert passed_over(lines) == ASKED[job] | {f"schema registry {url}", *(f"schema {s}-value" for s in subjects)}
    assert sum("no broker answers" in line for line in lines) == 1
    assert sum("is this machine for this machine only" in line for line in lines) == 1
    assert sum("cannot be reached" in line for line in lines) == 1
    [made] = dataflow_service.jobs.values()
    assert made["name"].startswith(f"highbeam-{job}-")


def test_who_never_answers_is_not_waited_for(said: Said, mute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beam_jobs.preflight.reach._REACHABLE_S", 0.5)  # each of the two takes it once, not each topic
    lines = said(0, "score", f"kafka://{mute}", schema_registry=f"http://{mute}")
    assert len(passed_over(lines)) == 9


def test_a_launcher_of_a_template_needs_them_as_little(
    said: Said, refusing: str, bucket: str, dataflow_service: FakeDataflow
) -> None:
    written = f"{bucket}/staging/template_launches/1/job_object"
    lines = said(0, "score", f"kafka://{refusing}", schema_registry=f"http://{refusing}", template_location=written)
    assert len(passed_over(lines)) == 9
    assert files.list_files(written)
    assert dataflow_service.requests == []


@pytest.mark.parametrize("job", ["score", "archive", "replay"])  # redrive has an end, which Pub/Sub there has not
def test_pubsub_out_of_reach(job: str, said: Said, refusing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(pubsub_client.EMULATOR, refusing)
    assert passed_over(said(0, job, "pubsub://my-project"))


def test_what_was_asked_to_be_done_is_not_passed_over(
    said: Said, refusing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "--create_topics" in said(2, "score", f"kafka://{refusing}", create_topics="true")[-1]
    monkeypatch.setenv(pubsub_client.EMULATOR, refusing)
    lines = said(2, "redrive", "pubsub://my-project", **{"from": "2026-11-22T07:00:00Z"})
    assert "does not answer" in lines[-1]  # it was to be set to that time


def test_strict_wants_every_answer(said: Said, refusing: str, dataflow_service: FakeDataflow) -> None:
    assert "no broker answers" in said(2, "score", f"kafka://{refusing}", preflight="strict")[-1]
    assert dataflow_service.jobs == {}


def test_off_asks_nobody(said: Said, mute: str) -> None:
    lines = said(0, "score", f"kafka://{mute}", schema_registry=f"http://{mute}", preflight="off")
    assert passed_over(lines) == set()
    assert sum("--preflight off" in line for line in lines) == 1


def test_what_answers_is_still_checked(said: Said, refusing: str, tmp_path: Path, embedded: Tansu) -> None:
    assert "topic does not exist" in said(2, "score", f"kafka://{embedded.bootstrap_servers}")[-1]
    with RegistryServer(tmp_path / "registry") as registry:
        clashing = {"type": "record", "name": "Alert", "namespace": "highbeam", "fields": []}
        for_registry(registry.url, {}).register("alerts-value", clashing)
        lines = said(2, "score", f"kafka://{refusing}", schema_registry=registry.url)
    assert "refuses the schema of 'alerts-value'" in lines[-1]


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ("sasl.password=env:NOT_HERE\nsasl.mechanism=PLAIN", "environment variable NOT_HERE is not set"),
        ("sasl.password=file:/not/here\nsasl.mechanism=PLAIN", "cannot read /not/here"),
        ("ssl.ca.location=/not/here.pem\nsecurity.protocol=ssl", "there is no /not/here.pem here"),
    ],
)
def test_secrets_and_certificates_that_only_the_workers_image_has(
    said: Said, refusing: str, tmp_path: Path, settings: str, what: str
) -> None:
    (tmp_path / "client.properties").write_text(settings)
    kafka_config = str(tmp_path / "client.properties")
    [reason] = [line for line in said(0, "score", f"kafka://{refusing}", kafka_config=kafka_config) if what in line]
    assert reason.startswith("not checked from here: topic events; ")
    assert what in said(2, "score", f"kafka://{refusing}", kafka_config=kafka_config, preflight="strict")[-1]


def test_workers_ask_for_what_the_launcher_could_not(
    words: Callable[..., list[str]], refusing: str, tmp_path: Path
) -> None:
    def checked(job: str, check: Callable[[options.PipelineOptions], Any]) -> Any:
        given = words(job, f"kafka://{refusing}", schema_registry=f"http://{refusing}")
        return check(options.parse(commands.JOBS[job].parser(), given))

    job: ScoreJob = checked("score", score_job)
    waiting = job.schema_ids["alert"]
    assert isinstance(waiting, Registration)
    with RegistryServer(tmp_path / "registry") as registry:
        there = Registration(for_registry(registry.url, {}), waiting.subject, waiting.schema)
        step = to_alerts(CARS, CARS.preprocessor(), there)
        step.setup()
        assert for_registry(registry.url, {}).writer_schema(1) == schemas.load("alert")
    kept = checked("archive", archive_job).write.stream
    assert kept.id is None


def test_a_champion_from_few_rows_is_warned_of_once_and_scores(
    said: Said, refusing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = "cars 1 has learnt from 203 rows"
    monkeypatch.setattr(Manifest, "few_rows", few)
    assert said(0, "score", f"kafka://{refusing}").count(f"warning: {few}") == 1
