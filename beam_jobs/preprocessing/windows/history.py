"""Features over the past of a key: ``avg(x) OVER (PARTITION BY key ORDER BY event_time RANGE ... PRECEDING)``."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs.preprocessing.windows.frames import DEFAULT_LATENESS, Lateness, Window, longest_us

NEVER = -(1 << 62)


class History:
    """The rows of one partition's keys that windows still reach. Not for several threads at once.

    Args:
      windows: the features, in the order in which ``advance`` gives them; at least one.
      lateness: which rows are too late, or from the future.
    """

    def __init__(self, windows: Sequence[Window], lateness: Lateness = DEFAULT_LATENESS) -> None:
        self._windows = tuple(windows)
        self._longest = longest_us(windows)
        self._slack = lateness.late_ms * 1000
        self._keep = self._longest + (lateness.late_ms + lateness.delay_ms) * 1000
        self._skew = lateness.clock_skew_ms * 1000
        self.clock = NEVER
        self.late = self.alone = self.future = 0
        self._rows: dict[str, list[tuple[int, int, list[float | None]]]] = {}
        self._taken = 0

    @property
    def reach_us(self) -> int:
        """How far before the clock a record's timestamp may lie and its row still be seen."""
        return self._keep + self._skew

    @property
    def rows(self) -> int:
        """Rows that are kept."""
        return sum(len(rows) for rows in self._rows.values())

    @property
    def keys(self) -> int:
        """Keys of which rows are kept."""
        return len(self._rows)

    @property
    def memory_bytes(self) -> int:
        return 100 * self.rows + 300 * self.keys

    def advance(
        self,
        keys: pa.Array,
        times: NDArray[np.int64],
        record_times: NDArray[np.int64],
        arguments: NDArray[np.float64],
        valid: NDArray[np.bool_],
        emit: bool = True,
    ) -> list[pa.Array]:
        """Takes n rows, in the order they stand in the log, and says what the windows of each one hold.

        Args:
          keys: string [n], no nulls.
          times: event times, [n], microseconds since the epoch, in the years 1 to 9999.
          record_times: of the records, [n], microseconds.
          arguments: [A, n]; what stands at nulls does not matter.
          valid: [A, n], which arguments are not null.
          emit: False: nothing is wanted back; the list is empty.

        Returns:
          float64 [n] a window; null where the window holds no value, or less than two for stddev_samp and var_samp.
        """
        found: list[list[float | None]] = [[] for _ in self._windows]
        for i, key in enumerate(keys.to_pylist()):
            t, record = int(times[i]), int(record_times[i])
            self.clock = max(self.clock, record)
            values = [float(x) + 0.0 if known else None for x, known in zip(arguments[:, i], valid[:, i], strict=True)]
            row = (t, self._taken, [*values, float(t)])  # EVENT_TIME is the last one
            self._taken += 1
            rows = self._rows.setdefault(key, [])
            newest = rows[-1][0] if rows else NEVER
            bound = max(self.clock - self._keep, max(newest, t) - self._longest - self._slack)
            if t > record + self._skew or t < bound:
                self.future += t > record + self._skew
                self.alone += t <= record + self._skew
                seen = [row]
                bound = NEVER
            else:
                self.late += t < newest
                place = bisect_right(rows, (t, self._taken), key=lambda r: r[:2])
                rows.insert(place, row)
                del rows[: bisect_left(rows, bound, key=lambda r: r[0])]
                seen = rows
            if emit:
                for window, column in zip(self._windows, found, strict=True):
                    column.append(_value(window, row, seen, bound))
            if not rows:
                del self._rows[key]
        return [pa.array(column, pa.float64()) for column in found] if emit else []


def _value(
    window: Window,
    row: tuple[int, int, list[float | None]],
    rows: list[tuple[int, int, list[float | None]]],
    bound: int,
) -> float | None:
    frame, function = window.frame, window.function
    first, last = max(frame.oldest(row[0]), bound), row[0] - frame.end_us
    low, high = bisect_left(rows, first, key=lambda r: r[0]), bisect_right(rows, last, key=lambda r: r[0])
    seen = [r[2][window.argument] for r in rows[low:high] if not frame.exclude_current or r[1] != row[1]]
    if function in ("first_value", "last_value"):
        return seen[0 if function == "first_value" else -1] if seen else None
    values = [value for value in seen if value is not None]
    if function == "count":
        return float(len(values))
    if function == "count_distinct":
        return float(len({"nan" if math.isnan(v) else v for v in values}))
    if len(values) < (2 if function in ("stddev_samp", "var_samp") else 1):
        return None
    if function in ("min", "max"):
        return (min if function == "min" else max)(values, key=lambda v: (math.isnan(v), v))
    if function in ("sum", "avg"):
        return _sum(values) / (len(values) if function == "avg" else 1)
    if not all(abs(v) <= 2.0**510 for v in values):
        return math.nan
    n, total = len(values), sum(map(Fraction, values))
    spread = float(n * sum(Fraction(v) ** 2 for v in values) - total**2) / (n * (n - 1.0))
    return math.sqrt(spread) if function == "stddev_samp" else spread


def _sum(values: list[float]) -> float:
    if not all(math.isfinite(v) for v in values):
        return sum(v for v in values if not math.isfinite(v))
    try:
        return float(sum(map(Fraction, values)))
    except OverflowError:
        return math.inf if sum(map(Fraction, values)) > 0 else -math.inf
