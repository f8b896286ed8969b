"""Beam as its documentation shows it, without Highbeam: rows as elements, fastavro in a DoFn, the TensorFlow handler.

    python -m bench.peers.stock_beam SERVERS TOPIC ALERTS_TOPIC MODEL_REGISTRY RECORDS

Beam's own ReadFromKafka needs a Java expansion service, which pip does not bring: the source here is an UnboundedSource
that gives out one record an element, which spares it Java's cross-language hop. The handler is Beam's own
TFModelHandlerNumpy on model.keras, its batching (BatchElements) of 100 to 1,000 rows, keyed by position and event.
Runner: FnApiRunner.
"""

from __future__ import annotations

import sys
import time
import types
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.io.unbounded_source import CheckpointMark, ReadFromUnboundedSource, UnboundedReader, UnboundedSource
from apache_beam.ml.inference.base import KeyedModelHandler, PredictionResult, RunInference
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Timestamp
from confluent_kafka import Consumer, Producer, TopicPartition

from bench.peers import net
from model.kinds import tf
from model.registry import resolve

START = time.time()
SEEN = {"first": 0.0, "records": 0, "alerts": 0, "last": 0.0}

Message = tuple[int, int, bytes]  # partition, offset, value


class _Mark(CheckpointMark):
    def finalize_checkpoint(self) -> None:
        """Nothing is committed."""


class _Source(UnboundedSource):
    def __init__(self, servers: str, topic: str) -> None:
        self.servers, self.topic = servers, topic

    def split(self, desired_num_splits: int, options: Any = None) -> list[UnboundedSource]:
        return [self]

    def create_reader(self, options: Any, checkpoint_mark: Any) -> UnboundedReader:
        return _Reader.open(self)

    def get_checkpoint_mark_coder(self) -> beam.coders.Coder:
        return beam.coders.PickleCoder()

    def default_output_coder(self) -> beam.coders.Coder:
        return beam.coders.FastPrimitivesCoder()


class _Reader(UnboundedReader):
    """One reader for the whole run, so that its position outlives the bundles."""

    _only: _Reader | None = None

    @classmethod
    def open(cls, source: _Source) -> _Reader:
        cls._only = cls._only or cls(source)
        return cls._only

    def __init__(self, source: _Source) -> None:
        settings = {"fetch.queue.backoff.ms": 5, "queued.min.messages": 100_000, "enable.auto.commit": False}
        self._consumer = Consumer({"bootstrap.servers": source.servers, "group.id": "stock", **settings})
        partitions = self._consumer.list_topics(source.topic, 10).topics[source.topic].partitions
        ends = [self._consumer.get_watermark_offsets(TopicPartition(source.topic, p), 10)[1] for p in partitions]
        self._total = sum(ends)
        self._consumer.assign([TopicPartition(source.topic, p, 0) for p in partitions])
        self._ready: list[Any] = []
        self._read = 0
        self._current: Any = None

    def start(self) -> bool:
        return self.advance()

    def advance(self) -> bool:
        while self._read < self._total:
            if not self._ready:
                self._ready = self._consumer.consume(1000, 0.5)[::-1]
                if not self._ready:
                    return False
            message = self._ready.pop()
            self._read += 1
            self._current = message
            SEEN["first"] = SEEN["first"] or time.time()
            return True
        return False

    def get_current(self) -> Message:
        return self._current.partition(), self._current.offset(), self._current.value()

    def get_current_timestamp(self) -> Timestamp:
        return Timestamp(self._current.timestamp()[1] / 1000)

    def get_watermark(self) -> Timestamp:
        return MAX_TIMESTAMP if self._read >= self._total else MIN_TIMESTAMP

    def get_checkpoint_mark(self) -> _Mark:
        return _Mark()

    def close(self) -> None:
        """Kept for the next bundle."""


class _Decode(beam.DoFn):
    def __init__(self, features: tuple[str, ...]) -> None:
        self._features = features

    def process(self, message: Message) -> Iterable[tuple[tuple[int, int, dict[str, Any]], np.ndarray[Any, Any]]]:
        partition, offset, value = message
        event = net.decode(value)
        ratio = event["engine_vibration_amplitude"] / (event["speed"] + 1)
        row = [ratio if name == "vibration_per_speed" else event[name] for name in self._features]
        yield (partition, offset, event), np.array(row, np.float32)


def _infer(
    model: Any, batch: Any, inference_args: Any = None, model_id: str | None = None
) -> Iterable[PredictionResult]:
    rows = np.stack(batch, axis=0)
    scores = model(rows, training=False)["score"].numpy()  # Beam's own function can't take the network's named outputs
    return [PredictionResult(x, y, model_id) for x, y in zip(batch, scores, strict=True)]


class _Alerts(beam.DoFn):
    def __init__(self, servers: str, topic: str, source: str, registry: str) -> None:
        self._servers, self._topic, self._source, self._registry = servers, topic, source, registry

    def setup(self) -> None:
        self._producer = Producer({"bootstrap.servers": self._servers, "linger.ms": 5})
        described = resolve(self._registry, "car_sensors").manifest
        self._threshold, self._names = described.threshold, (described.name, described.version)

    def process(self, scored: tuple[tuple[int, int, dict[str, Any]], PredictionResult]) -> None:
        (partition, offset, event), result = scored
        SEEN["records"] += 1
        if result.inference > self._threshold:
            score = float(result.inference)
            value = net.alert(event, score, self._threshold, self._names, self._source, partition, offset)
            self._producer.produce(self._topic, value, event["car_id"])
            SEEN["alerts"] += 1

    def finish_bundle(self) -> None:
        self._producer.flush()
        SEEN["last"] = time.time()


def main(servers: str, topic: str, alerts_topic: str, registry: str, records: str) -> None:
    # Beam's module imports it for models on TensorFlow Hub; the package would drag a second TensorFlow along.
    hub = types.ModuleType("tensorflow_hub")
    hub.resolve = lambda path: path  # type: ignore[attr-defined]
    sys.modules.setdefault("tensorflow_hub", hub)
    from apache_beam.ml.inference.tensorflow_inference import TFModelHandlerNumpy

    tf.keras(threads=1)
    version = resolve(registry, "car_sensors")
    handler = TFModelHandlerNumpy(
        str(version.path / "model.keras"),
        inference_fn=_infer,
        min_batch_size=100,
        max_batch_size=1000,
    )
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        (
            pipeline
            | ReadFromUnboundedSource(_Source(servers, topic))
            | beam.ParDo(_Decode(version.manifest.features))
            | RunInference(KeyedModelHandler(handler))
            | beam.ParDo(_Alerts(servers, alerts_topic, topic, registry))
        )
    net.result(int(SEEN["records"]), int(SEEN["alerts"]), SEEN["first"], START, SEEN["last"])


if __name__ == "__main__":
    from bench.peers import stock_beam  # Beam pickles the functions of a module by name, those of __main__ by value

    stock_beam.main(*sys.argv[1:6])
