"""What the contract suite does not reach: marks, outages, and a source that travels."""

from __future__ import annotations

import logging
import pickle
import threading

import pytest

from beam_jobs import stop
from beam_jobs.errors import UserError
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.client import KafkaTransport
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.mark import KafkaMark, KafkaMarkCoder
from beam_jobs.io.kafka.source import KafkaSource
from beam_jobs.io.position import EARLIEST, LATEST, OffsetSpec
from beam_jobs.io.reading import Pace, PartitionOutages
from tests.contract.reads import opened, read, values
from tests.services.fake_kafka import FakeCluster
from tests.services.kafka_cluster import Record


@pytest.fixture(autouse=True)
def _no_drain() -> None:
    stop.reset()


def test_marks_are_json_and_deterministic() -> None:
    transport = KafkaTransport(KafkaAddress("a:9092", "t"), KafkaConfig())
    coder = KafkaMarkCoder(transport)
    mark = KafkaMark({10: 5, 2: 2**40}, {2: 2**41, 10: 6}, "id", {2: 3}, (), transport, "reader", 7, final=True)
    same = KafkaMark({2: 2**40, 10: 5}, {10: 6, 2: 2**41}, "id", {2: 3})
    assert (
        coder.encode(mark)
        == coder.encode(same)
        == b'{"topic": "id", "next": [[2, 1099511627776], [10, 5]], "epochs": [[2, 3]], '
        b'"end": [[2, 2199023255552], [10, 6]], "late": []}'
    )
    assert coder.decode(coder.encode(mark)) == mark
    assert coder.decode(coder.encode(mark)).transport is transport
    assert coder.is_deterministic()


def test_a_split_source_travels_and_keeps_its_start() -> None:
    cluster = FakeCluster()
    topic = cluster.create(4)
    cluster.write(topic, [Record(b"x", partition=p) for p in range(4)])
    shards = KafkaSource(cluster.transport(topic), shards=3).split(20)
    assert [shard.first.positions for shard in shards] == [{0: 0, 3: 0}, {1: 0}, {2: 0}]
    source = KafkaSource(KafkaTransport(KafkaAddress("a:9092", "t"), KafkaConfig()), first=KafkaMark({0: 5}))
    assert pickle.loads(pickle.dumps(source)) == source
    assert source.split(1) == [source]


def test_an_outage_is_told_once_and_its_end_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beam_jobs.io.reading._PATIENCE_S", 0.0)
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


