"""One alert of a key and then none for a while, unless a more severe one comes: by event time, in bounded memory."""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs.errors import UserError
from beam_jobs.jit import compiled
from beam_jobs.preprocessing.query.intervals import from_text
from beam_jobs.preprocessing.windows.keys import hashed

MOST_PLACES = 1 << 20  # of keys, 34 MB; where half of them are taken, the older half of what is known is forgotten
_FIRST_PLACES = 1 << 10
_LONGEST_MS = 31 * 86_400_000

Slots = NDArray[Any]
_SLOT = np.dtype([("key", np.uint64), ("id", np.uint64), ("time", np.int64), ("severity", np.int64)])  # key 0: free


def from_option(text: str) -> int:
    """--alert_cooldown in milliseconds.

    Raises:
      UserError: it is no interval, or one that is too long.
    """
    micros = from_text(text)
    if micros is None or micros % 1000 or not 0 < micros <= _LONGEST_MS * 1000:
        raise UserError(f"--alert_cooldown {text}: expected an interval such as 10m or 1 hour, at most 31 days")
    return micros // 1000


class CoolDown:
    """What was told of each key last; safe to ask from several threads.

    An alert that comes again, since its bundle failed, passes as it did before: what is told is known by its id.
    """

    def __init__(self, millis: int, most_places: int = MOST_PLACES) -> None:
        self._millis = millis
        self._most_places = most_places
        self._lock = threading.Lock()
        self._slots = np.zeros(_FIRST_PLACES, _SLOT)
        self._keys = 0

    def passing(
        self, keys: pa.Array, ids: pa.Array, times_ms: NDArray[np.int64], levels: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Which alerts are told, bool [n]; they come in the order of the log.

        Args:
          keys: of the events, text [n].
          ids: of the alerts, text [n].
          times_ms: of the events, epoch milliseconds [n].
          levels: how severe each is, a place in SEVERITIES [n].
        """
        n = len(keys)
        passing = np.ones(n, np.bool_)
        if not n:
            return passing
        hashes, id_hashes = hashed(keys)[0] | np.uint64(1), hashed(ids)[0]
        with self._lock:
            for at in range(0, n, _FIRST_PLACES // 4):  # as many as there is room for
                part = slice(at, at + _FIRST_PLACES // 4)
                self._make_room(len(hashes[part]))
                columns = (hashes[part], id_hashes[part], times_ms[part], levels[part])
                self._keys += tell(self._slots, *columns, self._millis, passing[part])
        return passing

    def _make_room(self, more: int) -> None:
        """Grows the table so that half of it stays free, or forgets."""
        if 2 * (self._keys + more) <= len(self._slots):
            return
        known = self._slots[self._slots["key"] != 0]
        known = known[known["time"] > known["time"].max(initial=0) - self._millis]
        if 4 * (len(known) + more) > self._most_places:
            known = known[np.argpartition(known["time"], len(known) // 2)[len(known) // 2 :]]
        places = 1 << (4 * (len(known) + more) - 1).bit_length()
        self._slots = np.zeros(min(max(len(self._slots), places), self._most_places), _SLOT)
        self._keys = len(known)
        keep = np.ones(len(known), np.bool_)
        tell(self._slots, known["key"], known["id"], known["time"], known["severity"], 0, keep)


@compiled
def tell(slots: Any, keys: Any, ids: Any, times: Any, levels: Any, millis: Any, passing: Any) -> Any:
    """Decides which alerts are told, and remembers them.

    Args:
      slots: [a power of two], half of it free for new keys at least.
      keys, ids: uint64 [n], keys not 0.
      times: int64 [n], ms.
      levels: int64 [n], how severe.
      millis: how long a key is quiet.
      passing: bool [n], filled.

    Returns:
      How many keys are new.
    """
    mask, new = len(slots) - 1, 0
    for row in range(len(keys)):
        place = int(keys[row] >> np.uint64(20)) & mask
        while slots[place].key != 0 and slots[place].key != keys[row]:
            place = (place + 1) & mask
        slot = slots[place]
        passing[row] = True
        if slot.key == keys[row] and slot.id != ids[row]:
            if abs(times[row] - slot.time) < millis and levels[row] <= slot.severity:
                passing[row] = False
                continue
            if times[row] <= slot.time - millis:  # long before
                continue
        new += slot.key == 0
        slot.key, slot.id, slot.time, slot.severity = keys[row], ids[row], times[row], levels[row]
    return new


_HERE: dict[str, CoolDown] = {}
_LOCK = threading.Lock()


@dataclass(frozen=True)
class SharedCoolDown:
    """The one that the steps of a pipeline share in each process; picklable."""

    millis: int
    token: str = field(default_factory=lambda: uuid.uuid4().hex)  # of the pipeline

    def here(self) -> CoolDown:
        """That of this process."""
        with _LOCK:
            if self.token not in _HERE:
                _HERE[self.token] = CoolDown(self.millis)
                nothing, no = np.zeros(0, np.uint64), np.zeros(0, np.int64)  # the first alert waits for no compiler
                tell(np.zeros(1, _SLOT), nothing, nothing, no, no, self.millis, np.zeros(0, np.bool_))
            return _HERE[self.token]
