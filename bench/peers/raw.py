"""A confluent-kafka consume loop with tuned fetch settings and nothing else: the ceiling of every Python loop.

    python -m bench.peers.raw SERVERS TOPIC RECORDS

No value is looked at. ``consume(1000)``: faster than 10,000 with these settings (1.6 to 2.2 against 1.4 million/s).
"""

from __future__ import annotations

import json
import sys
import time

from confluent_kafka import Consumer, TopicPartition

START = time.time()
BATCH = 1000
# The default back-off of a full queue, 1 s, costs most of the rate.
SETTINGS = {
    "fetch.queue.backoff.ms": "5",
    "queued.max.messages.kbytes": "65536",
    "queued.min.messages": "100000",
    "max.partition.fetch.bytes": "4000000",
    "fetch.wait.max.ms": "100",
    "enable.auto.commit": "false",
    "enable.auto.offset.store": "false",
}


def main(servers: str, topic: str, records: str, batch: str = str(BATCH)) -> None:
    consumer = Consumer({**SETTINGS, "bootstrap.servers": servers, "group.id": "raw"})
    partitions = consumer.list_topics(topic, 10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
    wanted, size, read, first = int(records), int(batch), 0, 0.0
    while read < wanted:
        messages = consumer.consume(size, 1.0)
        first = first or time.time()
        read += len(messages)
    end = time.time()
    consumer.close()
    print(json.dumps({"records": read, "first": end - first, "start": end - START}))


if __name__ == "__main__":
    main(*sys.argv[1:])
