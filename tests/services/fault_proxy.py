"""A TCP proxy in front of a broker that puts faults into its real answers: error codes, delays, half answers, resets.

Clients are told that the broker speaks the last versions without tagged fields, so that one layout holds for all.
https://kafka.apache.org/protocol names the fields.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from beam_jobs.io.kafka.wire.protocol import API_VERSIONS, FETCH, METADATA

LIST_OFFSETS, OFFSET_COMMIT, OFFSET_FETCH = 2, 8, 9
_NEWEST = {FETCH: 11, METADATA: 8, LIST_OFFSETS: 5, OFFSET_COMMIT: 7, OFFSET_FETCH: 5}
_OLDEST = {
    LIST_OFFSETS: 4,
    OFFSET_COMMIT: 3,
    OFFSET_FETCH: 5,
    METADATA: 8,
    FETCH: 11,
}  # what the layouts here begin with


@dataclass
class Fault:
    """What is done to an answer, ``times`` times."""

    api: int
    code: int | None = None  # error code of partition 0, or of the topic
    whole: bool = False  # of the whole answer instead
    delay_s: float = 0.0
    keep: int | None = None  # so many bytes of the answer, then the connection is reset
    times: int = 1


class Cursor:
    """Walks over an answer."""

    def __init__(self, data: bytearray, at: int) -> None:
        self.data, self.at = data, at

    def number(self, kind: str) -> int:
        (value,) = struct.unpack_from(">" + kind, self.data, self.at)
        self.at += struct.calcsize(kind)
        return int(value)

    def skip(self, size: int) -> None:
        """-1 stands for nothing."""
        self.at += max(0, size)

    def string(self) -> None:
        self.skip(self.number("h"))

    def repeat(self) -> Iterator[int]:
        return iter(range(max(0, self.number("i"))))

    def put(self, kind: str, value: int) -> None:
        struct.pack_into(">" + kind, self.data, self.at, value)


def _fetch(c: Cursor, code: int, whole: bool) -> None:
    c.skip(4)
    if whole:
        c.put("h", code)
        return
    c.skip(6)
    for _ in c.repeat():
        c.string()
        for _ in c.repeat():
            if c.number("i") == 0:
                c.put("h", code)
            c.skip(26)
            c.skip(16 * c.number("i"))
            c.skip(4)
            c.skip(c.number("i"))


def _metadata(c: Cursor, code: int, whole: bool) -> None:
    """The topic's code; or not ``whole``, partition 0's, which has no leader then."""
    c.skip(4)
    for _ in c.repeat():
        c.skip(4)
        c.string()
        c.skip(4)
        c.string()
    c.string()
    c.skip(4)
    for _ in c.repeat():
        if whole:
            c.put("h", code)
        c.skip(2)
        c.string()
        c.skip(1)
        for _ in c.repeat():
            error_at = c.at
            c.skip(2)
            if c.number("i") == 0 and not whole:
                c.put("i", -1)
                Cursor(c.data, error_at).put("h", code)
            c.skip(8)
            for _ in range(3):
                c.skip(4 * c.number("i"))
        c.skip(4)


def _list_offsets(c: Cursor, code: int, whole: bool) -> None:
    c.skip(4)
    for _ in c.repeat():
        c.string()
        for _ in c.repeat():
            if c.number("i") == 0:
                c.put("h", code)
            c.skip(22)


def _offset_commit(c: Cursor, code: int, whole: bool) -> None:
    c.skip(4)
    for _ in c.repeat():
        c.string()
        for _ in c.repeat():
            if c.number("i") == 0:
                c.put("h", code)
            c.skip(2)


def _offset_fetch(c: Cursor, code: int, whole: bool) -> None:
    c.skip(4)
    for _ in c.repeat():
        c.string()
        for _ in c.repeat():
            partition = c.number("i")
            c.skip(12)
            c.string()
            if partition == 0 and not whole:
                c.put("h", code)
            c.skip(2)
    if whole:
        c.put("h", code)


_PUT: dict[int, Callable[[Cursor, int, bool], None]] = {
    FETCH: _fetch,
    METADATA: _metadata,
    LIST_OFFSETS: _list_offsets,
    OFFSET_COMMIT: _offset_commit,
    OFFSET_FETCH: _offset_fetch,
}


def _cap_versions(answer: bytearray, version: int) -> None:
    """Of an ApiVersions answer."""
    if version < 3:
        (count,) = struct.unpack_from(">i", answer, 6)
        at, size = 10, 6
    else:
        count, at, size = answer[6] - 1, 7, 7  # an unsigned varint below 128, and an empty tag buffer an entry
    for i in range(count):
        api, low, high = struct.unpack_from(">hhh", answer, at + size * i)
        high = min(high, _NEWEST.get(api, high))
        struct.pack_into(">hhh", answer, at + size * i, api, max(low, min(_OLDEST.get(api, low), high)), high)


class FaultProxy:
    """Listens on ``port``; ``target`` is the broker's, set before the first client comes."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.target = 0
        self.silent = False  # takes connections and never says a word
        self.connections = 0
        self.done = 0  # faults put
        self.passed: dict[int, int] = {}  # api -> answers that went through
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def put(self, *faults: Fault) -> None:
        """Instead of those before."""
        with self._lock:
            self._faults = list(faults)
            self.done = 0

    @property
    def left(self) -> int:
        """Faults that have not been put yet."""
        with self._lock:
            return sum(fault.times for fault in self._faults)

    def close(self) -> None:
        for each in [self._server, *self._open]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            if self.silent:
                self._open.append(client)
                continue
            try:
                broker = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            self.connections += 1
            self._open += [client, broker]
            threading.Thread(target=self._relay, args=(client, broker), daemon=True).start()

    def _relay(self, client: socket.socket, broker: socket.socket) -> None:
        asked: dict[int, tuple[int, int]] = {}  # correlation id -> api, version
        requests = threading.Thread(target=self._pump, args=(client, broker, asked, False), daemon=True)
        requests.start()
        self._pump(broker, client, asked, True)
        requests.join()
        client.close()
        broker.close()

    def _pump(self, a: socket.socket, b: socket.socket, asked: dict[int, tuple[int, int]], answers: bool) -> None:
        with contextlib.suppress(OSError), a.makefile("rb") as stream:
            while size := stream.read(4):
                message = bytearray(stream.read(struct.unpack(">i", size)[0]))
                if not answers:
                    api, version, correlation = struct.unpack_from(">hhi", message)
                    asked[correlation] = api, version
                    b.sendall(size + message)
                    continue
                api, version = asked.pop(struct.unpack_from(">i", message)[0])
                if api == API_VERSIONS:
                    _cap_versions(message, version)
                fault = self._next(api)
                if fault is not None:
                    if fault.code is not None:
                        _PUT[api](Cursor(message, 4), fault.code, fault.whole)
                    if fault.delay_s:
                        threading.Event().wait(fault.delay_s)
                    if fault.keep is not None:
                        b.sendall((size + message)[: fault.keep])
                        break
                self.passed[api] = self.passed.get(api, 0) + 1
                b.sendall(size + message)
        for each in (a, b):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _next(self, api: int) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.api == api and fault.times > 0:
                    fault.times -= 1
                    self.done += 1
                    return fault
        return None
