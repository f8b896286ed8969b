"""An answer that goes on coming is waited for, one that has stopped is not; what is no answer is a broker's error."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from beam_jobs.io.kafka.wire import protocol, sasl
from beam_jobs.io.kafka.wire.brokers import BROKER_ERRORS
from beam_jobs.io.kafka.wire.connection import Connection, ReadSettings

PATIENCE_S = 0.8
SPOKEN = {protocol.FETCH: 11, protocol.METADATA: 8, sasl.HANDSHAKE: 1, sasl.AUTHENTICATE: 0}
Talk = Callable[[socket.socket, int], None]  # connection, correlation id of a request


def speaks(connection: socket.socket, correlation: int) -> None:
    versions = b"".join(struct.pack(">hhh", api, 0, version) for api, version in SPOKEN.items())
    body = struct.pack(">ihi", correlation, 0, len(SPOKEN)) + versions
    connection.sendall(struct.pack(">i", len(body)) + body)


@contextmanager
def broker(talk: Talk) -> Iterator[int]:
    """Answers the first request as a broker does, the others as ``talk`` does; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    answer: Talk = speaks
                    while size := connection.recv(4, socket.MSG_WAITALL):
                        request = connection.recv(struct.unpack(">i", size)[0], socket.MSG_WAITALL)
                        answer(connection, struct.unpack_from(">i", request, 4)[0])
                        answer = talk

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


def connect(port: int, **properties: str) -> Connection:
    settings = ReadSettings.of({"bootstrap.servers": f"127.0.0.1:{port}", **properties})
    return Connection("127.0.0.1", port, settings, PATIENCE_S)


def test_a_slow_answer_is_waited_for() -> None:
    def drip(connection: socket.socket, correlation: int) -> None:
        for part in (struct.pack(">i", 9), struct.pack(">i", correlation), *(b"x" for _ in range(5))):
            connection.sendall(part)
            time.sleep(PATIENCE_S / 4)  # a slow network: nothing is waited for here

    with broker(drip) as port, contextlib.closing(connect(port)) as connection:
        start = time.monotonic()
        assert bytes(connection.ask(protocol.METADATA, 8, b""))[4:] == b"xxxxx"
        assert time.monotonic() - start > PATIENCE_S


@pytest.mark.parametrize("part", [b"", b"\0", struct.pack(">i", 9), struct.pack(">ii", 9, 2) + b"xx"])
def test_an_answer_that_has_stopped_is_not(part: bytes) -> None:
    with (
        broker(lambda connection, _: connection.sendall(part)) as port,
        contextlib.closing(connect(port)) as connection,
        pytest.raises(TimeoutError, match="it does not answer"),
    ):
        connection.ask(protocol.METADATA, 8, b"")


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
@pytest.mark.parametrize("body", [b"", b"\0", b"\0\0", b"\xff" * 40, b"\0" * 6])
def test_a_login_that_is_none_is_an_error_of_the_broker(mechanism: str, body: bytes) -> None:
    def talk(connection: socket.socket, correlation: int) -> None:
        connection.sendall(struct.pack(">ii", 4 + len(body), correlation) + body)

    login = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanisms": mechanism, "sasl.username": "u"}
    with broker(talk) as port, contextlib.suppress(*BROKER_ERRORS):
        connect(port, **login, **{"sasl.password": "p"}).close()
