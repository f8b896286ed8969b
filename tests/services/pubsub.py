"""Google's fake of the Pub/Sub service, built with Go, one for each process of the tests."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.pubsub_v1 import SubscriberClient
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from beam_jobs.io.pubsub.client import channel
from beam_jobs.sandbox import guard
from demo.broker import cache_dir
from tests.services.go_build import built

SOURCE = Path(__file__).parent / "pubsub_server"
PROJECT = "lab-project"
EMULATOR = "PUBSUB_EMULATOR_HOST"


def build() -> Path:
    """The server's binary, in the cache; skips the test where it can't be built."""
    binary = cache_dir() / "pubsub-server" / "server"
    newest = max(path.stat().st_mtime for path in SOURCE.iterdir())
    command = ["build", "-buildvcs=false", "-o", str(binary), "."]
    return built("Google's fake of Pub/Sub", binary, command, newest, SOURCE)


class Server:
    """A running fake; ``plain`` is the address of pstest's own StreamingPull."""

    def __init__(self) -> None:
        # A group of its own: Ctrl-C is for whoever started it.
        self._process = subprocess.Popen([str(build())], stdout=subprocess.PIPE, text=True, start_new_session=True)
        guard.watch(self._process.pid)
        assert self._process.stdout is not None
        told = json.loads(self._process.stdout.readline())
        self.address, self.plain = told["address"], told["plain"]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        guard.forget(self._process.pid)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture(scope="session")
def pubsub_server() -> Iterator[Server]:
    """One fake a test process; topics and subscriptions are the tests' own, by unique names."""
    server = Server()
    yield server
    server.close()


@pytest.fixture
def pubsub(pubsub_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Points Google's client of this process, and of those it starts, at the fake; gives the project.

    The test's subscriptions are deleted: the fake looks through all their messages a hundred times a second.
    """
    monkeypatch.setenv(EMULATOR, pubsub_server.address)
    yield PROJECT
    monkeypatch.setenv(EMULATOR, pubsub_server.address)
    client = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel()))
    for subscription in client.list_subscriptions(project=f"projects/{PROJECT}"):
        client.delete_subscription(subscription=subscription.name)
