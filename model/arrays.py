"""Arrays of ``.npz`` files that others may have written: no objects, and no more memory than a model takes."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import one_line

MAX_BYTES = 1 << 30  # of all arrays of a file; zeros deflate to a thousandth


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of a file by name.

    Raises:
      OSError: it can't be opened.
      ValueError: it holds something else, an object that would have to be unpickled, or too much.
    """
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                size = sum(member.file_size for member in archive.infolist())
            if size > MAX_BYTES:
                raise ValueError(f"{size:,} bytes of arrays, {MAX_BYTES:,} at most are accepted")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                found = dict(arrays)
            if not all(isinstance(array, np.ndarray) for array in found.values()):
                raise ValueError("it holds something else than arrays")
            return found
        except Exception as error:  # zipfile, zlib and NumPy raise a dozen types for what is broken
            raise ValueError(one_line(error, 200) or type(error).__name__) from error


def check_arrays(
    arrays: Mapping[str, NDArray[Any]],
    wanted: Mapping[str, tuple[type[Any], tuple[str | int, ...]]],
    sizes: Mapping[str, int] = MappingProxyType({}),
) -> None:
    """Checks arrays that compiled code indexes without bounds checks.

    Args:
      wanted: name to type and shape; a letter stands for a size, the same wherever it stands, ``k+1`` for one more.
      sizes: of letters that are known.

    Raises:
      ValueError: one is missing, of another type or shape, or holds something that is no number.
    """
    known = dict(sizes)
    for name, (type_, shape) in wanted.items():
        if name not in arrays:
            raise ValueError(f"{name} is missing")
        array = arrays[name]
        if array.dtype != type_ or array.ndim != len(shape) or not array.flags.c_contiguous:
            raise ValueError(f"{name} is {array.dtype} of {array.ndim} dimensions")
        for size, letter in zip(array.shape, shape, strict=True):
            more = 0
            if isinstance(letter, str):
                letter, _, one = letter.partition("+")
                more = int(one or 0)
                letter = known.setdefault(letter, size - more)
            if size != letter + more:
                raise ValueError(f"{name} has the shape {array.shape}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite everywhere")
