"""Arrays of ``.npz`` files that others may have written: no objects, and no more memory than a model takes."""

from __future__ import annotations

import zipfile
from pathlib import Path
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
