"""Sums that values enter and leave without a trace, in compiled loops.

A sum is a row of limbs, the digits of one fixed-point number of 2,144 bits that holds every double exactly. So it
depends on the values in it alone, not on their order or on what was in it before. It is rounded once, when it is
read, to the nearest double. Infinities, NaN and values too large to square are counted beside it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.jit import compiled_inside

Ints = NDArray[np.int64]

LIMBS = 67  # of 32 bits: 2**-1074 to 2**1070
_DIGIT = 0xFFFFFFFF
_BIAS = 1074
_HEAD = 55  # bits of a sum that decide how it is rounded: two more than a double has
LARGEST = float(np.finfo(np.float64).max)
_SQUARABLE = 2.0**510  # the largest value whose square is exact in two doubles
_NAN, _PLUS, _MINUS, _HUGE = range(4)  # what no limb holds is counted


@compiled_inside
def add(limbs: Ints, value: Any, sign: Any) -> None:
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


@compiled_inside
def add_integer(limbs: Ints, table: Ints, row: Any, at: Any, words: Any, unit: Any) -> None:
    """limbs += an integer of several words of a row, the least one first, times 2**unit."""
    limb, shift = (unit + _BIAS) >> 5, (unit + _BIAS) & 31
    for i in range(words):
        word = table[row, at + i]
        limbs[limb + 2 * i] += (word & _DIGIT) << shift
        high = word >> 32
        if i < words - 1:
            high &= _DIGIT  # only the last word has the sign
        limbs[limb + 2 * i + 1] += high << shift


@compiled_inside
def carry_over(limbs: Ints) -> None:
    """The same sum with digits of 32 bits, so that there is room for more to be added; the last one has the sign."""
    for k in range(LIMBS - 1):
        limbs[k + 1] += limbs[k] >> 32
        limbs[k] &= _DIGIT


@compiled_inside
def rounded(limbs: Ints, digits: Ints) -> float:
    """The sum as the nearest double, halves to the even one; may be infinite. ``digits``: scratch, LIMBS + 1."""
    carry = np.int64(0)
    for k in range(LIMBS):
        total = limbs[k] + carry
        digits[k] = total & _DIGIT
        carry = total >> 32
    negative = carry < 0
    if negative:
        borrow = np.int64(1)
        for k in range(LIMBS):
            digit = (digits[k] ^ _DIGIT) + borrow
            digits[k] = digit & _DIGIT
            borrow = digit >> 32
        carry = ~carry + borrow
    top = LIMBS
    digits[top] = carry
    while top > 0 and digits[top] == 0:
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
        digit = digits[below] if below >= 0 else np.int64(0)
        head = head << taken | digit >> (32 - taken)
        rest = digit & ((np.int64(1) << (32 - taken)) - 1)
        exponent -= taken
        missing -= taken
        below -= 1
    while rest == 0 and below >= 0:
        rest = digits[below]
        below -= 1
    if rest:
        head |= 1
    value = math.ldexp(float(head), exponent)
    return -value if negative else value


@compiled_inside
def pair(limbs: Ints, digits: Ints) -> tuple[float, float]:
    """The sum as two doubles, 106 bits."""
    high = rounded(limbs, digits)
    if math.isinf(high):
        return high, 0.0
    add(limbs, high, -1)
    low = rounded(limbs, digits)
    add(limbs, high, 1)
    return high, low


@compiled_inside
def product(a: Any, b: Any) -> tuple[float, float]:
    """a * b as the exact sum of two doubles (Dekker)."""
    scaled = 134217729.0 * a
    a_high = scaled - (scaled - a)
    a_low = a - a_high
    scaled = 134217729.0 * b
    b_high = scaled - (scaled - b)
    b_low = b - b_high
    product = a * b
    return product, a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low)


@compiled_inside
def update(value: Any, sign: Any, squares: Any, sum_: Ints, sum_of_squares: Ints, special: Ints) -> None:
    """A value enters (sign 1) or leaves (-1) the sums."""
    size = abs(value)
    if size <= LARGEST:
        add(sum_, value, sign)
        if squares:
            if size <= _SQUARABLE:
                square, error = product(value, value)
                add(sum_of_squares, square, sign)
                add(sum_of_squares, error, sign)
            else:
                special[_HUGE] += sign
    elif math.isnan(value):
        special[_NAN] += sign
    else:
        special[_PLUS if value > 0 else _MINUS] += sign


@compiled_inside
def read_sum(sum_: Ints, special: Ints, digits: Ints) -> float:
    if special[_NAN] or (special[_PLUS] and special[_MINUS]):
        return math.nan
    if special[_PLUS] or special[_MINUS]:
        return math.inf if special[_PLUS] else -math.inf
    return rounded(sum_, digits)


@compiled_inside
def read_variance(n: Any, sum_: Ints, sum_of_squares: Ints, special: Ints, digits: Ints) -> float:
    """The variance of a sample of at least two values; NaN where one of them, or its square, is not finite."""
    if special[_NAN] or special[_PLUS] or special[_MINUS] or special[_HUGE]:
        return math.nan
    total, total_low = pair(sum_, digits)
    squares, squares_low = pair(sum_of_squares, digits)
    # n * squares - total ** 2 loses most of its bits where the mean is far from 0; twice as many are there to lose.
    left, left_error = product(n, squares)
    right, right_error = product(total, total)
    difference = (left - right) + ((left_error + n * squares_low) - (right_error + 2.0 * total * total_low))
    return max(difference, 0.0) / (n * (n - 1.0))
