"""The cluster of three brokers: what it promises to those who test on it, and reading through its elections."""

from __future__ import annotations

import uuid

import pytest
from confluent_kafka import Producer

from demo.cluster import ApacheKafkaCluster
from tests.contract.reads import Rows, SourceSuite, opened, read
from tests.services.kafka_cluster import RealCluster, Record

# By day test_kafka_pipeline.py reads on both fetch paths from a broker that dies, and test_faults.py through the codes
# of an election.
pytestmark = [pytest.mark.integration, pytest.mark.nightly]


def test_it_takes_writes_while_one_broker_is_away(kafka_cluster: ApacheKafkaCluster) -> None:
    """The cluster by itself: dead and paused brokers."""
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


def test_reading_goes_on_through_elections_on_both_fetch_paths(kafka_cluster: ApacheKafkaCluster) -> None:
    topic, servers = f"elections-{uuid.uuid4().hex[:8]}", kafka_cluster.bootstrap_servers
    kafka_cluster.create(topic, 3)
    clusters = [RealCluster(servers, "wire"), RealCluster(servers, "client")]
    readers = [opened(SourceSuite().live(cluster, topic, block_rows=50)) for cluster in clusters]
    found: list[Rows] = [[], []]

    def write_and_read() -> None:
        clusters[0].write(topic, [Record(b"%d" % i, partition=i % 3) for i in range(300)])
        for rows, reader in zip(found, readers, strict=True):
            rows += read(reader, lambda more: len(more) >= 300)

    write_and_read()
    leader = kafka_cluster.leader(topic)
    assert leader is not None
    leader.kill()
    write_and_read()
    leader.start()
    kafka_cluster.settle()
    kafka_cluster.elect(topic)
    write_and_read()
    for rows, reader in zip(found, readers, strict=True):
        reader.close()
        for p in range(3):
            assert [row["offset"] for row in rows if row["partition"] == p] == list(range(300))
        assert len(rows) == 900
