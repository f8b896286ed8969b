"""Draws bench/results/latest.json and latency.json as docs/performance.svg.

python -m bench.plot
"""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib import rcParams
from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
PICTURE = Path(__file__).resolve().parent.parent / "docs" / "performance.svg"
NAMES = {
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


def main() -> None:
    runs = json.loads((RESULTS / "latest.json").read_text())["runs"]
    rates: dict[str, list[float]] = {}
    for run in runs:
        rates.setdefault(run["contender"], []).append(run["records_per_second"] / 1000)
    median = {name: sorted(each)[len(each) // 2] for name, each in rates.items()}
    order = sorted(median, key=lambda name: median[name])
    rcParams["svg.hashsalt"] = "highbeam"  # the same picture has the same bytes
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for y, name in enumerate(order):
        reads = name in ("raw_tuned", "librdkafka")
        colour = OURS if name.startswith("highbeam") else READS_ONLY if reads else PEER
        axes.barh(y, median[name], color=colour, height=0.65)
        axes.plot([min(rates[name]), max(rates[name])], [y, y], color="#24292f", linewidth=1.2)
        axes.text(max(rates[name]) * 1.12, y, f"{median[name]:,.0f}", va="center", fontsize=9)
    axes.set_yticks(range(len(order)), [NAMES[name] for name in order], fontsize=9)
    axes.set_xscale("log")
    axes.set_xlim(right=max(median.values()) * 3)
    axes.set_xlabel("thousand records a second, median and range of the rounds (logarithmic)", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, metadata={"Date": None})
    print(PICTURE)


if __name__ == "__main__":
    main()
