"""Rows of features in files, and in parts: whoever goes over them has no more than some thousand in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import UserError

Floats = NDArray[np.float32]
Longs = NDArray[np.int64]
Bools = NDArray[np.bool_]

CHUNK_ROWS = 1 << 18  # rows in memory at a time


class Matrix(Protocol):
    """Rows of features, float32 [n, F], of which slices are taken: an array, or :class:`StoredRows`."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Floats: ...


class StoredRows:
    """Rows of features in a file, float32 [n, F]; a slice (without a step) is read when it is taken."""

    def __init__(self, path: Path, features: int) -> None:
        self._path, self._features = path, features
        self._count = path.stat().st_size // (4 * features)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: slice, /) -> Floats:
        start, stop, _ = rows.indices(self._count)
        count = max(0, stop - start) * self._features
        found = np.fromfile(self._path, np.float32, count, offset=4 * start * self._features)
        return found.reshape(-1, self._features)


def slices(rows: Matrix, size: int) -> Iterator[Floats]:
    """All rows, at most ``size`` at a time."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


class ChosenRows:
    """Some rows of a matrix, in their order."""

    def __init__(self, rows: Matrix, chosen: Bools) -> None:
        self._rows, self._places = rows, np.flatnonzero(chosen)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, rows: slice, /) -> Floats:
        places = self._places[rows]
        if not len(places):
            return self._rows[:0]
        first = int(places[0])
        return self._rows[first : int(places[-1]) + 1][places - first]


def take(rows: Matrix, wanted: Bools) -> Floats:
    """Rows of which ``wanted``, [n], is true."""
    chunks = []
    for start in range(0, len(wanted), CHUNK_ROWS):
        chosen = wanted[start : start + CHUNK_ROWS]
        if chosen.any():
            chunks.append(rows[start : start + CHUNK_ROWS][chosen])
    return np.concatenate(chunks) if chunks else rows[:0]


def take_first(rows: Matrix, wanted: Bools, count: int) -> Floats:
    """The first rows of which ``wanted``, [n], is true, ``count`` at most; of parts, which are in random order."""
    return take(rows, wanted & (np.cumsum(wanted) <= count))


@dataclass(frozen=True)
class Part:
    """Rows of training, validation or test, in random order; none of them is in memory until it is asked for."""

    x: Matrix  # float32 [n, F]
    keys: NDArray[np.uint64]  # [n], stands for the key; memory-mapped
    times: Longs  # [n], event time, milliseconds since the epoch; memory-mapped
    failed: Bools | None = None  # [n], labelled as a failure; None: no row is

    @classmethod
    def open(cls, path: Path, features: int, failed: Bools | None = None) -> Part:
        """What ``append`` has written to ``path`` and beside it."""
        keys, times = _beside(path)
        return cls(StoredRows(path, features), _mapped(keys, np.uint64), _mapped(times, np.int64), failed)

    @property
    def sound(self) -> Bools:
        """[n], not labelled as a failure."""
        return np.ones(len(self), np.bool_) if self.failed is None else ~self.failed

    def without_failures(self) -> Part:
        """The rows that are not labelled as failures."""
        if self.failed is None:
            return self
        sound = self.sound
        return Part(ChosenRows(self.x, sound), self.keys[sound], self.times[sound])

    @staticmethod
    def append(path: Path, rows: NDArray[Any]) -> None:
        """Appends rows of the spool's type; with none, makes the files."""
        for file, name in zip((path, *_beside(path)), ("x", "key", "time"), strict=True):
            append(file, rows[name])

    def __len__(self) -> int:
        return len(self.x)


def _beside(path: Path) -> tuple[Path, Path]:
    """Files of the keys and of the times of the rows in ``path``."""
    return path.with_suffix(".keys"), path.with_suffix(".times")


def _mapped(path: Path, type_: type[Any]) -> NDArray[Any]:
    """Numbers in a file; an empty one can't be mapped."""
    return np.asarray(np.memmap(path, type_, "r")) if path.stat().st_size else np.empty(0, type_)


def append(path: Path, rows: NDArray[Any]) -> None:
    """Appends values to a file; UserError if they can't be written."""
    try:
        with path.open("ab") as file:
            file.write(np.ascontiguousarray(rows).data)
    except OSError as error:
        raise UserError(
            f"{path.parent}: {error.strerror} while spooling training rows; set TMPDIR to a folder with more space"
        ) from error
