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
record timestamp so far, Wmax the reach of the longest frame of which rows are kept one by one (0: of none, all are in
hop form), L, D and S are those of :class:`Lateness`:

1. A row whose time is later than its record's timestamp + S is from the future: it sees itself alone, and nobody sees
   it.
2. bound = max(C - (Wmax + L + D), newest time of the key - (Wmax + L)). A row before it is too late: alone, too.
3. Any other row sees the rows of its key that came before, and itself, whose time lies in its frame; in a frame that
   is not in hop form also not before the bound.

So a row in the order of its key sees what SQL says, a late one its own past. Of rows with one time each sees those
before it. No row that is not too late can part what is before the bound but at a full hop: tiles.py.

Nothing visible has a record timestamp before C - reach_us. So whoever reads the log again from the first record of
that timestamp on, with ``emit=False``, has the state it had: there is nothing to be stored. The same rows in the same
order give the same bits, however they were cut into blocks: sums are exact and rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs.preprocessing.windows import kernel, packed, quantiles, store, tiles
from beam_jobs.preprocessing.windows.frames import (
    DEFAULT_LATENESS,
    Frame,
    Lateness,
    Window,
    longest_us,
)
from beam_jobs.preprocessing.windows.keys import SEEDS, Keys, enter_all, hashed
from beam_jobs.preprocessing.windows.layout import planned, tiling
from beam_jobs.preprocessing.windows.packed import Arrays
from beam_jobs.preprocessing.windows.store import Store
from beam_jobs.preprocessing.windows.tiles import Tiles

NO_CLOCK = -(1 << 62)
_TILES = "tiles_"  # names of packed arrays
_FIRST_KEYS, _FIRST_ODDS = 1 << 10, 1 << 4  # rooms at the start; they grow as needed
_MOVED = 16  # a row that comes pays for so many that are moved; keys that grow together leave as much as they take
_SWEPT = 4  # rows of a block to one slot that is looked at for having gone idle
_APART = (
    24  # between columns of results: a power of two of bytes would put a row's all in the same few places of a cache
)


class TooManyRowsError(Exception):
    """More rows are held than may be.

    Attributes:
      row: of the block, that was not taken.
      rows: how many there may be.
      sorted: True: in one window that looks for a quantile. False: of one key.
    """

    def __init__(self, row: int, rows: int, sorted_: bool) -> None:
        super().__init__(row, rows, sorted_)
        self.row, self.rows, self.sorted = row, rows, sorted_


