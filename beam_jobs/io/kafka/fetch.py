"""What the Kafka source needs of a cluster: a control connection and a fetcher, behind two small protocols.

Two fetchers read the same records: :class:`ClientFetcher` here, on the public ``confluent_kafka`` API, and
``wire.fetcher.WireFetcher``, which makes no Python object a record. ``tests/contract`` runs both and an in-memory fake
through one suite.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from operator import methodcaller
from typing import Any, Protocol, TypeAlias

import confluent_kafka
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import Consumer, KafkaError, TopicPartition

from beam_jobs.block import Block, raw_block

_LOGGER = logging.getLogger(__name__)

# A binary Arrow column counts in int32: blocks stop far below 2 GiB. A single record may be larger than the cap.
MAX_BLOCK_BYTES = 64 << 20

# Bytes of a response, of what its batches unpack to together, and of what one record takes in memory; set by
# receive.message.max.bytes, librdkafka's name. Records of 100 MB fit.
DEFAULT_LIMIT = 128 << 20

_Headers: TypeAlias = list[tuple[str, bytes | None]] | None
_HEADERS = methodcaller("headers")
# What the client library says of a batch before it goes on behind it.
_UNREADABLE = frozenset({KafkaError._BAD_MSG, KafkaError._BAD_COMPRESSION, KafkaError._NOT_IMPLEMENTED})

NO_TIMESTAMP = -1  # Kafka's; any other 64 bits are a time, however far away

# Measured: the default back-off of a full queue, 1 s, costs most of the replay rate.
CONSUMER_DEFAULTS = {
    "fetch.queue.backoff.ms": "5",
    "queued.max.messages.kbytes": "65536",
    "queued.min.messages": "100000",
    "max.partition.fetch.bytes": "4000000",
    "fetch.wait.max.ms": "100",
    "reconnect.backoff.max.ms": "1000",  # a broker that comes back is found within a second
    "socket.timeout.ms": "30000",  # half the client's own: a commit waits as long for an answer that never comes
    "socket.keepalive.enable": "true",
    "client.id": "highbeam",
    "check.crcs": "true",  # as the Java client; librdkafka's own default is not to look
    "receive.message.max.bytes": str(DEFAULT_LIMIT),
}
# What the source relies on; no properties file changes it.
CONSUMER_RULES = {
    "enable.auto.commit": "false",
    "enable.auto.offset.store": "false",
    "enable.partition.eof": "true",
    "auto.offset.reset": "error",
    "allow.auto.create.topics": "false",
}


# What the source decides of a partition. Any other error, also one that is not known yet, passes or does not pass: the
# partition is asked again.
DECIDED = frozenset(
    {
        KafkaError.OFFSET_OUT_OF_RANGE,
        KafkaError._AUTO_OFFSET_RESET,
        KafkaError._LOG_TRUNCATION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError._BAD_MSG,
    }
)
_FAILING_S = 2.0  # the client repeats an error every half second


def limit_text(limit: int) -> str:
    """For a sentence about what is more than that."""
    return f"{limit} bytes; raise receive.message.max.bytes in --kafka_config if it is meant"


@dataclass(frozen=True)
class Problem:
    """What the source is to decide of a partition; it is not asked for until it is assigned again."""

    partition: int
    code: int  # librdkafka's error code (``KafkaError.code()``)
    text: str


Epochs = list[tuple[int, int]]
"""Leader epochs of a partition's records in their order, each with the offset after its last one."""


@dataclass(frozen=True)
class Fetched:
    """What one call of ``Fetcher.fetch`` found."""

    block: Block | None = None  # raw, at least one row; None: no record
    next_offsets: Mapping[int, int] = field(default_factory=dict)  # partition -> 1 + offset of its last row
    ends: Mapping[int, int] = field(default_factory=dict)  # partition -> offset of the end it reached
    problems: Sequence[Problem] = ()
    unreadable: Mapping[int, str] = field(default_factory=dict)  # partition -> why it can't be read at the moment
    epochs: Mapping[int, Epochs] = field(default_factory=dict)  # of the rows, or of those that follow them as well


def before(block: Block, ends: Mapping[int, int]) -> Block | None:
    """The rows before their partition's end, which each has."""
    limit = np.zeros(max(ends) + 1, np.int64)
    limit[list(ends)] = list(ends.values())
    keep = block.column("offset").to_numpy() < limit[block.column("partition").to_numpy()]
    if keep.all():
        return block
    return block.filter(pa.array(keep)) if keep.any() else None


