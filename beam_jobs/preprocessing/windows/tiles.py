"""Frames in hop form: what has grown older than late rows can be is known by hops alone.

A row in the order of its key, or late but not too late, is of a time from ``bound`` on. So of a frame that begins at a
full hop the rows before ``bound`` are wanted all together or hop by hop, never one by one. A row that falls behind
``bound`` is therefore taken out of the key's rows and put into its tile: how many values a hop has, their exact sum,
their sum of squares, extremes, the first and the last one, as far as they are asked for. Rows fall behind in the order
of their times, so it is always the last tile of a key that takes them, or a new one; hops without a row have none.

A lane (lanes.py) of such a frame stands for a stretch of the key's rows and, before it, for its tiles from one on to
the last. Its running values are those of both, so a row that goes from the one to the other changes nothing in them.

Tiles lie in a store as rows do (store.py). Its "key" is a key's slot and a hop: ``slot * hops + hop``. Values that no
fixed-point sum holds (wide.py) are summed in rows of ``odds``, one for each tile that has such.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from beam_jobs.jit import compiled_borrowing, compiled_inline, compiled_inside
from beam_jobs.preprocessing.windows import exact_sum, wide
from beam_jobs.preprocessing.windows.frames import HOP_ORIGIN_US
from beam_jobs.preprocessing.windows.store import (
    BASE,
    FIRST,
    GRANTED,
    HEAD_WORDS,
    KEYS,
    NULL,
    RING,
    ROWS,
    SIZE,
    USED,
    Ints,
    Ring,
    Store,
    below,
    drop_oldest,
    insert,
    is_null,
    place,
    release,
    ring_for,
    ring_of,
    value_at,
)

# Columns of ``hops``.
HOP_US, REACH_US = 0, 1

# Columns of ``parts``; places are words of a tile, 0: it has no such thing.
HOP, COLUMN = 0, 1  # row of ``hops``; of the key's rows
COUNTED, EXTREMES, SUM_AT, SQUARES_AT, ODDS, ENDS = 2, 3, 4, 5, 6, 7
PART_COLUMNS = 8

ODD_WORDS = 2 * exact_sum.LIMBS + 4  # a sum, a sum of squares, what no limb holds
_SPECIAL = 2 * exact_sum.LIMBS
_CARRIED = 1024  # tiles that are added before digits carry over: of 48 bits each, they leave room for 32,768
NEXT_ODD, FREE_ODD = 0, 1  # of ``spare``: the first row never used, the last one given back + 1


class Tiles(NamedTuple):
    """The tiles of a history."""

    store: Store
    hops: Ints  # [H, 2]: microseconds; how far behind the bound tiles begin that are still seen
    parts: Ints  # [P, PART_COLUMNS]: an argument in a hop
    odds: Ints  # [n, ODD_WORDS]; the first row stands for none
    spare: Ints


@compiled_inline
def hop_start(time: Any, hop: Any) -> int:
    return time - (time - HOP_ORIGIN_US) % hop


@compiled_inline
def tiles_of(tiles: Tiles, key: Any) -> tuple[Any, Ring]:
    """How many tiles a key of the store has, and where."""
    size = np.int64(tiles.store.halves[key, SIZE])
    nowhere = np.int64(0)
    return size, (ring_of(tiles.store, key) if size else Ring(nowhere, nowhere, nowhere))


@compiled_borrowing
def tile_room(tiles: Tiles, slot: Any) -> int:
    """How many tiles the arena must have room for, that a row more of a key is sure to find some."""
    hops, sizes = len(tiles.hops), tiles.store.sizes
    room = np.int64(0)
    for key in range(slot * hops, (slot + 1) * hops):
        room += 2 * sizes[tiles.store.halves[key, RING]]
    return int(room)


@compiled_inline
def tiles_have_room(tiles: Tiles, slot: Any) -> bool:
    """Whether a row of a key is sure to find room."""
    return tiles.store.counts[USED] + tile_room(tiles, slot) <= len(tiles.store.rows) and tiles.spare[NEXT_ODD] + len(
        tiles.parts
    ) <= len(tiles.odds)


@compiled_inline
def _new_odd(tiles: Tiles) -> int:
    """A row of ``odds``, all 0."""
    spare, odds = tiles.spare, tiles.odds
    odd = spare[FREE_ODD] - 1
    if odd >= 0:
        spare[FREE_ODD] = odds[odd, 0]
    else:
        odd = spare[NEXT_ODD]
        spare[NEXT_ODD] += 1
    odds[odd] = 0
    return odd


@compiled_inline
def _last_tile(tiles: Tiles, key: Any, time: Any, hop: Any) -> tuple[Any, bool]:
    """The row of the tile that a row goes into which is no older than any before, and whether it is a new one."""
    store, start = tiles.store, hop_start(time, hop)
    size, ring = tiles_of(tiles, key)
    if size:
        last = place(ring, size - 1)
        if store.rows[last, 0] == start:
            return last, False
    tile = insert(store, key, size, start)
    for word in range(1, store.rows.shape[1]):
        store.rows[tile, word] = 0
    return tile, True


@compiled_inline
def _put(tiles: Tiles, part: Ints, tile: Any, first: Any, source: Store, row: Any) -> None:
    """The value of a row goes into a part of a tile; ``first``: it is the first row of the tile."""
    store, null = tiles.store, is_null(source, row, part[COLUMN])
    value = value_at(source, row, part[COLUMN])
    if part[ENDS]:
        bits = NULL if null else np.float64(value).view(np.int64)
        if first:
            store.rows[tile, part[ENDS]] = bits
        store.rows[tile, part[ENDS] + 1] = bits
    if null or not part[COUNTED]:
        return
    counted = store.rows[tile, part[COUNTED]]
    store.rows[tile, part[COUNTED]] = counted + 1
    at = part[EXTREMES]
    if at:
        if counted == 0 or below(value, store.values[tile, at]):
            store.values[tile, at] = value
        if counted == 0 or below(store.values[tile, at + 1], value):
            store.values[tile, at + 1] = value
    if part[SUM_AT]:
        mantissa, shift = wide.parts(value)
        if shift >= 0:
            wide.add_value(store.rows, tile, part[SUM_AT], mantissa, shift, value < 0)
            if part[SQUARES_AT]:
                wide.add_square(store.rows, tile, part[SQUARES_AT], mantissa, shift, False)
        else:
            store.rows[tile, part[COUNTED]] += 1 << 32
            if store.rows[tile, part[ODDS]] == 0:
                store.rows[tile, part[ODDS]] = _new_odd(tiles)
            odd = tiles.odds[store.rows[tile, part[ODDS]]]
            limbs = exact_sum.LIMBS
            exact_sum.update(value, 1, part[SQUARES_AT] > 0, odd[:limbs], odd[limbs:_SPECIAL], odd[_SPECIAL:])


@compiled_inline
def put(tiles: Tiles, hop: Any, key: Any, source: Store, row: Any) -> bool:
    """A row that no row before it is younger than goes into its tile; whether that is a new one."""
    tile, new = _last_tile(tiles, key, source.rows[row, 0], tiles.hops[hop, HOP_US])
    for p in range(len(tiles.parts)):
        if tiles.parts[p, HOP] == hop:
            _put(tiles, tiles.parts[p], tile, new, source, row)
    return new


@compiled_inline
def is_out_of_reach(tiles: Tiles, hop: Any, tile: Any, bound: Any) -> bool:
    return tiles.store.rows[tile, 0] < bound - tiles.hops[hop, REACH_US]


@compiled_inline
def any_out_of_reach(tiles: Tiles, slot: Any, bound: Any) -> bool:
    """Whether the key has tiles that no row from ``bound`` on sees."""
    hops, found = len(tiles.hops), False
    for hop in range(hops):
        size, ring = tiles_of(tiles, slot * hops + hop)
        found |= size > 0 and is_out_of_reach(tiles, hop, place(ring, 0), bound)
    return found


@compiled_inline
def drop_tiles(tiles: Tiles, key: Any, ring: Ring, gone: Any) -> None:
    """The first tiles of a key are out of reach."""
    for position in range(gone):
        _give_odds_back(tiles, key % len(tiles.hops), place(ring, position))
    drop_oldest(tiles.store, key, gone)


@compiled_inline
def _give_odds_back(tiles: Tiles, hop: Any, tile: Any) -> None:
    for p in range(len(tiles.parts)):
        if tiles.parts[p, HOP] == hop and tiles.parts[p, ODDS]:
            odd = tiles.store.rows[tile, tiles.parts[p, ODDS]]
            if odd:
                tiles.odds[odd, 0] = tiles.spare[FREE_ODD]
                tiles.spare[FREE_ODD] = odd + 1


@compiled_inside
def give_tiles_back(tiles: Tiles, slot: Any) -> None:
    """A key has gone idle."""
    store, hops = tiles.store, len(tiles.hops)
    for key in range(slot * hops, (slot + 1) * hops):
        if store.halves[key, RING]:
            size, ring = tiles_of(tiles, key)
            for position in range(size):
                _give_odds_back(tiles, key % hops, place(ring, position))
            release(store, key)
            store.counts[ROWS] -= size
            store.counts[KEYS] -= 1
            for word in range(HEAD_WORDS - 2, HEAD_WORDS):
                store.heads[key, word] = 0


# What lanes ask of the tiles from ``first`` on.


@compiled_inline
def add_words(to: Ints, row: Any, at: Any, source: Ints, from_row: Any, from_at: Any, words: Any, leaves: Any) -> None:
    """Adds an integer of several words to another one, or takes it away."""
    carry = np.uint64(1 if leaves else 0)
    for i in range(words):
        a, b = np.uint64(to[row, at + i]), np.uint64(source[from_row, from_at + i])
        if leaves:
            b = ~b
        part = a + b
        total = part + carry
        carry = np.uint64(1 if part < a or total < part else 0)
        to[row, at + i] = np.int64(total)


@compiled_inline
def has_tiles(tiles: Tiles, key: Any, first: Any) -> bool:
    return first < np.int64(tiles.store.halves[key, SIZE])


@compiled_inline
def tile_end(tiles: Tiles, key: Any, part: Any, first: Any, last: Any) -> int:
    """The bits of the first value of tiles, or of the last one; there is one."""
    size, ring = tiles_of(tiles, key)
    tile = place(ring, size - 1 if last else first)
    return int(tiles.store.rows[tile, tiles.parts[part, ENDS] + (1 if last else 0)])


@compiled_inside
def tile_extremes(tiles: Tiles, key: Any, part: Ints, first: Any, least: Any, most: Any) -> tuple[float, float]:
    """The smallest and the largest value of tiles and of two more values; NaN and -inf stand for none."""
    size, ring = tiles_of(tiles, key)
    at, values = part[EXTREMES], tiles.store.values
    for position in range(first, size):
        tile = place(ring, position)
        if tiles.store.rows[tile, part[COUNTED]]:
            if below(values[tile, at], least):
                least = values[tile, at]
            if below(most, values[tile, at + 1]):
                most = values[tile, at + 1]
    return least, most


@compiled_inside
def add_tiles(tiles: Tiles, key: Any, part: Ints, first: Any, total: Ints, squares: Ints, special: Ints) -> None:
    """Adds the sums of tiles to those of exact_sum."""
    size, ring = tiles_of(tiles, key)
    limbs = exact_sum.LIMBS
    for position in range(first, size):
        tile = place(ring, position)
        if position % _CARRIED == 0:
            exact_sum.carry_over(total)
            exact_sum.carry_over(squares)
        exact_sum.add_integer(total, tiles.store.rows, tile, part[SUM_AT], wide.SUM_WORDS, wide.SUM_UNIT)
        if part[SQUARES_AT]:
            exact_sum.add_integer(
                squares, tiles.store.rows, tile, part[SQUARES_AT], wide.SQUARE_WORDS, wide.SQUARE_UNIT
            )
        odd = tiles.store.rows[tile, part[ODDS]]
        if odd:
            for i in range(limbs):
                total[i] += tiles.odds[odd, i]
                squares[i] += tiles.odds[odd, limbs + i]
            for i in range(4):
                special[i] += tiles.odds[odd, _SPECIAL + i]


# All keys at once.


@compiled_borrowing
def tiles_needed(rows: Store, used: Any, tiles: Tiles) -> int:
    """How many tiles an arena needs for those of the keys of the slots in use."""
    store, hops = tiles.store, len(tiles.hops)
    needed = 0
    for slot in range(used):
        for key in range(slot * hops, (slot + 1) * hops):
            if rows.halves[slot, RING] and store.halves[key, RING]:
                needed += store.sizes[ring_for(store.sizes, np.int64(store.halves[key, SIZE]))]
    return needed


@compiled_borrowing
def move_all_tiles(rows: Store, used: Any, old: Tiles, new: Store) -> None:
    """Moves the tiles of all keys that have rows, into empty arrays; slots without rows are left out."""
    store, hops = old.store, len(old.hops)
    key = 0
    for slot in range(used):
        if not rows.halves[slot, RING]:
            continue
        for number in range(slot * hops, (slot + 1) * hops):
            if store.halves[number, RING]:
                size, source = tiles_of(old, number)
                ring, base = ring_for(new.sizes, size), new.counts[USED]
                new.counts[USED] += new.sizes[ring]
                new.counts[GRANTED] += new.sizes[ring]
                new.halves[key, BASE], new.halves[key, RING], new.halves[key, FIRST] = base, ring + 1, 0
                new.halves[key, SIZE] = size
                for i in range(size):
                    for column in range(new.rows.shape[1]):
                        new.rows[base + i, column] = store.rows[place(source, i), column]
            key += 1
