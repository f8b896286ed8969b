"""The fetcher against a broker that says what the test wants it to say, over a real socket."""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from confluent_kafka import KafkaError

from beam_jobs.io.kafka.fetch import Fetched
from beam_jobs.io.kafka.wire import protocol
from beam_jobs.io.kafka.wire.fetcher import WireFetcher
from tests.services.wire_broker import Answer, Broker
from tests.unit.io.kafka.wire.record_batches import ZSTD, Rec, batch

Start = Callable[..., tuple[Broker, WireFetcher]]  # of an Answer, and perhaps settings


@pytest.fixture
def connect() -> Iterator[Start]:
    open_: list[Broker | WireFetcher] = []

    def start(answer: Answer, more: Mapping[str, str] | None = None) -> tuple[Broker, WireFetcher]:
        broker = Broker(answer)
        fetcher = WireFetcher("t", {**settings(broker.port, broker.client_id), **(more or {})})
        open_.extend([fetcher, broker])
        return broker, fetcher

    yield start
    for each in open_:
        each.close()


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of somebody who takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def settings(port: int, client_id: str = "wire-test") -> dict[str, str]:
    return {
        "bootstrap.servers": f"127.0.0.1:{port}",
        "client.id": client_id,
        "reconnect.backoff.ms": "1",
        "reconnect.backoff.max.ms": "5",
    }


def once(values: dict[int, bytes]) -> Answer:
    """Each partition's bytes once, then nothing."""
    return lambda partition: values.pop(partition, b"")


def collect(fetcher: WireFetcher, until: Callable[[list[Fetched]], bool]) -> list[Fetched]:
    found: list[Fetched] = []
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
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


def problems(found: list[Fetched]) -> list[tuple[int, int]]:
    return [(problem.partition, problem.code) for fetched in found for problem in fetched.problems]


GOOD = batch([Rec(b"a"), Rec(b"b")])
DAMAGED = batch([Rec(b"x" * 50)])
DAMAGED = DAMAGED[:61] + b"\xff" * (len(DAMAGED) - 61)


def test_a_damaged_batch_stops_its_partition_and_no_other(connect: Start) -> None:
    values = {0: GOOD}
    _, fetcher = connect(lambda p: DAMAGED if p == 1 else values.pop(p, b""))
    fetcher.assign({0: 0, 1: 0})
    found = collect(fetcher, lambda found: len(rows(found)) == 2 and bool(problems(found)))
    assert rows(found) == [(0, 0), (0, 1)]
    assert problems(found) == [(1, KafkaError._BAD_MSG)]
    assert "offset 0" in next(problem.text for fetched in found for problem in fetched.problems)


def test_a_batch_that_was_damaged_on_its_way_is_read_the_next_time(connect: Start) -> None:
    answers = [DAMAGED, DAMAGED[:-30], GOOD]
    _, fetcher = connect(lambda p: answers.pop(0) if p == 0 and answers else b"")
    fetcher.assign({0: 0})
    found = collect(fetcher, lambda found: bool(rows(found)))
    assert (rows(found), problems(found)) == ([(0, 0), (0, 1)], [])


def test_a_batch_larger_than_a_response_stops_its_partition_and_no_other(connect: Start) -> None:
    huge = batch([Rec(bytes(3_000_000))])
    _, fetcher = connect(lambda p: huge if p == 1 else GOOD, {"receive.message.max.bytes": "1000000"})
    fetcher.assign({0: 0, 1: 7})
    found = collect(fetcher, lambda found: bool(rows(found)) and bool(problems(found)))
    assert rows(found)[:2] == [(0, 0), (0, 1)]
    assert problems(found) == [(1, KafkaError._BAD_MSG)]
    (said,) = [problem.text for fetched in found for problem in fetched.problems]
    assert "offset 7" in said
    assert "more than 1000000 bytes; raise receive.message.max.bytes" in said


def test_what_has_no_room_is_no_trouble(connect: Start) -> None:
    """Each of ten partitions unpacks to three quarters of the room: they come one after the other."""
    values = {p: batch([Rec(bytes(750_000))], codec=ZSTD) for p in range(10)}

    def answer(p: int) -> bytes:
        return b"" if p in came else values[p]

    came: set[int] = set()
    broker, fetcher = connect(answer, {"receive.message.max.bytes": "1000000"})
    broker.partitions = 10
    fetcher.assign(dict.fromkeys(range(10), 0))
    found = []
    while len(came) < 10:
        found = collect(fetcher, lambda found: bool(rows(found)))
        assert (problems(found), found[-1].unreadable) == ([], {})
        new = {p for p, _ in rows(found)}
        assert not new & came
        came |= new


def test_a_connection_that_ends_is_made_anew(connect: Start) -> None:
    broker, fetcher = connect(once({0: GOOD}))
    broker.hang_up = True
    fetcher.assign({0: 0})
    found = collect(fetcher, lambda found: bool(rows(found)))
    assert (rows(found), problems(found)) == ([(0, 0), (0, 1)], [])


@pytest.mark.parametrize("code", [KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.KAFKA_STORAGE_ERROR, -1, 999])
def test_an_election_is_waited_for_without_a_storm(connect: Start, code: int) -> None:
    answers = {0: GOOD}
    # Pauses long enough that a busy machine's own don't look like the end of the election, which closes a connection.
    broker, fetcher = connect(lambda p: answers.pop(p, b""), {"reconnect.backoff.max.ms": "50"})
    broker.errors = {0: (code, 20)}
    fetcher.assign({0: 0})
    found = collect(fetcher, lambda found: bool(rows(found)))
    assert (rows(found), problems(found)) == ([(0, 0), (0, 1)], [])
    assert broker.connections < 10  # one reads, one asks who leads: not one an answer
    assert broker.look_ups <= 25


