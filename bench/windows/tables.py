"""Prints bench/results/windows.json as the tables of docs/windows.md: ``python -m bench.windows.tables``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.windows.contenders import CONTENDERS

RESULTS = Path(__file__).parent.parent / "results" / "windows.json"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def of_jobs(job: dict[str, Any]) -> str:
    """The whole job with windows over the same without."""
    rows = []
    for runner, figures in job.items():
        if runner == "records":
            continue
        cells = [runner]
        for figure, ratio, form in (
            ("records_per_second", "ratios", ",.0f"),
            ("cpu_seconds_per_million", "ratios_by_cpu", ".2f"),
        ):
            for name in ("plain", "windows"):
                cells.append(f"{median(run[figure] for run in figures['runs'] if run['use_case'] == name):{form}}")
            each = figures[ratio]
            cells.append(f"{median(each):.2f} ({min(each):.2f} to {max(each):.2f})")
        rows.append(cells)
    head = ["", "records/s without windows", "with", "ratio, median (range)"]
    return table([*head, "CPU s a million without", "with", "ratio"], rows)


def of_peers(peers: dict[str, Any]) -> str:
    """Rows a CPU second of everybody."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for run in peers["runs"]:
        runs.setdefault(run["contender"], []).append(run)

    def middle(name: str, figure: str) -> float:
        return median(run[figure] for run in runs[name])

    ratios = peers["times_as_many_rows_a_cpu_second"]
    rows = [
        [
            CONTENDERS[name].name,
            f"{middle(name, 'rows_per_cpu_second'):,.0f}",
            f"{middle(name, 'rows_per_cpu_second_from_exec'):,.0f}",
            f"{middle(name, 'broker_cpu_seconds_per_million'):.1f}",
            f"{middle(name, 'peak_mb'):,.0f}",
            f"{ratios[name]:.1f}" if name in ratios else "",
        ]
        for name in runs
    ]
    head = ["", "rows a CPU second", "with the start", "broker's CPU s a million", "peak MB", "Highbeam does"]
    return table(head, rows)


def of_late_rows(late: dict[str, dict[str, dict[str, int]]]) -> Iterator[str]:
    """What each does with them, a table for each kind of row; shares of the rows in per cent."""
    kinds = list(next(iter(late.values())))
    figures = [name for name in next(iter(late.values()))[kinds[0]] if name != "rows"]
    for kind in kinds:
        rows = [
            [name, *(f"{100 * found[kind][figure] / found[kind]['rows']:.1f} %" for figure in figures)]
            for name, found in late.items()
        ]
        yield table([kind, *figures], rows)


def of_restarts(restarts: dict[str, dict[str, int]]) -> str:
    """What is left of the features."""
    wrong = [
        [name, f"{found['rows'] - found['as SQL, in the end']:,} of {found['rows']:,}"]
        for name, found in restarts.items()
    ]
    return table(["after kill -9", "rows whose features differ in the end"], wrong)


def main() -> None:
    result = json.loads(RESULTS.read_text())
    if "job" in result:
        print(of_jobs(result["job"]))
    if "latency" in result:
        print(f"{result['latency']['latency_ms']}\n")
    if "peers" in result:
        print(of_peers(result["peers"]))
    if "restarts" in result:
        print(of_restarts(result["restarts"]))
    for text in of_late_rows(result["late"]) if "late" in result else ():
        print(text)


if __name__ == "__main__":
    main()
