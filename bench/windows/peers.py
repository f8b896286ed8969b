"""Rows a CPU second of everybody who computes the window features, in turns on the same topics."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from bench import processes
from bench.windows.contenders import CONTENDERS, Input
from demo.broker import ApacheKafka


def once(name: str, given: Input, broker: ApacheKafka) -> dict[str, Any]:
    """Runs a contender over the topic.

    Highbeam's CPU seconds are those of the whole process; a peer's only those from its first record on (Flink: from
    the submission on), without the start of its JVM.
    """
    before = _cpu_seconds(broker)
    ran = processes.run(CONTENDERS[name].measured(given))
    of_broker = _cpu_seconds(broker) - before
    if name == "highbeam":
        report = json.loads((given.folder / "report.json").read_text())
        read, seconds, cpu = report["scored"], report["reading_seconds"], ran.cpu_seconds
    else:
        result = json.loads(ran.output.splitlines()[-1])
        read, seconds, cpu = result["records"], result["first"], result["cpu"]
    if read != given.records:
        raise RuntimeError(f"{name} read {read} of {given.records} records")
    return {
        "contender": name,
        "rows": read,
        "rows_per_cpu_second": round(read / cpu),
        "rows_per_cpu_second_from_exec": round(read / ran.cpu_seconds),
        "rows_per_second": round(read / seconds),
        "broker_cpu_seconds_per_million": round(of_broker / read * 1e6, 1),
        "peak_mb": round(ran.peak_mb),
    }


def compare(
    given: Input, shorter: Input, broker: ApacheKafka, rounds: int, tell: Callable[[str], None]
) -> dict[str, Any]:
    """The figures of all, and how many times a peer's rows a CPU second ours are, the median of the rounds.

    Args:
      shorter: what the slow ones are given.
    """
    runs = []
    for number in range(rounds):
        for name, contender in CONTENDERS.items():
            figures = once(name, shorter if contender.slow else given, broker)
            runs.append({"round": number, **figures})
            tell(f"round {number + 1}, {contender.name}: {figures['rows_per_cpu_second']:,} rows a CPU second")
    speed = {(run["round"], run["contender"]): run["rows_per_cpu_second"] for run in runs}
    times = {
        name: round(median(speed[n, "highbeam"] / speed[n, name] for n in range(rounds)), 2)
        for name in CONTENDERS
        if name != "highbeam"
    }
    return {"times_as_many_rows_a_cpu_second": times, "runs": runs}


def _cpu_seconds(broker: ApacheKafka) -> float:
    """Of the broker so far."""
    fields = Path(f"/proc/{broker.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
