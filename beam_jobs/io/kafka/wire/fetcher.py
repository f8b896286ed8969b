"""The fetcher on Kafka's protocol itself: fetch responses become blocks without an object a record.

A thread of its own asks the brokers, receives and indexes (both without the interpreter's lock) while the pipeline
works on earlier blocks, up to a bounded number of bytes ahead. librdkafka stays for everything else: metadata checks,
offsets, commits, and reading where a setting is not understood here (``connection.understands``).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from confluent_kafka import KafkaError
from numpy.typing import NDArray

from beam_jobs.block import MAX_BLOCK_ROWS, Block, concat, raw_block
from beam_jobs.errors import one_line
from beam_jobs.io.kafka.fetch import DECIDED, MAX_BLOCK_BYTES, NO_TIMESTAMP, Epochs, Fetched, Problem, limit_text
from beam_jobs.io.kafka.wire import protocol, records
from beam_jobs.io.kafka.wire.brokers import BROKER_ERRORS, Brokers, Request, Trouble, worse
from beam_jobs.io.kafka.wire.connection import ReadSettings, TooLargeError
from beam_jobs.io.kafka.wire.records import Records
from beam_jobs.io.kafka.wire.unpack import BadBatchError, Room

_LOGGER = logging.getLogger(__name__)

_RESPONSE_BYTES = 4 << 20  # of one fetch: small enough to be still in the processor's cache when it is indexed
_PARTITION_BYTES = 1 << 20  # at least; few partitions share the response's bytes
_TICK_S = 0.5
_TELL_S = 0.1  # how old the word on what can't be read may be
_FORGOTTEN_S = 60.0  # no answer, no failure, no pause takes as long

_TURNS = 10  # of each partition alone, until all are asked for together again
_ANSWERS = 5  # the same in a row, before the source decides: with the pauses between them, most of a second


@dataclass
class _Ready:
    """What one fetch brought, on its way to the pipeline."""

    blocks: deque[Block] = field(default_factory=deque)
    partitions: set[int] = field(default_factory=set)  # of the blocks' rows
    ends: dict[int, int] = field(default_factory=dict)  # reached after the last block
    epochs: dict[int, Epochs] = field(default_factory=dict)  # of its batches; handed over with the first block
    problems: list[Problem] = field(default_factory=list)
    arrived: float = field(default_factory=time.monotonic)


class WireFetcher:
    """See ``fetch.Fetcher``."""

    def __init__(self, topic: str, properties: Mapping[str, Any]) -> None:
        records.warm_up()
        self._topic = topic
        self._settings = ReadSettings.of(properties)
        self._brokers = Brokers(topic, self._settings)
        self._lock = threading.Condition()
        # Under the lock.
        self._positions: dict[int, int] = {}  # partition -> next offset to ask for
        self._undecided: set[int] = set()  # of them: the source was told of a problem, and has not assigned again
        self._generation = 0  # of the assignment: responses to an older one are dropped
        self._ready: deque[_Ready] = deque()
        self._ready_bytes = 0
        self._unreadable: Mapping[int, str] = {}
        self._closed = False
        self._block_rows = MAX_BLOCK_ROWS
        # The thread's own.
        self._room = Room(self._settings.unpacked_bytes)
        self._tended = 0  # the generation that the rest is about
        self._at_end: dict[int, int] = {}
        self._troubles: dict[int, Trouble] = {}  # partition -> what is wrong with it alone
        self._turns: dict[int, int] = {}  # node id -> how often it was asked for one partition alone
        self._seen: dict[int, float] = {}  # partition -> when it was asked for, or known why not; monotonic clock
        self._tell_at = 0.0  # monotonic clock
        self._bugs: set[str] = set()
        self._thread = threading.Thread(target=self._run, name=f"fetch-{topic}", daemon=True)
        self._thread.start()

    def assign(self, positions: Mapping[int, int]) -> None:
        with self._lock:
            self._positions = dict(positions)
            self._undecided = set()
            self._generation += 1
            self._ready.clear()
            self._ready_bytes = 0
            self._unreadable = {}
            self._lock.notify_all()
        self._brokers.wake()

    def stop(self, partitions: Iterable[int]) -> None:
        with self._lock:
            for partition in partitions:
                self._positions.pop(partition, None)
                self._undecided.discard(partition)

    def fetch(self, max_rows: int, wait_s: float, linger_s: float) -> Fetched:
        taken: list[Block] = []
        ends: dict[int, int] = {}
        problems: list[Problem] = []
        epochs: dict[int, Epochs] = {}
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
                        _join(epochs, head)
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
                    _join(epochs, head)
                    rows += block.num_rows
                    size += block.nbytes
                    for partition in ends.keys() & head.partitions:
                        del ends[partition]  # no longer its end
                left = deadline - time.monotonic()
                if full or problems or left <= 0 or (ends and not rows):
                    break
                self._lock.wait(left)
            if self._ready_bytes < self._settings.ahead_bytes:
                self._lock.notify_all()
            unreadable = self._unreadable
        if not taken:
            return Fetched(ends=ends, problems=problems, unreadable=unreadable, epochs=epochs)
        block = concat(taken)
        return Fetched(block, _next_offsets(block), ends, problems, unreadable, epochs)

    def _put_back(self, head: _Ready, block: Block) -> None:
        head.blocks.appendleft(block)
        self._ready_bytes += block.nbytes

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        self._brokers.wake()
        self._thread.join(10.0)

    # From here on: the thread.

    def _run(self) -> None:
        while self._wait_for_room():
            try:
                self._step()
            except Exception as error:
                self._bug(error)
                with self._lock:
                    if not self._closed:
                        self._lock.wait(self._settings.pause_s[1])
        self._brokers.close()

    def _wait_for_room(self) -> bool:
        """Waits until there is something to ask for, and room for the answer; False: closed."""
        with self._lock:
            if self._closed or (self._positions and self._ready_bytes < self._settings.ahead_bytes):
                return not self._closed
            while not self._closed and (not self._positions or self._ready_bytes >= self._settings.ahead_bytes):
                self._lock.wait()
        self._brokers.forgive()
        self._seen.clear()
        return not self._closed

    def _step(self) -> None:
        """Sends what can be asked, waits for an answer or a change of the assignment, takes what is there."""
        self._brokers.tend()
        with self._lock:
            generation, positions = self._generation, dict(self._positions)
            undecided = set(self._undecided)
        if generation != self._tended:
            self._tended = generation
            self._at_end, self._troubles, self._seen = {}, {}, {}
        wanted: dict[int, dict[int, int]] = {}
        now = time.monotonic()
        for partition, offset in positions.items():
            trouble = self._troubles.get(partition)
            if partition in undecided or (trouble is not None and trouble.until > now):
                continue
            leader = self._brokers.leader(partition)
            if leader is not None:
                wanted.setdefault(leader, {})[partition] = offset
        for node, theirs in wanted.items():
            if self._brokers.free(node):
                self._ask(node, generation, self._one_by_one(node, theirs))
        if now >= self._tell_at:
            self._tell_at = now + _TELL_S
            self._tell(positions, undecided)
        for node, request, data in self._brokers.answers(self._pause(now)):
            try:
                if isinstance(data, TooLargeError):
                    self._too_large(node, request, data)
                else:
                    self._take(node, request, data)
            except Exception as error:
                if not isinstance(error, BROKER_ERRORS):
                    self._bug(error)
                self._brokers.failed(node, error)

    def _pause(self, now: float) -> float:
        """Seconds until something is to be tried again."""
        pauses = [trouble.until - now for trouble in self._troubles.values() if trouble.until > now]
        return self._brokers.soonest(now, min([_TICK_S, *pauses]))

    def _ask(self, node: int, generation: int, positions: dict[int, int]) -> None:
        share = self._settings.partition_bytes or max(_PARTITION_BYTES, _RESPONSE_BYTES // len(positions))
        body = protocol.fetch_request(
            self._topic,
            positions,
            max_wait_ms=self._settings.wait_ms,
            max_bytes=_RESPONSE_BYTES,
            max_partition_bytes=share,
            read_committed=self._settings.read_committed,
        )
        self._brokers.ask(node, generation, positions, body)
        self._seen.update(dict.fromkeys(positions, time.monotonic()))

    def _one_by_one(self, node: int, positions: dict[int, int]) -> dict[int, int]:
        """All, or where one of them makes the answer too large, one after the other."""
        turn = self._turns.get(node)
        if turn is None:
            return positions
        self._turns[node] = turn + 1
        if turn > _TURNS * len(positions):
            del self._turns[node]
        partition = sorted(positions)[turn % len(positions)]
        return {partition: positions[partition]}

    def _too_large(self, node: int, request: Request, answer: TooLargeError) -> None:
        """A broker sends a partition's next batch whole, however large: the partition is found, and stops alone."""
        if len(request.positions) > 1:
            self._turns[node] = 0
            return
        ((partition, offset),) = request.positions.items()
        why = f"a response of {answer.size} bytes, more than {limit_text(self._settings.unpacked_bytes)}"
        text = f"what the broker holds at offset {offset} can't be read: {why}"
        problems = self._worse({partition: (int(KafkaError._BAD_MSG), text)})
        self._hand_over(request.generation, _Ready(problems=problems), {})

    def _take(self, node: int, request: Request, data: NDArray[np.uint8]) -> None:
        """Hands over what a broker has answered."""
        error, partitions = protocol.fetched(data, self._settings.read_committed)
        if error:
            self._brokers.failed(node, ConnectionError(KafkaError(error).str()), error)
            return
        self._brokers.answered_well(node)
        with self._lock:
            if request.generation != self._generation:
                return
            # Another broker may have answered meanwhile: only what comes next is taken, so nothing comes twice.
            asked = {p: offset for p, offset in request.positions.items() if self._positions.get(p) == offset}
        ready, found, following = _Ready(), [], {}
        self._room.clear()
        failures = {p: (int(KafkaError._FAIL), "it is left out of the answer") for p in asked}
        for part in partitions:
            p = part.partition
            if p not in asked or p in following:
                continue
            if part.error:
                failures[p] = part.error, KafkaError(part.error).str()
                continue
            try:
                rows, after = records.read_batches(
                    p,
                    data,
                    part.start,
                    part.stop,
                    asked[p],
                    part.aborted,
                    room=self._room,
                    check_crcs=self._settings.check_crcs,
                )
            except BadBatchError as damaged:  # the other partitions go on
                text = f"what the broker holds at offset {asked[p]} can't be read: {damaged}"
                failures[p] = int(KafkaError._BAD_MSG), text
                continue
            if after == asked[p] and self._room.full:
                failures.pop(p, None)  # what came first took all the room: the next answer begins with it
                continue
            if after == asked[p] and part.stop > part.start:
                failures[p] = int(KafkaError._UNDERFLOW), f"no whole batch comes for offset {after}"
                continue
            failures.pop(p, None)
            self._troubles.pop(p, None)
            following[p] = after
            if rows.epochs:
                ready.epochs[p] = rows.epochs
            if len(rows):
                found.append(rows)
                ready.partitions.add(p)
                self._at_end.pop(p, None)
            if after >= part.end_offset and self._at_end.get(p) != after:
                self._at_end[p] = ready.ends[p] = after
        ready.blocks.extend(blocks(self._topic, found, self._block_rows))
        ready.problems.extend(self._worse(failures))
        self._hand_over(request.generation, ready, following)

    def _worse(self, failures: Mapping[int, tuple[int, str]]) -> list[Problem]:
        """Remembers what partitions answer; returns what the source is to decide."""
        problems = []
        for p, (code, text) in failures.items():
            trouble = self._troubles[p] = worse(self._troubles.get(p), code, text, self._settings.pause_s)
            self._brokers.look_again()
            if code in DECIDED and trouble.same >= _ANSWERS:
                problems.append(Problem(p, code, text))
        return problems

    def _hand_over(self, generation: int, ready: _Ready, following: Mapping[int, int]) -> None:
        with self._lock:
            if generation != self._generation:
                return
            for p, offset in following.items():
                if p in self._positions:
                    # To the end of the next request: a broker fills its answer from the front.
                    moved = offset != self._positions.pop(p)
                    self._positions = self._positions | {p: offset} if moved else {p: offset} | self._positions
            if self._unreadable:
                self._unreadable = {p: why for p, why in self._unreadable.items() if p not in following}
            self._undecided |= {problem.partition for problem in ready.problems}
            if ready.blocks or ready.ends or ready.problems or ready.epochs:
                self._ready.append(ready)
                self._ready_bytes += sum(block.nbytes for block in ready.blocks)
                self._lock.notify_all()

    def _tell(self, positions: Mapping[int, int], undecided: set[int]) -> None:
        """Says what can't be read at the moment, and finds what has been forgotten."""
        unreadable = {}
        for p in positions:
            own = self._troubles.get(p)
            why = own.text if own is not None else self._brokers.why(p)
            if why:
                unreadable[p] = why
        refusal = self._brokers.refusal()
        problems = []
        if refusal is not None and (
            refusal.code == KafkaError._UNSUPPORTED_FEATURE or (refusal.code in DECIDED and refusal.same >= _ANSWERS)
        ):
            problems = [Problem(p, refusal.code, refusal.text) for p in positions if p not in undecided]
        now = time.monotonic()
        self._seen.update(dict.fromkeys(unreadable.keys() - undecided, now))
        forgotten = [p for p in positions if now - self._seen.setdefault(p, now) > _FORGOTTEN_S]
        if forgotten:
            _LOGGER.error(
                "%s: partitions %s are assigned and nobody has asked for them in %.0f s: a bug of this program, please "
                "report it; asking again",
                self._topic,
                ", ".join(map(str, sorted(forgotten))),
                _FORGOTTEN_S,
            )
            self._brokers.hang_up()
            self._troubles, self._seen = {}, {}
        with self._lock:
            if self._tended == self._generation:
                self._unreadable = unreadable
            self._undecided -= set(forgotten)
        if problems:
            self._hand_over(self._tended, _Ready(problems=problems), {})

    def _bug(self, error: Exception) -> None:
        """Says it once, with where it happened; reading goes on."""
        text = f"{type(error).__name__}: {one_line(error)}"
        if text not in self._bugs:
            self._bugs.add(text)
            _LOGGER.error("%s: reading met a bug of this program, and tries again", self._topic, exc_info=error)


def _join(epochs: dict[int, Epochs], head: _Ready) -> None:
    for partition, runs in head.epochs.items():
        epochs.setdefault(partition, []).extend(runs)
    head.epochs.clear()


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
