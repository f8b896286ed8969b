"""Trainings beside each other, one thread each."""

from __future__ import annotations

import importlib
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.accuracy.figures import Figures, Found, gather

THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "POLARS_MAX_THREADS")

Task = tuple[str, str, int]  # section, name in it, seed


def measure(task: Task) -> Found:
    """Runs one task, in a process of the pool."""
    section, name, seed = task
    found: Found = importlib.import_module(f"bench.accuracy.{section}").measure(name, seed)
    return found


def run(tasks: list[Task], console: Console, processes: int) -> tuple[Figures, dict[str, str]]:
    """Runs tasks, some at a time, and gathers what they found in their order."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    os.environ.update(dict.fromkeys(THREADS, "1"))
    found: dict[Task, Found] = {}
    spawn = multiprocessing.get_context("spawn")
    with Progress(*columns, console=console) as bar, ProcessPoolExecutor(processes, spawn) as pool:
        step = bar.add_task("measuring", total=len(tasks))
        running = {pool.submit(measure, task): task for task in tasks}
        try:
            for done in as_completed(running):
                task = running[done]
                found[task] = done.result()
                bar.update(step, advance=1, description="{} {} {}".format(*task))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return gather(found[task] for task in tasks)