class History:
    """The rows of one partition's keys that windows still reach. Not for several threads at once.

    Args:
      windows: the features, in the order in which ``advance`` gives them; at least one.
      lateness: which rows are too late, or from the future.

    Attributes:
      arguments: how many there are, counted from 0 to the last one that a window is of.
    """

    def __init__(self, windows: Sequence[Window], lateness: Lateness = DEFAULT_LATENESS) -> None:
        tiled = [window for window in windows if window.tiled]
        longest = longest_us(window for window in windows if not window.tiled)
        late, delay = lateness.late_ms * 1000, lateness.delay_ms * 1000
        ends = max([0, *(window.frame.end_us for window in tiled)])
        skew, reach = lateness.clock_skew_ms * 1000, longest_us(tiled)
        self._limits = kernel.Limits(longest + late + delay, longest + late, skew, ends, reach, lateness.key_rows)
        self._windows = len(windows)
        hops, parts, self._tile_words = tiling(tiled)
        self._lanes, self._head_words, self._indexed, self._distinct = planned(windows, hops, parts)
        self.arguments = max([0, *(window.argument + 1 for window in windows)])
        self._columns = 1 + self.arguments + len(self._distinct)
        self._seeds = SEEDS
        self._swept = 0  # the slot to look at next
        self._since = 0  # rows taken since the last compaction
        counts = np.zeros(store.COUNTS, np.int64)
        counts[store.CLOCK] = NO_CLOCK
        self._table = np.zeros(2 * _FIRST_KEYS, np.int32)
        self._store = self._allocated(_FIRST_KEYS, store.FIRST_ROWS, counts)
        self._tiles: Tiles | None = None  # of a query without: the loops are compiled for that alone, in half the time
        if tiled:
            held = store.tile_store(_FIRST_KEYS * len(hops), store.FIRST_ROWS, self._tile_words)
            odds = np.zeros((_FIRST_ODDS + len(parts), tiles.ODD_WORDS), np.int64)
            self._tiles = Tiles(held, hops, parts, odds, np.array([1, 0], np.int64))

    @property
    def tiled(self) -> bool:
        """Whether old rows are known by hops, for some of the windows."""
        return self._tiles is not None

    @property
    def clock(self) -> int:
        """The highest record time so far, in microseconds."""
        return int(self._store.counts[store.CLOCK])

    @property
    def reach_us(self) -> int:
        """How far before the clock a record's timestamp may lie and its row still be seen."""
        return self._limits.keep + self._limits.reach + self._limits.skew

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
    def tile_bytes(self) -> int:
        """What a hop of a key takes in which there are rows."""
        return 8 * self._tile_words

    @property
    def key_bytes(self) -> int:
        """What a key takes beside its rows and tiles."""
        return 8 * (self._head_words + (len(self._tiles.hops) * store.HEAD_WORDS if self._tiles is not None else 0))

    @property
    def memory_bytes(self) -> int:
        """What all that takes; not the room for more, which is taken when it is needed."""
        heads, counts = self._slots * self.key_bytes, self._store.counts
        held = int(counts[store.USED]) * self._columns * 8
        held += int(counts[store.INDEXED]) // store.BLOCK * len(self._indexed) * 16
        if self._tiles is not None:
            held += int(self._tiles.store.counts[store.USED]) * self.tile_bytes
            held += int(self._tiles.spare[tiles.NEXT_ODD]) * tiles.ODD_WORDS * 8
        return heads + self._table.nbytes + held

    def advance(
        self,
        keys: pa.Array,
        times: NDArray[np.int64],
        record_times: NDArray[np.int64],
        arguments: NDArray[np.float64],
        valid: NDArray[np.bool_],
        emit: bool = True,
        kept: NDArray[np.bool_] | None = None,
    ) -> list[pa.Array]:
        """Takes n rows, in the order they stand in the log, and says what the windows of each one hold.

        Args:
          keys: string [n], no nulls.
          times: event times, [n], microseconds since the epoch, in the years 1 to 9999.
          record_times: of the records, [n], microseconds.
          arguments: [A, n]; what stands at nulls does not matter.
          valid: [A, n], which arguments are not null.
          emit: False: nothing is wanted back; the list is empty.
          kept: [n], which rows others will see; the others only see. Windows must end before now then. None: all.

        Returns:
          float64 [n] a window; null where the window holds no value, or less than two for stddev_samp and var_samp.

        Raises:
          ValueError: there are more or fewer arguments than the windows have.
          TooManyRowsError: a key, or a window that looks for a quantile, holds more rows than it may; the history
            can't be used any more.
        """
        n = len(keys)
        if len(arguments) != self.arguments or len(valid) != self.arguments:  # compiled loops look at no bounds
            raise ValueError(
                f"{len(arguments)} arguments, of which {len(valid)} say what is null, not {self.arguments}"
            )
        first, second = hashed(keys, self._seeds)
        self._grow_slots(n)
        new_keys = Keys(first, second, self._table, np.empty(n, np.uint32))
        before = self._slots
        whole = np.ascontiguousarray
        block = kernel.Block(whole(times), whole(record_times), whole(arguments), whole(valid))
        outputs = np.empty((self._windows, n + _APART if emit else 0))
        done = 0
        while (
            done := kernel.advance(
                self._store, new_keys, self._lanes, self._tiles, self._limits, block, kept, outputs, emit, done
            )
        ) < n:
            refused = self._store.counts[store.REFUSED]
            if refused:
                sorted_ = bool(refused == store.TOO_MANY_SORTED)
                raise TooManyRowsError(done, quantiles.MOST_ROWS if sorted_ else self._limits.rows, sorted_)
            self._grow_rows(int(new_keys.slots[done]))
        self._tidy(n, self._slots - before)
        return _columns(outputs[:, :n]) if emit else []

    def held(self) -> Arrays:
        """All that is known, by name, in arrays of its own: ``restore`` takes them, in whatever process."""
        arrays = {"seeds": self._seeds, **packed.packed(self._store, self._slots)}
        if self._tiles is not None:
            of_tiles = packed.packed(self._tiles.store, self._slots * len(self._tiles.hops))
            arrays |= {f"{_TILES}{name}": array for name, array in of_tiles.items()}
            arrays["odds"] = self._tiles.odds[: self._tiles.spare[tiles.NEXT_ODD]].copy()
        return arrays

    def restore(self, arrays: Arrays) -> None:
        """Takes what a history of the same windows has ``held``, instead of what is known.

        Raises:
          ValueError: it is something else; the history can't be used any more.
        """
        if _shapes(arrays) != _shapes(self.held()):
            raise ValueError("not the arrays of these windows")
        of_tiles = {name.removeprefix(_TILES): array for name, array in arrays.items() if name.startswith(_TILES)}
        slots, hops = len(arrays["heads"]), 0 if self._tiles is None else len(self._tiles.hops)
        fits = [packed.rows_fit(part) for part in (arrays, of_tiles) if part]
        fits += [len(of_tiles["heads"]) == slots * hops and len(arrays["odds"]) > 0] if of_tiles else []
        if not all(fits):
            raise ValueError("arrays that do not belong together")
        self._seeds, self._swept, self._since = arrays["seeds"], 0, 0
        rows = packed.room_of(arrays["heads"]) + store.FIRST_ROWS
        self._store = self._allocated(slots + _FIRST_KEYS, rows, np.zeros(store.COUNTS, np.int64))
        packed.unpack(arrays, self._store)
        self._store.counts[store.SLOTS] = slots
        fits = [packed.lanes_fit(self._store, self._lanes)]
        if self._tiles is not None:
            rows = packed.room_of(of_tiles["heads"]) + store.FIRST_ROWS
            of_store = store.tile_store((slots + _FIRST_KEYS) * hops, rows, self._tile_words)
            packed.unpack(of_tiles, of_store)
            spare = np.array([len(arrays["odds"]), 0], np.int64)
            self._tiles = self._tiles._replace(store=of_store, odds=arrays["odds"], spare=spare)
            fits.append(packed.tiles_fit(self._store, self._lanes, self._tiles, of_tiles["rows"]))
        if not all(fits):
            raise ValueError("arrays that point where nothing is")
        self._table = np.zeros(1 << (len(self._store.heads) * 4 // 3).bit_length(), np.int32)
        enter_all(self._table, self._store.heads, slots)

    @property
    def _slots(self) -> int:
        """In use."""
        return int(self._store.counts[store.SLOTS])

    def _allocated(self, slots: int, rows: int, counts: NDArray[np.int64]) -> Store:
        return store.empty(slots, self._head_words, rows, self._columns, self._indexed, self._distinct, counts)

    def _grow_slots(self, n: int) -> None:
        """Sees to it that n new keys find a slot."""
        needed, heads = self._slots + n, self._store.heads
        if needed > len(heads):
            larger = store.zeros(store.larger(len(heads), self._head_words, needed), self._head_words)
            larger[: self._slots] = heads[: self._slots]
            self._store = store.with_heads(self._store, larger)
            if self._tiles is not None:
                larger = store.zeros(len(larger) * len(self._tiles.hops), store.HEAD_WORDS)
                used = self._slots * len(self._tiles.hops)
                larger[:used] = self._tiles.store.heads[:used]
                self._tiles = self._tiles._replace(store=store.with_heads(self._tiles.store, larger))
        if needed * 4 > len(self._table) * 3:
            self._table = np.zeros(1 << (needed * 4 // 3).bit_length(), np.int32)
            enter_all(self._table, self._store.heads, self._slots)

    def _grow_rows(self, slot: int) -> None:
        """Sees to it that a row of a key finds room."""
        needed = 2 * int(store.RING_SIZES[self._store.halves[slot, store.RING]])
        self._store = store.with_room(self._store, needed)
        if self._tiles is not None:
            needed = tiles.tile_room(self._tiles, slot)
            odds, next_odd = self._tiles.odds, int(self._tiles.spare[tiles.NEXT_ODD])
            if next_odd + len(self._tiles.parts) > len(odds):
                odds = np.zeros((len(odds) * 2 + len(self._tiles.parts), tiles.ODD_WORDS), np.int64)
                odds[:next_odd] = self._tiles.odds[:next_odd]
            self._tiles = self._tiles._replace(store=store.with_room(self._tiles.store, needed), odds=odds)

    def _tidy(self, n: int, new: int) -> None:
        """Gives keys back that have gone idle, looking at some slots each time, and moves all when that frees enough.

        Args:
          n: rows that were taken.
          new: keys that came with them; what is given back must keep up with them.
        """
        self._since += n
        end = min(self._swept + n // _SWEPT + 2 * new + 1, self._slots)
        bound = self.clock - self._limits.keep - self._limits.reach
        kernel.sweep(self._store, self._tiles, self._swept, end, bound)
        self._swept = end if end < self._slots else 0
        stores = [self._store, *([self._tiles.store] if self._tiles is not None else [])]
        idle = (self._slots - self.keys) * 4 > self._slots + 4 * _FIRST_KEYS
        if (idle or any(map(store.has_spare, stores))) and self._since * _MOVED > sum(
            s.counts[store.ROWS] for s in stores
        ):
            self._compact()

    def _compact(self) -> None:
        keys, rows = self.keys, kernel.room_needed(self._store, self._slots)
        counts = self._store.counts.copy()
        counts[[store.USED, store.GRANTED, store.INDEXED]] = 0
        counts[store.SLOTS] = keys
        new = self._allocated(keys + _FIRST_KEYS, rows * 9 // 8 + store.FIRST_ROWS, counts)
        if self._tiles is not None:
            needed = tiles.tiles_needed(self._store, self._slots, self._tiles)
            room = (keys + _FIRST_KEYS) * len(self._tiles.hops)
            moved = store.tile_store(room, needed * 9 // 8 + store.FIRST_ROWS, self._tile_words)
            moved.counts[[store.ROWS, store.KEYS]] = self._tiles.store.counts[[store.ROWS, store.KEYS]]
            tiles.move_all_tiles(self._store, self._slots, self._tiles, moved)
            self._tiles = self._tiles._replace(store=moved)
        kernel.move_all(self._store, self._slots, new)
        self._store, self._swept, self._since = new, 0, 0
        self._table = np.zeros(1 << ((keys + _FIRST_KEYS) * 4 // 3).bit_length(), np.int32)
        enter_all(self._table, new.heads, keys)


def warm_up(tiled: bool = False, kept: bool = False) -> None:
    """Compiles the loops, or loads what was compiled before: the first time on a machine half a minute, then a second.

    One history does it for all that are ``tiled`` or not, and are told or not which rows are ``kept``: their loops take
    the same types.
    """
    one = np.zeros(1, np.int64)
    history = History([Window("avg", 0, Frame(1_000_000, hop_us=1000 if tiled else 0))])
    history.advance(
        pa.array(["a"]),
        one,
        one,
        np.zeros((1, 1)),
        np.ones((1, 1), np.bool_),
        kept=np.ones(1, np.bool_) if kept else None,
    )
    history._grow_rows(0)
    history._compact()


def _shapes(arrays: Arrays) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Of each array all but how many rows it has; of what is counted, and of seeds, that too."""
    fixed = ("seeds", "counts", f"{_TILES}counts")
    return {name: (a.dtype, a.shape if name in fixed else a.shape[1:]) for name, a in arrays.items()}


def _columns(values: NDArray[np.float64]) -> list[pa.Array]:
    """A column a row of [W, n]."""
    unknown = values.view(np.int64) == store.NULL
    some = unknown.any(axis=1)  # once for all: other threads wait between two calls
    return [pa.array(row, mask=mask if any_ else None) for row, mask, any_ in zip(values, unknown, some, strict=True)]
