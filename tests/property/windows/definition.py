"""What windows mean, written down row by row in plain Python, and streams to try it on."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs.preprocessing.windows.frames import FUNCTIONS, Frame, Lateness, Window
from beam_jobs.preprocessing.windows.history import History

SECOND = 1_000_000
LATENESS = Lateness(late_ms=60_000, delay_ms=300_000, clock_skew_ms=30_000)
FRAMES = [
    Frame(30 * SECOND),
    Frame(600 * SECOND),
    Frame(600 * SECOND, exclude_current=True),
    Frame(600 * SECOND, 100 * SECOND),
]
HOPS = [
    Frame(300 * SECOND, hop_us=60 * SECOND),
    Frame(300 * SECOND, 60 * SECOND, hop_us=7 * SECOND, exclude_current=True),
    Frame(900 * SECOND, hop_us=60 * SECOND, exclude_current=True),
    Frame(1500 * SECOND, 700 * SECOND, hop_us=100 * SECOND),
]
SHARES = (Fraction(1, 2), Fraction("0.9"), Fraction(0), Fraction("0.07"), Fraction(1))


def _windows(frames: Sequence[Frame], arguments: Sequence[int] = (0, 1, -1)) -> list[Window]:
    every = [f for f in FUNCTIONS if not f.startswith("quantile")]
    some = ("min", "last_value", "count_distinct", "sum", "first_value")
    quantiles = [f for f in FUNCTIONS if f.startswith("quantile")]
    shares = [*zip(quantiles * 2, SHARES, strict=False)]
    return [
        *(Window(function, arguments[0], frame) for frame in frames for function in every),
        *(Window(function, arguments[0], frame, share) for frame in frames for function, share in shares),
        *(Window(function, arguments[1], frames[1]) for function in ("count", "min", "count_distinct", "sum")),
        *(Window(function, arguments[2], frame) for frame in frames[1:3] for function in some),
    ]


WINDOWS = _windows([*FRAMES, *HOPS])
TILED = [window for window in _windows(HOPS) if window.tiled]
"""Of these no rows are kept but for lateness."""


def inexact(windows: Sequence[Window]) -> list[int]:
    """Windows whose value is rounded more than once where a value is extremely large or small."""
    return [i for i, window in enumerate(windows) if window.function in ("stddev_samp", "var_samp")]


@dataclass(frozen=True)
class Stream:
    """n rows in the order of their log."""

    keys: pa.Array
    times: NDArray[np.int64]
    record_times: NDArray[np.int64]
    arguments: NDArray[np.float64]  # [2, n]
    valid: NDArray[np.bool_]  # [2, n]
    kept: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))  # [n], or [0]: all

    def __len__(self) -> int:
        return len(self.times)

    def feed(self, history: History, places: Sequence[int], emit: bool = True) -> NDArray[np.float64]:
        """Gives a history the rows between the places, block by block: [W, n], NULL as infinitely small a NaN."""
        parts = []
        for start, end in pairwise(places):
            part = slice(start, end)
            columns = history.advance(
                self.keys[part],
                self.times[part],
                self.record_times[part],
                self.arguments[: history.arguments, part],
                self.valid[: history.arguments, part],
                emit,
                self.kept[part] if len(self.kept) else None,
            )
            parts.append(np.array([[NULL if v is None else v for v in column.to_pylist()] for column in columns]))
        return np.concatenate(parts, axis=1) if emit and parts else np.zeros((0, 0))


NEVER = -(1 << 62)
NULL = -4.2e-311  # stands for it; no value


def hostile(n: int, seed: int, keys: int = 5, wild: bool = True) -> Stream:
    """Late rows, devices late as a whole, clocks ahead, ties, NULL, and values of any size."""
    rng = np.random.default_rng(seed)
    recorded = 1_700_000_000 * SECOND + np.cumsum(rng.integers(0, 8 * SECOND, n))
    recorded -= np.where(rng.random(n) < 0.05, rng.integers(0, 400 * SECOND, n), 0)
    late = np.where(rng.random(n) < 0.3, (rng.exponential(60, n) * SECOND).astype(np.int64), 0)
    late += np.where(rng.random(n) < 0.02, 86_400 * SECOND, 0)
    ahead = np.where(rng.random(n) < 0.05, rng.integers(0, 60 * SECOND, n), 0)
    times = recorded - late + ahead
    times = np.where(rng.random(n) < 0.3, times // (5 * SECOND) * (5 * SECOND), times)
    values = np.round(rng.normal(0, 10, (2, n)), 1)
    if wild:
        sizes = rng.choice([-300, -20, -3, 3, 14, 20, 300], (2, n), p=[0.02, 0.02, 0.3, 0.6, 0.02, 0.02, 0.02])
        values = np.where(rng.random((2, n)) < 0.3, rng.normal(0, 1, (2, n)) * 10.0**sizes, values)
        special = rng.choice([np.nan, np.inf, -np.inf, -0.0, 5e-324, 1.7e308], (2, n))
        values = np.where(rng.random((2, n)) < 0.03, special, values)
    names = pa.array([f"{'car' * (i % 4)}{i}" for i in range(keys)])
    return Stream(names.take(pa.array(rng.integers(0, keys, n))), times, recorded, values, rng.random((2, n)) > 0.1)


def cuts(n: int, seed: int, most: int) -> list[int]:
    """Places to cut n rows at."""
    steps = np.random.default_rng(seed).integers(0, most, n + 1)
    return [0, *(place for place in np.cumsum(steps).tolist() if place < n), n]


class _Row(NamedTuple):
    time: int
    number: int  # in the log
    values: list[float | None]  # the last one is the time


def defined(stream: Stream, lateness: Lateness = LATENESS, windows: Sequence[Window] = WINDOWS) -> NDArray[np.float64]:
    """What the windows of each row hold, [W, n]."""
    longest = max((window.frame.reach_us for window in windows if not window.tiled), default=0)
    late, delay, skew = (1000 * ms for ms in (lateness.late_ms, lateness.delay_ms, lateness.clock_skew_ms))
    kept: dict[str, list[_Row]] = {}
    clock = NEVER
    found = np.empty((len(windows), len(stream)))
    for i, key in enumerate(stream.keys.to_pylist()):
        time, recorded = int(stream.times[i]), int(stream.record_times[i])
        clock = max(clock, recorded)
        values = [
            float(x) if known else None for x, known in zip(stream.arguments[:, i], stream.valid[:, i], strict=True)
        ]
        row = _Row(time, i, [*values, float(time)])
        rows = kept.setdefault(key, [])
        kept_itself = not len(stream.kept) or bool(stream.kept[i])
        newest = max([time] if kept_itself or not rows else [], default=NEVER)
        newest = max(newest, *(other.time for other in rows[-1:]), NEVER)
        bound = max(clock - longest - late - delay, newest - longest - late)
        if time > recorded + skew or time < bound:
            seen, bound = [row], NEVER
        elif not kept_itself:
            seen = rows
        else:
            rows.insert(bisect_right(rows, time, key=lambda other: other.time), row)
            seen = rows
        found[:, i] = [_value(window, row, seen, bound) for window in windows]
    return found


def _value(window: Window, row: _Row, rows: Sequence[_Row], bound: int) -> float:
    frame, function = window.frame, window.function
    first, last = frame.oldest(row.time), row.time - frame.end_us
    if not window.tiled:
        first = max(first, bound)
    low, high = bisect_left(rows, first, key=lambda r: r.time), bisect_right(rows, last, key=lambda r: r.time)
    in_frame = [r for r in rows[low:high] if not frame.exclude_current or r.number != row.number]
    seen = [r.values[window.argument] for r in in_frame]
    if function in ("first_value", "last_value"):
        value = seen[0 if function == "first_value" else -1] if seen else None
        return NULL if value is None else value
    values = [value for value in seen if value is not None]
    if function == "count":
        return len(values)
    if function == "count_distinct":
        return len({"nan" if math.isnan(v) else v for v in values})
    if len(values) < (2 if function in ("stddev_samp", "var_samp") else 1):
        return NULL
    if function.startswith("quantile"):
        return _quantile(sorted(values, key=lambda v: (math.isnan(v), v)), function, window.share)
    if function in ("min", "max"):
        return (min if function == "min" else max)(values, key=lambda v: (math.isnan(v), v))
    if function in ("sum", "avg"):
        return _sum(values) / (len(values) if function == "avg" else 1)
    if not all(abs(v) <= 2.0**510 for v in values):
        return math.nan
    n, total = len(values), sum(map(Fraction, values))
    spread = float(n * sum(Fraction(v) ** 2 for v in values) - total**2) / (n * (n - 1.0))
    return math.sqrt(spread) if function == "stddev_samp" else spread


def _quantile(values: Sequence[float], function: str, share: Fraction) -> float:
    n = len(values)
    if function == "quantile_disc":
        return values[max(1, math.ceil(n * share)) - 1]
    rank = (n - 1) * float(share)
    low, high, d = values[math.floor(rank)], values[math.ceil(rank)], rank - math.floor(rank)
    if not d:
        return low
    return _fused(low, 1 - d, high * d) if function == "quantile_cont" else _fused(high - low, d, low)


def _fused(a: float, b: float, c: float) -> float:
    if not all(math.isfinite(x) for x in (a, b, c)):
        return a * b + c
    try:
        return float(Fraction(a) * Fraction(b) + Fraction(c))
    except OverflowError:
        return a * b + c


def _sum(values: Sequence[float]) -> float:
    if not all(math.isfinite(v) for v in values):
        return sum(v for v in values if not math.isfinite(v))
    total = sum(map(Fraction, values))
    try:
        return float(total)
    except OverflowError:
        return math.inf if total > 0 else -math.inf
