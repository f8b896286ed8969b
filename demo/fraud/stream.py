"""Payments of weeks: those before the demo, and those that go on as its clock runs, a day within seconds."""

from __future__ import annotations

import math
import threading
import time
import zlib

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console

from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.sandbox.cards import DAY_MS
from beam_jobs.sandbox.cars import EventProducer, EventSender
from beam_jobs.sandbox.frauds import simulate
from beam_jobs.use_case import load_use_case
from demo.past import StoppedError
from demo.scenario import PARTITIONS, Settings

PAYMENTS_A_DAY = 1.5  # of a card
FILL_DAYS = 30  # of the longest windows of a card: nothing is learnt from before they are full
_LIVE_DAYS = 30  # where the demo has no end
_BLOCK = 20_000  # rows


class Stream:
    """What the cards of a world pay: ``past`` days on the topic before the demo, the rest live.

    Attributes:
      payments: all of them, with the truth.
      first: number of the first payment that is live.
      trained_ms: time of the first payment that is trained on.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        a_day = settings.cars * PAYMENTS_A_DAY
        self.days_a_second = settings.rate / a_day
        past = FILL_DAYS + math.ceil(settings.training_rows / a_day)
        live = _LIVE_DAYS if settings.seconds is None else math.ceil(settings.seconds * self.days_a_second) + 1
        start_ms = (
            int(time.time() * 1000) // DAY_MS - past - live
        ) * DAY_MS  # all of it is over: a broker may ask that
        self.trained_ms, self.live_ms = start_ms + FILL_DAYS * DAY_MS, start_ms + past * DAY_MS
        self.payments = simulate(settings.cars, past + live, settings.seed, settings.prevalence, start_ms)
        self.first = int(np.searchsorted(self.payments.paid.time_ms, self.live_ms))
        self._events = self.payments.table(self.live_ms).combine_chunks().to_batches()[0]
        self._sent = self.first
        self._began: tuple[float, float] | None = None  # monotonic and wall clock, when live payments began

    def send_past(self, events: KafkaAddress, registry_url: str, stop: threading.Event, console: Console) -> None:
        """Sends the payments before the demo, as records of their times, with the labels that are known by now.

        The last one of each partition comes alone: the embedded broker's end of a partition (``latest``) is behind the
        first record of its last batch.

        Raises:
          StoppedError: on Ctrl-C.
        """
        sender = self._sender(events, registry_url, self._settings.seed + 1)
        past = self._events.slice(0, self.first)
        keys = past.column("card").to_pylist()
        partition = np.array([zlib.crc32(key.encode()) % PARTITIONS for key in keys])  # as the client partitions
        last = np.unique([np.flatnonzero(partition == p)[-1] for p in range(PARTITIONS) if (partition == p).any()])
        rest = past.take(pa.array(np.delete(np.arange(len(keys)), last)))
        with console.status("sending") as status:
            for begin in range(0, rest.num_rows, _BLOCK):
                if stop.is_set():
                    raise StoppedError
                _send(sender, rest.slice(begin, _BLOCK))
                status.update(f"sending: {sender.sent:,} payments")
            sender.flush()
            for row in last.tolist():
                _send(sender, past.slice(row, 1))
                sender.flush()
        sender.close()

    def source(self, events: KafkaAddress, registry_url: str) -> EventProducer:
        """What sends the payments that are live, as records of their times."""
        return EventProducer(self._sender(events, registry_url, self._settings.seed), self._step, self._clock)

    def due_s(self, times_ms: NDArray[np.int64]) -> NDArray[np.float64]:
        """When payments of those times were due, seconds of the wall clock, [n]."""
        assert self._began is not None
        return self._began[1] + (times_ms - self.live_ms) / (DAY_MS * self.days_a_second)

    def _sender(self, events: KafkaAddress, registry_url: str, seed: int) -> EventSender:
        case = load_use_case("payment_fraud")
        return EventSender(events, registry_url, self._settings.bad_rate, seed, case.schema, case.key)

    def _step(self) -> pa.RecordBatch | None:
        block = self._events.slice(self._sent, _BLOCK)
        self._sent += block.num_rows
        return block if block.num_rows else None

    def _clock(self) -> int:
        if self._began is None:
            self._began = time.monotonic(), time.time()
        return self.live_ms + int((time.monotonic() - self._began[0]) * DAY_MS * self.days_a_second)


def _send(sender: EventSender, rows: pa.RecordBatch) -> None:
    sender.send(rows, times_ms=rows.column("event_time").cast(pa.int64()).to_numpy())
