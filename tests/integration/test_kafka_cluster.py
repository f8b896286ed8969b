"""The cluster of three brokers itself: what it promises to those who test on it."""

from __future__ import annotations

import uuid

import pytest
from confluent_kafka import Producer

from demo.cluster import ApacheKafkaCluster

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


def test_it_takes_writes_while_one_broker_is_away(kafka_cluster: ApacheKafkaCluster) -> None:
    topic = f"cluster-{uuid.uuid4().hex[:8]}"
    kafka_cluster.create(topic, 3)
    assert {kafka_cluster.leader(topic, p) for p in range(3)} == set(kafka_cluster.brokers)
    producer = Producer({"bootstrap.servers": kafka_cluster.bootstrap_servers, "acks": "all", "log_level": 0})
    failed: list[object] = []

    def write() -> None:
        for i in range(300):
            producer.produce(topic, b"%d" % i, partition=i % 3, on_delivery=lambda e, _: e and failed.append(e))
        assert producer.flush(60) == 0

    first = kafka_cluster.leader(topic)
    assert first is not None
    first.kill()
    write()
    assert kafka_cluster.leader(topic) not in (None, first)
    first.start()
    kafka_cluster.settle()
    kafka_cluster.elect(topic)
    assert kafka_cluster.leader(topic) is first
    first.pause()
    write()
    first.resume()
    kafka_cluster.settle()
    assert failed == []
