"""A partition loses its last records, as by an unclean leader election, and others get their offsets."""

from __future__ import annotations

import logging
import uuid
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from beam_jobs.io.kafka.client import FetchPath
from demo.broker import ApacheKafka
from tests.contract.positions import finish, group
from tests.contract.reads import SourceSuite, numbered, opened, read
from tests.services.kafka_cluster import RealCluster, Record

pytestmark = pytest.mark.integration


class Truncatable(RealCluster):
    """A broker whose log files are at hand."""

    def __init__(self, broker: ApacheKafka, fetch: FetchPath) -> None:
        super().__init__(broker.bootstrap_servers, fetch)
        self._broker = broker

    def segment(self, topic: str) -> Path:
        """The file of partition 0's records."""
        return self._broker.data / "logs" / f"{topic}-0" / f"{0:020}.log"

    def lose(self, topic: str, size: int) -> None:
        """The broker dies, and comes back without what lies behind ``size`` bytes."""
        self._broker.kill()
        with self.segment(topic).open("r+b") as file:
            file.truncate(size)
        self._broker.start()
        self._admin = AdminClient(self._settings)  # the old one's pauses between tries have grown


@pytest.mark.parametrize(
    ("fetch", "down"),
    [
        pytest.param("wire", False, id="wire-running"),
        pytest.param("client", True, id="client-down", marks=pytest.mark.nightly),
        pytest.param("wire", True, id="wire-down", marks=pytest.mark.nightly),
        pytest.param("client", False, id="client-running", marks=pytest.mark.nightly),
    ],
)
def test_records_at_the_offsets_of_lost_ones_are_read(
    own_apache_kafka: ApacheKafka, fetch: FetchPath, down: bool, caplog: pytest.LogCaptureFixture
) -> None:
    cluster, suite, g = Truncatable(own_apache_kafka, fetch), SourceSuite(), group()
    topic = f"truncated-{uuid.uuid4().hex[:8]}"
    cluster.make(topic)
    cluster.write(topic, numbered(80))
    size = cluster.segment(topic).stat().st_size
    cluster.write(topic, numbered(20, start=80))
    reader = opened(suite.live(cluster, topic, g))
    assert len(read(reader, lambda rows: len(rows) >= 100)) == 100
    if down:
        finish(reader)
        assert cluster.group_offsets(g, topic) == {0: 100}
    cluster.lose(topic, size)
    with caplog.at_level(logging.WARNING):
        cluster.write(topic, [Record(b"new %d" % i) for i in range(30)])
        if down:
            reader = opened(suite.live(cluster, topic, g))
        rows = read(reader, lambda rows: len(rows) >= 30)
    assert [row["value"] for row in rows] == [b"new %d" % i for i in range(30)]
    assert [row["offset"] for row in rows] == list(range(80, 110))
    assert "from offset 80 on are no longer there" in caplog.text
    finish(reader)
    assert cluster.group_offsets(g, topic) == {0: 110}
