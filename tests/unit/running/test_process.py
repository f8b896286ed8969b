"""How a process is set up for a job."""

from __future__ import annotations

from beam_jobs.running.process import keep_memory


def test_the_allocator_can_be_told_twice() -> None:
    keep_memory()
    keep_memory()
