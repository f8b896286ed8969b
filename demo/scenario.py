"""What a demo is about: who sends events, and who knows the truth about them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
from rich.console import Console

from beam_jobs.io.kafka.address import KafkaAddress
from demo.referee import Verdict, Words

PARTITIONS = 4  # of the events' topic


@dataclass(frozen=True)
class Settings:
    """The demo's command line."""

    use_case: str
    cars: int  # or cards, one of the owner of each
    rate: float  # events per second, all together
    prevalence: float
    bad_rate: float
    seconds: float | None
    seed: int
    training_rows: int
    model: str | None
    keep: str | None  # folder for the use case, the archive and the model; None: they go with the demo
    broker: str
    runner: str
    headless: bool
    report: str | None
    verbose: bool


@dataclass(frozen=True)
class Outcome:
    """How a demo ended."""

    report: Mapping[str, Any]  # what ``--report`` writes
    accounted: bool  # what became of each event is known


class Source(Protocol):
    """Sends events as their time comes."""

    produced: int
    now_ms: int  # event time of the newest event sent
    error: Exception | None
    over: bool  # there are no more

    def start(self) -> None:
        """Starts sending."""

    def stop(self) -> None:
        """Stops, and returns when the broker has everything."""


class Scenario(Protocol):
    """One world to show a use case on: its past, what goes on live, and what the job should have said of it."""

    topic: str  # of the events
    words: Words
    said: Mapping[str, str]  # what each step does
    score_columns: Sequence[str]  # of a score, that it looks at
    train_options: Sequence[str]

    def job_options(self, events: KafkaAddress, step: str) -> Sequence[str]:
        """What ``archive`` and ``score`` are told beside what each demo tells them."""

    def send_past(self, events: KafkaAddress, registry_url: str, stop: threading.Event, console: Console) -> None:
        """Sends what was before the demo.

        Raises:
          StoppedError: on Ctrl-C.
        """

    def check_archived(self, summary: Mapping[str, Any]) -> None:
        """Compares what the archive job says with what was sent.

        Raises:
          UserError: something is missing.
        """

    def source(self, events: KafkaAddress, registry_url: str) -> Source:
        """What is sent live, from when it starts on."""

    def title(self, version: str) -> str:
        """Of the view."""

    def add_scores(self, scores: pa.RecordBatch) -> None:
        """Scores that were read, with ``score_columns``."""

    def add_dead_letters(self, letters: pa.RecordBatch) -> None:
        """Dead letters that were read: topic, partition, offset."""

    def judge(self, alert: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
        """An alert as the view shows it, and the truth about it; "": it is a false alarm."""

    def verdict(self) -> Verdict:
        """The standing of the job against the truth."""

    def story(self) -> Sequence[str]:
        """Lines about who the newest alert is of; none: there is nothing to tell."""

    def progress(self, progress: Mapping[str, Any]) -> Mapping[str, Any]:
        """The job's progress line, with what is known better."""

    def all_seen(self, progress: Mapping[str, Any]) -> bool:
        """True when what became of each event sent is known."""

    def outcome(self, summary: Mapping[str, Any]) -> Outcome:
        """The end, by the job's summary and the truth."""

    def show_end(self, console: Console) -> None:
        """What else there is to show at the end."""
