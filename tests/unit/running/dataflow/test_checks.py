"""What is checked before anything is staged: each a line, and nothing is sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from google.cloud import storage

from beam_jobs import archive, redrive, replay, score
from beam_jobs.errors import UserError
from beam_jobs.running.dataflow.checks import check_labels, check_target
from beam_jobs.storage.gcs import BucketInfo
from beam_jobs.terminal import cli, options
from beam_jobs.terminal.commands import JOBS
from tests.services.dataflow import FakeDataflow
from tests.services.google import TokenServer

NOWHERE = "kafka://broker.example"
GIVEN = {
    "runner": "DataflowRunner",
    "project": "my-project",
    "region": "us-central1",
    "use_case": "car_sensors",
    "model": "gs://bucket/models",
    "input": f"{NOWHERE}/events",
    "alerts": f"{NOWHERE}/alerts",
    "dead_letters": f"{NOWHERE}/dead",
}
Fails = Callable[..., str]


def line(job: Callable[[list[str]], int], given: dict[str, str | None], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a job says before it ends with status 2."""
    with pytest.raises(SystemExit) as end:
        cli.run(job, [f"--{name}={value}" for name, value in given.items() if value is not None])
    printed = capsys.readouterr().err
    assert end.value.code == 2, printed
    [error] = [text for text in printed.splitlines() if text.startswith("error: ")]
    assert "Traceback" not in printed
    return error


@pytest.fixture
def fails(
    bucket: str, dataflow_service: FakeDataflow, tokens: TokenServer, capsys: pytest.CaptureFixture[str]
) -> Fails:
    """Runs ``score`` with some arguments changed; the one line it says. Nothing is created."""
    tokens.issue("a-token")

    def run(job: Callable[[list[str]], int] = score.main, **changes: str | None) -> str:
        given = GIVEN | {"temp_location": f"{bucket}/temp", "dataflow_endpoint": dataflow_service.url} | changes
        error = line(job, given, capsys)
        assert all(request.method == "GET" for request in dataflow_service.requests)
        return error

    return run


@pytest.mark.parametrize("job", [score.main, archive.main, replay.main, redrive.main])
def test_without_a_project_or_a_bucket(job: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]) -> None:
    error = line(job, {"runner": "DataflowRunner", "region": "us-central1"}, capsys)
    assert "--runner=DataflowRunner needs --project, --temp_location as well" in error


def test_without_a_region(fails: Fails) -> None:
    assert "needs --region as well" in fails(region=None)


@pytest.mark.usefixtures("no_credentials")
def test_without_credentials(capsys: pytest.CaptureFixture[str]) -> None:
    error = line(score.main, GIVEN | {"temp_location": "gs://bucket/temp"}, capsys)
    assert "--runner=DataflowRunner: no Google credentials; run gcloud auth application-default login" in error


def test_a_bucket_that_is_missing(fails: Fails, bucket: str) -> None:
    assert f"{bucket}-none: no such bucket; create it" in fails(temp_location=f"{bucket}-none/temp")
    assert f"{bucket}-none: no such bucket; create it" in fails(staging_location=f"{bucket}-none/staging")


@pytest.mark.parametrize(
    ("name", "value"),
    [("project", "12345"), ("region", "us-central1-a"), ("temp_location", "/tmp/x"), ("job_name", "Score_1")],
)
def test_a_value_of_another_form(fails: Fails, name: str, value: str) -> None:
    assert f"--{name} {value}: expected " in fails(**{name: value})


def test_the_service_does_not_let_us_in(fails: Fails, dataflow_service: FakeDataflow) -> None:
    dataflow_service.refusal = 403, "Dataflow API has not been used in project my-project before or it is disabled."
    error = fails()
    assert "Dataflow in my-project, us-central1: " in error
    assert "it is disabled" in error
    assert "enable dataflow.googleapis.com" in error


def test_an_update_needs_a_job_that_runs(fails: Fails, dataflow_service: FakeDataflow) -> None:
    assert "--update needs --job_name" in fails(update="true")
    assert "--update: no job cars runs in us-central1" in fails(update="true", job_name="cars")
    running = dataflow_service.run_forever("cars")
    assert f"--job_name cars: job {running} of that name runs already" in fails(job_name="cars")


