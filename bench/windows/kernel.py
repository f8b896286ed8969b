"""Window features alone, rows a CPU second: `python -m bench.windows.kernel`, or with names of cases.

Blocks of 32,768 rows go through a History of 14 outputs: of 5 minutes and of an hour count, sum, avg, min, max and
stddev_samp, the previous value and the time of it; some cases have other windows. What counts is the median block
after the windows are full.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs.preprocessing.windows.frames import EVENT_TIME, Frame, Window
from beam_jobs.preprocessing.windows.history import History

BLOCK = 32_768
MINUTE = 60_000_000
PREVIOUS = Frame(60 * MINUTE, exclude_current=True)
WINDOWS = [
    *(
        Window(function, 0, Frame(minutes * MINUTE))
        for minutes in (5, 60)
        for function in ("count", "sum", "avg", "min", "max", "stddev_samp")
    ),
    Window("last_value", 0, PREVIOUS),
    Window("last_value", EVENT_TIME, PREVIOUS),
]


MEDIAN = [Window("quantile_cont", 0, Frame(60 * MINUTE), Fraction(1, 2))]


def of_a_week(hop_us: int) -> Sequence[Window]:
    """Four functions in hop form, or row by row."""
    frame = Frame(7 * 24 * 60 * MINUTE, hop_us=hop_us)
    return [Window(function, 0, frame) for function in ("count", "sum", "avg", "stddev_samp")]


@dataclass(frozen=True)
class Case:
    """A stream, and what is computed of it."""

    keys: int
    per_hour: int  # rows of a key
    late: float = 0.0  # share of the rows that come up to a minute late
    values: str = "double"  # float32; rising: each larger than those before
    hours: float = 1.3
    emit: bool = True
    windows: Sequence[Window] = tuple(WINDOWS)
    full: float = 1.0  # hours until the windows are full


CASES = {
    "in order": Case(100_000, 36),
    "float32": Case(100_000, 36, values="float32"),
    "5 % late": Case(100_000, 36, late=0.05),
    "rising, 3,000 a window": Case(1000, 3000, values="rising"),
    "few rows": Case(100_000, 3, hours=4),
    "rebuild": Case(100_000, 36, emit=False),
    "7 days in hours": Case(20, 417, hours=190, windows=of_a_week(60 * MINUTE), full=169),
    "7 days row by row": Case(20, 417, hours=190, windows=of_a_week(0), full=169),
    "median of 100": Case(1000, 100, hours=3, windows=MEDIAN),
    "median of 1,000": Case(100, 1000, hours=3, windows=MEDIAN),
}


def stream(case: Case) -> tuple[pa.Array, NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Numbers of keys, times and record times in microseconds, values."""
    n = int(case.keys * case.per_hour * case.hours) // BLOCK * BLOCK
    rng = np.random.default_rng(1)
    recorded = 1_700_000_000_000_000 + (np.arange(n) * (60 * MINUTE / (case.keys * case.per_hour))).astype(np.int64)
    times = recorded - np.where(rng.random(n) < case.late, rng.integers(1, MINUTE, n), 0)
    values = np.arange(n) / 8.0 if case.values == "rising" else rng.normal(50, 12, n)
    if case.values == "float32":
        values = values.astype(np.float32).astype(np.float64)
    return pa.array(rng.integers(0, case.keys, n)), times, recorded, values


def run(case: Case) -> tuple[float, History]:
    """Rows a CPU second, and the history at the end."""
    numbers, times, recorded, values = stream(case)
    names = pa.array([f"CAR-{number:012d}" for number in range(case.keys)])
    history, known, speeds = History(case.windows), np.ones((1, BLOCK), np.bool_), []
    for start in range(0, len(times), BLOCK):
        part = slice(start, start + BLOCK)
        keys = names.take(numbers[part])
        begin = time.process_time()
        history.advance(keys, times[part], recorded[part], values[None, part], known, case.emit)
        speeds.append(BLOCK / (time.process_time() - begin))
    return statistics.median(speeds[int(len(speeds) * case.full / case.hours) :]), history


def measured(names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Case -> its figures, which are printed as well."""
    found = {}
    for name in names:
        speed, history = run(CASES[name])
        rows, size = history.rows / history.keys, history.memory_bytes / history.keys
        found[name] = {"rows_per_cpu_second": round(speed), "rows_a_key": round(rows, 1), "bytes_a_key": round(size)}
        print(
            f"{name:24} {speed / 1e6:5.2f} M rows/s; {history.keys:,} keys of {rows:.1f} rows: {size:,.0f} bytes each, "
            f"{size / (260 + 21 * rows):.2f} of 260 + 21 a row; {history.late:,} late",
            flush=True,
        )
    return found


if __name__ == "__main__":
    measured(sys.argv[1:] or list(CASES))
