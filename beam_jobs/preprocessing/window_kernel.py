"""The compiled loops of windows.py: exact sums that rows enter and leave, and the walk over the rows of a key.

A sum is a row of limbs, the digits of one fixed-point number of 2,144 bits that holds every double exactly: adding a row
and taking it away again leaves no trace, so a sum depends on the rows of its window alone, not on their order, nor on
where a block ended. It is rounded once, when it is read, to the nearest double.
"""

from __future__ import annotations

import math
from typing import Any

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
_LARGEST = float(np.finfo(np.float64).max)
_SQUARABLE = 2.0**510  # the largest value whose square is exact in two doubles
_NAN, _PLUS, _MINUS, _HUGE = range(4)  # what no limb holds is counted


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
def _add(limbs: Ints, value: Any, sign: Any) -> None:
    """limbs += sign * value, exactly; ``value`` is finite."""
    bits = np.float64(value).view(np.int64)
    exponent = (bits >> 52) & 0x7FF
    mantissa = bits & 0xFFFFFFFFFFFFF
    if exponent:
        mantissa |= 1 << 52
        exponent -= 1
    if bits < 0:
        sign = -sign
    k, shift = exponent >> 5, exponent & 31
    low, high = (mantissa & _DIGIT) << shift, (mantissa >> 32) << shift
    limbs[np.uint64(k)] += sign * (low & _DIGIT)
    limbs[np.uint64(k + 1)] += sign * (((low >> 32) & _DIGIT) + (high & _DIGIT))
    limbs[np.uint64(k + 2)] += sign * (high >> 32)


@compiled
def _reach(values: Floats, start: Any, end: Any, reach: Ints) -> None:
    """First and last limb that sums of these values use, then those of their squares and the errors of these."""
    low, high = 1.0, 0.0
    for row in range(start, end):
        size = abs(values[row])
        if size <= _LARGEST:  # NaN is not
            high = max(high, size)
            if size > 0.0:
                low = min(low, size)
    below, above = math.frexp(low)[1] - 54, math.frexp(high)[1]  # exponents of the last and of the first bit
    for i in range(2):
        reach[2 * i] = max((below * (i + 1) + _BIAS) >> 5, 0)
        reach[2 * i + 1] = min(((above * (i + 1) + _BIAS) >> 5) + 2, _LIMBS - 1)


@compiled
def _rounded(limbs: Ints, first: Any, last: Any, digits: Ints) -> float:
    """The sum, in the limbs first to last, as the nearest double, halves to the even one; infinite beyond the largest."""
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
    width = math.frexp(float(head))[1]
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
def _pair(limbs: Ints, first: Any, last: Any, digits: Ints) -> tuple[float, float]:
    """The sum as two doubles, 106 bits."""
    high = _rounded(limbs, first, last, digits)
    if math.isinf(high):
        return high, 0.0
    _add(limbs, high, -1)
    low = _rounded(limbs, first, last, digits)
    _add(limbs, high, 1)
    return high, low


@compiled
def _product(a: Any, b: Any) -> tuple[float, float]:
    """a * b as the exact sum of two doubles (Dekker)."""
    scaled = 134217729.0 * a
    a_high = scaled - (scaled - a)
    a_low = a - a_high
    scaled = 134217729.0 * b
    b_high = scaled - (scaled - b)
    b_low = b - b_high
    product = a * b
    return product, a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low)


@compiled
def _count(value: Any, sign: Any, squares: Any, sum_: Ints, sum_of_squares: Ints, special: Ints) -> None:
    """A value enters (sign 1) or leaves (-1) the sums."""
    size = abs(value)
    if size <= _LARGEST:
        _add(sum_, value, sign)
        if squares:
            if size <= _SQUARABLE:
                square, error = _product(value, value)
                _add(sum_of_squares, square, sign)
                _add(sum_of_squares, error, sign)
            else:
                special[_HUGE] += sign
    elif math.isnan(value):
        special[_NAN] += sign
    else:
        special[_PLUS if value > 0 else _MINUS] += sign


