"""How many keys there were in the last 24 hours, from the smallest of their hashes (Bar-Yossef and others 2002)."""

from __future__ import annotations

from collections import deque

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs.preprocessing.windows.keys import hashed

HOUR_MS = 3_600_000

_KEPT = 4096  # hashes an hour: the count is 1.6 % off, and exact below
_HOURS = 24
_SEEDS = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93], np.uint64)  # fixed


class ActiveKeys:
    """Different keys of the last 24 hours of record time; 0.8 MB at most."""

    def __init__(self) -> None:
        self._hours: deque[tuple[int, NDArray[np.uint64]]] = deque()

    def add(self, keys: NDArray[np.uint64], now_ms: int) -> None:
        """Takes in hashes of keys, as ``hashes`` makes them."""
        hour = now_ms // HOUR_MS
        if not self._hours or self._hours[-1][0] != hour:
            self._hours.append((hour, np.empty(0, np.uint64)))
            while self._hours[0][0] <= hour - _HOURS:
                self._hours.popleft()
        self._hours[-1] = (hour, np.unique(np.concatenate([self._hours[-1][1], keys]))[:_KEPT])

    @property
    def count(self) -> int:
        """How many there are, about."""
        found = np.unique(np.concatenate([np.empty(0, np.uint64), *(hashes for _, hashes in self._hours)]))[:_KEPT]
        if len(found) < _KEPT:
            return len(found)
        return int((_KEPT - 1) / (float(found[-1]) / 2.0**64))


def hashes(keys: pa.Array) -> NDArray[np.uint64]:
    """Of keys, text [n], the same in each process."""
    return hashed(keys.cast(pa.string()).fill_null(""), _SEEDS)[0]
