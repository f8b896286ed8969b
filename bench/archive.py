"""The archive job against a plain loop of confluent-kafka and fastavro.writer; and killed at random, counted.

    python -m bench.archive --records 1000000 --rounds 3
    python -m bench.archive --kills 3

Apache Kafka, four partitions, car_sensor events to files by hour of event time. The loop writes the decoded events
without their personal fields, as ``--raw`` does, once with the codec fastavro takes by default (null) and once
deflated; all are measured from the first record on, in turns. A round prints records/s, and what they are over the loop
of the same codec (Parquet: the deflating one) and over the quickest loop. With ``--kills`` the job is ended by -9 that
many times and then run to its end: each record must be in exactly one row, by position and by content.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import polars as pl
from confluent_kafka import Consumer, TopicPartition

import use_cases
from beam_jobs.archive_rows import archive_schema
from beam_jobs.io.archive_input import find, read_rows
from beam_jobs.io.uri import KafkaAddress
from bench import processes
from bench.world import CARS, fill, topic
from demo.broker import ApacheKafka

HOUR_MS = 3_600_000


def command(source: KafkaAddress, dead: KafkaAddress, folder: Path, report: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "beam_jobs.archive", "--use_case", "car_sensors", "--input", str(source)),
        *("--from", "earliest", "--until", "latest", "--output", str(folder), "--dead_letters", str(dead)),
        *("--report", str(report), *more),
    ]


def loop(servers: str, name: str, folder: Path, records: int, codec: str) -> float:
    """Seconds from the first record; as the libraries' documentation writes it.

    Args:
      codec: "null" or "deflate" (at level 1, the quickest).
    """
    level = {"codec_compression_level": 1} if codec == "deflate" else {}
    use_case = use_cases.load("car_sensors")
    reader, writer = fastavro.parse_schema(use_case.schema), fastavro.parse_schema(archive_schema(use_case, "events"))
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "loop", "enable.auto.commit": False})
    partitions = consumer.list_topics(name, 10).topics[name].partitions
    consumer.assign([TopicPartition(name, p, 0) for p in partitions])
    rows: dict[int, list[dict[str, Any]]] = {}
    read, first = 0, 0.0
    while read < records:
        messages = consumer.consume(1000, 1.0)
        first = first or time.time()
        read += len(messages)
        for message in messages:
            event: Any = fastavro.schemaless_reader(io.BytesIO(message.value()[5:]), reader, None)
            source = {"source_topic": name, "source_partition": message.partition(), "source_offset": message.offset()}
            event |= {**source, "source_timestamp": message.timestamp()[1]}
            rows.setdefault(int(event["event_time"].timestamp() * 1000) // HOUR_MS, []).append(event)
        for hour, ready in rows.items():
            if len(ready) >= 20_000 or read >= records:
                with (folder / f"{hour}.avro").open("a+b") as file:
                    fastavro.writer(file, writer, ready, codec=codec, **level)
                rows[hour] = []
    consumer.close()
    return time.time() - first


LOOPS = {"loop, null": "null", "loop, deflate": "deflate"}
JOBS: dict[str, tuple[str, list[str]]] = {  # name -> loop of the same codec, flags
    "features": ("loop, deflate", []),
    "features, no codec": ("loop, null", ["--compression", "none"]),
    "features, enriched": ("loop, deflate", ["--enrich"]),
    "--raw": ("loop, deflate", ["--raw"]),
    "--raw, no codec": ("loop, null", ["--raw", "--compression", "none"]),
    "features, Parquet": ("loop, deflate", ["--file_format", "parquet"]),
    "--raw, Parquet": ("loop, deflate", ["--raw", "--file_format", "parquet"]),
}


def rates(servers: str, source: KafkaAddress, records: int) -> dict[str, dict[str, float]]:
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, report = Path(name), Path(name) / "report.json"
        cars = folder / "cars.csv"
        cars.write_text("car_id,fleet,built\n" + "".join(f"car-{i:06d},north,{i}\n" for i in range(CARS)))
        for way, codec in LOOPS.items():
            (folder / codec).mkdir()
            found[way] = round(records / loop(servers, source.topic, folder / codec, records, codec))
        for i, (way, (_, flags)) in enumerate(JOBS.items()):
            given = [*flags, str(cars)] if flags == ["--enrich"] else flags
            processes.run(command(source, topic(servers, "dead"), folder / str(i), report, *given))
            result = json.loads(report.read_text())
            assert result["archived"] == records
            found[way] = round(records / result["reading_seconds"])
    return {
        "records_per_second": found,
        "over_the_loop_of_the_same_codec": {way: round(found[way] / found[same], 1) for way, (same, _) in JOBS.items()},
        "over_the_quickest_loop": {way: round(found[way] / found["loop, null"], 1) for way in JOBS},
    }


def kills(servers: str, source: KafkaAddress, records: int, times: int) -> dict[str, Any]:
    chance = random.Random(7)
    with tempfile.TemporaryDirectory() as name:
        folder, report, dead = Path(name) / "archive", Path(name) / "report.json", topic(servers, "dead")
        run = command(source, dead, folder, report, "--raw", "--max_file_age", "0.05", "--block_rows", "4096")
        killed = 0
        while killed < times:
            before = len(list(folder.rglob("*.avro")))
            job = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while job.poll() is None and len(list(folder.rglob("*.avro"))) == before:
                time.sleep(0.01)
            time.sleep(chance.random() * 0.3)
            killed += job.poll() is None
            job.kill()
            if job.wait() == 0:
                break  # it was done sooner
        processes.run(run)
        again = json.loads(report.read_text())
        schema = archive_schema(use_cases.load("car_sensors"), "events")
        rows = pl.concat([pl.from_arrow(batch) for path in find(str(folder)) for batch in read_rows(path, schema)])
        assert isinstance(rows, pl.DataFrame)
        content = rows.drop("source_topic", "source_timestamp").sort("source_partition", "source_offset")
        return {
            "records": records,
            "kills": killed,
            "rows": rows.height,
            "positions": rows.select("source_partition", "source_offset").n_unique(),
            "contents": content.drop("source_partition", "source_offset").n_unique(),
            "archived_by_the_last_run": again["archived"],
            "unfinished": len(list(folder.rglob("*.part"))),
            "hash": hashlib.sha256(np.asarray(content.hash_rows(seed=1)).tobytes()).hexdigest()[:16],
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.archive", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=0)
    args = parser.parse_args()
    with ApacheKafka() as broker:
        source = topic(broker.bootstrap_servers, "events", 4)
        fill(source, args.records)
        if args.kills:
            print(json.dumps(kills(broker.bootstrap_servers, source, args.records, args.kills)))
            print(json.dumps(kills(broker.bootstrap_servers, source, args.records, 0)))
            return
        for _ in range(args.rounds):
            print(json.dumps(rates(broker.bootstrap_servers, source, args.records)), flush=True)


if __name__ == "__main__":
    main()
