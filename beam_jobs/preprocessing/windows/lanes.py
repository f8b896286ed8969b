"""What frames hold, kept from row to row.

A lane is one frame of one argument; all functions of the two share it, and those of the frame that need no running
value (first and last values, count(*)). It stands for a stretch of a key's rows,
``low`` to ``high`` - 1, and has their count, exact sums and extremes. To answer for a row the stretch is moved to
that row's frame: each row that comes in is added, each that falls out taken away. So most rows cost one of each; a
late one moves the stretch back, and the next one moves it on. Where that is farther than to begin anew, it begins
anew. Sums are exact (wide.py), so the way a stretch has come leaves no trace.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from beam_jobs.jit import compiled_inline, compiled_inside
from beam_jobs.preprocessing.windows import exact_sum, wide
from beam_jobs.preprocessing.windows.frames import FUNCTIONS
from beam_jobs.preprocessing.windows.quantiles import collect, continuous, discrete
from beam_jobs.preprocessing.windows.store import (
    ENDLESS,
    NULL,
    SIZE,
    Floats,
    Ints,
    Ring,
    Store,
    below,
    extremes,
    is_null,
    place,
    value_at,
)
from beam_jobs.preprocessing.windows.tiles import HOP as HOP_NUMBER
from beam_jobs.preprocessing.windows.tiles import Tiles, add_tiles, has_tiles, hop_start, tile_end, tile_extremes

COUNT, SUM, AVG, MIN, MAX, STDDEV_SAMP, VAR_SAMP, FIRST_VALUE, LAST_VALUE, COUNT_DISTINCT = range(10)
QUANTILE_DISC, QUANTILE_CONT, QUANTILE_LINE = range(10, len(FUNCTIONS))
COUNT_ALL = len(FUNCTIONS)  # count(*), of a frame that is not in hop form: no value has to be looked at

# Columns of ``Lanes.plan``. Places are words of ``heads``; 0: the lane has no such thing.
START, END, HOP, EXCLUDE = 0, 1, 2, 3  # the frame
COLUMN, INDEX, NEXT = (
    4,
    5,
    6,
)  # of ``rows``: the argument; its number in ``indexed``; column of the next equal value's time
AT, RUNNING, EXTREMES, SUM_AT, SQUARES_AT = 7, 8, 9, 10, 11
FIRST_OUT, END_OUT = 12, 13  # which of ``functions`` are its
TILE, SUFFIX = 14, 15  # of a frame in hop form: its part of tiles (tiles.py) + 1; the first tile it stands for
SORTED = 16  # 1: it has a quantile
PLAN_COLUMNS = 17

# Half words of a lane: at ``AT`` the stretch, at ``RUNNING`` how many values are no NULL, and those that no fixed-point
# sum holds.
LOW, HIGH = 0, 1
VALUES, ODD = 0, 1


class Lanes(NamedTuple):
    """The lanes of a history, and what is made of them."""

    plan: Ints  # [L, PLAN_COLUMNS]
    functions: Ints  # [F], in the order of the lanes
    columns: Ints  # [F], of ``rows``: the argument
    outputs: Ints  # [F], the row of the output each one's values go to
    found: Floats  # [VAR_SAMP + 1], scratch: what functions say of one row, by their numbers
    shares: Ints  # [F, 2], of a quantile: numerator and denominator
    chance: NDArray[np.uint64]  # [1], to draw from
    values: Floats  # [quantiles.MOST_ROWS], scratch
    sums: Ints  # [4, LIMBS + 1], scratch of exact_sum
    equals: Ints  # [D], scratch: where the last row before with an equal value is


@compiled_inline
def place_of(lane: Ints, part: Any) -> Any:
    """A place of a plan as an index that is seen not to be negative: no code is made for those."""
    return np.uint32(lane[part])


@compiled_inline
def clear(store: Store, lane: Ints, slot: Any) -> None:
    """The stretch of a lane is empty."""
    if lane[RUNNING]:
        store.heads[slot, lane[RUNNING]] = 0
    if lane[EXTREMES]:
        store.extremes[slot, lane[EXTREMES]], store.extremes[slot, lane[EXTREMES] + 1] = np.nan, -np.inf
    if lane[SUM_AT]:
        for i in range(wide.SUM_WORDS):
            store.heads[slot, lane[SUM_AT] + i] = 0
    if lane[SQUARES_AT]:
        for i in range(wide.SQUARE_WORDS):
            store.heads[slot, lane[SQUARES_AT] + i] = 0


@compiled_inline
def _sums(store: Store, lane: Ints, slot: Any, value: Any, leaves: Any) -> None:
    """A value enters or leaves the exact sums."""
    mantissa, shift = wide.parts(value)
    if shift < 0:
        store.halves[slot, 2 * place_of(lane, RUNNING) + ODD] += -1 if leaves else 1
        return
    wide.add_value(store.heads, slot, lane[SUM_AT], mantissa, shift, (value < 0) != leaves)
    if lane[SQUARES_AT]:
        wide.add_square(store.heads, slot, lane[SQUARES_AT], mantissa, shift, leaves)


@compiled_inline
def cross(store: Store, lane: Ints, slot: Any, row: Any, leaves: Any) -> None:
    """A row of the arena enters the stretch of a lane, or leaves it.

    An extreme that may have left is NULL until it is looked up.
    """
    if is_null(store, row, lane[COLUMN]):
        return
    values = store.halves[slot, 2 * place_of(lane, RUNNING) + VALUES] + (-1 if leaves else 1)
    store.halves[slot, 2 * place_of(lane, RUNNING) + VALUES] = values
    value = value_at(store, row, lane[COLUMN])
    at = place_of(lane, EXTREMES)
    if at:
        least, most = store.extremes[slot, at], store.extremes[slot, at + 1]
        if not leaves:
            if store.heads[slot, at] != NULL and below(value, least):
                store.extremes[slot, at] = value
            if store.heads[slot, at + 1] != NULL and below(most, value):
                store.extremes[slot, at + 1] = value
        elif values == 0:
            store.extremes[slot, at], store.extremes[slot, at + 1] = np.nan, -np.inf
        else:
            if not least < value:
                store.heads[slot, at] = NULL
            if not value < most:
                store.heads[slot, at + 1] = NULL
    if lane[SUM_AT]:
        _sums(store, lane, slot, value, leaves)


@compiled_inline
def move_to(store: Store, ring: Ring, lane: Ints, slot: Any, low: Any, high: Any) -> None:
    """Moves the stretch of a lane."""
    at = 2 * place_of(lane, AT)
    from_, to = np.int64(store.halves[slot, at + LOW]), np.int64(store.halves[slot, at + HIGH])
    store.halves[slot, at + LOW], store.halves[slot, at + HIGH] = low, high
    if not lane[RUNNING]:
        return
    ends, starts = abs(high - to), abs(low - from_)
    if low >= to or high <= from_ or starts + ends > high - low:
        clear(store, lane, slot)
        from_, to = low, low
        ends, starts = high - low, 0
    for step in range(ends + starts):  # first its end, then its start
        if step < ends:
            leaves, position = high < to, min(high, to) + step
        else:
            leaves, position = from_ < low, min(low, from_) + step - ends
        cross(store, lane, slot, place(ring, position), leaves)


@compiled_inside
def _leave_behind(store: Store, ring: Ring, lane: Ints, slot: Any, gone: Any) -> None:
    """The first rows of a key leave the stretch of a lane."""
    high = np.int64(store.halves[slot, 2 * place_of(lane, AT) + HIGH])
    move_to(store, ring, lane, slot, gone, max(high, gone))


@compiled_inline
def forget(store: Store, ring: Ring, lane: Ints, slot: Any, gone: Any) -> None:
    """The first rows of the key are about to go: they leave the stretch, and the others move up."""
    at = 2 * place_of(lane, AT)
    if store.halves[slot, at + LOW] < gone:
        _leave_behind(store, ring, lane, slot, gone)
    store.halves[slot, at + LOW] -= gone
    store.halves[slot, at + HIGH] -= gone


@compiled_inline
def make_way(store: Store, ring: Ring, lane: Ints, slot: Any, position: Any) -> None:
    """A row has been put before the one that was at ``position``; if it lies within the stretch, it enters it."""
    at = 2 * place_of(lane, AT)
    low, high = np.int64(store.halves[slot, at + LOW]), np.int64(store.halves[slot, at + HIGH])
    if position < high:
        store.halves[slot, at + HIGH] = high + 1
        if position < low:
            store.halves[slot, at + LOW] = low + 1
        elif lane[RUNNING]:
            cross(store, lane, slot, place(ring, position), np.bool_(False))


@compiled_inline
def oldest(lane: Ints, time: Any) -> int:
    """The time from which on a row of a time sees rows."""
    start = time - lane[START]
    return hop_start(start, lane[HOP]) if lane[HOP] else start


@compiled_inline
def show(store: Store, ring: Ring, lane: Ints, slot: Any, time: Any, end: Any, late: Any, bound: Any) -> None:
    """Moves the stretch of a lane to the frame of a row of a time; rows before the time ``bound`` are not seen.

    Args:
      end: how many of the key's rows are not later than it, itself included.
      late: rows before it may have been later, so that its frame begins earlier than theirs.
    """
    rows, at = store.rows, 2 * place_of(lane, AT)
    size = np.int64(store.halves[slot, SIZE])
    low, first = np.int64(store.halves[slot, at + LOW]), max(oldest(lane, time), bound)
    while low < size and rows[place(ring, low), 0] < first:
        low += 1
    if late:
        while low > 0 and rows[place(ring, low - 1), 0] >= first:
            low -= 1
    if lane[END] == 0:
        high = end - lane[EXCLUDE]
    else:
        high, last = np.int64(store.halves[slot, at + HIGH]), time - lane[END]
        while high < size and rows[place(ring, high), 0] <= last:
            high += 1
        while high > 0 and rows[place(ring, high - 1), 0] > last:
            high -= 1
    move_to(store, ring, lane, slot, low, max(low, high))


@compiled_inline
def rows_shown(store: Store, lane: Ints, slot: Any) -> int:
    """How many of the key's rows its stretch has."""
    at = 2 * place_of(lane, AT)
    return int(np.int64(store.halves[slot, at + HIGH]) - np.int64(store.halves[slot, at + LOW]))


