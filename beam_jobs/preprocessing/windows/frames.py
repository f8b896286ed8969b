"""What windows are: which rows a row sees, and how far back a log has to be read to know them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

QUANTILES = ("quantile_disc", "quantile_cont", "quantile_line")
EVERY_ROW = ("count_distinct", *QUANTILES)  # what they say can't be made of parts of a window
FUNCTIONS = (
    *("count", "sum", "avg", "min", "max", "stddev_samp", "var_samp", "first_value", "last_value"),
    *EVERY_ROW,
)
"""Quantiles between two values lo and hi: ``quantile_cont`` is lo * (1 - d) + hi * d, as DuckDB has it of doubles and
times, ``quantile_line`` lo + (hi - lo) * d, as it has it of floats and decimals; the last multiplication and the
addition are one (fused), as in its builds. ``quantile_disc`` is one of the values."""
EVENT_TIME = -1  # in place of an argument: the row's own time, in microseconds; it takes no memory

HOP_ORIGIN_US = 946_857_600_000_000  # hops are counted from here, as DuckDB's time_bucket does: 2000-01-03, a Monday


@dataclass(frozen=True)
class Lateness:
    """How late rows may be, and how wrong clocks; decides which rows are seen, so it is part of what a feature means.

    Attributes:
      late_ms: how far behind the newest row of its own key a row may be and still see, and be seen by, others.
      delay_ms: how long a device may have been silent before its rows come: how far behind the newest record.
      clock_skew_ms: how far ahead of its record's timestamp a row's event time may be.
      key_rows: most rows of a key that are held. More end the job, so this is no part of the meaning.
      label_ms: how long after its event a label may come and still be seen in time; 0: it is not said.
    """

    late_ms: int = 600_000
    delay_ms: int = 3_600_000
    clock_skew_ms: int = 300_000
    key_rows: int = 100_000
    label_ms: int = 0

    def of_labels(self) -> Lateness:
        """That of windows which are made of labels."""
        return replace(self, late_ms=self.late_ms + self.label_ms)


DEFAULT_LATENESS = Lateness()


@dataclass(frozen=True)
class Frame:
    """Which rows of its key a row of time t sees: those of time t' with ``t - start_us <= t' <= t - end_us``.

    Attributes:
      start_us: microseconds.
      end_us: 0: the row itself is the last one. More: the frame ends before now.
      hop_us: 0, or the hop: ``t - start_us`` is rounded down to a multiple of it, as DuckDB's time_bucket does.
      exclude_current: the row itself is not in it; rows of the same time that came before are.
    """

    start_us: int
    end_us: int = 0
    hop_us: int = 0
    exclude_current: bool = False

    @property
    def reach_us(self) -> int:
        """How much older than itself a row's oldest row can be."""
        return self.start_us + max(self.hop_us - 1, 0)

    def oldest(self, time: int) -> int:
        """The time from which on a row of time ``time`` sees rows."""
        start = time - self.start_us
        return start - (start - HOP_ORIGIN_US) % self.hop_us if self.hop_us else start


@dataclass(frozen=True)
class Window:
    """One window feature."""

    function: str  # one of FUNCTIONS
    argument: int  # row of ``arguments`` that it is about, or EVENT_TIME
    frame: Frame
    share: Fraction = Fraction(0)  # of a quantile: which one, 0 to 1

    @property
    def tiled(self) -> bool:
        """Whether of old rows hops are enough for it."""
        return is_tiled(self.function, self.frame)


def is_tiled(function: str, frame: Frame) -> bool:
    """Whether of old rows hops are enough for a window."""
    return bool(frame.hop_us) and function not in EVERY_ROW


def longest_us(windows: Iterable[Window]) -> int:
    """How much older than itself a row's oldest row can be, in any window; 0 of none."""
    return max((window.frame.reach_us for window in windows), default=0)
