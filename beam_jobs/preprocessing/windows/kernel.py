"""The compiled loops of history.py: the walk over the new rows of each key and the rows kept before them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.jit import compiled
from beam_jobs.preprocessing.windows.exact_sum import (
    LARGEST,
    LIMBS,
    Floats,
    Ints,
    add,
    reach_of,
    read_sum,
    read_variance,
    update,
)

Flags = NDArray[np.bool_]

# What a lane has to know beside the count: bits.
SUM, EXTREMES, VARIANCE = 1, 2, 4
# Rows of ``found``.
FOUND_SUM, FOUND_MIN, FOUND_MAX, FOUND_VARIANCE = range(4)

# After so many rows in a row that are older than the window, the newest time is considered a wrong clock.
STALE_ROWS = 16


@compiled
def grouped(codes: NDArray[np.int32], groups: int) -> tuple[Ints, Ints]:
    """The rows in the order of their group, each group's in their own order, and where each group starts."""
    starts = np.zeros(groups + 1, np.int64)
    for code in codes:
        starts[code + 1] += 1
    for group in range(groups):
        starts[group + 1] += starts[group]
    rows, free = np.empty(len(codes), np.int64), starts.copy()
    for row in range(len(codes)):
        rows[free[codes[row]]] = row
        free[codes[row]] += 1
    return rows, starts


@compiled
def move(
    slots: Ints,
    sizes: Ints,
    firsts: Ints,
    targets: Ints,
    times: Ints,
    values: Floats,
    valid: Flags,
    to_times: Ints,
    to_values: Floats,
    to_valid: Flags,
) -> None:
    """Copies the rows of each slot from ``firsts[slot]`` on to ``targets[slot]`` on."""
    for slot in slots:
        source, target = firsts[slot], targets[slot]
        for i in range(sizes[slot]):
            to_times[target + i] = times[source + i]
        for a in range(len(values)):
            for i in range(sizes[slot]):
                to_values[a, target + i] = values[a, source + i]
                to_valid[a, target + i] = valid[a, source + i]


# A run is a stretch of one key's rows, ``first`` to ``end``, in the order of their times; the rows before it are those
# it may see. ``spot`` says where in the block a row of the run stands, and so where its result goes.


@compiled
def _lower_bound(times: Ints, size: Any, time: Any) -> int:
    """The first row not before ``time``."""
    low, high = 0, size
    while low < high:
        middle = (low + high) >> 1
        if times[middle] < time:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def _count_run(
    times: Ints, valid: Flags, start: Any, first: Any, end: Any, span: Any, spot: Ints, counts: Ints
) -> None:
    """How many values that are not null the windows hold; ``start``: the first row in the window of row ``first``."""
    count = 0
    for row in range(start, first):
        count += valid[row]
    for row in range(first, end):
        count += valid[row]
        while times[start] < times[row] - span:
            count -= valid[start]
            start += 1
        counts[spot[row - first]] = count


@compiled
def _sum_run(
    times: Ints,
    values: Floats,
    valid: Flags,
    start: Any,
    first: Any,
    end: Any,
    span: Any,
    spot: Ints,
    needs: Any,
    counts: Ints,
    found: Floats,
    sum_: Ints,
    sum_of_squares: Ints,
    digits: Ints,
    special: Ints,
    reach: Ints,
) -> None:
    """Scratch: ``sum_`` and ``sum_of_squares``, zeros before and after; ``digits``, ``special``, ``reach``."""
    squares = needs & VARIANCE != 0
    reach_of(values, start, end, reach)
    special[:] = 0
    for row in range(start, first):
        if valid[row]:
            if not squares and abs(values[row]) <= LARGEST:  # what most rows are, without a call
                add(sum_, values[row], 1)
            else:
                update(values[row], 1, squares, sum_, sum_of_squares, special)
    for row in range(first, end):
        if valid[row]:
            update(values[row], 1, squares, sum_, sum_of_squares, special)
        while times[start] < times[row] - span:
            if valid[start]:
                update(values[start], -1, squares, sum_, sum_of_squares, special)
            start += 1
        at = spot[row - first]
        if needs & SUM and counts[at] > 0:
            found[FOUND_SUM, at] = read_sum(sum_, reach, special, digits)
        if squares and counts[at] > 1:
            found[FOUND_VARIANCE, at] = read_variance(float(counts[at]), sum_, sum_of_squares, reach, special, digits)
    sum_[reach[0] : reach[1] + 1] = 0
    sum_of_squares[reach[2] : reach[3] + 1] = 0


@compiled
def _below(a: Any, b: Any) -> bool:
    """a < b, where NaN is above every number."""
    return a < b or (math.isnan(b) and not math.isnan(a))


@compiled
def _extreme_run(
    times: Ints,
    values: Floats,
    valid: Flags,
    start: Any,
    first: Any,
    end: Any,
    span: Any,
    spot: Ints,
    largest: Any,
    found: Floats,
    queue: Ints,
) -> None:
    """The queue holds the rows no later one has reached or beaten, the best one first."""
    head, tail = first, first
    for row in range(first - 1, start - 1, -1):  # backwards few rows enter, and none leaves
        if valid[row]:
            value, best = values[row], values[queue[head]] if head < tail else math.nan
            if head == tail or (_below(best, value) if largest else _below(value, best)):
                head -= 1
                queue[head] = row
    for row in range(first, end):
        if valid[row]:
            value = values[row]
            while tail > head:
                other = values[queue[tail - 1]]
                if _below(value, other) if largest else _below(other, value):
                    break
                tail -= 1
            queue[tail] = row
            tail += 1
        while head < tail and times[queue[head]] < times[row] - span:
            head += 1
        if head < tail:
            found[spot[row - first]] = values[queue[head]]