def without(fetched: Fetched, partitions: Collection[int]) -> Fetched:
    """What was found of the other partitions."""
    block = fetched.block
    if block is not None:
        block = block.filter(pc.invert(pc.is_in(block.column("partition"), pa.array(list(partitions), pa.int32()))))
    return replace(
        fetched,
        block=block if block is not None and block.num_rows else None,
        next_offsets={p: offset for p, offset in fetched.next_offsets.items() if p not in partitions},
        ends={p: offset for p, offset in fetched.ends.items() if p not in partitions},
    )


class Fetcher(Protocol):
    """Reads the records of some partitions of one topic. One thread at a time."""

    def assign(self, positions: Mapping[int, int]) -> None:
        """Reads exactly these partitions (partition -> offset of the next record) from now on."""

    def stop(self, partitions: Iterable[int]) -> None:
        """No longer fetches these partitions; rows already fetched may still come."""

    def fetch(self, max_rows: int, wait_s: float, linger_s: float) -> Fetched:
        """Waits up to ``wait_s`` for the first record, then up to ``linger_s`` for more, up to ``max_rows``.

        Rows are in offset order within a partition. Never raises for the network.
        """

    def close(self) -> None:
        """Releases the sockets."""


@dataclass(frozen=True)
class Topic:
    """What a cluster says of a topic."""

    id: str  # another one once the topic is deleted and recreated; "": brokers before 2.8 give none
    partitions: list[int]  # ascending


@dataclass(frozen=True)
class Committed:
    """A group's committed offset of one partition."""

    offset: int
    topic_id: str  # the id of the topic it was committed for; "": another program has committed it
    epoch: int = -1  # leader epoch of the record before it; -1: not known


@dataclass(frozen=True)
class Positions:
    """Where reading stands in a topic."""

    topic_id: str  # "": not known
    offsets: Mapping[int, int]  # partition -> offset of the next record
    epochs: Mapping[int, int] = field(default_factory=dict)  # partition -> leader epoch of the record before, if known


@dataclass(frozen=True)
class Finished:
    """What a reader has finished: where it stands, and how many records it took to come there."""

    at: Positions
    session: str  # of a reader: its name, other than all others'
    records: int  # that the session has handed out in all


class Control(Protocol):
    """Questions and commits to one cluster, apart from the data. One thread at a time.

    The methods raise ``KafkaException`` when the cluster does not answer in ``timeout_s``.
    """

    def topic(self, timeout_s: float) -> Topic:
        """The topic's id and partitions."""

    def bounds(self, partitions: Iterable[int], timeout_s: float) -> dict[int, tuple[int, int]]:
        """Partition -> (first offset, offset after the last that may be read).

        Partitions whose leader does not answer are left out; so they are by ``at_time``.
        """

    def at_time(self, timestamp_ms: int, partitions: Iterable[int], timeout_s: float) -> dict[int, int | None]:
        """Partition -> offset of the first record at or after the time; None: there is none.

        Where the cluster can't say it although there is one, the first offset of the partition.
        """

    def committed(self, partitions: Iterable[int], timeout_s: float) -> dict[int, Committed]:
        """Partition -> the group's committed offset; partitions without one are left out."""

    def delete_before(self, offsets: Mapping[int, int], timeout_s: float) -> None:
        """Has the records before these offsets deleted."""

    def epoch_end(self, partition: int, epoch: int, timeout_s: float) -> int | None:
        """The offset after the last record of a leader epoch in the log as it is now; None: nobody will ever say."""

    def begin(self, at: Positions, acknowledged: Mapping[int, int]) -> None:
        """Reading begins at these positions; ``acknowledged`` are the group's offsets of these partitions, if any.

        The next commit holds them, though they may lie before what was committed.
        """

    def commit(self, finished: Finished | None, wait_s: float) -> None:
        """Commits the next offsets for the group, never going back within one topic id; never raises.

        What the cluster does not acknowledge within ``wait_s`` goes out again with a later call.

        Args:
          finished: None: only what is still to be committed.
        """

    def refused(self, patience_s: float) -> str | None:
        """Why offsets can't be committed, in one line with the remedy and where a restart reads on.

        None: they can, or it passes by itself, or it has not lasted for ``patience_s`` seconds.
        """


