"""Machine code for the codec's loops, compiled once and cached on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Int = Any  # an int64 inside compiled code, an int outside
F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """``numba.njit`` that releases the GIL and caches on disk.

    The cache is beside the source, else in the user's cache folder, else where NUMBA_CACHE_DIR says; with no folder
    to write to (a read-only container without a home) each process compiles anew, 5 to 10 seconds.
    """
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # numba: "no locator available"
        return numba.njit(nogil=True)(function)
