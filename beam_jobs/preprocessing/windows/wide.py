"""Integers of several words in compiled code, and exact sums of doubles made of them.

A sum is a fixed-point number in units of 2**-110, of three words of 64 bits; a sum of squares, in units of 2**-220,
of six. They hold 2**31 of the values whose ``parts`` fit: those of full precision from 3e-18 to 1e15,
and 0. Sums with another value in them are made by exact_sum.py, which holds any, slowly. The words lie in a row of a
table, least first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from beam_jobs.jit import compiled_inline

Ints = NDArray[np.int64]

SUM_WORDS, SQUARE_WORDS = 3, 6
_UNIT = -110
_MOST_SHIFT = 107  # of a mantissa in a sum: 53 + 107 bits, 31 for how many there are, a sign
_DIFFERENCE_WORDS = 7  # n times a sum of squares
SCRATCH_WORDS = _DIFFERENCE_WORDS + 1  # below the lowest there is one more, 0

_words: Any = types.UniTuple  # type: ignore[attr-defined]
_ONE, _WORD, _TWO_WORDS = ir.IntType(1), ir.IntType(64), ir.IntType(128)


def _joined(builder: Any, words: Any, kind: Any) -> Any:
    """The words, least first, as one integer of a wider type."""
    total = builder.zext(words[0], kind)
    for i, word in enumerate(words[1:], 1):
        total = builder.or_(total, builder.shl(builder.zext(word, kind), ir.Constant(kind, 64 * i)))
    return total


def _parted(context: Any, builder: Any, value: Any, count: int) -> Any:
    """An integer as its words, least first: a tuple of uint64."""
    words = [
        builder.trunc(builder.lshr(value, ir.Constant(value.type, 64 * i)) if i else value, _WORD) for i in range(count)
    ]
    return context.make_tuple(builder, _words(types.uint64, count), words)


def _product(builder: Any, a: Any, b: Any, kind: Any) -> Any:
    """Two words multiplied, as an integer of a wider type."""
    product = builder.mul(builder.zext(a, _TWO_WORDS), builder.zext(b, _TWO_WORDS))
    return builder.zext(product, kind) if kind is not _TWO_WORDS else product


@intrinsic
def product(_: Any, a: Any, b: Any) -> Any:
    """The low and the high word of a * b, uint64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, b = arguments
        return _parted(context, builder, _product(builder, a, b, _TWO_WORDS), 2)

    return _words(types.uint64, 2)(types.uint64, types.uint64), generate


@intrinsic
def leading_zeros(_: Any, word: Any) -> Any:
    """Of a uint64 that is not 0, int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], ir.Constant(_ONE, 1))

    return types.int64(types.uint64), generate


@intrinsic
def prefetch(_: Any, address: Any) -> Any:
    """Asks for the line of memory at an address, which may be any: nothing is read."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte, int32 = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, int32, int32, int32])
        function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        write, keep, data = (ir.Constant(int32, flag) for flag in (1, 3, 1))
        builder.call(function, [builder.inttoptr(arguments[0], byte), write, keep, data])
        return context.get_constant(types.int64, 0)

    return types.int64(types.int64), generate


