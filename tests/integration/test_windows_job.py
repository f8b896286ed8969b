"""Windows in whole jobs on Apache Kafka: killed, resumed, by other processes, each row has the features of DuckDB."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

import use_cases
from beam_jobs.sandbox.fleet import Fleet
from demo.history import write_history
from tests.integration.archives import SMALL, fail_bundle, kill_at_random, kill_child, positions, report, rows, wait
from tests.integration.topics import Topics, framed, run
from tests.services.job import DEVNULL, Job, finished

pytestmark = pytest.mark.integration

T0 = 1_700_000_000_000
CARS, STEP_MS = 40, 20  # an event of some car each 20 ms
FRAME = "OVER (PARTITION BY car_id ORDER BY event_time RANGE BETWEEN INTERVAL '{}' SECOND PRECEDING AND CURRENT ROW)"
FEATURES = {
    "speeds": f"count(speed) {FRAME.format(30)}",
    "speed_sum": f"sum(speed) {FRAME.format(30)}",
    "speed_mean": f"avg(speed) {FRAME.format(120)}",
    "fastest": f"max(speed) {FRAME.format(10)}",
}


def with_features(folder: Path, features: Mapping[str, str]) -> str:
    """car_sensors in ``folder``, with more of them: name to expression."""
    shutil.copytree(Path(use_cases.__file__).parent / "car_sensors", folder)
    sql = folder / "preprocess.sql"
    more = ",".join(f"\n  {expression} AS {name}" for name, expression in features.items())
    sql.write_text(sql.read_text().replace("\nFROM events", f",{more}\nFROM events"))
    return str(folder)


@pytest.fixture
def use_case(tmp_path: Path) -> str:
    """car_sensors with windows."""
    return with_features(tmp_path / "car_memory", FEATURES)


def send(topics: Topics, n: int, begin: int = 0, end: int | None = None) -> pa.RecordBatch:
    """Events whose records have their times, of ``n`` those from ``begin`` to ``end``; returns all."""
    block = Fleet(CARS, seed=5, span=n / CARS).step(-(-n // CARS)).slice(0, n)
    i = block.schema.get_field_index("event_time")
    times = T0 + np.arange(n) * STEP_MS
    kept = pa.array(times).cast(block.schema.field(i).type)
    block = block.set_column(i, block.schema.field(i), kept)
    producer = Producer({"bootstrap.servers": topics.servers, "linger.ms": 50})
    name = topics.name("events")
    records = list(zip(block.column("car_id").to_pylist(), framed(block), times.tolist(), strict=True))
    for key, value, time_ms in records[begin:end]:
        producer.produce(name, value, key, timestamp=time_ms)
        producer.poll(0)
    assert producer.flush(30) == 0
    return block


def said_by_duckdb(
    events: pa.RecordBatch, features: Mapping[str, str] = FEATURES
) -> dict[tuple[str, int], tuple[Any, ...]]:
    """(car, time in ms) -> features of the row, over the whole data set."""
    table = pa.Table.from_batches([events])
    columns = ", ".join(f"CAST({expression} AS FLOAT) AS {name}" for name, expression in features.items())
    with duckdb.connect() as connection:
        connection.register("events", table)
        where = "WHERE battery_voltage > 0"
        found = connection.execute(f"SELECT car_id, epoch_ms(event_time), {columns} FROM events {where}").fetchall()
    return {(row[0], row[1]): tuple(row[2:]) for row in found}


def features(
    found: Sequence[dict[str, Any]], names: Iterable[str] = tuple(FEATURES)
) -> dict[tuple[str, int], tuple[Any, ...]]:
    """The same of an archive's rows."""
    return {
        (row["car_id"], round(row["event_time"].timestamp() * 1000)): tuple(row[name] for name in names)
        for row in found
    }


def archive(topics: Topics, use_case: str, tmp_path: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "beam_jobs.archive", "--use_case", use_case, "--input", topics.uri("events")),
        *("--from", "earliest", "--until", "latest", "--group_id", topics.name("group")),
        *("--dead_letters", topics.uri("dead"), "--output", str(tmp_path / "archive")),
        *("--report", str(tmp_path / "report.json"), *SMALL, *more),
    ]


