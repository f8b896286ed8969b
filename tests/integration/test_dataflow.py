"""Jobs submitted to Dataflow by their ordinary command line: what is staged and sent, and that a worker can run it.

Each job is submitted once for all tests and processes; what came of it lies in a folder.
"""

from __future__ import annotations

import base64
import json
import re
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.portability.api import beam_runner_api_pb2 as api

from beam_jobs.sandbox.process import Tansu
from beam_jobs.storage import files
from demo.broker import locked
from templates.jobs import TEMPLATES
from templates.publish import spec
from tests.graphs import stage_of_windows
from tests.integration.dataflow_jobs import (
    IMAGE,
    JOBS,
    LETTERS,
    MORE,
    PASSWORD,
    PII_KEY,
    TOKEN,
    VARIABLE,
    Cloud,
    N,
    Submitted,
    environment,
    fetch,
    left_behind,
    run_worker,
    staging,
    submit,
)
from tests.integration.pubsub_topics import PubSubTopics
from tests.integration.test_secrets import contents
from tests.services import dataflow_worker
from tests.services.dataflow import ROOT, FakeDataflow
from tests.services.gcs import GcsEmulator
from tests.services.google import TokenServer, key_file
from tests.services.pubsub import EMULATOR, Server

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def cloud(
    gcs_emulator: GcsEmulator, embedded: Tansu, pubsub_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cloud]:
    folder = tmp_path_factory.mktemp("cloud")
    with FakeDataflow() as service, TokenServer() as tokens, pytest.MonkeyPatch.context() as patch:
        tokens.issue(TOKEN)
        patch.setenv("STORAGE_EMULATOR_HOST", gcs_emulator.url)
        patch.setenv(EMULATOR, pubsub_server.address)
        patch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key_file(folder, tokens.url)))
        for name, value in service.environment.items():
            patch.setenv(name, value)
        patch.setenv("TEST_PII_KEY", PII_KEY)
        patch.setenv("TEST_VARIABLE", VARIABLE)
        yield Cloud(gcs_emulator, embedded, PubSubTopics("lab-project"), service, folder)


@pytest.fixture(scope="module")
def submitted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> Callable[[str], Submitted]:
    base = tmp_path_factory.getbasetemp()
    base = base if worker_id == "master" else base.parent

    def find(job: str) -> Submitted:
        folder = base / f"dataflow-{job}"
        with locked(base / f"dataflow-{job}.lock"):
            if not (folder / "done").exists():
                cloud: Cloud = request.getfixturevalue("cloud")
                models: Path = request.getfixturevalue("trained_model")
                folder.mkdir()
                given = cloud.arguments(job, models)
                before = len(cloud.service.requests)
                began = time.monotonic()
                done = submit(cloud, job, *given, *MORE[job])
                seconds = time.monotonic() - began
                assert done.returncode == 0, done.stderr
                sent = [vars(r) for r in cloud.service.requests[before:]]
                [made] = [r["body"] for r in sent if r["method"] == "POST"]
                told = {"stdout": done.stdout, "stderr": done.stderr, "seconds": seconds, "bucket": cloud.root}
                for name, what in (("result", told), ("requests", sent), ("job", made)):
                    (folder / f"{name}.json").write_text(json.dumps(what))
                fetch(staging(cloud, job), folder / "staged")
                assert files.list_files(f"{cloud.root}/temp/**") == []
                packaged = folder if job == "score" else find("score").folder
                python = environment(packaged / "staged", base / "dataflow-package")
                (folder / "worker.json").write_text(run_worker(python, folder))
                (folder / "left.json").write_text(json.dumps(left_behind(cloud, job)))
                (folder / "done").touch()
        return Submitted(folder)

    return find


@pytest.fixture(params=JOBS)
def each(request: pytest.FixtureRequest, submitted: Callable[[str], Submitted]) -> Submitted:
    return submitted(request.param)


@pytest.fixture
def score(submitted: Callable[[str], Submitted]) -> Submitted:
    return submitted("score")


