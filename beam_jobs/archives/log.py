"""The log of an archive: the one place that decides whether a file counts and a record is there already.

Beside the data, under ``_archive/NAME/`` (readers of data skip names that begin with an underscore)::

    unfinished/OWNER-BUNDLE-0.part    data that is being written
    commits/000000000042.json         the log's entries, numbered without a gap
    lease                             the owner's sign of life: owner.py

An entry names its owner, and is a commit (files from, to; for each partition the offsets they hold: ranges, or ids) or
holds all before it (``folds``), which can be removed then. Adding one is one atomic step, and there can be one of each
number only: whoever adds number n + 1 has read all up to n, so

- a commit whose records another worker has committed meanwhile, which a retried bundle may meet, is refused;
- taking a log over is adding an entry of another owner. What the owner before had committed is in front of it and
  holds; whatever it does later finds that entry first and fails (``FencedError``): of two owners one commits.

Files that count are renamed to where they belong, which can be repeated. So after a kill at any moment: with a commit,
the renames are finished; without one, the files in ``unfinished/`` are removed and their records read again. A record
whose offset a commit holds is never written twice.

A commit says a span where its bundle has read everything between its ends, as a topic is read; where rows come in any
order, it says the exact offsets. Both are held forever. Pub/Sub's message ids have no order: each is held until the
service could no longer deliver it again, and no longer than a short while once it has taken the acknowledgement.
"""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import Any

from beam_jobs.archives.held import Held, Longs, Partition, Ranges
from beam_jobs.errors import UserError, one_line
from beam_jobs.storage.files import bounded, create, list_files, move, patiently, read_bytes, remove, write_bytes

__all__ = ["FOLDER", "ArchiveLog", "FencedError", "Finished", "Held", "Ranges", "log_names", "new_id"]

_LOGGER = logging.getLogger(__name__)

FOLDER = "_archive"
_FOLD_AT = 200  # entries of a running job; then they become one
_NUMBER = re.compile(r"\d{12}")


class FencedError(UserError):
    """The log belongs to another job by now."""


@dataclass(frozen=True)
class Finished:
    """A file that is complete but does not count yet."""

    temporary: str
    final: str
    rows: int


@dataclass(frozen=True)
class _Entry:
    """What the log's n-th file says."""

    number: int  # 0: of an archive from before the log had owners
    owner: str
    bundle: str  # the commit's own id
    folds: tuple[str, ...] | None  # bundles of the entries whose place it takes; None: it stands beside those before it
    files: tuple[Finished, ...]
    held: Held

    def to_json(self) -> bytes:
        said: dict[str, Any] = {"owner": self.owner, "bundle": self.bundle}
        if self.folds is not None:
            said["folds"] = self.folds
        said["files"] = [{"from": f.temporary, "to": f.final, "rows": f.rows} for f in self.files]
        return json.dumps(said | self.held.to_json()).encode()

    @staticmethod
    def from_json(path: str, number: int, data: bytes) -> _Entry:
        """The inverse of ``to_json``; UserError where ``path`` holds something else."""
        try:
            said = json.loads(data)
            files = tuple(Finished(f["from"], f["to"], f["rows"]) for f in said["files"])
            folds = tuple(said["folds"]) if "folds" in said else None
            return _Entry(number, said.get("owner", ""), said.get("bundle", ""), folds, files, Held.from_json(said))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: is no entry of an archive's log ({one_line(error, 100)}); restore it") from error


def log_names(root: str) -> set[str]:
    """The names of all logs in an archive that have committed."""
    return {path.split("/")[-3] for path in list_files(f"{root}/{FOLDER}/*/commits/*.json")}


