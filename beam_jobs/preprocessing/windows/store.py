"""Where the rows of each key lie: rings in one arena, in time order, with the extremes of every 16 rows beside them.

A key has a slot: a row of ``heads``, which says where its rows are and holds the running values of its windows. Its
rows (time and arguments) lie in a ring, a stretch of the arena whose size is one of a few: a ring that is full moves
to the next larger one, one that is mostly empty to a smaller one, and what it leaves is free for other keys. What is
left over at last, keys without rows too, goes when all is moved to new arrays (history.py).
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from beam_jobs.jit import compiled_inline, compiled_inside

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# A row of ``heads``: words of 64 bits; a window's running values follow (lanes.py).
FIRST_HASH, SECOND_HASH = 0, 1
HEAD_WORDS = 4
# The rest as half words, of which there are twice as many.
BASE, RING, FIRST, SIZE = (
    4,
    5,
    6,
    7,
)  # first row in the arena, which size of ring + 1 (0: none), its first row, rows in it

# ``counts``
USED, GRANTED, ROWS = 0, 1, 2  # rows of the arena: ever used, in rings, that hold one
KEYS, CLOCK = 3, 4  # that have a ring; highest record time
LATE, ALONE, FUTURE = 5, 6, 7  # rows so far
REFUSED = 8  # 0, or why no more rows are taken
SLOTS = 9  # in use
INDEXED = 10  # rows of the arena ever used by rings whose extremes are known
COUNTS = 11
TOO_MANY, TOO_MANY_SORTED = 1, 2  # rows of a key; rows in a window that looks for a quantile

FIRST_ROWS = 1 << 12  # of an arena at the start
_MAPPED, _LARGE = 1 << 20, 1 << 28  # bytes
_SPARE = 16  # moving all pays from a sixteenth of the arena on
BLOCK = 16  # rows of the arena whose extremes are known
INDEXED_FROM = 64  # rows of a ring; to look through a smaller one costs less than to keep its extremes
NULL = 0x7FF800000000DEAD  # bits that no value has, where a row has none
ENDLESS = (1 << 63) - 1
_LEAST, _MOST = -(1 << 63), (1 << 63) - 1


def _ring_sizes() -> Ints:
    """Steps of 4 rows at first, of an eighth later."""
    sizes = [4]
    while sizes[-1] < 1 << 30:
        sizes.append(sizes[-1] + max(4, sizes[-1] // 32 * 4))
    return np.array(sizes, np.int64)


RING_SIZES = _ring_sizes()


class Store(NamedTuple):
    """The arrays; views of one another where they are the same memory in another type."""

    heads: Ints  # [slots, words]
    halves: NDArray[np.uint32]  # ``heads`` by half words
    extremes: Floats  # ``heads`` as doubles
    rows: (
        Ints  # [arena, 1 + A + D]: time, bits of the arguments, of distinct arguments the time of the next equal value
    )
    values: Floats  # ``rows`` as doubles
    blocks: Ints  # [arena / BLOCK, 2 K]: smallest and largest value of each of ``indexed``, as ``_ordered`` integers
    indexed: Ints  # [K], columns of ``rows`` of which extremes are wanted
    distinct: (
        Ints  # [D], columns of ``rows`` of which different values are counted; the column of the next time: 1 + A + d
    )
    free: Ints  # by size of ring: a free one's base, whose first word says the next one's; -1: none
    sizes: Ints  # RING_SIZES
    counts: Ints


def zeros(rows: int, words: int) -> Ints:
    """[rows, words], from the beginning of a line of memory (64 bytes) on, so that rows are in as few as can be.

    What has not been written to yet takes no memory.
    """
    n = rows * words
    if n * 8 < _MAPPED:
        memory = np.zeros(n + 8, np.int64)
        start = -memory.ctypes.data % 64 // 8
        return memory[start : start + n].reshape(rows, words)
    pages = mmap.mmap(-1, n * 8, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0))
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without
            pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.int64, n).reshape(rows, words)


def larger(length: int, words: int, needed: int) -> int:
    """How long an array is to be that is too short: to be filled is what costs, not to be long."""
    return max(length * (4 if length * words * 8 < _LARGE else 2), needed)


def empty(
    slots: int,
    head_words: int,
    rows: int,
    columns: int,
    indexed: Ints,
    distinct: Ints,
    counts: Ints,
) -> Store:
    """Empty arrays."""
    heads = zeros(slots, head_words)
    arena = zeros(rows, columns)  # not what was in that memory: snapshots hold rows as they are
    return Store(
        heads,
        heads.view(np.uint32),
        heads.view(np.float64),
        arena,
        arena.view(np.float64),
        np.empty((rows // BLOCK + 1, 2 * len(indexed)), np.int64),
        indexed,
        distinct,
        np.full(len(RING_SIZES), -1, np.int64),
        RING_SIZES,
        counts,
    )


def tile_store(keys: int, rows: int, words: int) -> Store:
    none = np.zeros(0, np.int64)
    return empty(keys, HEAD_WORDS, rows, words, none, none, np.zeros(COUNTS, np.int64))


def with_heads(old: Store, heads: Ints) -> Store:
    return old._replace(heads=heads, halves=heads.view(np.uint32), extremes=heads.view(np.float64))


def with_room(old: Store, needed: int) -> Store:
    """The store with room in its arena for so many rows more."""
    used = int(old.counts[USED])
    if used + needed <= len(old.rows):
        return old
    columns = old.rows.shape[1]
    arena = zeros(larger(len(old.rows), columns, used + needed + BLOCK), columns)
    arena[:used] = old.rows[:used]
    blocks = np.empty((len(arena) // BLOCK + 1, old.blocks.shape[1]), np.int64)
    blocks[: len(old.blocks)] = old.blocks
    return old._replace(rows=arena, values=arena.view(np.float64), blocks=blocks)


def has_spare(held: Store) -> bool:
    """Whether so much of an arena is in no ring that it pays to move all."""
    granted, most = int(held.counts[GRANTED]), 2 * FIRST_ROWS // held.rows.shape[1]  # wide rows take more bytes
    return int(held.counts[USED]) - granted > granted // _SPARE + most


class Ring(NamedTuple):
    """A stretch of the arena."""

    base: Any
    first: Any  # where in it the oldest row is
    size: Any  # rows it has room for


@compiled_inline
def below(a: Any, b: Any) -> bool:
    """a < b, where NaN is above every number."""
    return a < b or (b != b and a == a)


@compiled_inline
def value_at(store: Store, row: Any, column: Any) -> float:
    """A value of a row of the arena as a double; the time, too."""
    if column == 0:
        return np.float64(store.rows[row, 0])
    return store.values[row, column]


@compiled_inline
def is_null(store: Store, row: Any, column: Any) -> bool:
    return column > 0 and store.rows[row, column] == NULL


@compiled_inline
def ring_of(store: Store, slot: Any) -> Ring:
    """Where a key's rows lie; the key has some."""
    halves = store.halves
    size = store.sizes[halves[slot, RING] - 1]
    return Ring(np.int64(halves[slot, BASE]), np.int64(halves[slot, FIRST]), size)


