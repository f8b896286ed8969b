"""Topics, events and job runs that the tests of whole jobs share."""

from __future__ import annotations

import subprocess
import uuid
from typing import Any

import pyarrow as pa
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

import schemas
from beam_jobs.codec.avro.decoder import AvroDecoder
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.sandbox.fleet import Fleet
from demo.broker import ApacheKafka
from tests.services.job import finished
from tests.services.kafka import SharedBroker

CAR_SENSOR = schemas.load("car_sensor")


class Topics:
    """Topics of one test on the shared broker."""

    def __init__(self, broker: SharedBroker | ApacheKafka) -> None:
        self.servers = broker.bootstrap_servers
        self._run = uuid.uuid4().hex[:8]
        admin = AdminClient({"bootstrap.servers": self.servers})
        large = {"max.message.bytes": str(8_000_000)}
        wanted = [
            NewTopic(self.name("events"), 4, 1, config=large),
            *(NewTopic(self.name(n), 1, 1, config=large) for n in ("alerts", "scores")),
            NewTopic(self.name("dead"), 1, 1),  # takes a megabyte: less than the largest record
        ]
        for done in admin.create_topics(wanted).values():
            done.result(30)

    def name(self, short: str) -> str:
        return f"{short}-{self._run}"

    def uri(self, short: str) -> str:
        return f"kafka://{self.servers}/{self.name(short)}"

    def send(self, short: str, values: list[bytes | None], keys: list[bytes | None] | None = None) -> None:
        producer = Producer({"bootstrap.servers": self.servers, "message.max.bytes": 10_000_000})
        failed: list[object] = []
        for i, value in enumerate(values):
            producer.produce(
                self.name(short),
                value,
                keys[i] if keys else b"car-%d" % (i % 50),
                on_delivery=lambda error, _: failed.append(error) if error else None,
            )
            producer.poll(0)
        producer.flush()
        assert not failed

    def read(self, short: str, schema: str | None = None) -> list[dict[str, Any]]:
        """Everything on a topic of one partition: decoded rows, or value and headers without a schema."""
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": "test"})
        found, rows = 0, []
        for partition in consumer.list_topics(self.name(short), 10).topics[self.name(short)].partitions:
            where = TopicPartition(self.name(short), partition, 0)
            low, end = consumer.get_watermark_offsets(where, 10)
            consumer.assign([where])
            found = low
            while found < end:
                for message in consumer.consume(10_000, 1.0):
                    assert message.error() is None
                    rows.append({"value": message.value(), "headers": message.headers() or []})
                    found = message.offset() + 1
        consumer.close()
        if schema is None:
            return rows
        reader = schemas.load(schema)
        decoded = AvroDecoder(reader, lambda _: reader).decode(pa.array([r["value"] for r in rows], pa.binary()))
        assert len(decoded.errors) == 0
        return list(decoded.rows.to_pylist())


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    done = finished(command)
    assert done.returncode == 0, done.stderr
    return done


def events(n: int, seed: int = 5) -> pa.RecordBatch:
    return (
        pa.Table.from_batches([Fleet(50, seed=seed, prevalence=0.2, span=n / 500).step(-(-n // 50))])
        .slice(0, n)
        .combine_chunks()
        .to_batches()[0]
    )


def framed(rows: pa.RecordBatch) -> list[bytes]:
    return list(AvroEncoder(CAR_SENSOR, 1).encode(rows).to_pylist())
