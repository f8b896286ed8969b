"""The whole job against the hand-written loop, interleaved in one run on the same topic.

    python -m bench.score --records 1000000 --rounds 3

Apache Kafka from Maven jars, four partitions, the same trained model and threshold; the alert ids must be equal. Writes
``bench/results/latest.json``: ``ratios`` (Highbeam's rate over the loop's, medians, and the spread over the rounds) and
``runs`` (every raw figure).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
from confluent_kafka import Consumer, TopicPartition

import schemas
from beam_jobs.codec.avro import AvroDecoder
from beam_jobs.io.uri import KafkaAddress
from bench.world import fill, score_command, topic, train
from demo.broker import ApacheKafka

RESULTS = Path(__file__).parent / "results" / "latest.json"


def alert_ids(address: KafkaAddress) -> set[str]:
    """Ids of all alerts on a topic of one partition."""
    schema = schemas.load("alert")
    decoder = AvroDecoder(schema, lambda _: schema, ["id"])
    consumer = Consumer({"bootstrap.servers": address.bootstrap_servers, "group.id": "count"})
    _, end = consumer.get_watermark_offsets(TopicPartition(address.topic, 0), 10)
    consumer.assign([TopicPartition(address.topic, 0, 0)])
    ids: set[str] = set()
    seen = 0
    while seen < end:
        messages = consumer.consume(10_000, 1.0)
        seen += len(messages)
        values = pa.array([m.value() for m in messages], pa.binary())
        ids.update(decoder.decode(values).rows.column("id").to_pylist())
    consumer.close()
    return ids


def timed(command: list[str]) -> tuple[str, float]:
    """Standard output of a command and the CPU seconds it and its children took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.score", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, ApacheKafka() as broker:
        model = train(Path(folder))
        servers = broker.bootstrap_servers
        source = topic(servers, "events", 4)
        fill(source, args.records)
        ids: dict[str, set[str]] = {}
        for round_ in range(args.rounds):
            for peer in ("script", "native", "client"):
                alerts, dead = topic(servers, "alerts"), topic(servers, "dead")
                if peer == "script":
                    command = [sys.executable, "-m", "bench.script", servers, source.topic, alerts.topic]
                    out, cpu = timed([*command, str(model), str(args.records)])
                    result = json.loads(out.splitlines()[-1])
                    first, start = result["first"], result["start"]
                else:
                    report = Path(folder) / "report.json"
                    _, cpu = timed(score_command(model, source, alerts, dead, "--fetch", peer, "--report", str(report)))
                    result = json.loads(report.read_text())
                    assert result["scored"] == args.records
                    first, start = result["reading_seconds"], result["seconds"]
                ids[peer] = alert_ids(alerts)
                runs.append(
                    {
                        "round": round_,
                        "peer": peer,
                        "records_per_second": round(args.records / first),
                        "seconds_first_to_last": round(first, 3),
                        "seconds_from_start": round(start, 3),
                        "cpu_seconds": round(cpu, 2),
                        "alerts": len(ids[peer]),
                    }
                )
                print(json.dumps(runs[-1]), flush=True)
        assert ids["script"] == ids["native"] == ids["client"], "the peers do not agree on the alerts"
    ratios = {f"{peer}_over_script": _ratio(runs, peer) for peer in ("native", "client")}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"records": args.records, "ratios": ratios, "runs": runs}, indent=2) + "\n")
    print(json.dumps(ratios))


def _ratio(runs: list[dict[str, Any]], peer: str) -> dict[str, float]:
    """Median and range, over the rounds, of the peer's rate over the script's in the same round."""
    rates = {name: [r["records_per_second"] for r in runs if r["peer"] == name] for name in (peer, "script")}
    ratios = [ours / theirs for ours, theirs in zip(rates[peer], rates["script"], strict=True)]
    return {"median": round(statistics.median(ratios), 2), "min": round(min(ratios), 2), "max": round(max(ratios), 2)}


if __name__ == "__main__":
    main()
