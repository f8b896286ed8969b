"""Open connections that outlive their user for a while, so that the next user of this process finds them warm."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

_LOGGER = logging.getLogger(__name__)

IDLE_SECONDS = 30.0

T = TypeVar("T")


class IdleCache(Generic[T]):
    """Things parked under a key until somebody takes them or nobody has for ``idle_s`` seconds; thread-safe.

    Args:
      close: releases a thing; called without any lock held, an exception is logged.
      idle_s: how long a parked thing is kept.
    """

    def __init__(self, close: Callable[[T], None], idle_s: float = IDLE_SECONDS) -> None:
        self._close = close
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._parked: dict[Hashable, tuple[T, float]] = {}
        self._reaper: threading.Thread | None = None
        self._changed = threading.Event()
        atexit.register(self.close_all)

    def take(self, key: Hashable) -> T | None:
        """Removes and returns what is parked under ``key``, None if nothing is."""
        with self._lock:
            entry = self._parked.pop(key, None)
        return None if entry is None else entry[0]

    def park(self, key: Hashable, thing: T) -> None:
        """Keeps ``thing`` under ``key``; what was there before is closed."""
        with self._lock:
            replaced = self._parked.pop(key, None)
            self._parked[key] = (thing, time.monotonic())
            if self._reaper is None:
                self._reaper = threading.Thread(target=self._reap, name="highbeam-idle", daemon=True)
                self._reaper.start()
        if replaced is not None and replaced[0] is not thing:
            self._release(replaced[0])

    def discard(self, key: Hashable, thing: T) -> None:
        """Closes ``thing`` if it is still the one parked under ``key``."""
        with self._lock:
            entry = self._parked.get(key)
            found = entry is not None and entry[0] is thing
            if found:
                del self._parked[key]
        if found:
            self._release(thing)

    def close_all(self) -> None:
        """Closes everything that is parked."""
        with self._lock:
            things = [thing for thing, _ in self._parked.values()]
            self._parked.clear()
            self._changed.set()
        for thing in things:
            self._release(thing)

    def __len__(self) -> int:
        return len(self._parked)

    def _reap(self) -> None:
        while True:
            self._changed.wait(self._idle_s / 4)
            with self._lock:
                self._changed.clear()
                limit = time.monotonic() - self._idle_s
                stale = [key for key, (_, since) in self._parked.items() if since <= limit]
                things = [self._parked.pop(key)[0] for key in stale]
                if not self._parked:
                    self._reaper = None
                last = self._reaper is None
            for thing in things:
                self._release(thing)
            if last:
                return

    def _release(self, thing: T) -> None:
        try:
            self._close(thing)
        except Exception:
            _LOGGER.warning("Closing an idle connection failed", exc_info=True)
