"""Talking to a Kafka cluster beside the data: where to start, what to commit, and whether it can be reached at all."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AclOperation, AdminClient, NewTopic

from beam_jobs import metrics
from beam_jobs.errors import UnreachableError, UserError
from beam_jobs.io.idle import IdleCache
from beam_jobs.io.kafka_config import KafkaConfig
from beam_jobs.io.kafka_connection import not_understood
from beam_jobs.io.kafka_fetch import CONSUMER_DEFAULTS, CONSUMER_RULES, ClientFetcher, Control, DebugLog, Fetcher
from beam_jobs.io.kafka_wire import WireFetcher
from beam_jobs.io.uri import KafkaAddress

_LOGGER = logging.getLogger(__name__)

FetchPath = Literal["auto", "client", "wire"]

CHECK_TIMEOUT_S = 8.0  # a broker that needs longer than this to answer is as good as down
_NO_GROUP = "highbeam-no-group"  # librdkafka wants a group name; without commits nobody ever sees it

DENIED = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
NO_TOPIC = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION})
_REFUSED = frozenset({KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.SASL_AUTHENTICATION_FAILED})


def consumer_properties(address: KafkaAddress, config: KafkaConfig, group_id: str | None) -> dict[str, Any]:
    """Properties of a consumer with secrets resolved: keep them on this worker."""
    return {
        **CONSUMER_DEFAULTS,
        **config.resolved(),
        **CONSUMER_RULES,
        "bootstrap.servers": address.bootstrap_servers,
        "group.id": group_id or _NO_GROUP,
    }


@dataclass(frozen=True)
class KafkaTransport:
    """How a source reaches its topic; picklable, without secrets."""

    address: KafkaAddress
    config: KafkaConfig
    group_id: str | None = None  # None: offsets are neither looked up nor committed
    fetch: FetchPath = "auto"

    def __str__(self) -> str:
        return str(self.address)

    @contextmanager
    def control(self) -> Iterator[Control]:
        key = (self.address, self.config, self.group_id)
        with _control_lock(key):
            control = CONTROLS.take(key) or _KafkaControl(self)
            try:
                yield control
            finally:
                CONTROLS.park(key, control)

    def fetcher(self) -> Fetcher:
        properties = consumer_properties(self.address, self.config, self.group_id)
        foreign = not_understood(properties)
        if self.fetch == "wire" and foreign:
            raise UserError(
                f"{self.address}: --fetch wire does not understand {foreign}; leave --fetch out, or use client"
            )
        if self.fetch == "client" or foreign:
            with client_errors(self.address):
                return ClientFetcher(self.address.topic, properties)
        return WireFetcher(self.address.topic, properties)


class _KafkaControl:
    def __init__(self, transport: KafkaTransport) -> None:
        self._topic = transport.address.topic
        self._group_id = transport.group_id
        self._address = transport.address
        self._refusal: KafkaError | None = None  # what the calls' own errors don't say: why no broker talks to us
        with client_errors(transport.address):
            self._consumer = Consumer(
                {
                    **consumer_properties(transport.address, transport.config, transport.group_id),
                    "error_cb": self._on_error,
                    "on_commit": self._on_commit,
                    "logger": DebugLog(),
                }
            )
        self._wanted: dict[int, int] = {}  # highest next offset handed to commit()
        self._done: dict[int, int] = {}  # highest next offset the cluster acknowledged
        self._in_flight = False
        self._complained: set[int] = set()

    def _on_error(self, error: KafkaError) -> None:
        if error.code() in _REFUSED:
            self._refusal = error

    def partitions(self, timeout_s: float) -> list[int]:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                topic = self._consumer.list_topics(self._topic, min(timeout_s, 1.0)).topics[self._topic]
                break
            except KafkaException:
                self._consumer.poll(0)  # serves error_cb
                refusal, self._refusal = self._refusal, None
                if refusal is not None:
                    raise KafkaException(refusal) from None
                if time.monotonic() >= deadline:
                    raise
        self._refusal = None
        if topic.error is not None:
            raise KafkaException(topic.error)
        return sorted(topic.partitions)

    def bounds(self, partitions: Iterable[int], timeout_s: float) -> dict[int, tuple[int, int]]:
        return {p: self._consumer.get_watermark_offsets(TopicPartition(self._topic, p), timeout_s) for p in partitions}

    def at_time(self, timestamp_ms: int, partitions: Iterable[int], timeout_s: float) -> dict[int, int | None]:
        # Kafka reads -1 and -2 as "the end" and "the start".
        asked = [TopicPartition(self._topic, p, max(0, timestamp_ms)) for p in partitions]
        return {
            answer.partition: answer.offset if answer.offset >= 0 else None
            for answer in _checked(self._consumer.offsets_for_times(asked, timeout_s))
        }

    def committed(self, partitions: Iterable[int], timeout_s: float) -> dict[int, int]:
        asked = [TopicPartition(self._topic, p) for p in partitions]
        found = {
            answer.partition: answer.offset
            for answer in _checked(self._consumer.committed(asked, timeout_s))
            if answer.offset >= 0
        }
        # A new start: an operator may have moved the group back on purpose.
        self._wanted, self._done = {}, {}
        return found

    def commit(self, positions: Mapping[int, int], wait_s: float) -> None:
        if self._group_id is None:
            return
        for partition, offset in positions.items():
            self._wanted[partition] = max(offset, self._wanted.get(partition, -1))
        deadline = time.monotonic() + wait_s
        self._consumer.poll(0)  # serves the answer to an earlier commit
        while True:
            if not self._in_flight:
                todo = {p: offset for p, offset in self._wanted.items() if offset > self._done.get(p, -1)}
                if not todo:
                    return
                self._in_flight = True
                self._consumer.commit(
                    offsets=[TopicPartition(self._topic, p, offset) for p, offset in todo.items()], asynchronous=True
                )
            left = deadline - time.monotonic()
            if left <= 0:
                return
            self._consumer.poll(min(left, 0.05))

    def _on_commit(self, error: KafkaError | None, partitions: list[Any]) -> None:
        self._in_flight = False
        failure = error or next((partition.error for partition in partitions if partition.error), None)
        if failure is None:
            for partition in partitions:
                self._done[partition.partition] = max(partition.offset, self._done.get(partition.partition, -1))
            metrics.inc(metrics.OFFSETS_COMMITTED)
            return
        metrics.inc(metrics.COMMIT_FAILURES)
        if failure.code() not in self._complained:  # once a kind: it is retried with every bundle
            self._complained.add(failure.code())
            _LOGGER.warning(
                "%s: committing offsets for group %s failed (%s); trying again with the next bundle",
                self._address,
                self._group_id,
                failure.str(),
            )

    def close(self) -> None:
        self._consumer.close()


CONTROLS: IdleCache[_KafkaControl] = IdleCache(_KafkaControl.close)
_LOCKS: dict[object, threading.RLock] = {}


def _control_lock(key: object) -> threading.RLock:
    return _LOCKS.setdefault(key, threading.RLock())


def _checked(answers: list[Any]) -> list[Any]:
    for answer in answers:
        if answer.error is not None:
            raise KafkaException(answer.error)
    return answers


@contextmanager
def client_errors(address: KafkaAddress) -> Iterator[None]:
    """Turns what a client cannot be built from into a ``UserError``."""
    try:
        yield
    except KafkaException as error:
        reason = error.args[0].str() if error.args and isinstance(error.args[0], KafkaError) else str(error)
        raise UserError(f"{address}: Kafka setting refused: {reason}; check --kafka_config") from None


def user_error(address: KafkaAddress | str, error: KafkaError) -> UserError | None:
    """The ``UserError`` for what only the user can mend; None for what may pass (the network, a leader election)."""
    code = error.code()
    if code in NO_TOPIC:
        return UserError(f"{address}: the topic does not exist; create it, or check its name")
    if code in DENIED:
        return UserError(f"{address}: access denied ({error.str()}); grant this user the right, or use another user")
    if code == KafkaError.INVALID_TIMESTAMP:
        return UserError(
            f"{address}: the topic refuses the time of a record; raise its message.timestamp.after.max.ms and "
            "message.timestamp.before.max.ms"
        )
    if code in _REFUSED:
        return _refused(address, error)
    return None


def _refused(address: KafkaAddress | str, error: KafkaError) -> UserError:
    text = error.str().rstrip(".")
    if error.code() == KafkaError._SSL:
        return UserError(
            f"{address}: TLS failed ({text}); check ssl.ca.location and security.protocol in --kafka_config"
        )
    remedy = "check sasl.username and sasl.password in --kafka_config"
    if '"status"' in text or "OAUTHBEARER" in text:  # RFC 7628's form of a token's refusal
        remedy = "grant the account roles/managedkafka.client, or check sasl.* in --kafka_config"
    return UserError(f"{address}: authentication failed ({text}); {remedy}")


def check_topic(
    address: KafkaAddress, config: KafkaConfig, *, write: bool = False, timeout_s: float = CHECK_TIMEOUT_S
) -> int:
    """Number of partitions of the topic; raises one clear line if it cannot be read, or with ``write`` written.

    Raises:
      UnreachableError: no broker answers within ``timeout_s`` seconds.
      UserError: the broker refuses us, TLS fails, or the topic does not exist.
    """
    errors: list[KafkaError] = []
    with client_errors(address):
        client = Consumer(
            {**consumer_properties(address, config, None), "error_cb": errors.append, "logger": DebugLog()}
        )
    try:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                topic = client.list_topics(address.topic, 1.0).topics[address.topic]
                if topic.error is None:
                    if write:
                        _check_write(address, config, timeout_s)
                    return len(topic.partitions)
                failure = topic.error
            except KafkaException as error:
                failure = error.args[0]
            client.poll(0)  # serves error_cb
            for seen in [*errors, failure]:
                lasting = user_error(address, seen)
                if lasting is not None:
                    raise lasting
            if time.monotonic() > deadline or _unreachable(errors):
                raise UnreachableError(
                    f"{address}: no broker answers ({_reason(errors, failure)}); is it running, is the address right?"
                )
    finally:
        client.close()


def _check_write(address: KafkaAddress, config: KafkaConfig, timeout_s: float) -> None:
    """Asks the broker what this user may do; a broker that does not tell leaves it to the first write."""
    admin = AdminClient({**config.resolved(), "bootstrap.servers": address.bootstrap_servers, "logger": DebugLog()})
    asked = admin.describe_topics(
        TopicCollection([address.topic]), include_authorized_operations=True, request_timeout=timeout_s
    )
    try:
        allowed = asked[address.topic].result().authorized_operations
    except KafkaException as error:
        _LOGGER.debug("%s: rights unknown: %s", address, error)
        return
    if allowed is not None and AclOperation.WRITE not in allowed:
        raise UserError(f"{address}: no permission to write; grant this user WRITE on the topic, or use another user")


def _unreachable(errors: list[KafkaError]) -> bool:
    """All brokers refused the connection, several times: waiting longer would not help a person at a terminal."""
    return sum(error.code() == KafkaError._ALL_BROKERS_DOWN for error in errors) >= 1 and len(errors) >= 4


def _reason(errors: list[KafkaError], failure: KafkaError) -> str:
    telling = [error for error in errors if error.code() in (KafkaError._RESOLVE, KafkaError._TRANSPORT)]
    text = str((telling or [failure])[-1].str())
    return text.split(" (after ")[0]  # the rest counts milliseconds and suppressed repeats


def ensure_topic(
    address: KafkaAddress,
    config: KafkaConfig,
    partitions: int = 1,
    settings: Mapping[str, str] | None = None,
    timeout_s: float = 30.0,
) -> None:
    """Creates the topic unless it exists, and returns when its partitions have a leader.

    Args:
      partitions: of a new topic; an existing topic keeps its own.
      settings: topic settings such as ``{"max.message.bytes": "10000000"}``; only for a new topic.

    Raises:
      UserError: no broker answers, or it refuses.
    """
    with client_errors(address):
        admin = AdminClient({**config.resolved(), "bootstrap.servers": address.bootstrap_servers, "logger": DebugLog()})
    topic = NewTopic(address.topic, partitions, -1, config=dict(settings or {}))  # -1: the broker's replication
    try:
        admin.create_topics([topic], operation_timeout=timeout_s, request_timeout=timeout_s)[address.topic].result()
    except KafkaException as error:
        failure = error.args[0]
        if failure.code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise user_error(address, failure) or UserError(
                f"{address}: the topic could not be created ({failure.str()}); check the address, and the broker"
            ) from None
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            found = admin.list_topics(timeout=1.0).topics.get(address.topic)  # all topics: naming one might create it
            if found is not None and found.partitions and all(p.leader >= 0 for p in found.partitions.values()):
                return
        except KafkaException as error:
            _LOGGER.debug("%s: %s", address, error)
        if time.monotonic() > deadline:
            raise UserError(f"{address}: the topic has no leader after {timeout_s:.0f} s; check the brokers")
        time.sleep(0.02)