@compiled_inline
def write(
    store: Store,
    ring: Ring,
    lanes: Lanes,
    tiles: Tiles | None,
    lane: Ints,
    slot: Any,
    time: Any,
    equal: Any,
    outputs: Floats,
    i: Any,
) -> None:
    """Writes what the functions of a lane say of its stretch, for a row of the key.

    Args:
      time: of the row.
      equal: position of the last row before with the same value, or -1; for count_distinct.
      outputs: [W, n], NULL where there is no value.
      i: the row's column of ``outputs``.
    """
    halves = store.halves
    low, high = (
        np.int64(halves[slot, 2 * place_of(lane, AT) + LOW]),
        np.int64(halves[slot, 2 * place_of(lane, AT) + HIGH]),
    )
    bits = outputs.view(np.int64)
    key, first_tile = np.int64(0), np.int64(-1)  # tiles that belong to the stretch; of a frame without them none
    if tiles is not None and lane[TILE]:
        key = slot * len(tiles.hops) + tiles.parts[lane[TILE] - 1, HOP_NUMBER]
        first_tile = np.int64(halves[slot, 2 * place_of(lane, SUFFIX)])
    if lane[RUNNING]:
        _compute(store, ring, lanes, tiles, lane, slot, low, high, key, first_tile)
    for f in range(lane[FIRST_OUT], lane[END_OUT]):
        function, w = np.uint32(lanes.functions[f]), np.uint32(lanes.outputs[f])
        if function <= VAR_SAMP:
            outputs[w, i] = lanes.found[function]
        elif function == COUNT_ALL:
            outputs[w, i] = high - low
        elif function == COUNT_DISTINCT:
            outputs[w, i] = _different(store, ring, lane, low, high, time, equal)
        elif function in (QUANTILE_DISC, QUANTILE_CONT, QUANTILE_LINE):
            values = collect(store, ring, low, high, lane[COLUMN], lanes.values)
            if values == 0:
                bits[w, i] = NULL
            elif function == QUANTILE_DISC:
                outputs[w, i] = discrete(lanes.values, values, lanes.shares[f, 0], lanes.shares[f, 1], lanes.chance)
            else:
                line = function == QUANTILE_LINE
                outputs[w, i] = continuous(
                    lanes.values, values, lanes.shares[f, 0], lanes.shares[f, 1], line, lanes.chance
                )
        else:
            column = lanes.columns[f]
            row = place(ring, low if function == FIRST_VALUE else high - 1) if high > low else -1
            of_tile = function == FIRST_VALUE or row < 0
            if tiles is not None and lane[TILE] and of_tile and has_tiles(tiles, key, first_tile):
                bits[w, i] = tile_end(tiles, key, lane[TILE] - 1, first_tile, function == LAST_VALUE)
            elif row < 0 or is_null(store, row, column):
                bits[w, i] = NULL
            else:
                outputs[w, i] = value_at(store, row, column)


