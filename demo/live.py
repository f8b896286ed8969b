"""The live view of the demo: rates, latency, the score histogram and the newest alerts, once a second."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from demo.referee import Verdict

_BARS = " ▁▂▃▄▅▆▇█"
_BINS = 48
_LINES = 9  # alerts shown
_EDGES = np.logspace(-2, 7, _BINS + 1)  # scores are spread over decades


@dataclass
class State:
    """Everything the view shows."""

    title: str
    threshold: float
    produced: int = 0
    progress: Mapping[str, Any] = field(default_factory=dict)  # the job's own progress line
    histogram: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_BINS, np.int64))
    alerts: dict[str, tuple[str, ...]] = field(default_factory=dict)  # by car, newest last: cells of its newest alert
    alerts_of: Counter[str] = field(default_factory=Counter)  # alerts so far, by car
    rates: deque[int] = field(default_factory=lambda: deque(maxlen=40))  # events/s, one a second
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=40))  # p99 in ms, one a second
    verdict: Verdict | None = None

    def add_scores(self, scores: NDArray[np.float32]) -> None:
        """Adds scores, float32 [n], to the histogram; what is outside goes to its ends."""
        bins = np.clip(np.searchsorted(_EDGES, scores) - 1, 0, _BINS - 1)
        self.histogram += np.bincount(bins, minlength=_BINS)

    def add_alert(self, alert: Mapping[str, Any], truth: str) -> None:
        """Puts an alert on top; a car that keeps alerting has one line with its count."""
        car = alert["key"]
        self.alerts_of[car] += 1
        self.alerts.pop(car, None)
        self.alerts[car] = alert_cells(alert, self.alerts_of[car], truth)
        if len(self.alerts) > _LINES:
            del self.alerts[next(iter(self.alerts))]

    def add_progress(self, progress: Mapping[str, Any]) -> None:
        """Takes over the job's newest progress line."""
        self.progress = progress
        self.rates.append(progress["events_per_second"])
        if progress["latency_ms_p99"] is not None:
            self.latencies.append(progress["latency_ms_p99"])


def alert_cells(alert: Mapping[str, Any], count: int, truth: str) -> tuple[str, ...]:
    """The cells of one alert: time, car, alerts of the car, score, what made it, what the simulator says."""
    made_by: list[str] = []
    for feature in alert["features"][:2]:
        if feature["share"] < 0.05 and made_by:
            break
        unit = f" {feature['unit']}" if feature["unit"] else ""
        expected = "" if isnan(feature["expected"]) else f"expected {feature['expected']:.4g}, "
        made_by.append(
            f"{feature['name']} {feature['observed']:.4g}{unit} ({expected}{feature['share']:.0%} of the error)"
        )
    when = f"{alert['event_time']:%H:%M:%S}"
    return when, alert["key"], f"{count:,}", f"{alert['score']:.3g}", "; ".join(made_by), truth


def render(state: State) -> RenderableType:
    """The whole view."""
    return Group(
        Text(state.title, style="bold"),
        Columns([_flow(state), _scores(state)], expand=False),
        _alerts(state),
        Text("Ctrl-C ends the demo", style="dim"),
    )


def sparkline(values: list[float]) -> str:
    """One character a value, scaled to the largest."""
    top = max(values, default=0.0) or 1.0
    return "".join(_BARS[min(len(_BARS) - 1, round(v / top * (len(_BARS) - 1)))] for v in values)


def _flow(state: State) -> RenderableType:
    progress, grid = state.progress, Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(justify="right")
    grid.add_column()
    p50, p99 = progress.get("latency_ms_p50"), progress.get("latency_ms_p99")
    rate = progress.get("events_per_second", 0)
    grid.add_row("events/s", f"{rate:,}", sparkline([float(r) for r in state.rates]))
    latency = f"{p50:,.0f} / {p99:,.0f} ms" if p50 is not None and p99 is not None else "-"
    grid.add_row("latency p50 / p99", latency, sparkline(list(state.latencies)))
    grid.add_row("produced", f"{state.produced:,}", "")
    grid.add_row("scored", f"{progress.get('scored', 0):,}", "")
    grid.add_row("filtered", f"{progress.get('filtered', 0):,}", "")
    grid.add_row("dead letters", f"{progress.get('dead_letters', 0):,}", "")
    grid.add_row("alerts", f"{progress.get('alerts', 0):,}", "")
    return Panel(grid, title="flow", width=72)


def _scores(state: State) -> RenderableType:
    heights = np.log1p(state.histogram)  # a failure among thousands must stay visible
    bars = sparkline(heights.tolist())
    mark = int(np.clip(np.searchsorted(_EDGES, state.threshold) - 1, 0, _BINS - 1))
    text = Text()
    text.append(bars[: mark + 1], style="green")
    text.append(bars[mark + 1 :] + "\n", style="red")
    text.append(" " * mark + "▲ threshold " + f"{state.threshold:.3g}\n")
    text.append(f"{_EDGES[0]:g}{'score':^{_BINS - 10}}{_EDGES[-1]:g}", style="dim")
    return Panel(text, title="scores (log-log)", width=_BINS + 4)


def _alerts(state: State) -> RenderableType:
    table = Table(expand=True, title="newest alerts", title_justify="left")
    for name in ("time", "car", "alerts", "score", "made by", "the simulator says"):
        table.add_column(name, overflow="fold", no_wrap=name in ("time", "car"))
    for cells in reversed(list(state.alerts.values())):
        table.add_row(*cells, style=None if cells[-1].startswith("right") else "yellow")
    if state.verdict is None or not state.verdict.alerts:
        return table
    v = state.verdict
    kinds = ", ".join(f"{kind} {share:.0%}" for kind, share in v.recall_by_kind.items())
    precision = "-" if v.precision is None else f"{v.precision:.1%}"
    recall = "-" if v.recall is None else f"{v.recall:.1%}"
    standing = f"precision {precision}   recall {recall} of {v.failed_cars} failed cars ({kinds or 'none yet'})"
    return Group(table, Text(standing, style="bold"))
