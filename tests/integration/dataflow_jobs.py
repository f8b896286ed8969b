"""What the tests of Dataflow submit: a project with all that the jobs need, their command lines, what came of them."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import uuid
import venv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from apache_beam.portability.api import beam_runner_api_pb2 as api
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from google.cloud import storage

import schemas
from beam_jobs.archives.rows import archive_schema
from beam_jobs.archives.sink import ArchiveSettings, WriteFiles
from beam_jobs.block import raw_block, with_source
from beam_jobs.codec import events as codec
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.dead_letters import dead_letter_block
from beam_jobs.errors import RowErrors
from beam_jobs.io.kafka.wire import records
from beam_jobs.preprocessing.windows import history
from beam_jobs.sandbox.process import Tansu
from beam_jobs.steps import alerts, partition_keys
from beam_jobs.storage import files
from beam_jobs.use_case import load_use_case
from demo.broker import locked
from tests.integration.pubsub_topics import PubSubTopics
from tests.integration.topics import events, framed
from tests.packaging.test_install import DEPENDENCIES
from tests.services import dataflow_worker
from tests.services.dataflow import ROOT, FakeDataflow
from tests.services.gcs import GcsEmulator
from tests.services.job import finished

CARS = load_use_case("car_sensors")
N, LETTERS = 500, 20
IMAGE = "us-central1-docker.pkg.dev/my-project/highbeam/highbeam-score:1"
TOKEN = "ya29.planted-token"
PASSWORD, PII_KEY, VARIABLE = "planted-kafka-password", "planted-key-of-pseudonyms", "planted-in-the-environment"
JOBS = ("score", "archive", "replay", "redrive")
PROJECT = ["--runner=DataflowRunner", "--project=my-project", "--region=us-central1"]


@dataclass(frozen=True)
class Submitted:
    """What came of a submission; read from its folder."""

    folder: Path

    def _read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    @cached_property
    def pipeline(self) -> api.Pipeline:
        return api.Pipeline.FromString((self.folder / "staged" / "pipeline.pb").read_bytes())

    @cached_property
    def body(self) -> dict[str, Any]:
        """Of the request that made the job."""
        found: dict[str, Any] = self._read("job.json")
        return found

    @cached_property
    def requests(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._read("requests.json")
        return found

    @cached_property
    def worker(self) -> dict[str, Any]:
        """What the fake worker has done with the pipeline."""
        found: dict[str, Any] = self._read("worker.json")
        return found

    @cached_property
    def result(self) -> dict[str, Any]:
        """Of the command: stdout, stderr, seconds, bucket."""
        found: dict[str, Any] = self._read("result.json")
        return found

    @property
    def staged(self) -> list[Path]:
        return sorted(path for path in (self.folder / "staged").iterdir())

    def leaf(self, name: str) -> Any:
        """The one transform without parts whose name begins so."""
        [found] = [t for t in dataflow_worker.leaves(self.pipeline) if t.unique_name.startswith(name)]
        return found


class Cloud:
    """A project with everything in it that the jobs need."""

    def __init__(self, gcs: GcsEmulator, broker: Tansu, pub: PubSubTopics, service: FakeDataflow, folder: Path) -> None:
        self.bucket = f"bucket-{uuid.uuid4().hex[:8]}"
        self.root = f"gs://{self.bucket}"
        self.pub, self.service, self.folder = pub, service, folder
        self.servers = broker.bootstrap_servers
        self._run = uuid.uuid4().hex[:8]
        client = storage.Client.create_anonymous_client()
        client.create_bucket(self.bucket)
        client.close()
        admin = AdminClient({"bootstrap.servers": self.servers})
        topics = [NewTopic(self.topic("events"), 3, 1)]
        topics += [NewTopic(self.topic(name), 1, 1) for name in ("alerts", "scores", "dead", "letters", *JOBS)]
        for done in admin.create_topics(topics).values():
            done.result(30)

    def topic(self, name: str) -> str:
        return f"{name}-{self._run}"

    def kafka(self, name: str) -> str:
        return f"kafka://{self.servers}/{self.topic(name)}"

    def send(self, name: str, values: list[bytes], batch: int = 1000) -> None:
        producer = Producer({"bootstrap.servers": self.servers})
        for i, value in enumerate(values):
            producer.produce(self.topic(name), value, b"car-%d" % (i % 50))
            if (i + 1) % batch == 0:
                producer.flush()
        producer.flush()

    def received(self, name: str) -> int:
        """How many records a topic of one partition has; Tansu's watermarks do not say."""
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": "test"})
        consumer.assign([TopicPartition(self.topic(name), 0, 0)])
        found = 0
        while messages := consumer.consume(10_000, 1.0):
            found += len(messages)
        consumer.close()
        return found

    def arguments(self, job: str, models: Path) -> list[str]:
        """The job's own part of its command line; what it reads is put there."""
        (self.folder / "client.properties").write_text(f"client.id=highbeam\nsasl.password={PASSWORD}\n")
        files.upload(self.folder / "client.properties", f"{self.root}/client.properties")
        settings = f"--kafka_config={self.root}/client.properties"
        if job == "score":
            self.send("events", framed(events(N)))
            for path in models.rglob("*"):
                if path.is_file() and path.name[0] != ".":
                    files.upload(path, f"{self.root}/models/{path.relative_to(models).as_posix()}")
            return [
                *("--use_case=car_sensors", f"--model={self.root}/models@champion", settings, "--from=earliest"),
                *(f"--input={self.kafka('events')}", f"--alerts={self.kafka('alerts')}"),
                *(f"--scores={self.kafka('scores')}", f"--dead_letters={self.kafka('dead')}"),
            ]
        if job == "archive":
            self.pub.send("events", framed(events(N)))
            return [
                *(f"--use_case={pseudonymizing(self.folder / 'cars')}", f"--input={self.pub.uri('events')}"),
                *(f"--output={self.root}/archive", f"--dead_letters={self.pub.uri('dead')}"),
            ]
        if job == "replay":
            write_archive(f"{self.root}/events")
            return [
                *("--use_case=car_sensors", f"--input={self.root}/events", f"--output={self.kafka(job)}"),
                *(settings, f"--setup_file={setup_file(self.folder / 'checkout')}"),
            ]
        self.send("letters", letters(LETTERS), batch=1)  # Tansu's end of a topic counts batches
        return [f"--input={self.kafka('letters')}", f"--output={self.kafka(job)}", settings]


