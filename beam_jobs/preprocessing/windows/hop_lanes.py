"""Lanes of frames in hop form: a stretch of a key's rows, and before it its tiles from one on to the last."""

from __future__ import annotations

from typing import Any

import numpy as np

from beam_jobs.jit import compiled_inline, compiled_inside
from beam_jobs.preprocessing.windows import tiles as t
from beam_jobs.preprocessing.windows import wide
from beam_jobs.preprocessing.windows.lanes import (
    AT,
    END,
    EXCLUDE,
    EXTREMES,
    HIGH,
    LOW,
    RUNNING,
    SQUARES_AT,
    SUFFIX,
    SUM_AT,
    TILE,
    VALUES,
    Lanes,
    clear,
    cross,
    oldest,
)
from beam_jobs.preprocessing.windows.store import NULL, SIZE, Ints, Ring, Store, below, place
from beam_jobs.preprocessing.windows.tiles import Tiles


@compiled_inline
def _key(tiles: Tiles, lane: Ints, slot: Any) -> int:
    """The key in the store of tiles."""
    return slot * len(tiles.hops) + tiles.parts[lane[TILE] - 1, t.HOP]


@compiled_inline
def _pass(store: Store, tiles: Tiles, lane: Ints, slot: Any, tile: Any, leaves: Any) -> None:
    """A tile enters or leaves the running values of a lane."""
    if not lane[RUNNING]:
        return
    part, rows, heads = tiles.parts[lane[TILE] - 1], tiles.store.rows, store.heads
    counted = rows[tile, part[t.COUNTED]]  # how many values, and in the upper half the odd ones
    if not counted:
        return
    heads[slot, lane[RUNNING]] += -counted if leaves else counted
    at = lane[EXTREMES]
    if at:
        least, most = tiles.store.values[tile, part[t.EXTREMES]], tiles.store.values[tile, part[t.EXTREMES] + 1]
        if leaves and store.halves[slot, 2 * lane[RUNNING] + VALUES] == 0:
            store.extremes[slot, at], store.extremes[slot, at + 1] = np.nan, -np.inf
        elif leaves:
            if not store.extremes[slot, at] < least:
                heads[slot, at] = NULL
            if not most < store.extremes[slot, at + 1]:
                heads[slot, at + 1] = NULL
        else:
            if heads[slot, at] != NULL and below(least, store.extremes[slot, at]):
                store.extremes[slot, at] = least
            if heads[slot, at + 1] != NULL and below(store.extremes[slot, at + 1], most):
                store.extremes[slot, at + 1] = most
    if lane[SUM_AT]:
        t.add_words(heads, slot, lane[SUM_AT], rows, tile, part[t.SUM_AT], wide.SUM_WORDS, leaves)
    if lane[SQUARES_AT]:
        t.add_words(heads, slot, lane[SQUARES_AT], rows, tile, part[t.SQUARES_AT], wide.SQUARE_WORDS, leaves)


