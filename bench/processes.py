"""What a process and its children use: memory, CPU."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for parent in found:
        try:
            for thread in Path(f"/proc/{parent}/task").iterdir():
                found += [int(child) for child in (thread / "children").read_text().split()]
        except OSError:
            continue  # ended meanwhile
    return found


def resident_mb(pid: int) -> float:
    """Resident memory of a process and its descendants."""
    pages = 0
    for member in tree(pid):
        try:
            pages += int(Path(f"/proc/{member}/statm").read_text().split()[1])
        except OSError:
            continue
    return pages * _PAGE / 1e6


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    output: str  # standard output
    cpu_seconds: float  # of it and its children
    peak_mb: float  # largest resident memory of all of them together, sampled ten times a second


def run(command: Sequence[str], environment: dict[str, str] | None = None) -> Ran:
    """Runs a command; CalledProcessError where it fails (its standard error is in it)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    )
    peak, done = 0.0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.1):
            peak = max(peak, resident_mb(process.pid))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        output, errors = process.communicate()
    finally:
        process.kill()
        done.set()
        sampler.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, output, errors)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Ran(output, cpu, peak)
