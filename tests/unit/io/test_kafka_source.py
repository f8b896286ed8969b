"""What the contract suite does not reach: marks, outages, and a source that travels."""

from __future__ import annotations

import logging
import pickle
import threading

import pytest

from beam_jobs.errors import UserError
from beam_jobs.io.kafka_client import KafkaTransport
from beam_jobs.io.kafka_config import KafkaConfig
from beam_jobs.io.kafka_source import KafkaMark, KafkaMarkCoder, KafkaSource, request_drain, reset_drain
from beam_jobs.io.uri import KafkaAddress
from tests.contract.cluster import Record
from tests.contract.fake_kafka import FakeCluster


@pytest.fixture(autouse=True)
def _no_drain() -> None:
    reset_drain()


def test_marks_are_json_and_deterministic() -> None:
    transport = KafkaTransport(KafkaAddress("a:9092", "t"), KafkaConfig())
    coder = KafkaMarkCoder(transport)
    mark = KafkaMark({10: 5, 2: 2**40}, {2: 2**41, 10: 6}, transport, final=True)
    same = KafkaMark({2: 2**40, 10: 5}, {10: 6, 2: 2**41})
    assert (
        coder.encode(mark)
        == coder.encode(same)
        == b'{"next": [[2, 1099511627776], [10, 5]], "end": [[2, 2199023255552], [10, 6]]}'
    )
    assert coder.decode(coder.encode(mark)) == mark
    assert coder.decode(coder.encode(mark)).transport is transport
    assert coder.is_deterministic()


def test_a_split_source_travels_and_keeps_its_start() -> None:
    cluster = FakeCluster()
    topic = cluster.create(4)
    cluster.write(topic, [Record(b"x", partition=p) for p in range(4)])
    shards = KafkaSource(cluster.transport(topic), shards=3).split(20)
    assert [shard.positions for shard in shards] == [{0: 0, 3: 0}, {1: 0}, {2: 0}]
    source = KafkaSource(KafkaTransport(KafkaAddress("a:9092", "t"), KafkaConfig()), positions={0: 5})
    assert pickle.loads(pickle.dumps(source)) == source
    assert source.split(1) == [source]


def test_an_outage_is_told_once_and_its_end_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beam_jobs.io.kafka_source._PATIENCE_S", 0.0)
    cluster = FakeCluster()
    topic = cluster.create()
    cluster.write(topic, [Record(b"x")])
    reader = KafkaSource(cluster.transport(topic)).split(1)[0].create_reader(None, None)
    cluster.away = True
    with caplog.at_level(logging.WARNING):
        assert not any(reader.advance() for _ in range(5))
        cluster.away = False
        assert reader.advance()
    reader.close()
    assert [record.message.split(":")[2].strip()[:8] for record in caplog.records] == ["nothing ", "back aft"]


def test_a_cluster_that_is_away_at_the_start_is_waited_for() -> None:
    cluster = FakeCluster()
    topic = cluster.create()
    cluster.away = True
    threading.Timer(0.3, lambda: setattr(cluster, "away", False)).start()
    assert KafkaSource(cluster.transport(topic)).split(1)[0].positions == {0: 0}


def test_a_drain_ends_the_wait_for_a_cluster() -> None:
    cluster = FakeCluster()
    topic = cluster.create()
    cluster.away = True
    request_drain()
    with pytest.raises(UserError, match="ended before the cluster answered"):
        KafkaSource(cluster.transport(topic)).split(1)
    reset_drain()


def test_closing_readers_closes_their_fetchers() -> None:
    cluster = FakeCluster()
    topic = cluster.create()
    source = KafkaSource(cluster.transport(topic)).split(1)[0]
    for _ in range(3):
        reader = source.create_reader(None, None)
        reader.start()
        reader.get_checkpoint_mark()
        reader.close()
    assert cluster.open_fetchers == 0
