"""Windows by two keys in whole jobs on Apache Kafka: killed in either stage, each row has the features of DuckDB."""

from __future__ import annotations

import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from beam_jobs.block import millis_of
from demo.broker import ApacheKafka
from model.detector import load
from model.training.plan import Settings
from model.training.train import train
from tests.integration.archives import live, positions, report, rows, stop, wait
from tests.integration.test_score_job import RUNNERS, where
from tests.integration.test_windows_job import archive, features, said_by_duckdb, send, with_features
from tests.integration.topics import Topics, framed, run
from tests.services.job import DEVNULL, PIPE, Job, finished

pytestmark = pytest.mark.integration

RANGE = "ORDER BY event_time RANGE BETWEEN INTERVAL '{}' SECOND PRECEDING AND CURRENT ROW)"
CAR, TIRE = (f"OVER (PARTITION BY {key} {RANGE}" for key in ("car_id", "tire_pressure_1_1"))
FEATURES = {
    "speeds": f"count(speed) {CAR.format(30)}",
    "speed_mean": f"avg(speed) {CAR.format(120)}",
    "alike": f"count(*) {TIRE.format(20)}",
    "cars_alike": f"count(DISTINCT car_id) {TIRE.format(20)}",
    "speed_alike": f"avg(speed) {TIRE.format(60)}",
    "against_alike": f"speed - max(speed) {TIRE.format(5)} + sum(speed) {CAR.format(10)}",
}
AGO = TIRE.format(60).replace("CURRENT ROW", "INTERVAL '10' SECOND PRECEDING")
WITH_LABELS = {
    **FEATURES,
    "judged_alike": f"count(failure_occurred) {AGO}",
    "failed_alike": f"count(CASE WHEN failure_occurred = 'true' AND speed > 10 THEN 1 END) {AGO}",
}
DELAY_MS = 10_000


@pytest.fixture
def use_case(tmp_path: Path) -> str:
    """car_sensors with windows by the car, and by the pressure of a tire."""
    return with_features(tmp_path / "car_alike", FEATURES)


@pytest.fixture
def labelled(tmp_path: Path) -> str:
    """The same with windows of labels, that take up to 10 seconds."""
    folder = with_features(tmp_path / "car_labels", WITH_LABELS)
    with (Path(folder) / "use_case.yaml").open("a") as settings:
        settings.write(f"\nlabel_delay: {DELAY_MS} ms\n")
    return folder


def send_labels(topics: Topics, events: pa.RecordBatch) -> pa.RecordBatch:
    """Labels of most events, some time after each, on their topic; the events as they are with these."""
    chance, n = np.random.default_rng(5), events.num_rows
    at, known = events.schema.get_field_index("failure_occurred"), chance.random(n) < 0.9
    labels = pa.array(np.where(chance.random(n) < 0.3, "true", "false"), mask=~known)
    events = events.set_column(at, events.schema.field(at), labels)
    told = millis_of(events.column("event_time")) + chance.integers(0, DELAY_MS + 1, n)
    order = np.argsort(told, kind="stable")
    order = order[known[order]]
    name = topics.name("labels")
    admin = AdminClient({"bootstrap.servers": topics.servers})
    admin.create_topics([NewTopic(name, 2, 1)])[name].result(30)
    producer = Producer({"bootstrap.servers": topics.servers, "linger.ms": 50})
    for value, time_ms in zip(framed(events.take(pa.array(order))), told[order].tolist(), strict=True):
        producer.produce(name, value, timestamp=time_ms)
        producer.poll(0)
    assert producer.flush(30) == 0
    return events


def job(topics: Topics, use_case: str, tmp_path: Path, *more: str) -> list[str]:
    return archive(topics, use_case, tmp_path, "--repartition_topic", topics.uri("second"), *more)


