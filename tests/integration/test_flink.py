"""Windows on Apache Flink: TaskManagers are killed, their job goes on from checkpoints, and ends by itself."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from beam_jobs.metrics import RECORDS_READ
from tests.integration.archives import positions, report, rows
from tests.integration.test_windows_job import archive, features, said_by_duckdb, send, use_case
from tests.integration.topics import Topics, framed
from tests.services.flink import Flink, flink
from tests.services.job import PIPE, Job

__all__ = ["flink", "use_case"]

pytestmark = [pytest.mark.integration, pytest.mark.nightly, pytest.mark.timeout(900)]


def on(flink: Flink) -> list[str]:
    words = ["--runner=FlinkRunner", f"--job_endpoint={flink.endpoint}", f"--flink_master={flink.rest}"]
    return [*words, "--environment_type=LOOPBACK"]


def until_files(job: Job, tmp_path: Path, count: int) -> None:
    while job.poll() is None and len(list((tmp_path / "archive").rglob("*.avro"))) < count:
        time.sleep(0.05)  # the job wants the processor
    assert job.poll() is None


def committed(topics: Topics) -> int:
    """The group's offsets in all."""
    consumer = Consumer({"bootstrap.servers": topics.servers, "group.id": topics.name("group")})
    partitions = [TopicPartition(topics.name("events"), p) for p in range(4)]
    found = sum(each.offset for each in consumer.committed(partitions, 30))
    consumer.close()
    return found


def test_killed_task_managers_are_replaced_and_the_features_are_duckdbs(
    topics: Topics, use_case: str, tmp_path: Path, flink: Flink
) -> None:
    events = send(topics, 40_000)
    job = Job([*archive(topics, use_case, tmp_path), *on(flink)], stderr=PIPE)
    for kill in (1, 2, 3):
        until_files(job, tmp_path, 15 * kill)
        flink.kill_task_manager()
        before = len(rows(tmp_path))
        flink.start_task_manager()
    _, told = job.communicate(600)
    assert job.wait() == 0, told
    assert 0 < before < events.num_rows
    [run] = flink.jobs()
    assert flink.checkpoints(run["jid"])["restored"] >= 3
    flink.wait_for_end(run["jid"])
    counted = report(tmp_path)
    assert counted["unaccounted"] == 0
    assert counted["reread"] > 0
    found = rows(tmp_path)
    assert max(positions(found).values()) == 1
    assert features(found) == said_by_duckdb(events)
    assert committed(topics) == events.num_rows


def live(command: Sequence[str]) -> list[str]:
    at = list(command).index("--until")
    return [*command[:at], *command[at + 2 :]]


def test_a_live_job_is_drained(topics: Topics, use_case: str, tmp_path: Path, flink: Flink) -> None:
    events = send(topics, 4000)
    job = Job([*live(archive(topics, use_case, tmp_path)), *on(flink)], stderr=PIPE)
    until_files(job, tmp_path, 3)
    job.send_signal(signal.SIGINT)
    _, told = job.communicate(300)
    assert job.wait() == 0, told
    counted = report(tmp_path)
    assert counted["unaccounted"] == 0
    assert 0 < counted[RECORDS_READ.report] == committed(topics) == len(rows(tmp_path)) <= events.num_rows


def test_what_only_the_user_can_mend_ends_the_job(topics: Topics, use_case: str, tmp_path: Path, flink: Flink) -> None:
    topics.send("events", framed(send(topics, 400)), [b"one key"] * 400)  # the same cars, in one partition
    job = Job([*archive(topics, use_case, tmp_path), *on(flink)], stderr=PIPE)
    _, told = job.communicate(300)
    assert job.wait() == 2, told
    assert "hold records of the same car_id" in told.splitlines()[-1]
