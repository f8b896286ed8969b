"""The fleet: cars that fail on the way, and the truth about each."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
from rich.console import Console

from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.sandbox.cars import EventProducer, EventSender
from beam_jobs.sandbox.fleet import Fleet
from demo import past
from demo.referee import Referee, Verdict, Words
from demo.scenario import PARTITIONS, Outcome, Settings

_SPAN_SECONDS = 120.0  # within which the failures happen when the demo has no end


@dataclass(frozen=True)
class Report:
    """What ``--report`` writes."""

    produced: int
    scored: int
    filtered: int
    dead_letters: int
    alerts: int
    precision: float | None
    recall: float | None
    recall_by_kind: dict[str, float]
    failed_cars: int
    latency_ms: dict[str, float | None]  # p50, p99 of the slowest record of each block
    events_per_second: float  # read by the job, over the time it read
    unaccounted: int  # produced but neither scored nor filtered nor a dead letter; 0


class Cars:
    """The scenario of car_sensors."""

    topic = "sensor-data"
    words = Words()
    score_columns: Sequence[str] = ("score",)
    train_options: Sequence[str] = ("--no-baseline",)

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.said: Mapping[str, str] = {
            "send": f"{settings.training_rows:,} events another fleet has sent just now, to",
            "archive": "them as features: files by event time, nothing personal in them",
            "train": "an autoencoder on the archive: what is normal, and how strange may be",
            "score": "live: what is strange about an event, as it comes in",
        }

    def job_options(self, events: KafkaAddress, step: str) -> Sequence[str]:
        return ("--from", "latest") if step == "score" else ()

    def send_past(self, events: KafkaAddress, registry_url: str, stop: threading.Event, console: Console) -> None:
        settings, seed = self._settings, self._settings.seed + 1
        sender = EventSender(events, registry_url, settings.bad_rate, seed)
        past.send(sender, settings.training_rows, seed, PARTITIONS, stop, console)

    def check_archived(self, summary: Mapping[str, Any]) -> None:
        pass

    def source(self, events: KafkaAddress, registry_url: str) -> EventProducer:
        settings = self._settings
        fleet = Fleet(
            settings.cars,
            seed=settings.seed,
            prevalence=settings.prevalence,
            start_time=int(time.time() * 1000),
            interval=settings.cars / settings.rate,
            span=settings.seconds or _SPAN_SECONDS,
        )
        self._referee = Referee(fleet.failures)
        sender = EventSender(events, registry_url, settings.bad_rate, settings.seed)
        self._producer = EventProducer(sender, fleet.step)
        return self._producer

    def title(self, version: str) -> str:
        return f"Highbeam: {self._settings.cars:,} cars, {self._settings.rate:,.0f} events/s, {version}"

    def add_scores(self, scores: pa.RecordBatch) -> None:
        pass

    def add_dead_letters(self, letters: pa.RecordBatch) -> None:
        pass

    def judge(self, alert: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
        time_ms = int(alert["event_time"].timestamp() * 1000 + 0.5)
        hit = self._referee.judge(alert["id"], alert["key"], time_ms)
        return alert, hit.kind.replace("_", " ") if hit else ""

    def verdict(self) -> Verdict:
        return self._referee.verdict(self._producer.now_ms)

    def story(self) -> Sequence[str]:
        return ()

    def progress(self, progress: Mapping[str, Any]) -> Mapping[str, Any]:
        return progress

    def all_seen(self, progress: Mapping[str, Any]) -> bool:
        return bool(progress.get("read", 0) >= self._producer.produced)

    def outcome(self, summary: Mapping[str, Any]) -> Outcome:
        produced, verdict = self._producer.produced, self.verdict()
        report = Report(
            produced=produced,
            scored=summary["scored"],
            filtered=summary["filtered"],
            dead_letters=summary["dead_letters"],
            alerts=summary["alerts"],
            precision=verdict.precision,
            recall=verdict.recall,
            recall_by_kind=verdict.recall_by_kind,
            failed_cars=verdict.of_all,
            latency_ms=summary["latency_ms"],
            events_per_second=summary["events_per_second"],
            unaccounted=produced - summary["scored"] - summary["filtered"] - summary["dead_letters"],
        )
        return Outcome(asdict(report), accounted=not report.unaccounted)

    def show_end(self, console: Console) -> None:
        pass
