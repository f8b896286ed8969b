"""Integers of several words in compiled code, and exact sums of doubles made of them.

A sum is a fixed-point number in units of 2**-98, of three words of 64 bits; a sum of squares, in units of 2**-196,
of five. They hold 2**31 of the values whose ``parts`` fit: those of full precision from 1e-14 to 7e13,
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

SUM_WORDS, SQUARE_WORDS = 3, 5
SUM_UNIT, SQUARE_UNIT = -98, -196  # exponents of two; add_integer of exact_sum moves by 16 and 14 bits then
_MOST_SHIFT = 91  # of a mantissa in a sum: of squares twice 53 + 91 bits, 31 for how many there are, a sign

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
def _leading_zeros(_: Any, word: Any) -> Any:
    """Of a uint64 that is not 0, uint64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], ir.Constant(_ONE, 1))

    return types.uint64(types.uint64), generate


@intrinsic
def _top(_: Any, words: Any) -> Any:
    """The highest of several words that is not 0, the one below it, all below that put together, and its place."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        nothing = ir.Constant(_WORD, 0)
        below = rest = nothing
        found = [nothing] * 4
        for i in range(words.count):
            word = builder.extract_value(arguments[0], i)
            new = (word, below, rest, ir.Constant(_WORD, i))
            some = builder.icmp_unsigned("!=", word, nothing)
            found = [builder.select(some, a, b) for a, b in zip(new, found, strict=True)]
            rest, below = builder.or_(rest, below), word
        return context.make_tuple(builder, signature.return_type, found)

    return _words(types.uint64, 4)(words), generate


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


@intrinsic
def fused(_: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c of doubles, rounded once, on every processor."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return types.float64(types.float64, types.float64, types.float64), generate


@intrinsic
def _added3(_: Any, a: Any, b: Any) -> Any:
    """Two integers of three words added; the fourth word of the sum is what was carried."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.IntType(256)
        numbers = [_joined(builder, [builder.extract_value(words, i) for i in range(3)], kind) for words in arguments]
        return _parted(context, builder, builder.add(*numbers), 4)

    return _words(types.uint64, 4)(a, b), generate


@intrinsic
def _difference(_: Any, n: Any, squares: Any, total: Any) -> Any:
    """n * squares - total**2, exactly: a word more than ``squares``. ``total``: without its sign."""
    size, terms = squares.count + 1, total.count

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        count, squares, total = arguments
        kind = ir.IntType(64 * size)
        result = ir.Constant(kind, 0)
        for i in range(size - 1):
            part = _product(builder, count, builder.extract_value(squares, i), kind)
            result = builder.add(result, builder.shl(part, ir.Constant(kind, 64 * i)))
        words = [builder.extract_value(total, i) for i in range(terms)]
        for i in range(terms):
            for j in range(i, terms):
                part = _product(builder, words[i], words[j], kind)
                twice = 64 * (i + j) + (1 if i != j else 0)
                result = builder.sub(result, builder.shl(part, ir.Constant(kind, twice)))
        return _parted(context, builder, result, size)

    return _words(types.uint64, size)(types.uint64, squares, total), generate


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
    shift = exponent - 1074 - SUM_UNIT
    if shift < 0:
        lost = np.uint64(min(63, int(-shift)))
        if (mantissa >> lost) << lost != mantissa:
            return mantissa, np.int64(-1)
        return mantissa >> lost, np.int64(0)
    return mantissa, (shift if shift <= _MOST_SHIFT else np.int64(-1))


@compiled_inline
def _flip(negative: Any) -> Any:
    """What to flip a sum with before and after something is added, to take it away: old - x is ~(~old + x)."""
    return ~np.uint64(0) if negative else np.uint64(0)


@compiled_inline
def add_value(table: Ints, row: Any, at: Any, mantissa: Any, shift: Any, negative: Any) -> None:
    """Adds a value's ``parts``, or takes them away, from the sum at the words ``at`` on of a row of the table."""
    bit = np.uint64(shift & 63)
    low, high = mantissa << bit, (mantissa >> np.uint64(1)) >> (np.uint64(63) - bit)
    nothing = np.uint64(0)
    words = (low, high, nothing) if shift < 64 else (nothing, low, high)
    at = np.uint32(at)
    old = (np.uint64(table[row, at]), np.uint64(table[row, at + 1]), np.uint64(table[row, at + 2]))
    flip = _flip(negative)
    new = _added3((old[0] ^ flip, old[1] ^ flip, old[2] ^ flip), words)
    for i in range(3):
        table[row, at + i] = np.int64(new[i] ^ flip)


