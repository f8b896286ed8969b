"""What the sinks share: how long an ending job waits for a service, what happens to records that are too large."""

from __future__ import annotations

from collections.abc import Callable

from beam_jobs.block import Block

DRAIN_TIMEOUT_S = 30.0  # how long an ending job waits for a cluster that is unavailable before its bundle fails

OnTooLarge = Callable[[Block], Block | None]
"""Given the rows a service finds too large, the rows to write in their place; None: no row."""
