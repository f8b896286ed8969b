"""Talking to a Kafka cluster beside the data: where to start, what to commit, and whether it can be reached at all."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Literal

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AclOperation, AdminClient, ConfigResource, NewTopic

from beam_jobs.errors import UnreachableError, UserError, one_line
from beam_jobs.io.idle import IdleCache
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.commits import DENIED, Commits
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.control import NO_TOPIC, REFUSED, KafkaControl, client_errors, consumer_properties
from beam_jobs.io.kafka.fetch import ClientFetcher, Control, DebugLog, Fetcher
from beam_jobs.io.kafka.wire import protocol
from beam_jobs.io.kafka.wire.brokers import BROKER_ERRORS, reason_of
from beam_jobs.io.kafka.wire.connection import Connection, ReadSettings, not_understood, why_no_tls
from beam_jobs.io.kafka.wire.fetcher import WireFetcher

_LOGGER = logging.getLogger(__name__)

FetchPath = Literal["auto", "client", "wire"]

_REFUSALS = 3  # answers in a row: a single one decides nothing
_CONNECT_S = 2.0
_AGAIN_S = 0.2  # until the next one is asked for
CHECK_TIMEOUT_S = 8.0  # a broker that needs longer than this to answer is as good as down


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
            control = CONTROLS.take(key) or KafkaControl(*key, _COMMITS.setdefault(key, Commits(self, self.group_id)))
            try:
                yield control
            finally:
                CONTROLS.park(key, control)

    def fetcher(self, lacking: str = "") -> Fetcher:
        properties = consumer_properties(self.address, self.config, self.group_id)
        foreign = not_understood(properties)
        if self.fetch == "wire" and (foreign or lacking):
            what = f"does not understand {foreign}" if foreign else f"can't read here ({lacking})"
            raise UserError(f"{self.address}: --fetch wire {what}; leave --fetch out, or use client")
        if lacking and lacking not in _LACKING:
            _LACKING.add(lacking)
            _LOGGER.info("%s: read by the client (%s)", self.address, lacking)
        if self.fetch == "client" or foreign or lacking:
            with client_errors(self.address):
                return ClientFetcher(self.address.topic, properties)
        return WireFetcher(self.address.topic, properties)


_NAMED_OTHERWISE = "name the broker as its certificate does, or have one made for this name"
_OF_CERTIFICATES = {  # OpenSSL's codes: what to do
    9: "check the clock of this machine, and the broker's certificate",
    10: "renew the broker's certificate, or check the clock of this machine",
    62: _NAMED_OTHERWISE,
    64: _NAMED_OTHERWISE,
}
_LACKING: set[str] = set()  # what was said of brokers already
CONTROLS: IdleCache[KafkaControl] = IdleCache(KafkaControl.close)
_COMMITS: dict[object, Commits] = {}  # a connection is closed when nobody needs it for a while
_LOCKS: dict[object, threading.RLock] = {}


def _control_lock(key: object) -> threading.RLock:
    return _LOCKS.setdefault(key, threading.RLock())


def user_error(address: KafkaAddress | str, error: KafkaError) -> UserError | None:
    """The ``UserError`` for what only the user can fix; None for what may pass (the network, a leader election)."""
    code = error.code()
    if code in NO_TOPIC:
        return UserError(f"{address}: the topic does not exist; create it, or check its name")
    if code == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        return UserError(
            f"{address}: access denied ({_text(error)}); grant this user DESCRIBE and READ (of an output, WRITE) on "
            "the topic, or use another user"
        )
    if code in DENIED:
        return UserError(f"{address}: access denied ({_text(error)}); grant this user the right, or use another user")
    if code == KafkaError.INVALID_TIMESTAMP:
        return UserError(
            f"{address}: the topic refuses the time of a record; raise its message.timestamp.after.max.ms and "
            "message.timestamp.before.max.ms"
        )
    if code in REFUSED:
        return _refused(address, error)
    return None


def _text(error: KafkaError) -> str:
    return str(error.str() or error.name())


def _refused(address: KafkaAddress | str, error: KafkaError) -> UserError:
    text = _text(error).rstrip(".")
    if error.code() == KafkaError._SSL:
        return UserError(
            f"{address}: TLS failed ({text}); check ssl.ca.location and security.protocol in --kafka_config"
        )
    remedy = "check sasl.username and sasl.password in --kafka_config"
    if '"status"' in text or "OAUTHBEARER" in text:  # RFC 7628's form of a token's refusal
        remedy = "grant the account roles/managedkafka.client, or check sasl.* in --kafka_config"
    return UserError(f"{address}: authentication failed ({text}); {remedy}")


def _certificate(address: KafkaAddress, config: KafkaConfig) -> UserError | None:
    """What is wrong with a broker's certificate, which librdkafka does not tell; None: nothing that is seen here."""
    properties = consumer_properties(address, config, None)
    if not properties.get("security.protocol", "").upper().endswith("SSL") or not_understood(properties):
        return None
    for server in address.bootstrap_servers.split(","):
        host, _, port = server.rpartition(":")
        error = why_no_tls(host.strip("[]"), int(port), properties, _CONNECT_S)
        if error is not None:
            remedy = _OF_CERTIFICATES.get(error.verify_code, "check ssl.ca.location in --kafka_config")
            return UserError(f"{address}: TLS failed ({server}: {error.verify_message.rstrip('.')}); {remedy}")
    return None


