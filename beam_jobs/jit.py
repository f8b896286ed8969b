"""Machine code for loops over blocks, compiled once and cached on disk."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeVar

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic

Int = Any  # an int64 inside compiled code, an int outside
F = TypeVar("F", bound=Callable[..., object])

_INSIDE = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def compiled(function: F) -> F:
    """``numba.njit`` that releases the GIL and caches on disk.

    The cache is beside the source, else in the user's cache folder, else where NUMBA_CACHE_DIR says; with no folder
    to write to (a read-only container without a home) each process compiles anew, 5 to 10 seconds.
    """
    return _compiled(function)


def compiled_fused(function: F) -> F:
    """``compiled``, and ``a * b + c`` is rounded once where the processor can: faster, other last bits."""
    return _compiled(function, fastmath={"contract"})


def compiled_borrowing(function: F) -> F:
    """``compiled``, for functions that make no arrays: those they are given are not counted as used once more.

    Where arrays come in tuples and go through many small functions, the counting takes ten times as long as the work.
    """
    return _compiled(function, _nrt=False)


def compiled_inside(function: F) -> F:
    """``compiled_borrowing``, for functions that compiled code alone calls: to call one from Python ends the process.

    What unpacks tuples of arrays for a call from Python takes as long to compile as the function.
    """
    return _compiled(function, _nrt=False, **_INSIDE)


def compiled_inline(function: F) -> F:
    """``compiled_inside``, and put into each caller: a tuple of arrays is a hundred arguments for a call."""
    return _compiled(function, _nrt=False, forceinline=True, **_INSIDE)


def _compiled(function: F, **options: Any) -> F:
    try:
        dispatcher: Any = numba.njit(cache=True, nogil=True, **options)(function)
    except RuntimeError:  # numba: "no locator available"
        return numba.njit(nogil=True, **options)(function)
    # What is cached goes by the function's own file, not by those of the functions that became part of it.
    dispatcher._cache._cache_file._source_stamp = stamp(Path(function.__code__.co_filename).parent)
    dispatcher.compile = _by_one_process(dispatcher.compile, Path(dispatcher._cache.cache_path))
    return dispatcher


_LOCKED: set[Path] = set()  # cache folders, by this process


def _by_one_process(compile: Callable[[Any], Any], folder: Path) -> Callable[[Any], Any]:
    """``compile``, alone on this machine: of processes that start together one compiles, the others load what it made.

    Compiling a function compiles those it calls: folders are locked in the order of their imports, which has no circle.
    """

    def compile_alone(signature: Any) -> Any:
        with global_compiler_lock:  # among threads
            if folder in _LOCKED or not (lock := _locked(folder)):
                return compile(signature)
            with lock:
                _LOCKED.add(folder)
                try:
                    return compile(signature)
                finally:
                    _LOCKED.remove(folder)

    return compile_alone


def _locked(folder: Path) -> IO[bytes] | None:
    """A file that is the folder's lock until it is closed; None where there can't be any."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "compile.lock").open("ab")
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        return None
    return file


@cache
def stamp(folder: Path) -> bytes:
    """Another one whenever a module beside a function changes, or this one."""
    files = [Path(__file__), *sorted(folder.glob("*.py"))]
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).digest()


@intrinsic
def copy_bytes(_: Any, target: Any, source: Any, count: Any) -> Any:
    """``memcpy`` between addresses (int64), inside compiled code; the caller has checked both ends."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        to, start = (builder.inttoptr(argument, byte) for argument in arguments[:2])
        cgutils.raw_memcpy(builder, to, start, arguments[2], 1)
        return context.get_constant(types.int64, 0)

    return types.int64(types.int64, types.int64, types.int64), generate
