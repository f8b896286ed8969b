"""What the measurements share: Apache Kafka, a topic with a million car_sensor records, a trained model."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from confluent_kafka import Producer
from google.pubsub_v1 import SubscriberClient, types
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

import schemas
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.client import ensure_topic
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.pubsub import client as pubsub_client
from beam_jobs.io.pubsub.address import PubSubAddress
from beam_jobs.io.pubsub.messages import Message, PublishRequest
from beam_jobs.sandbox.fleet import Fleet
from demo.broker import cache_dir
from demo.history import write_history
from model.kinds.autoencoder.network import FILE_NAME as NETWORK_FILE
from model.kinds.autoencoder.network import Network
from model.registry import resolve

CARS = 1000
DISTINCT = 1_000_000  # events of a fill that are simulated one by one
CHUNK = 10_000  # events a call of the producer
SCHEMA_ID = 1  # without a registry the shipped schema is taken for every id


def topic(servers: str, name: str, partitions: int = 1) -> KafkaAddress:
    """Creates a topic with a name of its own for this run."""
    address = KafkaAddress.parse(f"kafka://{servers}/{name}-{time.time_ns()}")
    ensure_topic(address, KafkaConfig.from_file(None), partitions=partitions)
    return address


def fill(address: KafkaAddress, rows: int, prevalence: float = 0.05, seed: int = 11) -> None:
    """Puts ``rows`` events of a fleet of 1,000 cars on the topic, keyed by car; of more than a million, copies."""
    settings = {"linger.ms": 50, "batch.size": 1_000_000, "queue.buffering.max.messages": 1_000_000}
    producer = Producer({"bootstrap.servers": address.bootstrap_servers, **settings})
    distinct = min(rows, DISTINCT)
    messages = _messages(distinct, prevalence, seed)
    left = rows
    while left:
        for start in range(0, min(left, distinct), CHUNK):
            chunk = messages[start : min(start + CHUNK, left, distinct)]
            while chunk:
                producer.produce_batch(address.topic, chunk)
                chunk = [message for message in chunk if message.pop("_error", None)]  # the queue was full
                producer.poll(0.1 if chunk else 0)
        left -= min(left, distinct)
    producer.flush()


def _messages(distinct: int, prevalence: float, seed: int) -> list[dict[str, str | bytes]]:
    """Key and value of events of a fleet of 1,000 cars."""
    encoder = AvroEncoder(schemas.load("car_sensor"), SCHEMA_ID)
    fleet = Fleet(CARS, seed=seed, prevalence=prevalence, interval=1.0, span=distinct / CARS)
    messages: list[dict[str, str | bytes]] = []
    while len(messages) < distinct:
        block = fleet.step(10)
        pairs = zip(block.column("car_id").to_pylist(), encoder.encode(block).to_pylist(), strict=True)
        messages += ({"key": key, "value": value} for key, value in pairs)
    return messages


def pubsub_topic(name: str) -> PubSubAddress:
    """Creates a topic and a subscription of its name on the fake."""
    address = PubSubAddress("bench-project", name)
    pubsub_client.ensure_topic(address)
    subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=pubsub_client.channel()))
    subscriber.create_subscription(request={"name": address.subscription_path, "topic": address.topic_path})
    return address


def fill_pubsub(address: PubSubAddress, rows: int, ready: Callable[[int], bool]) -> list[Any]:
    """As :func:`fill`, without keys, when ``ready(sent so far)``; what was sent."""
    publish = pubsub_client.call("Publisher/Publish", PublishRequest, types.PublishResponse.pb())
    values = [message["value"] for message in _messages(rows, 0.05, 11)][:rows]
    for start in range(0, rows, 1000):
        while not ready(start):
            time.sleep(0.05)
        messages = [Message(data=value) for value in values[start : start + 1000]]
        publish(PublishRequest(topic=address.topic_path, messages=messages), timeout=60)
    return values


def train(folder: Path, rows: int = 100_000) -> Path:
    """Trains a model; returns the registry folder."""
    history = folder / "history.parquet"
    write_history(history, rows, seed=2)
    registry = folder / "models"
    command = [sys.executable, "-m", "model.train", "--use_case", "car_sensors", "--data", str(history)]
    subprocess.run([*command, "--registry", str(registry), "--no-baseline"], check=True)
    return registry


def weights(registry: Path, path: Path) -> Path:
    """Writes the champion's network as plain numbers, for peers that compute it by hand."""
    version = resolve(str(registry), "car_sensors")
    network = asdict(Network.load(version.path / NETWORK_FILE))
    described = version.manifest
    named = {"features": described.features, "model": described.name, "version": described.version}
    value = {**named, "threshold": described.threshold, **network}
    path.write_text(json.dumps(value, default=lambda array: array.tolist()))
    return path


def score_command(model: Path, source: KafkaAddress, alerts: KafkaAddress, dead: KafkaAddress, *more: str) -> list[str]:
    """The bounded scoring job over the whole topic, as a user would start it."""
    return [
        *(sys.executable, "-m", "beam_jobs.score", "--use_case", "car_sensors", "--model", str(model)),
        *("--input", str(source), "--from", "earliest", "--until", "latest"),
        *("--alerts", str(alerts), "--dead_letters", str(dead), *more),
    ]


def prism_options(runner: str) -> list[str]:
    """Where Prism is, if it is asked for and the tests have built it; otherwise PATH decides, or Beam's download."""
    built = next(cache_dir().glob("prism-*/prism"), None)
    return ["--prism_location", str(built)] if runner == "PrismRunner" and built else []


def send_evenly(
    servers: str,
    name: str,
    events: pa.RecordBatch,
    key: str,
    encoder: AvroEncoder,
    rate: float,
    seconds: float,
    tick_s: float,
) -> int:
    """Says "ready", sends events again and again at an even rate, with the time at which each goes out; how many.

    Args:
      key: column of the records' keys.
      tick_s: between two batches.
    """
    keys, place = events.column(key).to_pylist(), events.schema.get_field_index("event_time")
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 5})
    producer.list_topics(name)
    print("ready", flush=True)
    started, sent = time.monotonic(), 0
    while (now := time.monotonic() - started) < seconds:
        begin = sent % len(keys)
        due = min(int(now * rate), sent + len(keys) - begin)
        stamp = pa.array(np.full(due - sent, time.time_ns() // 1_000_000)).cast(events.schema.types[place])
        block = events.slice(begin, due - sent).set_column(place, events.schema.field(place), stamp)
        for one, value in zip(keys[begin : begin + due - sent], encoder.encode(block).to_pylist(), strict=True):
            producer.produce(name, value, one)
        sent = due
        producer.poll(tick_s)
    producer.flush()
    return sent