def check_topic(
    address: KafkaAddress, config: KafkaConfig, *, write: bool = False, timeout_s: float = CHECK_TIMEOUT_S
) -> int:
    """Number of partitions of the topic; raises one clear line if it cannot be read, or with ``write`` written.

    Raises:
      UnreachableError: no broker answers within ``timeout_s`` seconds, or not the one that leads a partition, or a
        certificate is not on this machine.
      UserError: the broker refuses us, TLS fails, the topic does not exist, or a right to it is missing.
    """
    refusals = 0
    errors: list[KafkaError] = []
    config.check_files()
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
                    _check_leaders(address, config, deadline)
                    _check_right(address, config, AclOperation.WRITE if write else AclOperation.READ, timeout_s)
                    return len(topic.partitions)
                failure = topic.error
            except KafkaException as error:
                failure = error.args[0]
            client.poll(0)  # serves error_cb
            lasting = next(filter(None, (user_error(address, seen) for seen in [*errors, failure])), None)
            refusals = 0 if lasting is None else refusals + 1
            if lasting is not None and refusals >= _REFUSALS:
                raise _certificate(address, config) or lasting
            if lasting is not None:
                time.sleep(_AGAIN_S)
                continue
            if time.monotonic() > deadline or _unreachable(errors):
                _check_leaders(address, config, deadline)  # the client asks for metadata at advertised addresses only
                raise UnreachableError(
                    f"{address}: no broker answers ({_reason(errors, failure)}); is it running, is the address right?"
                )
    finally:
        client.close()


def _check_leaders(address: KafkaAddress, config: KafkaConfig, deadline: float) -> None:
    """Connects to each broker that leads a partition: it may advertise an address that leads nowhere from here.

    With settings that only the client understands, the first read finds out.
    """
    properties = consumer_properties(address, config, None)
    while not not_understood(properties):
        trouble = _out_of_reach(address.topic, ReadSettings.of(properties))
        if trouble is None:
            return
        if time.monotonic() > deadline:
            raise UnreachableError(f"{address}: {trouble}; check its advertised.listeners, and the way there")
        time.sleep(_AGAIN_S)


def _out_of_reach(topic: str, settings: ReadSettings) -> str | None:
    """Which broker leads a partition and can't be reached, by the first one that says who leads."""
    for host, port in settings.servers:
        try:
            with closing(Connection(host, port, settings, _CONNECT_S)) as connection:
                asked = protocol.metadata_request(topic)
                found = protocol.metadata(connection.ask(protocol.METADATA, protocol.METADATA_VERSION, asked))
        except BROKER_ERRORS:
            continue
        for partition, node in sorted(found.leaders.items()):
            if node in found.brokers:
                host, port = found.brokers.pop(node)
                try:
                    Connection(host, port, settings, _CONNECT_S).close()
                except BROKER_ERRORS as error:
                    where = f"can't be reached at the address it advertises, {host}:{port} ({reason_of(error)})"
                    return f"broker {node}, which leads partition {partition}, {where}"
        return None
    return None


def _admin(address: KafkaAddress, config: KafkaConfig) -> AdminClient:
    with client_errors(address):
        return AdminClient({**config.resolved(), "bootstrap.servers": address.bootstrap_servers, "logger": DebugLog()})


