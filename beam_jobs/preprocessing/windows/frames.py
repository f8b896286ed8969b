"""What windows are: which rows a row sees, and how far back a log has to be read to know them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

FUNCTIONS = (
    *("count", "sum", "avg", "min", "max", "stddev_samp", "var_samp", "count_distinct"),
    *("first_value", "last_value"),
)
EVENT_TIME = -1  # in place of an argument: the row's own time, in microseconds; it takes no memory

HOP_ORIGIN_US = 946_857_600_000_000  # hops are counted from here, as DuckDB's time_bucket does: 2000-01-03, a Monday


@dataclass(frozen=True)
class Lateness:
    """How late rows may be, and how wrong clocks; decides which rows are seen, so it is part of what a feature means.

    Attributes:
      late_ms: how far behind the newest row of its own key a row may be and still see, and be seen by, others.
      delay_ms: how long a device may have been silent before its rows come: how far behind the newest record.
      clock_skew_ms: how far ahead of its record's timestamp a row's event time may be.
    """

    late_ms: int = 600_000
    delay_ms: int = 3_600_000
    clock_skew_ms: int = 300_000


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


def longest_us(windows: Iterable[Window]) -> int:
    """How much older than itself a row's oldest row can be, in any window."""
    return max(window.frame.reach_us for window in windows)
