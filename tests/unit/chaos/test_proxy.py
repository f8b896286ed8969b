"""The proxy's troubles are what their names say."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from time import monotonic

import pytest

from chaos.proxy import DELAY_S, Proxy

ANSWER = b"0123456789"


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """In front of a server that answers each question alike."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve(near: socket.socket) -> None:
        with suppress(OSError), near:
            while near.recv(100):
                near.sendall(ANSWER)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    proxy = Proxy(f"127.0.0.1:{server.getsockname()[1]}")
    yield proxy
    proxy.close()
    server.shutdown(socket.SHUT_RDWR)
    server.close()


def connect(proxy: Proxy) -> socket.socket:
    host, port = proxy.address.split(":")
    return socket.create_connection((host, int(port)), 20)


def ask(client: socket.socket, size: int = len(ANSWER)) -> bytes:
    client.sendall(b"?")
    found = b""
    while len(found) < size and (data := client.recv(100)):
        found += data
    return found


def test_without_trouble_answers_pass(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert ask(client) == ask(client) == ANSWER


def break_at_last(client: socket.socket) -> None:
    """Asks until the connection breaks; gives up where it ends in good order."""
    while ask(client):
        pass


def _meet(proxy: Proxy) -> None:
    with connect(proxy) as client:
        break_at_last(client)


def test_reset_breaks_what_is_open_and_what_comes(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert ask(client) == ANSWER
        proxy.trouble = "reset"
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            break_at_last(client)
    with pytest.raises(OSError, match=r"reset|Broken pipe"):
        _meet(proxy)
    proxy.trouble = "none"
    with connect(proxy) as client:
        assert ask(client) == ANSWER


def test_half_an_answer_then_the_end(proxy: Proxy) -> None:
    proxy.trouble = "half"
    with connect(proxy) as client:
        assert ask(client) == ANSWER[:5]


def test_answers_come_late(proxy: Proxy) -> None:
    proxy.trouble = "delay"
    with connect(proxy) as client:
        start = monotonic()
        assert ask(client) == ANSWER
        assert monotonic() - start >= DELAY_S


def test_silence_keeps_the_connection_and_the_answer(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert ask(client) == ANSWER
        proxy.trouble = "silence"
        client.sendall(b"?")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(100)
        proxy.trouble = "none"
        client.settimeout(20)
        assert client.recv(100)[:1] == ANSWER[:1]


def test_unavailable_is_http_503(proxy: Proxy) -> None:
    proxy.trouble = "unavailable"
    with connect(proxy) as client:
        assert ask(client, 500).startswith(b"HTTP/1.1 503 ")
