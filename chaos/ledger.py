"""Accounts of one output: what was produced, by position and by a hash of the content, against what came out.

A record is expected where its position and its content say so; what comes out counts only where both agree. So a record
that is lost shows, and so does one that comes out changed, under another's position, under two ids, or out of nowhere.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

Position = Hashable
Key = tuple[Position, str]


def digest(content: Any) -> str:
    """A hash of a record's content: bytes, or a tree of dictionaries, lists and plain values."""
    return sha256(content if isinstance(content, bytes) else repr(_ordered(content)).encode()).hexdigest()


def _ordered(content: Any) -> Any:
    if isinstance(content, dict):
        return [(name, _ordered(content[name])) for name in sorted(content)]
    return [_ordered(part) for part in content] if isinstance(content, list) else content


@dataclass(frozen=True)
class Verdict:
    """What became of the records of one output."""

    output: str
    produced: int  # records that had to come out
    out: int  # records that came out, each time one did
    repeated: int  # of them: again
    lost: tuple[Position, ...]
    wrong: tuple[str, ...]  # a line for each record that should not have come out like this

    @property
    def sound(self) -> bool:
        return not self.lost and not self.wrong


class Ledger:
    """Accounts of one output; producer and readers may be of different threads.

    Args:
      output: its name.
      exactly_once: what comes out again is wrong, not repeated.
    """

    def __init__(self, output: str, exactly_once: bool = False) -> None:
        self.output = output
        self._exactly_once = exactly_once
        self._expected: set[Key] = set()
        self._pardoned: set[Key] = set()  # may be missing
        self._found: Counter[Key] = Counter()
        self._missing: set[Key] = set()
        self._ids: dict[Key, set[str]] = {}
        self._lock = threading.Lock()

    def expect(self, position: Position, content: str) -> None:
        """A record was produced, and its producer was told so; it has to come out with this ``digest``."""
        key = (position, content)
        with self._lock:
            self._expected.add(key)
            if key not in self._found:
                self._missing.add(key)

    def pardon(self) -> None:
        """What has not come out so far need not: somebody deleted it."""
        with self._lock:
            self._pardoned |= self._missing
            self._missing.clear()

    def found(self, position: Position, content: str, identity: str) -> None:
        """A record came out, under an id of its own."""
        key = (position, content)
        with self._lock:
            self._found[key] += 1
            self._ids.setdefault(key, set()).add(identity)
            self._missing.discard(key)

    def recount(self) -> None:
        """Forgets what came out: it is read anew, for what was there once may be gone."""
        with self._lock:
            self._found.clear()
            self._ids.clear()
            self._missing = self._expected - self._pardoned

    @property
    def missing(self) -> int:
        """How many records have yet to come out."""
        return len(self._missing)

    @property
    def counts(self) -> tuple[int, int]:
        """Records that have to come out, and records that came out."""
        return len(self._expected) - len(self._pardoned - self._found.keys()), self._found.total()

    def verdict(self) -> Verdict:
        """The accounts, closed."""
        with self._lock:
            wrong = [
                f"{position} came out with a content that was not produced there"
                for position, content in self._found
                if (position, content) not in self._expected
            ]
            known = {key: n for key, n in self._found.items() if key in self._expected}
            wrong += [f"{key[0]} came out under {len(ids)} ids" for key, ids in self._ids.items() if len(ids) > 1]
            if self._exactly_once:
                wrong += [f"{key[0]} came out {n} times" for key, n in known.items() if n > 1]
            return Verdict(
                self.output,
                *self.counts,
                repeated=sum(known.values()) - len(known),
                lost=tuple(sorted((key[0] for key in self._missing), key=str)),
                wrong=tuple(wrong),
            )
