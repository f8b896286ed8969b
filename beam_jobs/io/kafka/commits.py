"""What a consumer group's offsets are to be, and what the cluster has acknowledged of it. No connection here."""

from __future__ import annotations

from collections.abc import Mapping

from confluent_kafka import KafkaError

from beam_jobs.io.kafka.fetch import Finished, Positions

_REFRESH_S = 600.0  # brokers forget a group's offsets after days without a commit (offsets.retention.minutes)
_RETRY_S = 1.0  # until a commit that failed is tried again: a job that has nothing new asks with every poll

DENIED = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
_MEMBERS = frozenset(  # what the coordinator answers to one who is no member while the group has some
    {
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.FENCED_MEMBER_EPOCH,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.UNRELEASED_INSTANCE_ID,
        KafkaError.GROUP_SUBSCRIBED_TO_TOPIC,
    }
)
_NEVER = frozenset(  # the same commit will be refused again
    {
        KafkaError.INVALID_GROUP_ID,
        KafkaError.GROUP_ID_NOT_FOUND,
        KafkaError.OFFSET_METADATA_TOO_LARGE,
        KafkaError.INVALID_COMMIT_OFFSET_SIZE,
        KafkaError.UNSUPPORTED_VERSION,
        KafkaError.INVALID_REQUEST,
    }
)
LASTING = DENIED | _MEMBERS | _NEVER
"""Codes of a commit that does not succeed by itself."""


class Commits:
    """The next offsets that are finished, of one group and topic, and those that the cluster has acknowledged.

    Every commit names all partitions: a group that was deleted, or whose offsets the broker has dropped after days
    without a commit, is whole again.
    """

    def __init__(self, address: object, group_id: str | None) -> None:
        self._address, self._group_id = address, group_id
        self.topic_id = ""
        self.epochs: dict[int, int] = {}  # partition -> leader epoch of the record before what is finished
        self._acknowledged: dict[int, int] = {}  # partition -> the group's offset
        self._finished: dict[int, int] = {}  # partition -> highest next offset that is finished
        self._gone: set[str] = set()  # ids of topics that had this name before
        self._sent: dict[int, int] | None = None  # in flight
        self._tried_at = float("-inf")
        self._failure: KafkaError | None = None
        self._failing_since = 0.0
        self._records: dict[str, int] = {}  # session -> records it has finished
        self._sent_records = self._committed_records = 0

    def begin(self, at: Positions, acknowledged: Mapping[int, int]) -> None:
        """Reading begins at these positions: forgets what came before, which may lie behind them.

        Args:
          acknowledged: what the group has of these partitions, committed for this topic.
        """
        self._use(at.topic_id)
        for partition, offset in at.offsets.items():
            self._finished[partition] = offset
            self.epochs[partition] = at.epochs.get(partition, -1)
            self._acknowledged.pop(partition, None)
            if self._sent is not None:
                self._sent.pop(partition, None)  # its answer says nothing of the new position
        self._acknowledged |= acknowledged
        self._failure = None
        self._tried_at = float("-inf")

    def add(self, finished: Finished) -> None:
        """Takes on what a bundle has finished; never back. Of a topic that is gone nothing is left to commit."""
        at = finished.at
        if at.topic_id in self._gone:
            return
        self._use(at.topic_id)
        for partition, offset in at.offsets.items():
            if offset >= self._finished.get(partition, -1):
                self._finished[partition] = offset
                self.epochs[partition] = at.epochs.get(partition, -1)
        self._records[finished.session] = max(finished.records, self._records.get(finished.session, 0))

    def _use(self, topic_id: str) -> None:
        if topic_id != self.topic_id:
            self._gone.add(self.topic_id)
            self._gone -= {topic_id, ""}
            self.topic_id, self._finished, self._acknowledged, self.epochs = topic_id, {}, {}, {}
            if self._sent is not None:
                self._sent = {}

    def next(self, now: float) -> dict[int, int]:
        """What to send: nothing while a commit is in flight, or when there is nothing new and the last one is young."""
        if self._sent is not None or not self._finished:
            return {}
        age = now - self._tried_at
        if age < (_RETRY_S if self._failure else 0.0) or (self._is_acknowledged() and age < _REFRESH_S):
            return {}
        self._tried_at = now
        # Another instance of the job, or one before, may have come further in a partition that stands still here.
        self._sent = {p: max(offset, self._acknowledged.get(p, -1)) for p, offset in self._finished.items()}
        self._sent_records = sum(self._records.values())
        return dict(self._sent)

    def done(self) -> bool:
        """Whether nothing is left to be waited for."""
        return self._sent is None and self._is_acknowledged()

    def _is_acknowledged(self) -> bool:
        return all(offset <= self._acknowledged.get(p, -1) for p, offset in self._finished.items())

    def succeeded(self) -> int:
        """What was sent is acknowledged; returns how many finished records that commits for the first time."""
        sent, self._sent = self._sent or {}, None
        for partition, offset in sent.items():
            self._acknowledged[partition] = max(offset, self._acknowledged.get(partition, -1))
        self._failure = None
        records, self._committed_records = self._sent_records - self._committed_records, self._sent_records
        return records

    def lost(self) -> None:
        """The connection is closed: nothing will be heard of what was sent."""
        self._sent = None

    def failed(self, error: KafkaError, now: float) -> None:
        """What was sent is refused, or got lost."""
        self._sent = None
        if self._failure is None or self._failure.code() not in LASTING:
            self._failing_since = now
        self._failure = error

    def refused(self, patience_s: float, now: float) -> str | None:
        """See ``fetch.Control.refused``."""
        error = self._failure
        if error is None or error.code() not in LASTING or now - self._failing_since < patience_s:
            return None
        if error.code() in _MEMBERS:
            remedy = "another consumer is a member of the group: end it, or choose another --group_id"
        elif error.code() in DENIED:
            remedy = "grant this user READ on the group and on the topic, or choose another --group_id"
        else:
            remedy = "choose another --group_id"
        at = ", ".join(f"{p}:{offset}" for p, offset in sorted(self._acknowledged.items()))
        restart = f"a restart reads on from {at}" if at else "the group has no offset here: a restart begins at --from"
        what = f"{self._address}: offsets can't be committed for group {self._group_id} ({error.str()})"
        return f"{what}; {remedy}; {restart}"