def test_partitions_that_cannot_be_read_are_told_once_and_truthfully(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("beam_jobs.io.reading.time.monotonic", clock)
    outages = PartitionOutages("kafka://a/t")
    why = {1: "no leader", 3: "refused", 0: "refused", 2: "refused"}
    for step, broken in enumerate([[1, 3], [1, 3], [1, 3, 0], [1, 3, 0, 2], [1, 3, 0, 2], [1], [1], [2], [2], []]):
        for _ in range(3):
            outages.now({p: why[p] for p in broken}, 4)
        clock.now = 100.0 + 0.6 * (step + 1)
    assert [record.message.removeprefix("kafka://a/t: ") for record in caplog.records] == [
        "partitions 1, 3 can't be read (no leader; refused); the others go on",
        "nothing can be read (refused); waiting",
        "partitions 0, 3 can be read again after 3.0 s, partition 1 can't yet",
        "back after 4.2 s",
    ]


def test_a_cluster_that_is_away_at_the_start_is_waited_for() -> None:
    cluster = FakeCluster()
    topic = cluster.create()
    cluster.away = True
    threading.Timer(0.3, lambda: setattr(cluster, "away", False)).start()
    assert KafkaSource(cluster.transport(topic)).split(1)[0].first.positions == {0: 0}


@pytest.mark.parametrize(
    ("start", "group", "expected"),
    [(EARLIEST, "g", range(5, 12)), (EARLIEST, "new", range(12)), (LATEST, "new", range(10, 12))],
)
def test_a_partition_that_nobody_leads_holds_up_no_other(
    start: OffsetSpec, group: str, expected: range, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("beam_jobs.io.kafka.start._ELECTION_S", 0.0)
    monkeypatch.setattr("beam_jobs.io.kafka.source._LOOK_S", 0.0)
    cluster = FakeCluster()
    topic = cluster.create(2)
    cluster.write(topic, [Record(b"%d" % i, partition=i % 2) for i in range(20)])
    cluster.move_group("g", topic, {0: 10, 1: 5})
    cluster.leaderless = {1}
    source = KafkaSource(cluster.transport(topic, group), start=start, discover_s=0.0)
    with caplog.at_level(logging.WARNING):
        reader = opened(source)
    assert "nobody leads partitions 1: they are read as soon as somebody does" in caplog.text
    cluster.write(topic, [Record(b"healthy", partition=0)])
    assert b"healthy" in values(read(reader, lambda rows: b"healthy" in values(rows)))
    mark = reader.get_checkpoint_mark()
    assert mark.late == (1,)
    reader.close()
    reader = opened(source, mark)  # on another worker
    cluster.leaderless = set()
    assert not reader.start()
    cluster.write(topic, [Record(b"last", partition=1)] * 2)
    rows = read(reader, lambda rows: len(rows) >= len(expected))
    assert [row["offset"] for row in rows if row["partition"] == 1] == list(expected)
    mark = reader.get_checkpoint_mark()
    mark.finalize_checkpoint()
    assert cluster.group_offsets(group, topic) == {0: 11, 1: 12}
    assert mark.late == ()
    reader.close()


def test_a_bounded_read_waits_for_every_leader() -> None:
    cluster = FakeCluster()
    topic = cluster.create(2)
    cluster.write(topic, [Record(b"x", partition=p) for p in (0, 1)])
    cluster.leaderless = {1}
    threading.Timer(0.3, cluster.leaderless.clear).start()
    first = KafkaSource(cluster.transport(topic), until=LATEST).split(1)[0].first
    assert first is not None
    assert (first.ends, first.late) == ({0: 1, 1: 1}, ())


def test_a_drain_ends_the_wait_for_a_cluster() -> None:
    cluster = FakeCluster()
    topic = cluster.create()
    cluster.away = True
    stop.request()
    with pytest.raises(UserError, match="ended before the cluster answered"):
        KafkaSource(cluster.transport(topic)).split(1)
    stop.reset()


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


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def asked_after(pace: Pace, clock: Clock, rows: int, busy_s: float) -> tuple[int, float]:
    pace.handed_out(rows, clock)
    clock.now += busy_s
    return pace.next(clock)


def test_without_a_latency_to_keep_the_bounds_hold() -> None:
    clock, pace = Clock(), Pace(8192, 0.02, None)
    assert pace.next(clock) == (8192, 0.02)
    assert asked_after(pace, clock, 8192, 5.0) == (8192, 0.02)


def test_a_block_waits_less_the_longer_the_pipeline_needs() -> None:
    clock, pace = Clock(), Pace(32_768, 0.02, 0.1)
    assert pace.next(clock) == (32_768, 0.025)
    assert asked_after(pace, clock, 500, 0.01) == (32_768, 0.025)
    rows, linger = asked_after(pace, clock, 500, 0.04)
    assert (rows, linger) == (32_768, pytest.approx(0.01))
    assert asked_after(pace, clock, 500, 0.2) == (32_768, 0.0)


def test_a_block_is_cut_to_what_the_pipeline_handled_in_half_the_latency() -> None:
    clock, pace = Clock(), Pace(32_768, 0.02, 0.1)
    rows, linger = asked_after(pace, clock, 20_000, 0.2)
    assert (rows, linger) == (pytest.approx(5000, abs=1), 0.0)
    assert asked_after(pace, clock, 5000, 0.04)[0] == 32_768  # fast enough: whatever has arrived
    assert asked_after(pace, clock, 4000, 10.0)[0] == 1024  # never below what overhead makes pointless


def test_an_empty_fetch_says_nothing_of_the_pipeline() -> None:
    clock, pace = Clock(), Pace(32_768, 0.02, 0.1)
    asked_after(pace, clock, 20_000, 0.2)
    assert asked_after(pace, clock, 0, 60.0)[1] == 0.0  # the last measured time still counts


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"partition.assignment.strategy": "range"}, "partition.assignment.strategy"),
        ({"security.protocol": "SASL_SSL", "sasl.mechanisms": "OAUTHBEARER"}, "OAUTHBEARER"),
        ({"ssl.keystore.password": "secret", "ssl.keystore.location": "x"}, "ssl.keystore.location"),
    ],
)
def test_settings_the_protocol_reader_does_not_understand_go_to_the_client(
    settings: dict[str, str], named: str
) -> None:
    address = KafkaAddress("localhost:1", "t")
    with pytest.raises(UserError, match=named) as raised:
        KafkaTransport(address, KafkaConfig(tuple(settings.items())), fetch="wire").fetcher()
    assert "secret" not in str(raised.value)
