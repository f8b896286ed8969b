"""One TCP or TLS connection to a broker: requests out, whole responses in, never waiting once it is made."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from beam_jobs.io.kafka.fetch import CONSUMER_DEFAULTS, DEFAULT_LIMIT
from beam_jobs.io.kafka.wire import protocol, sasl

_MAX_RESPONSE = 1 << 30  # bytes; whoever announces more is no Kafka broker
_DRIPPING = 10  # times as long as for the next byte an answer to ``ask`` may take in all
_AROUND_BYTES = 1 << 20  # of a response, around the batches

# The consumer properties that are honoured here. With any other one set, librdkafka's client reads instead.
UNDERSTOOD = frozenset(
    {
        *("bootstrap.servers", "client.id", "group.id", "isolation.level"),
        *("enable.auto.commit", "enable.auto.offset.store", "enable.partition.eof", "auto.offset.reset"),
        *("allow.auto.create.topics", "socket.keepalive.enable", "socket.timeout.ms"),
        *("socket.connection.setup.timeout.ms", "reconnect.backoff.ms", "reconnect.backoff.max.ms"),
        *("queued.max.messages.kbytes", "max.partition.fetch.bytes", "fetch.wait.max.ms", "security.protocol"),
        *("check.crcs", "receive.message.max.bytes"),
        *("ssl.ca.location", "ssl.ca.pem", "ssl.certificate.location", "ssl.key.location", "ssl.key.password"),
        *("ssl.endpoint.identification.algorithm", "enable.ssl.certificate.verification"),
        *("sasl.mechanisms", "sasl.username", "sasl.password", "oauth_cb"),
    }
)
# What only the client's queue needs: our own values say nothing of how a connection is to read, others' do.
_QUEUE = frozenset({"fetch.queue.backoff.ms", "queued.min.messages"})
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
_NEEDED = {protocol.FETCH: protocol.FETCH_VERSION, protocol.METADATA: protocol.METADATA_VERSION}
_NEEDED_FOR_SASL = {sasl.HANDSHAKE: 1, sasl.AUTHENTICATE: 0}


class TooLargeError(ConnectionError):
    """A response of more bytes than may be received; what is left of it is on its way, so the connection is over."""

    def __init__(self, size: int) -> None:
        super().__init__(f"it announces a response of {size} bytes")
        self.size = size


class LackingError(Exception):
    """A broker that does not speak a version of a request that is needed here."""


def not_understood(properties: Mapping[str, Any]) -> str:
    """The first consumer property a connection can't honour, without a value that may be secret; "" for none."""
    ours = {name for name in _QUEUE if properties.get(name) == CONSUMER_DEFAULTS[name]}
    foreign = sorted(properties.keys() - UNDERSTOOD - ours)
    if foreign:
        return foreign[0]
    secured = properties.get("security.protocol", "plaintext").upper().startswith("SASL")
    mechanism = properties.get("sasl.mechanisms", "")
    if mechanism == "OAUTHBEARER" and "oauth_cb" not in properties:
        return "sasl.mechanisms=OAUTHBEARER without Google's credentials"
    return f"sasl.mechanisms={mechanism}" if secured and mechanism not in _MECHANISMS else ""


@dataclass(frozen=True)
class ReadSettings:
    """How to read, of a consumer's properties; librdkafka's names stand beside."""

    servers: tuple[tuple[str, int], ...]  # bootstrap.servers
    properties: Mapping[str, Any]  # all: who we are, and how the connection is secured
    connect_s: float  # socket.connection.setup.timeout.ms
    answer_s: float  # socket.timeout.ms: a request of whose answer nothing comes for so long ends its connection
    pause_s: tuple[float, float]  # reconnect.backoff.ms, reconnect.backoff.max.ms: after a failure, doubled up to
    wait_ms: int  # fetch.wait.max.ms
    read_committed: bool  # isolation.level
    partition_bytes: int | None  # max.partition.fetch.bytes; None: a share of the response's
    ahead_bytes: int  # queued.max.messages.kbytes: of blocks that nobody has taken yet

    unpacked_bytes: int  # receive.message.max.bytes: of a response, and of what it may unpack to
    check_crcs: bool  # check.crcs

    @classmethod
    def of(cls, properties: Mapping[str, Any]) -> Self:
        def number(name: str, default: int) -> int:
            given = properties.get(name)
            return default if given is None or given == CONSUMER_DEFAULTS.get(name) else int(given)

        return cls(
            tuple(_host_port(text) for text in properties["bootstrap.servers"].split(",")),
            properties,
            connect_s=number("socket.connection.setup.timeout.ms", 10_000) / 1000,
            answer_s=number("socket.timeout.ms", 30_000) / 1000,
            pause_s=(number("reconnect.backoff.ms", 50) / 1000, number("reconnect.backoff.max.ms", 1000) / 1000),
            wait_ms=number("fetch.wait.max.ms", 100),
            read_committed=properties.get("isolation.level", "read_committed") == "read_committed",
            partition_bytes=number("max.partition.fetch.bytes", 0) or None,
            ahead_bytes=number("queued.max.messages.kbytes", 32 << 10) << 10,
            unpacked_bytes=number("receive.message.max.bytes", DEFAULT_LIMIT),
            check_crcs=_flag(properties.get("check.crcs", "true")),
        )


def _host_port(text: str) -> tuple[str, int]:
    host, _, port = text.strip().rpartition(":")
    return host.strip("[]"), int(port)


