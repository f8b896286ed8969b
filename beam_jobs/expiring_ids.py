"""Message ids that are remembered for a while: sets of int64 that forget, compact in memory and on disk."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Longs = NDArray[np.int64]


@dataclass(frozen=True)
class _Segment:
    ids: Longs  # ascending, unique
    until: Longs  # when each is forgotten, seconds since the epoch


class ExpiringIds:
    """A set of ids, each with the time it is forgotten at.

    Ids lie in sorted segments that are merged when they are of like size, so that n ids in additions of k cost
    O(log(n / k)) copies each, and 16 bytes an id. Expired ids go when their segment is merged, or by :meth:`purge`.
    """

    def __init__(self) -> None:
        self._segments: list[_Segment] = []

    def __len__(self) -> int:
        return sum(len(segment.ids) for segment in self._segments)

    def add(self, ids: Longs, until: int | Longs, now: float) -> None:
        """Adds ids until the given time (seconds since the epoch, one for all or int64 [n]); the later time counts."""
        if not len(ids):
            return
        self._segments.append(_merged(ids, np.broadcast_to(np.asarray(until, np.int64), ids.shape), now))
        while len(self._segments) > 1 and len(self._segments[-2].ids) < 2 * len(self._segments[-1].ids):
            right, left = self._segments.pop(), self._segments.pop()
            self._segments.append(
                _merged(np.concatenate([left.ids, right.ids]), np.concatenate([left.until, right.until]), now)
            )

    def update(self, other: ExpiringIds, now: float) -> None:
        """Adds the ids of another set, which keeps them."""
        for segment in other._segments:
            self.add(segment.ids, segment.until, now)

    def holds(self, ids: Longs) -> NDArray[np.bool_]:
        """Which of the ids are in the set, bool [n]; expired ones may still be."""
        found = np.zeros(len(ids), np.bool_)
        for segment in self._segments:
            found |= _places(segment, ids)[0]
        return found

    def has_any(self, other: ExpiringIds) -> bool:
        """Whether one of another set's ids is in this one."""
        return any(bool(self.holds(segment.ids).any()) for segment in other._segments)

    def until(self, ids: Longs, time: int) -> None:
        """Sets the time at which these ids are forgotten; those that are not in the set are skipped."""
        for segment in self._segments:
            found, place = _places(segment, ids)
            segment.until[place[found]] = time

    def discard(self, ids: Longs) -> None:
        """Forgets these ids."""
        self._segments = [
            _Segment(segment.ids[keep], segment.until[keep])
            for segment in self._segments
            if (keep := ~np.isin(segment.ids, ids)).any()
        ]

    def purge(self, now: float) -> None:
        """Forgets what is expired."""
        self._segments = [
            _Segment(segment.ids[keep], segment.until[keep])
            for segment in self._segments
            if (keep := segment.until > now).any()
        ]

    def to_json(self) -> dict[str, Any]:
        """Deflated differences, in base64: 8 bytes an id at most, about 2 where ids are near each other."""
        ids = np.concatenate([np.empty(0, np.int64), *(segment.ids for segment in self._segments)])
        until = np.concatenate([np.empty(0, np.int64), *(segment.until for segment in self._segments)])
        order = np.argsort(ids, kind="stable")
        return {"count": len(ids), "ids": _packed(ids[order]), "until": _packed(until[order])}

    @staticmethod
    def from_json(value: dict[str, Any], now: float) -> ExpiringIds:
        """The inverse of ``to_json``, without what has expired."""
        found = ExpiringIds()
        found.add(_unpacked(value["ids"]), _unpacked(value["until"]), now)
        return found


def _merged(ids: Longs, until: Longs, now: float) -> _Segment:
    """Sorted, each id once with its latest time, without the expired."""
    order = np.lexsort((until, ids))
    ids, until = ids[order], until[order]
    keep = until > now
    keep[:-1] &= ids[1:] != ids[:-1]
    return _Segment(ids[keep], until[keep])


def _places(segment: _Segment, ids: Longs) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """(whether each id is in the segment, where)."""
    if not len(segment.ids):
        return np.zeros(len(ids), np.bool_), np.zeros(len(ids), np.intp)
    place = np.minimum(np.searchsorted(segment.ids, ids), len(segment.ids) - 1)
    return segment.ids[place] == ids, place


def _packed(numbers: Longs) -> str:
    return base64.b64encode(zlib.compress(np.diff(numbers, prepend=np.int64(0)).tobytes(), 1)).decode()


def _unpacked(text: str) -> Longs:
    return np.cumsum(np.frombuffer(zlib.decompress(base64.b64decode(text)), np.int64))
