"""Archives as their readers see them, for the tests of whole jobs."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import fastavro
import pyarrow.parquet as pq

from bench.processes import tree
from tests.services.job import DEVNULL, PIPE, Job

TIMEOUT_S = 90


def report(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "report.json").read_text())
    return found


def one(path: Path) -> list[dict[str, Any]]:
    """The rows of a file."""
    if path.suffix == ".parquet":
        return list(pq.ParquetFile(path).read().to_pylist())
    with path.open("rb") as file:
        return list(fastavro.reader(file))  # type: ignore[arg-type]


def rows(tmp_path: Path, suffix: str = "avro", folder: str = "archive") -> list[dict[str, Any]]:
    """All rows a reader sees that knows nothing but the folder."""
    return [row for path in sorted((tmp_path / folder).rglob(f"*.{suffix}")) for row in one(path)]


def positions(found: list[dict[str, Any]]) -> Counter[tuple[int, int]]:
    return Counter((row["source_partition"], row["source_offset"]) for row in found)


def wait(enough: Callable[[], bool], job: Job) -> None:
    """Until it is so, or the job has ended."""
    deadline = time.monotonic() + TIMEOUT_S
    while not enough():
        assert job.poll() is None, job.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)


@contextmanager
def live(command: list[str]) -> Iterator[Job]:
    """A job that runs until ``stop``; ended at once where the test fails before."""
    job = Job(command, stdout=PIPE, stderr=PIPE, start_new_session=True)
    try:
        yield job
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
            job.communicate()


def stop(job: Job) -> str:
    """Ctrl-C, as a terminal sends it: to the runner's processes as well. Returns what the job said on stderr."""
    os.killpg(job.pid, signal.SIGINT)
    _, errors = job.communicate(timeout=TIMEOUT_S)
    assert job.returncode == 0, errors
    return errors


SMALL = ["--max_file_age", "0.05", "--block_rows", "500", "--max_file_mb", "0.3"]
"""Bundles so short that a job of some thousand records has many."""


def kill_at_random(
    command: list[str], tmp_path: Path, times: int, timeout_s: float = 30, how: Callable[[Job], None] = Job.kill
) -> int:
    """Starts an archive job and ends it once it has finished some files, ``times`` times: kill -9, or as told.

    Returns how many were still running by then.
    """
    chance = random.Random(4)
    killed = 0
    for _ in range(times):
        job = Job(command, stdout=DEVNULL, stderr=PIPE)
        assert job.stderr is not None
        for line in job.stderr:
            if line.startswith("writing"):
                break
        deadline = time.monotonic() + timeout_s
        before = len(list((tmp_path / "archive").rglob("*.avro")))
        while time.monotonic() < deadline and job.poll() is None:
            if len(list((tmp_path / "archive").rglob("*.avro"))) > before + chance.randint(1, 5):
                break
            time.sleep(0.01)
        if job.poll() is None:
            killed += 1
            how(job)
        job.send_signal(signal.SIGKILL)
        job.communicate()
    return killed


def kill_child(job: Job) -> None:
    """kill -9 of a process of the job, which notices, and ends."""
    workers = [p for p in tree(job.pid)[1:] if "spawn_main" in Path(f"/proc/{p}/cmdline").read_text()]
    os.kill(workers[-1], signal.SIGKILL)
    _, told = job.communicate(timeout=TIMEOUT_S)
    assert job.returncode, told


def fail_bundle(folder: Path, job: Job) -> None:
    """Takes the archive away, as a mount that is lost, until the job has ended because of that."""
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.touch()
    try:
        _, told = job.communicate(timeout=TIMEOUT_S)
    finally:
        folder.unlink()
        aside.rename(folder)
    assert job.returncode == 2, told


class Reader:
    """Reads every data file again and again while a job writes; each must be whole at any time, and stay as it is."""

    def __init__(self, tmp_path: Path) -> None:
        self._folder = tmp_path / "archive"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.rows: dict[Path, int] = {}  # of each file, when it was seen first
        self.wrong: list[str] = []

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        sizes: dict[Path, int] = {}
        while not self._stop.wait(0.01):
            for path in self._folder.rglob("*.avro"):
                size = path.stat().st_size
                if sizes.setdefault(path, size) != size:
                    self.wrong.append(f"{path} grew from {sizes[path]} to {size} bytes")
                if path not in self.rows:
                    try:
                        self.rows[path] = len(one(path))
                    except Exception as problem:
                        self.wrong.append(f"{path}: {problem!r}")
