"""The brokers as one fetcher sees them: who leads what, a connection to each leader, and what is wrong with which.

Whatever waits for a broker (connecting, logging in, asking who leads) is done by short-lived threads; the fetcher's own
thread takes what they bring. So one broker that does not answer delays nobody but itself.
"""

from __future__ import annotations

import contextlib
import queue
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from confluent_kafka import KafkaError
from numpy.typing import NDArray

from beam_jobs.io.kafka.wire import protocol
from beam_jobs.io.kafka.wire.connection import Connection, LackingError, ReadSettings, TooLargeError
from beam_jobs.io.kafka.wire.sasl import AuthenticationError

_QUIET_S = 5.0  # without an answer: worth a word and a look at who leads, though the connection is kept
_REFRESH_S = 300.0  # who leads, and where the brokers are, may change without an error that says so
_LOOK_UP_S = 1.0  # for one broker to say who leads, doubled with each round up to the settings' own

BROKER_ERRORS = (OSError, AuthenticationError, LackingError, protocol.ShortResponseError)


@dataclass(frozen=True)
class Trouble:
    """What is wrong with a broker, a partition or the look-up."""

    code: int  # Kafka's, or librdkafka's own below 0
    text: str
    since: float  # monotonic clock
    times: int  # failures in a row
    same: int  # the last ones of them with this code
    until: float  # not tried again before, monotonic clock


def worse(before: Trouble | None, code: int, text: str, pause_s: tuple[float, float]) -> Trouble:
    """One failure more in a row; the pauses double."""
    now = time.monotonic()
    times = 1 if before is None else before.times + 1
    same = before.same + 1 if before is not None and before.code == code else 1
    low, high = pause_s
    pause = min(high, low * 2 ** min(times - 1, 30))
    return Trouble(code, text, now if before is None else before.since, times, same, now + pause)


@dataclass
class Request:
    """A fetch whose answer is waited for."""

    generation: int
    positions: Mapping[int, int]
    since: float


@dataclass
class _Node:
    id: int
    host: str
    port: int
    connection: Connection | None = None
    connecting: float | None = None  # since, monotonic clock
    request: Request | None = None
    trouble: Trouble | None = None

    def __str__(self) -> str:
        return f"broker {self.id} at {self.host}:{self.port}"

    @property
    def quiet_since(self) -> float:
        """When something was last heard of the answer to a request: a long one is on its way for a while."""
        assert self.request is not None
        return max(self.request.since, 0.0 if self.connection is None else self.connection.moved)

    def why(self, now: float) -> str:
        """Why it can't be read; "": it can, or is about to."""
        if self.trouble is not None:
            return self.trouble.text
        since = self.quiet_since if self.request is not None else self.connecting
        return f"{self} has not answered for {_QUIET_S:.0f} s" if since is not None and now - since > _QUIET_S else ""


@dataclass
class _LookUp:
    """Asking who leads: one at a time, the less often the longer it is needed."""

    wanted: bool = True
    since: float | None = None  # one is under way, monotonic clock
    last: float = 0.0
    pause: Trouble | None = None  # between two, whether they succeed or not
    trouble: Trouble | None = None
    scout: Connection | None = None  # kept while who leads is in doubt


