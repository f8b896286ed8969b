"""Kafka's addresses: ``kafka://host:9092,host2:9092/topic``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from beam_jobs.errors import UserError
from beam_jobs.io.address import without_scheme

KAFKA_DEFAULT_PORT = 9092

EXAMPLE = "kafka://host:9092,host2:9092/topic"
_SERVER = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+)(:(?P<port>[0-9]+))?")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


@dataclass(frozen=True)
class KafkaAddress:
    """One topic of one Kafka cluster; ``str()`` gives the URI back."""

    bootstrap_servers: str  # "host:port,host2:port", ports always present
    topic: str

    def __str__(self) -> str:
        return f"kafka://{self.bootstrap_servers}/{self.topic}"

    @property
    def place(self) -> str:
        """Who is asked about it."""
        return self.bootstrap_servers

    @staticmethod
    def parse(uri: str) -> KafkaAddress:
        """The address a URI names; a server without a port gets 9092.

        Raises:
          UserError: another scheme, no server, a bad port or topic, or credentials inside the URI.
        """
        credentials = "put them in a properties file and pass --kafka_config"
        rest = without_scheme(uri, "kafka", EXAMPLE, credentials)
        servers, _, topic = rest.partition("/")
        names = [_server(uri, server.strip()) for server in servers.split(",")]
        if not _TOPIC.fullmatch(topic) or topic in (".", ".."):
            raise UserError(
                f"address {uri!r}: {topic!r} is not a topic name (1 to 249 letters, digits, '.', '_' or '-'); "
                f"expected {EXAMPLE}"
            )
        return KafkaAddress(",".join(names), topic)


def _server(uri: str, server: str) -> str:
    match = _SERVER.fullmatch(server)
    if match is None:
        raise UserError(f"address {uri!r}: {server!r} is not host:port; expected {EXAMPLE}")
    port = int(match["port"] or KAFKA_DEFAULT_PORT)
    if not 0 < port < 65536:
        raise UserError(f"address {uri!r}: port {port} is not in 1..65535; expected {EXAMPLE}")
    return f"{match['host']}:{port}"
