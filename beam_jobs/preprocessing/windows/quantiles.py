"""Medians and quantiles of the values in a window, in compiled loops."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.jit import compiled_inline, compiled_inside
from beam_jobs.preprocessing.windows.store import Floats, Ring, Store, below, is_null, place, value_at
from beam_jobs.preprocessing.windows.wide import fused

MOST_ROWS = 10_000  # of a window: each row looks through all of them


@compiled_inside
def collect(store: Store, ring: Ring, low: Any, high: Any, column: Any, values: Floats) -> int:
    """Copies the values of a key's rows, position low to high - 1, that are not null; how many."""
    count = np.int64(0)
    for position in range(low, high):
        row = place(ring, position)
        if not is_null(store, row, column):
            values[count] = value_at(store, row, column)
            count += 1
    return int(count)


@compiled_inline
def discrete(values: Floats, count: Any, above: Any, below_: Any, chance: NDArray[np.uint64]) -> float:
    """The value that at least a share of ``above / below_`` of them does not exceed; count > 0."""
    rank = max(np.int64(1), count - count * (below_ - above) // below_) - 1
    return ranked(values, count, rank, chance)


@compiled_inline
def continuous(values: Floats, count: Any, above: Any, below_: Any, line: Any, chance: NDArray[np.uint64]) -> float:
    """Between the two values around the share; count > 0. ``line``: see frames.FUNCTIONS."""
    rank = np.float64(count - 1) * (np.float64(above) / np.float64(below_))
    first = np.int64(np.floor(rank))
    low = ranked(values, count, first, chance)
    if first == rank:
        return low
    high = values[first + 1]  # those behind ``first`` are no smaller
    for i in range(first + 2, count):
        if below(values[i], high):
            high = values[i]
    share = rank - np.float64(first)
    return fused(high - low, share, low) if line else fused(low, 1.0 - share, high * share)


@compiled_inside
def ranked(values: Floats, count: Any, rank: Any, chance: NDArray[np.uint64]) -> float:
    """The value that stands at ``rank`` in order; puts it there, none larger before it and none smaller behind it.

    ``chance``: its last word is drawn from, and changes.
    """
    low, high = np.int64(0), np.int64(count - 1)
    while low < high:
        # Drawn, so that no order of values that somebody sends is a bad one.
        chance[-1] = chance[-1] * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
        i, j = low, high
        pivot = values[low + np.int64(chance[-1] >> np.uint64(33)) % (high - low + 1)]
        while i <= j:
            while below(values[i], pivot):
                i += 1
            while below(pivot, values[j]):
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if rank <= j:
            high = j
        elif rank >= i:
            low = i
        else:
            break
    return values[rank]
