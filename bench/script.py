"""The hand-written loop that Highbeam is measured against: confluent-kafka, fastavro, the same model.

    python -m bench.script SERVERS TOPIC ALERTS_TOPIC MODEL_FOLDER RECORDS

Written as the libraries' own documentation does it: consume(1000), one fastavro call a record, one model call for each
1,000, alerts through the producer. Prints one JSON object: records, alerts, seconds from the first record, from start.
"""

from __future__ import annotations

import io
import json
import struct
import sys
import time

START = time.time()

import fastavro  # noqa: E402
import numpy as np  # noqa: E402
from confluent_kafka import Consumer, Producer, TopicPartition  # noqa: E402

import schemas  # noqa: E402
from model.loaded import LoadedModel  # noqa: E402
from model.registry import resolve  # noqa: E402

FIELDS = schemas.load("car_sensor")


def main(servers: str, topic: str, alerts_topic: str, registry: str, records: int) -> None:
    version = resolve(registry, "car_sensors")
    model = LoadedModel.load(version.path)
    threshold = model.manifest.threshold
    reader = fastavro.parse_schema(FIELDS)
    writer = fastavro.parse_schema(schemas.load("alert"))
    features = model.manifest.features
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "script", "enable.auto.commit": False})
    partitions = consumer.list_topics(topic, 10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 5, "enable.idempotence": True})
    ready = time.time()
    first, read, alerts = 0.0, 0, 0
    while read < records:
        messages = consumer.consume(1000, 1.0)
        if not messages:
            continue
        first = first or time.time()
        events = [fastavro.schemaless_reader(io.BytesIO(m.value()[5:]), reader) for m in messages]
        x = np.array([[vector(e, name) for name in features] for e in events], np.float32)
        scores = model.score(x)
        for i in np.flatnonzero(scores > threshold):
            message, event = messages[i], events[i]
            out = io.BytesIO()
            out.write(struct.pack(">bI", 0, 1))
            alert = {
                "id": f"{topic}-{message.partition()}-{message.offset()}",
                "key": event["car_id"],
                "event_time": event["event_time"],
                "score": float(scores[i]),
                "threshold": float(threshold),
                "percentile": 0.0,
                "model": model.manifest.name,
                "version": model.manifest.version,
                "source_topic": topic,
                "source_partition": message.partition(),
                "source_offset": message.offset(),
                "features": [],
            }
            fastavro.schemaless_writer(out, writer, alert)
            producer.produce(alerts_topic, out.getvalue(), event["car_id"])
            alerts += 1
        producer.poll(0)
        read += len(messages)
    producer.flush()
    end = time.time()
    consumer.close()
    print(
        json.dumps(
            {"records": read, "alerts": alerts, "first": end - first, "start": end - ready, "process": end - START}
        )
    )


def vector(event: dict[str, float], name: str) -> float:
    """The features of preprocess.sql, by hand."""
    if name == "vibration_per_speed":
        return event["engine_vibration_amplitude"] / (event["speed"] + 1)
    return event[name]


if __name__ == "__main__":
    servers, topic, alerts_topic, registry, records = sys.argv[1:]
    main(servers, topic, alerts_topic, registry, int(records))
