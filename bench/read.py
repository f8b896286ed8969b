"""Raw reads of a topic: a plain consume loop, the same with the source's settings, and the source's two fetch paths.

    python -m bench.read --records 1000000 --rounds 3

No Beam runner; records of 86 bytes, four partitions, Apache Kafka; interleaved in one run. Records a second.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

from confluent_kafka import Consumer, Producer, TopicPartition

from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.client import FetchPath, KafkaTransport
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.control import consumer_properties
from bench.world import topic
from demo.broker import ApacheKafka

PARTITIONS = 4


def fill(address: KafkaAddress, records: int) -> None:
    producer = Producer({"bootstrap.servers": address.bootstrap_servers, "linger.ms": 50, "batch.size": 1_000_000})
    for i in range(records):
        while True:
            try:
                producer.produce(address.topic, b"x" * 86, partition=i % PARTITIONS)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()


def consume_loop(address: KafkaAddress, records: int, settings: dict[str, str]) -> float:
    """Seconds from the first message to the last."""
    consumer = Consumer({**settings, "bootstrap.servers": address.bootstrap_servers, "group.id": "read"})
    consumer.assign([TopicPartition(address.topic, p, 0) for p in range(PARTITIONS)])
    first, read = 0.0, 0
    while read < records:
        read += sum(m.error() is None for m in consumer.consume(1000, 1.0))
        first = first or time.perf_counter()
    seconds = time.perf_counter() - first
    consumer.close()
    return seconds


def source(address: KafkaAddress, records: int, path: FetchPath) -> float:
    """Seconds from the first block to the last."""
    fetcher = KafkaTransport(address, KafkaConfig(), fetch=path).fetcher()
    fetcher.assign(dict.fromkeys(range(PARTITIONS), 0))
    first, read = 0.0, 0
    while read < records:
        fetched = fetcher.fetch(8192, 1.0, 0.02)
        if fetched.block is not None:
            read += fetched.block.num_rows
            first = first or time.perf_counter()
    seconds = time.perf_counter() - first
    fetcher.close()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.read", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with ApacheKafka() as broker:
        address = topic(broker.bootstrap_servers, "raw", PARTITIONS)
        fill(address, args.records)
        tuned = consumer_properties(address, KafkaConfig(), None)
        ways: dict[str, Callable[[], float]] = {
            "consume(1000)": lambda: consume_loop(address, args.records, {}),
            "consume(1000), tuned": lambda: consume_loop(address, args.records, tuned),
            "source, client": lambda: source(address, args.records, "client"),
            "source, wire": lambda: source(address, args.records, "wire"),
        }
        for _ in range(args.rounds):
            print(json.dumps({name: round(args.records / way()) for name, way in ways.items()}), flush=True)


if __name__ == "__main__":
    main()
