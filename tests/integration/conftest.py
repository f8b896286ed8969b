"""Topics and commands of the tests of whole jobs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.topics import Topics
from tests.services.kafka import SharedBroker


@pytest.fixture
def topics(apache_kafka: SharedBroker) -> Topics:
    return Topics(apache_kafka)


@pytest.fixture
def archive(topics: Topics, tmp_path: Path) -> Callable[..., list[str]]:
    """The command that archives the topic "events" under ``tmp_path``; bounded unless ``until`` is None."""

    def command(*more: str, until: str | None = "latest") -> list[str]:
        return [
            *(sys.executable, "-m", "beam_jobs.archive", "--use_case", "car_sensors"),
            *("--input", topics.uri("events"), "--from", "earliest", *(["--until", until] if until else [])),
            *("--output", (tmp_path / "archive").as_uri(), "--dead_letters", topics.uri("dead")),
            *("--report", str(tmp_path / "report.json"), *more),
        ]

    return command
