"""The archive job against a plain loop of confluent-kafka and fastavro.writer; and killed at random, counted.

    python -m bench.archive --records 1000000 --rounds 3
    python -m bench.archive --kills 3
    python -m bench.archive --kills 3 --bus pubsub

Apache Kafka, four partitions, car_sensor events to files by hour of event time. The loop writes the decoded events
without their personal fields, as ``--raw`` does, once with the codec fastavro takes by default (null) and once
deflated; all are measured from the first record on, in turns. A round prints records/s, and what they are over the loop
of the same codec (Parquet: the deflating one) and over the quickest loop. With ``--kills`` the job is ended by -9 that
many times and then run to its end: each record must be in exactly one row, by position and by content. On Pub/Sub
(Google's fake, built with Go) the positions are the message ids, and the contents are compared with what was sent. It
is a live job then, and the messages are published meanwhile.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import polars as pl
import pyarrow as pa
from confluent_kafka import Consumer, TopicPartition

from beam_jobs.archives.read import find, read_rows
from beam_jobs.archives.rows import archive_schema
from beam_jobs.codec.avro.decoder import AvroDecoder
from beam_jobs.io.address import Address
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.pubsub.address import PubSubAddress
from beam_jobs.use_case import load_use_case
from bench import processes
from bench.world import CARS, fill, fill_pubsub, pubsub_topic, topic
from demo.broker import ApacheKafka
from tests.services.pubsub import EMULATOR, Server

HOUR_MS = 3_600_000
IN_STORE = 30_000  # messages the fake has to keep, about


def command(source: Address, dead: Address, folder: Path, report: Path, *more: str) -> list[str]:
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
    use_case = load_use_case("car_sensors")
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


def kills(source: Address, dead: Address, records: int, times: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder, report = Path(name) / "archive", Path(name) / "report.json"
        run = command(source, dead, folder, report, "--raw", "--max_file_age", "0.05", "--block_rows", "4096")
        killed = kill_while_writing(run, folder, times, 0.3)
        processes.run(run)
        return counted(folder, report, records, killed)


def kills_live(source: PubSubAddress, dead: Address, records: int, times: int) -> dict[str, Any]:
    """As :func:`kills`, of a live job while messages are published: the fake is slow with many in store."""
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(1) as publisher:
        folder, report = Path(name) / "archive", Path(name) / "report.json"
        bounded = command(source, dead, folder, report, "--raw", "--quiet_seconds", "25")
        live = [word for word in bounded if word not in ("--until", "latest")] + ["--max_file_age", "1"]
        archived = Archived(folder)
        published = publisher.submit(fill_pubsub, source, records, lambda n: n - archived.rows() < IN_STORE)
        killed = kill_while_writing(live, folder, times, 10.0)
        job = subprocess.Popen(live, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        values = published.result()
        job.send_signal(signal.SIGINT)
        job.wait()
        processes.run(bounded)
        return counted(folder, report, records, killed) | {"hash_of_what_was_sent": content_hash(sent(values))}


class Archived:
    """Counts the rows of an archive's files, each file once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows: dict[Path, int] = {}

    def rows(self) -> int:
        for path in self._folder.rglob("part-*.avro"):
            if path not in self._rows:
                with path.open("rb") as file:
                    self._rows[path] = sum(block.num_records for block in fastavro.block_reader(file))
        return sum(self._rows.values())


def kill_while_writing(run: list[str], folder: Path, times: int, within_s: float) -> int:
    """Starts the job again and again and ends it by -9 at a random moment after new files; how often it was running."""
    chance = random.Random(7)
    killed = 0
    while killed < times:
        before = len(list(folder.rglob("*.avro")))
        job = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while job.poll() is None and len(list(folder.rglob("*.avro"))) == before:
            time.sleep(0.01)
        time.sleep(chance.random() * within_s)
        killed += job.poll() is None
        job.kill()
        if job.wait() >= 0:
            break  # it was done sooner
    return killed


def counted(folder: Path, report: Path, records: int, killed: int) -> dict[str, Any]:
    """What is in the archive at the end."""
    again = json.loads(report.read_text())
    schema = archive_schema(load_use_case("car_sensors"), "events")
    batches = [batch for path in find(str(folder)) for batch in read_rows(path, schema)]
    rows = pl.DataFrame(pa.Table.from_batches(batches))
    content = rows.select(name for name in rows.columns if not name.startswith("source_"))
    return {
        "records": records,
        "kills": killed,
        "rows": rows.height,
        "positions": rows.select("source_partition", "source_offset").n_unique(),
        "contents": content.n_unique(),
        "archived_by_the_last_run": again["archived"],
        "unfinished": len(list(folder.rglob("*.part"))),
        "hash": content_hash(content),
    }


def content_hash(rows: pl.DataFrame) -> str:
    rows = rows.sort("car_id", "event_time")
    return hashlib.sha256(np.asarray(rows.hash_rows(seed=1)).tobytes()).hexdigest()[:16]


def sent(values: list[Any]) -> pl.DataFrame:
    """What an archive of these values has to hold."""
    use_case = load_use_case("car_sensors")
    wanted = [f["name"] for f in archive_schema(use_case, "events")["fields"] if not f["name"].startswith("source_")]
    decoded = AvroDecoder(use_case.schema, lambda _: use_case.schema, wanted).decode(pa.array(values, pa.binary()))
    rows = pl.from_arrow(decoded.rows)
    assert isinstance(rows, pl.DataFrame)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.archive", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--bus", choices=["kafka", "pubsub"], default="kafka", help="with --kills")
    args = parser.parse_args()
    if args.bus == "pubsub":
        server = Server()
        os.environ[EMULATOR] = server.address
        found = kills_live(pubsub_topic("events"), pubsub_topic("dead"), args.records, args.kills)
        print(json.dumps(found))
        server.close()
        return
    with ApacheKafka() as broker:
        source = topic(broker.bootstrap_servers, "events", 4)
        fill(source, args.records)
        if args.kills:
            for times in (args.kills, 0):
                print(json.dumps(kills(source, topic(broker.bootstrap_servers, "dead"), args.records, times)))
            return
        for _ in range(args.rounds):
            print(json.dumps(rates(broker.bootstrap_servers, source, args.records)), flush=True)


if __name__ == "__main__":
    main()