@dataclass
class Brokers:
    """All methods but ``wake`` are the fetcher thread's."""

    topic: str
    settings: ReadSettings
    _nodes: dict[int, _Node] = field(default_factory=dict)  # all that were ever named: they may know who leads
    _leaders: dict[int, int] = field(default_factory=dict)  # partition -> node id, the last that is known
    _led: frozenset[int] = frozenset()  # partitions with a leader, by the last answer
    _known: bool = False  # some broker has said who leads
    _look: _LookUp = field(default_factory=_LookUp)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._news: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._selector.register(self._wake_out, selectors.EVENT_READ)

    def wake(self) -> None:
        """Ends a wait for answers."""
        with contextlib.suppress(OSError):  # closed, or woken often enough
            self._wake_in.send(b"x")

    def tend(self) -> None:
        """Takes what was waited for elsewhere; looks after requests without an answer, and after who leads."""
        while True:
            try:
                self._news.get_nowait()()
            except queue.Empty:
                break
        now = time.monotonic()
        for node in self._nodes.values():
            if node.trouble is None and node.why(now):
                self._look.wanted = True
            patience_s = self.settings.answer_s + self.settings.wait_ms / 1000
            if node.request is not None and now - node.quiet_since > patience_s:
                self.failed(node.id, TimeoutError(f"nothing of an answer within {self.settings.answer_s:g} s"))
        look = self._look
        if look.since is None and (look.wanted or now - look.last > _REFRESH_S):
            if look.pause is None or look.pause.until <= now:
                self._look_up(now)
        elif look.pause is not None and not look.wanted and now - look.last > 2 * self.settings.pause_s[1]:
            look.pause = None
            if look.scout is not None:
                look.scout.close()
                look.scout = None

    def leader(self, partition: int) -> int | None:
        """Whom to ask; None: not known, it is being looked up."""
        if partition not in self._led:
            self._look.wanted = True
        return self._leaders.get(partition)

    def look_again(self) -> None:
        """Who leads is in doubt."""
        self._look.wanted = True

    def free(self, node_id: int) -> bool:
        """Whether the broker can be asked now; connects to it where that is missing and not to be waited with."""
        node = self._nodes[node_id]
        now = time.monotonic()
        if node.trouble is not None and node.trouble.until > now:
            return False
        if node.connection is None and node.connecting is None:
            node.connecting = now
            self._elsewhere(partial(self._connect, node))
        return node.connection is not None and node.request is None

    def ask(self, node_id: int, generation: int, positions: Mapping[int, int], body: bytes) -> None:
        """Sends a fetch to a broker that is free."""
        node = self._nodes[node_id]
        assert node.connection is not None
        node.request = Request(generation, positions, time.monotonic())
        try:
            node.connection.send(protocol.FETCH, protocol.FETCH_VERSION, body)
            if node.connection.events != selectors.EVENT_READ:
                self._selector.modify(node.connection, node.connection.events, node)
        except OSError as error:
            self.failed(node_id, error)

    def answers(self, timeout_s: float) -> Iterator[tuple[int, Request, NDArray[np.uint8] | TooLargeError]]:
        """Waits for answers, or for ``wake``; a part of an answer does not end the wait."""
        deadline = time.monotonic() + timeout_s
        waiting = True
        while waiting:
            events = self._selector.select(max(0.0, deadline - time.monotonic()))
            waiting = bool(events) and time.monotonic() < deadline
            for key, mask in events:
                node = key.data
                if node is None:
                    waiting = False
                    with contextlib.suppress(BlockingIOError):
                        self._wake_out.recv(4096)
                    continue
                connection: Connection | None = node.connection
                if connection is None or connection is not key.fileobj:
                    continue  # closed while another answer was taken
                try:
                    if mask & selectors.EVENT_WRITE:
                        connection.flush()
                        self._selector.modify(connection, connection.events, node)
                    data = connection.receive() if mask & selectors.EVENT_READ else None
                except TooLargeError as error:
                    waiting = False
                    request = node.request
                    self._hang_up(node)
                    if request is not None:
                        yield node.id, request, error
                    continue
                except OSError as error:
                    waiting = False
                    if node.request is None:  # a broker closes what is idle
                        self._hang_up(node)
                    else:
                        self.failed(node.id, error)
                    continue
                if data is not None:
                    waiting = False
                    request, node.request = node.request, None
                    yield node.id, request, data

    def answered_well(self, node_id: int) -> None:
        """The broker does what it is asked."""
        self._nodes[node_id].trouble = None

    def failed(self, node_id: int, error: Exception, code: int | None = None) -> None:
        """Something is wrong with one broker: its connection is recreated, later; an error ``code`` keeps it."""
        node = self._nodes[node_id]
        if code is None:
            self._hang_up(node)
            code = _code(error)
        node.trouble = worse(node.trouble, code, f"{node}: {reason_of(error)}", self.settings.pause_s)
        self._look.wanted = True

    def why(self, partition: int) -> str:
        """Why the partition can't be read, as far as it is not its own trouble; "": it can."""
        now = time.monotonic()
        node = self._nodes.get(self._leaders.get(partition, -1))
        theirs = "" if node is None else node.why(now)
        if node is not None and (partition in self._led or not theirs):
            return theirs
        if self._known:
            return f"partition {partition} has no leader" + (f"; the last one was {theirs}" if theirs else "")
        if self._look.trouble is not None:
            return self._look.trouble.text
        quiet = self._look.since is not None and now - self._look.since > _QUIET_S
        return "no broker has answered yet" if quiet else ""

    def refusal(self) -> Trouble | None:
        """What the look-up met before anything was known, or a broker that lacks what is needed here."""
        lacking = (
            node.trouble
            for node in self._nodes.values()
            if node.trouble is not None and node.trouble.code == KafkaError._UNSUPPORTED_FEATURE
        )
        return next(lacking, None if self._known else self._look.trouble)

    def soonest(self, now: float, at_most: float) -> float:
        """Seconds until a broker or the look-up may be tried again."""
        pauses = [node.trouble for node in self._nodes.values()]
        if self._look.wanted and self._look.since is None:
            pauses.append(self._look.pause)
        return min([at_most, *(max(0.0, p.until - now) for p in pauses if p is not None and p.until > now)])

    def forgive(self) -> None:
        """Nobody has looked for answers for a while: what is open counts from now."""
        for node in self._nodes.values():
            if node.request is not None:
                node.request.since = time.monotonic()

    def hang_up(self) -> None:
        """Closes all connections, forgets all pauses: from here on as at the start."""
        for node in self._nodes.values():
            self._hang_up(node)
            node.trouble = None
        self._look.wanted, self._look.pause = True, None

    def close(self) -> None:
        with self._lock:
            self._closed = True
        while not self._news.empty():
            self._news.get()()
        self.hang_up()
        if self._look.scout is not None:
            self._look.scout.close()
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()

    def _hang_up(self, node: _Node) -> None:
        if node.connection is not None:
            self._selector.unregister(node.connection)
            node.connection.close()
        node.connection = node.request = None

    def _elsewhere(self, errand: Callable[[], Callable[[], None]]) -> None:
        """Does what waits in a thread of its own; what it comes to is done in ours."""

        def run() -> None:
            news = errand()
            with self._lock:
                if not self._closed:
                    self._news.put(news)
                    self.wake()
                    return
            news()  # closes what it has brought

        threading.Thread(target=run, name=f"fetch-{self.topic}-connect", daemon=True).start()

    def _connect(self, node: _Node) -> Callable[[], None]:
        try:
            connection = Connection(node.host, node.port, self.settings)
        except Exception as error:
            failure = error

            def sorry() -> None:
                node.connecting = None
                if self._nodes.get(node.id) is node:
                    self.failed(node.id, failure)

            return sorry

        def use() -> None:
            node.connecting = None
            if self._closed or self._nodes.get(node.id) is not node:
                connection.close()
                return
            node.connection = connection
            self._selector.register(connection, selectors.EVENT_READ, node)

        return use

    def _look_up(self, now: float) -> None:
        look = self._look
        look.wanted, look.since = False, now
        look.pause = worse(look.pause, 0, "", self.settings.pause_s)
        scout, look.scout = look.scout, None
        well = [(n.host, n.port) for n in self._nodes.values() if n.connection is not None and not n.why(now)]
        known = [(n.host, n.port) for n in self._nodes.values()]
        candidates = list(dict.fromkeys([*well, *self.settings.servers, *known]))
        rounds = 0 if look.trouble is None else look.trouble.times
        patience_s = min(self.settings.connect_s, _LOOK_UP_S * 2 ** min(rounds, 10))
        self._elsewhere(lambda: self._ask_who_leads(scout, candidates, patience_s))

    def _ask_who_leads(
        self, scout: Connection | None, candidates: list[tuple[str, int]], patience_s: float
    ) -> Callable[[], None]:
        """Asks one after the other, until one knows."""
        code, text = int(KafkaError._TRANSPORT), "no broker is known"
        for address in [None] * (scout is not None) + candidates:
            connection = scout if address is None else None
            try:
                if connection is None and address is not None:
                    connection = Connection(*address, self.settings, patience_s)
                assert connection is not None
                asked = protocol.metadata_request(self.topic)
                found = protocol.metadata(connection.ask(protocol.METADATA, protocol.METADATA_VERSION, asked))
            except Exception as error:
                failure = _code(error), reason_of(error)
            else:
                if not found.error:
                    return partial(self._found, connection, found)
                failure = found.error, KafkaError(found.error).str()
            if connection is not None:
                connection.close()
            if address is not None and code == KafkaError._TRANSPORT:  # else somebody has said more than that
                code, text = failure[0], f"{address[0]}:{address[1]}: {failure[1]}"
        return partial(self._not_found, code, text)

    def _found(self, scout: Connection, found: protocol.Metadata) -> None:
        look = self._look
        look.since, look.last, look.trouble = None, time.monotonic(), None
        if self._closed:
            scout.close()
            return
        look.scout = scout
        self._known = True
        for node_id, (host, port) in found.brokers.items():
            node = self._nodes.get(node_id)
            if node is None or (node.host, node.port) != (host, port):
                if node is not None:
                    self._hang_up(node)
                self._nodes[node_id] = _Node(node_id, host, port)
        # Nobody may lead for a while: the last leader is asked on, what it says counts.
        leaders = {p: leader for p, leader in found.leaders.items() if leader in self._nodes}
        self._leaders |= leaders
        self._led = frozenset(leaders)

    def _not_found(self, code: int, text: str) -> None:
        look = self._look
        look.since, look.last, look.wanted = None, time.monotonic(), True
        look.trouble = worse(look.trouble, code, text, self.settings.pause_s)


def _code(error: Exception) -> int:
    if isinstance(error, AuthenticationError):
        return int(KafkaError._AUTHENTICATION)
    if isinstance(error, ssl.SSLError):
        return int(KafkaError._SSL)
    if isinstance(error, LackingError):
        return int(KafkaError._UNSUPPORTED_FEATURE)
    return int(KafkaError._TRANSPORT)


def reason_of(error: Exception) -> str:
    """What went wrong, without the system's numbers."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
