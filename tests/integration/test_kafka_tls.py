"""SASL_SSL with SCRAM against Apache Kafka: what a client.properties file says is what happens."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pytest

from beam_jobs.block import Block
from beam_jobs.errors import UserError
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.client import FetchPath, KafkaTransport, check_topic, ensure_topic
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.java import java_settings
from beam_jobs.io.kafka.transforms import KafkaInput, ReadFromKafka, WriteToKafka
from beam_jobs.io.position import OffsetSpec
from beam_jobs.terminal.cli import find_user_error
from demo.broker import ApacheKafka, java_missing, kafka_jars
from tests.certificates import certificate

pytestmark = pytest.mark.integration

USER, PASSWORD = "highbeam", "correct horse"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[KafkaAddress, Path]]:
    """A topic behind SASL_SSL, and the CA file that clients need."""
    if reason := java_missing():
        pytest.skip(reason)
    keystore, ca = certificate(tmp_path_factory.mktemp("tls"))
    with ApacheKafka(sasl_users={USER: PASSWORD}, tls_keystore=keystore) as broker:
        ensure_topic(KafkaAddress(broker.bootstrap_servers, "guarded"), KafkaConfig())
        yield KafkaAddress(broker.sasl_servers, "guarded"), ca


def properties(folder: Path, ca: Path | None, password: str = "env:TEST_KAFKA_PASSWORD") -> KafkaConfig:
    lines = [
        "security.protocol=SASL_SSL",
        "sasl.mechanism=SCRAM-SHA-512",
        f"sasl.username={USER}",
        f"sasl.password={password}",
        *([f"ssl.ca.location={ca}"] if ca else []),
    ]
    (folder / "client.properties").write_text("\n".join(lines) + "\n")
    return KafkaConfig.from_file(folder / "client.properties")


@pytest.mark.parametrize("fetch", ["wire", "client"])
def test_records_go_in_and_out(
    guarded: tuple[KafkaAddress, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fetch: str
) -> None:
    monkeypatch.setenv("TEST_KAFKA_PASSWORD", PASSWORD)
    address, ca = guarded
    config = properties(tmp_path, ca)
    assert PASSWORD not in repr(config)
    records = pa.record_batch({"key": pa.array([b"k"] * 10), "value": pa.array([b"v%d" % i for i in range(10)])})
    with beam.Pipeline("FnApiRunner") as p:
        _ = p | beam.Create([records]) | WriteToKafka(address, config)
    out = tmp_path / "out"
    with beam.Pipeline("FnApiRunner") as p:
        _ = (
            p
            | ReadFromKafka(KafkaInput(address, config, until=OffsetSpec.parse("latest"), fetch=fetch))  # type: ignore[arg-type]
            | beam.Map(append_values, str(out))
        )
    assert out.read_text().split()[-10:] == [f"v{i}" for i in range(10)]


def append_values(block: Block, path: str) -> None:
    with open(path, "a") as file:
        file.writelines(value.decode() + "\n" for value in block.column("value").to_pylist())


def test_a_wrong_password_is_one_clear_line(guarded: tuple[KafkaAddress, Path], tmp_path: Path) -> None:
    address, ca = guarded
    (tmp_path / "password").write_text("wrong")
    with pytest.raises(UserError, match="authentication failed") as raised:
        check_topic(address, properties(tmp_path, ca, f"file:{tmp_path / 'password'}"))
    assert "\n" not in str(raised.value)
    assert "wrong" not in str(raised.value).replace("password", "")


@pytest.mark.parametrize("fetch", ["wire", "client"])
def test_a_password_that_is_wrong_on_the_worker_only(
    guarded: tuple[KafkaAddress, Path], tmp_path: Path, fetch: FetchPath
) -> None:
    address, ca = guarded
    (tmp_path / "password").write_text("wrong")
    config = properties(tmp_path, ca, f"file:{tmp_path / 'password'}")
    with pytest.raises(Exception, match="authentication failed") as raised, beam.Pipeline("FnApiRunner") as p:
        _ = p | ReadFromKafka(KafkaInput(address, config, until=OffsetSpec.parse("latest"), fetch=fetch))
    found = find_user_error(raised.value)
    assert found is not None
    assert "\n" not in str(found)
    fetcher = KafkaTransport(address, config, fetch=fetch).fetcher()  # a live job says so, and waits
    try:
        fetcher.assign({0: 0})
        deadline = time.monotonic() + 20
        while "uthentication failed" not in fetcher.fetch(10, 0.1, 0.0).unreadable.get(0, ""):
            assert time.monotonic() < deadline
    finally:
        fetcher.close()


def test_the_java_client_takes_the_settings_of_kafka_io_java(
    guarded: tuple[KafkaAddress, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KAFKA_PASSWORD", PASSWORD)
    address, ca = guarded
    config = properties(tmp_path, ca)
    records = pa.record_batch({"key": pa.array([b"k"]), "value": pa.array([b"for java"])})
    with beam.Pipeline("FnApiRunner") as p:
        _ = p | beam.Create([records]) | WriteToKafka(address, config)
    settings = java_settings(config)
    assert PASSWORD not in str(settings)
    with KafkaTransport(address, config).control() as control:
        start, end = control.bounds([0], 10.0)[0]
    (tmp_path / "java.properties").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    read = subprocess.run(
        [
            *("java", "-cp", f"{kafka_jars()}/*", "org.apache.kafka.tools.consumer.ConsoleConsumer"),
            *("--bootstrap-server", address.bootstrap_servers, "--topic", address.topic, "--from-beginning"),
            *("--consumer.config", str(tmp_path / "java.properties"), "--timeout-ms", "60000"),
            *("--max-messages", str(end - start)),
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "for java" in read.stdout.splitlines(), read.stderr[-2000:]


def test_an_unknown_authority_is_one_clear_line(
    guarded: tuple[KafkaAddress, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KAFKA_PASSWORD", PASSWORD)
    address, _ = guarded
    with pytest.raises(UserError, match=r"(?i)tls|ssl|certificate") as raised:
        check_topic(address, properties(tmp_path, None))
    assert "\n" not in str(raised.value)
