"""One TCP or TLS connection to a broker: requests out, whole responses in."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.io import kafka_protocol as protocol
from beam_jobs.io.kafka_sasl import authenticate

_CONNECT_TIMEOUT_S = 10.0
_RESPONSE_TIMEOUT_S = 30.0  # from the first byte of a response to its last
_MAX_RESPONSE = 1 << 30  # bytes; whoever announces more is no Kafka broker

# The consumer properties this connection understands. With any other one set, librdkafka's client reads instead.
UNDERSTOOD = frozenset(
    {
        *("bootstrap.servers", "client.id", "group.id", "isolation.level"),
        *("enable.auto.commit", "enable.auto.offset.store", "enable.partition.eof", "auto.offset.reset"),
        *("allow.auto.create.topics", "socket.keepalive.enable", "reconnect.backoff.max.ms"),
        *("fetch.queue.backoff.ms", "queued.max.messages.kbytes", "queued.min.messages"),
        *("max.partition.fetch.bytes", "fetch.wait.max.ms", "security.protocol"),
        *("check.crcs", "receive.message.max.bytes"),
        *("ssl.ca.location", "ssl.ca.pem", "ssl.certificate.location", "ssl.key.location", "ssl.key.password"),
        *("ssl.endpoint.identification.algorithm", "enable.ssl.certificate.verification"),
        *("sasl.mechanisms", "sasl.username", "sasl.password", "oauth_cb"),
    }
)
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")


def not_understood(properties: Mapping[str, Any]) -> str:
    """The first consumer property a connection can't honour, without a value that may be secret; "" for none."""
    foreign = sorted(properties.keys() - UNDERSTOOD)
    if foreign:
        return foreign[0]
    sasl = properties.get("security.protocol", "plaintext").upper().startswith("SASL")
    mechanism = properties.get("sasl.mechanisms", "")
    if mechanism == "OAUTHBEARER" and "oauth_cb" not in properties:
        return "sasl.mechanisms=OAUTHBEARER without Google's credentials"
    return f"sasl.mechanisms={mechanism}" if sasl and mechanism not in _MECHANISMS else ""


class Connection:
    """Blocking; one request at a time.

    Raises:
      OSError: no connection, or TLS refused (``ssl.SSLError``).
      AuthenticationError: SASL refused.
    """

    def __init__(self, host: str, port: int, properties: Mapping[str, Any]) -> None:
        self.name = f"{host}:{port}"
        self._client_id = properties.get("client.id", "highbeam")
        self._correlation = 0
        security = properties.get("security.protocol", "plaintext").upper()
        self._socket = socket.create_connection((host, port), _CONNECT_TIMEOUT_S)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if security.endswith("SSL"):
                self._socket = _tls(properties).wrap_socket(self._socket, server_hostname=host)
            self._socket.settimeout(_RESPONSE_TIMEOUT_S)
            if security.startswith("SASL"):
                authenticate(self.ask, properties)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """For ``select``."""
        return self._socket.fileno()

    def send(self, api: int, version: int, body: bytes) -> None:
        """Sends a request; ``receive`` its response before the next one."""
        self._correlation += 1
        self._socket.sendall(protocol.request(api, version, self._correlation, self._client_id, body))

    def receive(self) -> NDArray[np.uint8]:
        """The response without its size: correlation id and body."""
        size = int.from_bytes(self._exactly(4).tobytes(), "big")
        if not 4 <= size <= _MAX_RESPONSE:
            raise ConnectionError(f"{self.name} announces a response of {size} bytes: no Kafka broker speaks here")
        response = self._exactly(size)
        if int.from_bytes(response[:4].tobytes(), "big") != self._correlation:
            raise ConnectionError(f"{self.name} answers another request")
        return response

    def ask(self, api: int, version: int, body: bytes) -> NDArray[np.uint8]:
        """Sends a request and waits for its response."""
        self.send(api, version, body)
        return self.receive()

    def _exactly(self, size: int) -> NDArray[np.uint8]:
        data = np.empty(size, np.uint8)
        view, at = memoryview(data), 0  # type: ignore[arg-type]
        while at < size:
            read = self._socket.recv_into(view[at:])
            if read == 0:
                raise ConnectionResetError(f"{self.name} closed the connection")
            at += read
        return data

    def close(self) -> None:
        """Also ends a ``receive`` in another thread."""
        with contextlib.suppress(OSError):  # not connected any more
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _tls(properties: Mapping[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=properties.get("ssl.ca.location"), cadata=properties.get("ssl.ca.pem"))
    if properties.get("ssl.endpoint.identification.algorithm", "https") == "none":
        context.check_hostname = False
    if properties.get("enable.ssl.certificate.verification", "true").lower() == "false":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate = properties.get("ssl.certificate.location")
    if certificate:
        context.load_cert_chain(certificate, properties.get("ssl.key.location"), properties.get("ssl.key.password"))
    return context