@compiled_inline
def add_square(table: Ints, row: Any, at: Any, mantissa: Any, shift: Any, negative: Any) -> None:
    """Adds the square of a value's ``parts``, or takes it away, from the sum of squares at the words ``at`` on."""
    low, high = product(mantissa, mantissa)
    bit, word = np.uint64((2 * shift) & 63), np.uint32(at + ((2 * shift) >> 6))
    rest = np.uint64(63) - bit
    x0, x1, x2 = low << bit, (high << bit) | ((low >> np.uint64(1)) >> rest), (high >> np.uint64(1)) >> rest
    flip = _flip(negative)
    new = _added3(
        (
            np.uint64(table[row, word]) ^ flip,
            np.uint64(table[row, word + 1]) ^ flip,
            np.uint64(table[row, word + 2]) ^ flip,
        ),
        (x0, x1, x2),
    )
    for i in range(3):
        table[row, word + i] = np.int64(new[i] ^ flip)
    carry, above = new[3], word + 3
    while carry and above < at + SQUARE_WORDS:  # a snapshot may hold any sum, so a negative one too
        top = (np.uint64(table[row, above]) ^ flip) + carry
        table[row, above] = np.int64(top ^ flip)
        above += 1
        carry = np.uint64(top == np.uint64(0))


@compiled_inline
def _squares(table: Ints, row: Any, at: Any) -> tuple[Any, Any, Any, Any, Any]:
    at = np.uint32(at)
    return (
        np.uint64(table[row, at]),
        np.uint64(table[row, at + 1]),
        np.uint64(table[row, at + 2]),
        np.uint64(table[row, at + 3]),
        np.uint64(table[row, at + 4]),
    )


@compiled_inline
def _magnitude(table: Ints, row: Any, at: Any) -> tuple[Any, Any, Any]:
    """A sum without its sign."""
    at = np.uint32(at)
    total = (np.uint64(table[row, at]), np.uint64(table[row, at + 1]), np.uint64(table[row, at + 2]))
    if table[row, at + 2] < 0:
        one, nothing = np.uint64(1), np.uint64(0)
        negated = _added3((~total[0], ~total[1], ~total[2]), (one, nothing, nothing))
        total = (negated[0], negated[1], negated[2])
    return total


@compiled_inline
def _nearest(words: Any, unit: Any) -> float:
    """The double nearest to the integer of several words times 2**unit."""
    top, below, rest, place = _top(words)
    if top == np.uint64(0):
        return 0.0
    zeros = _leading_zeros(top)
    # 64 bits, the first of them 1, are rounded as all are if the last one also stands for what is below.
    head = (top << zeros) | ((below >> np.uint64(1)) >> (np.uint64(63) - zeros))
    if (below << zeros) | rest:
        head |= np.uint64(1)
    exponent = np.int64(place << np.uint64(6)) - np.int64(zeros) + unit
    return np.float64(head) * np.int64((exponent + 1023) << 52).view(np.float64)


@compiled_inline
def read_total(table: Ints, row: Any, at: Any) -> float:
    """A sum as the nearest double."""
    total = _nearest(_magnitude(table, row, at), SUM_UNIT)
    return -total if table[row, at + 2] < 0 else total


@compiled_inline
def read_spread(table: Ints, row: Any, sum_at: Any, squares_at: Any, n: Any) -> float:
    """n times the sum of the squares, less the square of the sum: exact, and rounded once."""
    count, squares, total = np.uint64(n), _squares(table, row, squares_at), _magnitude(table, row, sum_at)
    nothing = np.uint64(0)
    # Words at either end are mostly 0.
    if total[0] | squares[0] | squares[1] == nothing:
        return _nearest(_difference(count, squares[2:], total[1:]), SQUARE_UNIT + 128)
    if total[2] | squares[4] == nothing:
        return _nearest(_difference(count, squares[:4], total[:2]), SQUARE_UNIT)
    return _nearest(_difference(count, squares, total), SQUARE_UNIT)