def _adder(count: int) -> Any:
    @intrinsic
    def added(_: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind = ir.IntType(64 * count)
            total = builder.add(
                *(
                    _joined(builder, [builder.extract_value(words, i) for i in range(count)], kind)
                    for words in arguments
                )
            )
            return _parted(context, builder, total, count)

        words = _words(types.uint64, count)
        return words(words, words), generate

    return added


_added3, _added6 = _adder(SUM_WORDS), _adder(SQUARE_WORDS)


@intrinsic
def _difference(_: Any, n: Any, squares: Any, total: Any) -> Any:
    """n * squares - total**2, exactly: seven words. ``total``: without its sign."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        count, squares, total = arguments
        kind = ir.IntType(64 * _DIFFERENCE_WORDS)
        result = ir.Constant(kind, 0)
        for i in range(SQUARE_WORDS):
            part = _product(builder, count, builder.extract_value(squares, i), kind)
            result = builder.add(result, builder.shl(part, ir.Constant(kind, 64 * i)))
        words = [builder.extract_value(total, i) for i in range(SUM_WORDS)]
        for i in range(SUM_WORDS):
            for j in range(i, SUM_WORDS):
                part = _product(builder, words[i], words[j], kind)
                twice = 64 * (i + j) + (1 if i != j else 0)
                result = builder.sub(result, builder.shl(part, ir.Constant(kind, twice)))
        return _parted(context, builder, result, _DIFFERENCE_WORDS)

    sum_, sum_of_squares = _words(types.uint64, SUM_WORDS), _words(types.uint64, SQUARE_WORDS)
    return _words(types.uint64, _DIFFERENCE_WORDS)(types.uint64, sum_of_squares, sum_), generate


@compiled_inline
def parts(value: Any) -> tuple[Any, Any]:
    """A double as mantissa (uint64) and how far that is shifted in a sum; -1: no fixed-point sum holds it."""
    bits = np.float64(value).view(np.uint64)
    exponent = np.int64(bits >> np.uint64(52)) & 0x7FF
    mantissa = bits & np.uint64(0xFFFFFFFFFFFFF)
    if exponent == 0x7FF:
        return mantissa, np.int64(-1)
    if exponent:
        mantissa |= np.uint64(1 << 52)
        exponent -= 1
    if mantissa == np.uint64(0):
        return mantissa, np.int64(0)
    shift = exponent - 1074 - _UNIT
    if shift < 0:
        lost = np.uint64(min(63, int(-shift)))
        if (mantissa >> lost) << lost != mantissa:
            return mantissa, np.int64(-1)
        return mantissa >> lost, np.int64(0)
    return mantissa, (shift if shift <= _MOST_SHIFT else np.int64(-1))


@compiled_inline
def add_value(table: Ints, row: Any, at: Any, mantissa: Any, shift: Any, negative: Any) -> None:
    """Adds a value's ``parts``, or takes them away, from the sum at the words ``at`` on of a row of the table."""
    bit = np.uint64(shift & 63)
    low, high = mantissa << bit, (mantissa >> np.uint64(1)) >> (np.uint64(63) - bit)
    nothing = np.uint64(0)
    words = (low, high, nothing) if shift < 64 else (nothing, low, high)
    old = (np.uint64(table[row, at]), np.uint64(table[row, at + 1]), np.uint64(table[row, at + 2]))
    if negative:  # -x is ~x + 1; old + ~x + 1 is ~(~old + x)
        old = (~old[0], ~old[1], ~old[2])
    new = _added3(old, words)
    if negative:
        new = (~new[0], ~new[1], ~new[2])
    table[row, at], table[row, at + 1], table[row, at + 2] = np.int64(new[0]), np.int64(new[1]), np.int64(new[2])


@compiled_inline
def add_square(table: Ints, row: Any, at: Any, mantissa: Any, shift: Any, negative: Any) -> None:
    """Adds the square of a value's ``parts``, or takes it away, from the sum of squares at the words ``at`` on."""
    low, high = product(mantissa, mantissa)
    bit, word = np.uint64((2 * shift) & 63), (2 * shift) >> 6
    rest = np.uint64(63) - bit
    x0, x1, x2 = low << bit, (high << bit) | ((low >> np.uint64(1)) >> rest), (high >> np.uint64(1)) >> rest
    nothing = np.uint64(0)
    if word == 0:
        words = (x0, x1, x2, nothing, nothing, nothing)
    elif word == 1:
        words = (nothing, x0, x1, x2, nothing, nothing)
    elif word == 2:
        words = (nothing, nothing, x0, x1, x2, nothing)
    else:
        words = (nothing, nothing, nothing, x0, x1, x2)
    old = _squares(table, row, at)
    if negative:
        old = (~old[0], ~old[1], ~old[2], ~old[3], ~old[4], ~old[5])
    new = _added6(old, words)
    if negative:
        new = (~new[0], ~new[1], ~new[2], ~new[3], ~new[4], ~new[5])
    for i in range(6):
        table[row, at + i] = np.int64(new[i])


@compiled_inline
def _squares(table: Ints, row: Any, at: Any) -> tuple[Any, Any, Any, Any, Any, Any]:
    return (
        np.uint64(table[row, at]),
        np.uint64(table[row, at + 1]),
        np.uint64(table[row, at + 2]),
        np.uint64(table[row, at + 3]),
        np.uint64(table[row, at + 4]),
        np.uint64(table[row, at + 5]),
    )


@compiled_inline
def _magnitude(table: Ints, row: Any, at: Any) -> tuple[Any, Any, Any]:
    """A sum without its sign."""
    total = (np.uint64(table[row, at]), np.uint64(table[row, at + 1]), np.uint64(table[row, at + 2]))
    if table[row, at + 2] < 0:
        one, nothing = np.uint64(1), np.uint64(0)
        total = _added3((~total[0], ~total[1], ~total[2]), (one, nothing, nothing))
    return total


@compiled_inline
def _nearest(words: NDArray[np.uint64], count: Any, unit: Any) -> float:
    """The double nearest to the integer in ``words[1 : count + 1]`` times 2**unit; ``words[0]`` is 0."""
    top = count
    while top > 0 and words[top] == np.uint64(0):
        top -= 1
    if top == 0:
        return 0.0
    zeros = leading_zeros(words[top])
    used = np.uint64(zeros)
    # 64 bits, the first of them 1, are rounded as all are if the last one also stands for what is below.
    head = (words[top] << used) | ((words[top - 1] >> np.uint64(1)) >> (np.uint64(63) - used))
    rest = words[top - 1] << used
    for i in range(1, top - 1):
        rest |= words[i]
    if rest != np.uint64(0):
        head |= np.uint64(1)
    exponent = 64 * (top - 1) - zeros + unit
    return np.float64(head) * np.int64((exponent + 1023) << 52).view(np.float64)


@compiled_inline
def read_total(table: Ints, row: Any, at: Any, scratch: NDArray[np.uint64]) -> float:
    """A sum as the nearest double."""
    scratch[1], scratch[2], scratch[3] = _magnitude(table, row, at)
    total = _nearest(scratch, SUM_WORDS, _UNIT)
    return -total if table[row, at + 2] < 0 else total


@compiled_inline
def read_spread(table: Ints, row: Any, sum_at: Any, squares_at: Any, n: Any, scratch: NDArray[np.uint64]) -> float:
    """n times the sum of the squares, less the square of the sum: exact, and rounded once."""
    words = _difference(np.uint64(n), _squares(table, row, squares_at), _magnitude(table, row, sum_at))
    for i in range(7):
        scratch[i + 1] = words[i]
    return _nearest(scratch, _DIFFERENCE_WORDS, 2 * _UNIT)
