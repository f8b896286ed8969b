"""How many threads Polars has in a process of a job."""

from __future__ import annotations

import os

import polars as pl


def one_thread() -> None:
    """Gives Polars one thread in this process and those it starts: a block is one thread's work.

    More cores take more blocks. ``POLARS_MAX_THREADS`` wins where it is set; where Polars is at work already, its
    threads stay.
    """
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    pl.Config.reload_env_vars()  # it was read when Polars was imported; the threads come with its first work
