"""Secrets of whole jobs: read on the worker, in nothing that is sent there, and a wrong one is one clear line."""

from __future__ import annotations

import base64
import binascii
import bz2
import json
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest

import use_cases
from beam_jobs import archive, redrive, score
from beam_jobs.preflight.archive import archive_job
from beam_jobs.preflight.redrive import redrive_job
from beam_jobs.preflight.score import score_job
from beam_jobs.terminal import cli, commands, options
from schemas.registry.server import RegistryServer
from tests.integration.topics import Topics, events, framed
from tests.services.google import SecretManager
from tests.services.kafka import SASL_PASSWORD, SASL_USER, SharedBroker

pytestmark = pytest.mark.integration

KAFKA, PII, REGISTRY = (f"projects/my-project/secrets/{name}/versions/1" for name in ("kafka", "pii", "registry"))
PII_KEY, REGISTRY_PASSWORD = "planted-key-of-the-pseudonyms", "planted-password-of-the-registry"

JOBS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "score": (score, score_job),
    "archive": (archive, archive_job),
    "redrive": (redrive, redrive_job),
}


@pytest.fixture
def secure(topics: Topics, apache_kafka: SharedBroker) -> Callable[[str], str]:
    """Addresses of the test's topics at the listener that asks for a password."""
    return lambda short: f"kafka://{apache_kafka.sasl_servers}/{topics.name(short)}"


def properties(folder: Path, password: str, more: str = "") -> str:
    path = folder / "client.properties"
    login = f"security.protocol=SASL_PLAINTEXT\nsasl.mechanisms=PLAIN\nsasl.username={SASL_USER}\n"
    path.write_text(f"{login}sasl.password={password}\n{more}")
    return str(path)


def pseudonymizing(folder: Path) -> str:
    """car_sensors with pseudonyms, whose key is in Secret Manager."""
    shutil.copytree(Path(use_cases.__file__).parent / "car_sensors", folder)
    sql, settings = folder / "preprocess.sql", folder / "use_case.yaml"
    sql.write_text(sql.read_text().replace("SELECT", "SELECT pseudonymize(vin) AS vin,", 1))
    settings.write_text(settings.read_text().replace("env:HIGHBEAM_PII_KEY", f"secret://{PII}"))
    return str(folder)


def arguments(job: str, secure: Callable[[str], str], folder: Path, model: Path | None, *more: str) -> list[str]:
    own = {
        "score": ["--use_case=car_sensors", f"--model={model}", f"--alerts={secure('alerts')}"],
        "archive": [f"--output={folder / 'archive'}"],
        "redrive": [f"--output={secure('alerts')}"],
    }[job]
    dead = [] if job == "redrive" else [f"--dead_letters={secure('dead')}"]
    return [f"--input={secure('events')}", "--until=latest", *own, *dead, *more]


def contents(data: bytes) -> Iterator[bytes]:
    """The bytes, and what Beam's pickles in them hold."""
    yield data
    for found in re.findall(rb"[A-Za-z0-9+/]{40,}={0,2}", data):
        for unpack in (bz2.decompress, zlib.decompress):
            try:
                inside = unpack(base64.b64decode(found, validate=True))
            except (binascii.Error, OSError, ValueError, zlib.error):
                continue
            yield from contents(inside)


def pipeline_of(wire: Callable[[beam.Pipeline], Any]) -> bytes:
    pipeline = beam.Pipeline("FnApiRunner")
    wire(pipeline)
    return pipeline.to_runner_api().SerializeToString()


def test_the_search_finds_what_is_there() -> None:
    secret = "planted-in-a-function"
    data = pipeline_of(lambda p: p | beam.Create([1]) | beam.Map(lambda x, s: (x, s), secret))
    assert secret.encode() not in data
    assert any(secret.encode() in part for part in contents(data))


@pytest.mark.parametrize("job", list(JOBS))
def test_nothing_secret_travels(
    job: str, secure: Callable[[str], str], tmp_path: Path, trained_model: Path, secret_server: SecretManager
) -> None:
    secret_server.secrets |= {
        KAFKA: SASL_PASSWORD.encode(),
        PII: PII_KEY.encode(),
        REGISTRY: REGISTRY_PASSWORD.encode(),
    }
    with RegistryServer() as registry:
        text = f"schema.registry.url={registry.url}\nschema.registry.basic.auth.user.info=me:secret://{REGISTRY}\n"
        for password in (f"secret://{KAFKA}", SASL_PASSWORD):  # a literal one stays in its file
            given = arguments(
                job, secure, tmp_path, trained_model, f"--kafka_config={properties(tmp_path, password, text)}"
            )
            if job == "archive":
                shutil.rmtree(tmp_path / "cars", ignore_errors=True)
                given.append(f"--use_case={pseudonymizing(tmp_path / 'cars')}")
            module, check = JOBS[job]
            parsed = options.parse(commands.JOBS[job].parser(), given)
            made = check(parsed)
            parts = [
                json.dumps(parsed.get_all_options(), default=str).encode(),
                repr(made).encode(),
                *contents(pipeline_of(partial(module.build, job=made))),
            ]
            assert len(parts) > 10
            for secret in (SASL_PASSWORD, PII_KEY, REGISTRY_PASSWORD):
                assert not any(secret.encode() in part for part in parts)
                encoded = base64.b64encode(secret.encode()).rstrip(b"=")[:-1]
                assert not any(encoded in part for part in parts)
    asked = set(secret_server.asked)
    assert asked == ({KAFKA, REGISTRY, PII} if job == "archive" else {KAFKA, REGISTRY})


def test_a_job_runs_on_secrets_of_secret_manager(
    topics: Topics, secure: Callable[[str], str], tmp_path: Path, secret_server: SecretManager
) -> None:
    secret_server.secrets |= {KAFKA: SASL_PASSWORD.encode(), PII: PII_KEY.encode()}
    topics.send("events", [*framed(events(1000)), b"bad"])
    more = (f"--kafka_config={properties(tmp_path, f'secret://{KAFKA}')}", f"--report={tmp_path / 'report.json'}")
    given = arguments("archive", secure, tmp_path, None, *more, f"--use_case={pseudonymizing(tmp_path / 'cars')}")
    assert archive.main(given) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["read"], report["dead_letters"]) == (1001, 1)
    assert len(topics.read("dead")) == 1
    assert sorted(secret_server.asked) == [KAFKA, PII]  # once each, for all clients of the process


@pytest.mark.parametrize("fetch", ["wire", "client"])
@pytest.mark.parametrize("job", list(JOBS))
def test_a_wrong_password_is_one_clear_line(
    job: str,
    fetch: str,
    secure: Callable[[str], str],
    tmp_path: Path,
    trained_model: Path,
    secret_server: SecretManager,
    capsys: pytest.CaptureFixture[str],
) -> None:
    secret_server.secrets[KAFKA] = b"hunter2"
    more = [f"--kafka_config={properties(tmp_path, f'secret://{KAFKA}')}", f"--fetch={fetch}"]
    more += ["--use_case=car_sensors"] if job == "archive" else []
    with pytest.raises(SystemExit) as end:
        cli.run(JOBS[job][0].main, arguments(job, secure, tmp_path, trained_model, *more))
    printed = capsys.readouterr().err
    assert end.value.code == 2
    [line] = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert "authentication failed" in line
    assert "sasl.password" in line
    assert "hunter2" not in printed
    assert "Traceback" not in printed
