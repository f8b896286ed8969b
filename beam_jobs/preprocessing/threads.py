"""The threads of a process of a job."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import polars as pl

T = TypeVar("T")
R = TypeVar("R")


def one_thread() -> None:
    """Gives Polars one thread in this process and those it starts: a block is one thread's work.

    More cores take more blocks. ``POLARS_MAX_THREADS`` wins where it is set; where Polars is at work already, its
    threads stay.
    """
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    pl.Config.reload_env_vars()  # it was read when Polars was imported; the threads come with its first work


def at_once(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """What a function that releases the GIL makes of each item, on as many cores as there are.

    Raises:
      Exception: what it raises of the first item it fails with; others may still be at work then.
    """
    if len(items) < 2:
        return [function(item) for item in items]
    return list(_cores().map(function, items))


@cache
def _cores() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, "highbeam-partition")