@compiled_inline
def _compute(
    store: Store,
    ring: Ring,
    lanes: Lanes,
    tiles: Tiles | None,
    lane: Ints,
    slot: Any,
    low: Any,
    high: Any,
    key: Any,
    first_tile: Any,
) -> None:
    """Fills ``found`` with what a lane's running values say."""
    heads, found = store.heads, lanes.found
    bits = found.view(np.int64)
    for function in range(SUM, VAR_SAMP + 1):
        bits[function] = NULL
    count = np.int64(store.halves[slot, 2 * place_of(lane, RUNNING) + VALUES])
    found[COUNT] = count
    if count == 0:
        return
    if lane[SUM_AT]:
        spread = 0.0
        if store.halves[slot, 2 * place_of(lane, RUNNING) + ODD]:
            total, spread = _slow(store, ring, tiles, lane, low, high, key, first_tile, count, lanes.sums)
        else:
            total = wide.read_total(heads, slot, lane[SUM_AT])
            if lane[SQUARES_AT] and count > 1:
                difference = wide.read_spread(heads, slot, lane[SUM_AT], lane[SQUARES_AT], count)
                spread = difference / (np.float64(count) * (count - 1.0))
        found[SUM], found[AVG] = total, total / count
        if count > 1:
            found[VAR_SAMP], found[STDDEV_SAMP] = spread, np.sqrt(spread)
    at = place_of(lane, EXTREMES)
    if at:
        if heads[slot, at] == NULL or heads[slot, at + 1] == NULL:
            least, most = np.nan, -np.inf
            if high > low:
                least, most = extremes(store, ring, low, high, lane[COLUMN], lane[INDEX])
            if tiles is not None and lane[TILE]:
                least, most = tile_extremes(tiles, key, tiles.parts[lane[TILE] - 1], first_tile, least, most)
            store.extremes[slot, at], store.extremes[slot, at + 1] = least, most
        found[MIN], found[MAX] = store.extremes[slot, at], store.extremes[slot, at + 1]