def pseudonymizing(folder: Path) -> str:
    """car_sensors with pseudonyms, whose key is a variable of the workers' image."""
    folder.mkdir(exist_ok=True)
    for path in (ROOT / "use_cases" / "car_sensors").iterdir():
        (folder / path.name).write_text(path.read_text())
    sql, settings = folder / "preprocess.sql", folder / "use_case.yaml"
    sql.write_text(sql.read_text().replace("SELECT", "SELECT pseudonymize(vin) AS vin,", 1))
    settings.write_text(settings.read_text().replace("HIGHBEAM_PII_KEY", "TEST_PII_KEY") + "name: car_sensors\n")
    return str(folder)


def setup_file(folder: Path) -> Path:
    """setup.py of a copy of the checkout: Beam builds where it lies, and leaves things there."""
    for name in ("beam_jobs", "demo", "model", "schemas", "use_cases"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder / "setup.py"


def write_archive(root: str) -> None:
    """An archive of N events."""
    rows = events(N)
    raw = raw_block("events", [0] * N, range(N), [1_795_348_800_000 + i for i in range(N)], [b"k"] * N, [None] * N)
    write = WriteFiles(ArchiveSettings(root, "test", archive_schema(CARS, "events"), CARS.event_time, "avro", "none"))
    write.setup()
    write.start_bundle()
    write.process(with_source(rows, raw))
    write.finish_bundle()
    write.teardown()


def letters(n: int) -> list[bytes]:
    """Dead letters, as the jobs write them."""
    raw = raw_block("events", [0] * n, range(n), range(n), [b"k"] * n, [b"broken"] * n)
    errors = RowErrors(pa.array(range(n)).to_numpy(), ("bad_magic_byte",) * n, ("the value is broken",) * n)
    schema = schemas.load("dead_letter")
    return list(AvroEncoder(schema, 3).encode(dead_letter_block(raw, errors, "decode", "score/x")).to_pylist())


# What Beam passes on to the service, as far as a job needs it.
SERVICE = [
    *("--max_num_workers=4", "--machine_type=n2-standard-2", "--number_of_worker_harness_threads=6"),
    *("--service_account_email=worker@my-project.iam.gserviceaccount.com", "--no_use_public_ips"),
    *("--subnetwork=regions/us-central1/subnetworks/inner", "--labels=team=fleet", "--resource_hints=min_ram=4GB"),
    *("--dataflow_kms_key=projects/p/locations/l/keyRings/r/cryptoKeys/k", "--autoscaling_algorithm=THROUGHPUT_BASED"),
    *("--dataflow_service_options=streaming_mode_at_least_once", "--job_name=score-cars"),
]
MORE = {"score": SERVICE, "archive": [f"--sdk_container_image={IMAGE}"], "replay": ["--wait=no"], "redrive": []}


def staging(cloud: Cloud, job: str) -> str:
    """Where a job is staged: where nobody says anything else, and in a folder of their own."""
    return f"{cloud.root}/staging" if job == "score" else f"{cloud.root}/staged/{job}"


def submit(cloud: Cloud, job: str, *words: str, staged: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"beam_jobs.{job}", *PROJECT, f"--temp_location={cloud.root}/temp/{job}"]
    command += [f"--dataflow_endpoint={cloud.service.url}", *words]
    command += [] if job == "score" else [f"--staging_location={staged or staging(cloud, job)}"]
    return finished(command)


def fetch(prefix: str, folder: Path) -> None:
    """What lies under a prefix of the bucket, without its folders."""
    folder.mkdir()
    for path in files.list_files(f"{prefix}/**"):
        files.download(path, folder / path.rpartition("/")[2])


def left_behind(cloud: Cloud, job: str) -> dict[str, int]:
    """What the fake worker has written to where the job writes."""
    if job == "score":
        return {name: cloud.received(name) for name in ("alerts", "scores")}
    if job == "archive":
        return {"files": len(files.list_files(f"{cloud.root}/archive/highbeam_date=*/highbeam_hour=*/*.avro"))}
    return {"back": cloud.received(job)}


def environment(staged: Path, folder: Path) -> Path:
    """The Python of an environment that has the staged sdist, as a worker has; made once."""
    with locked(folder.with_suffix(".lock")):
        if not (folder / "done").exists():
            venv.create(folder, with_pip=False)
            site = next((folder / "lib").glob("python*/site-packages"))
            [sdist] = staged.glob("highbeam-*.tar.gz")
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
            subprocess.run([*command, "--target", str(site), str(sdist)], check=True, timeout=120)
            take_compiled(site)
            (folder / "done").touch()
    return folder / "bin" / "python"


def take_compiled(site: Path) -> None:
    """Compiled loops of the checkout for the same source in ``site``, where they would be compiled again."""
    for warm_up in (codec.warm_up, records.warm_up, partition_keys.warm_up, alerts.warm_up, history.warm_up):
        warm_up()
    for package in ("beam_jobs", "model"):
        for cached in (ROOT / package).rglob("*.nb[ci]"):
            shutil.copy2(cached, site / cached.relative_to(ROOT))


def run_worker(python: Path, folder: Path) -> str:
    """Lets the fake worker run what was staged; its report."""
    messages = folder / "messages.json"
    messages.write_text(json.dumps([base64.b64encode(value).decode() for value in [*framed(events(N)), b"broken"]]))
    environment = {**os.environ, "PYTHONPATH": DEPENDENCIES, "PYTHONWARNINGS": "ignore"}
    environment |= {"HIGHBEAM_CACHE": str(folder / "cache")}
    script = folder / "dataflow_worker.py"  # alone: what lies beside a script can be imported
    script.write_bytes(Path(dataflow_worker.__file__).read_bytes())
    command = [str(python), str(script), str(folder / "staged" / "pipeline.pb"), str(messages)]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]
