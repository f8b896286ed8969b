"""Quix Streams, message by message, as its documentation writes a pipeline: apply, filter, to_topic.

    python -m bench.peers.own_venv quix SERVERS TOPIC ALERTS_TOPIC WEIGHTS RECORDS

Settings: bytes in and out with fastavro in the functions (quicker than a custom Deserializer object), the network of
one row in numpy, commits every 5 s (its default), at-least-once (its default), the producer's linger at 5 ms, a
larger fetch.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from quixstreams import Application, message_context  # type: ignore[import-not-found,unused-ignore]

from bench.peers import net

START = time.time()


def main(servers: str, topic: str, alerts_topic: str, weights: str, records: str) -> None:
    network = net.Net(weights)
    wanted = int(records)
    seen = {"first": 0.0, "records": 0, "alerts": 0}
    app = Application(
        broker_address=servers,
        consumer_group=f"quix-{time.time_ns()}",
        auto_offset_reset="earliest",
        loglevel="ERROR",
        consumer_extra_config={"fetch.queue.backoff.ms": 5, "queued.min.messages": 100_000},
        producer_extra_config={"linger.ms": 5},
    )

    def score(value: bytes) -> Any:
        seen["first"] = seen["first"] or time.time()
        seen["records"] += 1
        if seen["records"] == wanted:
            app.stop()
        event = net.decode(value)
        found = float(network.score([network.vector(event)])[0])
        if found <= network.threshold:
            return None
        seen["alerts"] += 1
        context = message_context()
        return network.alert(event, found, topic, context.partition, context.offset)

    source = app.topic(topic, value_deserializer="bytes", key_deserializer="bytes")
    alerts = app.topic(alerts_topic, value_serializer="bytes", key_serializer="bytes")
    frame = app.dataframe(source)
    frame = frame.apply(score)
    frame = frame.filter(lambda alert: alert is not None)
    frame.to_topic(alerts)
    app.run()  # returns when the producer is flushed
    net.result(wanted, int(seen["alerts"]), seen["first"], START, time.time())


if __name__ == "__main__":
    main(*sys.argv[1:6])
