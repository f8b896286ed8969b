"""Whether the records of a key are all in one partition, as windows need them: by the keys that came last."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs.jit import compiled_borrowing
from beam_jobs.preprocessing.windows.keys import hashed
from beam_jobs.preprocessing.windows.wide import prefetch

_WATCHED = 1 << 16  # keys: 0.8 MB, so that they stay in the processor's cache
_AHEAD = 8  # rows: their places are asked for so early, since a block's other work has thrown them out of the cache
_WAYS = 8  # places a key may have: of as many numbers the processor fetches at once

Hashes = NDArray[np.uint64]
Partitions = NDArray[np.int32]


class PartitionKeys:
    """Remembers the partition of some keys, of all while they are few; thread-safe.

    >>> seen = PartitionKeys()
    >>> seen.elsewhere(pa.array(["a", "b", "a"]), np.array([0, 1, 0], np.int32))
    >>> seen.elsewhere(pa.array(["c", "a"]), np.array([1, 2], np.int32))
    (0, 2)
    """

    def __init__(self, watched: int = _WATCHED) -> None:
        buckets = 1 << max(0, (watched // _WAYS).bit_length() - 1)
        self._lock = threading.Lock()
        self._hashes = np.zeros((buckets, _WAYS), np.uint64)  # 0: none
        self._partitions = np.zeros((buckets, _WAYS), np.int32)  # of each

    def elsewhere(self, keys: pa.Array, partitions: Partitions) -> tuple[int, int] | None:
        """Takes n records; two partitions that hold the same key, None: none such are known.

        Args:
          keys: string [n], no nulls.
          partitions: of the records, [n].
        """
        hashes, _ = hashed(keys)
        with self._lock:
            found = _look(hashes, partitions, self._hashes, self._partitions)
        return None if found < 0 else (int(found >> 32), int(found & 0xFFFFFFFF))


def warm_up() -> None:
    """Compiles the loop, or loads what was compiled before."""
    PartitionKeys(_WAYS).elsewhere(pa.array(["a"]), np.zeros(1, np.int32))


@compiled_borrowing
def _look(hashes: Hashes, partitions: Partitions, known: Hashes, held: Partitions) -> int:
    """Enters keys, each in place of an older one of its bucket; the first pair of partitions with one in common, or -1.

    A pair is ``smaller << 32 | larger``.
    """
    mask = np.uint64(len(known) - 1)
    for row in range(len(hashes)):
        key = hashes[row] | np.uint64(1)
        bucket = (key >> np.uint64(8)) & mask
        if row + _AHEAD < len(hashes):
            ahead = (hashes[row + _AHEAD] >> np.uint64(8)) & mask
            prefetch(known.ctypes.data + ahead * (_WAYS * 8))
            prefetch(held.ctypes.data + ahead * (_WAYS * 4))
        way: Any = -1
        free: Any = -1
        for each in range(_WAYS):  # all of them, without a jump: a third of the time
            way = each if known[bucket, each] == key else way
            free = each if known[bucket, each] == 0 else free
        if way >= 0:
            before, now = np.int64(held[bucket, way]), np.int64(partitions[row])
            if before != now:
                return int((min(before, now) << 32) | max(before, now))
        else:
            way = free if free >= 0 else np.int64(key >> np.uint64(61))
            known[bucket, way] = key
            held[bucket, way] = partitions[row]
    return -1