class Transport(Protocol):
    """Opens connections to one topic; picklable, without secrets."""

    def control(self) -> AbstractContextManager[Control]:
        """The process's control connection, for this thread alone while inside."""

    def fetcher(self, lacking: str = "") -> Fetcher:
        """A new fetcher.

        Args:
          lacking: what the one before it misses in the brokers; the new one needs less of them.

        Raises:
          UserError: there is none that needs less.
        """

    def __str__(self) -> str: ...


class DebugLog:
    """Takes librdkafka's log lines; what a user must know the source says itself, once."""

    def log(self, level: int, message: str, *arguments: object) -> None:
        _LOGGER.debug(message, *arguments)


class ClientFetcher:
    """A fetcher on ``confluent_kafka.Consumer``: one Python object a record, then columns."""

    def __init__(self, topic: str, properties: Mapping[str, Any]) -> None:
        self._topic = topic
        self._said_names = False
        self._assigned: set[int] = set()
        self._reasons: dict[str, str] = {}  # broker, as the client names it -> what it last said of it
        self._failing: dict[int, tuple[float, str]] = {}  # partition -> when (monotonic clock) it last answered what
        self._unreachable: dict[int, str] = {}  # partition -> what is wrong with its leader
        self._consumer = Consumer(
            {
                **properties,
                "error_cb": self._on_error,
                "stats_cb": self._on_stats,
                "statistics.interval.ms": "1000",
                "logger": DebugLog(),
            },
        )
        self._limit = int(properties.get("receive.message.max.bytes", DEFAULT_LIMIT))
        self._ready: list[Any] = []  # messages in hand that no block has held yet, oldest first
        self._headers: list[_Headers] = []  # of the same
        self._left: set[int] = set()  # partitions with something that can't be read; what follows it is dropped

    def _on_error(self, error: KafkaError) -> None:
        broker, separator, reason = error.str().partition(": ")
        if separator:  # else it says that all brokers are down
            self._reasons[broker] = reason.split(" (after ")[0]  # the rest counts milliseconds and suppressed repeats

    def _on_stats(self, text: str) -> None:
        """The client's own word on which brokers it is connected to: its errors don't say when they are over."""
        said = json.loads(text)
        known = said["topics"].get(self._topic, {}).get("partitions", {})
        brokers = {broker["nodeid"]: broker for broker in said["brokers"].values()}
        up = {node for node, broker in brokers.items() if broker["state"] in ("UP", "UPDATE")}
        self._unreachable = {}
        for p in self._assigned:
            leader = known.get(str(p), {}).get("leader", -1)
            if leader >= 0 and leader in brokers:
                broker = brokers[leader]
                why = f"broker {leader} at {broker['nodename']}: {self._reasons.get(broker['name'], 'no connection')}"
            elif up:
                why = f"partition {p} has no leader"
            else:
                why = "; ".join(f"{name}: {reason}" for name, reason in self._reasons.items()) or "no broker answers"
            if leader not in up:
                self._unreachable[p] = why

    def assign(self, positions: Mapping[int, int]) -> None:
        self._ready, self._headers, self._left = [], [], set()
        self._assigned = set(positions)
        self._failing, self._unreachable = {}, {}
        self._consumer.assign([TopicPartition(self._topic, p, offset) for p, offset in positions.items()])

    def stop(self, partitions: Iterable[int]) -> None:
        self._assigned -= set(partitions)
        self._consumer.pause([TopicPartition(self._topic, p) for p in partitions])

    def fetch(self, max_rows: int, wait_s: float, linger_s: float) -> Fetched:
        if not self._ready:
            self._consume(max_rows, 0)
            if not self._ready and wait_s > 0:
                self._consume(1, wait_s)
            missing = max_rows - len(self._ready)
            if self._ready and missing:
                self._consume(missing, linger_s)
        return self._cut(max_rows)

    def close(self) -> None:
        self._consumer.close()

    def _consume(self, max_rows: int, wait_s: float) -> None:
        """More messages, and their headers.

        A message is asked for its headers once: after a failure the library holds an object that ends the process if it
        is used. By ``map``, for a call that Python has inlined does not look whether it failed.
        """
        messages = self._consumer.consume(max_rows, wait_s)
        self._ready += messages
        left = iter(messages)
        while len(self._headers) < len(self._ready):
            try:
                self._headers.extend(map(_HEADERS, left))
            except (SystemError, UnicodeDecodeError):
                self._no_names(self._ready[len(self._headers)])
                self._headers.append(None)

    def _no_names(self, message: Any) -> None:
        if not self._said_names:
            self._said_names = True
            _LOGGER.warning(
                "%s: partition %d, offset %d: the name of a header is no UTF-8, which the client can't read; "
                "such records come without headers (--fetch wire reads them)",
                self._topic,
                message.partition(),
                message.offset(),
            )

    def _leave(self, message: Any, why: str) -> Problem:
        """The library would step over what it can't read: nothing of its partition is taken from here on."""
        partition = int(message.partition())
        self._left.add(partition)
        self.stop([partition])
        text = f"what the broker holds at offset {message.offset()} can't be read: {why}"
        return Problem(partition, int(KafkaError._BAD_MSG), text)

    def _cut(self, max_rows: int) -> Fetched:
        """Takes messages off the front of ``_ready``, up to the row and byte caps."""
        rows: list[Any] = []
        row_headers: list[_Headers] = []
        ends: dict[int, int] = {}
        problems: list[Problem] = []
        size = taken = 0
        for message, headers in zip(self._ready, self._headers, strict=True):
            error = message.error()
            if self._left and message.partition() in self._left:
                pass
            elif error is None:
                own = len(message) + len(message.key() or b"")
                if headers:
                    own += sum(32 + len(name) + len(value or b"") for name, value in headers)
                if own > self._limit:
                    problems.append(self._leave(message, f"a record of more than {limit_text(self._limit)}"))
                    taken += 1
                    continue
                size += own
                if rows and (size > MAX_BLOCK_BYTES or len(rows) == max_rows):
                    break
                rows.append(message)
                row_headers.append(headers)
            elif error.code() in _UNREADABLE:
                problems.append(self._leave(message, error.str()))
            elif error.code() == KafkaError._PARTITION_EOF:
                ends[message.partition()] = message.offset()
            elif error.code() in DECIDED and message.partition() is not None:
                problems.append(Problem(message.partition(), error.code(), error.str()))
            elif message.partition() is not None:  # the client asks again
                self._failing[message.partition()] = time.monotonic(), error.str()
            taken += 1
        self._ready, self._headers = self._ready[taken:], self._headers[taken:]
        block, next_offsets, epochs = self._block(rows, row_headers) if rows else (None, {}, {})
        unreadable = self._unreadable({*next_offsets, *ends})
        return Fetched(block, next_offsets, ends, problems, unreadable, epochs)

    def _unreadable(self, read: set[int]) -> dict[int, str]:
        if not (self._failing or self._unreachable):
            return {}
        late = time.monotonic() - _FAILING_S
        self._failing = {p: (at, why) for p, (at, why) in self._failing.items() if at > late and p not in read}
        found = {p: why for p, (_, why) in self._failing.items()} | self._unreachable
        return {p: why for p, why in found.items() if p in self._assigned and p not in read}

    def _block(self, messages: list[Any], headers: list[_Headers]) -> tuple[Block, dict[int, int], dict[int, Epochs]]:
        partitions = [message.partition() for message in messages]
        offsets = [message.offset() for message in messages]
        block = raw_block(
            self._topic,
            partitions,
            offsets,
            [_timestamp(message) for message in messages],
            [message.key() for message in messages],
            [message.value() for message in messages],
            headers if any(headers) else None,
        )
        after = {p: offset + 1 for p, offset in zip(partitions, offsets, strict=True)}
        return block, after, _epochs(partitions, offsets, [message.leader_epoch() for message in messages])


def _epochs(partitions: list[int], offsets: list[int], epochs: list[int | None]) -> dict[int, Epochs]:
    """Without epochs from brokers before 0.11."""
    found: dict[int, Epochs] = {}
    runs = {}  # (partition, epoch) -> offset after its last row, in order; an epoch never comes back
    for p, offset, epoch in zip(partitions, offsets, epochs, strict=True):
        runs[p, epoch] = offset + 1
    for (p, epoch), after in runs.items():
        if epoch is not None:
            found.setdefault(p, []).append((epoch, after))
    return found


def _timestamp(message: Any) -> int:
    kind, millis = message.timestamp()
    # Records older than Kafka 0.10 carry none: the time of reading is the nearest there is.
    none = kind == confluent_kafka.TIMESTAMP_NOT_AVAILABLE or millis == NO_TIMESTAMP
    return int(time.time() * 1000) if none else int(millis)
