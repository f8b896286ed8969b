"""What the measurements of windows share: a topic whose records have the times of their events, and two use cases.

Cars send an event each 100 s, so an hour holds 36 events of a car; a million events of 10,000 cars are 2.8 hours.
``plain`` is the shipped car_sensors; ``windows`` adds to it, of 5 minutes and of an hour, count, sum, avg, min, max and
stddev_samp of the current. Both learn the same hidden layers.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from confluent_kafka import Producer

import schemas
import use_cases
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.sandbox.fleet import Fleet
from bench.world import SCHEMA_ID

INTERVAL_S = 100.0  # between two events of a car
PER_HOUR = 36
VALUE = "current_draw"
FUNCTIONS = ("count", "sum", "avg", "min", "max", "stddev_samp")
MINUTES = {"short": 5, "long": 60}
FEATURES = {
    f"{function}_{name}": f"COALESCE({function}({VALUE}) OVER {name}, 0)"  # a row alone has no deviation
    for name in MINUTES
    for function in FUNCTIONS
}
WINDOWS = ",\n       ".join(
    f"{name} AS (PARTITION BY car_id ORDER BY event_time "
    f"RANGE BETWEEN INTERVAL '{minutes}' MINUTE PRECEDING AND CURRENT ROW)"
    for name, minutes in MINUTES.items()
)
NAMES = ("plain", "windows")
_CHUNK = 20_000  # events that are encoded at once
_QUEUED = 500_000  # messages of a client that waits for the broker


def events(rows: int, cars: int, begin_ms: int = 1_700_000_000_000) -> list[pa.RecordBatch]:
    """Events of a fleet, in the order of their times."""
    return list(stream(rows, cars, begin_ms))


def stream(
    rows: int, cars: int, begin_ms: int = 1_700_000_000_000, interval_s: float = INTERVAL_S
) -> Iterator[pa.RecordBatch]:
    """The same, block by block; ``interval_s``: between two events of a car."""
    fleet = Fleet(cars, 11, 0.05, begin_ms, interval_s, span=rows / cars * interval_s)
    left = rows
    while left > 0:
        block = fleet.step(max(1, _CHUNK // cars)).slice(0, left)
        left -= block.num_rows
        yield block


def send(address: KafkaAddress, blocks: Iterable[pa.RecordBatch], arrived: Sequence[int] | None = None) -> None:
    """Puts events on a topic, keyed by car, their records' timestamps the events' times or those given (ms)."""
    encoder = AvroEncoder(schemas.load("car_sensor"), SCHEMA_ID)
    settings = {"linger.ms": 50, "batch.size": 1_000_000, "queue.buffering.max.messages": 1_000_000}
    producer = Producer({"bootstrap.servers": address.bootstrap_servers, **settings})
    sent = 0
    for block in blocks:
        times = block.column("event_time").cast(pa.int64()).to_pylist()
        if arrived is not None:
            times = arrived[sent : sent + block.num_rows]
        sent += block.num_rows
        keys, values = block.column("car_id").to_pylist(), encoder.encode(block).to_pylist()
        for key, value, time_ms in zip(keys, values, times, strict=True):
            producer.produce(address.topic, value, key, timestamp=time_ms)
        while len(producer) > _QUEUED:
            producer.poll(0.1)
    producer.flush()


@dataclass(frozen=True)
class UseCases:
    """``plain`` and ``windows``, and a model for each."""

    folders: Mapping[str, Path]
    models: Path  # the registry


def made(folder: Path, past: Iterable[pa.RecordBatch], epochs: int = 2, names: Sequence[str] = NAMES) -> UseCases:
    """Writes the use cases and trains those of ``names``; after two epochs a score means little: enough for a rate."""
    found = {name: folder / name for name in NAMES}
    for path in found.values():
        shutil.copytree(Path(use_cases.__file__).parent / "car_sensors", path)
    sql = found["windows"] / "preprocess.sql"
    more = ",".join(f"\n  {expression} AS {name}" for name, expression in FEATURES.items())
    sql.write_text(sql.read_text().replace("\nFROM events", f",{more}\nFROM events").rstrip() + f"\nWINDOW {WINDOWS}\n")
    data, registry = folder / "history.parquet", folder / "models"
    pq.write_table(pa.Table.from_batches(past), data)
    for path in (found[name] for name in names):
        command = [sys.executable, "-m", "model.train", "--use_case", str(path), "--data", str(data)]
        command += ["--registry", str(registry), "--no-baseline", "--epochs", str(epochs)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return UseCases(found, registry)