def test_killed_and_resumed_by_more_processes_the_features_are_duckdbs(
    topics: Topics, use_case: str, tmp_path: Path
) -> None:
    events = send(topics, 30_000)
    one = archive(topics, use_case, tmp_path)
    assert kill_at_random(one, tmp_path, 1) + kill_at_random([*one, "--direct_num_workers=2"], tmp_path, 1)
    assert finishes_as_duckdb_says(one, events, tmp_path) > 0


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_20_kills_and_20_failed_bundles_leave_duckdbs_features(topics: Topics, use_case: str, tmp_path: Path) -> None:
    events = send(topics, 400_000)
    one = archive(topics, use_case, tmp_path)
    two, away = [*one, "--direct_num_workers=2"], partial(fail_bundle, tmp_path / "archive")
    assert kill_at_random(one, tmp_path, 7) == 7
    assert kill_at_random(two, tmp_path, 10, how=away) == 10
    assert kill_at_random(two, tmp_path, 7, how=kill_child) == 7
    assert kill_at_random(one, tmp_path, 10, how=away) == 10
    assert kill_at_random(two, tmp_path, 6) == 6
    assert finishes_as_duckdb_says(one, events, tmp_path) > 0


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_with_snapshots_too_the_features_are_duckdbs(topics: Topics, use_case: str, tmp_path: Path) -> None:
    events, folder = send(topics, 60_000), tmp_path / "snapshots"
    one = archive(topics, use_case, tmp_path, f"--window_snapshots={folder}", "--window_snapshot_seconds=0.01")

    def kill_with_snapshot(job: Job) -> None:
        wait(lambda: bool(list(folder.glob("*/*/*/*.npz"))), job)  # they are written beside the rest
        job.kill()

    assert kill_at_random(one, tmp_path, 3, how=kill_with_snapshot) == 3
    assert kill_at_random([*one, "--direct_num_workers=2"], tmp_path, 3) == 3
    finishes_as_duckdb_says(one, events, tmp_path)


def finishes_as_duckdb_says(command: list[str], events: pa.RecordBatch, tmp_path: Path) -> int:
    """What is left to do is done; then each row is there once, with its features. Returns the records read again."""
    run(command)
    counted = report(tmp_path)
    assert counted["unaccounted"] == 0
    found = rows(tmp_path)
    assert max(positions(found).values()) == 1
    assert features(found) == said_by_duckdb(events)
    return int(counted["reread"])


@pytest.mark.parametrize(
    ("more", "status", "said"), [([], 2, "error: "), (["--short_history", "warn"], 0, "warning: ")]
)
def test_a_topic_that_loses_records_is_told_of(
    topics: Topics, use_case: str, tmp_path: Path, more: list[str], status: int, said: str
) -> None:
    name = topics.name(f"compacted-{status}")
    settings = {"cleanup.policy": "compact", "retention.ms": "60000"}
    admin = AdminClient({"bootstrap.servers": topics.servers})
    admin.create_topics([NewTopic(name, 2, 1, config=settings)])[name].result(30)
    done = finished([word.replace(topics.name("events"), name) for word in archive(topics, use_case, tmp_path, *more)])
    assert done.returncode == status, done.stderr
    assert f"{said}kafka://{topics.servers}/{name}: its cleanup.policy is compact, which leaves" in done.stderr
    assert status or "its retention.ms is 60000 (1 min), and windows are rebuilt from 1 h 17 min" in done.stderr


def test_on_prism(topics: Topics, use_case: str, tmp_path: Path, prism_binary: Path) -> None:
    events = send(topics, 4000)
    run(archive(topics, use_case, tmp_path, "--runner", "PrismRunner", "--prism_location", str(prism_binary)))
    assert features(rows(tmp_path)) == said_by_duckdb(events)


@pytest.mark.nightly
def test_scores_are_the_same_after_a_kill(topics: Topics, use_case: str, tmp_path: Path) -> None:
    write_history(tmp_path / "history.parquet", 4000, seed=3)
    train = [sys.executable, "-m", "model.train", "--use_case", use_case, "--epochs", "1", "--no-baseline"]
    run([*train, "--data", str(tmp_path / "history.parquet"), "--registry", str(tmp_path / "models")])
    events = send(topics, 20_000)
    command = [
        *(sys.executable, "-m", "beam_jobs.score", "--use_case", use_case, "--model", str(tmp_path / "models")),
        *("--input", topics.uri("events"), "--from", "earliest", "--until", "latest", "--block_rows", "500"),
        *("--alerts", topics.uri("alerts"), "--scores", topics.uri("scores"), "--dead_letters", topics.uri("dead")),
    ]
    job = Job([*command, "--group_id", topics.name("group")], stdout=DEVNULL, stderr=DEVNULL)
    while job.poll() is None and len(topics.read("scores")) < 2000:
        pass
    job.kill()
    job.wait()
    run([*command, "--group_id", topics.name("group")])
    run(command)  # nobody disturbs this one
    by_place: dict[tuple[int, int], set[float]] = {}
    for score in topics.read("scores", "score"):
        by_place.setdefault((score["source_partition"], score["source_offset"]), set()).add(score["score"])
    assert len(by_place) == len(said_by_duckdb(events))
    assert {len(scores) for scores in by_place.values()} == {1}
