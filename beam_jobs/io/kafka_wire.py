"""The fetcher on Kafka's protocol itself: fetch responses become blocks without an object a record.

A thread of its own asks the brokers, receives and indexes (both without the interpreter's lock) while the pipeline
works on earlier blocks, up to a bounded number of bytes ahead. librdkafka stays for everything else: metadata checks,
offsets, commits, and reading where a setting is not understood here (``kafka_connection.understands``).
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from confluent_kafka import KafkaError

from beam_jobs.block import MAX_BLOCK_ROWS, Block, concat, raw_block
from beam_jobs.io import kafka_protocol as protocol
from beam_jobs.io import kafka_records as records
from beam_jobs.io.kafka_connection import Connection
from beam_jobs.io.kafka_fetch import MAX_BLOCK_BYTES, NO_TIMESTAMP, Fetched, Problem
from beam_jobs.io.kafka_records import Records
from beam_jobs.io.kafka_sasl import AuthenticationError
from beam_jobs.io.kafka_unpack import DEFAULT_LIMIT, Room

_LOGGER = logging.getLogger(__name__)

_AHEAD_BYTES = 32 << 20  # of blocks nobody has taken yet
_RESPONSE_BYTES = 4 << 20  # of one fetch: small enough to be still in the processor's cache when it is indexed
_PARTITION_BYTES = 1 << 20  # at least; few partitions share the response's bytes
_BACKOFF_S = (0.05, 1.0)  # after a failure, doubled up to the second
_TICK_S = 0.5

# Errors of a partition that a look at the metadata mends.
_MOVED = frozenset({5, 6, 9, 74, 75, 76})  # leader not available, not leader, replica, leader epochs
_OUT_OF_RANGE = 1


@dataclass
class _Ready:
    """What one fetch brought, on its way to the pipeline."""

    blocks: deque[Block] = field(default_factory=deque)
    partitions: set[int] = field(default_factory=set)  # of the blocks' rows
    ends: dict[int, int] = field(default_factory=dict)  # reached after the last block
    problems: list[Problem] = field(default_factory=list)
    arrived: float = field(default_factory=time.monotonic)


class WireFetcher:
    """See ``kafka_fetch.Fetcher``."""

    def __init__(self, topic: str, properties: Mapping[str, Any]) -> None:
        records.warm_up()
        self._topic = topic
        self._properties = dict(properties)
        self._lock = threading.Condition()
        # Under the lock.
        self._positions: dict[int, int] = {}  # partition -> next offset to ask for
        self._generation = 0  # of the assignment: responses to an older one are dropped
        self._ready: deque[_Ready] = deque()
        self._ready_bytes = 0
        self._closed = False
        self._block_rows = MAX_BLOCK_ROWS
        # The thread's own.
        self._room = Room(int(self._properties.get("receive.message.max.bytes", DEFAULT_LIMIT)))
        self._check_crcs = self._properties.get("check.crcs", "true").lower() in ("true", "t", "1")
        self._connections: dict[int, Connection] = {}  # node id -> connection
        self._asked: dict[int, tuple[int, dict[int, int]]] = {}  # node id -> generation, positions of the open request
        self._metadata: protocol.Metadata | None = None
        self._at_end: dict[int, int] = {}
        self._failures = 0
        self._wake_in, self._wake_out = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name=f"fetch-{topic}", daemon=True)
        self._thread.start()

    def assign(self, positions: Mapping[int, int]) -> None:
        with self._lock:
            self._positions = dict(positions)
            self._generation += 1
            self._ready.clear()
            self._ready_bytes = 0
            self._lock.notify_all()
        self._wake()

    def stop(self, partitions: Iterable[int]) -> None:
        with self._lock:
            for partition in partitions:
                self._positions.pop(partition, None)

    def fetch(self, max_rows: int, wait_s: float, linger_s: float) -> Fetched:
        taken: list[Block] = []
        ends: dict[int, int] = {}
        problems: list[Problem] = []
        rows = size = 0
        full = False
        deadline = time.monotonic() + wait_s
        with self._lock:
            self._block_rows = max_rows
            while True:
                while self._ready and not (full or problems):
                    head = self._ready[0]
                    if not head.blocks:
                        ends |= head.ends
                        problems = head.problems
                        self._ready.popleft()
                        continue
                    block = head.blocks.popleft()
                    self._ready_bytes -= block.nbytes
                    room = max_rows - rows
                    full = block.num_rows >= room or (rows > 0 and size + block.nbytes > MAX_BLOCK_BYTES)
                    if rows and (block.num_rows > room or size + block.nbytes > MAX_BLOCK_BYTES):
                        self._put_back(head, block)  # cutting it would copy it: the next call takes it whole
                        break
                    if block.num_rows > room:
                        self._put_back(head, block.slice(room))
                        block = block.slice(0, room)
                    if not taken:
                        deadline = head.arrived + linger_s  # records that waited for us don't wait again
                    taken.append(block)
                    rows += block.num_rows
                    size += block.nbytes
                    for partition in ends.keys() & head.partitions:
                        del ends[partition]  # no longer its end
                left = deadline - time.monotonic()
                if full or problems or left <= 0 or (ends and not rows):
                    break
                self._lock.wait(left)
            if self._ready_bytes < _AHEAD_BYTES:
                self._lock.notify_all()
        if not taken:
            return Fetched(ends=ends, problems=problems)
        block = concat(taken)
        return Fetched(block, _next_offsets(block), ends, problems)

    def _put_back(self, head: _Ready, block: Block) -> None:
        head.blocks.appendleft(block)
        self._ready_bytes += block.nbytes

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        self._wake()
        for connection in list(self._connections.values()):
            connection.close()
        self._thread.join(10.0)
        self._wake_in.close()
        self._wake_out.close()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # closed
            self._wake_in.send(b"x")

    # From here on: the thread.

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._closed and (not self._positions or self._ready_bytes >= _AHEAD_BYTES):
                    self._lock.wait()
                if self._closed:
                    break
            try:
                self._step()
            except (OSError, protocol.ShortResponseError, AuthenticationError) as error:
                self._failed(error)
            except Exception as error:  # a bug: said as loudly as an outage, and tried again
                _LOGGER.exception("%s: reading failed", self._topic)
                self._failed(error)
        self._drop()

    def _step(self) -> None:
        """Sends what can be asked, waits for one broker's answer or a change of the assignment, takes what is there."""
        if self._metadata is None:
            self._metadata = self._look_up()
        with self._lock:
            generation, positions = self._generation, dict(self._positions)
        wanted: dict[int, dict[int, int]] = {}
        for partition, offset in positions.items():
            leader = self._metadata.leaders.get(partition)
            if leader is not None:
                wanted.setdefault(leader, {})[partition] = offset
        missing = positions.keys() - self._metadata.leaders.keys()
        if missing:
            self._metadata = None
            raise ConnectionError(f"partition {min(missing)} has no leader")
        for node, theirs in wanted.items():
            if node not in self._asked:
                self._ask(node, generation, theirs)
        waiting: list[Connection | socket.socket] = [self._connections[node] for node in self._asked]
        answered, _, _ = select.select([*waiting, self._wake_out], [], [], _TICK_S)
        if self._wake_out in answered:
            self._wake_out.recv(4096)
        for node in [n for n in self._asked if self._connections[n] in answered]:
            self._take(node)

    def _look_up(self) -> protocol.Metadata:
        """Asks the brokers in turn who leads the partitions."""
        known = [] if self._metadata is None else list(self._metadata.brokers.values())
        servers = [_host_port(text) for text in self._properties["bootstrap.servers"].split(",")]
        failure: Exception = ConnectionError("no broker is known")
        for host, port in [*servers, *known]:
            try:
                connection = Connection(host, port, self._properties)
            except (OSError, AuthenticationError) as error:
                failure = error
                continue
            try:
                data = connection.ask(
                    protocol.METADATA, protocol.METADATA_VERSION, protocol.metadata_request(self._topic)
                )
            except OSError as error:
                failure = error
                continue
            finally:
                connection.close()
            found = protocol.metadata(data)
            if found.error:
                raise _TopicError(found.error)
            return found
        raise failure

    def _ask(self, node: int, generation: int, positions: dict[int, int]) -> None:
        assert self._metadata is not None
        connection = self._connections.get(node)
        if connection is None:
            connection = self._connections[node] = Connection(*self._metadata.brokers[node], self._properties)
        body = protocol.fetch_request(
            self._topic,
            positions,
            max_wait_ms=int(self._properties.get("fetch.wait.max.ms", "100")),
            max_bytes=_RESPONSE_BYTES,
            max_partition_bytes=max(_PARTITION_BYTES, _RESPONSE_BYTES // len(positions)),
            read_committed=self._read_committed,
        )
        connection.send(protocol.FETCH, protocol.FETCH_VERSION, body)
        self._asked[node] = (generation, positions)

    @property
    def _read_committed(self) -> bool:
        return self._properties.get("isolation.level", "read_committed") == "read_committed"

    def _take(self, node: int) -> None:
        """Receives a broker's answer and hands it over."""
        generation, asked = self._asked[node]
        data = self._connections[node].receive()
        del self._asked[node]
        error, partitions = protocol.fetched(data, self._read_committed)
        if error:
            raise ConnectionError(f"{self._connections[node].name} answers with error {error}")
        ready, found, following = _Ready(), [], {}
        self._room.clear()
        for part in partitions:
            p = part.partition
            if p not in asked:
                continue
            if part.error:
                self._partition_error(part, ready)
                continue
            try:
                rows, following[p] = records.read_batches(
                    p,
                    data,
                    part.start,
                    part.stop,
                    asked[p],
                    part.aborted,
                    room=self._room,
                    check_crcs=self._check_crcs,
                )
            except records.BadBatchError as damaged:  # the other partitions go on
                text = f"what the broker holds at offset {asked[p]} can't be read: {damaged}"
                ready.problems.append(Problem(p, int(KafkaError._BAD_MSG), text))
                continue
            if len(rows):
                found.append(rows)
                ready.partitions.add(p)
                self._at_end.pop(p, None)
            if following[p] >= part.end_offset and self._at_end.get(p) != following[p]:
                self._at_end[p] = ready.ends[p] = following[p]
        ready.blocks.extend(blocks(self._topic, found, self._block_rows))
        self._failures = 0
        with self._lock:
            if generation != self._generation:
                return
            for p, offset in following.items():
                if p in self._positions:
                    # To the end of the next request: a broker fills its answer from the front.
                    moved = offset != self._positions.pop(p)
                    self._positions = self._positions | {p: offset} if moved else {p: offset} | self._positions
            for problem in ready.problems:
                self._positions.pop(problem.partition, None)  # until it is assigned anew
            if ready.blocks or ready.ends or ready.problems:
                self._ready.append(ready)
                self._ready_bytes += sum(block.nbytes for block in ready.blocks)
                self._lock.notify_all()

    def _partition_error(self, part: protocol.FetchedPartition, ready: _Ready) -> None:
        if part.error in _MOVED:
            self._metadata = None
        elif part.error == KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise _TopicError(part.error)
        else:
            ready.problems.append(Problem(part.partition, part.error, KafkaError(part.error).str()))

    def _failed(self, error: Exception) -> None:
        """Reports a failure, drops the connections, waits a little."""
        self._drop()
        code = error.code if isinstance(error, _TopicError) else _code(error)
        _LOGGER.debug("%s: %s", self._topic, error)
        low, high = _BACKOFF_S
        pause = min(high, low * 2**self._failures)
        self._failures = min(self._failures + 1, 10)
        with self._lock:
            problems = [Problem(-1, code, str(error))]
            if code == KafkaError._TRANSPORT:  # what librdkafka says when no broker at all can be reached
                problems.append(Problem(-1, KafkaError._ALL_BROKERS_DOWN, str(error)))
            self._ready.append(_Ready(problems=problems))
            self._lock.notify_all()
            if not self._closed:
                self._lock.wait(pause)

    def _drop(self) -> None:
        for connection in list(self._connections.values()):
            connection.close()
        self._connections.clear()
        self._asked.clear()
        self._at_end.clear()
        self._metadata = None


class _TopicError(ConnectionError):
    def __init__(self, code: int) -> None:
        super().__init__(KafkaError(code).str())
        self.code = code


def _code(error: Exception) -> int:
    if isinstance(error, AuthenticationError):
        return int(KafkaError._AUTHENTICATION)
    if isinstance(error, ssl.SSLError):
        return int(KafkaError._SSL)
    return int(KafkaError._TRANSPORT)


def _host_port(text: str) -> tuple[str, int]:
    host, _, port = text.strip().rpartition(":")
    return host.strip("[]"), int(port)


def blocks(topic: str, found: list[Records], max_rows: int) -> list[Block]:
    """Raw blocks of at most ``max_rows`` rows and about MAX_BLOCK_BYTES bytes; partitions may share a block."""
    total = sum(map(len, found))
    max_rows = -(-total // max(1, -(-total // max_rows)))  # even shares: no short block at the end
    out: list[Block] = []
    pieces: list[Records] = []
    rows = size = 0
    for part in found:
        at = 0
        while at < len(part):
            piece = part[at : at + max_rows - rows]
            sizes = piece.sizes()
            if size + int(sizes.sum()) > MAX_BLOCK_BYTES:
                fits = int(np.searchsorted(np.cumsum(sizes) + size, MAX_BLOCK_BYTES, side="right"))
                piece = piece[: max(fits, 0 if rows else 1)]  # a single record may be larger than the cap
            full = at + len(piece) < len(part)
            if len(piece):
                pieces.append(piece)
                rows += len(piece)
                size += int(sizes[: len(piece)].sum())
                at += len(piece)
            if rows >= max_rows or full:
                out.append(_block(topic, pieces))
                pieces, rows, size = [], 0, 0
    if pieces:
        out.append(_block(topic, pieces))
    return out


def _block(topic: str, pieces: list[Records]) -> Block:
    parts = [
        raw_block(
            topic,
            np.full(len(piece), piece.partition, np.int32),
            piece.index[records.OFFSET],
            _millis(piece),
            piece.keys(),
            piece.values(),
            piece.headers(),
        )
        for piece in pieces
    ]
    return concat(parts)


def _millis(piece: Records) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Milliseconds; records without a timestamp get the time of reading, the nearest there is."""
    millis = piece.index[records.MILLIS]
    none = millis == NO_TIMESTAMP
    return np.where(none, int(time.time() * 1000), millis) if none.any() else millis


def _next_offsets(block: Block) -> dict[int, int]:
    """Partition -> 1 + offset of its last row; numpy's assignment keeps the last of equal indexes."""
    partitions, offsets = block.column("partition").to_numpy(), block.column("offset").to_numpy()
    after = np.full(int(partitions.max()) + 1, -1, np.int64)
    after[partitions] = offsets + 1
    return {p: int(after[p]) for p in np.flatnonzero(after >= 0).tolist()}