class Seen:
    """How far a topic has come."""

    def __init__(self, topics: Topics, short: str) -> None:
        self._name = topics.name(short)
        self._consumer = Consumer({"bootstrap.servers": topics.servers, "group.id": "test"})

    def __call__(self) -> int:
        found = self._consumer.list_topics(timeout=10).topics.get(self._name)
        where = [TopicPartition(self._name, p) for p in (found.partitions if found else ())]
        try:
            return sum(self._consumer.get_watermark_offsets(each, 10)[1] for each in where)
        except KafkaException:  # just made: a partition has no leader yet
            return 0


def killed(command: list[str], count: Callable[[], int], times: int, step: int) -> int:
    """Starts the job and kills it with -9 as soon as ``count`` has grown by about ``step``; how often it still ran."""
    chance, done = random.Random(4), 0
    for _ in range(times):
        started, before = Job(command, stdout=DEVNULL, stderr=PIPE), count()
        deadline = time.monotonic() + 60
        while started.poll() is None and count() < before + chance.randint(1, step) and time.monotonic() < deadline:
            time.sleep(0.05)
        done += started.poll() is None
        started.send_signal(signal.SIGKILL)
        started.communicate()
    return done


@pytest.mark.parametrize(("count", "kills"), [(30_000, 1), pytest.param(150_000, 6, marks=pytest.mark.nightly)])
def test_killed_in_both_stages_the_features_are_duckdbs(
    topics: Topics, labelled: str, tmp_path: Path, count: int, kills: int
) -> None:
    events = send_labels(topics, send(topics, count))
    rows_there, two, labels = Seen(topics, "second"), "--direct_num_workers=2", ("--label_topic", topics.uri("labels"))

    def files() -> int:
        return len(list((tmp_path / "archive").rglob("*.avro")))

    in_first = killed(job(topics, labelled, tmp_path, two, *labels), rows_there, kills, count // 2)
    in_first += killed(job(topics, labelled, tmp_path, *labels), rows_there, kills // 2, count // 2)
    in_second = killed(job(topics, labelled, tmp_path, *labels), files, kills, 5)
    in_second += killed(job(topics, labelled, tmp_path, two, *labels), files, kills // 2, 5)
    run(job(topics, labelled, tmp_path, two, *labels))
    counted = report(tmp_path)
    assert in_first
    assert in_second
    assert counted["repartition_marks"] > 0
    assert counted["unaccounted"] == 0
    found = rows(tmp_path)
    assert max(positions(found).values()) == 1
    assert features(found, WITH_LABELS) == said_by_duckdb(events, WITH_LABELS)


def test_rows_that_are_not_on_the_topic_any_more_are_missed(topics: Topics, use_case: str, tmp_path: Path) -> None:
    """Its partitions were added to, or it is another one: keys are no longer where their rows are."""
    send(topics, 2000)
    run(job(topics, use_case, tmp_path))
    admin = AdminClient({"bootstrap.servers": topics.servers})
    name = topics.name("second")
    admin.create_partitions([NewPartitions(name, 5)])[name].result(30)
    added = finished(job(topics, use_case, tmp_path))
    assert (added.returncode, "partition 4 was added, and keys have moved there" in added.stderr) == (2, True)
    other = [word.replace(name, topics.name("third")) for word in job(topics, use_case, tmp_path)]
    done = finished(other)
    assert (done.returncode, "holds none of the rows that group" in done.stderr) == (2, True), done.stderr
    assert "warning: " in run([*other, "--short_history", "warn"]).stderr


def test_live_the_last_rows_do_not_wait_for_more(topics: Topics, use_case: str, tmp_path: Path) -> None:
    events = send(topics, 3000)
    command = [part for part in job(topics, use_case, tmp_path) if part not in ("--until", "latest")]
    with live(command) as running:
        wait(lambda: len(rows(tmp_path)) == len(said_by_duckdb(events, FEATURES)), running)
        stop(running)
    assert report(tmp_path)["unaccounted"] == 0
    assert features(rows(tmp_path), FEATURES) == said_by_duckdb(events, FEATURES)


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize("runner", RUNNERS)
def test_killed_and_resumed_the_scores_are_those_of_all_events_with_their_labels(
    topics: Topics, labelled: str, tmp_path: Path, runner: str, request: pytest.FixtureRequest
) -> None:
    events = send_labels(topics, send(topics, 8000))
    data, models = tmp_path / "events.parquet", str(tmp_path / "models")
    parquet.write_table(pa.Table.from_batches([events]), data)
    train(Settings(labelled, str(data), models, epochs=2, baseline=False, peers=False))
    command = [
        *(sys.executable, "-m", "beam_jobs.score", "--use_case", labelled, "--model", models),
        *("--input", topics.uri("events"), "--from", "earliest", "--until", "latest", "--block_rows", "500"),
        *("--group_id", topics.name("group"), "--report", str(tmp_path / "report.json")),
        *("--repartition_topic", topics.uri("second"), "--label_topic", topics.uri("labels")),
        *("--alerts", topics.uri("alerts"), "--scores", topics.uri("scores"), "--dead_letters", topics.uri("dead")),
        *where(runner, request),
    ]
    assert killed(command, Seen(topics, "second"), 1, 8000) + killed(command, Seen(topics, "scores"), 1, 4000)
    run(command)
    counted = report(tmp_path)
    assert (counted["unaccounted"], counted["dead_letters"], counted["labels_late"]) == (0, 0, 0)
    right = load(models, labelled).score(pa.Table.from_batches([events]))
    at = zip(events["car_id"].to_pylist(), millis_of(events["event_time"]).tolist(), strict=True)
    expected = {place: score for place, score in zip(at, right["score"].to_pylist(), strict=True) if score is not None}
    found = topics.read("scores", "score")
    scores = {(row["key"], round(row["event_time"].timestamp() * 1000)): row["score"] for row in found}
    assert scores == pytest.approx(expected, rel=1e-4)


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_broker_that_dies_in_the_middle_changes_no_feature(
    own_apache_kafka: ApacheKafka, use_case: str, tmp_path: Path
) -> None:
    topics = Topics(own_apache_kafka)
    events = send(topics, 12_000)
    right = said_by_duckdb(events, FEATURES)
    command = [part for part in job(topics, use_case, tmp_path) if part not in ("--until", "latest")]
    with live(command) as running:
        for share in (0.1, 0.4, 0.7):
            wait(lambda share=share: len(rows(tmp_path)) > share * len(right), running)  # type: ignore[misc]
            own_apache_kafka.kill()
            own_apache_kafka.start()
        wait(lambda: len(rows(tmp_path)) >= len(right), running)
        stop(running)
    assert report(tmp_path)["unaccounted"] == 0
    found = rows(tmp_path)
    assert max(positions(found).values()) == 1
    assert features(found, FEATURES) == right


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_second_instance_beside_the_first_changes_no_feature(topics: Topics, use_case: str, tmp_path: Path) -> None:
    """A rolling restart: the new one starts and waits, the old one ends."""
    events = send(topics, 12_000, end=9_000)
    right = said_by_duckdb(events, FEATURES)
    command = [part for part in job(topics, use_case, tmp_path) if part not in ("--until", "latest")]
    with live(command) as old:
        wait(lambda: len(rows(tmp_path)) > 0.2 * len(right), old)
        with live(command) as new:
            wait(lambda: len(rows(tmp_path)) > 0.5 * len(right), new)
            stop(old)
            send(topics, 12_000, begin=9_000)  # so that the new one has begun to work before it is told to stop
            wait(lambda: len(positions(rows(tmp_path))) >= len(right), new)
            stop(new)
    run(job(topics, use_case, tmp_path))
    found = rows(tmp_path)
    assert max(positions(found).values()) == 1
    assert features(found, FEATURES) == right
