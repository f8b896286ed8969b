"""Cards of the fleet's owners: their payments, frauds among them, and what the job should have said of each."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from confluent_kafka import Consumer, TopicPartition
from rich.console import Console
from rich.table import Table

from beam_jobs.errors import UserError
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.sandbox.cars import EventProducer
from demo.fraud.benchmark import table_of_benchmark
from demo.fraud.referee import Positions, Referee, counted
from demo.fraud.stream import Stream
from demo.referee import Verdict, Words
from demo.scenario import PARTITIONS, Outcome, Settings

_KEY = "HIGHBEAM_PII_KEY"
_SHOWN = 10  # digits of a card's pseudonym in the view


class Payments:
    """The scenario of payment_fraud."""

    topic = "payments"
    words = Words("card", "fraud", "no fraud has happened yet")
    score_columns: Sequence[str] = ("score", "event_time", "source_partition", "source_offset")

    def __init__(self, settings: Settings) -> None:
        os.environ.setdefault(_KEY, secrets.token_hex(32))  # of the pseudonyms, for the commands of this run
        self._settings = settings
        self._stream = stream = Stream(settings)
        self._referee = Referee(stream.payments, stream.first)
        self._newest = ""  # card of the newest alert, as the view has it
        self._dead = 0
        self._latencies: deque[float] = deque(maxlen=1_000_000)  # ms, of each score
        self._shown = 0  # of them
        self.train_options: Sequence[str] = ("--from", _time(stream.trained_ms))
        self.said: Mapping[str, str] = {
            "send": f"{stream.first:,} payments of {settings.cars:,} cards in the weeks before, with their labels, to",
            "archive": "them as features: cards as pseudonyms, no customer, device or place",
            "train": "a model on the archive: how rare is what a payment shows; from when all windows were full on",
            "score": "live, where the archive job left off: what is strange about a payment, as it comes in",
        }

    def job_options(self, events: KafkaAddress, step: str) -> Sequence[str]:
        return ("--group_id", events.topic)

    def send_past(self, events: KafkaAddress, registry_url: str, stop: threading.Event, console: Console) -> None:
        self._stream.send_past(events, registry_url, stop, console)

    def check_archived(self, summary: Mapping[str, Any]) -> None:
        missing = self._stream.first - summary["archived"] - summary["dead_letters"]
        if missing:
            raise UserError(f"of {self._stream.first} payments {missing} are neither archived nor dead letters")

    def source(self, events: KafkaAddress, registry_url: str) -> EventProducer:
        self._positions = Positions(_ends(events))
        self._producer = self._stream.source(events, registry_url)
        return self._producer

    def title(self, version: str) -> str:
        a_day = 1 / self._stream.days_a_second
        return f"Highbeam: {self._settings.cars:,} cards, a day in {a_day:.3g} s, {version}"

    def add_scores(self, scores: pa.RecordBatch) -> None:
        now = time.time()
        places = (scores.column(name).to_pylist() for name in ("source_partition", "source_offset"))
        self._positions.add(*places)
        due = self._stream.due_s(scores.column("event_time").cast(pa.int64()).to_numpy())
        self._latencies.extend(((now - due) * 1000).tolist())

    def add_dead_letters(self, letters: pa.RecordBatch) -> None:
        before = self._positions.count
        self._positions.add(letters.column("partition").to_pylist(), letters.column("offset").to_pylist())
        self._dead += self._positions.count - before

    def judge(self, alert: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
        truth = self._referee.judge(dict(alert["attributes"])["payment_id"])
        said = alert.get("story")
        self._newest = f"card {alert['key'][:_SHOWN]}" + (f" ({said})" if said else "")
        return {**alert, "key": alert["key"][:_SHOWN]}, truth.replace("_", " ")

    def verdict(self) -> Verdict:
        return self._referee.verdict(self._producer.produced)

    def story(self) -> Sequence[str]:
        return self._referee.story(self._newest)

    def progress(self, progress: Mapping[str, Any]) -> Mapping[str, Any]:
        """Counted and timed here: the job measures from the times of records, and those run ahead of any clock."""
        new = [self._latencies[i] for i in range(self._shown, len(self._latencies))]
        self._shown = len(self._latencies)
        p50, p99 = np.quantile(new, (0.5, 0.99)).tolist() if new else (None, None)
        return {
            **progress,
            "events_per_second": len(new),
            "scored": self._positions.count - self._dead,
            "dead_letters": self._dead,
            "catching_up": False,
            "latency_ms_p50": p50,
            "latency_ms_p99": p99,
        }

    def all_seen(self, progress: Mapping[str, Any]) -> bool:
        return self._positions.count >= self._producer.produced

    def outcome(self, summary: Mapping[str, Any]) -> Outcome:
        produced, verdict = self._producer.produced, self.verdict()
        p50, p99, most = np.quantile(self._latencies, (0.5, 0.99, 1)).tolist() if self._latencies else [None] * 3
        accounted = self._positions.are_all(produced)
        report = {
            "produced": produced,
            "scored": self._positions.count - self._dead,
            "dead_letters": self._dead,
            "unaccounted": produced - self._positions.count,
            "alerts": verdict.alerts,
            "precision": verdict.precision,
            "recall": verdict.recall,
            "patterns": counted(self._referee.found(produced)),
            "days": round(produced and (self._producer.now_ms - self._stream.live_ms) / 86_400_000, 2),
            "latency_ms": {"p50": p50, "p99": p99, "max": most},  # from when a payment is due until its score is read
        }
        return Outcome(report, accounted)

    def show_end(self, console: Console) -> None:
        produced = self._producer.produced
        if self._positions.are_all(produced):
            console.print(
                f"each of {produced:,} payments is on the topic of scores or of dead letters: accounted for",
                highlight=False,
                soft_wrap=True,
            )
        verdict = self.verdict()
        table = Table(title="frauds by pattern, as the simulator knows them", title_justify="left")
        for name in ("pattern", "incidents", "found", "recall", "payments", "alerts"):
            table.add_column(name, justify="left" if name == "pattern" else "right")
        for name, of in self._referee.found(produced).items():
            recall = f"{of.incidents_found / of.incidents:.2f}" if of.incidents else "-"
            numbers = of.incidents, of.incidents_found, recall, of.payments, of.payments_found
            table.add_row(name.replace("_", " "), *map(str, numbers))
        console.print(table)
        if verdict.precision is not None:
            right = round(verdict.precision * verdict.alerts)
            share = self._settings.prevalence
            console.print(
                f"precision: {right:,} of {verdict.alerts:,} alerts are of fraudulent payments "
                f"({verdict.precision:.2f}), where {share:.2%} of all payments are",
                highlight=False,
                soft_wrap=True,
            )
        console.print(table_of_benchmark(Path(__file__).parents[2] / "docs" / "fraud.md"))


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _ends(events: KafkaAddress) -> dict[int, int]:
    """The offset of the next record, by partition."""
    consumer = Consumer({"bootstrap.servers": events.bootstrap_servers, "group.id": "highbeam-demo", "log_level": 4})
    try:
        parts = range(PARTITIONS)
        return {p: consumer.get_watermark_offsets(TopicPartition(events.topic, p), 10)[1] for p in parts}
    finally:
        consumer.close()