class Connection:
    """Made, and logged in, by waiting; from then on nothing waits but ``ask``. One request at a time.

    Args:
      patience_s: instead of the settings' own, to connect and for an answer that ``ask`` waits for.
      needed: request -> the version of it that the broker has to speak, beside those of reading.

    Raises:
      OSError: no connection, or TLS refused (``ssl.SSLError``).
      sasl.AuthenticationError: SASL refused.
      LackingError: the broker is too old, or too new.
    """

    def __init__(
        self,
        host: str,
        port: int,
        settings: ReadSettings,
        patience_s: float | None = None,
        needed: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        properties = settings.properties
        self._answer_s = patience_s or settings.answer_s
        self._client_id = properties.get("client.id", "highbeam")
        self._max_response = settings.unpacked_bytes + _AROUND_BYTES
        self._correlation = 0
        self.moved = time.monotonic()  # when bytes of the request or the response last went over the wire
        self._outgoing = memoryview(b"")
        self._start_response()
        security = properties.get("security.protocol", "plaintext").upper()
        self._tls = security.endswith("SSL")
        self._socket = socket.create_connection((host, port), patience_s or settings.connect_s)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if _flag(properties.get("socket.keepalive.enable", "true")):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self._tls:
                self._socket = _tls(properties).wrap_socket(self._socket, server_hostname=host)
            self._socket.setblocking(False)
            self._negotiate({**_NEEDED, **(_NEEDED_FOR_SASL if security.startswith("SASL") else {}), **needed})
            if security.startswith("SASL"):
                sasl.authenticate(self.ask, properties)
        except BaseException:
            self._socket.close()
            raise

    def _negotiate(self, needed: Mapping[int, int]) -> None:
        spoken = protocol.api_versions(self.ask(protocol.API_VERSIONS, 0, b""))
        for api, version in needed.items():
            low, high = spoken.get(api, (0, -1))
            if not low <= version <= high:
                offers = f"{low} to {high}" if api in spoken else "none"
                raise LackingError(f"it does not speak version {version} of Kafka's request {api}, it offers {offers}")

    def fileno(self) -> int:
        """For a selector."""
        return self._socket.fileno()

    def send(self, api: int, version: int, body: bytes) -> None:
        """Starts to send a request; ``receive`` its response before the next one."""
        self._correlation += 1
        self._outgoing = memoryview(protocol.request(api, version, self._correlation, self._client_id, body))
        self._start_response()
        self.moved = time.monotonic()
        self.flush()

    def flush(self) -> None:
        """Sends more of a request that did not fit at once."""
        with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            while self._outgoing:
                self._outgoing = self._outgoing[self._socket.send(self._outgoing) :]
                self.moved = time.monotonic()

    @property
    def events(self) -> int:
        """What to wait for."""
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outgoing else 0)

    def receive(self) -> NDArray[np.uint8] | None:
        """The response without its size: correlation id and body; None: not all of it has come."""
        while True:
            try:
                read = self._socket.recv_into(self._view[self._at :])
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return None
            if read == 0:
                raise ConnectionResetError("it closed the connection")
            self._at += read
            self.moved = time.monotonic()
            if self._at < len(self._view):
                continue
            if self._sized:
                break
            size = int.from_bytes(self._data.tobytes(), "big")
            if self._max_response < size <= _MAX_RESPONSE:
                raise TooLargeError(size)
            if not 4 <= size <= self._max_response:
                raise ConnectionError(f"it announces a response of {size} bytes: no Kafka broker speaks here")
            self._start_response(size)
        if int.from_bytes(self._data[:4].tobytes(), "big") != self._correlation:
            raise ConnectionError("it answers another request")
        return self._data

    def _start_response(self, size: int | None = None) -> None:
        """Receives into the size first (None), then into bytes of that size."""
        self._sized = size is not None
        self._data = np.empty(4 if size is None else size, np.uint8)
        self._view, self._at = memoryview(self._data), 0  # type: ignore[arg-type]

    def ask(self, api: int, version: int, body: bytes) -> NDArray[np.uint8]:
        """Sends a request and waits for its response, as long as some of it goes on coming: it is a short one."""
        end = time.monotonic() + _DRIPPING * self._answer_s
        self.send(api, version, body)
        with selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            while (response := self.receive()) is None:
                left = min(self.moved + self._answer_s, end) - time.monotonic()
                if left <= 0:
                    raise TimeoutError("it does not answer")
                selector.modify(self, self.events)
                selector.select(left)
                self.flush()
        return response

    def close(self) -> None:
        """Also ends an ``ask`` in another thread."""
        with contextlib.suppress(OSError):  # not connected any more
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def why_no_tls(
    host: str, port: int, properties: Mapping[str, Any], patience_s: float
) -> ssl.SSLCertVerificationError | None:
    """What is wrong with the certificate of a broker; None: nothing, or something else is."""
    try:
        with (
            socket.create_connection((host, port), patience_s) as plain,
            _tls(properties).wrap_socket(plain, server_hostname=host),
        ):
            return None
    except ssl.SSLCertVerificationError as error:
        return error
    except (OSError, ValueError):
        return None


def _tls(properties: Mapping[str, Any]) -> ssl.SSLContext:
    place = properties.get("ssl.ca.location")
    place = None if place == "probe" else place  # librdkafka's word for the system's own, which None means here
    folder = place is not None and os.path.isdir(place)
    context = ssl.create_default_context(
        cafile=None if folder else place, capath=place if folder else None, cadata=properties.get("ssl.ca.pem")
    )
    if properties.get("ssl.endpoint.identification.algorithm", "https") == "none":
        context.check_hostname = False
    if not _flag(properties.get("enable.ssl.certificate.verification", "true")):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate = properties.get("ssl.certificate.location")
    if certificate:
        context.load_cert_chain(certificate, properties.get("ssl.key.location"), properties.get("ssl.key.password"))
    return context


def _flag(value: str) -> bool:
    """A yes or no as librdkafka reads it."""
    return value.lower() in ("true", "t", "1")
