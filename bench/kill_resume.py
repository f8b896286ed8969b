"""Kills the scoring job (-9) at random moments, resumes it, and counts: nothing may be lost.

    python -m bench.kill_resume --records 1000000 --kills 3

A topic of four partitions on Apache Kafka, scored in bounded mode with a consumer group. After the last run every
record must be on the scores topic or the dead-letter topic; what is there more than once is recognised by its position.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from confluent_kafka import Consumer, TopicPartition

import schemas
from beam_jobs.codec.avro.decoder import AvroDecoder
from beam_jobs.io.kafka.address import KafkaAddress
from bench.world import fill, score_command, topic, train
from demo.broker import ApacheKafka

PARTITIONS = 4


def positions(address: KafkaAddress, schema: str, names: tuple[str, str]) -> np.ndarray:
    """Partition and offset of every record on an output topic, int64 [n, 2]."""
    reader = schemas.load(schema)
    decoder = AvroDecoder(reader, lambda _: reader, names)
    consumer = Consumer({"bootstrap.servers": address.bootstrap_servers, "group.id": "count"})
    _, end = consumer.get_watermark_offsets(TopicPartition(address.topic, 0), 10)
    consumer.assign([TopicPartition(address.topic, 0, 0)])
    blocks, n = [np.empty((0, 2), np.int64)], 0
    while n < end:
        messages = consumer.consume(10_000, 1.0)
        rows = decoder.decode(pa.array([m.value() for m in messages], pa.binary())).rows
        blocks.append(np.column_stack([rows.column(name).to_numpy() for name in names]).astype(np.int64))
        n += len(messages)
    consumer.close()
    return np.concatenate(blocks)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--runner", default="DirectRunner")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder, ApacheKafka() as broker:
        model = train(Path(folder))
        source = topic(broker.bootstrap_servers, "events", PARTITIONS)
        outputs = {name: topic(broker.bootstrap_servers, name) for name in ("alerts", "dead", "scores")}
        fill(source, args.records)
        command = score_command(
            model,
            source,
            outputs["alerts"],
            outputs["dead"],
            *("--scores", str(outputs["scores"]), "--group_id", "kill-resume", "--progress", "json"),
            *("--runner", args.runner),
        )
        kills = []
        for _ in range(args.kills):
            job = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
            assert job.stderr is not None
            # Not before it reads: killing an import shows nothing.
            reading = next((line for line in job.stderr if '"read": 0,' not in line and '"read"' in line), None)
            if reading is None:
                break
            time.sleep(rng.uniform(0, 1.5))
            job.kill()
            job.wait()
            kills.append(json.loads(reading)["read"])
        subprocess.run(command, check=True)
        scores = positions(outputs["scores"], "score", ("source_partition", "source_offset"))
        dead = positions(outputs["dead"], "dead_letter", ("partition", "offset"))
        both = np.concatenate([scores, dead])
        distinct = len(np.unique(both, axis=0))
        result = {
            "records": args.records,
            "kills": len(kills),
            "read_at_kill": kills,
            "outputs": len(both),
            "distinct": distinct,
            "lost": args.records - distinct,
            "duplicates": len(both) - distinct,
            "seed": args.seed,
            "runner": args.runner,
        }
        print(json.dumps(result))
        if result["lost"]:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