@compiled
def _total(sum_: Ints, reach: Ints, special: Ints, digits: Ints) -> float:
    if special[_NAN] or (special[_PLUS] and special[_MINUS]):
        return math.nan
    if special[_PLUS] or special[_MINUS]:
        return math.inf if special[_PLUS] else -math.inf
    return _rounded(sum_, reach[0], reach[1], digits)


@compiled
def _variance(n: Any, sum_: Ints, sum_of_squares: Ints, reach: Ints, special: Ints, digits: Ints) -> float:
    """Of the sample of at least two values; NaN where one of them, or its square, is not finite."""
    if special[_NAN] or special[_PLUS] or special[_MINUS] or special[_HUGE]:
        return math.nan
    total, total_low = _pair(sum_, reach[0], reach[1], digits)
    squares, squares_low = _pair(sum_of_squares, reach[2], reach[3], digits)
    # n * squares - total ** 2 loses most of its bits where the mean is far from 0; twice as many are there to lose.
    left, left_error = _product(n, squares)
    right, right_error = _product(total, total)
    difference = (left - right) + ((left_error + n * squares_low) - (right_error + 2.0 * total * total_low))
    return max(difference, 0.0) / (n * (n - 1.0))


# A run is a stretch of one key's rows, ``first`` to ``end``, in the order of their times; the rows before it are those it
# may see. ``spot`` says where in the block a row of the run stands, and so where its result goes.


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
def _count_run(times: Ints, valid: Flags, start: Any, first: Any, end: Any, span: Any, spot: Ints, counts: Ints) -> None:
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
    _reach(values, start, end, reach)
    special[:] = 0
    for row in range(start, first):
        if valid[row]:
            if not squares and abs(values[row]) <= _LARGEST:  # what most rows are, without a call
                _add(sum_, values[row], 1)
            else:
                _count(values[row], 1, squares, sum_, sum_of_squares, special)
    for row in range(first, end):
        if valid[row]:
            _count(values[row], 1, squares, sum_, sum_of_squares, special)
        while times[start] < times[row] - span:
            if valid[start]:
                _count(values[start], -1, squares, sum_, sum_of_squares, special)
            start += 1
        at = spot[row - first]
        if needs & SUM and counts[at] > 0:
            found[FOUND_SUM, at] = _total(sum_, reach, special, digits)
        if squares and counts[at] > 1:
            found[FOUND_VARIANCE, at] = _variance(float(counts[at]), sum_, sum_of_squares, reach, special, digits)
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
                *(times, v, known, start, first, end, span, spot, needs[lane], counts[lane], found[lane]),
                *(scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]),
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
      firsts, sizes, rooms, stale: [slots], where a slot's kept rows are, how many, for how many there is room, how many too
        old rows came last.
      kept_times, kept_values, kept_valid: the kept rows, [room], [A, room]; those of a slot by time, and behind them room
        for the slot's new rows.
      counts, found: [L, n], [L, 4, n], the results.
    """
    longest, most = spans.max(), 1
    for g in range(len(slots)):
        most = max(most, sizes[slots[g]] + starts[g + 1] - starts[g])
    scratch, queue = np.zeros((5, _LIMBS + 1), np.int64), np.empty(most, np.int64)
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
                        *(times[row : row + 1], values[:, row : row + 1], valid[:, row : row + 1], 0, 1, now),
                        *(rows[i : i + 1], arguments, spans, needs, counts, found, scratch, queue),
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
                *(t, v, known, first, first + end - i, oldest),
                *(rows[i:end], arguments, spans, needs, counts, found, scratch, queue),
            )
            i = end
        # The room of rows that are out of reach is won back when the slot is moved.
        front = _lower_bound(t, size, t[size - 1] - longest) if size else 0
        firsts[slot] += front
        sizes[slot] = size - front
        rooms[slot] -= front