def test_it_is_submitted_and_says_where_it_is(each: Submitted) -> None:
    first, second = each.result["stdout"].splitlines()[:2]
    match = re.fullmatch(r"job (\S+) \((\S+)\) submitted in \d+\.\d s", first)
    assert match
    assert match[2] == each.body["name"]
    assert second == f"https://console.cloud.google.com/dataflow/jobs/us-central1/{match[1]}?project=my-project"
    drain = f"gcloud dataflow jobs drain {match[1]} --project=my-project --region=us-central1"
    assert drain in each.result["stderr"]
    assert "Summary" not in each.result["stdout"]
    assert "Traceback" not in each.result["stderr"]
    [path] = [r["path"] for r in each.requests if r["method"] == "POST"]
    assert path == "/projects/my-project/locations/us-central1/jobs"
    assert all(r["headers"]["authorization"].startswith("Bearer ") for r in each.requests)


def test_a_job_with_an_end_is_waited_for(submitted: Callable[[str], Submitted]) -> None:
    looked = {job: [r["path"] for r in submitted(job).requests if re.search("/jobs/[^/]+$", r["path"])] for job in JOBS}
    assert {job: bool(paths) for job, paths in looked.items()} == {
        "score": False,
        "archive": False,  # without an end
        "replay": False,  # --wait=no
        "redrive": True,
    }
    assert submitted("redrive").result["stderr"].rstrip().endswith("done")


def test_the_job_says_how_it_is_to_be_run(score: Submitted) -> None:
    body = score.body
    assert body["name"] == "score-cars"
    assert body["labels"] == {"team": "fleet"}
    environment = body["environment"]
    experiments = environment["experiments"]
    assert {"use_runner_v2", "enable_streaming_engine", "enable_windmill_service"} <= set(experiments)
    assert "no_use_multiple_sdk_containers" in experiments
    assert "use_multiple_sdk_containers" not in experiments
    assert environment["serviceOptions"] == ["streaming_mode_at_least_once"]
    assert environment["serviceAccountEmail"] == "worker@my-project.iam.gserviceaccount.com"
    assert environment["serviceKmsKeyName"] == "projects/p/locations/l/keyRings/r/cryptoKeys/k"
    [pool] = environment["workerPools"]
    assert pool["kind"] == "harness"
    assert pool["machineType"] == "n2-standard-2"
    assert pool["subnetwork"] == "regions/us-central1/subnetworks/inner"
    assert int(pool["numThreadsPerWorker"]) == 6
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 4
    assert pool["ipConfiguration"] in (2, "WORKER_IP_PRIVATE")
    [image] = pool["sdkHarnessContainerImages"]
    assert image["containerImage"].startswith("gcr.io/cloud-dataflow/v1beta3/beam_python")


def test_jobs_without_settings_have_sane_ones(submitted: Callable[[str], Submitted]) -> None:
    for job in ("archive", "replay", "redrive"):
        body = submitted(job).body
        assert re.fullmatch(f"highbeam-{job}(-car-sensors)?-[0-9]{{8}}-[0-9]{{6}}", body["name"])
        [pool] = body["environment"]["workerPools"]
        limited = job != "archive"  # Pub/Sub is read by the service itself: it knows how many workers help
        assert pool["autoscalingSettings"].get("maxNumWorkers", 0) == (32 if limited else 0)
        assert ("no_use_multiple_sdk_containers" in body["environment"]["experiments"]) == limited
        assert body["type"] in (2, "JOB_TYPE_STREAMING")


def test_one_environment_holds_all_steps_and_the_memory_they_need(score: Submitted) -> None:
    environments = score.pipeline.components.environments
    used = {t.environment_id for t in score.pipeline.components.transforms.values() if t.environment_id}
    assert len(used) == 1  # steps of different environments are not fused, and offsets would be committed too early
    [hint] = [value for urn, value in environments[used.pop()].resource_hints.items() if "min_ram" in urn]
    assert int(hint) == 4 * 1000**3


