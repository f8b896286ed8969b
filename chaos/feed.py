"""Producers: events come at a steady rate, and each that the service has taken is entered into the ledgers."""

from __future__ import annotations

import itertools
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from confluent_kafka import Producer
from google.pubsub_v1 import types

from chaos.events import Event
from chaos.ledger import Position
from chaos.outputs import MESSAGE
from tests.integration.pubsub_topics import Message, PubSubTopics

RATE = 150  # events a second
_SLICE_S = 0.1

Taken = Callable[[Position, Event], None]


class Sender(Protocol):
    """Puts events on a topic; ``taken`` is called once the service has acknowledged one, with its position."""

    failed: list[str]

    def send(self, events: Sequence[Event], taken: Taken) -> None: ...

    def flush(self) -> None:
        """Returns when all that was sent is acknowledged."""


class KafkaSender:
    """Onto a topic's partitions, in turn or by key; what a broker that is away does not take is sent until it does."""

    def __init__(self, servers: str, topic: str, partitions: int, by_key: bool = False) -> None:
        self.topic = topic
        self._partitions, self._by_key, self._sent = partitions, by_key, 0
        settings = {"enable.idempotence": True, "message.timeout.ms": 300_000, "linger.ms": 5, "log_level": 0}
        self._producer = Producer({"bootstrap.servers": servers, **settings})
        self.failed: list[str] = []

    def send(self, events: Sequence[Event], taken: Taken) -> None:
        for event in events:

            def delivered(error: Any, message: Any, event: Event = event) -> None:
                if error is not None:
                    self.failed.append(str(error))
                else:
                    taken((self.topic, message.partition(), message.offset()), event)

            more = {} if event.time_ms is None else {"timestamp": event.time_ms}
            number = zlib.crc32(event.key) if self._by_key else self._sent
            self._producer.produce(
                self.topic, event.value, event.key, number % self._partitions, on_delivery=delivered, **more
            )
            self._sent += 1
        self._producer.poll(0)

    def flush(self) -> None:
        if self._producer.flush(120):
            self.failed.append("events were not acknowledged within two minutes")


class PubSubSender:
    """Onto a topic of the fake, with no trouble in between. Positions are the service's own and not known here: what
    comes out is told apart by its content."""

    def __init__(self, topics: PubSubTopics) -> None:
        self._topics = topics
        self._path = topics.publisher.topic_path(topics.project, topics.name("events"))
        self.failed: list[str] = []

    def send(self, events: Sequence[Event], taken: Taken) -> None:
        messages = [Message(data=event.value) for event in events]
        request = types.PublishRequest.wrap(types.PublishRequest.pb()(topic=self._path, messages=messages))
        self._topics.publisher.publish(request=request)
        for event in events:
            taken(MESSAGE, event)

    def flush(self) -> None:
        pass


class Feed:
    """A thread that takes events from ``events`` and sends them; it begins on hold.

    Args:
      taken: as in :meth:`Sender.send`.
      rate: events a second.
    """

    def __init__(self, sender: Sender, events: Iterator[Event], taken: Taken, rate: float = RATE) -> None:
        self.sender = sender
        self._slice = int(rate * _SLICE_S)
        self.exhausted = False  # no event is left
        self._events, self._taken = events, taken
        self._lock = threading.Lock()
        self._on, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def go(self) -> None:
        self._on.set()

    def hold(self) -> None:
        """Returns when nothing is on its way."""
        self._on.clear()
        with self._lock:
            self.sender.flush()

    def burst(self, count: int) -> None:
        """Sends many at once, and returns when they are taken."""
        with self._lock:
            self.sender.send(self._take(count), self._taken)
            self.sender.flush()

    def close(self) -> None:
        self._ended.set()
        self._on.set()
        self._thread.join(30)

    def _take(self, count: int) -> list[Event]:
        events = list(itertools.islice(self._events, count))
        self.exhausted = len(events) < count
        return events

    def _run(self) -> None:
        while not self._ended.is_set():
            self._on.wait()
            with self._lock:
                if self._on.is_set() and not self._ended.is_set():
                    self.sender.send(self._take(self._slice), self._taken)
            time.sleep(_SLICE_S)
