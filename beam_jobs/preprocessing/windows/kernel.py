"""The loop over the new rows: which are too late or from the future, where the others go, and what they see."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from beam_jobs.jit import compiled_borrowing, compiled_inline, compiled_inside
from beam_jobs.preprocessing.windows.hop_lanes import forget_tiles, show_hops, take_out
from beam_jobs.preprocessing.windows.keys import Keys, find_slots
from beam_jobs.preprocessing.windows.lanes import (
    AT,
    COUNT,
    COUNT_ALL,
    COUNT_DISTINCT,
    END,
    END_OUT,
    EXCLUDE,
    FIRST_OUT,
    NEXT,
    SORTED,
    STDDEV_SAMP,
    TILE,
    VAR_SAMP,
    Lanes,
    forget,
    make_way,
    note_equal,
    rows_shown,
    show,
    write,
)
from beam_jobs.preprocessing.windows.lanes import LOW as STRETCH
from beam_jobs.preprocessing.windows.store import (
    ALONE,
    BASE,
    BLOCK,
    CLOCK,
    FIRST,
    FUTURE,
    GRANTED,
    HEAD_WORDS,
    INDEXED_FROM,
    KEYS,
    LATE,
    NULL,
    REFUSED,
    RING,
    ROWS,
    SIZE,
    TOO_MANY,
    TOO_MANY_SORTED,
    Floats,
    Ints,
    Ring,
    Store,
    allot,
    drop_oldest,
    has_room,
    index,
    index_from,
    insert,
    place,
    release,
    ring_for,
    ring_of,
)
from beam_jobs.preprocessing.windows.tiles import Tiles, any_out_of_reach, give_tiles_back, tiles_have_room, tiles_of
from beam_jobs.preprocessing.windows.wide import prefetch

Flags = NDArray[np.bool_]
Slots = NDArray[np.uint32]

_HEADS_AHEAD, _ROWS_AHEAD, _LINE = 24, 10, 64
_FEW = 16  # rows of a key
_LOOKED_UP = 256  # keys at once: their heads are still near when their rows come


class Limits(NamedTuple):
    """How long rows are kept, in microseconds, and how many."""

    keep: int  # behind the clock
    keep_of_key: int  # behind the newest row of the key
    skew: int  # ahead of the record's timestamp
    ends: int  # behind these bounds, for frames in hop form that end before now
    reach: int  # as far behind them rows are seen in tiles
    rows: int  # of a key


class Block(NamedTuple):
    """New rows."""

    times: Ints  # [n]
    record_times: Ints  # [n]
    arguments: Floats  # [A, n]
    valid: Flags  # [A, n]


@compiled_inline
def _ask_for(store: Store, slots: Slots, lanes: Lanes, tiles: Tiles | None, i: Any) -> None:
    """Asks for the memory that rows some way on will need: the head of their key first, then its rows."""
    heads, halves, rows = store.heads, store.halves, store.rows
    if i + _HEADS_AHEAD < len(slots):
        width = heads.shape[1] * 8
        start = heads.ctypes.data + slots[i + _HEADS_AHEAD] * width
        for offset in range(0, width, _LINE):
            prefetch(start + offset)
        if width % _LINE:
            prefetch(start + width - 8)
    if i + _ROWS_AHEAD < len(slots):
        slot, width = slots[i + _ROWS_AHEAD], rows.shape[1] * 8
        ring = np.int64(halves[slot, RING]) - 1
        if ring >= 0:
            base, first = np.int64(halves[slot, BASE]), np.int64(halves[slot, FIRST])
            start, size = rows.ctypes.data + base * width, store.sizes[ring]
            last = first + halves[slot, SIZE]
            last = base + (last - size if last >= size else last)
            prefetch(rows.ctypes.data + last * width)
            if len(store.indexed) and size >= INDEXED_FROM:
                prefetch(store.blocks.ctypes.data + last // BLOCK * store.blocks.shape[1] * 8)
            for lane in range(len(lanes.plan)):
                low = first + halves[slot, 2 * lanes.plan[lane, AT] + STRETCH]
                prefetch(start + (low - size if low >= size else low) * width)
    if tiles is not None:
        for hop in range(len(tiles.hops)):
            _ask_for_tiles(tiles, slots, i, hop)


@compiled_inline
def _ask_for_tiles(tiles: Tiles, slots: Slots, i: Any, hop: Any) -> None:
    store, hops = tiles.store, len(tiles.hops)
    if i + _HEADS_AHEAD < len(slots):
        prefetch(store.heads.ctypes.data + (slots[i + _HEADS_AHEAD] * hops + hop) * HEAD_WORDS * 8)
    if i + _ROWS_AHEAD < len(slots):
        size, ring = tiles_of(tiles, slots[i + _ROWS_AHEAD] * hops + hop)
        if size:
            start, width = store.rows.ctypes.data, store.rows.shape[1] * 8
            prefetch(start + place(ring, 0) * width)
            for offset in range(0, width, _LINE):
                prefetch(start + place(ring, size - 1) * width + offset)


@compiled_inline
def _bits(block: Block, argument: Any, i: Any) -> int:
    """The bits an argument is kept as: equal values have equal ones."""
    if not block.valid[argument, i]:
        return NULL
    value = block.arguments[argument, i] + 0.0  # of -0.0
    return int(np.float64(value if value == value else np.nan).view(np.int64))


@compiled_inside
def _alone(lanes: Lanes, block: Block, i: Any, outputs: Floats) -> None:
    """What a row says that sees itself alone."""
    bits = outputs.view(np.int64)
    for number in range(len(lanes.plan)):
        lane = lanes.plan[number]
        for f in range(lane[FIRST_OUT], lane[END_OUT]):
            function, column, w = lanes.functions[f], lanes.columns[f], lanes.outputs[f]
            own = np.float64(block.times[i]).view(np.int64) if column == 0 else _bits(block, column - 1, i)
            if lane[END] or lane[EXCLUDE]:
                own = NULL
            if function in (COUNT, COUNT_DISTINCT, COUNT_ALL):
                outputs[w, i] = 0.0 if own == NULL else 1.0
            else:
                bits[w, i] = NULL if function in (STDDEV_SAMP, VAR_SAMP) else own


@compiled_inside
def _seeing(
    store: Store,
    lanes: Lanes,
    tiles: Tiles | None,
    slot: Any,
    time: Any,
    outputs: Floats,
    i: Any,
    ring: Ring,
    size: Any,
    bound: Any,
) -> bool:
    """Writes what a row sees that is not kept; False: too many rows for a quantile."""
    end = size
    while end > 0 and store.rows[place(ring, end - 1), 0] > time:
        end -= 1
    for number in range(len(lanes.plan)):
        lane = lanes.plan[number]
        if tiles is not None and lane[TILE]:
            show_hops(store, ring, tiles, lane, slot, time, end)
        else:
            show(store, ring, lane, slot, time, end, True, bound)
        if lane[SORTED] and rows_shown(store, lane, slot) > len(lanes.values):
            store.counts[REFUSED] = TOO_MANY_SORTED
            return False
        write(store, ring, lanes, tiles, lane, slot, time, -1, outputs, i)
    return True


@compiled_borrowing
def advance(
    store: Store,
    keys: Keys,
    lanes: Lanes,
    tiles: Tiles | None,
    limits: Limits,
    block: Block,
    kept: Flags | None,
    outputs: Floats,
    emit: Any,
    begin: Any,
) -> int:
    """Takes in the rows from ``begin`` on; the first one that was not, or n.

    That is for want of room in the arenas, unless ``counts`` have REFUSED.

    Args:
      kept: [n], which rows others will see; None: all.
      outputs: [W, n], filled if ``emit``; NULL where there is no value.
    """
    halves, counts, rows, plan = store.halves, store.counts, store.rows, lanes.plan
    equals, first_next = lanes.equals, rows.shape[1] - len(store.distinct)
    slots, known = keys.slots, begin
    for i in range(begin, len(slots)):
        if known < min(i + _HEADS_AHEAD + 1, len(slots)):
            find_slots(keys, store, known, min(known + _LOOKED_UP, len(slots)))
            known = min(known + _LOOKED_UP, len(slots))
        _ask_for(store, slots, lanes, tiles, i)
        slot, time, recorded = slots[i], block.times[i], block.record_times[i]
        if not has_room(store, slot):
            return i
        if tiles is not None and not tiles_have_room(tiles, slot):
            return i
        counts[CLOCK] = max(counts[CLOCK], recorded)
        size = np.int64(halves[slot, SIZE])
        ring = ring_of(store, slot) if size else Ring(np.int64(0), np.int64(0), np.int64(0))
        newest = rows[place(ring, size - 1), 0] if size else time
        keeps = True
        if kept is not None:
            keeps = kept[i]
        bound = max(counts[CLOCK] - limits.keep, (max(newest, time) if keeps else newest) - limits.keep_of_key)
        if time > recorded + limits.skew or time < bound:
            counts[FUTURE if time > recorded + limits.skew else ALONE] += 1
            if emit:
                _alone(lanes, block, i, outputs)
            continue
        if kept is not None and not keeps:
            if emit and not _seeing(store, lanes, tiles, slot, time, outputs, i, ring, size, bound):
                return i
            continue
        gone = 0
        # Of many rows the oldest lies elsewhere in memory, so not each time.
        if size == ring.size or size < _FEW or size >= limits.rows:
            while gone < size and rows[place(ring, gone), 0] < bound - limits.ends:
                gone += 1
        if gone:
            taken = take_out(store, ring, lanes, tiles, slot, gone) if tiles is not None else gone
            for number in range(len(plan)):
                if not plan[number, TILE]:
                    forget(store, ring, plan[number], slot, taken)
            drop_oldest(store, slot, taken)
            if taken < gone:
                return i
            size -= gone
            ring = ring_of(store, slot)
        if tiles is not None and any_out_of_reach(tiles, slot, bound):
            forget_tiles(store, lanes, tiles, slot, bound)
        if size >= limits.rows:
            counts[REFUSED] = TOO_MANY
            return i
        position, earlier = size, time < newest
        if kept is not None:
            earlier = True
        if time < newest:
            counts[LATE] += 1
            while position > 0 and rows[place(ring, position - 1), 0] > time:
                position -= 1
        row = insert(store, slot, position, time)
        ring = ring_of(store, slot)
        for argument in range(len(block.arguments)):
            rows[row, 1 + argument] = _bits(block, argument, i)
        index_from(store, ring, position, size)
        for which in range(len(store.distinct)):
            equals[which] = note_equal(store, ring, slot, position, which)
        for number in range(len(plan)):
            lane = plan[number]
            make_way(store, ring, lane, slot, position)
            if emit:
                if tiles is not None and lane[TILE]:
                    show_hops(store, ring, tiles, lane, slot, time, position + 1)
                else:
                    show(store, ring, lane, slot, time, position + 1, earlier, bound)
                if lane[SORTED] and rows_shown(store, lane, slot) > len(lanes.values):
                    counts[REFUSED] = TOO_MANY_SORTED
                    return i
                equal = equals[lane[NEXT] - first_next] if lane[NEXT] else -1
                write(store, ring, lanes, tiles, lane, slot, time, equal, outputs, i)
    return len(slots)


@compiled_borrowing
def sweep(store: Store, tiles: Tiles | None, start: Any, end: Any, bound: Any) -> None:
    """Gives back the rows of those keys, of the slots start to end - 1, whose newest row no later row can see."""
    halves = store.halves
    width = store.rows.shape[1] * 8
    for slot in range(start, end):
        if slot + _ROWS_AHEAD < end and halves[slot + _ROWS_AHEAD, RING]:
            ahead = slot + _ROWS_AHEAD
            last = place(ring_of(store, ahead), np.int64(halves[ahead, SIZE]) - 1)
            prefetch(store.rows.ctypes.data + last * width)
        size = np.int64(halves[slot, SIZE])
        if halves[slot, RING] and (size == 0 or store.rows[place(ring_of(store, slot), size - 1), 0] < bound):
            release(store, slot)
            if tiles is not None:
                give_tiles_back(tiles, slot)
            store.counts[ROWS] -= size
            store.counts[KEYS] -= 1
            for word in range(HEAD_WORDS - 2, store.heads.shape[1]):
                store.heads[slot, word] = 0


@compiled_borrowing
def room_needed(store: Store, used: Any) -> int:
    """How many rows of an arena the keys of the slots in use need."""
    rows = 0
    for slot in range(used):
        if store.halves[slot, RING]:
            rows += store.sizes[ring_for(store.sizes, np.int64(store.halves[slot, SIZE]))]
    return rows


@compiled_borrowing
def move_all(old: Store, used: Any, new: Store) -> None:
    """Moves all keys that have rows, into empty arrays that are large enough."""
    slot = 0
    for number in range(used):
        if not old.halves[number, RING]:
            continue
        size = np.int64(old.halves[number, SIZE])
        for word in range(new.heads.shape[1]):
            new.heads[slot, word] = old.heads[number, word]
        ring = ring_for(new.sizes, size)
        base = allot(new.counts, new.sizes[ring])
        new.counts[GRANTED] += new.sizes[ring]
        new.halves[slot, BASE], new.halves[slot, RING], new.halves[slot, FIRST] = base, ring + 1, 0
        for i in range(size):
            source = place(ring_of(old, number), i)
            for column in range(new.rows.shape[1]):
                new.rows[base + i, column] = old.rows[source, column]
        if size:
            index(new, ring_of(new, slot), base, base + size)
        slot += 1
