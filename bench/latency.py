"""Latency and memory of the live scoring job at a steady rate.

    python -m bench.latency --rate 10000 --seconds 1800 --runner DirectRunner

Apache Kafka, four partitions, the fleet's events at an even rate. Latency is that of the slowest record of each block,
from the broker's timestamp to the alert acknowledged (blocks without an alert: to the end of the bundle). Memory is the
resident set of the job and its workers, once a second; its slope is a line fitted to all seconds after the first
minute. Figures are merged into bench/results/latency.json under the runner's name.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import schemas
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.sandbox.fleet import Fleet
from bench.processes import resident_mb
from bench.world import CARS, SCHEMA_ID, prism_options, send_evenly, topic, train
from demo.broker import ApacheKafka

RESULTS = Path(__file__).parent / "results" / "latency.json"
TICK_S = 0.01
DISTINCT = 100_000  # events made beforehand and sent again and again with other times: that takes a twentieth of a core


@dataclass(frozen=True)
class Load:
    """What comes, and who takes it."""

    runner: str = "DirectRunner"
    rate: float = 10_000
    seconds: float = 60
    cars: int = CARS
    use_case: str = "car_sensors"


def live_command(model: Path, load: Load, source: KafkaAddress, report: Path) -> list[str]:
    """The live job, as a user would start it."""
    servers = source.bootstrap_servers
    return [
        *(sys.executable, "-m", "beam_jobs.score", "--runner", load.runner, "--use_case", load.use_case),
        *("--model", str(model), "--input", str(source), "--from", "latest", "--report", str(report)),
        *("--alerts", str(topic(servers, "alerts")), "--dead_letters", str(topic(servers, "dead"))),
        *("--progress", "json", *prism_options(load.runner)),
    ]


def pump(servers: str, name: str, rate: float, seconds: float, cars: int) -> None:
    """Sends events of now at an even rate."""
    fleet = Fleet(cars, seed=5, prevalence=0.02, interval=cars / rate, span=DISTINCT / rate)
    events = fleet.step(-(-DISTINCT // cars))
    encoder = AvroEncoder(schemas.load("car_sensor"), SCHEMA_ID)
    print(send_evenly(servers, name, events, "car_id", encoder, rate, seconds, TICK_S), flush=True)


def measure(load: Load, model: Path, source: KafkaAddress, folder: Path) -> dict[str, Any]:
    """Figures of the job while events come.

    Args:
      source: a topic of four partitions.
    """
    report = folder / "report.json"
    job = subprocess.Popen(live_command(model, load, source, report), stderr=subprocess.PIPE, text=True)
    assert job.stderr is not None
    command = [sys.executable, "-m", "bench.latency", "--pump", source.bootstrap_servers, source.topic]
    command += ["--rate", str(load.rate), "--seconds", str(load.seconds), "--cars", str(load.cars)]
    for line in job.stderr:  # the first progress line: it runs
        print(line, end="", flush=True)
        if line.startswith("{"):
            break
    sender = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    memory: list[tuple[float, float]] = []
    progress: list[dict[str, Any]] = []
    started = time.monotonic()
    try:
        for line in job.stderr:
            if not line.startswith("{"):
                print(line, end="", flush=True)
                continue
            progress.append(json.loads(line))
            memory.append((time.monotonic() - started, resident_mb(job.pid)))
            if len(progress) % 60 == 0:
                print(f"{progress[-1]}  {memory[-1][1]:.0f} MB", flush=True)
            if sender.poll() is not None:
                break
    finally:
        sender.terminate()
        job.send_signal(signal.SIGINT)
        job.communicate(timeout=120)
    assert sender.stdout is not None
    sent = int(sender.stdout.read().split()[-1])
    result = json.loads(report.read_text())
    after = np.array([point for point in memory if point[0] >= min(60.0, load.seconds / 2)])
    slope = float(np.polyfit(after[:, 0], after[:, 1], 1)[0]) * 60
    return {
        "runner": load.runner,
        "rate": load.rate,
        "seconds": load.seconds,
        "sent": sent,
        "read": result["read"],
        "unaccounted": result["unaccounted"],
        "alerts": result["alerts"],
        "latency_ms": {name: value and round(value, 1) for name, value in result["latency_ms"].items()},
        "memory_mb": {"min": round(after[:, 1].min()), "max": round(after[:, 1].max())},
        "memory_slope_mb_per_minute": round(slope, 3),
        "memory_by_minute_mb": [round(value) for (_, value) in memory[::60]],
        "seconds_without_a_record": sum(b["read"] == a["read"] for a, b in pairwise(progress[5:] or progress)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.latency", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=float, default=10_000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--runner", default="DirectRunner")
    parser.add_argument("--cars", type=int, default=CARS)
    parser.add_argument("--pump", nargs=2, metavar=("SERVERS", "TOPIC"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.pump:
        servers, name = args.pump
        pump(servers, name, args.rate, args.seconds, args.cars)
        return
    with tempfile.TemporaryDirectory() as folder, ApacheKafka() as broker:
        load = Load(args.runner, args.rate, args.seconds, args.cars)
        result = measure(load, train(Path(folder)), topic(broker.bootstrap_servers, "events", 4), Path(folder))
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known[f"{args.runner}, {args.seconds:g} s"] = result
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(known, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
