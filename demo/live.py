"""The live view of the demo: rates, latency, the score histogram and the newest alerts, once a second.

It fills the terminal it is given and no more: 80x24 shows less of each alert and fewer of them than 120x40.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from beam_jobs.errors import one_line
from beam_jobs.watch import made_by, one_in
from demo.referee import Verdict, Words

_BARS = " ▁▂▃▄▅▆▇█"
_BINS = 48
_LINES = 40  # alerts kept; how many are shown depends on the terminal
_EDGES = np.logspace(-2, 7, _BINS + 1)  # scores are spread over decades
_WIDE = 100  # columns from which on the histogram has all its bins
_LEAST_WIDE = 72  # columns below which there is no room for the histogram
_ROWS = 7  # of the panels
_LEAST_ALERTS = 6  # lines of them before there is room for a story
_MANY = 20  # alerts from which on a share of them says something
_WORDS = Words()


@dataclass
class State:
    """Everything the view shows."""

    title: str
    threshold: float
    produced: int = 0
    progress: Mapping[str, Any] = field(default_factory=dict)  # the job's own progress line
    histogram: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_BINS, np.int64))
    alerts: dict[str, Alert] = field(default_factory=dict)  # by car, newest last: its newest alert
    alerts_of: Counter[str] = field(default_factory=Counter)  # alerts so far, by car
    rates: deque[int] = field(default_factory=lambda: deque(maxlen=60))  # events/s, one a second
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=60))  # p99 in ms, one a second
    verdict: Verdict | None = None
    trouble: str = ""  # what the job or the demo complains of
    hint: str = ""  # what else one may do now
    words: Words = _WORDS
    story: Sequence[str] = ()  # of whom the newest alert is, a line each

    def add_scores(self, scores: NDArray[np.float32]) -> None:
        """Adds scores, float32 [n], to the histogram; what is outside goes to its ends."""
        bins = np.clip(np.searchsorted(_EDGES, scores) - 1, 0, _BINS - 1)
        self.histogram += np.bincount(bins, minlength=_BINS)

    def add_alert(self, alert: Mapping[str, Any], truth: str) -> None:
        """Puts an alert on top; a car that keeps alerting has one line with its count."""
        car = alert["key"]
        self.alerts_of[car] += 1
        self.alerts.pop(car, None)
        self.alerts[car] = alert_of(alert, self.alerts_of[car], truth)
        if len(self.alerts) > _LINES:
            del self.alerts[next(iter(self.alerts))]

    def add_progress(self, progress: Mapping[str, Any]) -> None:
        """Takes over the job's newest progress line."""
        self.progress = progress
        self.rates.append(progress["events_per_second"])
        if progress["latency_ms_p99"] is not None:
            self.latencies.append(progress["latency_ms_p99"])


@dataclass(frozen=True)
class Alert:
    """One alert, as the view shows it."""

    time: str
    car: str
    count: int  # alerts of the car so far
    score: str
    made_by: str  # the features that made it, with what was expected of them
    short: str  # the first of them, the reading before the name
    truth: str  # what the simulator says: a kind of failure, "" for a false alarm


def alert_of(alert: Mapping[str, Any], count: int, truth: str) -> Alert:
    """An alert as its record has it, for the view."""
    time, score, short = f"{alert['event_time']:%H:%M:%S}", f"{alert['score']:.3g}", ""
    for feature in alert["features"][:1]:
        unit = f" {feature['unit']}" if feature["unit"] else ""
        expected = f", not {feature['expected']:.4g}" if isfinite(feature["expected"]) else ""
        rare = f", {one_in(feature['rarity'])}" if feature.get("rarity") else ""
        short = alert.get("story") or f"{feature['observed']:.4g}{unit}{expected}{rare}: {feature['name']}"
    return Alert(time, alert["key"], count, score, made_by(alert), short, truth)


def render(state: State, width: int, height: int) -> RenderableType:
    """The whole view, ``width`` columns by ``height`` rows at most."""
    flow = 38 if width < _LEAST_WIDE else width - _bins(width) - 4
    panels = Table.grid()
    panels.add_row(_flow(state, min(flow, width)), *([_scores(state, width)] if width >= _LEAST_WIDE else []))
    above: list[RenderableType] = [
        _line(state.title, "bold"),
        panels,
        _line(standing(state.verdict, state.words), "bold"),
    ]
    if state.trouble:
        above.append(_line(state.trouble, "bold red"))
    below = [_line("  ".join(filter(None, ["Ctrl-C ends the demo.", state.hint])), "dim")]
    room = height - (len(above) - 1) - (_ROWS + 2) - len(below)
    told = [_line(line, "bold" if i == 0 else "") for i, line in enumerate(state.story)][: max(0, room - _LEAST_ALERTS)]
    room -= len(told)
    below = [*told, *below]
    return Group(*above, *([_alerts(state, width, room)] if room > 1 else []), *below)


def sparkline(values: Sequence[float]) -> str:
    """One character a value, scaled to the largest."""
    top = max(values, default=0.0) or 1.0
    return "".join(_BARS[min(len(_BARS) - 1, round(v / top * (len(_BARS) - 1)))] for v in values)


