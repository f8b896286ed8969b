"""Bytewax, in batches, as its documentation writes a dataflow: KafkaSource, flat_map_batch, KafkaSink. One worker.

    python -m bench.peers.own_venv bytewax SERVERS TOPIC ALERTS_TOPIC WEIGHTS RECORDS

Settings: batches of 1,000 messages (its default is 1), one fastavro call a record, the network once a batch in numpy,
the source stops at the end of the topic (tail=False), a larger fetch, the producer's linger at 5 ms.
"""

from __future__ import annotations

import sys
import time

import bytewax.operators as op  # type: ignore[import-not-found,unused-ignore]
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource  # type: ignore[import-not-found,unused-ignore]
from bytewax.dataflow import Dataflow  # type: ignore[import-not-found,unused-ignore]
from bytewax.testing import run_main  # type: ignore[import-not-found,unused-ignore]

from bench.peers import net

START = time.time()


def main(servers: str, topic: str, alerts_topic: str, weights: str, records: str) -> None:
    network = net.Net(weights)
    seen = {"first": 0.0, "records": 0, "alerts": 0}

    def score(batch):  # type: ignore[no-untyped-def]
        seen["first"] = seen["first"] or time.time()
        seen["records"] += len(batch)
        events = [net.decode(message.value) for message in batch]
        scores = network.score([network.vector(event) for event in events])
        alerts = []
        for i in (scores > network.threshold).nonzero()[0]:
            message, event = batch[i], events[i]
            value = network.alert(event, float(scores[i]), topic, message.partition, message.offset)
            alerts.append(KafkaSinkMessage(message.key, value))
        seen["alerts"] += len(alerts)
        return alerts

    extra = {"fetch.queue.backoff.ms": "5", "queued.min.messages": "100000"}
    source = KafkaSource([servers], [topic], tail=False, batch_size=1000, add_config=extra)
    flow = Dataflow("score")
    messages = op.input("read", flow, source)
    alerts = op.flat_map_batch("score", messages, score)
    op.output("write", alerts, KafkaSink([servers], alerts_topic, add_config={"linger.ms": "5"}))
    run_main(flow)
    net.result(int(seen["records"]), int(seen["alerts"]), seen["first"], START, time.time())


if __name__ == "__main__":
    main(*sys.argv[1:6])
