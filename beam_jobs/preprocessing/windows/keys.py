"""Which slot a key has: two 64-bit hashes of its bytes stand for it, in an open-addressing table.

Keys come from outside, so the hashes are keyed with numbers drawn anew in each process (as aHash and wyhash are):
whoever makes keys can't make them collide. Two keys are taken for one when both hashes are equal, once in 2**128
pairs.
"""

from __future__ import annotations

import secrets
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs.jit import compiled_borrowing, compiled_inline, compiled_inside
from beam_jobs.preprocessing.windows.store import FIRST_HASH, SECOND_HASH, SLOTS, Ints, Store
from beam_jobs.preprocessing.windows.wide import prefetch, product

Words = NDArray[np.uint64]
Table = NDArray[np.int32]  # a power of two of places: slot + 1 where a key's first hash leads, or in the next free one

SEEDS = np.array([secrets.randbits(64) | 1 for _ in range(4)], np.uint64)


def hashed(keys: pa.Array, seeds: Words = SEEDS) -> tuple[Words, Words]:
    """Two hashes of each key, uint64 [n]. ``keys``: string [n], no nulls; ``seeds``: [4], odd."""
    n = len(keys)
    _, offsets, data = keys.buffers()
    ends = np.frombuffer(offsets, np.int32)[keys.offset : keys.offset + n + 1]
    if data is None or data.size % 8 or data.address % 8:
        padded = np.zeros(((data.size if data else 0) + 7) // 8 * 8, np.uint8)
        padded[: data.size if data else 0] = np.frombuffer(data or b"", np.uint8)
        words = padded.view(np.uint64)
    else:
        words = np.frombuffer(data, np.uint64)
    first, second = np.empty(n, np.uint64), np.empty(n, np.uint64)
    _hash(ends, words, seeds, first, second)
    return first, second


@compiled_inline
def _folded(a: Any, b: Any) -> Any:
    low, high = product(a, b)
    return low ^ high


@compiled_inline
def _bytes_at(words: Words, at: Any, count: Any) -> Any:
    """``count`` bytes, 1 to 8, from byte ``at`` on, as a number."""
    word, bit = at >> 3, np.uint64((at & 7) << 3)
    found = words[word] >> bit
    if (at & 7) + count > 8:
        found |= (words[word + 1] << np.uint64(1)) << (np.uint64(63) - bit)
    if count < 8:
        found &= (np.uint64(1) << np.uint64(count << 3)) - np.uint64(1)
    return found


@compiled_borrowing
def _hash(ends: NDArray[np.int32], words: Words, seeds: Words, first: Words, second: Words) -> None:
    s0, s1, s2, s3 = seeds[0], seeds[1], seeds[2], seeds[3]
    for row in range(len(first)):
        at, end = np.int64(ends[row]), np.int64(ends[row + 1])
        a, b = s0 ^ np.uint64(end - at), s1 + np.uint64(end - at)
        while at < end:
            word = _bytes_at(words, at, min(end - at, 8))
            a, b = _folded(a ^ word, s2), _folded(b ^ word, s3)
            at += 8
        first[row], second[row] = _folded(a ^ s1, s3), _folded(b ^ s0, s2)


class Keys(NamedTuple):
    """The keys of n rows."""

    first: Words  # [n], hashes
    second: Words
    table: Table
    slots: NDArray[np.uint32]  # [n], filled in by ``find_slots``


@compiled_inside
def find_slots(keys: Keys, store: Store, begin: Any, end: Any) -> None:
    """Fills in the slots of the rows begin to end - 1, new ones for new keys; there is room for these."""
    first, second, table, slots = keys
    heads, n, used = store.heads, len(first), store.counts[SLOTS]
    mask = np.uint64(len(table) - 1)
    places, start, width = table.ctypes.data, heads.ctypes.data, heads.shape[1] * 8
    for row in range(begin, end):
        if row + 24 < n:
            prefetch(places + 4 * np.int64(first[row + 24] & mask))
        if row + 8 < n:
            prefetch(start + (table[first[row + 8] & mask] - 1) * width)
        place = first[row] & mask
        a, b = np.int64(first[row]), np.int64(second[row])
        slot = np.int64(table[place]) - 1
        while slot >= 0 and (heads[slot, FIRST_HASH] != a or heads[slot, SECOND_HASH] != b):
            place = (place + np.uint64(1)) & mask
            slot = np.int64(table[place]) - 1
        if slot < 0:
            slot = used
            used += 1
            table[place] = used
            heads[slot, FIRST_HASH], heads[slot, SECOND_HASH] = a, b
        slots[row] = slot
    store.counts[SLOTS] = used


@compiled_borrowing
def enter_all(table: Table, heads: Ints, used: Any) -> None:
    """Fills an empty table with the slots in use."""
    mask = np.uint64(len(table) - 1)
    for slot in range(used):
        place = np.uint64(heads[slot, FIRST_HASH]) & mask
        while table[place]:
            place = (place + np.uint64(1)) & mask
        table[place] = slot + 1
