"""Waiting while storage is unavailable: logged once, ended by Ctrl-C."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from beam_jobs import stop
from beam_jobs.errors import UnreachableError, UserError, one_line

_LOGGER = logging.getLogger(__name__)

_PAUSE_S = (0.2, 5.0)  # between two tries: first, longest
_LAST_TRIES_S = 10.0  # how long a job that is to end still tries

T = TypeVar("T")


class StorageAwayError(UnreachableError):
    """Storage can't be reached or is out of order for now: to be tried again."""


def patiently(action: Callable[[], T]) -> T:
    """Retries while storage is unavailable, and says so once; an action must bear being repeated.

    Raises:
      UserError: the job is to stop, and storage has stayed unavailable for some seconds more.
    """
    pause, longest = _PAUSE_S
    since = time.monotonic()
    told = False
    tries_left_s: float | None = None
    while True:
        try:
            result = action()
        except (StorageAwayError, ConnectionError, TimeoutError) as error:
            now = time.monotonic()
            if not told:
                told = True
                _LOGGER.warning("storage: %s; waiting", one_line(error, 300))
            if stop.requested():
                tries_left_s = now + _LAST_TRIES_S if tries_left_s is None else tries_left_s
                if now > tries_left_s:
                    raise UserError(
                        f"ended while storage was away ({error}); what was not written is not committed and will be "
                        "read again"
                    ) from error
                time.sleep(min(pause, 1.0))
            else:
                stop.wait(pause)
            pause = min(2 * pause, longest)
            continue
        if told:
            _LOGGER.warning("storage is back after %.1f s", time.monotonic() - since)
        return result
