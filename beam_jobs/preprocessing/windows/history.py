"""Features over the past of a key: ``avg(x) OVER (PARTITION BY key ORDER BY event_time RANGE ... PRECEDING)``.

A :class:`History` keeps of each key the rows that its windows still reach, and takes new rows block by block:

>>> history = History([Window("avg", 0, 300_000), Window("count", 0, 60_000)])
>>> def features(keys, minutes, speeds):
...     times, known = np.array(minutes) * 60_000_000, np.ones((1, len(keys)), bool)
...     return [f.to_pylist() for f in history.advance(pa.array(keys), times, np.array([speeds]), known)]
>>> features(["a", "b", "a"], [0, 0, 4], [1.0, 5.0, 3.0])
[[1.0, 5.0, 2.0], [1.0, 1.0, 1.0]]
>>> features(["a", "a"], [5, 10], [9.0, 2.0])
[[4.333333333333333, 5.5], [2.0, 1.0]]
>>> history.rows  # of a those of minutes 5 and 10, of b its one
3

What a row sees: those rows of its key that came before it, or are it, whose time is at most the window's length before
its own and not after it. In a stream no other rows are known. So

* rows that come in the order of their times see what SQL says; of rows with the same time each sees the ones before it;
* a late row sees its own past, as far as it is kept: back to the longest window before the newest time of its key. Rows
  that come later see it too. A row older than that sees itself alone, and nobody sees it;
* one wrong clock does no lasting harm: when 16 rows in a row are that old, the newest time was wrong, and the key
  starts again.

The same rows in the same order give the same bits, however they were cut into blocks: sums are exact and rounded once
(exact_sum.py), so nothing drifts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from beam_jobs.preprocessing.windows import kernel

FUNCTIONS = ("avg", "sum", "count", "min", "max", "stddev_samp")

_NEEDS = {
    "avg": kernel.SUM,
    "sum": kernel.SUM,
    "count": 0,
    "min": kernel.EXTREMES,
    "max": kernel.EXTREMES,
    "stddev_samp": kernel.VARIANCE,
}
_FOUND = {
    "avg": kernel.FOUND_SUM,
    "sum": kernel.FOUND_SUM,
    "min": kernel.FOUND_MIN,
    "max": kernel.FOUND_MAX,
    "stddev_samp": kernel.FOUND_VARIANCE,
}
_FIRST_ROOM = 1 << 12  # rows; grows as needed
_SPARE = 4  # rows


@dataclass(frozen=True)
class Window:
    """One window feature."""

    function: str  # one of FUNCTIONS
    argument: int  # row of ``arguments`` that it is about
    milliseconds: int  # length; a row exactly so old is in it


def in_time_order(blocks: Sequence[pa.RecordBatch], event_time: str, rows: int = 32_768) -> Iterator[pa.RecordBatch]:
    """The rows of all blocks by event time, as a history wants what was recorded: file after file is seldom in order.

    Rows of one time stay as they were, those without a time come last. All rows are in memory at once.

    Args:
      blocks: of one schema.
      event_time: the column to go by.
      rows: of a block that comes out, at most.
    """
    if not blocks:
        return
    table = pa.Table.from_batches(blocks).combine_chunks()  # to take from many chunks costs a copy of all of them
    order = pc.sort_indices(table[event_time])  # stable
    for start in range(0, len(order), rows):
        yield from table.take(order.slice(start, rows)).combine_chunks().to_batches()


class History:
    """The rows of each key that its windows still reach. Not for several threads at once.

    Args:
      windows: the features, in the order in which ``advance`` gives them; at least one.
    """

    def __init__(self, windows: Sequence[Window]) -> None:
        self._windows = tuple(windows)
        lanes: dict[tuple[int, int], int] = {}
        for window in windows:
            lane = (window.argument, window.milliseconds)
            lanes[lane] = lanes.get(lane, 0) | _NEEDS[window.function]
        self._lanes = list(lanes)
        self._arguments = np.array([argument for argument, _ in lanes], np.int64)
        self._spans = np.array([milliseconds * 1000 for _, milliseconds in lanes], np.int64)
        self._needs = np.array(list(lanes.values()), np.int64)
        self._slots: dict[str, int] = {}
        # By slot: where its rows start, how many, for how many there is room, how many too old ones came last.
        self._firsts, self._sizes, self._rooms, self._stale = (np.zeros(0, np.int64) for _ in range(4))
        self._used = 0
        self._allocate(_FIRST_ROOM)

    @property
    def rows(self) -> int:
        """Rows that are kept."""
        return int(self._sizes.sum())

    def advance(
        self, keys: pa.Array, times: NDArray[np.int64], arguments: NDArray[np.float64], valid: NDArray[np.bool_]
    ) -> list[pa.Array]:
        """Takes n rows, in the order they came, and says what the windows of each one hold.

        Args:
          keys: string [n], no nulls.
          times: [n], microseconds since the epoch, in the years 1 to 9999.
          arguments: [A, n]; what stands at nulls does not matter.
          valid: [A, n], which arguments are not null.

        Returns:
          float64 [n] a window; null where the window holds no value, or less than two for stddev_samp.
        """
        n = len(keys)
        encoded = keys.dictionary_encode()
        slots = self._slots_of(encoded.dictionary)
        rows, starts = kernel.grouped(encoded.indices.to_numpy(), len(slots))
        added = np.diff(starts)
        self._make_room(slots, added)
        counts = np.zeros((len(self._lanes), n), np.int64)
        found = np.zeros((len(self._lanes), 4, n))
        arguments = arguments + 0.0  # -0.0 becomes 0.0: equal values, equal bits
        kernel.advance(
            rows,
            starts,
            slots,
            times,
            arguments,
            valid,
            self._arguments,
            self._spans,
            self._needs,
            self._firsts,
            self._sizes,
            self._rooms,
            self._stale,
            self._times,
            self._values,
            self._valid,
            counts,
            found,
        )
        return [self._result(window, counts, found) for window in self._windows]

    def _result(self, window: Window, counts: NDArray[np.int64], found: NDArray[np.float64]) -> pa.Array:
        lane = self._lanes.index((window.argument, window.milliseconds))
        count, function = counts[lane], window.function
        if function == "count":
            return pa.array(count.astype(np.float64))
        values = found[lane, _FOUND[function]]
        if function == "avg":
            values = values / np.maximum(count, 1)
        elif function == "stddev_samp":
            values = np.sqrt(values)
        unknown = count < (2 if function == "stddev_samp" else 1)
        return pa.array(values, mask=unknown) if unknown.any() else pa.array(values)

    def _slots_of(self, keys: pa.Array) -> NDArray[np.int64]:
        """A slot for each key, new ones for new keys."""
        known = self._slots
        slots = np.array([known.setdefault(key, len(known)) for key in keys.to_pylist()], np.int64)
        new = len(known) - len(self._sizes)
        if new > 0:
            more = np.zeros(max(new, len(self._sizes)), np.int64)
            columns = (self._firsts, self._sizes, self._rooms, self._stale)
            self._firsts, self._sizes, self._rooms, self._stale = (np.concatenate([c, more]) for c in columns)
        return slots

    def _make_room(self, slots: NDArray[np.int64], added: NDArray[np.int64]) -> None:
        """Sees to it that each slot has room for ``added`` rows more; those it moves get half as much again."""
        needed = self._sizes[slots] + added
        lacking = needed > self._rooms[slots]
        if not lacking.any():
            return
        short, needed = slots[lacking], needed[lacking]
        self._rooms[short] = needed + needed // 2 + _SPARE
        if self._used + self._rooms[short].sum() <= len(self._times):
            self._move(short, self._times, self._values, self._valid)
            return
        # All are moved, one behind the other: what was given up is free again.
        times, values, valid = self._times, self._values, self._valid
        self._used = 0
        self._allocate(int(self._rooms.sum()) * 3 // 2)
        self._move(np.arange(len(self._sizes)), times, values, valid)

    def _move(
        self, slots: NDArray[np.int64], times: NDArray[np.int64], values: NDArray[np.float64], valid: NDArray[np.bool_]
    ) -> None:
        """Moves the rows of the slots from these arrays behind all others of the history's own."""
        ends = self._used + np.cumsum(self._rooms[slots])
        targets = self._firsts.copy()
        targets[slots] = ends - self._rooms[slots]
        kernel.move(
            slots, self._sizes, self._firsts, targets, times, values, valid, self._times, self._values, self._valid
        )
        self._firsts, self._used = targets, int(ends[-1])

    def _allocate(self, rows: int) -> None:
        arguments = int(self._arguments.max()) + 1
        self._times = np.zeros(rows, np.int64)
        self._values = np.zeros((arguments, rows))
        self._valid = np.zeros((arguments, rows), np.bool_)
