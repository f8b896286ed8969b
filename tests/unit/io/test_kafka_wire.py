"""The fetcher against a broker that says what the test wants it to say, over a real socket."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import KafkaError

from beam_jobs.io import kafka_protocol as protocol
from beam_jobs.io.kafka_fetch import Fetched
from beam_jobs.io.kafka_wire import WireFetcher
from tests.unit.io.record_batches import Rec, batch

Answer = Callable[[int], bytes]  # partition -> record batches of the next fetch


def text(value: str) -> bytes:
    return struct.pack(">h", len(value)) + value.encode()


class Broker:
    """Metadata and Fetch, one connection after the other, for a topic ``t`` that it leads."""

    def __init__(self, answer: Answer, partitions: int = 2) -> None:
        self.answer, self.partitions = answer, partitions
        self.fetches = 0
        self.errors: dict[int, int] = {}  # partition -> error code of the next fetch
        self.hang_up = False  # once, instead of the next answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as stream:
            while size := stream.read(4):
                request = stream.read(struct.unpack(">i", size)[0])
                api, _, correlation = struct.unpack_from(">hhi", request)
                if self.hang_up:
                    self.hang_up = False
                    return
                body = self._metadata() if api == protocol.METADATA else self._fetched()
                stream.write(struct.pack(">ii", len(body) + 4, correlation) + body)
                stream.flush()

    def _metadata(self) -> bytes:
        broker = struct.pack(">i", 1) + text("127.0.0.1") + struct.pack(">i", self.port) + struct.pack(">h", -1)
        parts = [struct.pack(">hiii", 0, p, 1, 0) + struct.pack(">i", 0) * 3 for p in range(self.partitions)]
        topic = (
            struct.pack(">h", 0) + text("t") + b"\0" + struct.pack(">i", self.partitions) + b"".join(parts) + b"\0" * 4
        )
        head = struct.pack(">ii", 0, 1) + broker + text("c") + struct.pack(">i", 1)
        return head + struct.pack(">i", 1) + topic + b"\0" * 4

    def _fetched(self) -> bytes:
        self.fetches += 1
        parts = b""
        for p in range(self.partitions):
            data = self.answer(p)
            error = self.errors.pop(p, 0)
            parts += struct.pack(">ihqqqi", p, error, 1000, 1000, 0, 0) + struct.pack(">ii", -1, len(data)) + data
        head = struct.pack(">ihi", 0, 0, 0) + struct.pack(">i", 1) + text("t")
        return head + struct.pack(">i", self.partitions) + parts


@pytest.fixture
def connect() -> Iterator[Callable[[Answer], tuple[Broker, WireFetcher]]]:
    open_: list[Broker | WireFetcher] = []

    def start(answer: Answer) -> tuple[Broker, WireFetcher]:
        broker = Broker(answer)
        fetcher = WireFetcher("t", {"bootstrap.servers": f"127.0.0.1:{broker.port}"})
        open_.extend([fetcher, broker])
        return broker, fetcher

    yield start
    for each in open_:
        each.close()


def once(values: dict[int, bytes]) -> Answer:
    """Each partition's bytes once, then nothing."""
    return lambda partition: values.pop(partition, b"")


def collect(fetcher: WireFetcher, until: Callable[[list[Fetched]], bool]) -> list[Fetched]:
    found: list[Fetched] = []
    for _ in range(200):
        found.append(fetcher.fetch(100, 0.1, 0.0))
        if until(found):
            return found
    raise AssertionError(f"not seen in 20 s; at last {found[-1]}")


def rows(found: list[Fetched]) -> list[tuple[int, int]]:
    return [
        (row["partition"], row["offset"])
        for fetched in found
        if fetched.block
        for row in fetched.block.select(["partition", "offset"]).to_pylist()
    ]


def test_a_damaged_batch_stops_its_partition_and_no_other(
    connect: Callable[[Answer], tuple[Broker, WireFetcher]],
) -> None:
    good, damaged = batch([Rec(b"a"), Rec(b"b")]), batch([Rec(b"x" * 50)])[:-20] + b"\xff" * 20
    _, fetcher = connect(once({0: good, 1: damaged[:61] + b"\xff" * (len(damaged) - 61)}))
    fetcher.assign({0: 0, 1: 0})
    found = collect(fetcher, lambda found: len(rows(found)) == 2 and any(f.problems for f in found))
    assert rows(found) == [(0, 0), (0, 1)]
    (problem,) = [problem for fetched in found for problem in fetched.problems]
    assert (problem.partition, problem.code) == (1, KafkaError._BAD_MSG)
    assert "offset 0" in problem.text


def test_a_connection_that_ends_is_made_anew(connect: Callable[[Answer], tuple[Broker, WireFetcher]]) -> None:
    broker, fetcher = connect(once({0: batch([Rec(b"a")])}))
    broker.hang_up = True
    fetcher.assign({0: 0})
    found = collect(fetcher, lambda found: bool(rows(found)))
    assert rows(found) == [(0, 0)]
    assert {p.code for fetched in found for p in fetched.problems} <= {
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
    }


def test_a_leader_that_moved_is_looked_up_again(connect: Callable[[Answer], tuple[Broker, WireFetcher]]) -> None:
    answers = {0: batch([Rec(b"a")])}
    broker, fetcher = connect(lambda p: answers.pop(p, b"") if broker.fetches > 1 else b"")
    broker.errors = {0: KafkaError.NOT_LEADER_FOR_PARTITION}
    fetcher.assign({0: 0})
    assert rows(collect(fetcher, lambda found: bool(rows(found)))) == [(0, 0)]


def test_an_offset_that_is_gone_is_reported_for_its_partition(
    connect: Callable[[Answer], tuple[Broker, WireFetcher]],
) -> None:
    broker, fetcher = connect(once({}))
    broker.errors = {1: KafkaError.OFFSET_OUT_OF_RANGE}
    fetcher.assign({0: 0, 1: 99})
    found = collect(fetcher, lambda found: any(f.problems for f in found))
    assert [(p.partition, p.code) for f in found for p in f.problems] == [(1, KafkaError.OFFSET_OUT_OF_RANGE)]


def test_somebody_else_on_the_port_is_no_broker(connect: Callable[[Answer], tuple[Broker, WireFetcher]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def shout() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=shout, daemon=True).start()
        fetcher = WireFetcher("t", {"bootstrap.servers": f"127.0.0.1:{server.getsockname()[1]}"})
        try:
            fetcher.assign({0: 0})
            found = collect(fetcher, lambda found: any(f.problems for f in found))
            assert "no Kafka broker speaks here" in found[-1].problems[0].text
        finally:
            fetcher.close()