def test_files_of_this_machine(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    here = str(tmp_path / "archive")
    assert f"--model {here}: workers of Dataflow do not see the files of this machine" in fails(model=here)
    assert f"--input {here}: workers" in fails(replay.main, input=here, output=f"{NOWHERE}/x", model=None, **NO_SCORE)
    output = {"output": here, "model": None, "alerts": None}
    assert f"--output {here}: workers" in fails(archive.main, **output)
    assert "--enrich cars.csv: workers" in fails(archive.main, **output | {"output": "gs://b/x", "enrich": "cars.csv"})


NO_SCORE = {"alerts": None, "dead_letters": None}


def test_what_has_no_place_on_dataflow(fails: Fails) -> None:
    assert "--report and --progress tell of a local run" in fails(report="report.json")
    for flag in ("setup_file", "extra_package", "requirements_file"):
        assert f"--{flag} no/file: there is no such file" in fails(**{flag: "no/file"})
    error = fails(sdk_container_image="apache/beam_python3.11_sdk:2.77.0")
    assert "is Beam's own image, which has no Highbeam" in error
    error = fails(
        archive.main,
        output="gs://b/x",
        model=None,
        alerts=None,
        dataflow_service_options="streaming_mode_at_least_once",
    )
    assert "streaming_mode_at_least_once is not for archive: each record is to be in one row" in error


@pytest.mark.parametrize(
    "given",
    [
        [],
        ["team=fleet", "env=prod-1", "cost_center=0", "empty=", "bare"],
        ["a" * 63 + "=" + "1" * 63],
        ['{"a_b": "c-d", "e": ""}', "x=y"],
        ["größe=straße", "車=赤"],
        [f"k{i}=v" for i in range(64)],
        ["k=v"] * 100,
    ],
)
def test_labels_that_google_takes(given: list[str]) -> None:
    check_labels(given)


@pytest.mark.parametrize(
    ("label", "wrong"),
    [
        ("Team=fleet", "'Team' is no key"),
        ("team=Fleet Ops", "'Fleet Ops' is no value"),
        ("team=a.b", "'a.b' is no value"),
        ("1team=a", "'1team' is no key"),
        ("-team=a", "'-team' is no key"),
        ("=a", "'' is no key"),
        ("a" * 64 + "=b", "is no key: 1 to 63"),
        ("a=" + "b" * 64, "is no value: at most 63"),
        ("a=b=c", "'b=c' is no value"),
        ("a=ÜBER", "'ÜBER' is no value"),
        ("車" * 43 + "=a", "is no key"),  # 129 bytes
        ('{"a": 1}', "1 is no value"),
        ('{"a": true}', '--labels {"a": true}: expected KEY=VALUE'),
        ("{a}", "expected KEY=VALUE"),
        ("{'ab'}", "expected KEY=VALUE"),
    ],
)
def test_a_label_that_google_refuses_is_a_line(label: str, wrong: str) -> None:
    with pytest.raises(UserError) as error:
        check_labels(["fine=1", label])
    assert wrong in str(error.value)
    assert "\n" not in str(error.value)


def test_too_many_labels() -> None:
    with pytest.raises(UserError, match="--labels: 65 of them, a job has 64 at most"):
        check_labels([f"k{i}=v" for i in range(65)])


def test_labels_are_looked_at_before_anything_is_staged(fails: Fails) -> None:
    assert "'Fleet Ops' is no value" in fails(labels="team=Fleet Ops")


DELETE = {"type": "Delete"}


@pytest.mark.parametrize(
    ("rule", "when"),
    [
        ({"action": DELETE, "condition": {"age": 7, "matchesPrefix": ["temp/", "build/"]}}, None),
        ({"action": DELETE, "condition": {"age": 7, "matchesPrefix": ["temp/", "staging/"]}}, "7 days after"),
        ({"action": DELETE, "condition": {"age": 7, "matchesPrefix": ["stag"]}}, "7 days after"),
        ({"action": DELETE, "condition": {"age": 7, "matchesPrefix": ["staging/old/"]}}, "7 days after"),
        ({"action": DELETE, "condition": {"age": 0}}, "0 days after"),
        ({"action": DELETE, "condition": {"age": 7, "isLive": True}}, "7 days after"),
        ({"action": DELETE, "condition": {"age": 7, "isLive": False}}, None),
        ({"action": DELETE, "condition": {"daysSinceNoncurrentTime": 30}}, None),
        ({"action": DELETE, "condition": {"numNewerVersions": 3, "isLive": False}}, None),
        ({"action": DELETE, "condition": {"age": 7, "matchesSuffix": [".tmp"]}}, None),
        ({"action": DELETE, "condition": {"createdBefore": "2020-01-01"}}, None),
        ({"action": DELETE, "condition": {"createdBefore": "9000-01-01"}}, "in time"),
        ({"action": DELETE, "condition": {"age": 7, "matchesStorageClass": ["COLDLINE"]}}, None),
        ({"action": DELETE, "condition": {"age": 7, "matchesStorageClass": ["STANDARD"]}}, "7 days after"),
        ({"action": {"type": "SetStorageClass", "storageClass": "COLDLINE"}, "condition": {"age": 7}}, None),
        ({"action": {"type": "AbortIncompleteMultipartUpload"}, "condition": {"age": 7}}, None),
    ],
)
def test_what_a_lifecycle_rule_deletes(rule: dict[str, Any], when: str | None) -> None:
    other = {"action": DELETE, "condition": {"age": 1, "matchesPrefix": ["elsewhere/"]}}
    found = BucketInfo("EU", "STANDARD", (other, rule)).deletes("gs://bucket/staging")
    assert (found or "").startswith(when or "")
    assert bool(found) is bool(when)


Target = Callable[..., tuple[dict[str, Any], str]]


@pytest.fixture
def target(
    bucket: str, dataflow_service: FakeDataflow, tokens: TokenServer, capsys: pytest.CaptureFixture[str]
) -> Target:
    """The options of a job whose target was checked, and what was said; the bucket's rule is the documented one."""
    tokens.issue("a-token")

    def check(**given: str) -> tuple[dict[str, Any], str]:
        given = {"runner": "DataflowRunner", "project": "my-project", "region": "us-central1"} | given
        words = [f"--{name}={value}" for name, value in given.items()]
        parsed = options.parse(JOBS["score"].parser(), [*words, f"--dataflow_endpoint={dataflow_service.url}"])
        with mock.patch.object(storage.Bucket, "lifecycle_rules", DOCUMENTED_RULES):
            check_target(parsed)
        return parsed.get_all_options(), capsys.readouterr().err

    return check


DOCUMENTED_RULES = [{"action": DELETE, "condition": {"age": 7, "matchesPrefix": ["temp/", "build/"]}}]


@pytest.mark.parametrize("temp", ["temp", "temp/jobs", "", "elsewhere/temp"])
def test_what_workers_need_is_staged_where_nothing_cleans(target: Target, bucket: str, temp: str) -> None:
    found, said = target(temp_location=f"{bucket}/{temp}".rstrip("/"))
    assert found["staging_location"] == f"{bucket}/staging"
    assert found["temp_location"].startswith(f"{bucket}/{temp or 'highbeam'}")
    assert said == ""


def test_a_folder_that_a_rule_cleans_is_said(target: Target, bucket: str) -> None:
    found, said = target(temp_location=f"{bucket}/temp", staging_location=f"{bucket}/temp/staged")
    assert found["staging_location"] == f"{bucket}/temp/staged"
    [line] = said.splitlines()
    assert line.startswith(f"warning: --staging_location {bucket}/temp/staged: a lifecycle rule of the bucket deletes")
    assert "7 days after it was written" in line
    found, said = target(staging_location=f"{bucket}/staging")
    assert found["temp_location"] == f"{bucket}/temp"
    assert said == ""


def test_a_bucket_elsewhere_is_said(
    bucket: str, dataflow_service: FakeDataflow, tokens: TokenServer, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens.issue("a-token")

    def said(region: str) -> str:
        words = ["--runner=DataflowRunner", "--project=my-project", f"--region={region}"]
        words += [f"--temp_location={bucket}", f"--dataflow_endpoint={dataflow_service.url}"]
        parsed = options.parse(JOBS["score"].parser(), words)
        check_target(parsed)
        assert parsed.get_all_options()["temp_location"] == f"{bucket}/highbeam"
        return capsys.readouterr().err

    assert said("us-central1") == ""  # where the emulator says its buckets are
    assert f"warning: {bucket}/highbeam is in us-central1, the job in europe-west1" in said("europe-west1")
