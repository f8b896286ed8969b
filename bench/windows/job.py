"""The whole scoring job with windows over the same job without, in pairs, and its latency."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from beam_jobs.sandbox.fleet import Fleet
from bench import latency, processes
from bench.windows.contenders import Input, score
from bench.windows.world import INTERVAL_S, PER_HOUR, events, made, send
from bench.world import topic

LIVE_CARS = 10_000
LIVE_SECONDS = 90.0
LIVE_TRAINING_CARS = 500


def once(use_case: str, runner: str, given: Input) -> dict[str, Any]:
    """Runs the job over the topic: its rate from the first record on, and its CPU seconds from exec to exit."""
    ran = processes.run(score(use_case, runner)(given))
    report = json.loads((given.folder / "report.json").read_text())
    if report["scored"] != given.records:
        raise RuntimeError(f"{use_case} on {runner} scored {report['scored']} of {given.records}")
    rate = round(report["scored"] / report["reading_seconds"])
    return {"use_case": use_case, "records_per_second": rate, "cpu_seconds": round(ran.cpu_seconds, 2)}


def ratios(
    given: Input, shorter: Input, rounds: int, runners: list[str], tell: Callable[[str], None]
) -> dict[str, Any]:
    """Runner -> the rate with windows over that without, the same of rows a CPU second, of each round; all figures.

    CPU seconds are those of the whole topic less those of the shorter one, so no start counts.
    """
    found: dict[str, Any] = {}
    for runner in runners:
        once("windows", runner, shorter)  # for the broker's and the compiler's caches
        runs = []
        for number in range(rounds):
            for use_case in ("plain", "windows"):
                start, whole = once(use_case, runner, shorter), once(use_case, runner, given)
                cpu = (whole["cpu_seconds"] - start["cpu_seconds"]) / (given.records - shorter.records)
                runs.append({"round": number, **whole, "cpu_seconds_per_million": round(cpu * 1e6, 3)})
                tell(f"{runner}, round {number + 1}: {runs[-1]}")
        plain, windows = ([run for run in runs if run["use_case"] == name] for name in ("plain", "windows"))
        by_rate = [b["records_per_second"] / a["records_per_second"] for a, b in zip(plain, windows, strict=True)]
        figure = "cpu_seconds_per_million"
        by_cpu = [a[figure] / b[figure] for a, b in zip(plain, windows, strict=True)]
        found[runner] = {
            "ratios": [round(each, 3) for each in by_rate],
            "ratios_by_cpu": [round(each, 3) for each in by_cpu],
            "runs": runs,
        }
    return found


def live(servers: str, folder: Path, seconds: float = LIVE_SECONDS) -> dict[str, Any]:
    """Latency at 10,000 events a second of 10,000 cars, of which an hour is known."""
    use_cases = made(folder / "live", _as_live(LIVE_TRAINING_CARS, seconds), epochs=20, names=["windows"])
    source = topic(servers, "live", 4)
    begin = time.time_ns() // 1_000_000 - round(PER_HOUR * INTERVAL_S * 1000)
    send(source, events(LIVE_CARS * PER_HOUR, LIVE_CARS, begin))
    use_case = str(use_cases.folders["windows"])
    load = latency.Load(seconds=seconds, cars=LIVE_CARS, use_case=use_case)
    return latency.measure(load, use_cases.models, source, folder)


def _as_live(cars: int, seconds: float) -> Iterator[pa.RecordBatch]:
    """Events as the live job sees them: an hour of few, then one a second and car."""
    hour = events(cars * PER_HOUR, cars)
    yield from hour
    then = Fleet(cars, 6, 0.02, round(1_700_000_000_000 + PER_HOUR * INTERVAL_S * 1000), 1.0, span=seconds)
    yield then.step(round(seconds))
