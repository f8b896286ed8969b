"""Google's fake of the Pub/Sub service, built with Go, one for all tests; and an outage in front of it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from demo import guard
from demo.broker import cache_dir, locked

SOURCE = Path(__file__).parent / "pubsub_server"
PROJECT = "lab-project"
EMULATOR = "PUBSUB_EMULATOR_HOST"


def build() -> Path:
    """The server's binary, in the cache; skips the test where it can't be built."""
    binary = cache_dir() / "pubsub-server" / "server"
    newest = max(path.stat().st_mtime for path in SOURCE.iterdir())
    with locked(cache_dir() / "pubsub-server.lock"):
        if not binary.exists() or binary.stat().st_mtime < newest:
            if shutil.which("go") is None:
                pytest.skip("Go, to build Google's fake of Pub/Sub, is not installed")
            done = subprocess.run(
                ["go", "build", "-buildvcs=false", "-o", str(binary), "."],
                cwd=SOURCE,
                capture_output=True,
                text=True,
                timeout=900,
                check=False,
            )
            if done.returncode != 0:
                pytest.skip(f"Google's fake of Pub/Sub could not be built: {done.stderr.strip().splitlines()[-1:]}")
    return binary


class Server:
    """A running fake; ``plain`` is the address of pstest's own StreamingPull."""

    def __init__(self) -> None:
        # A group of its own: Ctrl-C is for whoever started it.
        self._process = subprocess.Popen([str(build())], stdout=subprocess.PIPE, text=True, start_new_session=True)
        guard.watch(self._process.pid)
        assert self._process.stdout is not None
        told = json.loads(self._process.stdout.readline())
        self.address, self.plain = told["address"], told["plain"]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        guard.forget(self._process.pid)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture(scope="session")
def pubsub_server() -> Iterator[Server]:
    """One fake a test process; topics and subscriptions are the tests' own, by unique names."""
    server = Server()
    yield server
    server.close()


class Proxy:
    """A TCP address in front of another that can be away."""

    def __init__(self, target: str) -> None:
        host, port = target.rsplit(":", 1)
        self._target = (host, int(port))
        self._listener: socket.socket | None = None
        self._pairs: list[socket.socket] = []
        self._port = 0
        self.start()
        self.address = f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """Comes back."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def stop(self) -> None:
        """Goes away, with every connection."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for end in self._pairs:
            _shut(end)
        self._pairs = []

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            self._pairs += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_copy, args=(source, sink), daemon=True).start()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    _shut(source)
    _shut(sink)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@pytest.fixture
def pubsub(pubsub_server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Points Google's client of this process, and of those it starts, at the fake; gives the project."""
    monkeypatch.setenv(EMULATOR, pubsub_server.address)
    return PROJECT