@compiled_inline
def place(ring: Ring, position: Any) -> Any:
    """The row of the arena where a key's row is; ``position``: 0 for the oldest."""
    at = ring.first + position
    return np.uint32(ring.base + (at - ring.size if at >= ring.size else at))


@compiled_inline
def _ordered(value: Any) -> Any:
    """A value as an integer: smaller values have smaller ones, NaN, above every number, a larger one."""
    bits = np.float64(value).view(np.int64)
    return bits ^ ((bits >> 63) & _MOST)


@compiled_inline
def _value(ordered: Any) -> float:
    """The value of ``_ordered``."""
    return np.int64(ordered ^ ((ordered >> 63) & _MOST)).view(np.float64)


@compiled_inline
def _with_row(store: Store, row: Any, column: Any, least: Any, most: Any) -> tuple[Any, Any]:
    """Extremes, ordered, with one row more."""
    if is_null(store, row, column):
        return least, most
    value = _ordered(value_at(store, row, column))
    return min(least, value), max(most, value)


@compiled_inside
def index(store: Store, ring: Ring, first: Any, end: Any) -> None:
    """Rows first to end - 1 of a ring are new: the extremes of their blocks, of the rows up to ``end``."""
    if ring.size < INDEXED_FROM:
        return
    blocks = store.blocks
    for k in range(len(store.indexed)):
        for block in range(first // BLOCK, (end - 1) // BLOCK + 1):
            least, most = _MOST, _LEAST
            for row in range(block * BLOCK, min(end, (block + 1) * BLOCK)):
                least, most = _with_row(store, row, store.indexed[k], least, most)
            blocks[block, 2 * k], blocks[block, 2 * k + 1] = least, most


@compiled_inline
def index_last(store: Store, ring: Ring, row: Any) -> None:
    """A row is new, the last one of its ring."""
    if ring.size < INDEXED_FROM:
        return
    blocks, block = store.blocks, row // BLOCK
    for k in range(len(store.indexed)):
        least, most = blocks[block, 2 * k], blocks[block, 2 * k + 1]
        if row % BLOCK == 0:
            least, most = _MOST, _LEAST
        blocks[block, 2 * k], blocks[block, 2 * k + 1] = _with_row(store, row, store.indexed[k], least, most)


@compiled_inline
def extremes(store: Store, ring: Ring, low: Any, high: Any, column: Any, k: Any) -> tuple[float, float]:
    """The smallest and the largest value of a key's rows, position low to high - 1, of column ``indexed[k]``.

    NaN and -infinity where they have no value.
    """
    least, most = _MOST, _LEAST
    row, last = np.int64(place(ring, low)), np.int64(place(ring, high - 1))
    end = last + 1 if row <= last else ring.base + ring.size
    while row < end:
        whole, after = end, end  # blocks that are asked about as such begin and end there
        if ring.size >= INDEXED_FROM and end - row >= 2 * BLOCK:
            whole, after = (row + BLOCK - 1) // BLOCK * BLOCK, end // BLOCK * BLOCK
        for block in range(whole // BLOCK, after // BLOCK):
            least = min(least, store.blocks[block, 2 * k])
            most = max(most, store.blocks[block, 2 * k + 1])
        for step in range(whole - row + end - after):
            at = row + step if row + step < whole else row + step + after - whole
            least, most = _with_row(store, at, column, least, most)
        row, end = (end, end) if end == last + 1 else (ring.base, last + 1)  # or the ring begins again
    if least > most:  # no values
        return np.nan, -np.inf
    return _value(least), _value(most)


@compiled_inside
def ring_for(sizes: Ints, rows: Any) -> int:
    """Which size of ring holds so many rows and some more."""
    ring = 0
    wanted = rows + rows // 16 + 1
    while sizes[ring] < wanted:
        ring += 1
    return ring


@compiled_inline
def has_room(store: Store, slot: Any) -> bool:
    """Whether a row more of the key is sure to find a place in the arena."""
    ring = store.halves[slot, RING]
    return store.counts[USED] + 2 * store.sizes[ring] <= len(store.rows)


@compiled_inline
def allot(counts: Ints, rows: Any) -> int:
    """The first row of a part of the arena that no ring has used; there is room for it."""
    base = counts[USED]
    counts[USED] += rows
    if rows >= INDEXED_FROM:
        counts[INDEXED] += rows
    return base


@compiled_inside
def move(store: Store, slot: Any, ring: Any) -> None:
    """Moves the rows of a key, if it has some, to a ring of another size; ``has_room`` has been asked."""
    halves, sizes, free, counts, rows = store.halves, store.sizes, store.free, store.counts, store.rows
    if free[ring] >= 0:
        base = free[ring]
        free[ring] = rows[base, 0]
    else:
        base = allot(counts, sizes[ring])
    counts[GRANTED] += sizes[ring]
    size = np.int64(halves[slot, SIZE])
    old = ring_of(store, slot) if size else Ring(base, base, base)
    for i in range(size):
        source = place(old, i)
        for column in range(rows.shape[1]):
            rows[base + i, column] = rows[source, column]
    if halves[slot, RING]:
        release(store, slot)
    else:
        counts[KEYS] += 1
    halves[slot, BASE], halves[slot, RING], halves[slot, FIRST] = base, ring + 1, 0
    if size:
        index(store, Ring(base, np.int64(0), sizes[ring]), base, base + size)


@compiled_inside
def release(store: Store, slot: Any) -> None:
    """Gives a key's ring back."""
    halves, free, counts = store.halves, store.free, store.counts
    ring = np.int64(halves[slot, RING]) - 1
    base = np.int64(halves[slot, BASE])
    store.rows[base, 0] = free[ring]
    free[ring] = base
    counts[GRANTED] -= store.sizes[ring]
    halves[slot, RING] = 0


@compiled_inline
def drop_oldest(store: Store, slot: Any, gone: Any) -> None:
    """The first rows of a key are out of reach."""
    halves = store.halves
    size = np.int64(halves[slot, SIZE]) - gone
    ring = np.int64(halves[slot, RING]) - 1
    first = np.int64(halves[slot, FIRST]) + gone
    halves[slot, FIRST] = first - store.sizes[ring] if first >= store.sizes[ring] else first
    halves[slot, SIZE] = size
    store.counts[ROWS] -= gone
    if ring > 0 and size * 4 < store.sizes[ring] * 3 - 8:
        move(store, slot, ring_for(store.sizes, size + 1))


@compiled_inline
def insert(store: Store, slot: Any, position: Any, time: Any) -> int:
    """Puts a row of a key before those from ``position`` on; the row of the arena, of which only the time is set."""
    halves, rows = store.halves, store.rows
    size = np.int64(halves[slot, SIZE])
    number = np.int64(halves[slot, RING]) - 1
    if number < 0 or size == store.sizes[number]:
        move(store, slot, number + 1)
    halves[slot, SIZE] = size + 1
    store.counts[ROWS] += 1
    ring = ring_of(store, slot)
    row = place(ring, size)
    for i in range(size, position, -1):
        before = place(ring, i - 1)
        for column in range(rows.shape[1]):
            rows[row, column] = rows[before, column]
        row = before
    rows[row, 0] = time
    return row


@compiled_inline
def index_from(store: Store, ring: Ring, position: Any, last: Any) -> None:
    """The rows of a key from ``position`` to ``last`` are new, or lie elsewhere."""
    start, end = np.int64(place(ring, position)), np.int64(place(ring, last))
    if position == last:
        index_last(store, ring, end)
    elif start <= end:
        index(store, ring, start, end + 1)
    else:  # the ring begins again in between
        index(store, ring, start, ring.base + ring.size)
        index(store, ring, ring.base, end + 1)
