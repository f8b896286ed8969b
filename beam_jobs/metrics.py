"""Every metric of every job, declared once.

``inc`` and ``observe`` report to Beam (``Metrics``, namespace "highbeam", for the runner's own UI) and add to totals
of this process, which the progress line and the closing summary read while the job runs.
"""

from __future__ import annotations

import threading
import time
from collections import Counter as TallyCounter
from dataclasses import dataclass

import numpy as np
from apache_beam.metrics import Metrics
from numpy.typing import NDArray

NAMESPACE = "highbeam"

RECORDS_READ = "records_read"  # records handed out by a source
RECORDS_SCORED = "records_scored"  # records with a finite score
RECORDS_FILTERED = "records_filtered"  # records removed by the WHERE of the preprocessing
ALERTS = "alerts"  # scored records above the threshold
DEAD_LETTERS = "dead_letters"  # records no step could handle; by reason as "dead_letters.<reason>"
WITHOUT_PAYLOAD = "dead_letters_without_payload"  # dead letters of records larger than their topic takes
TOO_LARGE = "too_large_for_the_output"  # records put back that are larger than the topic takes, and not written
REDRIVEN = "redriven"  # dead letters put back; by reason as "redriven.<reason>"
UNREADABLE = "unreadable_dead_letters"  # records of a dead-letter topic that are no dead letters; left where they are
ARCHIVED = "archived"  # rows in files that count
ALREADY_ARCHIVED = "already_archived"  # records whose position the archive held before: not written again
ARCHIVED_FILES = "archived_files"  # files that count
NOT_IN_LOOKUP = "not_in_lookup"  # rows whose key the lookup table does not have: its columns are null
FILES_READ = "files_read"  # files of an archive read to their end
RECORDS_WRITTEN = "records_written"  # records acknowledged by a sink; by topic as "records_written.<topic>"
RECORDS_COMMITTED = "records_committed"  # finished records whose offsets are committed; on Pub/Sub, acknowledged ones
OFFSETS_COMMITTED = "offset_commits"  # successful offset commits; on Pub/Sub, bundles acknowledged
COMMIT_FAILURES = "offset_commit_failures"  # offset commits refused or timed out (retried with the next bundle)
REDELIVERED = "redelivered"  # Pub/Sub messages that came again and were dropped; not among the records read
READERS_CREATED = "readers_created"  # consumers opened by a source
LATENCY_MS = "latency_ms"  # record timestamp of a block's oldest record to its output acknowledged; one a block

_LONGEST_MS = 10**12  # 30 years; Beam sums latencies in 64 bits, and a record may be of any time
_LATENCY_EDGES_MS = np.logspace(-1, 7, 401)  # 0.1 ms to 10,000 s, 50 buckets a decade: 4.7 % resolution


@dataclass(frozen=True)
class TotalsState:
    """What one process has counted since the start of the job."""

    counts: TallyCounter[str]
    latency: NDArray[np.int64]  # histogram
    first_read: float  # time.time(); 0: none
    last_output: float  # time.time(); 0: none


class _Totals:
    """What this process has counted since the start of the job; safe to read while workers add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        self.counts: TallyCounter[str] = TallyCounter()
        self.first_read = self.last_output = 0.0  # time.time()
        self.reached_ms: int | None = None  # event time, a replay's: of the newest row it has handed out
        self.latency = np.zeros(len(_LATENCY_EDGES_MS) + 1, np.int64)
        self._workers: dict[int, TotalsState] = {}  # what the job's other processes have counted so far

    def add(self, name: str, n: int) -> None:
        with self._lock:
            self.counts[name] += n
            if name == RECORDS_READ and not self.first_read:
                self.first_read = time.time()
            if name in (ARCHIVED, RECORDS_WRITTEN):
                self.last_output = time.time()

    def observe(self, values_ms: NDArray[np.float64]) -> None:
        buckets = np.bincount(np.searchsorted(_LATENCY_EDGES_MS, values_ms), minlength=len(_LATENCY_EDGES_MS) + 1)
        with self._lock:
            self.latency += buckets
            self.last_output = time.time()

    def state(self) -> TotalsState:
        """What this process has counted, to be told to another one."""
        with self._lock:
            return TotalsState(TallyCounter(self.counts), self.latency.copy(), self.first_read, self.last_output)

    def of_worker(self, number: int, state: TotalsState) -> None:
        """Takes what another process of the job has counted so far, instead of what it told before."""
        with self._lock:
            self._workers[number] = state

    def snapshot(self) -> tuple[TallyCounter[str], NDArray[np.int64]]:
        """A consistent copy: (counts by name, latency histogram), of all processes of the job."""
        states = [self.state(), *self._others()]
        return sum((s.counts for s in states), TallyCounter()), np.sum([s.latency for s in states], axis=0)

    def active_span(self) -> tuple[float, float]:
        """``time.time()`` of the first record read and of the last block's output; equal when there was none."""
        states = [state for state in (self.state(), *self._others()) if state.first_read]
        first = min((state.first_read for state in states), default=0.0)
        return first, max([first, *(state.last_output for state in states)])

    def _others(self) -> list[TotalsState]:
        with self._lock:
            return list(self._workers.values())


TOTALS = _Totals()


def inc(name: str, n: int = 1) -> None:
    """Adds ``n`` to the counter ``name``."""
    if n:
        Metrics.counter(NAMESPACE, name).inc(n)
        TOTALS.add(name, n)


def observe_latency(values_ms: NDArray[np.float64]) -> None:
    """Adds latencies in milliseconds, one a block, to the distribution."""
    distribution = Metrics.distribution(NAMESPACE, LATENCY_MS)
    for value in np.clip(values_ms, 0, _LONGEST_MS).tolist():
        distribution.update(int(value))
    TOTALS.observe(values_ms)


def latency_quantile(histogram: NDArray[np.int64], q: float) -> float | None:
    """The q-quantile (0..1) in milliseconds of a latency histogram, None when it is empty; upper edge of its bucket."""
    total = int(histogram.sum())
    if total == 0:
        return None
    bucket = int(np.searchsorted(np.cumsum(histogram), q * total))
    return float(_LATENCY_EDGES_MS[min(bucket, len(_LATENCY_EDGES_MS) - 1)])
