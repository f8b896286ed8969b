"""A sink: where a job writes records, whatever the bus, and what sinks share."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
from apache_beam.utils.timestamp import Timestamp

from beam_jobs import metrics
from beam_jobs.block import Block
from beam_jobs.io.address import Address

_LOGGER = logging.getLogger(__name__)

DRAIN_TIMEOUT_S = 30.0  # how long an ending job waits for a cluster that is unavailable before its bundle fails

OnTooLarge = Callable[[Block], Block | None]
"""Given the rows a service finds too large, the rows to write in their place; None: no row."""


@dataclass(frozen=True)
class WriteSettings:
    """How the records of one step are written; picklable."""

    # What to write instead of rows that are larger than the topic takes; None: such a row fails the bundle with a
    # UserError.
    on_too_large: OnTooLarge | None = None
    # Adds ``now - element timestamp`` of each element, empty ones too, to the latency metric once its bundle is
    # acknowledged.
    record_latency: bool = False
    ordered: bool = True  # False where the order of a key's records says nothing: it costs requests on Pub/Sub
    # A block is acknowledged when it has been handed over, not at the end of its bundle; on Pub/Sub always (but for
    # Dataflow's own sink). The step before, in the same fused stage, knows after its ``yield``.
    at_once: bool = False


class Written:
    """What a bundle writes; it counts, with how late it is, once all of it is acknowledged."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._timestamps_ms: list[float] = []
        self.rows = 0

    def element(self, timestamp: Timestamp) -> None:
        """Takes down when an element came, for the latency."""
        self._timestamps_ms.append(timestamp.micros / 1000)

    def count(self) -> None:
        """Adds it to the job's metrics."""
        metrics.inc(metrics.RECORDS_WRITTEN, self.rows)
        metrics.inc(metrics.RECORDS_WRITTEN, self.rows, self._topic)
        times = np.asarray(self._timestamps_ms)
        live, age = times >= metrics.STATE.live_since * 1000, time.time() * 1000 - times
        for metric, values in ((metrics.LATENCY_MS, age[live]), (metrics.BACKLOG_AGE_MS, age[~live])):
            if len(values):
                metrics.observe(metric, values)


class Sink(ABC):
    """A topic that is written to; frozen, picklable, without secrets."""

    address: Address

    @abstractmethod
    def write(self, settings: WriteSettings = WriteSettings()) -> beam.PTransform:
        """Writes each row of each block as one record; a bundle ends when all its records are acknowledged.

        Blocks have the columns ``key`` and ``value`` (binary, nullable) and may have ``headers``
        (``block.HEADERS_TYPE``) and ``timestamp`` (timestamp[ms]).
        """

    @abstractmethod
    def check(self, timeout_s: float) -> None:
        """Asks whether the topic is there and may be written to.

        Args:
          timeout_s: how long an answer is waited for.

        Raises:
          UnreachableError: nobody answers.
          UserError: it does not exist, or access is denied.
        """

    @abstractmethod
    def create(self) -> None:
        """Creates the topic if it is missing, on a bus that has such a thing.

        Raises:
          UserError: nobody answers, or it is refused.
        """


def leave_out(address: Address, rows: Block) -> None:
    """An ``on_too_large`` for records that are kept elsewhere: they are counted, reported, and not written."""
    metrics.inc(metrics.TOO_LARGE, rows.num_rows)
    _LOGGER.warning("%s: %d records are larger than the topic takes, and not written", address, rows.num_rows)
