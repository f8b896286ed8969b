"""Kafka Streams 4.1 in Java with the network by hand (bench/peers/kafka_streams/), built once with Maven.

    python -m bench.peers.kafka_streams_peer SERVERS TOPIC ALERTS_TOPIC WEIGHTS RECORDS --threads 2 --warm

Settings: Avro's GenericDatumReader with decoder and record reused, one network a thread, max.poll.records 10,000,
4 MB a partition and fetch, linger 5 ms, batches of 256 kB, no state, at least once (the default), a heap of 1 GB.
--warm runs the topology over the whole topic once before, in the same JVM.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from bench.peers.maven import built

SCHEMAS = Path(__file__).resolve().parent.parent.parent / "schemas"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("servers", "topic", "alerts_topic", "weights", "records"):
        parser.add_argument(name)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warm", action="store_true")
    args = parser.parse_args()
    given = [args.servers, args.topic, args.alerts_topic, args.weights, args.records, str(SCHEMAS)]
    os.execvp(
        "java",
        [
            *("java", "-Xmx1g", "-XX:+UseParallelGC", "-cp", built("kafka_streams"), "Score"),
            *(*given, str(args.threads), str(args.warm).lower()),
        ],
    )


if __name__ == "__main__":
    main()
