"""The other end of the demo's job: the watch over its alerts and scores."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping
from types import TracebackType

import pyarrow as pa
from confluent_kafka import Consumer, TopicPartition

import schemas
from beam_jobs.codec.avro.decoder import AvroDecoder
from beam_jobs.io.kafka.address import KafkaAddress
from demo.live import State
from demo.scenario import Scenario
from schemas.writers import for_registry

_TICK_S = 0.02  # how long records are waited for: it adds to the latency that is found here


class AlertWatch:
    """Reads alerts, scores and dead letters as any consumer would, for the view and the scenario."""

    def __init__(self, topics: Mapping[str, KafkaAddress], registry_url: str, state: State, scenario: Scenario) -> None:
        self._topics = {address.topic: key for key, address in topics.items()}
        self._state = state
        self._scenario = scenario
        wanted = {"alerts": None, "scores": scenario.score_columns, "dead_letters": ["topic", "partition", "offset"]}
        self._decoders = {}
        for key, columns in wanted.items():
            schema = schemas.load(key.removesuffix("s"))
            registry = for_registry(registry_url, schema)
            self._decoders[key] = AvroDecoder(schema, registry.writer_schema, columns)
        servers = topics["alerts"].bootstrap_servers
        self._consumer = Consumer({"bootstrap.servers": servers, "group.id": "highbeam-demo", "log_level": 4})
        self._consumer.assign([TopicPartition(topics[key].topic, 0, 0) for key in wanted])
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
            values = defaultdict(list)
            for message in self._consumer.consume(1000, _TICK_S):
                if message.error() is None:
                    values[self._topics[message.topic()]].append(message.value())
            for key, found in values.items():
                rows = self._decoders[key].decode(pa.array(found, pa.binary())).rows
                if key == "alerts":
                    self._judge(rows)
                elif key == "scores":
                    self._state.add_scores(rows.column("score").to_numpy(zero_copy_only=False))
                    self._scenario.add_scores(rows)
                else:
                    self._scenario.add_dead_letters(rows)

    def _judge(self, alerts: pa.RecordBatch) -> None:
        for alert in alerts.to_pylist():
            self._state.add_alert(*self._scenario.judge(alert))
        with self._arrived:
            self._seen += alerts.num_rows
            self._arrived.notify_all()