@compiled_inside
def show_hops(store: Store, ring: Ring, tiles: Tiles, lane: Ints, slot: Any, time: Any, end: Any) -> None:
    """Moves a lane to the frame of a row of a time; ``end`` as for ``show``."""
    rows, at = store.rows, 2 * lane[AT]
    size = np.int64(store.halves[slot, SIZE])
    from_, to = np.int64(store.halves[slot, at + LOW]), np.int64(store.halves[slot, at + HIGH])
    begin = np.int64(store.halves[slot, 2 * lane[SUFFIX]])
    first, low, high, suffix = oldest(lane, time), from_, to, begin
    while low < size and rows[place(ring, low), 0] < first:
        low += 1
    while low > 0 and rows[place(ring, low - 1), 0] >= first:
        low -= 1
    if lane[END] == 0:
        high = end - lane[EXCLUDE]
    else:
        last = time - lane[END]
        while high < size and rows[place(ring, high), 0] <= last:
            high += 1
        while high > 0 and rows[place(ring, high - 1), 0] > last:
            high -= 1
    high = max(low, high)
    key = _key(tiles, lane, slot)
    count, tile_ring = t.tiles_of(tiles, key)
    while suffix < count and tiles.store.rows[place(tile_ring, suffix), 0] < first:
        suffix += 1
    while suffix > 0 and tiles.store.rows[place(tile_ring, suffix - 1), 0] >= first:
        suffix -= 1
    store.halves[slot, at + LOW], store.halves[slot, at + HIGH] = low, high
    store.halves[slot, 2 * lane[SUFFIX]] = suffix
    if not lane[RUNNING]:
        return
    # Rows that stay are those from ``stay`` to ``left``; others enter and leave.
    stay, left = max(low, from_), min(high, to)
    if stay >= left:
        stay, left = low, low
    moved = to - from_ + high - low - 2 * (left - stay) + abs(suffix - begin)
    if moved > high - low + count - suffix or (from_ == to and begin == count):
        clear(store, lane, slot)
        from_, to, begin = low, low, count
        stay, left = low, low
    for i in range(min(suffix, begin), max(suffix, begin)):
        _pass(store, tiles, lane, slot, place(tile_ring, i), begin < suffix)
    enter, leave = high - low - (left - stay), to - from_ - (left - stay)
    for step in range(enter + leave):
        row: Any = low + step if step < enter else from_ + step - enter
        cross(store, lane, slot, place(ring, row if row < stay else row + left - stay), step >= enter)


@compiled_inside
def take_out(store: Store, ring: Ring, lanes: Lanes, tiles: Tiles, slot: Any, gone: Any) -> int:
    """The first rows of a key go into tiles; how many did, fewer than ``gone`` where there is no room for more."""
    hops, halves, done = len(tiles.hops), store.halves, gone
    for position in range(gone):
        if not t.tiles_have_room(tiles, slot):
            done = position
            break
        row = place(ring, position)
        for hop in range(hops):
            key = slot * hops + hop
            new = t.put(tiles, hop, key, store, row)
            last = np.int64(tiles.store.halves[key, SIZE]) - 1
            for number in range(len(lanes.plan)):
                lane = lanes.plan[number]
                if lane[TILE] and tiles.parts[lane[TILE] - 1, t.HOP] == hop:
                    inside = halves[slot, 2 * lane[AT] + LOW] <= position < halves[slot, 2 * lane[AT] + HIGH]
                    if new and halves[slot, 2 * lane[SUFFIX]] == last and not inside:
                        halves[slot, 2 * lane[SUFFIX]] = last + 1
                    known = halves[slot, 2 * lane[SUFFIX]] <= last
                    if lane[RUNNING] and known != inside:
                        cross(store, lane, slot, row, inside)
    for number in range(len(lanes.plan)):
        lane = lanes.plan[number]
        if lane[TILE]:
            for half in range(2 * lane[AT] + LOW, 2 * lane[AT] + HIGH + 1):
                halves[slot, half] -= done if halves[slot, half] > done else halves[slot, half]
    return done


@compiled_inside
def forget_tiles(store: Store, lanes: Lanes, tiles: Tiles, slot: Any, bound: Any) -> None:
    """Drops the tiles of a key that no row from ``bound`` on sees."""
    hops = len(tiles.hops)
    for hop in range(hops):
        key, gone = slot * hops + hop, 0
        size, ring = t.tiles_of(tiles, key)
        while gone < size and t.is_out_of_reach(tiles, hop, place(ring, gone), bound):
            gone += 1
        if gone:
            for number in range(len(lanes.plan)):
                lane = lanes.plan[number]
                if lane[TILE] and tiles.parts[lane[TILE] - 1, t.HOP] == hop:
                    suffix = np.int64(store.halves[slot, 2 * lane[SUFFIX]])
                    for position in range(suffix, gone):
                        _pass(store, tiles, lane, slot, place(ring, position), True)
                    store.halves[slot, 2 * lane[SUFFIX]] = suffix - min(suffix, np.int64(gone))
            t.drop_tiles(tiles, key, ring, gone)
