"""What an archive holds, by position: the one place that decides whether a file counts and a record is there already.

Beside the data, under ``_archive/NAME/`` (readers of data pass over names that begin with an underscore)::

    unfinished/BUNDLE-0.part          data that is being written
    commits/BUNDLE.json        files (from, to), and for each partition the offsets they hold: ranges, or ids

Writing a commit is one atomic step; it is what makes the files count. They are then renamed to where they belong, which
can be repeated. So after a kill at any moment: with a commit, the renames are finished; without one, the files in
``unfinished/`` are removed and their records read again. A record whose offset a commit holds is never written twice.

A commit says a span where its bundle has read everything between its ends, as a topic is read; where rows come in any
order, it says the exact offsets. Both are held for ever. Pub/Sub's message ids have no order: each is held until the
service could no longer deliver it again, and no longer than a short while once it has taken the acknowledgement.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.io.expiring_ids import ExpiringIds
from beam_jobs.io.files import list_files, move, patiently, read_bytes, remove, write_bytes

_LOGGER = logging.getLogger(__name__)

FOLDER = "_archive"
_FOLD_AT = 200  # commits of a running job; then they become one

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


def log_names(root: str) -> set[str]:
    """The names of all logs in an archive that have committed."""
    return {path.split("/")[-3] for path in list_files(f"{root}/{FOLDER}/*/commits/*.json")}


class ArchiveLog:
    """The log of one writing job in one archive; two jobs that run at once must have different names."""

    def __init__(self, root: str, name: str) -> None:
        self._root, self._name = root, name
        self.folder = f"{root}/{FOLDER}/{name}"
        self._seen: set[str] = set()
        self._mine: list[str] = []  # commits of this object, their files in place
        self._held = Held()

    def temporary(self, bundle: str, number: int) -> str:
        """Where a bundle writes its n-th file. No data file is called ``.part``."""
        return f"{self.folder}/unfinished/{bundle}-{number}.part"

    def held(self) -> Held:
        """What all commits hold; reads those made since the last call."""
        paths = patiently(lambda: list_files(f"{self.folder}/commits/*.json"))
        while new := [path for path in paths if path not in self._seen]:
            try:
                commit = json.loads(patiently(partial(read_bytes, new[0])))
            except FileNotFoundError:  # another worker has folded it
                paths = patiently(lambda: list_files(f"{self.folder}/commits/*.json"))
                continue
            self._held |= Held.from_json(commit)
            self._seen.add(new[0])
        return self._held

    def acknowledged(self, partition: Partition, ids: Longs, until: float) -> None:
        """These ids are needed until then only (seconds since the epoch); on storage, from the next folding on."""
        if partition in self._held.ids and len(ids):
            self._held.ids[partition].until(ids, int(until))

    def commit(self, bundle: str, files: Sequence[Finished], held: Held) -> None:
        """Makes the files count, and remembers what they hold."""
        path = self._commit_path(bundle)
        named = [{"from": f.temporary, "to": f.final, "rows": f.rows} for f in files]
        data = json.dumps({"files": named, **held.to_json()}).encode()
        patiently(partial(write_bytes, path, data))
        self._held |= held
        self._seen.add(path)
        _rename(named)
        self._mine.append(path)
        if len(self._mine) >= _FOLD_AT:
            self._mine = [self._fold(self._mine)]

    def check_writable(self) -> None:
        """Writes a file and removes it: a job should not run for minutes to find that it may not."""
        probe = self.temporary(new_id(), 0)
        write_bytes(probe, b"")
        remove([probe])

    def recover(self, adopt: Mapping[str, str] | None = None) -> Held:
        """Finishes what a killed job has committed, removes what it has not; before a job of this name starts.

        Folds all commits into one, so that their number does not grow from run to run.

        Args:
          adopt: topics whose positions are remembered under another name from now on, old name to new.
        """
        commits = list_files(f"{self.folder}/commits/*.json")
        left = set(list_files(f"{self.folder}/unfinished/*"))
        for path in commits:
            commit = json.loads(read_bytes(path))
            self._held |= Held.from_json(commit)
            unfinished = [file for file in commit["files"] if file["from"] in left]
            if unfinished:
                _LOGGER.warning("%s: %d committed files of a killed job are put in place", self._root, len(unfinished))
                _rename(unfinished)
                left -= {file["from"] for file in unfinished}
        if left:
            _LOGGER.warning("%s: %d files a killed job had not finished are removed", self._root, len(left))
            remove(sorted(left))
        known_as = adopt or {}
        before = self._held.ranges.of
        renamed = known_as.keys() & {topic for topic, _ in before}
        if renamed:
            ranges = Ranges()
            for (topic, partition), held in before.items():
                ranges |= Ranges({(known_as.get(topic, topic), partition): held})
            self._held = Held(ranges, self._held.ids)
        if len(commits) > 1 or renamed:
            self._fold(commits)
        return self._held

    def _fold(self, commits: Sequence[str]) -> str:
        """Makes one commit of many whose files are in place."""
        now = time.time()
        for ids in self._held.ids.values():
            ids.purge(now)
        path = self._commit_path(new_id())
        data = json.dumps({"files": [], **self._held.to_json()}).encode()
        patiently(partial(write_bytes, path, data))
        self._seen.add(path)
        patiently(partial(remove, commits))
        return path

    def _commit_path(self, bundle: str) -> str:
        return f"{self.folder}/commits/{bundle}.json"


def new_id() -> str:
    """A name for a bundle or a commit."""
    return uuid.uuid4().hex


def _rename(files: Sequence[Mapping[str, Any]]) -> None:
    for file in files:
        patiently(partial(move, file["from"], file["to"]))
