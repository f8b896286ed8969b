"""The other end of the demo's job: the watch over its alerts and scores."""

from __future__ import annotations

import threading
from types import TracebackType

import pyarrow as pa
from confluent_kafka import Consumer, TopicPartition

import schemas
from beam_jobs.codec.avro.decoder import AvroDecoder
from beam_jobs.io.kafka.address import KafkaAddress
from demo.live import State
from demo.referee import Referee
from schemas.writers import for_registry


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
            truth = hit.kind.replace("_", " ") if hit else ""
            self._state.add_alert(alert, truth)
        with self._arrived:
            self._seen += alerts.num_rows
            self._arrived.notify_all()
