"""The positions an archive holds: ranges of offsets, and message ids that are remembered for a while."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.expiring_ids import ExpiringIds

Longs = NDArray[np.int64]
Partition = tuple[str, int]  # topic, partition


@dataclass(frozen=True)
class Ranges:
    """Sets of offsets by partition, each a sorted list of [first, last] that neither meet nor overlap."""

    of: Mapping[Partition, Longs] = field(default_factory=dict)  # int64 [k, 2]

    def holds(self, partition: Partition, offsets: Longs) -> NDArray[np.bool_]:
        """Which of the offsets are in the set, bool [n]."""
        ranges = self.of.get(partition)
        if ranges is None or not len(ranges):
            return np.zeros(len(offsets), np.bool_)
        place = np.searchsorted(ranges[:, 0], offsets, "right") - 1
        return (place >= 0) & (offsets <= ranges[np.maximum(place, 0), 1])

    @staticmethod
    def exactly(partition: Partition, offsets: Longs) -> Ranges:
        """These offsets of a partition and no others, given in any order (one at least)."""
        ordered = np.unique(offsets)
        return Ranges({partition: _merged(np.stack([ordered, ordered], axis=1))})

    @staticmethod
    def span(partition: Partition, offsets: Longs) -> Ranges:
        """A partition's offsets from the smallest to the largest of these, what lies between included."""
        return Ranges({partition: np.array([[offsets.min(), offsets.max()]], np.int64)})

    def spans(self) -> Ranges:
        """Each partition's offsets from its first to its last, what lies between included."""
        return Ranges({partition: np.array([[of[0, 0], of[-1, 1]]]) for partition, of in self.of.items()})

    def __or__(self, other: Ranges) -> Ranges:
        both = dict(self.of)
        for partition, ranges in other.of.items():
            mine = both.get(partition)
            both[partition] = ranges if mine is None else _merged(np.concatenate([mine, ranges]))
        return Ranges(both)

    def shared(self, other: Ranges) -> int:
        """How many offsets are in both."""
        both = self.of.keys() & other.of.keys()
        return sum(_shared(self.of[partition], other.of[partition]) for partition in both)

    def to_json(self) -> list[list[Any]]:
        return [[topic, partition, ranges.tolist()] for (topic, partition), ranges in sorted(self.of.items())]

    @staticmethod
    def from_json(value: Iterable[Sequence[Any]]) -> Ranges:
        """The inverse of ``to_json``."""
        return Ranges({(topic, p): np.array(ranges, np.int64).reshape(-1, 2) for topic, p, ranges in value})


def _merged(ranges: Longs) -> Longs:
    ranges = ranges[np.argsort(ranges[:, 0], kind="stable")]
    ends = np.maximum.accumulate(ranges[:, 1])
    starts = np.concatenate(([True], ranges[1:, 0] > ends[:-1] + 1))
    first = np.flatnonzero(starts)
    last = np.concatenate((first[1:], [len(ranges)])) - 1
    return np.stack([ranges[first, 0], ends[last]], axis=1)


def _shared(a: Longs, b: Longs) -> int:
    """Numbers in both of two sets of ranges: how far a line reaches along which two ranges are open."""
    at = np.concatenate([a[:, 0], b[:, 0], a[:, 1] + 1, b[:, 1] + 1])
    step = np.repeat(np.array([1, -1]), len(a) + len(b))
    order = np.argsort(at, kind="stable")
    open_ = np.cumsum(step[order])[:-1]
    return int(np.diff(at[order])[open_ == 2].sum())


@dataclass(frozen=True)
class Held:
    """The offsets an archive holds."""

    ranges: Ranges = field(default_factory=Ranges)
    ids: dict[Partition, ExpiringIds] = field(default_factory=dict)

    def holds(self, partition: Partition, offsets: Longs) -> NDArray[np.bool_]:
        """Which of the offsets the archive has, bool [n]."""
        found = self.ranges.holds(partition, offsets)
        if partition in self.ids:
            found |= self.ids[partition].holds(offsets)
        return found

    def has_any(self, ids: Mapping[Partition, ExpiringIds]) -> bool:
        """Whether one of these ids is among its own."""
        return any(partition in self.ids and self.ids[partition].has_any(those) for partition, those in ids.items())

    def __or__(self, other: Held) -> Held:
        now = time.time()
        for partition, ids in other.ids.items():
            self.ids.setdefault(partition, ExpiringIds()).update(ids, now)
        return Held(self.ranges | other.ranges, self.ids)

    def to_json(self) -> dict[str, Any]:
        ids = [[topic, partition, ids.to_json()] for (topic, partition), ids in sorted(self.ids.items()) if len(ids)]
        return {"held": self.ranges.to_json(), **({"ids": ids} if ids else {})}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Held:
        """The inverse of ``to_json``."""
        now = time.time()
        ids = {(topic, p): ExpiringIds.from_json(held, now) for topic, p, held in value.get("ids", ())}
        return Held(Ranges.from_json(value["held"]), ids)