def standing(verdict: Verdict | None, words: Words = _WORDS) -> str:
    """How the alerts compare with what the simulator knows; shares only of what is enough to have some."""
    if verdict is None or not (verdict.alerts or verdict.of_all):
        return f"{words.none_yet}, and there is no alert: nothing to judge"
    alerts = f"{verdict.alerts:,} alert{'s'[: verdict.alerts != 1]}"
    if not verdict.of_all:
        return f"{alerts}, and {words.none_yet}"
    sought = f"{verdict.of_all:,} {words.sought}{'s'[: verdict.of_all != 1]}"
    if not verdict.alerts:
        return f"{sought}, and no alert yet"
    right, found = round((verdict.precision or 0) * verdict.alerts), round((verdict.recall or 0) * verdict.of_all)
    share = f" ({verdict.precision:.1%})" if verdict.alerts >= _MANY and verdict.precision is not None else ""
    missed = [kind.replace("_", " ") for kind, of_it in verdict.recall_by_kind.items() if of_it < 1]
    text = f"{right:,} of {alerts} right{share}, {found:,} of {sought} found"
    return text + (f"; missed so far: {', '.join(missed)}" if missed else "")


def _line(text: str, style: str) -> Text:
    return Text(one_line(text), style=style, no_wrap=True, overflow="ellipsis")


def _bins(width: int) -> int:
    """Columns of the histogram in a terminal so wide."""
    return _BINS if width >= _WIDE else _BINS // 2


def _flow(state: State, width: int) -> RenderableType:
    progress, grid = state.progress, Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", no_wrap=True, min_width=12)
    grid.add_column(no_wrap=True)
    room = max(0, width - 36)
    p50, p99 = progress.get("latency_ms_p50"), progress.get("latency_ms_p99")
    label, latency, drawn = "latency p50/p99", "-", ""
    if progress.get("catching_up"):
        drawn = "catching up"[:room]
        if progress.get("behind"):
            label, latency = "records behind", f"{progress['behind']:,}"
    elif p50 is not None and p99 is not None:
        latency, drawn = f"{p50:,.0f} / {p99:,.0f} ms", sparkline(_newest(state.latencies, room))
    grid.add_row("events/s", f"{progress.get('events_per_second', 0):,}", sparkline(_newest(state.rates, room)))
    grid.add_row(label, latency, drawn)
    grid.add_row("produced", f"{state.produced:,}")
    for name in ("scored", "filtered", "dead_letters", "alerts"):
        grid.add_row(name.replace("_", " "), f"{progress.get(name, 0):,}")
    return Panel(grid, title="flow", width=width, height=_ROWS + 2)


def _newest(values: Sequence[float], room: int) -> list[float]:
    return [float(value) for value in values][-room:] if room else []


def _scores(state: State, width: int) -> RenderableType:
    bins = _bins(width)
    heights = np.log1p(state.histogram.reshape(bins, -1).sum(axis=1))  # a failure among thousands must stay visible
    mark = int(np.clip(np.searchsorted(_EDGES, state.threshold) - 1, 0, _BINS - 1)) * bins // _BINS
    rows = _ROWS - 2
    eighths = np.ceil(heights / (heights.max(initial=0.0) or 1.0) * 8 * rows).astype(int)
    text = Text(no_wrap=True)
    for row in range(rows - 1, -1, -1):
        bars = "".join(_BARS[min(8, max(0, of_bin - 8 * row))] for of_bin in eighths.tolist())
        text.append(bars[: mark + 1], style="green")
        text.append(bars[mark + 1 :] + "\n", style="red")
    named = f"threshold {state.threshold:.3g}"
    text.append(f"{' ' * mark}▲ {named}\n" if mark + len(named) + 2 <= bins else f"{named:>{mark - 1}} ▲\n")
    text.append(f"{_EDGES[0]:g}{'score (log-log)':^{bins - 9}}{_EDGES[-1]:.0e}", style="dim")
    return Panel(text, title="scores", width=bins + 4, height=_ROWS + 2)


def _alerts(state: State, width: int, height: int) -> RenderableType:
    table = Table(box=None, padding=(0, 1, 0, 0), width=width, header_style="dim")
    add = partial(table.add_column, no_wrap=True, overflow="ellipsis")
    add("time", min_width=8)
    add(state.words.key, min_width=6, max_width=16)
    add("alerts", justify="right", min_width=6, max_width=7)
    add("score", justify="right", min_width=8)
    add("made by", ratio=1)
    add("simulator", min_width=11, max_width=15)
    for alert in list(reversed(list(state.alerts.values())))[: height - 1]:
        what = alert.made_by if width >= _WIDE else alert.short
        cells = alert.time, alert.car, f"{alert.count:,}", alert.score, what, alert.truth or "false alarm"
        table.add_row(*map(Text, map(one_line, cells)), style=None if alert.truth else "yellow")
    if not state.alerts:
        return _line("no alert yet", "dim")
    return table
