"""The replay job against a plain loop of fastavro.reader and confluent-kafka's produce; interleaved in one run.

    python -m bench.replay --records 1000000 --rounds 3

Apache Kafka; car_sensor events of four partitions, archived with ``--raw`` (Avro, deflate) by hour of event time, one
in twenty late by hours. Both write Avro values with key, timestamp and the header that names the origin, with the same
producer settings. The loop goes through the files as they lie, so it does not keep the order of late events. The job is
measured from the first record on (``records_per_second`` of its report), which leaves out its look through the
positions; that is given beside it.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
from confluent_kafka import Producer

from beam_jobs.archives.contents import look_through
from beam_jobs.archives.read import find, open_archive
from beam_jobs.archives.rows import archive_schema
from beam_jobs.archives.sink import ArchiveSettings, WriteFiles
from beam_jobs.block import MAX_BLOCK_ROWS, raw_block, with_source
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.sink import PRODUCER_DEFAULTS
from beam_jobs.sandbox.fleet import Fleet
from beam_jobs.use_case import load_use_case
from bench import processes
from bench.world import CARS, SCHEMA_ID, topic
from demo.broker import ApacheKafka

HOUR_MS = 3_600_000
BLOCKS_PER_BUNDLE = 4


def make_archive(folder: Path, records: int) -> None:
    """As the archive job writes it: bundles of blocks of four partitions."""
    use_case = load_use_case("car_sensors")
    schema = archive_schema(use_case, "events")
    write = WriteFiles(ArchiveSettings(str(folder), "bench", schema, use_case.event_time))
    write.setup()
    fleet = Fleet(CARS, seed=11, interval=1.0, span=records / CARS)
    chance = np.random.default_rng(5)
    following = np.zeros(4, np.int64)
    left = records
    while left:
        write.start_bundle()
        for _ in range(BLOCKS_PER_BUNDLE):
            n = min(left, MAX_BLOCK_ROWS)
            if not n:
                break
            left -= n
            events = fleet.step(-(-n // CARS)).slice(0, n)
            partitions = np.sort(np.arange(n) % 4)
            offsets = np.concatenate([following[p] + np.arange((partitions == p).sum()) for p in range(4)])
            following += np.bincount(partitions, minlength=4)
            millis = events.column("event_time").cast(pa.int64()).to_numpy()
            millis = millis - HOUR_MS * chance.integers(1, 9, n) * (chance.random(n) < 0.05)
            index = events.schema.get_field_index("event_time")
            kind = events.schema.field(index)
            events = events.set_column(index, kind, pa.array(millis).cast(kind.type))
            keys = events.column("car_id").cast(pa.string()).cast(pa.binary())
            raw = raw_block("sensor-data", partitions, offsets, millis, keys, pa.nulls(n, pa.binary()))
            write.process(with_source(events, raw))
        write.finish_bundle()


def loop(folder: Path, address: KafkaAddress) -> tuple[int, float]:
    """Records, and seconds from the first on; as the libraries' documentation writes it."""
    use_case = load_use_case("car_sensors")
    schema: Any = fastavro.parse_schema(use_case.schema)
    settings = {**PRODUCER_DEFAULTS, "enable.idempotence": True, "bootstrap.servers": address.bootstrap_servers}
    producer = Producer(settings)
    header = b"\0" + SCHEMA_ID.to_bytes(4, "big")
    started, written = time.perf_counter(), 0
    for path in find(str(folder)):
        with Path(path).open("rb") as file:
            for event in fastavro.reader(file):
                assert isinstance(event, dict)
                body = io.BytesIO()
                body.write(header)
                fastavro.schemaless_writer(body, schema, event)
                origin = f"{event['source_topic']}-{event['source_partition']}-{event['source_offset']}"
                millis = int(event["source_timestamp"].timestamp() * 1000)
                while True:
                    try:
                        producer.produce(
                            address.topic,
                            body.getvalue(),
                            event["source_key"],
                            timestamp=millis,
                            headers=[("highbeam.origin", origin.encode())],
                        )
                        break
                    except BufferError:
                        producer.poll(0.01)
                written += 1
    producer.flush()
    return written, time.perf_counter() - started


def job(folder: Path, address: KafkaAddress, records: int) -> tuple[float, float]:
    """Records a second from the first record on, and from the start of the pipeline."""
    with tempfile.TemporaryDirectory() as name:
        report = Path(name) / "report.json"
        processes.run(
            [
                *(sys.executable, "-m", "beam_jobs.replay", "--use_case", "car_sensors"),
                *("--input", str(folder), "--output", str(address), "--report", str(report)),
            ]
        )
        result = json.loads(report.read_text())
    assert result["written"] == records
    return result["records_per_second"], records / result["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.replay", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ApacheKafka() as broker:
        folder = Path(name)
        make_archive(folder, args.records)
        started = time.perf_counter()
        look_through(open_archive(str(folder), load_use_case("car_sensors")))
        looking = time.perf_counter() - started
        print(json.dumps({"records": args.records, "files": len(find(str(folder))), "look_s": round(looking, 2)}))
        for _ in range(args.rounds):
            written, seconds = loop(folder, topic(broker.bootstrap_servers, "loop", 4))
            assert written == args.records
            rate, whole = job(folder, topic(broker.bootstrap_servers, "replay", 4), args.records)
            plain = written / seconds
            found = {"loop": round(plain), "replay": round(rate), "from_the_start": round(whole)}
            print(json.dumps({**found, "ratio": round(rate / plain, 2)}), flush=True)


if __name__ == "__main__":
    main()
