"""Training rows on disk: however many there are, shuffled by a seed, in parts, in little memory.

Rows go through two stages. Each is first thrown into one of BUCKETS files at random; then one bucket at a time is read,
shuffled and appended to the files of the parts. Every order of the rows is equally likely, no more than a bucket is in
memory, and each row is written twice. Up to HELD_ROWS rows never leave memory on their way to the parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs.errors import UserError, shown
from model.rows import Floats, Longs, Part, append

HELD_ROWS = 1 << 18  # rows that wait in memory to be thrown into buckets
BUCKETS = 256  # of 100 million rows, one holds 400,000: 40 MB for 19 features
HELD_OUT_ROWS = 2_000_000  # of validation and of test, at most: 200 of them lie beyond a budget of 0.0001
MAX_KINDS = 1000  # of failures; a label with more values is none
MIN_KEYS = 20  # with fewer cars a split by car may leave a side without any

_BINS = 1 << 16


@dataclass(frozen=True)
class Examples:
    """Some rows that passed the preprocessing."""

    x: Floats  # [n, F], features in the preprocessing's order
    keys: pa.Array  # string [n], the car or account
    times: Longs  # [n], event time, milliseconds since the epoch
    kinds: pa.Array  # string [n], what the label says of a failure ("true", or its kind); "" for other rows

    def since(self, start_ms: int) -> Examples:
        """Those from a time on."""
        rows = self.times >= start_ms
        kept = pa.array(rows)
        return Examples(self.x[rows], self.keys.filter(kept), self.times[rows], self.kinds.filter(kept))


@dataclass(frozen=True)
class Parts:
    """Which rows serve what; no row is in two parts."""

    train: Part  # rows to learn from: normal ones, and failed ones for a kind that learns from labels
    validation: Part  # others like them, for early stopping and the threshold; at most HELD_OUT_ROWS
    test: Part  # normal and failed rows to judge by; at most HELD_OUT_ROWS
    failed: NDArray[np.bool_]  # of the test rows: labelled as a failure
    kinds: pa.Array  # dictionary of string, of the test rows: kind of the failure, "" for none
    by: str  # "key" or "time"


@dataclass
class Spool:
    """Takes rows in any number, then divides them into parts.

    Args:
      folder: for the files; they take about twice 100 bytes a row (19 features) while the rows are divided.
      features: F.
      seed: of the order of the rows, and of which key goes into which part.
    """

    folder: Path
    features: int
    seed: int
    count: int = 0
    failures: int = 0  # rows labelled as failures
    first_ms: int = 0  # event times
    last_ms: int = 0
    _held: list[NDArray[Any]] = field(default_factory=list)
    _held_rows: int = 0
    _scattered: bool = False
    _kinds: dict[str, int] = field(default_factory=lambda: {"": 0})
    _some_keys: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._type = np.dtype([("x", "<f4", (self.features,)), ("time", "<i8"), ("key", "<u8"), ("kind", "<i4")])
        self._throws = np.random.default_rng((self.seed, 0))

    def add(self, examples: Examples) -> None:
        """Appends rows.

        Raises:
          UserError: the disk is full, or the label has more than MAX_KINDS values.
        """
        n = len(examples.x)
        if not n:
            return
        rows = np.empty(n, self._type)
        rows["x"], rows["time"] = examples.x, examples.times
        rows["key"], rows["kind"] = self._key_hashes(examples.keys), self._kind_codes(examples.kinds)
        first, last = int(examples.times.min()), int(examples.times.max())
        self.first_ms, self.last_ms = (
            (min(first, self.first_ms), max(last, self.last_ms)) if self.count else (first, last)
        )
        self.count += n
        self.failures += int(np.count_nonzero(rows["kind"]))
        self._held.append(rows)
        self._held_rows += n
        if self._held_rows >= HELD_ROWS:
            self._scatter()

    @property
    def keys(self) -> int:
        """How many there are; from MIN_KEYS on, no longer counted."""
        return len(self._some_keys)

    def unlabelled(self) -> Iterator[Floats]:
        """The rows not labelled as failures, float32 [n, F] at a time, in random order."""
        return (rows["x"][rows["kind"] == 0] for rows in self._buckets())

    def divide(
        self,
        held_out: float,
        by: str = "auto",
        sound: Callable[[Floats], NDArray[np.bool_]] | None = None,
        labels: bool = False,
    ) -> Parts:
        """Divides the rows into training, validation and test, the last two a share of ``held_out`` each.

        Rows labelled as failures are in the test alone, unless ``labels`` are learnt from. Others of which ``sound``
        (float32 [n, F] to bool [n]) is false are in none of them.

        By key, a car is wholly in one of the three, so the figures hold for cars the model has never seen; by time, the
        newest rows are test, those before them validation. "auto" is by key unless there are fewer than MIN_KEYS. A
        car's part depends on the seed and its key alone: more data moves no car to another part.
        """
        if by == "auto":
            by = "key" if self.keys >= MIN_KEYS else "time"
        if by == "time":
            part = self._by_time(held_out)
        else:

            def part(rows: NDArray[Any]) -> NDArray[np.int8]:
                place = rows["key"] / 2.0**64
                return np.where(place < held_out, 2, np.where(place < 2 * held_out, 1, 0)).astype(np.int8)

        kept, codes = [0, 0, 0], [[np.empty(0, np.int32)] for _ in range(3)]
        paths = [self.folder / name for name in ("train", "validation", "test")]
        order = np.random.default_rng((self.seed, 1))
        for path in paths:
            Part.append(path, np.empty(0, self._type))
        for rows in self._buckets(remove=True):
            rows = rows[order.permutation(len(rows))]
            parts, normal = part(rows), rows["kind"] == 0
            if sound is not None:
                parts[normal] = np.where(sound(rows["x"][normal]), parts[normal], -1)
            for i, path in enumerate(paths):
                mine = rows[parts == i] if labels or i == 2 else rows[(parts == i) & normal]
                mine = mine[: HELD_OUT_ROWS - kept[i]] if i else mine
                kept[i] += len(mine)
                Part.append(path, mine)
                if labels or i == 2:
                    codes[i].append(mine["kind"].copy())
        kind = np.concatenate(codes[2])
        failed = [np.concatenate(each) != 0 if labels else None for each in codes[:2]]
        train, validation, test = (
            Part.open(path, self.features, labelled) for path, labelled in zip(paths, [*failed, kind != 0], strict=True)
        )
        kinds = pa.DictionaryArray.from_arrays(pa.array(kind), pa.array(list(self._kinds), pa.string()))
        return Parts(train, validation, test, failed=kind != 0, kinds=kinds, by=by)

    def _key_hashes(self, keys: pa.Array) -> NDArray[np.uint64]:
        """A number a key, even over the 64 bits; a loop over the keys of a block, not over its rows."""
        encoded = keys.dictionary_encode()
        hashes = np.array([_hash(str(key), self.seed) for key in encoded.dictionary.to_pylist()], np.uint64)
        if len(self._some_keys) < MIN_KEYS:
            self._some_keys.update(hashes[:MIN_KEYS].tolist())
        return hashes[encoded.indices.to_numpy()]

    def _kind_codes(self, kinds: pa.Array) -> NDArray[np.int32]:
        encoded = kinds.dictionary_encode()
        names = encoded.dictionary.to_pylist()
        for name in names:
            self._kinds.setdefault(name, len(self._kinds))
        if len(self._kinds) > MAX_KINDS:
            raise UserError(
                f"the label has more than {MAX_KINDS} values, such as {shown(names[-1])}: it says no kind of failure; "
                "tag another field as label, or none"
            )
        return np.array([self._kinds[name] for name in names], np.int32)[encoded.indices.to_numpy()]

    def _scatter(self) -> None:
        """Throws the rows that wait into the buckets."""
        rows = np.concatenate(self._held)
        self._held, self._held_rows, self._scattered = [], 0, True
        bucket = self._throws.integers(0, BUCKETS, len(rows), np.uint8)
        rows = rows[np.argsort(bucket, kind="stable")]
        ends = np.cumsum(np.bincount(bucket, minlength=BUCKETS))
        for i, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            append(self._bucket(i), rows[start:end])

    def _bucket(self, i: int) -> Path:
        return self.folder / f"bucket-{i}"

    def _buckets(self, remove: bool = False) -> Iterator[NDArray[Any]]:
        if not self._scattered:
            yield np.concatenate(self._held) if self._held else np.empty(0, self._type)
            return
        if self._held:
            self._scatter()
        for i in range(BUCKETS):
            rows = np.fromfile(self._bucket(i), self._type)
            if remove:
                self._bucket(i).unlink()
            yield rows

    def _by_time(self, held_out: float) -> Callable[[NDArray[Any]], NDArray[np.int8]]:
        """Part of rows by their time; rows of one instant stay together."""

        def times() -> Iterator[Longs]:
            return (rows["time"] for rows in self._buckets())

        test, validation = (
            kth_largest(times, max(1, int(np.ceil(share * self.count))), self.first_ms, self.last_ms)
            for share in (held_out, 2 * held_out)
        )
        return lambda rows: ((rows["time"] >= validation).astype(np.int8) + (rows["time"] >= test)).astype(np.int8)


def kth_largest(chunks: Callable[[], Iterator[Longs]], k: int, low: int, high: int) -> int:
    """The k-th largest (1: the largest) of many numbers from ``low`` to ``high``, in a few passes over ``chunks()``."""
    while low < high:
        width = (high - low) // _BINS + 1
        counts = np.zeros(_BINS, np.int64)
        for chunk in chunks():
            inside = chunk[(chunk >= low) & (chunk <= high)]
            counts += np.bincount((inside - low) // width, minlength=_BINS)
        above = np.cumsum(counts[::-1])
        place = int(np.searchsorted(above, k))
        k -= int(above[place - 1]) if place else 0
        low += (_BINS - 1 - place) * width
        high = min(high, low + width - 1)
    return low


def _hash(key: str, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=8).digest())
