"""A TCP address in front of a server, on a network that has trouble."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from time import sleep
from typing import Literal

Trouble = Literal["none", "reset", "half", "delay", "silence", "unavailable"]
"""What happens to answers: nothing; the connection is reset; it ends within an answer; every piece is late; nothing
comes any more, and connections stay open; an HTTP server says 503."""

DELAY_S = 0.3
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: close() sends RST
_UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Proxy:
    """Forwards connections to ``target`` (host:port); ``trouble`` may change at any time.

    Args:
      port: to listen on; 0 takes a free one.
    """

    def __init__(self, target: str, port: int = 0) -> None:
        host, _, number = target.rpartition(":")
        self._target = (host, int(number))
        self._listener = socket.create_server(("127.0.0.1", port))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._trouble: Trouble = "none"
        self._calm = threading.Event()
        self._calm.set()
        self._ends: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def trouble(self) -> Trouble:
        return self._trouble

    @trouble.setter
    def trouble(self, what: Trouble) -> None:
        self._trouble = what
        if what == "silence":
            self._calm.clear()
        else:
            self._calm.set()
        if what in ("reset", "unavailable"):
            for end in list(self._ends):
                _close(end, reset=what == "reset")

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.trouble = "reset"

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._trouble == "reset":
                _close(near, reset=True)
                continue
            if self._trouble == "unavailable":
                threading.Thread(target=_refuse, args=(near,), daemon=True).start()
                continue
            try:
                far = socket.create_connection(self._target, 10)
            except OSError:
                _close(near)
                continue
            far.settimeout(None)
            self._ends |= {near, far}
            threading.Thread(target=self._copy, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._copy, args=(far, near, True), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self._calm.wait()
                if answers and self._trouble == "delay":
                    sleep(DELAY_S)
                if answers and self._trouble == "half":
                    sink.sendall(data[: len(data) // 2])
                    break
                sink.sendall(data)
        for end in (source, sink):
            self._ends.discard(end)
            _close(end, reset=self._trouble == "reset")  # the other end may be the first that was closed


def _refuse(near: socket.socket) -> None:
    with suppress(OSError):
        near.settimeout(5)
        near.recv(1 << 16)
        near.sendall(_UNAVAILABLE)
    _close(near)


def _close(end: socket.socket, reset: bool = False) -> None:
    with suppress(OSError):
        if reset:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        else:
            end.shutdown(socket.SHUT_RDWR)
    with suppress(OSError):
        end.close()
