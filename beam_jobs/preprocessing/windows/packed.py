"""What a history holds, without the room between: the arrays of a snapshot.

Where the rows of a key lie follows from how many there are, so a file says nothing of it; what it does say of places
is looked through, that no loop may leave its arrays whatever stands there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.jit import compiled_borrowing
from beam_jobs.preprocessing.windows import lanes, tiles
from beam_jobs.preprocessing.windows.lanes import Lanes
from beam_jobs.preprocessing.windows.store import (
    BASE,
    FIRST,
    GRANTED,
    INDEXED,
    RING,
    RING_SIZES,
    SIZE,
    USED,
    Ints,
    Ring,
    Store,
    allot,
    index,
    place,
    ring_for,
    ring_of,
)
from beam_jobs.preprocessing.windows.tiles import Tiles

Arrays = Mapping[str, NDArray[Any]]


def packed(held: Store, slots: int) -> Arrays:
    """Copies of the heads of slots in use, of their rows one behind the other, and of what is counted."""
    used = held.heads[:slots].copy()
    rows = np.empty((int(_halves(held, SIZE)[0][:slots].sum()), held.rows.shape[1]), np.int64)
    _pack(held, slots, rows)
    return {"heads": used, "rows": rows, "counts": held.counts.copy()}


def room_of(heads: Ints) -> int:
    """How many rows an arena must have for the keys of packed heads."""
    halves = heads.view(np.uint32)
    size = halves[halves[:, RING] > 0, SIZE].astype(np.int64)
    return int(RING_SIZES[np.searchsorted(RING_SIZES, size + size // 16 + 1)].sum())


def rows_fit(arrays: Arrays) -> bool:
    """Whether there are as many rows as the heads say."""
    halves = arrays["heads"].view(np.uint32)
    size = halves[:, SIZE].astype(np.int64)
    return bool(size.sum() == len(arrays["rows"]) and (size[halves[:, RING] == 0] == 0).all())


def unpack(arrays: Arrays, to: Store) -> None:
    """Puts packed keys into empty arrays that are large enough."""
    to.heads[: len(arrays["heads"])] = arrays["heads"]
    to.counts[:] = arrays["counts"]
    to.counts[[USED, GRANTED, INDEXED]] = 0
    _unpack(arrays["rows"], len(arrays["heads"]), to)


def lanes_fit(held: Store, of: Lanes) -> bool:
    """Whether the stretch of each lane is one of its key's rows."""
    (size,) = _halves(held, SIZE)
    stretches = (_halves(held, 2 * at + lanes.LOW, 2 * at + lanes.HIGH) for at in of.plan[:, lanes.AT])
    return all(bool(((low <= high) & (high <= size)).all()) for low, high in stretches)


def tiles_fit(held: Store, of: Lanes, known: Tiles, rows: Ints) -> bool:
    """Whether each lane begins at a tile that is there, and tiles (packed ``rows``) refer to sums that are."""
    (sizes,) = _halves(known.store, SIZE)
    for lane in of.plan[of.plan[:, lanes.TILE] > 0]:
        (suffix,) = _halves(held, 2 * lane[lanes.SUFFIX])
        hop = known.parts[lane[lanes.TILE] - 1, tiles.HOP]
        if (suffix > sizes[hop :: len(known.hops)]).any():
            return False
    hops = np.repeat(np.arange(len(sizes)) % len(known.hops), sizes)  # of each tile
    for part in known.parts[known.parts[:, tiles.ODDS] > 0]:
        odds = rows[hops == part[tiles.HOP], part[tiles.ODDS]]
        if ((odds < 0) | (odds >= len(known.odds))).any():
            return False
    return True


def _halves(held: Store, *places: int) -> list[NDArray[np.int64]]:
    return [held.halves[:, place].astype(np.int64) for place in places]


@compiled_borrowing
def _pack(held: Store, slots: Any, rows: Ints) -> None:
    at = 0
    for slot in range(slots):
        if held.halves[slot, RING]:
            ring = ring_of(held, slot)
            for i in range(np.int64(held.halves[slot, SIZE])):
                source = place(ring, i)
                for column in range(rows.shape[1]):
                    rows[at, column] = held.rows[source, column]
                at += 1


@compiled_borrowing
def _unpack(rows: Ints, slots: Any, to: Store) -> None:
    at = 0
    for slot in range(slots):
        if not to.halves[slot, RING]:
            continue
        size = np.int64(to.halves[slot, SIZE])
        number = ring_for(to.sizes, size)
        base = allot(to.counts, to.sizes[number])
        to.counts[GRANTED] += to.sizes[number]
        to.halves[slot, BASE], to.halves[slot, RING], to.halves[slot, FIRST] = base, number + 1, 0
        for i in range(size):
            for column in range(rows.shape[1]):
                to.rows[base + i, column] = rows[at, column]
            at += 1
        if size:
            index(to, Ring(base, np.int64(0), to.sizes[number]), base, base + size)
