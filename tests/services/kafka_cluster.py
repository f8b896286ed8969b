"""What the contract suite asks of a Kafka cluster beside the source under test, and the real ones' answers."""

from __future__ import annotations

import socket
import struct
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.client import FetchPath, KafkaTransport, ensure_topic
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.fetch import Transport

CONFIG = KafkaConfig()
_SETTINGS = {
    "max.message.bytes": "20000000",
    "message.timestamp.after.max.ms": str((1 << 63) - 1),  # as before Kafka 4.0
    "segment.bytes": "6000000",  # what a test of several segments does not need long for
}


@dataclass(frozen=True)
class Record:
    """One record to be written."""

    value: bytes | None
    key: bytes | None = None
    partition: int = 0
    timestamp_ms: int = 1_700_000_000_000
    headers: Sequence[tuple[str, bytes | None]] = field(default=())


class Cluster(Protocol):
    def create(self, partitions: int = 1) -> str:
        """A new topic's name."""

    def add_partitions(self, topic: str, total: int) -> None: ...

    def write(self, topic: str, records: Sequence[Record]) -> None:
        """Writes the records; each partition's in order, acknowledged on return."""

    def write_transaction(self, topic: str, records: Sequence[Record], commit: bool) -> None: ...

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        """What retention does."""

    def transport(self, topic: str, group_id: str | None = None) -> Transport: ...

    def make(self, topic: str, partitions: int = 1) -> None:
        """A topic of this name."""

    def delete(self, topic: str) -> None:
        """The topic and its records are gone on return."""

    def group_offsets(self, group_id: str, topic: str) -> dict[int, int]:
        """Partition -> offset, of what the group has."""

    def move_group(self, group_id: str, topic: str, offsets: Mapping[int, int]) -> None:
        """Sets the group's offsets as another program would."""

    def delete_group(self, group_id: str) -> None: ...

    def join(self, group_id: str, topic: str) -> AbstractContextManager[None]:
        """Another consumer is a member of the group meanwhile."""


class RealCluster:
    """A broker by its address, read through one of the two fetch paths; ``logs`` is where it keeps its data."""

    def __init__(self, servers: str, fetch: FetchPath, logs: str = "") -> None:
        self._servers = servers
        self._logs = logs
        self._fetch = fetch
        self._settings = {"bootstrap.servers": servers, "log_level": 2}
        self._admin = AdminClient(self._settings)

    def _address(self, topic: str) -> KafkaAddress:
        return KafkaAddress(self._servers, topic)

    def create(self, partitions: int = 1) -> str:
        topic = f"contract-{uuid.uuid4().hex[:12]}"
        self.make(topic, partitions)
        return topic

    def make(self, topic: str, partitions: int = 1) -> None:
        ensure_topic(self._address(topic), CONFIG, partitions, _SETTINGS)

    def delete(self, topic: str) -> None:
        self._admin.delete_topics([topic])[topic].result()
        deadline = time.monotonic() + 30
        while topic in self._admin.list_topics(timeout=10).topics:
            assert time.monotonic() < deadline

    def group_offsets(self, group_id: str, topic: str) -> dict[int, int]:
        found = self._admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group_id)])[group_id].result()
        return {at.partition: at.offset for at in found.topic_partitions if at.topic == topic and at.offset >= 0}

    def move_group(self, group_id: str, topic: str, offsets: Mapping[int, int]) -> None:
        moved = [TopicPartition(topic, partition, offset) for partition, offset in offsets.items()]
        asked = self._admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group_id, moved)])
        assert not any(at.error for at in asked[group_id].result().topic_partitions)

    def delete_group(self, group_id: str) -> None:
        self._admin.delete_consumer_groups([group_id])[group_id].result()

    @contextmanager
    def join(self, group_id: str, topic: str) -> Iterator[None]:
        member = Consumer({**self._settings, "group.id": group_id})
        try:
            member.subscribe([topic])
            deadline = time.monotonic() + 30
            while not member.assignment():
                member.poll(0.1)
                assert time.monotonic() < deadline
            yield
        finally:
            member.close()

    def add_partitions(self, topic: str, total: int) -> None:
        self._admin.create_partitions([NewPartitions(topic, total)])[topic].result()
        ensure_topic(self._address(topic), CONFIG, total)

    def write(self, topic: str, records: Sequence[Record], codec: str = "none") -> None:
        limits = {"message.max.bytes": 1_000_000_000, "linger.ms": 1}
        producer = Producer({**self._settings, **limits, "compression.type": codec})
        _produce(producer, topic, records)
        assert producer.flush(30) == 0

    def write_transaction(self, topic: str, records: Sequence[Record], commit: bool) -> None:
        producer = Producer({**self._settings, "transactional.id": uuid.uuid4().hex})
        producer.init_transactions(30)
        producer.begin_transaction()
        _produce(producer, topic, records)
        assert producer.flush(30) == 0
        if commit:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        self._admin.delete_records([TopicPartition(topic, partition, offset)])[
            TopicPartition(topic, partition, offset)
        ].result()

    def transport(self, topic: str, group_id: str | None = None, config: KafkaConfig = CONFIG) -> Transport:
        return KafkaTransport(self._address(topic), config, group_id, self._fetch)

    def flip(self, topic: str, partition: int, text: bytes) -> None:
        (path,) = Path(self._logs, f"{topic}-{partition}").glob("*.log")
        with path.open("r+b") as file:
            data = file.read()
            assert data.count(text) == 1
            file.seek(data.index(text))
            file.write(bytes([text[0] ^ 1]))  # in the page cache, which the broker sends from

    def write_batch(self, topic: str, partition: int, batch: bytes) -> None:
        """Writes a record batch as it is: what no producer would send."""
        host, _, port = self._servers.rpartition(":")
        name = topic.encode()
        body = struct.pack(">hhi", -1, 1, 30_000) + struct.pack(">i", 1) + struct.pack(">h", len(name)) + name
        body += struct.pack(">iii", 1, partition, len(batch)) + batch
        head = struct.pack(">hhih", 0, 7, 1, -1)  # Produce, without a client's name
        with socket.create_connection((host, int(port)), 30) as connection, connection.makefile("rwb") as stream:
            stream.write(struct.pack(">i", len(head + body)) + head + body)
            stream.flush()
            answer = stream.read(struct.unpack(">i", stream.read(4))[0])
        (error,) = struct.unpack_from(">h", answer, 4 + 4 + 2 + len(name) + 4 + 4)
        assert error == 0, error


def _produce(producer: Producer, topic: str, records: Sequence[Record]) -> None:
    for record in records:
        producer.produce(
            topic,
            record.value,
            record.key,
            partition=record.partition,
            timestamp=record.timestamp_ms,
            headers=list(record.headers) or None,
        )
        producer.poll(0)
