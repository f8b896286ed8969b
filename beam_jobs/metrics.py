"""Every metric of every job, declared once: what it counts, and where it is shown.

``inc`` and ``observe`` report to Beam (``Metrics``, namespace "highbeam", for the runner's own UI) and add to the state
of this process, from which progress and closing summary are made. A metric is there once it is declared, in whatever
module; summaries show them in the order of their declarations.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
from apache_beam.metrics import Metrics
from numpy.typing import NDArray

NAMESPACE = "highbeam"

_DECLARED: dict[str, Metric] = {}


@dataclass(frozen=True)
class Metric:
    """One metric.

    Raises:
      ValueError: another one has its name.
    """

    name: str  # as runners show it
    help: str  # what it counts or measures
    unit: str = "records"
    kind: Literal["counter", "distribution"] = "counter"
    by: str = ""  # it is counted by this as well, as NAME.VALUE: "reason"
    outcome: str = ""  # a record read becomes one of these, and is accounted for by it: the word for it in the account
    report: str = ""  # key in the JSON report
    report_by: str = ""  # key there of the counts by value
    progress: str = ""  # key in the JSON progress
    line: int = 0  # place in the status line, under its name in the progress; 0: not in it
    row: str | Mapping[str, str] = ""  # label in the closing summary; by job: {"score": "read"}
    rows_by: bool = False  # the counts by value have rows of their own, below
    optional: bool = False  # no row while it is 0

    def __post_init__(self) -> None:
        if _DECLARED.setdefault(self.name, self) != self:
            raise ValueError(f"metric {self.name!r} is declared already, as something else")

    def name_of(self, value: str) -> str:
        """What is counted by ``value``, or with "" the metric itself, as runners show it."""
        return f"{self.name}.{value}" if value else self.name

    def row_of(self, job: str) -> str:
        """The label in the summary of ``job`` ("score"), "" where it has none; it may hold ``{names}`` of metrics."""
        return self.row if isinstance(self.row, str) else self.row.get(job, "")


def declared() -> list[Metric]:
    """All metrics, in the order of their declarations."""
    return list(_DECLARED.values())


RECORDS_READ = Metric(
    "records_read",
    "records handed out by a source",
    report="read",
    progress="read",
    line=1,
    row={"score": "read", "archive": "read", "redrive": "dead letters read"},
)
RECORDS_SCORED = Metric(
    "records_scored",
    "records with a finite score",
    outcome="scored",
    report="scored",
    progress="scored",
    row={"score": "scored"},
)
ARCHIVED = Metric(
    "archived",
    "rows in files that count",
    outcome="archived",
    report="archived",
    progress="archived",
    line=2,
    row={"archive": "archived, in {archived_files:,} files"},
)
ARCHIVED_FILES = Metric("archived_files", "files of an archive that count", "files", report="files")
ALREADY_ARCHIVED = Metric(
    "already_archived",
    "records whose position the archive held before: not written again",
    outcome="in the archive before",
    report="already_archived",
    row={"archive": "in the archive before"},
)
NOT_IN_LOOKUP = Metric(
    "not_in_lookup",
    "rows whose key the lookup table does not have: its columns are null",
    report="not_in_lookup",
    row={"archive": "key not in the lookup table"},
    optional=True,
)
REDRIVEN = Metric(
    "redriven",
    "dead letters put back",
    by="reason",
    row={"redrive": "{put_back}"},
    rows_by=True,
)
RECORDS_FILTERED = Metric(
    "records_filtered",
    "records removed by the WHERE of the preprocessing; by a redrive, dead letters of another reason",
    outcome="filtered",
    report="filtered",
    progress="filtered",
    line=4,
    row={"score": "filtered", "archive": "filtered", "redrive": "left: another reason"},
)
REPARTITIONED = Metric(
    "repartitioned",
    "rows brought to the topic of the second key, where they are read again",
    outcome="brought to the second key",
    report="repartitioned",
    row={"score": "brought to the second key, and read again", "archive": "brought to the second key, and read again"},
    optional=True,
)
MARKS = Metric(
    "repartition_marks",
    "records of the second key's topic that are marks, or rows that came before",
    outcome="marks and repetitions",
    report="repartition_marks",
    row={"score": "marks and repetitions among them", "archive": "marks and repetitions among them"},
    optional=True,
)
LABELS = Metric(
    "labels", "labels that windows took in", outcome="labels", report="labels", row="labels for windows", optional=True
)
LATE_LABELS = Metric(
    "labels_late", "labels later than label_delay", report="labels_late", row="labels that came late", optional=True
)
TOMBSTONES = Metric(
    "tombstones",
    "records without a value, which say that their key is deleted; no event",
    outcome="tombstones",
    report="tombstones",
    row={"score": "tombstones", "archive": "tombstones", "redrive": "left: tombstones"},
    optional=True,
)
DEAD_LETTERS = Metric(
    "dead_letters",
    "records no step could handle",
    by="reason",
    outcome="dead letters",
    report="dead_letters",
    report_by="reasons",
    progress="dead_letters",
    line=5,
    row={"score": "dead letters", "archive": "dead letters"},
    rows_by=True,
)
UNREADABLE = Metric(
    "unreadable_dead_letters",
    "records of a dead-letter topic that are no dead letters; left where they are",
    row={"redrive": "left: not a dead letter"},
)
WITHOUT_PAYLOAD = Metric(
    "dead_letters_without_payload",
    "dead letters without their records, which were larger than their topic takes, or were not to be kept",
    report="without_payload",
    row={
        "score": "of these without the record, too large for their topic",
        "archive": "of these without the record, too large for their topic",
        "redrive": "left: without its record, too large or not kept",
    },
    optional=True,
)
TOO_LARGE = Metric(
    "too_large_for_the_output",
    "records put back that are larger than the topic takes, and not written",
    row={"redrive": "not written: larger than the output takes"},
    optional=True,
)
ALERTS = Metric(
    "alerts",
    "scored records above the threshold",
    report="alerts",
    progress="alerts",
    line=3,
    row={"score": "alerts (of the scored)"},
)
RECORDS_WRITTEN = Metric(
    "records_written",
    "records acknowledged by a sink",
    by="topic",
    progress="written",
    row={"replay": "written and acknowledged"},
)
FILES_READ = Metric("files_read", "files of an archive read to their end", "files")
RECORDS_COMMITTED = Metric(
    "records_committed", "finished records whose offsets are committed; on Pub/Sub, acknowledged ones"
)
OFFSETS_COMMITTED = Metric("offset_commits", "successful offset commits; on Pub/Sub, bundles acknowledged", "commits")
COMMIT_FAILURES = Metric("offset_commit_failures", "offset commits refused or timed out, and retried", "commits")
REDELIVERED = Metric(
    "redelivered", "Pub/Sub messages that came again and were dropped; not among the records read", "messages"
)
REREAD = Metric(
    "reread",
    "records read again for what windows have to know of them; not among the records read",
    report="reread",
    row={"score": "read again for windows", "archive": "read again for windows"},
    optional=True,
)
SHORT_HISTORIES = Metric(
    "short_histories",
    "partitions whose log did not go back as far as the windows when they were rebuilt",
    "partitions",
    report="short_histories",
    row={"score": "partitions shorter than the windows", "archive": "partitions shorter than the windows"},
    optional=True,
)
LATE = Metric(
    "window_late",
    "rows that came after younger ones of their key, and saw what was before them",
    "rows",
    report="window_late",
    row={"score": "late for windows", "archive": "late for windows"},
    optional=True,
)
ALONE = Metric(
    "window_alone",
    "rows that came too late for windows: they saw themselves alone, and are seen by none",
    "rows",
    report="window_alone",
    row={"score": "too late for windows", "archive": "too late for windows"},
    optional=True,
)
FUTURE = Metric(
    "window_future",
    "rows whose event time was too far ahead of their record's for windows: they saw themselves alone",
    "rows",
    report="window_future",
    row={"score": "from the future, for windows", "archive": "from the future, for windows"},
    optional=True,
)
READERS_FINISHED = Metric("readers_finished", "readers at their end, and all they read as well", "readers")
READERS_CREATED = Metric("readers_created", "consumers opened by a source", "readers", progress="readers")
LATENCY_MS = Metric(
    "latency_ms",
    "record timestamp of a block's oldest record to its output acknowledged; one a block, and none of blocks with "
    "records from before the reading began",
    "ms",
    "distribution",
)
BACKLOG_AGE_MS = Metric(
    "backlog_age_ms",
    "the same of the other blocks: how old what waited for the job was when it was done with",
    "ms",
    "distribution",
)

_LARGEST = 10**12  # Beam sums a distribution in 64 bits, and the timestamp of a record may be of any time
_EDGES = np.logspace(-1, 7, 401)  # of distributions: 50 buckets a decade, 4.7 % resolution; in ms 0.1 ms to 10,000 s


def _no_values() -> NDArray[np.int64]:
    return np.zeros(len(_EDGES) + 1, np.int64)


class Held(NamedTuple):
    """What windows have in memory."""

    rows: int = 0
    keys: int = 0
    bytes: int = 0
    waiting: int = 0  # rows that are to come out when others have come; a restart reads them again


def _sum(held: Iterable[Held]) -> Held:
    return Held(*(sum(column) for column in zip(Held(), *held, strict=True)))


class Rebuilding(NamedTuple):
    """How far windows have come with reading again what they have to know.

    >>> print(Rebuilding(3_600_000, wanted=1000, done=620, seconds=29.4))
    rebuilding 1 h of features: 62 %, 18 s left
    """

    reach_ms: int = 0  # how far back they see
    wanted: int = 0  # records that are to be read; 0: nothing is
    done: int = 0  # of them
    seconds: float = 0.0  # since it began

    def __str__(self) -> str:
        text = f"rebuilding {length(self.reach_ms)} of features: {self.share:.0%}".replace("%", " %")
        left = self.seconds * (self.wanted - self.done) / self.done if self.done else 0.0
        return f"{text}, {left:,.0f} s left" if self.done else text

    @property
    def share(self) -> float:
        return min(1.0, self.done / self.wanted) if self.wanted else 1.0


def length(millis: int) -> str:
    """A stretch of time as people say it: "1.5 h"."""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000)):
        if millis >= 2 * size or millis == size:
            return f"{millis / size:.3g} {unit}"
    return f"{millis / 1000:.3g} s"


def _all_of(rebuilding: Iterable[Rebuilding]) -> Rebuilding:
    """Rebuilds at the same time, as one."""
    parts = [Rebuilding(), *rebuilding]
    return Rebuilding(
        max(part.reach_ms for part in parts),
        sum(part.wanted for part in parts),
        sum(part.done for part in parts),
        max(part.seconds for part in parts),
    )


@dataclass(frozen=True)
class Counted:
    """What a job, or one process of it, has counted since its start."""

    counts: Counter[str] = field(default_factory=Counter)  # by name, and by NAME.VALUE
    distributions: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)  # histograms by name
    first_read: float = 0.0  # time.time(); 0: none
    last_output: float = 0.0  # time.time(); 0: none
    reached_ms: int | None = None  # event time, a replay's: of the newest row it has handed out
    behind: int = 0  # records that were there when the reading began, and are still to be read; 0 where nobody knows
    held: Held = field(default_factory=Held)
    rebuilding: Rebuilding = field(default_factory=Rebuilding)

    def __getitem__(self, metric: Metric) -> int:
        return self.counts[metric.name]

    def by_value(self, metric: Metric) -> dict[str, int]:
        """The counts of a metric by value, the largest first."""
        start = f"{metric.name}."
        found = {name.removeprefix(start): n for name, n in self.counts.items() if name.startswith(start)}
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def values(self, metric: Metric) -> NDArray[np.int64]:
        """The histogram of a distribution."""
        return self.distributions.get(metric.name, _no_values())

    @property
    def active_s(self) -> float:
        """Seconds from the first record read to the last output; 0 where there was none."""
        return max(0.0, self.last_output - self.first_read) if self.first_read else 0.0


def together(parts: list[Counted]) -> Counted:
    """What several processes have counted, as one."""
    return Counted(
        sum((part.counts for part in parts), Counter()),
        {
            name: np.sum([part.distributions.get(name, _no_values()) for part in parts], axis=0)
            for name in dict.fromkeys(name for part in parts for name in part.distributions)
        },
        min((part.first_read for part in parts if part.first_read), default=0.0),
        max((part.last_output for part in parts), default=0.0),
        max((part.reached_ms for part in parts if part.reached_ms is not None), default=None),
        sum(part.behind for part in parts),
        _sum(part.held for part in parts),
        _all_of(part.rebuilding for part in parts),
    )


class JobState:
    """What the job of this process has counted; safe to read while its threads add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Begins anew, for the next job of this process."""
        with self._lock:
            self.started, self.failed = time.time(), False  # failed: an error ended it
            self._counts: Counter[str] = Counter()
            self._distributions: dict[str, NDArray[np.int64]] = {}
            self._reading_since = self._first_read = self._last_output = 0.0
            self._reached_ms: int | None = None
            self._behind: dict[str, int] = {}  # by reader
            self._held: dict[tuple[str, int], Held] = {}  # by step and partition
            self._rebuilding: dict[str, Rebuilding] = {}
            self._workers: dict[int, Counted] = {}  # what the job's other processes have counted so far

    def add(self, metric: Metric, n: int, value: str = "") -> None:
        with self._lock:
            self._counts[metric.name_of(value)] += n
            if metric == READERS_CREATED and not self._reading_since:
                self._reading_since = time.time()
            if metric == RECORDS_READ and not self._first_read:
                self._first_read = time.time()
            if metric in (ARCHIVED, RECORDS_WRITTEN):
                self._last_output = time.time()

    def observe(self, metric: Metric, values: NDArray[np.float64]) -> None:
        buckets = np.bincount(np.searchsorted(_EDGES, values), minlength=len(_EDGES) + 1)
        with self._lock:
            before = self._distributions.get(metric.name, _no_values())
            self._distributions[metric.name] = before + buckets
            if metric in (LATENCY_MS, BACKLOG_AGE_MS):
                self._last_output = time.time()

    @property
    def live_since(self) -> float:
        """When the reading began, ``time.time()``; what is older was there before, and is backlog."""
        return self._reading_since or self.started

    def behind(self, reader: str, records: int) -> None:
        """How many of the records that were there when it began a reader has still to read."""
        with self._lock:
            self._behind[reader] = records

    def holds(self, step: str, partition: int, held: Held | None) -> Held:
        """What the windows of a step hold of a partition, None: nothing; returns what this process holds in all."""
        with self._lock:
            self._held.pop((step, partition), None)
            if held is not None:
                self._held[step, partition] = held
            return _sum(self._held.values())

    def rebuilds(self, name: str, now: Rebuilding | None) -> None:
        """How far a rebuild has come; None: it is over."""
        with self._lock:
            self._rebuilding.pop(name, None)
            if now is not None:
                self._rebuilding[name] = now

    def reached(self, millis: int) -> None:
        """The event time that a replay has come to."""
        with self._lock:
            self._reached_ms = millis

    def of_worker(self, number: int, counted: Counted) -> None:
        """Takes what another process of the job has counted so far, instead of what it told before."""
        with self._lock:
            self._workers[number] = counted

    def workers_ended(self) -> None:
        """The other processes of the job have ended; what they have counted stays, and others may begin."""
        with self._lock:
            self._workers = {-1: replace(together(list(self._workers.values())), held=Held())}

    def own(self) -> Counted:
        """What this process has counted."""
        with self._lock:
            return Counted(
                Counter(self._counts),
                dict(self._distributions),
                self._first_read,
                self._last_output,
                self._reached_ms,
                sum(self._behind.values()),
                _sum(self._held.values()),
                _all_of(self._rebuilding.values()),
            )

    def snapshot(self) -> Counted:
        """What all processes of the job have counted."""
        own = self.own()
        with self._lock:
            return together([own, *self._workers.values()])


STATE = JobState()


def inc(metric: Metric, n: int = 1, value: str = "") -> None:
    """Adds ``n`` to a counter; with ``value``, to what it counts by value, and not to the counter itself."""
    if n:
        Metrics.counter(NAMESPACE, metric.name_of(value)).inc(n)
        STATE.add(metric, n, value)


def observe(metric: Metric, values: NDArray[np.float64]) -> None:
    """Adds values to a distribution."""
    distribution = Metrics.distribution(NAMESPACE, metric.name)
    for value in np.clip(values, 0, _LARGEST).tolist():
        distribution.update(int(value))
    STATE.observe(metric, values)


def quantile(histogram: NDArray[np.int64], q: float) -> float | None:
    """The q-quantile (0..1) of a histogram, in its metric's unit, None when it is empty; upper edge of its bucket."""
    total = int(histogram.sum())
    if total == 0:
        return None
    bucket = int(np.searchsorted(np.cumsum(histogram), q * total))
    return float(_EDGES[min(bucket, len(_EDGES) - 1)])