class ArchiveLog:
    """The log of one stream into one archive.

    Args:
      root: the archive's folder.
      name: of the log.
      owner: the job that writes, the same for all of its workers; "": somebody new.
    """

    def __init__(self, root: str, name: str, owner: str = "") -> None:
        self._root, self.owner = root, owner or new_id()
        self.folder = f"{root}/{FOLDER}/{name}"
        self._at = 0  # number of the newest entry that is in _held
        self._folded_at = 0  # number of the newest that holds all before it
        self._held = Held()
        self._known = Ranges()  # what the last call of ``held`` gave

    def temporary(self, bundle: str, number: int) -> str:
        """Where a bundle writes its n-th file. No data file is called ``.part``."""
        return f"{self.folder}/unfinished/{self.owner}-{bundle}-{number}.part"

    def current_owner(self) -> str:
        """Whose log it is; "": nobody's yet."""
        return next((entry.owner for entry in self._back_to(0, newest=True)), "")

    def look(self) -> tuple[str, Held]:
        """Whose log it is ("": nobody's yet) and what it holds, for those who do not write it."""
        entries = self._entries()
        return entries[0].owner if entries else "", self._folded(entries, (), {}).held

    def held(self) -> Held:
        """What all commits hold; reads those made since the last call.

        Raises:
          FencedError: another owner has taken the log over.
        """
        self._catch_up()
        self._known = self._held.ranges
        return self._held

    def acknowledged(self, partition: Partition, ids: Longs, until: float) -> None:
        """These ids are needed until then only (seconds since the epoch); on storage, from the next folding on."""
        if partition in self._held.ids and len(ids):
            self._held.ids[partition].until(ids, int(until))

    def commit(self, bundle: str, files: Sequence[Finished], held: Held) -> Held:
        """Makes the files count, and remembers what they hold; returns what all commits hold.

        Args:
          bundle: an id that no other commit has.

        Raises:
          FencedError: another owner has taken the log over; nothing of the bundle counts.
          UserError: nothing of it counts either: a file is gone, or another worker was faster with the same records.
          FileNotFoundError: a file went while it was being put in place.
        """
        self._check_there(bundle, files)
        while True:
            try:
                self._catch_up()
            except FencedError:
                patiently(partial(remove, [file.temporary for file in files]))
                raise
            if self._held.ranges.shared(held.ranges) > self._known.shared(held.ranges) or self._held.has_any(held.ids):
                raise UserError(
                    f"{self._root}: another worker has archived some of the same records meanwhile; what this one has "
                    "read since its last commit does not count: start the job again"
                )
            entry = _Entry(self._at + 1, self.owner, bundle, None, tuple(files), held)
            if self._add(entry):
                break
        self._check_counts(entry)
        self._held |= held
        self._known = self._held.ranges
        self._at = entry.number
        for file in files:
            patiently(partial(move, file.temporary, file.final))
        if entry.number - self._folded_at >= _FOLD_AT:
            self._fold()
        return self._held

    def check_writable(self) -> None:
        """Writes a file and removes it: a job should not run for minutes to find that it may not."""
        probe = self.temporary(new_id(), 0)
        write_bytes(probe, b"")
        remove([probe])

    def recover(self, replaces: str | None = None, adopt: Mapping[str, str] | None = None) -> Held:
        """Takes the log over: finishes what an owner that is gone has committed, removes what it has not.

        Folds all entries into one, so that their number does not grow from run to run. A file that can't be put in
        place stays where it is, is reported, and retried by the next one that takes the log over.

        Args:
          replaces: whose place is taken; None: whoever's it is.
          adopt: topics whose positions are remembered under another name from now on, old name to new.

        Raises:
          FencedError: the log is neither ``replaces``' nor our own.
        """
        while True:
            entries = self._entries()
            now = entries[0].owner if entries else ""
            if now == self.owner:
                break  # a worker of the same job was faster
            if replaces is not None and now != replaces:
                raise self._fenced()
            listed = patiently(lambda: list_files(f"{self.folder}/commits/*.json"))
            unfinished = set(list_files(f"{self.folder}/unfinished/*"))
            left = [file for entry in entries for file in entry.files if file.temporary in unfinished]
            taken = self._folded(entries, left, adopt or {})
            if self._add(taken):
                self._held, self._at = taken.held, taken.number
                self._folded_at = taken.number
                placed = len(left) - len(self._place(left))
                if placed:
                    _LOGGER.warning("%s: %d committed files of a killed job are put in place", self._root, placed)
                gone = {path for path in unfinished if not PurePath(path).name.startswith(self.owner)}
                gone -= {file.temporary for file in left}
                if gone:
                    _LOGGER.warning("%s: %d files a killed job had not finished are removed", self._root, len(gone))
                    patiently(partial(remove, sorted(gone)))
                patiently(partial(remove, listed))
                break
        return self.held()

    def _fold(self) -> None:
        """Makes one entry of all, and finishes what a worker that is gone has committed."""
        entries = self._back_to(0)
        if entries[0].number != self._at:
            return  # somebody was faster, or it is another's by now
        unfinished = set(list_files(f"{self.folder}/unfinished/*"))
        left = [file for entry in entries for file in entry.files if file.temporary in unfinished]
        now = time.time()
        for ids in self._held.ids.values():
            ids.purge(now)
        entry = _Entry(
            self._at + 1, self.owner, new_id(), tuple(e.bundle for e in entries), tuple(self._place(left)), self._held
        )
        listed = list_files(f"{self.folder}/commits/*.json")
        if self._add(entry):
            self._at = self._folded_at = entry.number
            patiently(partial(remove, [path for path in listed if _number(path) < entry.number]))

    def _folded(self, entries: Sequence[_Entry], left: Sequence[Finished], adopt: Mapping[str, str]) -> _Entry:
        """An entry of ours that stands for these, newest first."""
        held = Held()
        for entry in entries:
            held |= entry.held
        ranges = Ranges()
        for (topic, partition), of in held.ranges.of.items():
            ranges |= Ranges({(adopt.get(topic, topic), partition): of})
        number = max((entry.number for entry in entries), default=0) + 1
        bundles = tuple(entry.bundle for entry in entries)
        return _Entry(number, self.owner, new_id(), bundles, tuple(left), Held(ranges, held.ids))

    def _place(self, files: Sequence[Finished]) -> list[Finished]:
        """Puts files in place that somebody else has committed; returns those that can't be."""
        failed: list[Finished] = []
        for file in files:
            try:
                patiently(partial(move, file.temporary, _within_limits(self._root, file.final)))
            except FileNotFoundError:
                _LOGGER.warning("%s: is gone, with %d committed rows", file.temporary, file.rows)
            except (OSError, UserError) as error:
                failed.append(file)
                if len(failed) == 1:
                    _LOGGER.warning("%s: can't be put in place (%s)", file.temporary, one_line(error, 300))
        if failed:
            _LOGGER.warning(
                "%s: %d committed files with %d rows stay under %s until a start can put them in place",
                *(self._root, len(failed), sum(file.rows for file in failed), f"{self.folder}/unfinished"),
            )
        return failed

    def _check_there(self, bundle: str, files: Sequence[Finished]) -> None:
        there = patiently(lambda: list_files(f"{self.folder}/unfinished/{self.owner}-{bundle}-*"))
        gone = {file.temporary for file in files} - set(there)
        if gone:
            self._catch_up()  # who took the log over has removed them
            raise UserError(
                f"{min(gone)}: a file that was just written is gone; nothing of it is committed, the next run reads it "
                "again: find out who removes files there"
            )

    def _catch_up(self) -> None:
        news = self._back_to(self._at)
        if news and news[0].owner != self.owner:
            raise self._fenced()  # and again at every later call
        for entry in news:
            self._held |= entry.held
        if news:
            self._at = news[0].number
            if news[-1].folds is not None:
                self._folded_at = news[-1].number

    def _fenced(self) -> FencedError:
        return FencedError(
            f"{self._root}: another job has taken this archive over; what this one has read since its last commit "
            "counts neither here nor as read, the other one goes on from there"
        )

    def _back_to(self, after: int, newest: bool = False) -> list[_Entry]:
        """The entries above a number, newest first, down to one that holds all before it; or the newest alone."""
        before: list[str] | None = None
        while True:
            listed = patiently(lambda: list_files(f"{self.folder}/commits/*.json"))
            found: list[_Entry] = []
            last = max(map(_number, listed), default=0)
            if last < after:  # perhaps only since it was folded while it was listed
                if listed == before:
                    raise UserError(
                        f"{self.folder}: the archive's log was removed while a job writes it, and what was read since "
                        "its last commit is not committed: start it again, and find out who removes files there"
                    )
                before = listed
                continue
            try:
                for number in range(last, after, -1):
                    found.append(patiently(partial(self._read, self._path(number), number)))
                    if newest or found[-1].folds is not None:
                        break
                return found
            except FileNotFoundError as error:  # folded since it was listed
                if listed == before:
                    raise UserError(f"{error.filename}: is missing in the archive's log; restore it") from None
                before = listed

    def _entries(self) -> list[_Entry]:
        """All that hold something, newest first."""
        without_owner = [
            path for path in patiently(lambda: list_files(f"{self.folder}/commits/*.json")) if not _number(path)
        ]
        return self._back_to(0) + [self._read(path, 0) for path in without_owner]

    def _read(self, path: str, number: int) -> _Entry:
        return _Entry.from_json(path, number, read_bytes(path))

    def _add(self, entry: _Entry) -> bool:
        """Whether it is the entry of its number now; False: there is another one."""
        return patiently(partial(create, self._path(entry.number), entry.to_json()))

    def _check_counts(self, entry: _Entry) -> None:
        """Whoever was away for long may have added a number that was there, folded and removed before: it says nothing.

        Raises:
          UserError: as said; if the entry does count after all, its records will be found archived.
        """
        later = self._back_to(entry.number)
        if later and later[-1].folds is not None and entry.bundle not in later[-1].folds:
            patiently(partial(remove, [self._path(entry.number)]))
            raise UserError(
                f"{self._root}: the archive's log went on while a commit was held up; what was read since the commit "
                "before is read again by the next run"
            )

    def _path(self, number: int) -> str:
        return f"{self.folder}/commits/{number:012}.json"


def _number(path: str) -> int:
    """Of an entry, by its file; 0: from before entries had numbers."""
    name = PurePath(path).stem
    return int(name) if _NUMBER.fullmatch(name) else 0


def _within_limits(root: str, path: str) -> str:
    """A committed file's place, with names that any file system takes."""
    return f"{root}/{'/'.join(map(bounded, path.removeprefix(root + '/').split('/')))}"


def new_id() -> str:
    """A name for an owner, a bundle or a commit."""
    return uuid.uuid4().hex
