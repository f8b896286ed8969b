"""What an archive holds, by position: the one place that decides whether a file counts and a record is there already.

Beside the data, under ``_archive/NAME/`` (readers of data pass over names that begin with an underscore)::

    unfinished/BUNDLE-0.part          data that is being written
    commits/BUNDLE.json        files (from, to), and for each partition the offsets they hold

Writing a commit is one atomic step; it is what makes the files count. They are then renamed to where they belong, which
can be repeated. So after a kill at any moment: with a commit, the renames are finished; without one, the files in
``unfinished/`` are removed and their records read again. A record whose offset a commit holds is never written twice.

A commit says a span where its bundle has read everything between its ends, as a topic is read; where rows come in any
order, it says the exact offsets.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.io.files import list_files, move, patiently, read_bytes, remove, write_bytes

_LOGGER = logging.getLogger(__name__)

FOLDER = "_archive"

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


@dataclass(frozen=True)
class Finished:
    """A file that is complete but does not count yet."""

    temporary: str
    final: str
    rows: int


class ArchiveLog:
    """The log of one writing job in one archive; two jobs that run at once must have different names."""

    def __init__(self, root: str, name: str) -> None:
        self._root, self._name = root, name
        self.folder = f"{root}/{FOLDER}/{name}"
        self._seen: set[str] = set()
        self._held = Ranges()

    def temporary(self, bundle: str, number: int) -> str:
        """Where a bundle writes its n-th file. No data file is called ``.part``."""
        return f"{self.folder}/unfinished/{bundle}-{number}.part"

    def held(self) -> Ranges:
        """What all commits hold; reads those made since the last call."""
        for path in patiently(lambda: list_files(f"{self.folder}/commits/*.json")):
            if path not in self._seen:
                self._held |= Ranges.from_json(json.loads(patiently(partial(read_bytes, path)))["held"])
                self._seen.add(path)
        return self._held

    def commit(self, bundle: str, files: Sequence[Finished], held: Ranges) -> None:
        """Makes the files count, and remembers what they hold."""
        path = f"{self.folder}/commits/{bundle}.json"
        named = [{"from": f.temporary, "to": f.final, "rows": f.rows} for f in files]
        data = json.dumps({"files": named, "held": held.to_json()}).encode()
        patiently(partial(write_bytes, path, data))
        self._held |= held
        self._seen.add(path)
        _rename(named)

    def check_writable(self) -> None:
        """Writes a file and removes it: a job should not run for minutes to find that it may not."""
        probe = self.temporary(new_id(), 0)
        write_bytes(probe, b"")
        remove([probe])

    def recover(self, adopt: Mapping[str, str] | None = None) -> Ranges:
        """Finishes what a killed job has committed, removes what it has not; before a job of this name starts.

        Folds all commits into one, so that their number does not grow from run to run.

        Args:
          adopt: topics whose positions are remembered under another name from now on, old name to new.
        """
        commits = list_files(f"{self.folder}/commits/*.json")
        left = set(list_files(f"{self.folder}/unfinished/*"))
        held = Ranges()
        for path in commits:
            commit = json.loads(read_bytes(path))
            held |= Ranges.from_json(commit["held"])
            unfinished = [file for file in commit["files"] if file["from"] in left]
            if unfinished:
                _LOGGER.warning("%s: %d committed files of a killed job are put in place", self._root, len(unfinished))
                _rename(unfinished)
                left -= {file["from"] for file in unfinished}
        if left:
            _LOGGER.warning("%s: %d files a killed job had not finished are removed", self._root, len(left))
            remove(sorted(left))
        known_as = adopt or {}
        renamed = known_as.keys() & {topic for topic, _ in held.of}
        if renamed:
            before, held = held, Ranges()
            for (topic, partition), ranges in before.of.items():
                held |= Ranges({(known_as.get(topic, topic), partition): ranges})
        if len(commits) > 1 or renamed:
            folded = json.dumps({"files": [], "held": held.to_json()}).encode()
            write_bytes(f"{self.folder}/commits/{new_id()}.json", folded)
            remove(commits)
        return held


def new_id() -> str:
    """A name for a bundle or a commit."""
    return uuid.uuid4().hex


def _rename(files: Sequence[Mapping[str, Any]]) -> None:
    for file in files:
        patiently(partial(move, file["from"], file["to"]))
