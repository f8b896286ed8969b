"""What the sources share: how an outage is reported, how large the next block is."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping

from beam_jobs.errors import one_line

_LOGGER = logging.getLogger(__name__)

_SMALLEST_CUT = 1024  # rows; what a smaller block takes is overhead, cutting it would not help
_LONGEST = 500  # characters of what brokers say
_PATIENCE_S = 1.0  # an election, a broker that restarts at once: not worth a line


class Outage:
    """Says once that nothing can be read, and once that it can again; nothing of hiccups under ``_PATIENCE_S``.

    ``str(address)`` is named in the log.
    """

    def __init__(self, address: object) -> None:
        self._address = address
        self._since: float | None = None
        self._text = ""
        self._told = False

    def seen(self, text: str) -> None:
        """Something is wrong; ``text`` says what."""
        if self._since is None:
            self._since = time.monotonic()
        self._text = one_line(text, _LONGEST)

    def tell(self) -> None:
        """Speaks if it has lasted; called again and again."""
        if self._since is not None and not self._told and time.monotonic() - self._since >= _PATIENCE_S:
            self._told = True
            _LOGGER.warning("%s: nothing can be read (%s); waiting", self._address, self._text)

    def over(self) -> None:
        """An answer came."""
        if self._since is not None and self._told:
            _LOGGER.warning("%s: back after %.1f s", self._address, time.monotonic() - self._since)
        self._since, self._told = None, False


class PartitionOutages:
    """Says once which partitions can't be read, and once that they can again; nothing of hiccups under ``_PATIENCE_S``.

    ``str(address)`` is named in the log.
    """

    def __init__(self, address: object) -> None:
        self._address = address
        self._since: dict[int, float] = {}  # partition -> since when it can't be read, monotonic clock
        self._told: set[int] = set()

    def now(self, unreadable: Mapping[int, str], total: int) -> None:
        """What can't be read at the moment, partition -> why, of ``total`` partitions; called again and again."""
        if not unreadable and not self._since:
            return
        now = time.monotonic()
        over = {p: self._since.pop(p) for p in self._since.keys() - unreadable.keys()}
        for p in unreadable:
            self._since.setdefault(p, now)
        due = {p for p in unreadable if p not in self._told and now - self._since[p] >= _PATIENCE_S}
        if due:
            self._told |= due
            reasons = one_line("; ".join(dict.fromkeys(unreadable[p] for p in sorted(due))), _LONGEST)
            if len(unreadable) == total:
                _LOGGER.warning("%s: nothing can be read (%s); waiting", self._address, reasons)
            else:
                _LOGGER.warning("%s: %s can't be read (%s); the others go on", self._address, _named(due), reasons)
        back = self._told & over.keys()
        if back:
            self._told -= back
            seconds = now - min(over[p] for p in back)
            if self._told:
                text = "%s: %s can be read again after %.1f s, %s can't yet"
                _LOGGER.warning(text, self._address, _named(back), seconds, _named(self._told))
            else:
                _LOGGER.warning("%s: back after %.1f s", self._address, seconds)


def _named(partitions: Collection[int]) -> str:
    some = ", ".join(map(str, sorted(partitions)[:20]))
    more = f" and {len(partitions) - 20} more" if len(partitions) > 20 else ""
    return f"partition{'s' if len(partitions) > 1 else ''} {some}{more}"


class Pace:
    """How large the next block may be, and how long it may wait for records.

    Blocks grow with the load: all that has arrived goes into the next one. With a latency to keep, a block waits for
    at most a quarter of it, less as the pipeline needs longer for a block, and is cut to what the pipeline handled in
    half of it; the other half is the broker's and the sink's.

    Args:
      rows, linger_s: the bounds, and what holds where ``max_latency_s`` is None.
    """

    def __init__(self, rows: int, linger_s: float, max_latency_s: float | None) -> None:
        self._rows = rows
        self._linger_s = linger_s if max_latency_s is None else max_latency_s / 4
        self._share_s = None if max_latency_s is None else max_latency_s / 2
        self._busy_s = 0.0  # of the pipeline with the last block
        self._last = 0  # rows of it
        self._since = 0.0

    def next(self, now: Callable[[], float] = time.monotonic) -> tuple[int, float]:
        """Rows at most, seconds to linger; called when the pipeline asks for the next block."""
        if self._share_s is None:
            return self._rows, self._linger_s
        if self._last:
            self._busy_s = now() - self._since
        rows = self._rows
        if self._last > _SMALLEST_CUT and self._busy_s > self._share_s:
            rows = min(rows, max(_SMALLEST_CUT, int(self._last * self._share_s / self._busy_s)))
        return rows, min(self._linger_s, max(0.0, self._share_s - self._busy_s))

    def handed_out(self, rows: int, now: Callable[[], float] = time.monotonic) -> None:
        """The pipeline has got a block (0: nothing was there)."""
        self._last, self._since = rows, now()
