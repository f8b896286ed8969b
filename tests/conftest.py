"""Fixtures of every test: brokers and runners are started on first use only."""

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.services.dataflow import dataflow_service
from tests.services.gcs import bucket, gcs_emulator
from tests.services.google import no_credentials, secret_server, tokens
from tests.services.kafka import apache_kafka, embedded, kafka_cluster, own_apache_kafka
from tests.services.prism import prism_binary
from tests.services.pubsub import pubsub, pubsub_server
from tests.services.trained_model import trained_model

__all__ = [
    "apache_kafka",
    "bucket",
    "dataflow_service",
    "embedded",
    "gcs_emulator",
    "kafka_cluster",
    "no_credentials",
    "own_apache_kafka",
    "prism_binary",
    "pubsub",
    "pubsub_server",
    "secret_server",
    "tokens",
    "trained_model",
]

# A thread that outlives its test logs into what was captured of it: not to be told in the next test's output.
logging.raiseExceptions = False

# Tests share two cores with brokers and runners: how long an example takes says nothing.
settings.register_profile("highbeam", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("highbeam")

LONG = ("integration", "packaging", "pipeline", "contract")  # folders whose tests run whole jobs, longest first


@pytest.fixture(autouse=True)
def _own_channels() -> Iterator[None]:
    """The process's channel to Pub/Sub is kept by address: another test's server may get the same port."""
    yield
    if client := sys.modules.get("beam_jobs.io.pubsub.client"):
        client._channel.cache_clear()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first, their files dealt out to the processes of ``-n``: what is left at the end is short.

    pytest-xdist gives each process a run of the list of equal length, and moves tests from its end to idle processes.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    long = [path for folder in LONG for path in files if path.parent == Path(__file__).parent / folder]
    shares = [[test for path in long[i::processes] for test in files.pop(path)] for i in range(processes)]
    short = [test for tests in files.values() for test in tests]
    places = len(items) - (len(items) // processes) * (processes - 1)
    for share in shares:
        room = max(0, places - len(share))
        share += short[:room]
        short = short[room:]
    items[:] = [test for share in shares for test in share] + short
