"""The shutdown flag of a process: once set, jobs finish what they have read, commit and end; waits are cut short."""

from __future__ import annotations

import threading

_STOP = threading.Event()


def request() -> None:
    """Ends the job of this process in good order: no new block, the last ones acknowledged; waits come to their end."""
    _STOP.set()


def reset() -> None:
    """Takes ``request`` back, for the next job of this process."""
    _STOP.clear()


def requested() -> bool:
    """Whether ``request`` was called."""
    return _STOP.is_set()


def wait(timeout_s: float) -> bool:
    """Sleeps for ``timeout_s`` seconds, or until ``request`` is called: then True."""
    return _STOP.wait(timeout_s)
