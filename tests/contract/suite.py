"""What every Kafka cluster and every fetch path must do for the source. Subclasses give a ``cluster`` fixture."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pytest
from apache_beam import coders
from apache_beam.utils.timestamp import MAX_TIMESTAMP, Timestamp

from beam_jobs import metrics, stop
from beam_jobs.block import stretch_of
from beam_jobs.errors import UserError
from beam_jobs.io.kafka.mark import KafkaMark
from beam_jobs.io.kafka.source import SESSIONS, KafkaSource
from beam_jobs.io.kafka.topic import KafkaLog
from beam_jobs.io.position import EARLIEST, LATEST, OffsetSpec
from tests.contract.reads import T0, TIMEOUT_S, Rows, SourceSuite, numbered, opened, read, read_all, values
from tests.services.kafka_cluster import Cluster, Record


def _survives_the_runner(time: Timestamp) -> None:
    """What a runner does with every time: it crosses a coder, and is no end of input."""
    coder = coders.TimestampCoder()
    assert coder.decode(coder.encode(time)) == time
    assert time < MAX_TIMESTAMP


class KafkaContract(SourceSuite):
    """One test a promise."""

    def test_every_record_once_and_in_order(self, cluster: Cluster) -> None:
        topic = cluster.create(3)
        cluster.write(topic, numbered(20_000, 3))
        reader = opened(self.live(cluster, topic, block_rows=1000))
        rows = read(reader, lambda rows: len(rows) >= 20_000)
        reader.close()
        assert values(rows) == Counter(b"%d" % i for i in range(20_000))
        for partition in range(3):
            offsets = [row["offset"] for row in rows if row["partition"] == partition]
            assert offsets == list(range(len(offsets)))
        assert {row["topic"] for row in rows} == {topic}

    def test_keys_values_headers_and_timestamps(self, cluster: Cluster) -> None:
        topic = cluster.create()
        records = [
            Record(b"value", b"key", headers=[("a", b"1"), ("a", b""), ("n\u00e4me", None)], timestamp_ms=T0 + 5),
            Record(None, b"tombstone"),
            Record(b"", b""),
            Record(b"no key"),
            Record(None, None, headers=[("only", b"header")]),
            *(Record(None if i % 3 else b"%d" % i, None if i % 2 else b"%d" % i) for i in range(30)),
        ]
        cluster.write(topic, records)
        reader = opened(self.live(cluster, topic))
        rows = read(reader, lambda rows: len(rows) >= len(records))
        reader.close()
        assert [row["value"] for row in rows] == [record.value for record in records]
        assert [row["key"] for row in rows] == [record.key for record in records]
        assert [int(row["timestamp"].timestamp() * 1000) for row in rows] == [r.timestamp_ms for r in records]
        headers = [[(h["key"], h["value"]) for h in row["headers"] or ()] for row in rows]
        assert headers == [list(record.headers) for record in records]
        assert rows[1]["headers"] is None

    def test_a_value_of_five_megabytes(self, cluster: Cluster) -> None:
        topic = cluster.create()
        large = bytes(range(256)) * 20_000
        cluster.write(topic, [Record(b"before"), Record(large), Record(b"after")])
        reader = opened(self.live(cluster, topic))
        rows = read(reader, lambda rows: len(rows) >= 3)
        reader.close()
        assert [row["value"] for row in rows] == [b"before", large, b"after"]

    def test_the_block_cap_loses_nothing(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("beam_jobs.io.kafka.fetch.MAX_BLOCK_BYTES", 1000)
        monkeypatch.setattr("beam_jobs.io.kafka.wire.fetcher.MAX_BLOCK_BYTES", 1000, raising=False)
        topic = cluster.create()
        cluster.write(topic, [Record(b"%03d" % i * 100) for i in range(50)])
        reader = opened(self.live(cluster, topic))
        rows: Rows = []
        marks: list[KafkaMark] = []
        while len(rows) < 50:
            rows += read(reader, lambda rows: bool(rows))
            marks.append(reader.get_checkpoint_mark())
            assert marks[-1].positions == {0: len(rows)}  # never past what was handed out
        reader.close()
        assert [row["offset"] for row in rows] == list(range(50))

    def test_start_at_offsets(self, cluster: Cluster) -> None:
        if not self.exact_ends:
            pytest.skip("this broker's high watermarks are not exact, and a start is checked against them")
        topic = cluster.create(2)
        cluster.write(topic, numbered(10, 2))
        source = self.live(cluster, topic, start=OffsetSpec.parse("0:3,1:5"))
        reader = opened(source)
        rows = read(reader, lambda rows: len(rows) >= 2)
        reader.close()
        assert [(row["partition"], row["offset"]) for row in rows] == [(0, 3), (0, 4)]
        with pytest.raises(UserError, match="no partition 7"):
            self.live(cluster, topic, start=OffsetSpec.parse("7:0")).split(1)

    def test_start_latest_sees_only_what_comes(self, cluster: Cluster) -> None:
        topic = cluster.create()
        cluster.write(topic, [Record(b"old")])
        reader = opened(self.live(cluster, topic, start=LATEST))
        assert not reader.start()
        cluster.write(topic, [Record(b"new")])
        rows = read(reader, lambda rows: bool(rows))
        reader.close()
        assert [row["value"] for row in rows] == [b"new"]

    def test_bounded_reads_what_was_there(self, cluster: Cluster) -> None:
        if not self.exact_ends:
            pytest.skip("this broker's high watermarks are not exact")
        topic = cluster.create(3)
        cluster.write(topic, numbered(1000, 2))  # partition 2 stays empty
        source = self.bounded(cluster, topic, block_rows=300).split(1)[0]
        cluster.write(topic, numbered(50, 3, start=5000))
        reader = source.create_reader(None, None)
        rows = read(reader)
        reader.close()
        assert values(rows) == Counter(b"%d" % i for i in range(1000))

    def test_bounded_by_offsets_and_by_time(self, cluster: Cluster) -> None:
        if not self.exact_ends:
            pytest.skip("this broker's offsets by time are not exact")
        topic = cluster.create()
        cluster.write(topic, numbered(100))
        cases = [
            (OffsetSpec.parse("0:10"), OffsetSpec.parse("0:20"), range(10, 20)),
            (EARLIEST, OffsetSpec.parse("0:1000000"), range(100)),
            (OffsetSpec.parse(str(T0 + 30)), OffsetSpec.parse(str(T0 + 40)), range(30, 40)),
            (OffsetSpec.parse(str(T0 + 95)), OffsetSpec.parse(str(T0 + 500)), range(95, 100)),
            (OffsetSpec.parse(str(T0 + 500)), LATEST, range(0)),
            (LATEST, LATEST, range(0)),
        ]
        for start, until, expected in cases:
            rows = read_all(self.bounded(cluster, topic, start=start, until=until))
            assert [row["offset"] for row in rows] == list(expected), (start, until)

    def test_an_empty_topic_ends_at_once(self, cluster: Cluster) -> None:
        assert read_all(self.bounded(cluster, cluster.create(2))) == []

    def test_a_tail_of_transaction_markers_and_aborted_records_ends(self, cluster: Cluster) -> None:
        if not self.transactions:
            pytest.skip("this broker has no transactions")
        topic = cluster.create()
        cluster.write(topic, [Record(b"plain")])
        cluster.write_transaction(topic, [Record(b"kept")], commit=True)
        cluster.write_transaction(topic, [Record(b"aborted 1"), Record(b"aborted 2")], commit=False)
        rows = read_all(self.bounded(cluster, topic))
        assert [row["value"] for row in rows] == [b"plain", b"kept"]
        # An end inside the invisible tail is reached as well.
        rows = read_all(self.bounded(cluster, topic, until=OffsetSpec.parse("0:5")))
        assert [row["value"] for row in rows] == [b"plain", b"kept"]

    def test_resume_from_a_mark(self, cluster: Cluster) -> None:
        topic = cluster.create(2)
        cluster.write(topic, numbered(1000, 2))
        source = self.live(cluster, topic, block_rows=100)
        reader = opened(source)
        rows = read(reader, lambda rows: len(rows) >= 300)
        mark = reader.get_checkpoint_mark()
        reader.close()  # closes the session: the next reader has the mark alone
        assert len(SESSIONS) == 0
        resumed = opened(source, mark)
        rows += read(resumed, lambda more: len(more) + len(rows) >= 1000)
        resumed.close()
        assert values(rows) == Counter(b"%d" % i for i in range(1000))

    def test_a_rebuilt_reader_takes_over_the_live_session(self, cluster: Cluster) -> None:
        topic = cluster.create()
        cluster.write(topic, numbered(1000))
        source = self.live(cluster, topic, block_rows=100).split(1)[0]
        first = source.create_reader(None, None)
        rows = read(first, lambda rows: len(rows) >= 100)
        mark = first.get_checkpoint_mark()
        assert len(SESSIONS) == 1
        second = source.create_reader(None, KafkaMark.from_json(mark.to_json()))
        rows += read(second, lambda more: len(more) >= 100)
        assert len(SESSIONS) == 0
        second_rows = rows[len(rows) - 100 :]
        first.close()  # must not close what the second now owns
        rows += read(second, lambda more: len(more) + len(rows) >= 1000)
        second.close()
        assert len(second_rows) == 100
        assert values(rows) == Counter(b"%d" % i for i in range(1000))

    def test_resume_from_the_group(self, cluster: Cluster) -> None:
        topic = cluster.create(2)
        cluster.write(topic, numbered(100, 2))
        source = self.live(cluster, topic, "group", block_rows=30)
        reader = opened(source)
        rows = read(reader, lambda rows: len(rows) >= 60)
        stop.request()
        assert not reader.advance()
        assert reader.get_watermark() >= MAX_TIMESTAMP
        mark = reader.get_checkpoint_mark()
        assert mark.final
        mark.finalize_checkpoint()
        reader.close()
        stop.reset()
        resumed = opened(self.live(cluster, topic, "group"))
        rows += read(resumed, lambda more: len(more) + len(rows) >= 100)
        resumed.close()
        assert values(rows) == Counter(b"%d" % i for i in range(100))

    def test_new_partitions_are_found_while_running(self, cluster: Cluster) -> None:
        topic = cluster.create()
        cluster.write(topic, [Record(b"one")])
        reader = opened(self.live(cluster, topic))
        rows = read(reader, lambda rows: bool(rows))
        try:
            cluster.add_partitions(topic, 2)
        except Exception as error:
            reader.close()
            pytest.skip(f"this broker cannot add partitions: {error}")
        cluster.write(topic, [Record(b"two", partition=1), Record(b"three", partition=0)])
        rows += read(reader, lambda more: len(more) >= 2)
        assert reader.get_checkpoint_mark().positions == {0: 2, 1: 1}
        reader.close()
        assert values(rows) == Counter([b"one", b"two", b"three"])

    def test_new_partitions_end_a_job_that_needs_keys_to_stay(self, cluster: Cluster) -> None:
        topic = cluster.create()
        cluster.write(topic, [Record(b"one")])
        reader = opened(self.live(cluster, topic, fixed=True))
        read(reader, bool)
        try:
            cluster.add_partitions(topic, 2)
        except Exception as error:
            reader.close()
            pytest.skip(f"this broker cannot add partitions: {error}")
        with pytest.raises(UserError, match="has 2 partitions now, and keys have moved"):
            read(reader, lambda rows: False)
        reader.close()

    def test_a_part_of_the_log_is_read_again_as_it_was(self, cluster: Cluster) -> None:
        if not self.exact_ends:
            pytest.skip("this broker's high watermarks are not exact")
        topic = cluster.create(2)
        cluster.write(topic, numbered(100, 2))
        if self.transactions:
            cluster.write_transaction(topic, numbered(5, 1, start=1000), commit=False)
            cluster.write_transaction(topic, numbered(5, 1, start=100), commit=True)
        before = metrics.STATE.snapshot()
        rows = read_all(self.bounded(cluster, topic))
        counted = metrics.STATE.snapshot()
        log = KafkaLog(cluster.transport(topic))
        ends = {p: max(row["offset"] for row in rows if row["partition"] == p) + 1 for p in (0, 1)}
        spans = {0: (3, ends[0] - 2), 1: (7, 7)}
        blocks = list(log.read(spans))
        again = [row for block in blocks for row in block.to_pylist()]
        assert again == [r for r in rows if r["partition"] == 0 and 3 <= r["offset"] < ends[0] - 2]
        stretches = [stretch.partitions[0] for stretch in map(stretch_of, blocks) if stretch]
        assert stretches[0][0] == 3
        assert stretches[-1][1] <= ends[0] - 2
        assert metrics.STATE.snapshot().counts == counted.counts != before.counts
        assert list(log.read({})) == []

    def test_where_the_log_is_to_be_read_again_from(self, cluster: Cluster) -> None:
        if not self.exact_ends:
            pytest.skip("this broker's offsets by time are not exact")
        topic = cluster.create(2)
        cluster.write(topic, numbered(40, 2))
        log = KafkaLog(cluster.transport(topic))
        assert log.begin({0: T0 + 20, 1: T0 + 20}) == {0: (10, False), 1: (10, False)}
        assert log.begin({0: -5, 1: T0 - 1}) == {0: (0, False), 1: (0, False)}
        cluster.delete_before(topic, 0, 5)
        assert log.begin({0: T0, 1: T0}) == {0: (5, True), 1: (0, False)}
        assert log.begin({0: T0 + 30}) == {0: (15, False)}

    def test_records_lost_to_retention_are_reported(self, cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
        topic = cluster.create()
        cluster.write(topic, numbered(20))
        try:
            cluster.delete_before(topic, 0, 12)
        except Exception as error:
            pytest.skip(f"this broker cannot delete records: {error}")
        source = self.live(cluster, topic).split(1)[0]
        with caplog.at_level(logging.WARNING):
            reader = source.create_reader(None, KafkaMark({0: 5}))
            rows = read(reader, lambda rows: len(rows) >= 8)
            reader.close()
        assert [row["offset"] for row in rows] == list(range(12, 20))
        assert "7 records are lost" in caplog.text
        reader = replace(source, on_lost="fail").create_reader(None, KafkaMark({0: 5}))
        with pytest.raises(UserError, match="offset 5 is no longer there"):
            read(reader, bool)
        reader.close()

    def test_drain_ends_a_live_read(self, cluster: Cluster) -> None:
        topic = cluster.create()
        cluster.write(topic, numbered(5))
        reader = opened(self.live(cluster, topic))
        read(reader, lambda rows: len(rows) >= 5)
        stop.request()
        cluster.write(topic, numbered(5))
        assert read(reader) == []
        assert reader.get_checkpoint_mark().positions == {0: 5}
        reader.close()

    def test_the_watermark_follows_the_slowest_partition_then_the_clock(self, cluster: Cluster) -> None:
        topic = cluster.create(2)
        cluster.write(
            topic, [Record(b"a", partition=0, timestamp_ms=T0 + 60_000), Record(b"b", partition=1, timestamp_ms=T0)]
        )
        reader = opened(self.live(cluster, topic, out_of_order_s=1.0, idle_s=0.3))
        rows = read(reader, lambda rows: len(rows) >= 2)
        assert len(rows) == 2
        assert reader.get_watermark() == Timestamp(T0 / 1000 - 1)
        deadline = time.monotonic() + TIMEOUT_S
        while reader.get_watermark() < Timestamp(time.time() - 10):
            assert time.monotonic() < deadline
            assert not reader.advance()
        reader.close()

    def test_a_time_out_of_range_ends_nothing(self, cluster: Cluster) -> None:
        topic = cluster.create()
        ends = [-(1 << 63), -5, 0, T0, 10**18, (1 << 63) - 1]
        times = [T0 + 1 if time == 0 else time for time in ends]  # a client writes its own time in place of 0
        cluster.write(topic, [Record(b"%d" % time, timestamp_ms=time) for time in times])
        reader = opened(self.live(cluster, topic, block_rows=1, out_of_order_s=1.0, idle_s=60.0))
        seen = []
        found = reader.start()
        deadline = time.monotonic() + TIMEOUT_S
        while len(seen) < len(times):
            if found:
                (millis,) = reader.get_current().column("timestamp").view(pa.int64()).to_pylist()
                seen.append(millis)
                _survives_the_runner(reader.get_current_timestamp())
                _survives_the_runner(reader.get_watermark())
                assert reader.get_watermark() <= Timestamp(time.time())
            assert time.monotonic() < deadline, seen
            found = reader.advance()
        reader.close()
        assert seen == times  # what the record says stays in its row

    def test_one_record_of_next_year_does_not_move_the_watermark(self, cluster: Cluster) -> None:
        topic = cluster.create()
        ahead = int(time.time() * 1000) + 365 * 86_400_000
        cluster.write(topic, [Record(b"a"), Record(b"b", timestamp_ms=ahead), Record(b"c", timestamp_ms=T0 + 7)])
        reader = opened(self.live(cluster, topic, out_of_order_s=1.0, idle_s=60.0))
        read(reader, lambda rows: len(rows) >= 3)
        assert reader.get_watermark() <= Timestamp(T0 / 1000 + 0.007 - 1)
        # Where there is nothing else, the clock is as far as it goes.
        cluster.write(topic, [Record(b"d", timestamp_ms=ahead)])
        read(reader, bool)
        deadline = time.monotonic() + TIMEOUT_S
        while reader.get_watermark() < Timestamp(time.time() - 70):
            assert time.monotonic() < deadline
            reader.advance()
        assert reader.get_watermark() <= Timestamp(time.time())
        reader.close()

    def test_a_missing_topic_is_a_user_error(self, cluster: Cluster) -> None:
        with pytest.raises(UserError, match="does not exist"):
            KafkaSource(cluster.transport("no-such-topic")).split(1)
