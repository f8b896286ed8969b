"""make template and make launch: the commands they run, and what they refuse."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from beam_jobs.errors import UserError
from beam_jobs.running.dataflow import target as dataflow
from beam_jobs.running.dataflow.checks import JOB_NAME
from templates import publish
from templates.jobs import TEMPLATES
from templates.metadata import metadata
from tests.services.dataflow import FakeDataflow

SCORE = (
    "use_case=car_sensors input=kafka://a:9092,b:9092/t model=gs://m/models@champion "
    "alerts=pubsub://my-project/alerts dead_letters=pubsub://my-project/dead"
)
WHERE = ["--project=my-project", "--bucket=my-bucket"]


def dry_run(capsys: pytest.CaptureFixture[str], *argv: str) -> list[list[str]]:
    assert publish.main([*argv, "--dry_run"]) == 0
    return [shlex.split(line) for line in capsys.readouterr().out.splitlines()]


def test_docker_builds_pushes_and_publishes_every_template(capsys: pytest.CaptureFixture[str]) -> None:
    commands = dry_run(capsys, "build", *WHERE, "--repo=highbeam", "--tag=1.2", "--builder=docker")
    builds = [c for c in commands if c[:2] == ["docker", "build"]]
    images = {c[c.index("--tag") + 1] for c in builds}
    assert images == {f"us-central1-docker.pkg.dev/my-project/highbeam/highbeam-{job}:1.2" for job in TEMPLATES}
    assert {c[c.index("--build-arg") + 1] for c in builds} == {f"JOB={job}" for job in TEMPLATES}
    assert {c[2] for c in commands if c[:2] == ["docker", "push"]} == images
    assert [c for c in commands if c[:3] == ["gcloud", "storage", "cp"]][-1][-2:] == [
        f"gs://my-bucket/templates/{list(TEMPLATES)[-1]}.json",
        "--project=my-project",
    ]
    assert all((publish.ROOT / c[c.index("--file") + 1]).is_file() for c in builds)


def test_cloud_build_where_there_is_no_docker(capsys: pytest.CaptureFixture[str]) -> None:
    commands = dry_run(
        capsys, "build", *WHERE, "--repo=highbeam", "--tag=1.2", "--builder=cloud", "--region=europe-west1"
    )
    assert not [c for c in commands if c[0] == "docker"]
    (submit,) = [c for c in commands if c[:3] == ["gcloud", "builds", "submit"]]
    (given,) = [word for word in submit if word.startswith("--substitutions=")]
    used = set(re.findall(r"(?<!\$)\$(_\w+)", (publish.ROOT / "templates/cloudbuild.yaml").read_text()))
    assert set(re.findall(r"[=,](_\w+)=", given)) == used
    assert "_REPOSITORY=europe-west1-docker.pkg.dev/my-project/highbeam" in given


def test_auto_takes_cloud_build_without_a_docker_daemon(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\nexit 1\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert dry_run(capsys, "build", *WHERE, "--repo=highbeam")[0][:2] == ["gcloud", "builds"]
    docker.write_text("#!/bin/sh\nexit 0\n")
    assert dry_run(capsys, "build", *WHERE, "--repo=highbeam")[0][:2] == ["docker", "build"]


def test_the_printed_spec_command_writes_the_spec_that_is_published(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    commands = dry_run(capsys, "build", *WHERE, "--repo=highbeam", "--tag=1.2", "--builder=docker")
    (command,) = [c for c in commands if c[0] == "python" and "score" in c]
    written = tmp_path / "score.json"
    command[command.index("--output") + 1] = str(written)
    subprocess.run([sys.executable, *command[1:]], cwd=publish.ROOT, check=True, timeout=120)
    image = "us-central1-docker.pkg.dev/my-project/highbeam/highbeam-score:1.2"
    assert json.loads(written.read_text()) == publish.spec(TEMPLATES["score"], image)


def test_workers_run_the_image_of_the_launcher() -> None:
    found = publish.spec(TEMPLATES["score"], "example/highbeam-score:1")
    assert found["image"] == found["defaultEnvironment"]["sdkContainerImage"] == "example/highbeam-score:1"
    assert found["metadata"] == metadata(TEMPLATES["score"])


def test_a_launch_keeps_the_commas_of_kafka_addresses(capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = dry_run(capsys, "launch", "--job=score", *WHERE, "--parameters", SCORE, "--name=score-1")
    assert command[:5] == ["gcloud", "dataflow", "flex-template", "run", "score-1"]
    assert publish.main(["launch", "--job=score", *WHERE, f"--parameters={SCORE}", "--name=score-1", "--dry_run"]) == 0
    assert "warning: NAME score-1: the alert policies" in capsys.readouterr().err
    assert "--template-file-gcs-location=gs://my-bucket/templates/score.json" in command
    assert "--enable-streaming-engine" in command
    (given,) = [word for word in command if word.startswith("--parameters=")]
    assert given.startswith("--parameters=^~^use_case=car_sensors~input=kafka://a:9092,b:9092/t~")


def test_a_bounded_launch_is_a_batch_job(capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = dry_run(capsys, "launch", "--job=score", *WHERE, "--parameters", f"{SCORE} until=latest")
    assert "--enable-streaming-engine" not in command


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("use_cas=car_sensors", "did you mean use_case"),
        ("use_case", "'use_case' is not name=value"),
        ("use_case=car_sensors input=kafka://a/t", "needs model, alerts, dead_letters as well"),
        (f"{SCORE} fetch=fast", "fetch=fast: expected auto or client or wire"),
        (f"{SCORE} verbose=yes", "verbose=yes: expected true or false"),
        (f"{SCORE} block_rows=many", "block_rows=many: must match"),
        (SCORE.replace("kafka://a", "kafka://me:secret@a"), "must match"),
        ("use_case='car", "PARAMETERS: No closing quotation"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_is_called(parameters: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        publish.main(["launch", "--job=score", *WHERE, "--parameters", parameters])


def test_an_unknown_template_is_refused() -> None:
    with pytest.raises(UserError, match="JOB=scores: there is no such template, only score"):
        publish.main(["launch", "--job=scores", *WHERE])


@pytest.mark.parametrize("target", ["template", "launch"])
def test_make_names_each_missing_variable_in_a_line(target: str) -> None:
    make = ["make", "--old-file=setup", f"BIN={Path(sys.executable).parent}", target, "DRY_RUN=1"]
    variables = ("PROJECT", "REPO", "BUCKET", "REGION", "TAG", "BUILDER", "JOB", "NAME", "PARAMETERS", "GCLOUD_ARGS")
    env = {name: value for name, value in os.environ.items() if name not in variables}
    done = subprocess.run(make, cwd=publish.ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    wanted = ["PROJECT", "REPO", "BUCKET"] if target == "template" else ["JOB", "PROJECT", "BUCKET"]
    assert sorted(line.split()[1] for line in errors) == sorted(wanted)


# Values that make, a shell, gcloud or argparse would each read in a way of its own; of parameters that take any text.
ODD = {
    "use_case": "$(shell touch {there})$(warning x)${HOME}$$HOME$@$",
    "from": "`touch {there}`$(touch {there});touch {there}&&x|y>z",
    "until": "a,b~c;d|e%f^g=h",
    "group_id": 'it\'s "quoted" \\ # not a comment',
    "timestamp_attribute": "--project=other",
    "kafka_config": "two\nlines\tand  spaces ",
    "quiet_seconds": "1",
}


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[list[str]]]:
    """The commands that a gcloud on PATH was called with."""
    gcloud = tmp_path / "bin" / "gcloud"
    gcloud.parent.mkdir()
    written = tmp_path / "called"
    code = f"import json, sys; open({str(written)!r}, 'a').write(json.dumps(sys.argv[1:]) + chr(10))"
    gcloud.write_text(f"#!{sys.executable}\n{code}\n")
    gcloud.chmod(0o755)
    monkeypatch.setenv("PATH", f"{gcloud.parent}:{os.environ['PATH']}")
    return lambda: [json.loads(line) for line in written.read_text().splitlines()]


def given_to_gcloud(command: list[str]) -> dict[str, str]:
    """The parameters as `gcloud topic escaping` has it."""
    (word,) = [word.removeprefix("--parameters=") for word in command if word.startswith("--parameters=")]
    _, separator, text = word.split("^", 2)
    return dict(pair.split("=", 1) for pair in text.split(separator))


@pytest.mark.parametrize("where", ["command line", pytest.param("environment", marks=pytest.mark.nightly)])
def test_make_passes_values_on_unharmed(where: str, tmp_path: Path, called: Callable[[], list[list[str]]]) -> None:
    there = tmp_path / "touched"
    odd = {name: value.replace("{there}", str(there)) for name, value in ODD.items()}
    wanted = dict(word.split("=", 1) for word in SCORE.split()) | odd
    flags = ["--labels=$(shell touch x)=$$", "--dataflow-kms-key=a b#c"]
    values = {
        "PARAMETERS": shlex.join(f"{name}={value}" for name, value in wanted.items()),
        "GCLOUD_ARGS": shlex.join(flags).replace("touch x", f"touch {there}"),
        "JOB": "score",
        "PROJECT": "my-project",
        "BUCKET": "gs://my-bucket",
    }
    make = ["make", "--old-file=setup", f"BIN={Path(sys.executable).parent}", "launch"]
    env = {name: value for name, value in os.environ.items() if name not in ("DRY_RUN", "REGION", "NAME")}
    if where == "environment":
        env |= values
    else:
        make += [f"{name}={value}" for name, value in values.items()]
    done = subprocess.run(make, cwd=publish.ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (command,) = called()
    assert given_to_gcloud(command) == wanted
    assert command[-2:] == [flag.replace("touch x", f"touch {there}") for flag in flags]
    assert not there.exists()


def test_gcloud_reads_what_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("gcloud") is None:
        pytest.skip("gcloud is not on PATH")
    with FakeDataflow() as service:
        settings = {
            "CONFIG": str(tmp_path),
            "AUTH_DISABLE_CREDENTIALS": "true",
            "CORE_DISABLE_PROMPTS": "1",
            "CORE_DISABLE_USAGE_REPORTING": "true",
            "COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
            "API_ENDPOINT_OVERRIDES_DATAFLOW": f"{service.environment['http_proxy']}/",
        }
        for name, value in settings.items():
            monkeypatch.setenv(f"CLOUDSDK_{name}", value)
        service.refusal = 400, "only looked at"
        wanted = dict(word.split("=", 1) for word in SCORE.split()) | ODD | {"enrich": "~ ; | % ~0~"}
        args = argparse.Namespace(job="score", name="", project="my-project", bucket="b", region="r", gcloud_args="")
        subprocess.run(publish.launch_command(args, wanted), capture_output=True, timeout=120, check=False)
        launched = [r.body["launchParameter"] for r in service.requests if r.method == "POST"]
    assert [launch["parameters"] for launch in launched] == [wanted]


def test_an_empty_parameter_is_not_given(capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = dry_run(capsys, "launch", "--job=score", *WHERE, f"--parameters={SCORE} until= from='' preflight=")
    assert set(given_to_gcloud(command[1:])) == {word.split("=")[0] for word in SCORE.split()}
    with pytest.raises(UserError, match="needs model as well"):
        publish.main(["launch", "--job=score", *WHERE, f"--parameters={SCORE.replace('gs://m/models@champion', '')}"])


def test_quotes_that_are_left_open_are_said() -> None:
    with pytest.raises(UserError, match="GCLOUD_ARGS: No closing quotation"):
        publish.main(["launch", "--job=score", *WHERE, f"--parameters={SCORE}", "--gcloud_args=--x='y"])


def test_every_name_that_is_made_is_watched(capsys: pytest.CaptureFixture[str]) -> None:
    """By the alert policies of Terraform, whatever its variable name is."""
    text = (publish.ROOT / "templates/terraform/alerts.tf").read_text()
    (form,) = re.findall(r'names +\= "(.*)"', text)
    uses = re.findall(r'(?:full_match\(\\"|job_name=~\\")([^"\\]*)', text)
    assert uses == ["${local.names}"] * 2
    assert "starts_with" not in text
    jobs = (publish.ROOT / "templates/terraform/jobs.tf").read_text()
    by_terraform = re.findall(r'^ +name += "(.*)"$', jobs, re.MULTILINE)
    assert len(by_terraform) == 2
    launched = [dry_run(capsys, "launch", "--job=score", *WHERE, f"--parameters={SCORE}")[0][4]]
    by_command_line = [
        dataflow.job_name(name) for name in ("score/car_sensors", "archive/My_cars.2", "replay", "redrive")
    ]
    for installation in ("highbeam", "fleet-2"):
        watched = re.compile(form.replace("${var.name}", installation))
        for name in [*launched, *by_command_line, *by_terraform]:
            assert watched.fullmatch(name.replace("${var.name}", installation)), name
            assert JOB_NAME.fullmatch(name.replace("${var.name}", installation)), name
        assert not watched.fullmatch("score-20261122-070000")


def test_the_first_command_that_fails_ends_the_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("docker", "gcloud"):
        script = tmp_path / name
        script.write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/called\nexit 3\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert publish.main(["build", *WHERE, "--repo=highbeam", "--builder=docker"]) == 1
    assert (tmp_path / "called").read_text() == "docker\n"
    assert "ended with status 3" in capsys.readouterr().err


def test_a_missing_gcloud_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="gcloud is not installed"):
        publish.main(["launch", "--job=score", *WHERE, "--parameters", SCORE])
