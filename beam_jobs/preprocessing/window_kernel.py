"""The compiled loops of windows.py: exact sums that rows enter and leave, and the walk over the rows of a key.

A sum is a row of limbs, the digits of one fixed-point number of 2,144 bits that holds every double exactly: adding a row
and taking it away again leaves no trace, so a sum depends on the rows of its window alone, not on their order, nor on
where a block ended. It is rounded once, when it is read, to the nearest double.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from beam_jobs.codec.jit import compiled

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

# What a lane has to know beside the count: bits.
SUM, EXTREMES, VARIANCE = 1, 2, 4
# Rows of ``found``.
FOUND_SUM, FOUND_MIN, FOUND_MAX, FOUND_VARIANCE = range(4)

# After so many rows in a row that are older than the window, the newest time is taken for a wrong clock.
STALE_ROWS = 16

_LIMBS = 67  # of 32 bits: 2**-1074 to 2**1070
_DIGIT = 0xFFFFFFFF
_BIAS = 1074
_HEAD = 55  # bits of a sum that decide how it is rounded: two more than a double has
_SQUARABLE = 2.0**510  # the largest value whose square is exact in two doubles
_NAN, _PLUS, _MINUS, _HUGE = range(4)  # what no limb holds is counted


class Lanes(NamedTuple):
    """The window of one key, once for each lane (a pair of argument and length); the last one is for late rows."""

    limbs: Ints  # [lanes + 1, 2, _LIMBS], of the values and of their squares; each may exceed its 32 bits
    reach: Ints  # [lanes + 1, 2, 2], first and last limb in use
    counts: Ints  # [lanes + 1], values that are not null
    special: Ints  # [lanes + 1, 4], values no limb holds
    starts: Ints  # [lanes + 1], first row in the window
    queues: Ints  # [lanes + 1, 2, rows], rows that may yet be the smallest, the largest; the first one is
    ends: Ints  # [lanes + 1, 2, 2], first row and end of each queue
    digits: Ints  # [_LIMBS + 1], scratch


def make_lanes(lanes: int, rows: int) -> Lanes:
    """For keys of at most ``rows`` rows, kept and new."""
    n = lanes + 1
    return Lanes(
        np.zeros((n, 2, _LIMBS), np.int64),
        np.zeros((n, 2, 2), np.int64),
        np.zeros(n, np.int64),
        np.zeros((n, 4), np.int64),
        np.zeros(n, np.int64),
        np.zeros((n, 2, rows), np.int64),
        np.zeros((n, 2, 2), np.int64),
        np.zeros(_LIMBS + 1, np.int64),
    )


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


@compiled
def _add(limbs: Ints, reach: Ints, value: Any, sign: Any) -> None:
    """limbs += sign * value, exactly; ``value`` is finite."""
    bits = np.float64(value).view(np.int64)
    exponent = (bits >> 52) & 0x7FF
    mantissa = bits & 0xFFFFFFFFFFFFF
    if exponent:
        mantissa |= 1 << 52
        exponent -= 1
    if mantissa == 0:
        return
    if bits < 0:
        sign = -sign
    k, shift = exponent >> 5, exponent & 31
    low, high = (mantissa & _DIGIT) << shift, (mantissa >> 32) << shift
    limbs[k] += sign * (low & _DIGIT)
    limbs[k + 1] += sign * (((low >> 32) & _DIGIT) + (high & _DIGIT))
    limbs[k + 2] += sign * (high >> 32)
    reach[0] = min(reach[0], k)
    reach[1] = max(reach[1], k + 2)


@compiled
def _rounded(limbs: Ints, reach: Ints, digits: Ints) -> float:
    """The sum as the nearest double, halves to the even one; infinite beyond the largest."""
    first, last = reach[0], reach[1]
    if first > last:
        return 0.0
    carry = np.int64(0)
    for k in range(first, last + 1):
        total = limbs[k] + carry
        digits[k] = total & _DIGIT
        carry = total >> 32
    negative = carry < 0
    if negative:
        borrow = np.int64(1)
        for k in range(first, last + 1):
            digit = (digits[k] ^ _DIGIT) + borrow
            digits[k] = digit & _DIGIT
            borrow = digit >> 32
        carry = ~carry + borrow
    top = last + 1
    digits[top] = carry
    while top > first and digits[top] == 0:
        top -= 1
    head = digits[top]
    if head == 0:
        return 0.0
    width = 0
    while head >> width:
        width += 1
    exponent = 32 * top - _BIAS
    below = top - 1
    # Further digits until the head has enough bits; what is left below only matters by not being zero.
    rest = np.int64(0)
    missing = _HEAD - width
    while missing > 0:
        taken = min(missing, 32)
        digit = digits[below] if below >= first else np.int64(0)
        head = head << taken | digit >> (32 - taken)
        rest = digit & ((np.int64(1) << (32 - taken)) - 1)
        exponent -= taken
        missing -= taken
        below -= 1
    while rest == 0 and below >= first:
        rest = digits[below]
        below -= 1
    if rest:
        head |= 1
    value = math.ldexp(float(head), exponent)
    return -value if negative else value


@compiled
def _square(value: Any) -> tuple[float, float]:
    """value * value as the exact sum of two doubles (Dekker)."""
    scaled = 134217729.0 * value
    high = scaled - (scaled - value)
    low = value - high
    square = value * value
    return square, low * low - ((square - high * high) - 2.0 * high * low)


@compiled
def _clear(lanes: Lanes, at: Any) -> None:
    for i in range(2):
        for k in range(lanes.reach[at, i, 0], lanes.reach[at, i, 1] + 1):
            lanes.limbs[at, i, k] = 0
        lanes.reach[at, i, 0] = _LIMBS
        lanes.reach[at, i, 1] = -1
        lanes.ends[at, i, :] = 0
    lanes.counts[at] = 0
    lanes.special[at, :] = 0


@compiled
def _count(lanes: Lanes, at: Any, needs: Any, value: Any, sign: Any) -> None:
    """A value that is not null enters (sign 1) or leaves (-1) the counts and sums."""
    lanes.counts[at] += sign
    if not needs & (SUM | VARIANCE):
        return
    if math.isnan(value):
        lanes.special[at, _NAN] += sign
    elif math.isinf(value):
        lanes.special[at, _PLUS if value > 0 else _MINUS] += sign
    else:
        _add(lanes.limbs[at, 0], lanes.reach[at, 0], value, sign)
        if needs & VARIANCE:
            if abs(value) > _SQUARABLE:
                lanes.special[at, _HUGE] += sign
            else:
                square, error = _square(value)
                _add(lanes.limbs[at, 1], lanes.reach[at, 1], square, sign)
                _add(lanes.limbs[at, 1], lanes.reach[at, 1], error, sign)


@compiled
def _below(a: Any, b: Any) -> bool:
    """a < b, where NaN is above every number."""
    return a < b or (math.isnan(b) and not math.isnan(a))


@compiled
def _enter(lanes: Lanes, at: Any, needs: Any, values: Floats, valid: Flags, row: Any) -> None:
    """A row enters the window; no row before it will leave later."""
    if not valid[row]:
        return
    value = values[row]
    _count(lanes, at, needs, value, 1)
    if needs & EXTREMES:
        for i in range(2):
            queue, ends = lanes.queues[at, i], lanes.ends[at, i]
            while ends[1] > ends[0]:
                other = values[queue[ends[1] - 1]]
                if _below(other, value) if i == 0 else _below(value, other):
                    break
                ends[1] -= 1
            queue[ends[1]] = row
            ends[1] += 1


@compiled
def _leave(lanes: Lanes, at: Any, needs: Any, values: Floats, valid: Flags, row: Any) -> None:
    """The first row of the window leaves it."""
    if not valid[row]:
        return
    _count(lanes, at, needs, values[row], -1)
    if needs & EXTREMES:
        for i in range(2):
            ends = lanes.ends[at, i]
            if lanes.queues[at, i, ends[0]] == row:
                ends[0] += 1


@compiled
def _fill(lanes: Lanes, at: Any, needs: Any, values: Floats, valid: Flags, start: Any, end: Any) -> None:
    _clear(lanes, at)
    for row in range(start, end):
        _enter(lanes, at, needs, values, valid, row)
    lanes.starts[at] = start


@compiled
def _total(lanes: Lanes, at: Any) -> float:
    special = lanes.special[at]
    if special[_NAN] or (special[_PLUS] and special[_MINUS]):
        return math.nan
    if special[_PLUS] or special[_MINUS]:
        return math.inf if special[_PLUS] else -math.inf
    return _rounded(lanes.limbs[at, 0], lanes.reach[at, 0], lanes.digits)


@compiled
def _pair(limbs: Ints, reach: Ints, digits: Ints) -> tuple[float, float]:
    """The sum as two doubles, 106 bits."""
    high = _rounded(limbs, reach, digits)
    if math.isinf(high):
        return high, 0.0
    _add(limbs, reach, high, -1)
    low = _rounded(limbs, reach, digits)
    _add(limbs, reach, high, 1)
    return high, low


@compiled
def _product(a: Any, b: Any) -> tuple[float, float]:
    """a * b as the sum of two doubles."""
    scaled = 134217729.0 * a
    a_high = scaled - (scaled - a)
    a_low = a - a_high
    scaled = 134217729.0 * b
    b_high = scaled - (scaled - b)
    b_low = b - b_high
    product = a * b
    return product, a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low)


@compiled
def _variance(lanes: Lanes, at: Any) -> float:
    """Of the sample; NaN where it is not defined (less than two values) or no double can hold it."""
    n = float(lanes.counts[at])
    if n < 2 or lanes.special[at].any():
        return math.nan
    total, total_low = _pair(lanes.limbs[at, 0], lanes.reach[at, 0], lanes.digits)
    squares, squares_low = _pair(lanes.limbs[at, 1], lanes.reach[at, 1], lanes.digits)
    # n * squares - total ** 2 loses most of its bits where the mean is far from 0; twice as many are there to lose.
    left, left_error = _product(n, squares)
    right, right_error = _product(total, total)
    difference = (left - right) + ((left_error + n * squares_low) - (right_error + 2.0 * total * total_low))
    return max(difference, 0.0) / (n * (n - 1.0))


@compiled
def _report(lanes: Lanes, at: Any, needs: Any, values: Floats, counts: Ints, found: Floats, row: Any) -> None:
    """Writes what the window says of a row; where the count is 0 nothing else is looked at."""
    counts[row] = lanes.counts[at]
    if lanes.counts[at] == 0:
        return
    if needs & SUM:
        found[FOUND_SUM, row] = _total(lanes, at)
    if needs & EXTREMES:
        found[FOUND_MIN, row] = values[lanes.queues[at, 0, lanes.ends[at, 0, 0]]]
        found[FOUND_MAX, row] = values[lanes.queues[at, 1, lanes.ends[at, 1, 0]]]
    if needs & VARIANCE:
        found[FOUND_VARIANCE, row] = _variance(lanes, at)


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
    lanes: Lanes,
    firsts: Ints,
    sizes: Ints,
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
      firsts, sizes, stale: [slots], where a slot's kept rows are, how many, how many too old rows came last.
      kept_times, kept_values, kept_valid: the kept rows, [room], [A, room]; those of a slot by time, and behind them room
        for the slot's new rows.
      counts, found: [L, n], [L, 4, n], the results.
    """
    longest = spans.max()
    late = len(spans)  # the lane that is filled for one row
    for g in range(len(slots)):
        slot = slots[g]
        base, room = firsts[slot], sizes[slot] + starts[g + 1] - starts[g]
        t = kept_times[base : base + room]
        v, known = kept_values[:, base : base + room], kept_valid[:, base : base + room]
        size, front, filled = sizes[slot], np.int64(0), False
        for row in rows[starts[g] : starts[g + 1]]:
            now = times[row]
            if size > front and now < t[size - 1] - longest:
                stale[slot] += 1
                if stale[slot] < STALE_ROWS:
                    # Nothing is left of its window but itself.
                    t_alone, v_alone, known_alone = times[row : row + 1], values[:, row : row + 1], valid[:, row : row + 1]
                    for lane in range(len(spans)):
                        a = arguments[lane]
                        _fill(lanes, late, needs[lane], v_alone[a], known_alone[a], 0, len(t_alone))
                        _report(lanes, late, needs[lane], v_alone[a], counts[lane], found[lane], row)
                    continue
                size, front, filled = np.int64(0), np.int64(0), False
            stale[slot] = 0
            place = size
            while place > front and t[place - 1] > now:
                place -= 1
            for i in range(size, place, -1):
                t[i] = t[i - 1]
                for a in range(len(v)):
                    v[a, i], known[a, i] = v[a, i - 1], known[a, i - 1]
            t[place] = now
            for a in range(len(v)):
                v[a, place], known[a, place] = values[a, row], valid[a, row]
            size += 1
            if place < size - 1:
                for lane in range(len(spans)):
                    a = arguments[lane]
                    start = max(front, np.searchsorted(t[:size], now - spans[lane]))
                    _fill(lanes, late, needs[lane], v[a], known[a], start, place + 1)
                    _report(lanes, late, needs[lane], v[a], counts[lane], found[lane], row)
                filled = False
                continue
            for lane in range(len(spans)):
                a, oldest = arguments[lane], now - spans[lane]
                if not filled:
                    start = np.searchsorted(t[front:size], oldest) + front
                    _fill(lanes, lane, needs[lane], v[a], known[a], start, size)
                else:
                    _enter(lanes, lane, needs[lane], v[a], known[a], place)
                    while t[lanes.starts[lane]] < oldest:
                        _leave(lanes, lane, needs[lane], v[a], known[a], lanes.starts[lane])
                        lanes.starts[lane] += 1
                _report(lanes, lane, needs[lane], v[a], counts[lane], found[lane], row)
            filled = True
            while t[front] < now - longest:
                front += 1
        sizes[slot] = size - front
        for i in range(size - front if front else 0):
            t[i] = t[front + i]
            for a in range(len(v)):
                v[a, i], known[a, i] = v[a, front + i], known[a, front + i]
