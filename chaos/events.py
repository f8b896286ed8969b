"""The events of a campaign, each with what has to become of it: a score, perhaps an alert, a row, or a dead letter."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import fastavro
import pyarrow as pa
from confluent_kafka import Consumer, Producer, TopicPartition

import schemas
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.sandbox.fleet import Fleet
from chaos.job import ROOT
from chaos.ledger import digest
from demo.cluster import ApacheKafkaCluster
from demo.history import write_history

USE_CASE = "car_sensors"
CARS = 50
BAD_RATE = 0.02  # share of the events that no job can read
_FRAME = 5  # bytes of Confluent's header
_SOURCE = {"source_topic", "source_partition", "source_offset", "source_timestamp", "source_key"}
_SCORED = ("key", "event_time", "score", "threshold", "model", "version")


@dataclass(frozen=True)
class Event:
    """One event as it is produced, and the hashes of what it has to become."""

    value: bytes
    key: bytes
    letter: str | None  # of its dead letter, where it is one
    score: str | None
    alert: str | None
    row: str | None  # in an archive
    time_ms: int | None = None  # of its record; None: when it is sent


def schema(name: str) -> Any:
    return fastavro.parse_schema(schemas.load(name), named_schemas={})


def read(value: bytes, parsed: Any) -> dict[str, Any]:
    """A framed record, by fastavro: no code of the jobs'."""
    row: dict[str, Any] = fastavro.schemaless_reader(io.BytesIO(value[_FRAME:]), parsed, None)
    return row


def scored(row: dict[str, Any]) -> str:
    """The hash of a score or an alert: everything but its position."""
    return digest({name: row[name] for name in _SCORED})


def archived(row: dict[str, Any]) -> str:
    """The hash of an archive's row: the event's own fields."""
    return digest({name: value for name, value in row.items() if name not in _SOURCE})


def train(folder: Path) -> Path:
    """Trains a small model; the registry's folder."""
    write_history(folder / "history.parquet", 20_000, seed=3)
    command = [sys.executable, "-m", "model.train", "--use_case", USE_CASE, "--epochs", "6", "--no-baseline"]
    command += ["--data", str(folder / "history.parquet"), "--registry", str(folder / "models")]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, timeout=300)
    return folder / "models"


def make(count: int, chance: Random, cluster: ApacheKafkaCluster, model: Path) -> list[Event]:
    """Events of a fleet, no two the same; a job that nobody disturbs says what each is scored."""
    fleet = Fleet(CARS, seed=chance.randrange(1 << 30), prevalence=0.2, span=count / CARS)
    rows = pa.Table.from_batches([fleet.step(-(-count // CARS))]).slice(0, count).combine_chunks().to_batches()[0]
    values = AvroEncoder(schemas.load("car_sensor"), 1).encode(rows).to_pylist()
    scores = _reference(values, cluster, model)
    sensor = schema("car_sensor")
    personal = {f["name"] for f in schemas.load("car_sensor")["fields"] if f.get("pii")}
    found = []
    for value, (score, anomaly) in zip(values, scores, strict=True):
        event = read(value, sensor)
        key = event["car_id"].encode()
        if chance.random() < BAD_RATE:
            broken = value[: chance.randrange(_FRAME + 25, len(value))]  # behind car and time: still like no other
            found.append(Event(broken, key, digest(broken), None, None, None))
            continue
        row = archived({name: part for name, part in event.items() if name not in personal})
        found.append(Event(value, key, None, score, score if anomaly else None, row))
    return found


def _reference(values: list[bytes], cluster: ApacheKafkaCluster, model: Path) -> Iterator[tuple[str, bool]]:
    """The score of each value, and whether it is an anomaly, by one undisturbed bounded run."""
    for topic in ("reference", "reference-scores", "reference-alerts"):
        cluster.create(topic)
    producer = Producer({"bootstrap.servers": cluster.bootstrap_servers, "acks": "all", "log_level": 0})
    for value in values:
        producer.produce("reference", value)
        producer.poll(0)
    producer.flush()
    servers = f"kafka://{cluster.bootstrap_servers}"
    command = [sys.executable, "-m", "beam_jobs.score", "--use_case", USE_CASE, "--model", str(model)]
    command += ["--input", f"{servers}/reference", "--until", "latest", "--scores", f"{servers}/reference-scores"]
    command += ["--alerts", f"{servers}/reference-alerts", "--dead_letters", f"{servers}/reference-alerts"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    if done.returncode:
        raise RuntimeError(f"the undisturbed run failed: {done.stderr}")
    consumer = Consumer({"bootstrap.servers": cluster.bootstrap_servers, "group.id": "reference", "log_level": 0})
    consumer.assign([TopicPartition("reference-scores", 0, 0)])
    parsed = schema("score")
    rows: dict[int, tuple[str, bool]] = {}
    while len(rows) < len(values):
        for message in consumer.consume(10_000, 10):
            row = read(message.value(), parsed)
            rows[row["source_offset"]] = (scored(row), row["is_anomaly"])
    consumer.close()
    return (rows[i] for i in range(len(values)))
