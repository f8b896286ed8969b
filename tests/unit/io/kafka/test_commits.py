"""What is sent, counted and refused, without a cluster; tests/contract/positions.py has the rest."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from beam_jobs.errors import UserError
from beam_jobs.io.kafka import source as kafka_source
from beam_jobs.io.kafka.commits import LASTING, Commits
from beam_jobs.io.kafka.fetch import Finished, Positions
from beam_jobs.io.kafka.mark import HandedOut
from tests.contract.positions import finish
from tests.contract.reads import SourceSuite, numbered, opened, read
from tests.services.fake_kafka import FakeCluster


def test_a_commit_names_all_partitions_and_waits_for_its_answer() -> None:
    commits = Commits("t", "g")
    commits.begin(Positions("id", {0: 5, 1: 7}), {1: 7})
    assert commits.next(0.0) == {0: 5, 1: 7}
    commits.add(Finished(Positions("id", {0: 6, 1: 7}), "a", 1))
    assert commits.next(0.0) == {}  # in flight
    assert commits.succeeded() == 0  # sent before the record was finished
    assert not commits.done()
    assert commits.next(0.1) == {0: 6, 1: 7}
    assert commits.succeeded() == 1
    assert commits.done()


def test_nothing_new_is_committed_again_before_the_broker_forgets_it() -> None:
    commits = Commits("t", "g")
    commits.begin(Positions("id", {0: 5}), {})
    assert commits.next(0.0)
    commits.succeeded()
    assert not commits.next(599.0)
    assert commits.next(600.0) == {0: 5}


def test_a_failed_commit_is_tried_again_after_a_second() -> None:
    commits = Commits("t", "g")
    commits.begin(Positions("id", {0: 5}), {})
    commits.next(0.0)
    commits.failed(KafkaError(KafkaError.NOT_COORDINATOR), 0.1)
    assert not commits.next(0.9)
    assert commits.next(1.0) == {0: 5}
    commits.lost()  # the connection is closed: no answer will come
    assert commits.next(2.0) == {0: 5}


def test_marks_of_a_topic_that_is_gone_are_not_committed_for_the_new_one() -> None:
    commits = Commits("t", "g")
    commits.begin(Positions("old", {0: 90}), {0: 90})
    commits.begin(Positions("new", {0: 0}), {})
    commits.add(Finished(Positions("old", {0: 100}), "a", 10))  # finished late
    assert commits.topic_id == "new"
    assert commits.next(0.0) == {0: 0}


@pytest.mark.parametrize("topic_id", ["id", "new"])
def test_the_answer_to_a_commit_of_before_says_nothing_of_the_new_positions(topic_id: str) -> None:
    commits = Commits("t", "g")
    commits.begin(Positions("id", {0: 90}), {})
    assert commits.next(0.0) == {0: 90}
    commits.begin(Positions(topic_id, {0: 4}), {})
    assert commits.next(0.1) == {}
    commits.succeeded()
    assert commits.next(0.2) == {0: 4}


def test_positions_that_begin_anew_may_lie_behind() -> None:
    commits = Commits("t", "g")
    commits.begin(Positions("id", {0: 90, 1: 5}), {0: 90, 1: 5})
    commits.begin(Positions("id", {0: 40}), {})  # the log was truncated
    assert commits.next(0.0) == {0: 40, 1: 5}


@pytest.mark.parametrize("records", [[(1, 10), (1, 30), (1, 20)], [(1, 10), (2, 5), (1, 25)]])
def test_records_are_counted_once_in_whatever_order_bundles_are_final(records: list[tuple[int, int]]) -> None:
    commits = Commits("t", "g")
    commits.begin(Positions("id", {0: 0}), {})
    counted = 0
    for i, (session, handed) in enumerate(records):
        commits.add(Finished(Positions("id", {0: i + 1}), str(session), handed))
        commits.next(float(i))
        counted += commits.succeeded()
    assert counted == 30


@pytest.mark.parametrize("code", [c for c in range(-1, 134) if c and KafkaError(c).str()])
def test_a_refused_commit_ends_the_job_where_it_would_be_refused_again(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_source, "_REFUSED_S", 0.0)
    cluster = FakeCluster()
    topic = cluster.create()
    cluster.write(topic, numbered(10))
    reader = opened(SourceSuite().live(cluster, topic, "g", discover_s=0.0))
    read(reader, lambda rows: len(rows) >= 10)
    cluster.refuses = KafkaError(code)
    reader.get_checkpoint_mark().finalize_checkpoint()
    if code in LASTING:
        with pytest.raises(UserError, match=r"can't be committed for group g .*; a restart reads on from 0:0"):
            reader.advance()
    else:
        assert not reader.advance()
        cluster.refuses = None
        finish(reader)
    reader.close()


def test_what_a_lost_bundle_had_read_is_counted_once_its_records_are_finished_again() -> None:
    commits, first = Commits("kafka://a/t", "g"), HandedOut.of("a source")
    commits.begin(Positions("id", {0: 0}), {})

    def done(handed_out: HandedOut, records: int, offset: int) -> int:
        handed_out.add(records)
        at = Positions("id", {0: offset})
        commits.add(Finished(at, "a source", handed_out.in_all("id", at.offsets)))
        commits.next(0.0)
        return commits.succeeded()

    assert done(first, 10, 10) == 10
    first.add(5)
    first.in_all("id", {0: 15})  # handed out, and lost
    second = HandedOut.of("a source")
    assert done(second, 3, 13) == 0  # not past 15: some of the five may still be lost
    second.add(1)
    second.in_all("id", {0: 14})  # lost as well
    third = HandedOut.of("a source")
    assert done(third, 2, 15) == 5 + 3 + 1 + 2  # read so often in all, and all of it is committed
    assert done(HandedOut.of("a source"), 4, 19) == 4  # nothing was lost
