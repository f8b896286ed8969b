"""Positions: what is committed is what was finished, of this topic, by this group; on every cluster and fetch path."""

from __future__ import annotations

import logging
import uuid

import pytest

from beam_jobs import metrics, stop
from beam_jobs.errors import UserError
from beam_jobs.io.kafka import source as kafka_source
from beam_jobs.io.kafka.fetch import Finished, Positions
from beam_jobs.io.kafka.source import KafkaReader
from beam_jobs.io.position import EARLIEST, LATEST, OffsetSpec
from tests.contract.reads import T0, Rows, SourceSuite, numbered, opened, read, values
from tests.services.kafka_cluster import Cluster, Record


def group() -> str:
    """A name no other test has."""
    return f"group-{uuid.uuid4().hex[:12]}"


def finish(reader: KafkaReader) -> None:
    """The job ends as Ctrl-C ends it, its last commit made."""
    stop.request()
    while reader.advance():
        pass
    mark = reader.get_checkpoint_mark()
    assert mark.final
    mark.finalize_checkpoint()
    reader.close()
    stop.reset()


def offsets(rows: Rows) -> list[tuple[int, int]]:
    return [(row["partition"], row["offset"]) for row in rows]


class PositionsContract(SourceSuite):
    """One test a promise."""

    def run(self, reader: KafkaReader) -> Rows:
        """A bounded job, to its end and its last commit; no mark lies behind the end."""
        rows: Rows = []
        found = reader.start()
        while True:
            while found:
                rows += reader.get_current().to_pylist()
                found = reader.advance()
            mark = reader.get_checkpoint_mark()
            assert mark.ends is not None
            assert all(offset <= mark.ends[p] for p, offset in mark.positions.items())
            if mark.final:
                mark.finalize_checkpoint()
                reader.close()
                return rows
            found = reader.advance()

    @pytest.mark.parametrize("block_rows", [7, 1000])
    def test_a_backfill_in_parts_reads_every_record_once(self, cluster: Cluster, block_rows: int) -> None:
        if not self.exact_ends:
            pytest.skip("this broker's high watermarks are not exact, and an end is checked against them")
        topic, g = cluster.create(2), group()
        cluster.write(topic, numbered(100, 2))
        rows: Rows = []
        for until in ("0:10,1:0", "0:11,1:30", str(T0 + 80), "latest", "0:5,1:5"):
            source = self.bounded(cluster, topic, g, until=OffsetSpec.parse(until), block_rows=block_rows).split(1)[0]
            if until == "latest":
                cluster.write(topic, numbered(10, 2, start=100))  # after the end was decided
            rows += self.run(source.create_reader(None, None))
            at = cluster.group_offsets(g, topic)
            assert sorted(offsets(rows)) == [(p, offset) for p in (0, 1) for offset in range(at.get(p, 0))]
        assert cluster.group_offsets(g, topic) == {0: 50, 1: 50}
        rows += self.run(opened(self.bounded(cluster, topic, g)))
        assert sorted(offsets(rows)) == [(p, offset) for p in (0, 1) for offset in range(55)]

    def test_records_that_come_while_a_bounded_job_runs_are_the_next_ones(self, cluster: Cluster) -> None:
        topic, g, rows = cluster.create(), group(), []
        for i in range(4):
            cluster.write(topic, [Record(b"early %d" % i)])
            source = self.bounded(cluster, topic, g).split(1)[0]
            cluster.write(topic, [Record(b"late %d" % i)])
            rows += self.run(source.create_reader(None, None))
        rows += self.run(opened(self.bounded(cluster, topic, g)))
        assert [offset for _, offset in offsets(rows)] == list(range(8))

    def test_what_is_committed_is_counted_once(self, cluster: Cluster) -> None:
        topic, g = cluster.create(2), group()
        cluster.write(topic, numbered(500, 2))
        before = metrics.STATE.snapshot()[metrics.RECORDS_COMMITTED]
        reader = opened(self.live(cluster, topic, g, block_rows=100))
        read(reader, lambda rows: len(rows) >= 200)
        reader.get_checkpoint_mark().finalize_checkpoint()
        read(reader, lambda rows: len(rows) >= 300)
        finish(reader)
        assert metrics.STATE.snapshot()[metrics.RECORDS_COMMITTED] == before + 500

    def test_commits_never_go_back(self, cluster: Cluster) -> None:
        topic, g = cluster.create(), group()
        cluster.write(topic, numbered(10))
        with cluster.transport(topic, g).control() as control:
            topic_id = control.topic(10).id
            for offset in (7, 3):
                control.commit(Finished(Positions(topic_id, {0: offset}), "reader", offset), 10)
        assert cluster.group_offsets(g, topic) == {0: 7}

    def test_a_group_moved_back_is_read_from_there(self, cluster: Cluster) -> None:
        topic, g = cluster.create(), group()
        cluster.write(topic, numbered(20))
        finish(self.after(opened(self.live(cluster, topic, g)), 20))
        cluster.move_group(g, topic, {0: 5})
        reader = opened(self.live(cluster, topic, g))
        rows = read(reader, lambda rows: len(rows) >= 15)
        assert [offset for _, offset in offsets(rows)] == list(range(5, 20))
        finish(reader)
        assert cluster.group_offsets(g, topic) == {0: 20}

    def test_a_start_at_the_end_is_a_position_from_then_on(
        self, cluster: Cluster, caplog: pytest.LogCaptureFixture
    ) -> None:
        if not self.exact_ends:
            pytest.skip("this broker's high watermarks are not exact")
        topic, g = cluster.create(2), group()
        cluster.write(topic, numbered(10, 2))
        with caplog.at_level(logging.WARNING):
            opened(self.live(cluster, topic, g, start=LATEST)).close()  # ended before a record came
        assert "no committed offset for partitions 0, 1" in caplog.text
        assert "up to 10 records that are there already are not read" in caplog.text
        caplog.clear()
        cluster.write(topic, numbered(4, 2, start=10))
        reader = opened(self.live(cluster, topic, g, start=LATEST))
        rows = read(reader, lambda rows: len(rows) >= 4)
        finish(reader)
        assert sorted(offsets(rows)) == [(0, 5), (0, 6), (1, 5), (1, 6)]
        assert not caplog.text

    def test_a_group_deleted_under_the_job_is_whole_again(self, cluster: Cluster) -> None:
        topic, g = cluster.create(2), group()
        cluster.write(topic, numbered(20, 2))
        reader = self.after(opened(self.live(cluster, topic, g)), 20)
        reader.get_checkpoint_mark().finalize_checkpoint()
        with cluster.transport(topic, g).control() as control:
            control.commit(None, 10)  # the answer to the commit before
        try:
            cluster.delete_group(g)
        except Exception as error:
            reader.close()
            pytest.skip(f"this broker cannot delete groups: {error}")
        cluster.write(topic, [Record(b"one more", partition=1)])
        finish(self.after(reader, 1))
        assert cluster.group_offsets(g, topic) == {0: 10, 1: 11}

    @pytest.mark.parametrize("again", [4, 15, 40])  # records of the new topic: fewer, and more, than were read before
    def test_a_topic_made_anew_is_read_from_its_first_record(
        self, cluster: Cluster, again: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        if not self.topic_ids:
            pytest.skip("this broker gives topics no ids")
        topic, g = cluster.create(), group()
        cluster.write(topic, numbered(10))
        reader = self.after(opened(self.live(cluster, topic, g)), 10)
        reader.get_checkpoint_mark().finalize_checkpoint()
        with caplog.at_level(logging.WARNING):
            cluster.delete(topic)
            cluster.make(topic)
            cluster.write(topic, numbered(again, start=1000))
            rows: Rows = read(reader, lambda rows: set(values(rows)) >= {b"%d" % i for i in range(1000, 1000 + again)})
        assert max(values(rows).values()) <= 2  # before the job has seen it, it may go on where it was
        assert caplog.text.count("made anew") == 1
        assert "reading goes on at its first record" in caplog.text
        finish(reader)
        assert cluster.group_offsets(g, topic) == {0: again}
        cluster.write(topic, numbered(3, start=2000))
        reader = opened(self.live(cluster, topic, g))
        assert set(values(read(reader, lambda rows: len(rows) >= 3))) == {b"2000", b"2001", b"2002"}
        finish(reader)

    def test_an_offset_of_an_earlier_topic_of_that_name_is_none(
        self, cluster: Cluster, caplog: pytest.LogCaptureFixture
    ) -> None:
        if not self.topic_ids:
            pytest.skip("this broker gives topics no ids")
        topic, g = cluster.create(), group()
        with cluster.transport(topic, g).control() as control:
            old = control.topic(10).id
        cluster.delete(topic)
        cluster.make(topic)
        cluster.write(topic, numbered(20))
        with cluster.transport(topic, g).control() as control:
            control.begin(Positions(old, {0: 5}), {})
            control.commit(None, 10)  # as a job does that has not seen it yet
        assert cluster.group_offsets(g, topic) == {0: 5}
        for source in (self.live(cluster, topic, g, start=LATEST), self.bounded(cluster, topic, g, start=EARLIEST)):
            with caplog.at_level(logging.WARNING):
                reader = opened(source)
                assert len(read(reader, lambda rows: len(rows) >= 20)) == 20
            reader.close()
            assert old in caplog.text
            with cluster.transport(topic, g).control() as control:
                control.begin(Positions(old, {0: 5}), {})
                control.commit(None, 10)
        with pytest.raises(UserError, match="made anew"):
            opened(self.live(cluster, topic, g, on_lost="fail"))

    def test_a_topic_made_anew_ends_a_bounded_read(self, cluster: Cluster) -> None:
        if not self.topic_ids:
            pytest.skip("this broker gives topics no ids")
        topic, g = cluster.create(), group()
        cluster.write(topic, numbered(50))
        reader = opened(self.bounded(cluster, topic, g, block_rows=10, discover_s=0.0))
        read(reader, bool)
        cluster.delete(topic)
        cluster.make(topic)
        cluster.write(topic, numbered(100))
        with pytest.raises(UserError, match="made anew while it was read"):
            read(reader)
        reader.close()

    def truncatable(self, cluster: Cluster) -> None:
        if not hasattr(cluster, "truncate"):
            pytest.skip("a real one: tests/integration/test_kafka_truncation.py")

    @pytest.mark.parametrize("again", [0, 1, 19, 21, 60])  # records in place of the 20 that were cut off
    @pytest.mark.parametrize("down", [False, True])
    def test_records_in_place_of_those_that_were_cut_off_are_read(
        self, cluster: Cluster, again: int, down: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.truncatable(cluster)
        topic, g = cluster.create(2), group()
        cluster.write(topic, numbered(200, 2))
        reader = self.after(opened(self.live(cluster, topic, g, block_rows=7)), 200)
        if down:
            finish(reader)
        cluster.truncate(topic, 0, 80)
        cluster.write(topic, [Record(b"new %d" % i) for i in range(again)])
        if down:
            reader = opened(self.live(cluster, topic, g))
        with caplog.at_level(logging.WARNING):
            cluster.write(topic, [Record(b"last", partition=1)])
            rows = read(reader, lambda rows: set(values(rows)) >= {b"last", *(b"new %d" % i for i in range(again))})
        assert sorted(offsets(rows)) == [*((0, 80 + i) for i in range(again)), (1, 100)]
        assert caplog.text.count("from offset 80 on are no longer there, the log was truncated") == 1
        finish(reader)
        assert cluster.group_offsets(g, topic) == {0: 80 + again, 1: 101}

    def test_as_many_in_place_are_seen_with_the_next_record(self, cluster: Cluster) -> None:
        self.truncatable(cluster)
        topic = cluster.create()
        cluster.write(topic, numbered(100))
        reader = self.after(opened(self.live(cluster, topic)), 100)
        cluster.truncate(topic, 0, 80)
        cluster.write(topic, numbered(20, start=1000))
        assert not reader.advance()
        cluster.write(topic, numbered(1, start=1020))
        rows = read(reader, lambda rows: len(rows) >= 21)
        assert set(values(rows)) == {b"%d" % i for i in range(1000, 1021)}

    def test_a_new_leader_with_all_records_is_no_truncation(
        self, cluster: Cluster, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.truncatable(cluster)
        topic = cluster.create()
        cluster.write(topic, numbered(50))
        reader = opened(self.live(cluster, topic, block_rows=20))
        rows = read(reader, lambda rows: len(rows) >= 20)
        cluster.elect(topic, 0)
        cluster.write(topic, numbered(50, start=50))
        with caplog.at_level(logging.WARNING):
            rows += read(reader, lambda more: len(more) + len(rows) >= 100)
        assert [offset for _, offset in offsets(rows)] == list(range(100))
        assert not caplog.text

    @pytest.mark.parametrize(("cut", "until"), [(False, None), (True, None), (True, LATEST)])
    def test_a_new_leader_that_does_not_answer_is_asked_again(
        self,
        cluster: Cluster,
        cut: bool,
        until: OffsetSpec | None,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        self.truncatable(cluster)
        monkeypatch.setattr(kafka_source, "_AGAIN_S", 0.0)
        monkeypatch.setattr("beam_jobs.io.reading._PATIENCE_S", 0.0)
        topic, g = cluster.create(2), group()
        cluster.write(topic, numbered(200, 2))
        reader = opened(self.live(cluster, topic, g, until=until, block_rows=60))
        read(reader, lambda rows: len(rows) >= 60)  # of partition 0
        if cut:
            cluster.truncate(topic, 0, 50)
        else:
            cluster.elect(topic, 0)
        cluster.write(topic, [Record(b"new %d" % i) for i in range(40)])
        cluster.no_epochs = 5
        start, new, end = (50, 50, 90) if cut else (60, 100, 140)
        with caplog.at_level(logging.WARNING):
            rows = read(reader, lambda rows: until is None and len(rows) >= end - start + 100)
        assert cluster.no_epochs == 0
        assert [offset for p, offset in offsets(rows) if p == 0] == list(range(start, end))
        assert [offset for p, offset in offsets(rows) if p == 1] == list(range(100))
        assert [row["value"] for row in rows if b"new" in row["value"]] == [b"new %d" % i for i in range(end - new)]
        assert caplog.text.count("partition 0 can't be read (whether its new leader has all records") == 1
        assert caplog.text.count("the log was truncated") == cut
        finish(reader)
        assert cluster.group_offsets(g, topic) == {0: end, 1: 100}

    @pytest.mark.parametrize("again", [0, 5, 15, 40])  # records in place of the 20 that were cut off before its end
    @pytest.mark.parametrize("at", [70, 80, 90])  # where the reading stands
    def test_a_bounded_read_ends_where_a_log_ends_that_was_cut(
        self, cluster: Cluster, again: int, at: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.truncatable(cluster)
        topic, g = cluster.create(2), group()
        cluster.write(topic, numbered(200, 2))
        reader = opened(self.bounded(cluster, topic, g, block_rows=at, discover_s=0.0))
        assert len(read(reader, lambda rows: len(rows) >= at)) == at
        cluster.truncate(topic, 0, 80)
        cluster.write(topic, [Record(b"new %d" % i) for i in range(again)])
        with caplog.at_level(logging.WARNING):
            rows = read(reader)
        end = min(80 + again, 100)
        assert [offset for p, offset in offsets(rows) if p == 0] == list(range(min(at, 80), end))
        assert [offset for p, offset in offsets(rows) if p == 1] == list(range(100))
        finish(reader)
        assert cluster.group_offsets(g, topic) == {0: end, 1: 100}
        if at <= 80 and again < 20:
            assert f"the log ends at offset {end}, it ended at 100 when the reading began" in caplog.text

    def test_a_truncated_log_can_end_the_job(self, cluster: Cluster) -> None:
        self.truncatable(cluster)
        topic = cluster.create()
        cluster.write(topic, numbered(50))
        reader = self.after(opened(self.live(cluster, topic, on_lost="fail")), 50)
        cluster.truncate(topic, 0, 30)
        cluster.write(topic, numbered(40))
        with pytest.raises(UserError, match=r"from offset 30 on .*truncated"):
            read(reader)
        reader.close()

    def test_a_time_whose_records_are_deleted_is_the_first_one_left(self, cluster: Cluster) -> None:
        if not self.exact_ends:
            pytest.skip("this broker's offsets by time are not exact")
        topic = cluster.create()
        # Of several segments: a broker looks the time up in the index of one whose records are deleted, as long as its
        # file is there, and answers that there is none.
        cluster.write(topic, [Record(bytes(300_000), timestamp_ms=T0 + i) for i in range(60)])
        cluster.delete_before(topic, 0, 40)
        for asked, expected in ((T0, 40), (T0 + 10, 40), (T0 + 50, 50), (T0 + 59, 59), (T0 + 60, 60)):
            spec = OffsetSpec.parse(str(asked))
            first = self.live(cluster, topic, start=spec).split(1)[0].first
            assert first is not None
            assert first.positions == {0: expected}, asked

    def test_offsets_the_topic_does_not_have_are_told(self, cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
        if not self.exact_ends:
            pytest.skip("this broker's high watermarks are not exact, and a start is checked against them")
        topic = cluster.create()
        cluster.write(topic, numbered(60))
        cluster.delete_before(topic, 0, 40)
        for asked, found in (("0:7", 40), ("0:999", 60)):
            caplog.clear()
            first = self.live(cluster, topic, start=OffsetSpec.parse(asked)).split(1)[0].first
            assert first is not None
            assert first.positions == {0: found}
            assert f"no offset {asked[2:]} in partition 0, which has 40 to 60: reading begins at {found}" in caplog.text
        caplog.clear()
        self.bounded(cluster, topic, start=OffsetSpec.parse("0:40"), until=OffsetSpec.parse("0:61")).split(1)
        (message,) = [message for message in caplog.messages if "there is no offset" in message]
        assert message.endswith("no offset 61 in partition 0, which has 40 to 60: reading ends at 60")

    def test_a_group_with_members_is_refused_at_the_start(self, cluster: Cluster) -> None:
        if not self.members:
            pytest.skip("this broker's groups take too long")
        topic, g = cluster.create(), group()
        cluster.write(topic, numbered(10))
        with (
            cluster.join(g, topic),
            pytest.raises(
                UserError, match=f"{g}.*another consumer is a member of the group.*choose another --group_id"
            ),
        ):
            opened(self.live(cluster, topic, g))

    def test_a_member_that_joins_ends_the_job_and_says_where_a_restart_reads(
        self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not self.members:
            pytest.skip("this broker's groups take too long")
        monkeypatch.setattr(kafka_source, "_REFUSED_S", 0.0)
        topic, g = cluster.create(), group()
        cluster.write(topic, numbered(10))
        reader = self.after(opened(self.live(cluster, topic, g)), 10)
        reader.get_checkpoint_mark().finalize_checkpoint()
        with cluster.transport(topic, g).control() as control:
            control.commit(None, 10)
        with cluster.join(g, topic):
            cluster.write(topic, numbered(5))
            self.after(reader, 5).get_checkpoint_mark().finalize_checkpoint()
            with cluster.transport(topic, g).control() as control:
                control.commit(None, 10)
            with pytest.raises(UserError, match="a restart reads on from 0:10"):
                read(reader)
        reader.close()

    def after(self, reader: KafkaReader, rows: int) -> KafkaReader:
        """The reader, once it has read so many records."""
        read(reader, lambda found: len(found) >= rows)
        return reader