@compiled
def _run(
    times: Ints,
    values: Floats,
    valid: Flags,
    first: Any,
    end: Any,
    oldest: Any,
    spot: Ints,
    arguments: Ints,
    spans: Ints,
    needs: Ints,
    counts: Ints,
    found: Floats,
    scratch: Ints,
    queue: Ints,
) -> None:
    """All lanes of a run; rows before the time ``oldest`` are not seen."""
    for lane in range(len(spans)):
        v, known, span = values[arguments[lane]], valid[arguments[lane]], spans[lane]
        start = _lower_bound(times, first, max(oldest, times[first] - span))
        _count_run(times, known, start, first, end, span, spot, counts[lane])
        if needs[lane] & (SUM | VARIANCE):
            _sum_run(
                times,
                v,
                known,
                start,
                first,
                end,
                span,
                spot,
                needs[lane],
                counts[lane],
                found[lane],
                scratch[0],
                scratch[1],
                scratch[2],
                scratch[3],
                scratch[4],
            )
        if needs[lane] & EXTREMES:
            _extreme_run(times, v, known, start, first, end, span, spot, False, found[lane, FOUND_MIN], queue)
            _extreme_run(times, v, known, start, first, end, span, spot, True, found[lane, FOUND_MAX], queue)


@compiled
def advance(
    rows: Ints,
    starts: Ints,
    slots: Ints,
    times: Ints,
    values: Floats,
    valid: Flags,
    arguments: Ints,
    spans: Ints,
    needs: Ints,
    firsts: Ints,
    sizes: Ints,
    rooms: Ints,
    stale: Ints,
    kept_times: Ints,
    kept_values: Floats,
    kept_valid: Flags,
    counts: Ints,
    found: Floats,
) -> None:
    """Takes the new rows into the windows of their keys.

    Args:
      rows, starts: new rows by group, ``rows[starts[g]:starts[g + 1]]`` in the order they came.
      slots: [groups], the slot of each group's key.
      times, values, valid: of the new rows, [n], [A, n], [A, n].
      arguments, spans, needs: [L], of each lane its argument, the length of its window, what it has to know (bits).
      firsts, sizes, rooms, stale: [slots], where a slot's kept rows are, how many, for how many there is room, how
        many too old rows came last.
      kept_times, kept_values, kept_valid: the kept rows, [room], [A, room]; those of a slot by time, and behind them
        room for the slot's new rows.
      counts, found: [L, n], [L, 4, n], the results.
    """
    longest, most = spans.max(), 1
    for g in range(len(slots)):
        most = max(most, sizes[slots[g]] + starts[g + 1] - starts[g])
    scratch, queue = np.zeros((5, LIMBS + 1), np.int64), np.empty(most, np.int64)
    for g in range(len(slots)):
        slot = slots[g]
        size, last = sizes[slot], starts[g + 1]
        base, room = firsts[slot], size + last - starts[g]
        t = kept_times[base : base + room]
        v, known = kept_values[:, base : base + room], kept_valid[:, base : base + room]
        i = starts[g]
        while i < last:
            row = rows[i]
            now = times[row]
            newest = t[size - 1] if size else now
            if now < newest - longest:
                stale[slot] += 1
                if stale[slot] < STALE_ROWS:  # it sees itself alone
                    _run(
                        times[row : row + 1],
                        values[:, row : row + 1],
                        valid[:, row : row + 1],
                        0,
                        1,
                        now,
                        rows[i : i + 1],
                        arguments,
                        spans,
                        needs,
                        counts,
                        found,
                        scratch,
                        queue,
                    )
                    i += 1
                    continue
                size, newest = 0, now
            stale[slot] = 0
            first, end, oldest = size, i, max(now, newest) - longest
            if now < newest:  # a late one: those behind it make room
                while first > 0 and t[first - 1] > now:
                    t[first] = t[first - 1]
                    for a in range(len(v)):
                        v[a, first], known[a, first] = v[a, first - 1], known[a, first - 1]
                    first -= 1
                end += 1
                size += 1
            else:
                while end < last and times[rows[end]] >= newest:
                    newest = times[rows[end]]
                    end += 1
                size += end - i
            for k in range(i, end):
                to, source = first + k - i, rows[k]
                t[to] = times[source]
                for a in range(len(v)):
                    v[a, to], known[a, to] = values[a, source], valid[a, source]
            _run(
                t,
                v,
                known,
                first,
                first + end - i,
                oldest,
                rows[i:end],
                arguments,
                spans,
                needs,
                counts,
                found,
                scratch,
                queue,
            )
            i = end
        # The room of rows that are out of reach is won back when the slot is moved.
        front = _lower_bound(t, size, t[size - 1] - longest) if size else 0
        firsts[slot] += front
        sizes[slot] = size - front
        rooms[slot] -= front
