"""Simulated events on a topic, at once or as their time comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from confluent_kafka import Producer
from numpy.typing import NDArray

import schemas
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.sandbox.fleet import history
from schemas.writers import for_registry

_TICK_SECONDS = 0.02
_PAST_SECONDS = 50  # that ``history`` has a fleet drive, however many rows it is


class EventSender:
    """Puts events onto the topic, some of them damaged on purpose.

    Args:
      registry_url: where the schema is registered; None: there is no registry, the job has the same schema.
      bad_rate: share of the records whose bytes are cut short.
      schema: of the events; None: of the fleet's.
      key: the field that is the records' key.
    """

    def __init__(
        self,
        address: KafkaAddress,
        registry_url: str | None,
        bad_rate: float,
        seed: int,
        schema: Mapping[str, Any] | None = None,
        key: str = "car_id",
    ) -> None:
        self._topic = address.topic
        self._bad_rate = bad_rate
        self._random = np.random.default_rng(seed)
        self._key = key
        schema = schemas.load("car_sensor") if schema is None else schema
        registry = for_registry(registry_url, schema)
        self._encoder = AvroEncoder(schema, registry.register(f"{address.topic}-value", schema))
        self._producer = Producer({"bootstrap.servers": address.bootstrap_servers, "linger.ms": 5, "log_level": 4})
        self.sent = 0

    def send(
        self, events: pa.RecordBatch, partition: int | None = None, times_ms: NDArray[np.int64] | None = None
    ) -> None:
        """Sends events in their order, by key or all to one partition; as records of ``times_ms`` [n], or of now."""
        where = {} if partition is None else {"partition": partition}
        times = np.zeros(events.num_rows, np.int64) if times_ms is None else times_ms  # 0: now
        cut = self._random.random(events.num_rows) < self._bad_rate
        values = self._encoder.encode(events).to_pylist()
        keys = events.column(self._key).to_pylist()
        for key, value, bad, time_ms in zip(keys, values, cut.tolist(), times.tolist(), strict=True):
            value = value[: len(value) // 2] if bad else value
            try:
                self._producer.produce(self._topic, value, key, timestamp=time_ms, **where)
            except BufferError:  # a burst: what waits must go first
                self._producer.flush()
                self._producer.produce(self._topic, value, key, timestamp=time_ms, **where)
        self._producer.poll(0)
        self.sent += events.num_rows

    def flush(self) -> None:
        """Waits until the broker has everything."""
        self._producer.flush()

    def close(self) -> None:
        """The same, and lets go of the broker."""
        self._producer.flush()
        del self._producer


def send_past(sender: EventSender, rows: int, seed: int, partitions: int) -> Iterator[int]:
    """Sends what another fleet has driven just now, as fast as it goes; its failed cars are labelled by kind.

    The last event of each partition comes alone: the embedded broker's end of a partition (``latest``) is behind the
    first record of its last batch.

    Args:
      rows: at least one.

    Yields:
      How many were sent so far, now and then; it ends when the broker has all of them.
    """
    left = rows
    for events in history(rows, seed, start_time=int(time.time() - _PAST_SECONDS) * 1000):
        left -= events.num_rows
        sender.send(events if left else events.slice(0, max(0, events.num_rows - partitions)))
        yield sender.sent
    sender.flush()
    for partition in range(min(partitions, events.num_rows)):
        sender.send(events.slice(events.num_rows - 1 - partition, 1), partition)
        sender.flush()
    yield sender.sent


class EventProducer:
    """Sends events as their time comes.

    Args:
      sender: nobody else uses it meanwhile.
      step: the next events, such as ``Fleet.step``; None: there are no more.
      clock: milliseconds of the time that events have; None: now. Otherwise records have the times of their events.
    """

    def __init__(
        self,
        sender: EventSender,
        step: Callable[[], pa.RecordBatch | None],
        clock: Callable[[], int] | None = None,
    ) -> None:
        self._sender = sender
        self._step = step
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cars", daemon=True)
        self.produced = 0
        self.now_ms = 0  # event time of the newest event sent
        self.over = False
        self.error: Exception | None = None

    def start(self) -> None:
        """Starts sending."""
        self._thread.start()

    def stop(self) -> None:
        """Stops, and waits until the broker has everything."""
        self._stop.set()
        self._thread.join()
        if self.error:
            raise self.error
        self._sender.close()

    def _run(self) -> None:
        try:
            step = self._next_step()
            while step and not self._stop.wait(_TICK_SECONDS):
                now = self._clock() if self._clock else int(time.time() * 1000)
                while step:
                    events, times = step
                    due = int(np.searchsorted(times, now, side="right"))
                    self._send(events.slice(0, due), times[:due])
                    if due < len(times):
                        step = events.slice(due), times[due:]
                        break
                    step = self._next_step()
            self.over = not step
        except Exception as error:  # shown by the thread that waits for this one
            self.error = error

    def _next_step(self) -> tuple[pa.RecordBatch, NDArray[np.int64]] | None:
        """The next events in order of time, and their times in milliseconds."""
        events = self._step()
        if events is None:
            return None
        times = events.column("event_time").cast(pa.int64()).to_numpy()
        order = np.argsort(times, kind="stable")
        return events.take(pa.array(order)), times[order]

    def _send(self, events: pa.RecordBatch, times_ms: NDArray[np.int64]) -> None:
        if not events.num_rows:
            return
        self._sender.send(events, times_ms=times_ms if self._clock else None)
        self.produced += events.num_rows
        self.now_ms = int(times_ms[-1])
