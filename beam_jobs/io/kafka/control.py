"""The control connection to a Kafka cluster: what a topic is, where it begins and ends, a group's committed offsets.

An offset belongs to one topic *id*: a topic that is deleted and recreated counts from 0 again. It belongs to one
history of the log, too: an unclean election cuts records off, and others get their offsets. Each committed offset
carries both in the metadata string that Kafka keeps with it: the id, and the leader epoch of the record before it.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from beam_jobs import metrics
from beam_jobs.errors import UserError, one_line
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.commits import DENIED, Commits
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.fetch import CONSUMER_DEFAULTS, CONSUMER_RULES, Committed, DebugLog, Finished, Positions, Topic
from beam_jobs.io.kafka.wire.epochs import epoch_end

_LOGGER = logging.getLogger(__name__)

_NO_GROUP = "highbeam-no-group"  # librdkafka wants a group name; without commits nobody ever sees it
_METADATA = re.compile(r"topic-id=(\S+) leader-epoch=(-?[0-9]{1,10})")
_ATTEMPT_S = 1.0
_PARTITIONS_S = 3.0  # one broker that does not answer delays the answers of the others

REFUSED = frozenset({KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.SASL_AUTHENTICATION_FAILED})
NO_TOPIC = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION})
_UNSUPPORTED = frozenset({KafkaError.UNSUPPORTED_VERSION, KafkaError._UNSUPPORTED_FEATURE})
_REFUSALS = DENIED | REFUSED | _UNSUPPORTED
_ANSWERS = _REFUSALS | NO_TOPIC  # anything else passes, or does not: it is asked again


def consumer_properties(address: KafkaAddress, config: KafkaConfig, group_id: str | None) -> dict[str, Any]:
    """Properties of a consumer with secrets resolved: keep them on this worker."""
    return {
        **CONSUMER_DEFAULTS,
        **config.resolved(),
        **CONSUMER_RULES,
        "bootstrap.servers": address.bootstrap_servers,
        "group.id": group_id or _NO_GROUP,
    }


@contextmanager
def client_errors(address: KafkaAddress) -> Iterator[None]:
    """Turns what a client cannot be built from into a ``UserError``."""
    try:
        yield
    except KafkaException as error:
        reason = error.args[0].str() if error.args and isinstance(error.args[0], KafkaError) else str(error)
        raise UserError(f"{address}: Kafka setting refused: {reason}; check --kafka_config") from None


class KafkaControl:
    """See ``fetch.Control``."""

    def __init__(self, address: KafkaAddress, config: KafkaConfig, group_id: str | None, commits: Commits) -> None:
        self._address, self._topic, self._group_id = address, address.topic, group_id
        self._refusal: KafkaError | None = None  # what the calls' own errors don't say: why no broker talks to us
        with client_errors(address):
            self._properties = consumer_properties(address, config, group_id)
            self._watched = {**self._properties, "error_cb": self._on_error, "logger": DebugLog()}
            self._admin = AdminClient(self._watched)
            self._consumer = Consumer({**self._watched, "on_commit": self._on_commit})
        committed_only = self._properties.get("isolation.level", "read_committed") == "read_committed"
        self._isolation = IsolationLevel.READ_COMMITTED if committed_only else IsolationLevel.READ_UNCOMMITTED
        self._commits = commits  # outlives the connection
        self._complained: set[int] = set()

    def _on_error(self, error: KafkaError) -> None:
        if error.code() in REFUSED:
            self._refusal = error

    def topic(self, timeout_s: float) -> Topic:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                asked = self._admin.describe_topics(
                    TopicCollection([self._topic]), request_timeout=min(timeout_s, _ATTEMPT_S)
                )
                found = asked[self._topic].result()
                break
            except KafkaException as error:
                self._admin.poll(0)  # serves error_cb
                refusal, self._refusal = self._refusal, None
                if refusal is not None:
                    raise KafkaException(refusal) from None
                if error.args[0].code() in _ANSWERS or time.monotonic() >= deadline:
                    raise
                self._renew()
        self._refusal = None
        return Topic(_text(found.topic_id), sorted(partition.id for partition in found.partitions))

    def _renew(self) -> None:
        """Asks the brokers anew who is who: an admin client waits for minutes for a controller that is gone."""
        self._admin = AdminClient(self._watched)

    def bounds(self, partitions: Iterable[int], timeout_s: float) -> dict[int, tuple[int, int]]:
        wanted = list(partitions)
        low = self._list_offsets(dict.fromkeys(wanted, OffsetSpec.earliest()), timeout_s)
        high = self._list_offsets(dict.fromkeys(low, OffsetSpec.latest()), timeout_s)
        return {p: (low[p].offset, answer.offset) for p, answer in high.items()}

    def at_time(self, timestamp_ms: int, partitions: Iterable[int], timeout_s: float) -> dict[int, int | None]:
        spec = OffsetSpec.for_timestamp(max(0, timestamp_ms))  # Kafka reads -1 and -2 as the end and the start
        answers = self._list_offsets(dict.fromkeys(partitions, spec), timeout_s)
        found = {p: answer.offset if answer.offset >= 0 else None for p, answer in answers.items()}
        # Where the records of that time were deleted (retention, DeleteRecords), a broker finds one of those in its
        # index and answers that there is none, until their segment's file is gone.
        doubtful = [p for p, offset in found.items() if offset is None]
        try:
            newest = self._list_offsets(dict.fromkeys(doubtful, OffsetSpec.max_timestamp()), timeout_s)
        except KafkaException as error:
            if error.args[0].code() not in _UNSUPPORTED:
                raise
            _LOGGER.debug(
                "%s: the newest records are not known: %s", self._address, one_line(error)
            )  # before Kafka 3.0
            return found
        younger = [p for p, answer in newest.items() if answer.timestamp >= timestamp_ms]
        sure = {p: offset for p, offset in found.items() if offset is not None or p in newest.keys() - set(younger)}
        return sure | {p: low for p, (low, _) in self.bounds(younger, timeout_s).items()}

    def _list_offsets(self, specs: Mapping[int, OffsetSpec], timeout_s: float) -> dict[int, Any]:
        """Partition -> offset and timestamp of the record that its spec describes; who does not answer is left out.

        Raises:
          KafkaException: an answer that refuses, or nobody answers.
        """
        if not specs:
            return {}
        asked = {TopicPartition(self._topic, p): spec for p, spec in specs.items()}
        timeout_s = min(timeout_s, _PARTITIONS_S)
        answers = self._admin.list_offsets(asked, isolation_level=self._isolation, request_timeout=timeout_s)
        found, failure = {}, None
        for partition, answer in answers.items():
            try:
                result = answer.result()
            except KafkaException as error:
                failure = error
                if error.args[0].code() in _REFUSALS:
                    raise
                continue
            if result.offset == OFFSET_INVALID:  # the client's word for a broker that has not answered in time
                failure = KafkaException(KafkaError(KafkaError._TIMED_OUT, f"partition {partition.partition}"))
                continue
            found[partition.partition] = result
        if failure is not None:
            self._renew()
            if not found:
                raise failure
        return found

    def committed(self, partitions: Iterable[int], timeout_s: float) -> dict[int, Committed]:
        asked = [TopicPartition(self._topic, p) for p in partitions]
        return {
            answer.partition: Committed(answer.offset, *_metadata(answer.metadata))
            for answer in _checked(self._consumer.committed(asked, timeout_s))
            if answer.offset >= 0
        }

    def delete_before(self, offsets: Mapping[int, int], timeout_s: float) -> None:
        wanted = [TopicPartition(self._topic, p, offset) for p, offset in offsets.items()]
        for answer in self._admin.delete_records(wanted, request_timeout=timeout_s).values():
            answer.result()

    def epoch_end(self, partition: int, epoch: int, timeout_s: float) -> int | None:
        return epoch_end(self._properties, self._topic, partition, epoch, timeout_s)

    def begin(self, at: Positions, acknowledged: Mapping[int, int]) -> None:
        self._commits.begin(at, acknowledged)

    def commit(self, finished: Finished | None, wait_s: float) -> None:
        if self._group_id is None:
            return
        deadline = time.monotonic() + wait_s
        self._consumer.poll(0)  # serves the answer to an earlier commit
        if finished is not None:
            self._commits.add(finished)
        while True:
            todo = self._commits.next(time.monotonic())
            if todo:
                self._consumer.commit(
                    offsets=[self._offset(p, offset) for p, offset in todo.items()], asynchronous=True
                )
            left = deadline - time.monotonic()
            if left <= 0 or self._commits.done():
                return
            self._consumer.poll(min(left, 0.05))

    def _offset(self, partition: int, offset: int) -> TopicPartition:
        topic_id, epoch = self._commits.topic_id, self._commits.epochs.get(partition, -1)
        metadata = f"topic-id={topic_id} leader-epoch={epoch}" if topic_id else ""  # no id: brokers before 2.8
        return TopicPartition(self._topic, partition, offset, metadata)

    def refused(self, patience_s: float) -> str | None:
        return self._commits.refused(patience_s, time.monotonic())

    def _on_commit(self, error: KafkaError | None, partitions: list[Any]) -> None:
        failure = error or next((partition.error for partition in partitions if partition.error), None)
        if failure is None:
            self._complained.clear()
            metrics.inc(metrics.RECORDS_COMMITTED, self._commits.succeeded())
            metrics.inc(metrics.OFFSETS_COMMITTED)
            return
        self._commits.failed(failure, time.monotonic())
        metrics.inc(metrics.COMMIT_FAILURES)
        if failure.code() not in self._complained:  # once a kind: it is tried again
            self._complained.add(failure.code())
            _LOGGER.warning(
                "%s: committing offsets for group %s failed (%s); trying again",
                self._address,
                self._group_id,
                one_line(failure.str(), 300),
            )

    def close(self) -> None:
        self._consumer.close()
        self._commits.lost()


def _checked(answers: list[Any]) -> list[Any]:
    for answer in answers:
        if answer.error is not None:
            raise KafkaException(answer.error)
    return answers


def _text(uuid: Any) -> str:
    """A topic's id; "" for the zero that brokers before 2.8 give."""
    return str(uuid) if uuid.get_most_significant_bits() or uuid.get_least_significant_bits() else ""


def _metadata(text: str | None) -> tuple[str, int]:
    """Topic id and leader epoch in the metadata of a committed offset; "" and -1 where another program committed it."""
    found = _METADATA.fullmatch(text or "")
    return (found[1], int(found[2])) if found else ("", -1)
