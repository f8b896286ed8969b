"""The sink alone against a produce() loop: 200,000 records of 86 bytes with keys, acknowledged, idempotent.

    python -m bench.write --rounds 3

No Beam runner; Apache Kafka; interleaved in one run. Records a second.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import pyarrow as pa
from confluent_kafka import Producer

from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.sink import PRODUCER_DEFAULTS, WriteBlocks
from bench.world import topic
from demo.broker import ApacheKafka

ROWS = 8192


def loop(address: KafkaAddress, records: int) -> float:
    """Seconds of a produce() loop with the sink's settings."""
    settings = {**PRODUCER_DEFAULTS, "enable.idempotence": True, "bootstrap.servers": address.bootstrap_servers}
    producer = Producer(settings)
    started = time.perf_counter()
    for i in range(records):
        while True:
            try:
                producer.produce(address.topic, b"x" * 86, b"key-%d" % (i % 1000))
                break
            except BufferError:
                producer.poll(0.01)
    producer.flush()
    return time.perf_counter() - started


def sink(address: KafkaAddress, records: int) -> float:
    """Seconds of the sink's DoFn, a bundle of 40 blocks at a time, as in a replay."""
    keys = pa.array([b"key-%d" % (i % 1000) for i in range(ROWS)], pa.binary())
    block = pa.record_batch({"key": keys, "value": pa.array([b"x" * 86] * ROWS, pa.binary())})
    write = WriteBlocks(address, KafkaConfig())
    write.setup()
    started, left = time.perf_counter(), records
    while left:
        write.start_bundle()
        for _ in range(40):
            part = block.slice(0, min(left, ROWS))
            write.process(part, None)
            left -= part.num_rows
        write.finish_bundle()
    seconds = time.perf_counter() - started
    write.teardown()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.write", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    ways: dict[str, Callable[[KafkaAddress, int], float]] = {"produce() loop": loop, "sink": sink}
    with ApacheKafka() as broker:
        for _ in range(args.rounds):
            rates = {
                name: round(args.records / way(topic(broker.bootstrap_servers, "written", 4), args.records))
                for name, way in ways.items()
            }
            print(json.dumps(rates), flush=True)


if __name__ == "__main__":
    main()