def test_what_is_staged(submitted: Callable[[str], Submitted]) -> None:
    staged = {job: {path.name for path in submitted(job).staged} for job in JOBS}
    package = {"pipeline.pb", "extra_packages.txt", "highbeam-0.2.0.tar.gz"}
    by_setup_file = {"pipeline.pb", "workflow.tar.gz"}
    assert staged == {"score": package, "archive": {"pipeline.pb"}, "replay": by_setup_file, "redrive": package}
    [pool] = submitted("archive").body["environment"]["workerPools"]
    assert [image["containerImage"] for image in pool["sdkHarnessContainerImages"]] == [IMAGE]
    for job in ("score", "replay"):
        with tarfile.open(next(submitted(job).folder.glob("staged/*.tar.gz"))) as sdist:
            names = {name.partition("/")[2] for name in sdist.getnames()}
        assert {"beam_jobs/score.py", "schemas/car_sensor.avsc", "use_cases/car_sensors/preprocess.sql"} <= names
        assert not any(name.split("/")[0] in ("tests", "bench", "docs", "runs", "templates") for name in names)


def test_the_pipeline_reads_kafka_by_our_source(score: Submitted) -> None:
    read = score.leaf("Read/Read/ReadUnbounded")
    payload = api.ParDoPayload.FromString(read.spec.payload)
    assert payload.restriction_coder_id
    assert score.pipeline.components.pcollections[read.outputs["None"]].is_bounded == api.IsBounded.UNBOUNDED
    assert score.worker["readers"] == 3  # one a partition
    names = {t.unique_name for t in dataflow_worker.leaves(score.pipeline)}
    assert {"Decode/ParDo(DecodeEvents)", "RunInference/BeamML_RunInference", "Alerts", "WriteAlerts/Write"} <= names


def test_the_pipeline_leaves_pubsub_to_the_service(submitted: Callable[[str], Submitted]) -> None:
    archive = submitted("archive")
    read = api.PubSubReadPayload.FromString(archive.leaf("Read/Read/Read").spec.payload)
    assert re.fullmatch(r"projects/lab-project/subscriptions/events-\w+", read.subscription)
    assert read.with_attributes
    writes = [t for t in dataflow_worker.leaves(archive.pipeline) if t.spec.urn == dataflow_worker.WRITE]
    assert {t.unique_name.split("/")[0] for t in writes} == {"DeadLettersDecode", "DeadLettersPreprocess"}
    for write in writes:
        topic = api.PubSubWritePayload.FromString(write.spec.payload).topic
        assert re.fullmatch(r"projects/lab-project/topics/dead-\w+", topic)


OF_BLOCKS = ("Decode", "Preprocess", "RunInference", "CheckScores", "Alerts", "Restore", "Records")


def test_blocks_have_their_own_coder_all_the_way(each: Submitted) -> None:
    components = each.pipeline.components
    for transform in dataflow_worker.leaves(each.pipeline):
        if transform.unique_name.split("/")[0] in OF_BLOCKS:
            for output in transform.outputs.values():
                coder = components.coders[components.pcollections[output].coder_id]
                assert b"BlockCoder" in b"".join(contents(coder.spec.payload)), transform.unique_name


def test_nothing_secret_is_staged_or_sent(each: Submitted) -> None:
    parts = [json.dumps(request["body"]).encode() for request in each.requests]
    for path in each.staged:
        parts += contents(path.read_bytes())
        if path.suffix == ".gz":
            with tarfile.open(path) as sdist:
                opened = (sdist.extractfile(member) for member in sdist)
                parts += [file.read() for file in opened if file is not None]
    assert len(parts) > 10
    planted = {"password": PASSWORD, "pii key": PII_KEY, "variable": VARIABLE, "token": TOKEN}
    for name, secret in {**planted, "key file": "BEGIN PRIVATE KEY"}.items():
        encoded = base64.b64encode(secret.encode()).rstrip(b"=")[:-1]
        found = [part for part in parts if secret.encode() in part or encoded in part]
        assert not found, name
    settings = b"client.properties" in b"".join(parts)  # where the password is
    assert settings == (each.folder.name != "dataflow-archive")


