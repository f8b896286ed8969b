"""Features over the past of a key: ``avg(x) OVER (PARTITION BY key ORDER BY event_time RANGE ... PRECEDING)``.

A :class:`History` keeps of each key the rows that its windows still reach, and takes new rows block by block:

>>> minute = 60_000_000
>>> history = History([Window("avg", 0, Frame(5 * minute)), Window("count", 0, Frame(minute))])
>>> def features(keys, minutes, speeds):
...     times, known = np.array(minutes) * minute, np.ones((1, len(keys)), bool)
...     return [f.to_pylist() for f in history.advance(pa.array(keys), times, times, np.array([speeds]), known)]
>>> features(["a", "b", "a"], [0, 0, 4], [1.0, 5.0, 3.0])
[[1.0, 5.0, 2.0], [1.0, 1.0, 1.0]]
>>> features(["a", "a"], [5, 10], [9.0, 2.0])
[[4.333333333333333, 5.5], [2.0, 1.0]]

What a row sees is a function of the rows before it in its partition's log, and of nothing else. C is the highest
record timestamp so far, Wmax the reach of the longest frame, L, D and S are those of :class:`Lateness`:

1. A row whose time is later than its record's timestamp + S is from the future: it sees itself alone, and nobody sees
   it.
2. bound = max(C - (Wmax + L + D), newest time of the key - (Wmax + L)). A row before it is too late: alone, too.
3. Any other row sees the rows of its key that came before, and itself, whose time lies in its frame and not before
   the bound.

So a row in the order of its key sees what SQL says, a late one its own past. Of rows with one time each sees those
before it.

Nothing visible has a record timestamp before C - reach_us. So whoever reads the log again from the first record of
that timestamp on, with ``emit=False``, has the state it had: there is nothing to be stored. The same rows in the same
order give the same bits, however they were cut into blocks: sums are exact and rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs.preprocessing.windows import exact_sum, kernel, lanes, store, wide
from beam_jobs.preprocessing.windows.frames import DEFAULT_LATENESS, FUNCTIONS, Frame, Lateness, Window, longest_us
from beam_jobs.preprocessing.windows.keys import enter_all, find_slots, hashed
from beam_jobs.preprocessing.windows.store import Store

_NO_CLOCK = -(1 << 62)
_FIRST_KEYS, _FIRST_ROWS = 1 << 10, 1 << 12  # rooms at the start; they grow as needed
_SWEPT = 4  # rows of a block to one slot that is looked at for having gone idle
_APART = (
    24  # between columns of results: a power of two of bytes would put a row's all in the same few places of a cache
)
_SPARE = 16  # a compaction pays from a sixteenth of the arena on

_EXTREMES = ("min", "max")
_SQUARES = ("stddev_samp", "var_samp")
_SUMS = ("sum", "avg", *_SQUARES)


class History:
    """The rows of one partition's keys that windows still reach. Not for several threads at once.

    Args:
      windows: the features, in the order in which ``advance`` gives them; at least one.
      lateness: which rows are too late, or from the future.
    """

    def __init__(self, windows: Sequence[Window], lateness: Lateness = DEFAULT_LATENESS) -> None:
        longest = longest_us(windows)
        late, delay = lateness.late_ms * 1000, lateness.delay_ms * 1000
        self._limits = kernel.Limits(longest + late + delay, longest + late, lateness.clock_skew_ms * 1000)
        self._windows = len(windows)
        self._lanes, self._head_words, self._indexed, self._distinct = _planned(windows)
        self._columns = 1 + max([0, *(window.argument + 1 for window in windows)]) + len(self._distinct)
        self._slots = 0  # in use
        self._swept = 0  # the slot to look at next
        self._since = 0  # rows taken since the last compaction
        counts = np.zeros(store.COUNTS, np.int64)
        counts[store.CLOCK] = _NO_CLOCK
        self._table = np.zeros(2 * _FIRST_KEYS, np.int32)
        self._store = self._allocated(_FIRST_KEYS, _FIRST_ROWS, counts)

    @property
    def clock(self) -> int:
        """The highest record time so far, in microseconds."""
        return int(self._store.counts[store.CLOCK])

    @property
    def reach_us(self) -> int:
        """How far before the clock a record's timestamp may lie and its row still be seen."""
        return self._limits.keep + self._limits.skew

    @property
    def late(self) -> int:
        """Rows that came after a newer one of their key, so far."""
        return int(self._store.counts[store.LATE])

    @property
    def alone(self) -> int:
        """Rows that were too late, so far."""
        return int(self._store.counts[store.ALONE])

    @property
    def future(self) -> int:
        """Rows that were from the future, so far."""
        return int(self._store.counts[store.FUTURE])

    @property
    def rows(self) -> int:
        """Rows that are kept."""
        return int(self._store.counts[store.ROWS])

    @property
    def keys(self) -> int:
        """Keys of which rows are kept."""
        return int(self._store.counts[store.KEYS])

    @property
    def row_bytes(self) -> float:
        """What a row that is kept takes."""
        return 8 * self._columns + 16 * len(self._indexed) / store.BLOCK

    @property
    def key_bytes(self) -> int:
        """What a key takes beside its rows."""
        return 8 * self._head_words

    @property
    def memory_bytes(self) -> int:
        """What all that takes; not the room for more, which is taken when it is needed."""
        heads, rows = self._slots * self._head_words * 8, int(self._store.counts[store.USED])
        return heads + self._table.nbytes + rows * self._columns * 8 + rows // store.BLOCK * len(self._indexed) * 16

    def advance(
        self,
        keys: pa.Array,
        times: NDArray[np.int64],
        record_times: NDArray[np.int64],
        arguments: NDArray[np.float64],
        valid: NDArray[np.bool_],
        emit: bool = True,
    ) -> list[pa.Array]:
        """Takes n rows, in the order they stand in the log, and says what the windows of each one hold.

        Args:
          keys: string [n], no nulls.
          times: event times, [n], microseconds since the epoch, in the years 1 to 9999.
          record_times: of the records, [n], microseconds.
          arguments: [A, n]; what stands at nulls does not matter.
          valid: [A, n], which arguments are not null.
          emit: False: nothing is wanted back; the list is empty.

        Returns:
          float64 [n] a window; null where the window holds no value, or less than two for stddev_samp and var_samp.

        Raises:
          UserError: it takes more memory than it may; it can't be used any more.
        """
        n = len(keys)
        first, second = hashed(keys)
        self._grow_slots(n)
        slots = np.empty(n, np.uint32)
        known = self._slots
        self._slots = find_slots(first, second, self._table, self._store, self._slots, slots)
        whole = np.ascontiguousarray
        block = kernel.Block(slots, whole(times), whole(record_times), whole(arguments), whole(valid))
        outputs = np.empty((self._windows, n + _APART if emit else 0))
        done = 0
        while (done := kernel.advance(self._store, self._lanes, self._limits, block, outputs, emit, done)) < n:
            self._grow_rows(int(slots[done]))
        self._tidy(n, self._slots - known)
        return [_column(values[:n]) for values in outputs] if emit else []

    def _allocated(self, slots: int, rows: int, counts: NDArray[np.int64]) -> Store:
        """Empty arrays."""
        heads = store.zeros(slots, self._head_words)
        arena = np.empty((rows, self._columns), np.int64)
        return Store(
            heads,
            heads.view(np.uint32),
            heads.view(np.float64),
            arena,
            arena.view(np.float64),
            np.empty((rows // store.BLOCK + 1, 2 * len(self._indexed)), np.int64),
            self._indexed,
            self._distinct,
            np.full(len(store.RING_SIZES), -1, np.int64),
            store.RING_SIZES,
            counts,
        )

    def _grow_slots(self, n: int) -> None:
        """Sees to it that n new keys find a slot."""
        needed, heads = self._slots + n, self._store.heads
        if needed > len(heads):
            larger = store.zeros(max(len(heads) * 2, needed), self._head_words)
            larger[: self._slots] = heads[: self._slots]
            self._store = self._store._replace(
                heads=larger, halves=larger.view(np.uint32), extremes=larger.view(np.float64)
            )
        if needed * 4 > len(self._table) * 3:
            self._table = np.zeros(1 << (needed * 4 // 3).bit_length(), np.int32)
            enter_all(self._table, self._store.heads, self._slots)

    def _grow_rows(self, slot: int) -> None:
        """Sees to it that a row of a key finds room."""
        used, rows = int(self._store.counts[store.USED]), self._store.rows
        wanted = used + 2 * int(store.RING_SIZES[self._store.halves[slot, store.RING]])
        larger = np.empty((max(len(rows) * 3 // 2, wanted + store.BLOCK), self._columns), np.int64)
        larger[:used] = rows[:used]
        blocks = np.empty((len(larger) // store.BLOCK + 1, 2 * len(self._indexed)), np.int64)
        blocks[: len(self._store.blocks)] = self._store.blocks
        self._store = self._store._replace(rows=larger, values=larger.view(np.float64), blocks=blocks)

    def _tidy(self, n: int, new: int) -> None:
        """Gives keys back that have gone idle, looking at some slots each time, and moves all when that frees enough.

        Args:
          n: rows that were taken.
          new: keys that came with them; what is given back must keep up with them.
        """
        self._since += n
        end = min(self._swept + n // _SWEPT + 2 * new + 1, self._slots)
        kernel.sweep(self._store, self._swept, end, self.clock - self._limits.keep)
        self._swept = end if end < self._slots else 0
        counts = self._store.counts
        unused = int(counts[store.USED] - counts[store.GRANTED])
        spare = (
            unused > counts[store.GRANTED] // _SPARE + _FIRST_ROWS
            or (self._slots - self.keys) * 4 > self._slots + 4 * _FIRST_KEYS
        )
        if spare and self._since * 4 > self.rows:
            self._compact()

    def _compact(self) -> None:
        keys, rows = self.keys, kernel.room_needed(self._store, self._slots)
        counts = self._store.counts.copy()
        counts[store.USED] = counts[store.GRANTED] = 0
        new = self._allocated(keys + _FIRST_KEYS, rows * 9 // 8 + _FIRST_ROWS, counts)
        kernel.move_all(self._store, self._slots, new)
        self._store, self._slots, self._swept, self._since = new, keys, 0, 0
        self._table = np.zeros(1 << ((keys + _FIRST_KEYS) * 4 // 3).bit_length(), np.int32)
        enter_all(self._table, new.heads, keys)


def _planned(windows: Sequence[Window]) -> tuple[lanes.Lanes, int, NDArray[np.int64], NDArray[np.int64]]:
    """Lanes, words of a head, columns whose extremes are wanted and those whose different values are counted."""
    functions: dict[tuple[int, Frame], list[int]] = {}
    for number, window in enumerate(windows):
        functions.setdefault((window.argument, window.frame), []).append(number)

    def columns(names: Sequence[str]) -> list[int]:
        return sorted({window.argument + 1 for window in windows if window.function in names})

    indexed, distinct = columns(_EXTREMES), columns(["count_distinct"])
    first_next = 1 + max([0, *(window.argument + 1 for window in windows)])
    plan = np.zeros((len(functions), lanes.PLAN_COLUMNS), np.int64)
    word, outputs = store.HEAD_WORDS, list[int]()
    for lane, ((argument, frame), numbers) in zip(plan, functions.items(), strict=True):
        names = {windows[number].function for number in numbers}
        lane[[lanes.START, lanes.END, lanes.HOP]] = frame.start_us, frame.end_us, frame.hop_us
        lane[lanes.EXCLUDE] = frame.exclude_current and not frame.end_us
        lane[lanes.COLUMN] = argument + 1
        lane[lanes.FIRST_OUT], lane[lanes.END_OUT] = len(outputs), len(outputs) + len(numbers)
        outputs += numbers
        wanted = [
            (lanes.AT, 1, True),
            (lanes.RUNNING, 1, bool(names - {"first_value", "last_value", "count_distinct"})),
        ]
        wanted.append((lanes.EXTREMES, 2, bool(names & {*_EXTREMES})))
        wanted.append((lanes.SUM_AT, wide.SUM_WORDS, bool(names & {*_SUMS})))
        wanted.append((lanes.SQUARES_AT, wide.SQUARE_WORDS, bool(names & {*_SQUARES})))
        for part, words, needed in wanted:
            if needed:
                lane[part] = word
                word += words
        if lane[lanes.EXTREMES]:
            lane[lanes.INDEX] = indexed.index(argument + 1)
        if "count_distinct" in names:
            lane[lanes.NEXT] = first_next + distinct.index(argument + 1)
    codes = np.array([FUNCTIONS.index(windows[number].function) for number in outputs], np.int64)
    found, sums = np.zeros(lanes.VAR_SAMP + 1), np.zeros((4, exact_sum.LIMBS + 1), np.int64)
    equals = np.zeros(len(distinct), np.int64)
    planned = lanes.Lanes(plan, codes, np.array(outputs, np.int64), found, sums, equals)
    return planned, word, np.array(indexed, np.int64), np.array(distinct, np.int64)


def warm_up() -> None:
    """Compiles the loops, or loads what was compiled before: the first time on a machine half a minute, then a second.

    One history does it for all: their loops take the same types.
    """
    one = np.zeros(1, np.int64)
    history = History([Window("avg", 0, Frame(1_000_000))])
    history.advance(pa.array(["a"]), one, one, np.zeros((1, 1)), np.ones((1, 1), np.bool_))


def _column(values: NDArray[np.float64]) -> pa.Array:
    unknown = values.view(np.int64) == store.NULL
    return pa.array(values, mask=unknown) if unknown.any() else pa.array(values)