def _check_right(address: KafkaAddress, config: KafkaConfig, needed: AclOperation, timeout_s: float) -> None:
    """Asks the broker what this user may do; a broker that does not tell leaves it to the first read or write."""
    admin = _admin(address, config)
    asked = admin.describe_topics(
        TopicCollection([address.topic]), include_authorized_operations=True, request_timeout=timeout_s
    )
    try:
        allowed = asked[address.topic].result().authorized_operations
    except KafkaException as error:
        _LOGGER.debug("%s: rights unknown: %s", address, one_line(error))
        return
    if allowed is not None and needed not in allowed:
        raise UserError(
            f"{address}: no permission to {needed.name.lower()}; grant this user {needed.name} on the topic, or use "
            "another user"
        )


def check_group(address: KafkaAddress, config: KafkaConfig, group_id: str, timeout_s: float = CHECK_TIMEOUT_S) -> None:
    """Refuses a group whose offsets could not be committed; a broker that does not tell leaves it to the first commit.

    Raises:
      UserError: other consumers are members of the group, or this user has no READ on it.
    """
    admin = _admin(address, config)
    asked = admin.describe_consumer_groups([group_id], include_authorized_operations=True, request_timeout=timeout_s)
    try:
        group = asked[group_id].result()
    except KafkaException as error:
        if error.args[0].code() in DENIED:
            raise UserError(_no_right(address, group_id)) from None
        _LOGGER.debug("%s: group %s is not known: %s", address, group_id, one_line(error))
        return
    if group.members:
        member = group.members[0]
        raise UserError(
            f"{address}: group {group_id} has {len(group.members)} members ({member.client_id} on {member.host}), and "
            "offsets can't be committed beside them; end them, or choose another --group_id"
        )
    if group.authorized_operations is not None and AclOperation.READ not in group.authorized_operations:
        raise UserError(_no_right(address, group_id))


def _no_right(address: KafkaAddress, group_id: str) -> str:
    return f"{address}: no permission to commit offsets; grant this user READ on group {group_id}, or choose another"


def _unreachable(errors: list[KafkaError]) -> bool:
    """All brokers refused the connection, several times: waiting longer would not help a person at a terminal."""
    return sum(error.code() == KafkaError._ALL_BROKERS_DOWN for error in errors) >= 1 and len(errors) >= 4


def _reason(errors: list[KafkaError], failure: KafkaError) -> str:
    telling = [error for error in errors if error.code() in (KafkaError._RESOLVE, KafkaError._TRANSPORT)]
    text = str((telling or [failure])[-1].str())
    return text.split(" (after ")[0]  # the rest counts milliseconds and suppressed repeats


def topic_settings(address: KafkaAddress, config: KafkaConfig, timeout_s: float = CHECK_TIMEOUT_S) -> dict[str, str]:
    """The settings of a topic; none where the broker does not tell them."""
    resource = ConfigResource(ConfigResource.Type.TOPIC, address.topic)
    admin = _admin(address, config)  # whose end would end the question
    try:
        found = admin.describe_configs([resource], request_timeout=timeout_s)[resource].result()
    except KafkaException as error:
        _LOGGER.debug("%s: its settings are not known: %s", address, one_line(error))
        return {}
    return {name: str(entry.value) for name, entry in found.items()}


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
    admin = _admin(address, config)
    topic = NewTopic(address.topic, partitions, -1, config=dict(settings or {}))  # -1: the broker's replication
    try:
        admin.create_topics([topic], operation_timeout=timeout_s, request_timeout=timeout_s)[address.topic].result()
    except KafkaException as error:
        failure = error.args[0]
        if failure.code() != KafkaError.TOPIC_ALREADY_EXISTS:
            why = one_line(failure.str(), 300)
            raise user_error(address, failure) or UserError(
                f"{address}: the topic could not be created ({why}); check the address, and the broker"
            ) from None
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            found = admin.list_topics(timeout=1.0).topics.get(address.topic)  # all topics: naming one might create it
            if found is not None and found.partitions and all(p.leader >= 0 for p in found.partitions.values()):
                return
        except KafkaException as error:
            _LOGGER.debug("%s: %s", address, one_line(error))
        if time.monotonic() > deadline:
            raise UserError(f"{address}: the topic has no leader after {timeout_s:.0f} s; check the brokers")
        time.sleep(0.02)