def test_a_worker_runs_it_with_the_staged_package_alone(each: Submitted) -> None:
    report = each.worker
    assert str(ROOT) not in "".join(report["modules"].values())
    assert {path.split("/site-packages/")[1].split("/")[0] for path in report["modules"].values()} >= {"beam_jobs"}
    ours = [path for path in report["classes"].values() if "/beam_jobs/" in path]
    assert len(ours) >= 1
    assert not any(path.startswith(str(ROOT)) for path in ours)
    assert not report["tensorflow"]
    ran = {t.unique_name for t in dataflow_worker.leaves(each.pipeline)}
    assert set(report["steps"]) == ran


def test_what_the_worker_makes_of_the_events(submitted: Callable[[str], Submitted]) -> None:
    steps, wrote = submitted("score").worker["steps"], json.loads((submitted("score").folder / "left.json").read_text())
    assert steps["Decode/ParDo(DecodeEvents)"][0] >= 3  # a block a partition
    assert wrote["scores"] == N
    assert 0 < wrote["alerts"] < N
    report, wrote = submitted("archive").worker, json.loads((submitted("archive").folder / "left.json").read_text())
    assert wrote["files"] == 1
    [letter] = [PubsubMessage._from_proto_str(base64.b64decode(data)) for data in report["published"]]
    assert b"broken" in letter.data
    for job, records in (("replay", N), ("redrive", LETTERS)):
        assert json.loads((submitted(job).folder / "left.json").read_text()) == {"back": records}


def test_the_launcher_of_a_template_submits_the_same_graph(
    cloud: Cloud, submitted: Callable[[str], Submitted], trained_model: Path
) -> None:
    given = dict(word.removeprefix("--").split("=", 1) for word in cloud.arguments("score", trained_model))
    (cloud.folder / "spec.json").write_text(json.dumps(spec(TEMPLATES["score"], IMAGE)))
    files.upload(cloud.folder / "spec.json", f"{cloud.root}/templates/score.json")
    launch = {
        "jobName": "from-a-template",
        "containerSpecGcsPath": f"{cloud.root}/templates/score.json",
        "parameters": given,
        "environment": {"stagingLocation": f"{cloud.root}/launched", "tempLocation": f"{cloud.root}/temp"},
    }
    url = f"{cloud.service.url}/v1b3/projects/my-project/locations/us-central1/flexTemplates:launch"
    answer = requests.post(url, json={"launchParameter": launch}, timeout=150)
    assert answer.status_code == 200, answer.text
    job = cloud.service.jobs[answer.json()["job"]["id"]]
    [pool] = job["environment"]["workerPools"]
    assert "packages" not in pool
    assert [image["containerImage"] for image in pool["sdkHarnessContainerImages"]] == [IMAGE]
    url = job["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"]
    launched = api.Pipeline.FromString(files.read_bytes(url))
    assert names_of(launched) == names_of(submitted("score").pipeline)


@pytest.mark.nightly
def test_windows_are_staged_in_the_stage_that_reads(cloud: Cloud, tmp_path: Path) -> None:
    done = submit(
        *(cloud, "archive", "--use_case=car_sensors_history", f"--sdk_container_image={IMAGE}", "--from=earliest"),
        *(
            f"--input={cloud.kafka('events')}",
            f"--output={cloud.root}/windows",
            f"--dead_letters={cloud.kafka('dead')}",
        ),
        staged=f"{cloud.root}/staged/windows",
    )
    assert done.returncode == 0, done.stderr
    fetch(f"{cloud.root}/staged/windows", tmp_path / "staged")
    staged = api.Pipeline.FromString((tmp_path / "staged" / "pipeline.pb").read_bytes())
    assert {"Read/Read/ReadUnbounded/Process", "Archive/Write"} <= set(stage_of_windows(staged))
    body = [request.body for request in cloud.service.requests if request.method == "POST"][-1]
    # One process a worker: where a worker keeps a reader, it keeps what windows know.
    assert "no_use_multiple_sdk_containers" in body["environment"]["experiments"]


def names_of(pipeline: api.Pipeline) -> set[str]:
    return {t.unique_name for t in pipeline.components.transforms.values()}
