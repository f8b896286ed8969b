"""A Kafka broker that says what a test wants it to say, over a real socket: what none would say, or none so soon."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable

from beam_jobs.io.kafka.wire import protocol

Answer = Callable[[int], bytes]  # partition -> record batches of the next fetch


def text(value: str) -> bytes:
    return struct.pack(">h", len(value)) + value.encode()


class Broker:
    """Node 1 of a cluster, for a topic ``t`` that it leads; others may be named beside it."""

    def __init__(self, answer: Answer, partitions: int = 2) -> None:
        self.answer, self.partitions = answer, partitions
        self.fetches = self.connections = self.look_ups = 0
        self.errors: dict[int, tuple[int, int]] = {}  # partition -> error code, of so many fetches
        self.versions = {protocol.FETCH: (4, 17), protocol.METADATA: (0, 13), protocol.EPOCH_END: (2, 4)}
        self.epoch_end: tuple[int, int] | None = (0, 80)  # error code, offset; None: partition 0 is left out
        self.others: dict[int, int] = {}  # node id -> port
        self.leaders: dict[int, int] = {}  # partition -> node id other than ours, -1: none
        self.hang_up = False  # once, instead of the next answer
        self.cut: int | None = None  # this many bytes of the next fetch's answer, then silence
        self.client_id = f"wire-{uuid.uuid4().hex}"  # of the clients that are meant to ask
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Neither listens nor answers any more."""
        for each in [self._socket, *self._open]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        known = False
        with contextlib.suppress(OSError), connection, connection.makefile("rwb") as stream:
            while size := stream.read(4):
                request = stream.read(struct.unpack(">i", size)[0])
                api, _, correlation = struct.unpack_from(">hhi", request)
                # Clients of other tests may still ask for a broker that had this port before.
                if not known and (known := request[8:].startswith(text(self.client_id))):
                    self.connections += 1
                if self.hang_up:
                    self.hang_up = False
                    return
                if api == protocol.FETCH:
                    body = self._fetched(asked(request))
                elif api == protocol.EPOCH_END:
                    body = self._epoch_end()
                else:
                    body = self._api_versions() if api == protocol.API_VERSIONS else self._metadata()
                answer = struct.pack(">ii", len(body) + 4, correlation) + body
                if api == protocol.FETCH and self.cut is not None:
                    answer, self.cut = answer[: self.cut], None
                stream.write(answer)
                stream.flush()

    def _api_versions(self) -> bytes:
        spoken = [struct.pack(">hhh", api, low, high) for api, (low, high) in self.versions.items()]
        return struct.pack(">hi", 0, len(spoken)) + b"".join(spoken)

    def _epoch_end(self) -> bytes:
        found = b"" if self.epoch_end is None else struct.pack(">hiiq", self.epoch_end[0], 0, 5, self.epoch_end[1])
        return struct.pack(">ii", 0, 1) + text("t") + struct.pack(">i", len(found) > 0) + found

    def _metadata(self) -> bytes:
        self.look_ups += 1
        nodes = {1: self.port} | self.others
        host = text("127.0.0.1")
        brokers = [struct.pack(">i", node) + host + struct.pack(">ih", port, -1) for node, port in nodes.items()]
        leaders = [self.leaders.get(p, 1) for p in range(self.partitions)]
        parts = [struct.pack(">hiiiiii", 0, p, leader, 0, 0, 0, 0) for p, leader in enumerate(leaders)]
        topic = struct.pack(">h", 0) + text("t") + b"\0" + struct.pack(">i", len(parts)) + b"".join(parts) + b"\0" * 4
        head = struct.pack(">ii", 0, len(nodes)) + b"".join(brokers) + text("c") + struct.pack(">i", 1)
        return head + struct.pack(">i", 1) + topic + b"\0" * 4

    def _fetched(self, partitions: list[int]) -> bytes:
        self.fetches += 1
        parts = b""
        for p in partitions:
            error, times = self.errors.get(p, (0, 0))
            data = b"" if error else self.answer(p)
            if times > 1:
                self.errors[p] = error, times - 1
            else:
                self.errors.pop(p, None)
            parts += struct.pack(">ihqqqi", p, error, 1000, 1000, 0, 0) + struct.pack(">ii", -1, len(data)) + data
        time.sleep(0.001)  # nothing is waited for here: a broker waits a little for records
        head = struct.pack(">ihi", 0, 0, 0) + struct.pack(">i", 1) + text("t")
        return head + struct.pack(">i", len(partitions)) + parts


def asked(request: bytes) -> list[int]:
    """The partitions of a fetch request for one topic."""
    at = 8 + 2 + struct.unpack_from(">h", request, 8)[0] + 25 + 4  # header, fixed fields, number of topics
    at += 2 + struct.unpack_from(">h", request, at)[0]
    (count,) = struct.unpack_from(">i", request, at)
    return [struct.unpack_from(">i", request, at + 4 + 28 * i)[0] for i in range(count)]