def test_a_single_answer_decides_nothing_and_five_do(connect: Start) -> None:
    broker, fetcher = connect(once({0: GOOD}))
    broker.errors = {0: (KafkaError.OFFSET_OUT_OF_RANGE, 4), 1: (KafkaError.OFFSET_OUT_OF_RANGE, 5)}
    fetcher.assign({0: 0, 1: 99})
    found = collect(fetcher, lambda found: bool(rows(found) and problems(found)))
    assert problems(found) == [(1, KafkaError.OFFSET_OUT_OF_RANGE)]
    assert rows(found) == [(0, 0), (0, 1)]


def test_what_is_not_asked_for_is_found_and_asked_for(
    connect: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("beam_jobs.io.kafka.wire.fetcher._FORGOTTEN_S", 0.3)
    broker, fetcher = connect(once({1: GOOD}))
    broker.errors = {1: (KafkaError.OFFSET_OUT_OF_RANGE, 5)}
    fetcher.assign({0: 0, 1: 0})
    found = collect(fetcher, lambda found: bool(problems(found)))  # nobody decides
    assert rows(collect(fetcher, lambda found: bool(rows(found)))) == [(1, 0), (1, 1)]
    assert rows(found) == []
    assert "partitions 1 are assigned and nobody has asked for them" in caplog.text


def test_a_bug_is_said_once_and_does_not_end_the_reading(
    connect: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left = [1, 2, 3]
    real = protocol.fetched

    def fetched(*arguments: Any) -> Any:
        if left:
            raise RuntimeError("left" if left.pop() else "")
        return real(*arguments)

    monkeypatch.setattr(protocol, "fetched", fetched)
    answers = {0: GOOD}
    _, fetcher = connect(lambda p: b"" if left else answers.pop(p, b""))
    fetcher.assign({0: 0})
    assert rows(collect(fetcher, lambda found: bool(rows(found)))) == [(0, 0), (0, 1)]
    assert caplog.text.count("reading met a bug of this program") == 1


@pytest.mark.parametrize("leader", ["nobody", "not in the list", "refuses", "says nothing", "says half"])
def test_one_partition_that_cannot_be_read_stops_no_other(
    connect: Start, silent: int, monkeypatch: pytest.MonkeyPatch, leader: str
) -> None:
    monkeypatch.setattr("beam_jobs.io.kafka.wire.brokers._QUIET_S", 0.2)
    values = {0: [batch([Rec(b"x")], n) for n in range(50)]}
    broker, fetcher = connect(lambda p: values[p].pop(0) if values.get(p) else b"")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        refused = listener.getsockname()[1]
    half = Broker(once({}))
    half.leaders, half.cut = {0: 2, 1: 1}, 20
    node, expected = {
        "nobody": (-1, "partition 1 has no leader"),
        "not in the list": (7, "partition 1 has no leader"),
        "refuses": (2, f"broker 2 at 127.0.0.1:{refused}: Connection refused"),
        "says nothing": (3, f"broker 3 at 127.0.0.1:{silent} has not answered for 0 s"),
        "says half": (4, f"broker 4 at 127.0.0.1:{half.port} has not answered for 0 s"),
    }[leader]
    broker.others, broker.leaders = {2: refused, 3: silent, 4: half.port}, {1: node}
    fetcher.assign({0: 0, 1: 0})
    found = collect(fetcher, lambda found: len(rows(found)) == 50)
    assert rows(found) == [(0, n) for n in range(50)]
    last = collect(fetcher, lambda found: bool(found[-1].unreadable))[-1]
    assert last.unreadable == {1: expected}
    broker.answer, broker.leaders = once({1: GOOD}), {}
    assert rows(collect(fetcher, lambda found: bool(rows(found)))) == [(1, 0), (1, 1)]
    collect(fetcher, lambda found: not found[-1].unreadable)
    half.close()


def test_brokers_that_were_named_once_are_asked_when_the_first_ones_are_gone(connect: Start) -> None:
    first, fetcher = connect(once({}))
    second = Broker(once({0: GOOD}))
    first.others = {2: second.port}
    second.others = {2: second.port}
    second.leaders = {}
    fetcher.assign({0: 0})
    collect(fetcher, lambda found: first.fetches > 0)
    first.close()
    try:
        assert rows(collect(fetcher, lambda found: bool(rows(found)))) == [(0, 0), (0, 1)]
    finally:
        second.close()


def test_a_broker_that_lacks_a_version_is_the_sources_to_decide(connect: Start) -> None:
    broker, fetcher = connect(once({}))
    broker.versions[protocol.FETCH] = (0, 10)
    fetcher.assign({0: 0})
    found = collect(fetcher, lambda found: bool(problems(found)))
    assert problems(found) == [(0, KafkaError._UNSUPPORTED_FEATURE)]
    (problem,) = found[-1].problems
    assert f"127.0.0.1:{broker.port}: it does not speak version 11" in problem.text
    assert "it offers 0 to 10" in problem.text


def test_more_descriptors_than_select_knows(connect: Start) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    open_ = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        _, fetcher = connect(once({0: GOOD}))
        fetcher.assign({0: 0})
        assert rows(collect(fetcher, lambda found: bool(rows(found)))) == [(0, 0), (0, 1)]
    finally:
        for file in open_:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_somebody_else_on_the_port_is_no_broker(connect: Start) -> None:
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
        fetcher = WireFetcher("t", settings(server.getsockname()[1]))
        try:
            fetcher.assign({0: 0})
            found = collect(fetcher, lambda found: bool(found[-1].unreadable))
            assert "no Kafka broker speaks here" in found[-1].unreadable[0]
        finally:
            fetcher.close()