@compiled_inside
def _different(store: Store, ring: Ring, lane: Ints, low: Any, high: Any, time: Any, equal: Any) -> float:
    """How many different values there are: those whose next equal one lies behind the frame."""
    rows, column = store.rows, lane[COLUMN]
    last = time - lane[END]
    count = 1.0 if lane[EXCLUDE] and low <= equal < high else 0.0  # its next equal one is the row that is left out
    for at in range(low, high):
        row = place(ring, at)
        if not is_null(store, row, column) and rows[row, lane[NEXT]] > last:
            count += 1.0
    return count


@compiled_inside
def _slow(
    store: Store,
    ring: Ring,
    tiles: Tiles | None,
    lane: Ints,
    low: Any,
    high: Any,
    key: Any,
    first_tile: Any,
    count: Any,
    sums: Ints,
) -> tuple[float, float]:
    """Sum and variance of a stretch with values that no fixed-point sum holds."""
    total, squares, special, digits = sums[0], sums[1], sums[2], sums[3]
    sums[:] = 0
    for position in range(low, high):
        row = place(ring, position)
        if not is_null(store, row, lane[COLUMN]):
            exact_sum.update(value_at(store, row, lane[COLUMN]), 1, True, total, squares, special)
    if tiles is not None and lane[TILE]:
        add_tiles(tiles, key, tiles.parts[lane[TILE] - 1], first_tile, total, squares, special)
    spread = exact_sum.read_variance(np.float64(count), total, squares, special, digits) if count > 1 else 0.0
    return exact_sum.read_sum(total, special, digits), spread


@compiled_inside
def note_equal(store: Store, ring: Ring, slot: Any, position: Any, which: Any) -> int:
    """Links a new row to its equals; returns the position of the last one before it, or -1."""
    rows, column = store.rows, store.distinct[which]
    next_ = rows.shape[1] - len(store.distinct) + which
    row = place(ring, position)
    rows[row, next_] = ENDLESS
    if is_null(store, row, column):
        return -1
    value, size = rows[row, column], np.int64(store.halves[slot, SIZE])
    before = position - 1
    while before >= 0 and rows[place(ring, before), column] != value:
        before -= 1
    after = position + 1
    while after < size and rows[place(ring, after), column] != value:
        after += 1
    if before >= 0:
        rows[place(ring, before), next_] = rows[row, 0]
    if after < size:
        rows[row, next_] = rows[place(ring, after), 0]
    return before
