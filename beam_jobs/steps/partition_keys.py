"""Whether the records of a key are all in one partition, as windows need them, by a sample of the keys."""

from __future__ import annotations

import threading

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

_WATCHED = 1 << 14  # keys; those with the smallest hashes, which are the same in every partition
_LOOKED_AT = 1 << 12  # records of a block, about


class PartitionKeys:
    """Remembers the partition of some keys, of all while they are few; thread-safe.

    >>> seen = PartitionKeys()
    >>> seen.elsewhere(pa.array(["a", "b", "a"]), np.array([0, 1, 0]))
    >>> seen.elsewhere(pa.array(["c", "a"]), np.array([1, 2]))
    (0, 2)
    """

    def __init__(self, watched: int = _WATCHED) -> None:
        self._watched = watched
        self._turn = 0
        self._lock = threading.Lock()
        self._hashes = np.zeros(0, np.uint64)  # ascending
        self._partitions = np.zeros(0, np.int64)  # of each
        self._largest = np.iinfo(np.uint64).max  # hash that is watched

    def elsewhere(self, keys: pa.Array, partitions: NDArray[np.int64]) -> tuple[int, int] | None:
        """Takes n records, looks at some; two partitions that hold the same key, None: none such are known.

        Args:
          keys: string [n], no nulls.
          partitions: of the records, [n].
        """
        stride = 1 + len(keys) // _LOOKED_AT
        if stride > 1:  # every so many records, for it would cost as much as a window
            some = np.arange(self._turn % stride, len(keys), stride)
            self._turn += 1
            keys, partitions = keys.take(pa.array(some)), partitions[some]
        hashes = pl.Series(keys).hash().to_numpy()
        with self._lock:
            watched = hashes <= self._largest
            found, first = np.unique(hashes[watched], return_index=True)
            held = partitions[watched]
            mixed = held != held[first][np.searchsorted(found, hashes[watched])]
            if mixed.any():
                at = int(np.flatnonzero(mixed)[0])
                return _pair(held[at], held[first][np.searchsorted(found, hashes[watched][at])])
            known = np.isin(found, self._hashes)
            before = self._partitions[np.searchsorted(self._hashes, found[known])]
            moved = np.flatnonzero(before != held[first][known])
            if len(moved):
                return _pair(before[moved[0]], held[first][known][moved[0]])
            if not known.all():
                all_hashes = np.concatenate([self._hashes, found[~known]])
                order = np.argsort(all_hashes)[: self._watched]
                self._partitions = np.concatenate([self._partitions, held[first][~known]])[order]
                self._hashes = all_hashes[order]
                if len(order) == self._watched:
                    self._largest = int(self._hashes[-1])
        return None


def _pair(one: np.int64, other: np.int64) -> tuple[int, int]:
    return min(int(one), int(other)), max(int(one), int(other))
