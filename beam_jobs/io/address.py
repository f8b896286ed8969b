"""Addresses: ``kafka://host:9092,host2:9092/topic`` and ``pubsub://project/name``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

from beam_jobs.errors import UserError

KAFKA_DEFAULT_PORT = 9092

_KAFKA_EXAMPLE = "kafka://host:9092,host2:9092/topic"
_PUBSUB_EXAMPLE = "pubsub://my-project/name"
_SERVER = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+)(:(?P<port>[0-9]+))?")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_PROJECT = re.compile(r"([a-z0-9.-]+\.[a-z]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]")  # with the domain of old organisations
_RESOURCE = re.compile(r"[A-Za-z][A-Za-z0-9._~+%-]{2,254}")


@dataclass(frozen=True)
class KafkaAddress:
    """One topic of one Kafka cluster; ``str()`` gives the URI back."""

    bootstrap_servers: str  # "host:port,host2:port", ports always present
    topic: str

    def __str__(self) -> str:
        return f"kafka://{self.bootstrap_servers}/{self.topic}"


@dataclass(frozen=True)
class PubSubAddress:
    """A topic of Pub/Sub to write to, or a subscription to read from; ``str()`` gives the URI back."""

    project: str
    topic: str  # the name; as an input it may be a subscription's

    def __str__(self) -> str:
        return f"pubsub://{self.project}/{self.topic}"

    @property
    def topic_path(self) -> str:
        """As the API names it."""
        return f"projects/{self.project}/topics/{self.topic}"

    @property
    def subscription_path(self) -> str:
        """As the API names it."""
        return f"projects/{self.project}/subscriptions/{self.topic}"


Address: TypeAlias = KafkaAddress | PubSubAddress


def parse(uri: str) -> Address:
    """The address a URI names; a Kafka server without a port gets 9092.

    Raises:
      UserError: another scheme, no server, a bad port, topic, project or name, or credentials inside the URI.
    """
    scheme, separator, rest = uri.partition("://")
    if separator and scheme.lower() == "kafka":
        return _kafka(uri, rest)
    if separator and scheme.lower() == "pubsub":
        return _pubsub(uri, rest)
    raise UserError(f"address {uri!r}: expected {_KAFKA_EXAMPLE} or {_PUBSUB_EXAMPLE}")


def parse_kafka(uri: str) -> KafkaAddress:
    """As :func:`parse`, where only Kafka will do.

    Raises:
      UserError: as there, and for another bus.
    """
    address = parse(uri)
    if not isinstance(address, KafkaAddress):
        raise UserError(f"address {uri!r}: expected {_KAFKA_EXAMPLE}")
    return address


def _kafka(uri: str, rest: str) -> KafkaAddress:
    if "@" in rest:
        raise UserError(
            f"address kafka://…@{rest.rpartition('@')[2]}: credentials do not belong in an address; "
            "put them in a properties file and pass --kafka_config"
        )
    servers, _, topic = rest.partition("/")
    names = [_server(uri, server.strip()) for server in servers.split(",")]
    if not _TOPIC.fullmatch(topic) or topic in (".", ".."):
        raise UserError(
            f"address {uri!r}: {topic!r} is not a topic name (1 to 249 letters, digits, '.', '_' or '-'); "
            f"expected {_KAFKA_EXAMPLE}"
        )
    return KafkaAddress(",".join(names), topic)


def _server(uri: str, server: str) -> str:
    match = _SERVER.fullmatch(server)
    if match is None:
        raise UserError(f"address {uri!r}: {server!r} is not host:port; expected {_KAFKA_EXAMPLE}")
    port = int(match["port"] or KAFKA_DEFAULT_PORT)
    if not 0 < port < 65536:
        raise UserError(f"address {uri!r}: port {port} is not in 1..65535; expected {_KAFKA_EXAMPLE}")
    return f"{match['host']}:{port}"


def _pubsub(uri: str, rest: str) -> PubSubAddress:
    if "@" in rest:
        raise UserError(
            f"address pubsub://…@{rest.rpartition('@')[2]}: credentials do not belong in an address; "
            "name their file in GOOGLE_APPLICATION_CREDENTIALS"
        )
    project, _, name = rest.partition("/")
    if not _PROJECT.fullmatch(project):
        raise UserError(
            f"address {uri!r}: {project!r} is not a project id (6 to 30 lower-case letters, digits or '-', a letter "
            f"first); expected {_PUBSUB_EXAMPLE}"
        )
    if not _RESOURCE.fullmatch(name) or name.lower().startswith("goog"):
        raise UserError(
            f"address {uri!r}: {name!r} is not the name of a topic or a subscription (3 to 255 letters, digits or "
            f"-._~+%, a letter first, not goog…); expected {_PUBSUB_EXAMPLE}"
        )
    return PubSubAddress(project, name)
