"""Input and output on two clusters, each with client settings of its own."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from beam_jobs.errors import UserError
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.client import check_topic
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.sandbox.process import Tansu
from tests.integration.topics import Topics, events, framed, run
from tests.services.kafka import SASL_PASSWORD, SASL_USER, SharedBroker

pytestmark = pytest.mark.integration


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the cluster that asks for a password needs, and the other one does not understand."""
    monkeypatch.setenv("KAFKA_PASSWORD", SASL_PASSWORD)
    path = tmp_path / "guarded.properties"
    path.write_text(
        f"security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.username={SASL_USER}\nsasl.password=env:KAFKA_PASSWORD\n"
    )
    return path


def test_dead_letters_go_to_another_cluster_and_back(
    topics: Topics, apache_kafka: SharedBroker, embedded: Tansu, guarded: Path, tmp_path: Path
) -> None:
    source = KafkaAddress(apache_kafka.sasl_servers, topics.name("events"))
    back = KafkaAddress(apache_kafka.sasl_servers, topics.name("scores"))
    dead = KafkaAddress(embedded.bootstrap_servers, f"dead-{uuid.uuid4().hex[:8]}")
    with pytest.raises(UserError, match="authentication failed"):  # so the two do need settings of their own
        check_topic(dead, KafkaConfig.from_file(guarded), timeout_s=2)
    topics.send("events", [*framed(events(200)), b"broken"])
    group = topics.name("group")
    run(
        [
            *(sys.executable, "-m", "beam_jobs.archive", "--use_case", "car_sensors", "--input", str(source)),
            *("--from", "earliest", "--until", "latest", "--group_id", group, "--output", str(tmp_path / "archive")),
            *("--dead_letters", str(dead), "--create_topics", "--input_kafka_config", str(guarded)),
        ]
    )
    assert check_topic(dead, KafkaConfig()) == 1
    consumer = Consumer({"bootstrap.servers": apache_kafka.bootstrap_servers, "group.id": group})
    committed = consumer.committed([TopicPartition(source.topic, p) for p in range(4)], 10)
    consumer.close()
    assert sum(at.offset for at in committed) == 201
    run(
        [
            *(sys.executable, "-m", "beam_jobs.redrive", "--input", str(dead), "--output", str(back)),
            *("--output_kafka_config", str(guarded)),
        ]
    )
    assert [row["value"] for row in topics.read("scores")] == [b"broken"]
