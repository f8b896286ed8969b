"""Draws bench/results/latest.json as docs/performance.svg, and prints it as the tables of docs/performance.md.

    python -m bench.plot

A bar is the median of the rounds, the line on it their range.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib import rcParams
from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
PICTURE = Path(__file__).resolve().parent.parent / "docs" / "performance.svg"
NAMES = {
    "highbeam_fn_2": "Highbeam, FnApiRunner, 2 workers",
    "highbeam_fn": "Highbeam, FnApiRunner",
    "highbeam_prism": "Highbeam, Prism",
    "kafka_streams_1": "Kafka Streams, 1 thread",
    "kafka_streams_2": "Kafka Streams, 2 threads",
    "script": "hand-written loop",
    "bytewax": "Bytewax, batched",
    "pyflink": "PyFlink Table API",
    "quix": "Quix Streams",
    "stock_beam": "stock Beam",
    "raw_tuned": "consume() loop, nothing decoded",
    "librdkafka": "librdkafka in C, nothing decoded",
}
OURS, PEER, READS_ONLY = "#1f6feb", "#6e7781", "#c7cdd3"


def tables(result: dict[str, Any]) -> str:
    """The runs and the ratios in Markdown."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for run in result["runs"]:
        runs.setdefault(run["contender"], []).append(run)

    def middle(name: str, figure: str) -> float:
        values = [run[figure] for run in runs[name]]
        return median(values) if None not in values else float("nan")

    lines = ["| | records/s | from job start | CPU s a million | peak MB | start-up s |", "|---|---|---|---|---|---|"]
    for name in sorted(runs, key=lambda name: -middle(name, "records_per_second")):
        figures = [f"{middle(name, f'records_per_second{end}'):,.0f}" for end in ("", "_from_start")]
        figures.append(f"{middle(name, 'cpu_seconds_per_million'):.1f}")
        figures.append(f"{middle(name, 'peak_mb'):.0f}")
        figures.append(f"{middle(name, 'startup_seconds'):.1f}".replace("nan", "warm"))
        lines.append(f"| {NAMES[name]} | {' | '.join(figures)} |")
    lines += ["", "| Highbeam's best local runner over | ratio, median (range) | from job start |", "|---|---|---|"]
    for name, ratio in result["ratios"].items():
        low, high = result["spread"][name]
        lines.append(f"| {name} | {ratio:.2f} ({low:.2f} to {high:.2f}) | {result['ratios_from_start'][name]:.2f} |")
    return "\n".join(lines)


def main() -> None:
    result = json.loads((RESULTS / "latest.json").read_text())
    runs = result["runs"]
    rates: dict[str, list[float]] = {}
    for run in runs:
        rates.setdefault(run["contender"], []).append(run["records_per_second"] / 1000)
    middle = {name: median(each) for name, each in rates.items()}
    order = sorted(middle, key=lambda name: middle[name])
    rcParams["svg.hashsalt"] = "highbeam"  # the same picture has the same bytes
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for y, name in enumerate(order):
        reads = name in ("raw_tuned", "librdkafka")
        colour = OURS if name.startswith("highbeam") else READS_ONLY if reads else PEER
        axes.barh(y, middle[name], color=colour, height=0.65)
        axes.plot([min(rates[name]), max(rates[name])], [y, y], color="#24292f", linewidth=1.2)
        axes.text(max(rates[name]) * 1.12, y, f"{middle[name]:,.0f}", va="center", fontsize=9)
    axes.set_yticks(range(len(order)), [NAMES[name] for name in order], fontsize=9)
    axes.set_xscale("log")
    axes.set_xlim(right=max(middle.values()) * 3)
    axes.set_xlabel("thousand records a second, median and range of the rounds (logarithmic)", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, metadata={"Date": None})
    print(tables(result))


if __name__ == "__main__":
    main()
