"""An in-memory cluster behind the source's own protocols; passes the contract suite without a broker."""

from __future__ import annotations

import bisect
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from confluent_kafka import KafkaError, KafkaException

from beam_jobs import metrics
from beam_jobs.block import raw_block
from beam_jobs.io.kafka.commits import Commits
from beam_jobs.io.kafka.fetch import (
    Committed,
    Control,
    Epochs,
    Fetched,
    Fetcher,
    Finished,
    Positions,
    Problem,
    Topic,
    Transport,
)
from tests.services.kafka_cluster import Record


@dataclass
class _Log:
    """One partition: (offset, record) of what may be read, ascending; the other offsets are markers or aborted."""

    rows: list[tuple[int, Record]] = field(default_factory=list)
    low: int = 0
    high: int = 0
    epochs: list[int] = field(default_factory=lambda: [0])  # first offset of each leader epoch

    def append(self, record: Record | None) -> None:
        if record is not None:
            self.rows.append((self.high, record))
        self.high += 1


class FakeCluster:
    """Topics in lists. ``away`` makes every question fail as if no broker were there."""

    def __init__(self) -> None:
        self.topics: dict[str, list[_Log]] = {}
        self.ids: dict[str, str] = {}  # topic -> id
        self.committed: dict[tuple[str, str, int], int] = {}  # (group, topic, partition) -> next offset
        self.committed_for: dict[tuple[str, str, int], tuple[str, int]] = {}  # the same -> topic id, leader epoch
        self.open_fetchers = 0
        self.away = False
        self.leaderless: set[int] = set()  # partitions that nobody leads
        self.refuses: KafkaError | None = None  # what commits are answered
        self.no_epochs = 0  # so many questions for the end of an epoch are not answered

    def create(self, partitions: int = 1) -> str:
        topic = f"topic-{len(self.topics)}"
        self.make(topic, partitions)
        return topic

    def make(self, topic: str, partitions: int = 1) -> None:
        self.topics[topic] = [_Log() for _ in range(partitions)]
        self.ids[topic] = uuid.uuid4().hex

    def delete(self, topic: str) -> None:
        del self.topics[topic]
        self.committed = {key: at for key, at in self.committed.items() if key[1] != topic}

    def move_group(self, group_id: str, topic: str, offsets: Mapping[int, int]) -> None:
        moved = {(group_id, topic, p): offset for p, offset in offsets.items()}
        self.committed |= moved
        self.committed_for |= dict.fromkeys(moved, ("", -1))

    def delete_group(self, group_id: str) -> None:
        self.committed = {key: at for key, at in self.committed.items() if key[0] != group_id}

    @contextmanager
    def join(self, group_id: str, topic: str) -> Iterator[None]:
        self.refuses = KafkaError(KafkaError.UNKNOWN_MEMBER_ID)
        yield
        self.refuses = None

    def group_offsets(self, group_id: str, topic: str) -> dict[int, int]:
        return {p: at for (group, name, p), at in self.committed.items() if (group, name) == (group_id, topic)}

    def add_partitions(self, topic: str, total: int) -> None:
        self.topics[topic] += [_Log() for _ in range(total - len(self.topics[topic]))]

    def write(self, topic: str, records: Sequence[Record]) -> None:
        for record in records:
            self.topics[topic][record.partition].append(record)

    def write_transaction(self, topic: str, records: Sequence[Record], commit: bool) -> None:
        for record in records:
            self.topics[topic][record.partition].append(record if commit else None)
        for partition in {record.partition for record in records}:
            self.topics[topic][partition].append(None)  # the marker

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        log = self.topics[topic][partition]
        log.low = offset
        log.rows = [row for row in log.rows if row[0] >= offset]

    def truncate(self, topic: str, partition: int, offset: int) -> None:
        """What an unclean election does: the new leader does not have the records from ``offset`` on."""
        log = self.topics[topic][partition]
        log.rows = [row for row in log.rows if row[0] < offset]
        log.high = offset
        log.epochs = [min(first, offset) for first in log.epochs] + [offset]

    def elect(self, topic: str, partition: int) -> None:
        """Another leader, which has all records."""
        log = self.topics[topic][partition]
        log.epochs.append(log.high)

    def transport(self, topic: str, group_id: str | None = None) -> Transport:
        return _FakeTransport(self, topic, group_id)


class _FakeTransport:
    def __init__(self, cluster: FakeCluster, topic: str, group_id: str | None) -> None:
        self._cluster, self._topic, self._group_id = cluster, topic, group_id
        self._commits = Commits(self, group_id)

    def __str__(self) -> str:
        return f"fake://{self._topic}"

    @contextmanager
    def control(self) -> Iterator[Control]:
        yield _FakeControl(self._cluster, self._topic, self._group_id, self._commits)

    def fetcher(self, lacking: str = "") -> Fetcher:
        return _FakeFetcher(self._cluster, self._topic)


