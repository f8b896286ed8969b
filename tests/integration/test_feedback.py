"""What people say of alerts, on Apache Kafka: labels of the next training, and of windows of a job."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from beam_jobs.codec.json.decoder import JsonDecoder
from beam_jobs.use_case import load_use_case
from model.known_labels import known_labels
from model.training import data as training_data
from model.training.data import Counts
from model.training.plan import Plan, Settings
from tests.integration.archives import report
from tests.integration.test_two_keys_job import DELAY_MS, WITH_LABELS, job
from tests.integration.test_windows_job import send, with_features
from tests.integration.topics import Topics, run
from tests.services.job import finished

pytestmark = pytest.mark.integration


@pytest.fixture
def labelled(tmp_path: Path) -> str:
    folder = with_features(tmp_path / "car_labels", WITH_LABELS)
    with (Path(folder) / "use_case.yaml").open("a") as settings:
        settings.write(f"\nlabel_delay: {DELAY_MS} ms\n")
    return folder


def say(topics: Topics, *values: bytes) -> None:
    producer = Producer({"bootstrap.servers": topics.servers})
    for value in values:
        producer.produce(topics.name("feedback"), value)
    assert producer.flush(30) == 0


def test_what_people_say_of_alerts_becomes_labels(topics: Topics, labelled: str, tmp_path: Path) -> None:
    send(topics, 3000)
    admin = AdminClient({"bootstrap.servers": topics.servers})
    for name in ("feedback", "labels"):
        topic = topics.name(name)
        admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(30)
    events, known = topics.name("events"), tmp_path / "known"
    right, wrong, gone = f"{events}-0-3", f"{events}-1-5", f"{events}-0-99999999"
    say(topics, *(json.dumps({"id": i, "verdict": v}).encode() for i, v in ((right, "false"), (wrong, "false"))))
    say(topics, json.dumps({"id": right, "verdict": "confirmed", "label": "engine", "by": "Ada"}).encode(), b"nonsense")
    say(topics, json.dumps({"id": gone, "verdict": "confirmed"}).encode())
    command = [sys.executable, "-m", "beam_jobs.feedback", topics.uri("feedback"), "--use_case", labelled]
    command += ["--output", str(known), "--events", topics.uri("events"), "--label_topic", topics.uri("labels")]
    done = run(command)
    assert "left out: no {" in done.stderr
    assert "3 alerts judged, 3 of them new" in done.stdout
    assert "2 labels put on" in done.stdout
    assert "1 are of events that are not on" in done.stdout
    again = run(command)
    assert "3 alerts judged, 0 of them new" in again.stdout
    labels = topics.read("labels")
    assert [dict(record["headers"])["highbeam.origin"].decode() for record in labels] == [wrong, right]

    # A job takes them for its windows.
    use_case = load_use_case(labelled)
    needed = sorted(use_case.preprocessor().legs(apart=True).of_labels)
    decoded = JsonDecoder(use_case.schema_of_labels(needed), needed).decode(
        pa.array([record["value"] for record in labels], pa.binary())
    )
    assert len(decoded.errors) == 0
    assert decoded.rows.column("failure_occurred").to_pylist() == ["none", "engine"]
    event = event_at(topics, 0, 3)
    assert decoded.rows.column("car_id")[1].as_py().encode() in event
    run(job(topics, labelled, tmp_path, "--label_topic", topics.uri("labels")))
    counted = report(tmp_path)
    assert (counted["labels"], counted["dead_letters"], counted["unaccounted"]) == (2, 0, 0)

    # And a training takes them for its own.
    found = known_labels(str(known))
    assert dict(zip(found.ids.to_pylist(), found.labels.to_pylist(), strict=True)) == {
        right: "engine",
        wrong: "none",
        gone: "confirmed",
    }
    data = str(tmp_path / "archive")
    kinds = []
    for labels_of, met in ((str(known), "2 of --labels met a row, 1 did not"), (None, None)):
        plan = Plan.of(Settings(labelled, data, str(tmp_path / "models"), labels=labels_of))
        counts = Counts()
        examples = list(training_data.read(plan.use_case, plan.source, counts, tmp_path))
        assert counts.met() == met
        kinds.append([kind for each in examples for kind in each.kinds.to_pylist()])
    assert len(kinds[0]) == len(kinds[1]) == 3000
    assert kinds[0].count("engine") == 1
    assert "engine" not in kinds[1]


def test_one_bad_record_stops_nothing(topics: Topics, labelled: str, tmp_path: Path) -> None:
    send(topics, 100)
    admin = AdminClient({"bootstrap.servers": topics.servers})
    feedback, events, known = topics.name("feedback"), topics.name("events"), tmp_path / "known"
    for name, partitions in ((feedback, 2), (topics.name("labels"), 1)):
        admin.create_topics([NewTopic(name, partitions, 1)])[name].result(30)
    first, second = f"{events}-0-3", f"{events}-1-5"
    nowhere, other = f"{events}-999-5", "payments-0-1"
    producer = Producer({"bootstrap.servers": topics.servers})
    now = 1_795_348_800_000
    for partition, at, id_, more in (
        (0, now, nowhere, {}),
        (0, now, f"{events}-2-900719925474099", {}),
        (0, now, first, {"label": "\ud800"}),
        (0, now, f"\ud800-{first}", {}),
        (0, now, f"{events}-00-3", {}),
        (0, now, f"{events}-\u0660-3", {}),
        (0, now + 9, first, {"label": "engine"}),
        (0, now + 5, first, {"label": "brakes"}),  # its timestamp runs backwards
        (0, now + 7, second, {"label": "brakes"}),
        (1, now + 8, second, {"label": "engine"}),  # another partition, whichever is read first
        (1, now, other, {}),
    ):
        value = json.dumps({"id": id_, "verdict": "confirmed", **more}).encode()
        producer.produce(feedback, value, partition=partition, timestamp=at)
    assert producer.flush(30) == 0
    command = [sys.executable, "-m", "beam_jobs.feedback", topics.uri("feedback"), "--use_case", labelled]
    command += ["--output", str(known), "--events", topics.uri("events"), "--label_topic", topics.uri("labels")]
    done = run(command)
    assert "5 alerts judged, 5 of them new" in done.stdout
    assert "; 4 records left out" in done.stdout
    assert f"2 labels put on {topics.uri('labels')}; 2 are of events that are not on" in done.stdout
    assert f"1 alerts are of topic payments, not of {events}" in done.stdout
    for _ in range(2):
        again = run(command)
        assert "5 alerts judged, 0 of them new" in again.stdout
        assert "0 labels put on" in again.stdout
    assert len(topics.read("labels")) == 2
    assert len(list(known.iterdir())) == 1
    found = known_labels(str(known))
    labels = dict(zip(found.ids.to_pylist(), found.labels.to_pylist(), strict=True))
    assert (labels[first], labels[second], labels[nowhere], labels[other]) == ("engine", "engine", *["confirmed"] * 2)

    # A folder that can't be made.
    done = finished([*command[:7], "/proc/x"])
    assert done.returncode == 2
    assert (
        "--output /proc/x: can't be written (/proc/x: No such file or directory); no folder can be made" in done.stderr
    )


def event_at(topics: Topics, partition: int, offset: int) -> bytes:
    consumer = Consumer({"bootstrap.servers": topics.servers, "group.id": "test"})
    consumer.assign([TopicPartition(topics.name("events"), partition, offset)])
    message = consumer.poll(30)
    consumer.close()
    assert message is not None
    assert message.offset() == offset
    return bytes(message.value())
