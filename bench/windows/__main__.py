"""Everything that is measured of windows: ``python -m bench.windows``, or the names of some parts.

    python -m bench.windows                      # all, about 40 minutes
    python -m bench.windows peers --records 300000 --rounds 1

Parts: ``kernel`` (windows alone), ``job`` (the whole job with windows over the same without), ``rebuild`` (from the
topic), ``hour`` (of an hour at 10,000 events/s, from the topic and from snapshots), ``latency``, ``peers`` (Kafka
Streams and Flink SQL), ``late`` and ``restarts`` (what each does with late rows, and after kill -9). All but the first
need Java and Maven, and are left out with the reason where these are missing.
Figures are merged into bench/results/windows.json, by part; ``python -m bench.windows.tables`` prints them as the
tables of docs/windows.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from beam_jobs.sandbox.fleet import history
from bench.score import machine
from bench.windows import job, kernel, late, peers, rebuild, restarts
from bench.windows.contenders import Input
from bench.windows.world import INTERVAL_S, made, send, stream
from bench.world import topic
from demo.broker import ApacheKafka, java_missing

RESULTS = Path(__file__).parent.parent / "results" / "windows.json"
EVENTS_OF_A_CAR = 100  # 2.8 hours
LONGER = 4  # the whole job reads so many times as many of each car, or its start would be a third of what is measured
ON_KAFKA = ("job", "rebuild", "hour", "latency", "peers", "late", "restarts")
HOUR, HOUR_OF_A_CAR = 36_000_000, 360  # events at 10,000 a second, of 100,000 cars
TRAINING_ROWS = 20_000


def on_kafka(parts: list[str], records: int, rounds: int, runners: list[str]) -> dict[str, Any]:
    """Part -> its figures."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, ApacheKafka() as broker:
        folder, servers = Path(name), broker.bootstrap_servers
        tell("training two models")
        past = history(TRAINING_ROWS, seed=2, cars=TRAINING_ROWS // 50, interval=INTERVAL_S)
        use_cases = made(folder / "use_cases", past)

        def sent(count: int, of_a_car: int, interval_s: float = INTERVAL_S) -> Input:
            tell(f"sending {count:,} events of {count // of_a_car:,} cars")
            source = topic(servers, "events", 4)
            send(source, stream(count, count // of_a_car, interval_s=interval_s))
            return Input(source, count, folder, use_cases)

        if "job" in parts:
            whole, start = (sent(count * LONGER, EVENTS_OF_A_CAR * LONGER) for count in (records, records // 5))
            found["job"] = {"records": records * LONGER, **job.ratios(whole, start, rounds, runners, tell)}
        inputs = []
        if {"rebuild", "peers"} & {*parts}:
            inputs = [sent(count, EVENTS_OF_A_CAR) for count in (records, records // 5)]
        if "rebuild" in parts:
            found["rebuild"] = rebuild.measured(inputs[0], rounds, tell)
        if "hour" in parts:
            found["hour"] = rebuild.hour(sent(HOUR, HOUR_OF_A_CAR, 3600 / HOUR_OF_A_CAR), HOUR // 12, tell)
        if "latency" in parts:
            found["latency"] = job.live(servers, folder)
        if "peers" in parts:
            found["peers"] = peers.compare(inputs[0], inputs[1], broker, rounds, tell)
        if "late" in parts:
            found["late"] = late.measured(servers, use_cases, tell)
        if "restarts" in parts:
            found["restarts"] = restarts.measured(servers, use_cases, tell)
    return found


def tell(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.windows", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"some of kernel, {', '.join(ON_KAFKA)}; default: all")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runners", default="DirectRunner,PrismRunner", help="of the job, by comma")
    args = parser.parse_args()
    parts = args.parts or ["kernel", *ON_KAFKA]
    unknown = sorted({*parts} - {"kernel", *ON_KAFKA})
    if unknown:
        parser.error(f"{unknown[0]}: the parts are kernel, {', '.join(ON_KAFKA)}")
    found: dict[str, Any] = {"machine": machine()}
    if "kernel" in parts:
        found["kernel"] = kernel.measured(list(kernel.CASES))
    left = [part for part in parts if part in ON_KAFKA]
    if left and (reason := java_missing()):
        tell(f"{', '.join(left)} left out: {reason}")
    elif left:
        found |= on_kafka(left, args.records, args.rounds, args.runners.split(","))
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(known | found, indent=2) + "\n")
    tell(f"recorded in {RESULTS}")


if __name__ == "__main__":
    main()
