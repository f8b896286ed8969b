"""What came out, read as its consumers read it: topics by a consumer, an archive by the files in its folder."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import fastavro
from confluent_kafka import Consumer, KafkaException, TopicPartition
from google.cloud import storage

from chaos.events import archived, read, schema, scored
from chaos.ledger import Ledger, Position, digest
from tests.integration.pubsub_topics import PubSubTopics

Place = Callable[[Mapping[str, Any]], Position]
"""The position of a row, as the ledgers know it."""


class Output(Protocol):
    def look(self) -> None:
        """Enters what has come out since into the ledgers; what cannot be read now is read the next time."""

    def look_again(self) -> None:
        """At the end: enters what is there now, where it may be less than what was there."""

    def close(self) -> None: ...


class Entries:
    """Enters the records of the outputs of one job.

    Args:
      place: of a row with source_topic, source_partition and source_offset.
      ledgers: by the kind of output: "score", "alert", "dead_letter".
    """

    def __init__(self, place: Place, ledgers: Mapping[str, Ledger]) -> None:
        self._place, self._ledgers = place, ledgers
        self._schemas = {kind: schema(kind) for kind in ledgers if kind != "row"}

    def enter(self, kind: str, value: bytes) -> None:
        row = read(value, self._schemas[kind])
        if kind == "dead_letter":
            row |= {f"source_{name}": row[name] for name in ("topic", "partition", "offset")}
        content = digest(row["value"] or b"") if kind == "dead_letter" else scored(row)
        identity = row["id"] if "id" in row else "-".join(str(part) for part in _position(row))
        self._ledgers[kind].found(self._place(row), content, identity)

    def enter_row(self, row: Mapping[str, Any]) -> None:
        """Of an archive."""
        identity = "-".join(str(part) for part in _position(row))
        self._ledgers["row"].found(self._place(row), archived(dict(row)), identity)

    def recount_rows(self) -> None:
        self._ledgers["row"].recount()


def _position(row: Mapping[str, Any]) -> tuple[str, int, int]:
    return row["source_topic"], row["source_partition"], row["source_offset"]


def of_kafka(row: Mapping[str, Any]) -> Position:
    return _position(row)


MESSAGE = "a message"


def of_pubsub(row: Mapping[str, Any]) -> Position:
    """Ids are the service's: the content tells messages apart, and one that comes again has the id it had."""
    return MESSAGE


class KafkaOutputs:
    """Topics of one partition: name to whose entries they are, and of which kind."""

    def __init__(self, servers: str, topics: Mapping[str, tuple[Entries, str]]) -> None:
        self._topics = topics
        self._consumer = Consumer({"bootstrap.servers": servers, "group.id": "chaos", "log_level": 0})
        self._consumer.assign([TopicPartition(name, 0, 0) for name in topics])

    def look(self) -> None:
        with suppress(KafkaException):
            while messages := self._consumer.consume(5000, 0.1):
                for message in messages:
                    if message.error() is None:
                        entries, kind = self._topics[message.topic()]
                        entries.enter(kind, message.value())

    def look_again(self) -> None:
        self.look()

    def close(self) -> None:
        self._consumer.close()


class PubSubOutputs:
    """Subscriptions of the fake: short name to whose entries they are, and of which kind."""

    def __init__(self, topics: PubSubTopics, subscriptions: Mapping[str, tuple[Entries, str]]) -> None:
        self._topics, self._subscriptions = topics, subscriptions
        self._pool = ThreadPoolExecutor(len(subscriptions))

    def look(self) -> None:
        list(self._pool.map(self._look_at, self._subscriptions))  # side by side: a pull that finds nothing takes 0.5 s

    def _look_at(self, short: str) -> int:
        """Some of what is there, for while jobs write there is always more; how much it was."""
        entries, kind = self._subscriptions[short]
        messages = self._topics.pull(short)
        for message in messages:
            entries.enter(kind, message.data)
        return len(messages)

    def look_again(self) -> None:
        for short in self._subscriptions:
            while self._look_at(short):
                pass

    def close(self) -> None:
        self._pool.shutdown()


class Archive:
    """A folder of Avro files; a file is read once, when it is there."""

    def __init__(self, entries: Entries) -> None:
        self._entries = entries
        self._seen: set[str] = set()

    def look(self) -> None:
        for name, content in self._files():
            for row in fastavro.reader(io.BytesIO(content)):
                self._entries.enter_row(row)
            self._seen.add(name)

    def look_again(self) -> None:
        self._entries.recount_rows()
        self._seen.clear()
        self.look()

    def _files(self) -> Iterator[tuple[str, bytes]]:
        """Those that are new, whole."""
        raise NotImplementedError

    def close(self) -> None:
        pass


def _hidden(parts: Iterable[str]) -> bool:
    """Readers of data pass over such names."""
    return any(part.startswith(("_", ".")) for part in parts)


class LocalArchive(Archive):
    def __init__(self, entries: Entries, folder: Path) -> None:
        super().__init__(entries)
        self._folder = folder

    def _files(self) -> Iterator[tuple[str, bytes]]:
        for path in sorted(self._folder.rglob("*.avro")):
            if str(path) not in self._seen and not _hidden(path.relative_to(self._folder).parts):
                yield str(path), path.read_bytes()


class CloudArchive(Archive):
    """Args:
    away: whether the storage cannot be asked now.
    """

    def __init__(self, entries: Entries, bucket: str, away: Callable[[], bool]) -> None:
        super().__init__(entries)
        self._away = away
        self._client = storage.Client.create_anonymous_client()
        self._bucket = self._client.bucket(bucket)

    def _files(self) -> Iterator[tuple[str, bytes]]:
        if self._away():
            return
        for blob in self._client.list_blobs(self._bucket):
            new = blob.name.endswith(".avro") and blob.name not in self._seen
            if new and not _hidden(blob.name.split("/")):
                yield blob.name, blob.download_as_bytes()

    def close(self) -> None:
        self._client.close()
