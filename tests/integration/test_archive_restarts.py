"""An archive job started a second and a third time while the first one runs: rolling restarts, and one that was paused.

Kafka to a local folder, Pub/Sub to a bucket. What is counted are the rows in the files, by position and by content.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import pytest

from beam_jobs.storage import files
from tests.integration.pubsub_topics import PubSubTopics
from tests.integration.topics import events, framed
from tests.services.job import DEVNULL, Job

pytestmark = pytest.mark.integration

N = 1500  # events of a batch
TIMEOUT_S = 200


class World:
    """A stream, an archive of it, and the jobs that write it."""

    def __init__(self, address: str, dead: str, send: Callable[[list[Any]], None], root: str, folder: Path) -> None:
        self._command = [
            *(sys.executable, "-m", "beam_jobs.archive", "--use_case", "car_sensors", "--input", address),
            *("--output", root, "--dead_letters", dead, "--raw", "--max_file_age", "0.7", "--block_rows", "200"),
            *("--from", "earliest"),
        ]
        self._send, self._root, self._folder = send, root, folder
        self.sent: list[dict[str, Any]] = []
        self._jobs: list[Job] = []

    def start(self, name: str) -> Job:
        """The same command once more; back when its checks are done."""
        with (self._folder / name).open("w") as log:
            job = Job(self._command, stdout=DEVNULL, stderr=log)
        self._jobs.append(job)
        self.until(lambda: "writing events" in self.said(name))
        return job

    def said(self, name: str) -> str:
        return (self._folder / name).read_text()

    def until(self, so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not so():
            assert time.monotonic() < deadline, [(p.name, p.read_text()[-600:]) for p in self._folder.iterdir()]
            time.sleep(0.1)

    def send(self, seed: int) -> None:
        block = events(N, seed=seed)
        self.sent += block.to_pylist()
        self._send(list(framed(block)))

    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for path in files.list_files(f"{self._root}/highbeam_date=*/highbeam_hour=*/*.avro"):
            found += fastavro.reader(BytesIO(files.read_bytes(path)))  # type: ignore[arg-type]
        return found

    def until_all_is_there(self) -> None:
        self.until(lambda: len(self.rows()) >= len(self.sent))

    def close(self) -> None:
        for job in self._jobs:
            job.kill()
            job.wait()


@pytest.fixture(params=[pytest.param("kafka", marks=pytest.mark.nightly), "pubsub"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    logs = tmp_path / "logs"
    logs.mkdir()
    if request.param == "kafka":
        topics = request.getfixturevalue("topics")
        made = World(
            *(topics.uri("events"), topics.uri("dead"), lambda values: topics.send("events", values)),
            *(str(tmp_path / "archive"), logs),
        )
    else:
        pub = PubSubTopics(request.getfixturevalue("pubsub"))
        root = f"{request.getfixturevalue('bucket')}/archive"
        made = World(pub.uri("events"), pub.uri("dead"), lambda values: pub.send("events", values), root, logs)
    yield made
    made.close()


def test_rolling_restarts_and_one_that_was_paused(world: World) -> None:
    chance = random.Random(11)
    first = world.start("first")
    world.send(1)
    world.until(lambda: bool(world.rows()))
    second, third = world.start("second"), world.start("third")
    world.send(2)
    time.sleep(chance.random())
    first.send_signal(signal.SIGTERM)
    assert first.wait(TIMEOUT_S) == 0, world.said("first")
    world.until_all_is_there()
    # One of the two goes on, the other still waits. The one that goes on is paused, as a laptop that sleeps.
    world.until(lambda: any("the other job has ended" in world.said(name) for name in ("second", "third")))
    (now, later), (second, third) = (
        (("second", "third"), (second, third))
        if "the other job has ended" in world.said("second")
        else (("third", "second"), (third, second))
    )
    assert "waiting until it ends" in world.said(later)
    os.kill(second.pid, signal.SIGSTOP)
    world.send(3)
    world.until(lambda: "taking it over" in world.said(later))
    os.kill(second.pid, signal.SIGCONT)
    assert second.wait(TIMEOUT_S) == 2
    assert "another job has taken this archive over" in world.said(now).splitlines()[-1]
    world.until_all_is_there()
    waiting = world.start("fourth")
    world.until(lambda: "waiting until it ends" in world.said("fourth"))
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(TIMEOUT_S) == 0
    assert "stopped before it had begun" in world.said("fourth")
    world.send(4)
    time.sleep(chance.random())
    third.kill()
    last = world.start("last")
    world.until_all_is_there()
    last.send_signal(signal.SIGTERM)
    assert last.wait(TIMEOUT_S) == 0, world.said("last")
    rows = world.rows()
    assert set(Counter((row["source_partition"], row["source_offset"]) for row in rows).values()) == {1}
    named = ("car_id", "event_time", "speed")
    assert Counter(tuple(row[n] for n in named) for row in rows) == Counter(
        tuple(event[n] for n in named) for event in world.sent
    )