class _FakeControl:
    def __init__(self, cluster: FakeCluster, topic: str, group_id: str | None, commits: Commits) -> None:
        self._cluster, self._topic, self._group_id, self._commits = cluster, topic, group_id, commits

    def _logs(self) -> list[_Log]:
        if self._cluster.away:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT, "away"))
        if self._topic not in self._cluster.topics:
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, "no such topic"))
        return self._cluster.topics[self._topic]

    def topic(self, timeout_s: float) -> Topic:
        partitions = list(range(len(self._logs())))
        return Topic(self._cluster.ids[self._topic], partitions)

    def bounds(self, partitions: Iterable[int], timeout_s: float) -> dict[int, tuple[int, int]]:
        logs = self._logs()
        return {p: (logs[p].low, logs[p].high) for p in partitions if p not in self._cluster.leaderless}

    def at_time(self, timestamp_ms: int, partitions: Iterable[int], timeout_s: float) -> dict[int, int | None]:
        return {
            p: next((offset for offset, record in self._logs()[p].rows if record.timestamp_ms >= timestamp_ms), None)
            for p in partitions
        }

    def delete_before(self, offsets: Mapping[int, int], timeout_s: float) -> None:
        for p, offset in offsets.items():
            self._cluster.delete_before(self._topic, p, max(offset, self._logs()[p].low))

    def committed(self, partitions: Iterable[int], timeout_s: float) -> dict[int, Committed]:
        cluster, keys = self._cluster, {p: (self._group_id or "", self._topic, p) for p in partitions}
        return {
            p: Committed(cluster.committed[key], *cluster.committed_for[key])
            for p, key in keys.items()
            if key in cluster.committed
        }

    def epoch_end(self, partition: int, epoch: int, timeout_s: float) -> int | None:
        log = self._logs()[partition]
        if self._cluster.no_epochs:
            self._cluster.no_epochs -= 1
            raise KafkaException(KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION, "not the leader"))
        return log.epochs[epoch + 1] if epoch + 1 < len(log.epochs) else log.high

    def begin(self, at: Positions, acknowledged: Mapping[int, int]) -> None:
        self._commits.begin(at, acknowledged)

    def commit(self, finished: Finished | None, wait_s: float) -> None:
        if self._group_id is None:
            return
        if finished is not None:
            self._commits.add(finished)
        todo = self._commits.next(time.monotonic())
        if not todo:
            return
        if self._cluster.refuses is not None:
            self._commits.failed(self._cluster.refuses, time.monotonic())
            return
        for p, offset in todo.items():
            key = self._group_id, self._topic, p
            self._cluster.committed[key] = offset
            self._cluster.committed_for[key] = self._commits.topic_id, self._commits.epochs[p]
        metrics.inc(metrics.RECORDS_COMMITTED, self._commits.succeeded())

    def refused(self, patience_s: float) -> str | None:
        return self._commits.refused(patience_s, time.monotonic())


class _FakeFetcher:
    def __init__(self, cluster: FakeCluster, topic: str) -> None:
        self._cluster, self._topic = cluster, topic
        self._positions: dict[int, int] = {}
        self._told: dict[int, int] = {}  # partition -> the end already reported
        cluster.open_fetchers += 1

    def assign(self, positions: Mapping[int, int]) -> None:
        self._positions, self._told = dict(positions), {}

    def stop(self, partitions: Iterable[int]) -> None:
        for partition in partitions:
            self._positions.pop(partition, None)

    def fetch(self, max_rows: int, wait_s: float, linger_s: float) -> Fetched:
        if self._cluster.away:
            return Fetched(unreadable=dict.fromkeys(self._positions, "away"))
        rows: list[tuple[int, int, Record]] = []
        ends: dict[int, int] = {}
        problems = []
        for p, position in list(self._positions.items()):
            log = self._cluster.topics[self._topic][p]
            if not log.low <= position <= log.high:
                problems.append(Problem(p, KafkaError._AUTO_OFFSET_RESET, "out of range"))
                del self._positions[p]
                continue
            first = bisect.bisect_left(log.rows, position, key=lambda row: row[0])
            found = log.rows[first : first + max_rows - len(rows)]
            rows += [(p, offset, record) for offset, record in found]
            if first + len(found) == len(log.rows):
                self._positions[p] = log.high
                if self._told.get(p) != log.high:
                    ends[p] = self._told[p] = log.high
            else:
                self._positions[p] = found[-1][0] + 1 if found else position
        if not rows:
            time.sleep(min(wait_s, 0.001))
            return Fetched(ends=ends, problems=problems)
        records = [record for _, _, record in rows]
        block = raw_block(
            self._topic,
            [p for p, _, _ in rows],
            [offset for _, offset, _ in rows],
            [record.timestamp_ms for record in records],
            [record.key for record in records],
            [record.value for record in records],
            [list(record.headers) or None for record in records],
        )
        epochs: dict[int, Epochs] = {}
        for p, offset, _ in rows:
            epoch = bisect.bisect_right(self._cluster.topics[self._topic][p].epochs, offset) - 1
            runs = epochs.setdefault(p, [])
            if runs and runs[-1][0] == epoch:
                runs.pop()
            runs.append((epoch, offset + 1))
        return Fetched(block, {p: offset + 1 for p, offset, _ in rows}, ends, problems, epochs=epochs)

    def close(self) -> None:
        self._cluster.open_fetchers -= 1
