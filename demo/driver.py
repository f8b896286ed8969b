"""The two ends of the demo's job: the cars that send events, and the watch over alerts and scores."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import numpy as np
import pyarrow as pa
from confluent_kafka import Consumer, Producer, TopicPartition
from numpy.typing import NDArray

import schemas
from beam_jobs.codec.avro.decoder import AvroDecoder
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.io.kafka.address import KafkaAddress
from demo.fleet import Fleet
from demo.live import State
from demo.referee import Referee
from schemas.writers import for_registry

_TICK_SECONDS = 0.02


class EventSender:
    """Puts events onto the topic, some of them damaged on purpose.

    Args:
      bad_rate: share of the records whose bytes are cut short.
    """

    def __init__(self, address: KafkaAddress, registry_url: str, bad_rate: float, seed: int) -> None:
        self._topic = address.topic
        self._bad_rate = bad_rate
        self._random = np.random.default_rng(seed)
        schema = schemas.load("car_sensor")
        registry = for_registry(registry_url, schema)
        self._encoder = AvroEncoder(schema, registry.register(f"{address.topic}-value", schema))
        self._producer = Producer({"bootstrap.servers": address.bootstrap_servers, "linger.ms": 5, "log_level": 4})
        self.sent = 0

    def send(self, events: pa.RecordBatch, partition: int | None = None) -> None:
        """Sends events in their order, by key or all to one partition."""
        where = {} if partition is None else {"partition": partition}
        cut = self._random.random(events.num_rows) < self._bad_rate
        values = self._encoder.encode(events).to_pylist()
        for key, value, bad in zip(events.column("car_id").to_pylist(), values, cut.tolist(), strict=True):
            value = value[: len(value) // 2] if bad else value
            try:
                self._producer.produce(self._topic, value, key, **where)
            except BufferError:  # a burst: what waits must go first
                self._producer.flush()
                self._producer.produce(self._topic, value, key, **where)
        self._producer.poll(0)
        self.sent += events.num_rows

    def flush(self) -> None:
        """Waits until the broker has everything."""
        self._producer.flush()

    def close(self) -> None:
        """The same, and lets go of the broker."""
        self._producer.flush()
        del self._producer


class EventProducer:
    """Sends the fleet's events as their time comes.

    Args:
      sender: nobody else uses it meanwhile.
      fleet: starts now; an event is sent when the wall clock reaches its time.
    """

    def __init__(self, sender: EventSender, fleet: Fleet) -> None:
        self._sender = sender
        self._fleet = fleet
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cars", daemon=True)
        self.produced = 0
        self.now_ms = 0  # event time of the newest event sent
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
            events, times, sent = self._next_step()
            while not self._stop.wait(_TICK_SECONDS):
                now = int(time.time() * 1000)
                while True:
                    due = int(np.searchsorted(times, now, side="right"))
                    self._send(events.slice(sent, due - sent))
                    sent = due
                    if sent < len(times):
                        break
                    events, times, sent = self._next_step()
        except Exception as error:  # shown by the thread that waits for this one
            self.error = error

    def _next_step(self) -> tuple[pa.RecordBatch, NDArray[np.int64], int]:
        """The next events in order of time, their times in milliseconds, and how many of them are sent."""
        events = self._fleet.step()
        times = events.column("event_time").cast(pa.int64()).to_numpy()
        order = np.argsort(times, kind="stable")
        return events.take(pa.array(order)), times[order], 0

    def _send(self, events: pa.RecordBatch) -> None:
        n = events.num_rows
        if not n:
            return
        self._sender.send(events)
        self.produced += n
        self.now_ms = int(events.column("event_time")[n - 1].cast(pa.int64()).as_py())


class AlertWatch:
    """Reads alerts and scores as any consumer would, for the view and the referee."""

    def __init__(
        self, alerts: KafkaAddress, scores: KafkaAddress, registry_url: str, state: State, referee: Referee
    ) -> None:
        self._alerts = alerts.topic
        self._state = state
        self._referee = referee
        registry = for_registry(registry_url, schemas.load("alert"))
        self._alert_decoder = AvroDecoder(schemas.load("alert"), registry.writer_schema)
        self._score_decoder = AvroDecoder(schemas.load("score"), registry.writer_schema, ["score"])
        self._consumer = Consumer(
            {"bootstrap.servers": alerts.bootstrap_servers, "group.id": "highbeam-demo", "log_level": 4}
        )
        self._consumer.assign([TopicPartition(address.topic, 0, 0) for address in (alerts, scores)])
        self._seen = 0
        self._arrived = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> AlertWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    def wait_for(self, alerts: int, seconds: float = 10.0) -> bool:
        """Waits until that many alerts were read; False when they do not come."""
        with self._arrived:
            return self._arrived.wait_for(lambda: self._seen >= alerts, seconds)

    def _run(self) -> None:
        while not self._stop.is_set():
            messages = [m for m in self._consumer.consume(1000, 0.1) if m.error() is None]
            alerts = [m.value() for m in messages if m.topic() == self._alerts]
            scores = [m.value() for m in messages if m.topic() != self._alerts]
            if scores:
                decoded = self._score_decoder.decode(pa.array(scores, pa.binary())).rows
                self._state.add_scores(decoded.column("score").to_numpy(zero_copy_only=False))
            if alerts:
                self._judge(self._alert_decoder.decode(pa.array(alerts, pa.binary())).rows)

    def _judge(self, alerts: pa.RecordBatch) -> None:
        for alert in alerts.to_pylist():
            time_ms = int(alert["event_time"].timestamp() * 1000 + 0.5)
            hit = self._referee.judge(alert["id"], alert["key"], time_ms)
            truth = f"right: {hit.kind.replace('_', ' ')}" if hit else "false alarm"
            self._state.add_alert(alert, truth)
        with self._arrived:
            self._seen += alerts.num_rows
            self._arrived.notify_all()
