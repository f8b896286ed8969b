"""How cost grows: with the number of records, of partitions, and of processes.

    python -m bench.growth --millions 1,10,50 --partitions 1,4,32

Bounded runs on the FnApiRunner over Apache Kafka. Several processes share the partitions (``--from 0:0,1:0``), each a
job of its own. Writes ``bench/results/growth.json``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from beam_jobs.io.kafka.address import KafkaAddress
from bench import processes
from bench.world import fill, score_command, topic, train
from demo.broker import ApacheKafka

RESULTS = Path(__file__).parent / "results" / "growth.json"
PARTITIONS = 4


def measure(
    model: Path, source: KafkaAddress, servers: str, folder: Path, jobs: int, partitions: int
) -> dict[str, Any]:
    """Figures of the whole topic, read by ``jobs`` processes at once."""

    def one(job: int) -> tuple[processes.Ran, dict[str, Any]]:
        report = folder / f"report-{job}.json"
        command = score_command(
            model, source, topic(servers, "alerts"), topic(servers, "dead"), "--report", str(report)
        )
        start = ",".join(f"{p}:0" for p in range(partitions) if p % jobs == job)
        command[command.index("earliest")] = start
        return processes.run(command), json.loads(report.read_text())

    with ThreadPoolExecutor(jobs) as pool:
        done = list(pool.map(one, range(jobs)))
    read = sum(report["scored"] for _, report in done)
    seconds = max(report["reading_seconds"] for _, report in done)
    # A run's CPU seconds are those of all children that ended meanwhile: with several jobs, of the last to end.
    cpu = max(ran.cpu_seconds for ran, _ in done)
    return {
        "processes": jobs,
        "partitions": partitions,
        "records": read,
        "records_per_second": round(read / seconds),
        "cpu_seconds": round(cpu, 2),
        "microseconds_per_record": round(seconds / read * 1e6, 3),
        "peak_mb": round(sum(ran.peak_mb for ran, _ in done)),
    }


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--millions", type=numbers, default=[1, 10, 50], help="records, in millions")
    parser.add_argument("--partitions", type=numbers, default=[1, 4, 32])
    parser.add_argument("--jobs", type=numbers, default=[1, 2], help="processes that share the partitions")
    args = parser.parse_args()
    runs: dict[str, list[dict[str, Any]]] = {"records": [], "partitions": [], "processes": []}
    with tempfile.TemporaryDirectory() as name, ApacheKafka() as broker:
        folder, servers = Path(name), broker.bootstrap_servers
        model = train(folder)

        def add(kind: str, records: int, partitions: int, jobs: list[int]) -> None:
            source = topic(servers, "events", partitions)
            fill(source, records)
            for count in jobs:
                runs[kind].append(measure(model, source, servers, folder, count, partitions))
                print(json.dumps({kind: runs[kind][-1]}), flush=True)

        add("records", 1_000_000, PARTITIONS, [1])
        runs["records"].clear()  # not counted: the broker's and the compiler's caches
        for partitions in args.partitions:
            add("partitions", 4_000_000, partitions, [1])
        add("processes", 8_000_000, PARTITIONS, args.jobs)
        for millions in args.millions:
            add("records", millions * 1_000_000, PARTITIONS, [1])
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(runs, indent=2) + "\n")


if __name__ == "__main__":
    main()
