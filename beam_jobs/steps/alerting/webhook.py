"""Alerts to a webhook, and what it did not take as dead letters."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

import schemas
from beam_jobs import metrics, stop
from beam_jobs.block import Block
from beam_jobs.codec.json.decoder import JsonEncoder
from beam_jobs.codec.schema import arrow_schema
from beam_jobs.errors import UNDELIVERED_ALERT
from beam_jobs.io.webhook import Message, Sender, Undelivered, WebhookSettings, sender

DELIVERED = metrics.Metric(
    "alerts_delivered",
    "alerts that the webhook took",
    report="alerts_delivered",
    row={"score": "alerts delivered to the webhook"},
    optional=True,
)
UNDELIVERED = metrics.Metric(
    "alerts_undelivered",
    "alerts that the webhook did not take; dead letters, and no records read",
    report="alerts_undelivered",
    row={"score": "alerts undelivered, dead letters"},
    optional=True,
)


class ToWebhook(beam.DoFn):
    """Hands rows of ``alert.avsc`` over, and puts out dead letters of those that were given up meanwhile.

    A job that is told to end waits a while for what is under way.

    Args:
      job: "score/car_sensors".
      waits: at the end of each bundle: nobody knows which one is this process's last.
    """

    def __init__(self, settings: WebhookSettings, job: str, waits: bool) -> None:
        self._settings = settings
        self._job = job
        self._waits = waits

    def setup(self) -> None:
        self._encoder = JsonEncoder(schemas.load("alert"))
        self._sender = sender(self._settings)

    def process(self, alerts: Block) -> Iterator[Block]:
        if alerts.num_rows:
            ids, bodies = alerts.column("id").to_pylist(), self._encoder.encode(alerts).to_pylist()
            self._sender.offer([Message(id_, body) for id_, body in zip(ids, bodies, strict=True)])
        yield from self._given_up()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._waits or stop.requested():
            self._sender.settle()
        for letters in self._given_up():
            yield WindowedValue(letters, Timestamp.now(), (GlobalWindow(),))

    def _given_up(self) -> Iterator[Block]:
        return _given_up(self._sender, self._job)


class AtTheEnd(beam.DoFn):
    """Waits for what is still to be posted once all alerts of a job that has an end were handed over.

    It has to run in the process of ``ToWebhook``, whose output as a side input makes it the last step.
    """

    def __init__(self, settings: WebhookSettings, job: str) -> None:
        self._settings = settings
        self._job = job

    def process(self, _: None, before: Iterable[Block]) -> Iterator[Block]:
        here = sender(self._settings)
        here.settle()
        yield from _given_up(here, self._job)


def _given_up(sender: Sender, job: str) -> Iterator[Block]:
    delivered, given_up = sender.outcomes()
    metrics.inc(DELIVERED, delivered)
    metrics.inc(UNDELIVERED, len(given_up))
    if given_up:
        yield letters_of(given_up, job)


def letters_of(given_up: Sequence[Undelivered], job: str) -> Block:
    """Dead letters of alerts, under their ids; each holds what would have been posted, and whose event it was."""
    alerts, n = [json.loads(each.message.body) for each in given_up], len(given_up)
    columns = {
        "id": pa.array([each.message.id for each in given_up]),
        "topic": pa.array([alert["source_topic"] for alert in alerts]),
        "partition": pa.array([alert["source_partition"] for alert in alerts], pa.int32()),
        "offset": pa.array([alert["source_offset"] for alert in alerts], pa.int64()),
        "timestamp": pa.array([alert["event_time"] for alert in alerts], pa.timestamp("ms", "UTC")),
        "key": pa.array([alert["key"].encode() for alert in alerts], pa.binary()),
        "value": pa.array([each.message.body for each in given_up], pa.binary()),
        "stage": pa.array(["webhook"] * n),
        "reason": pa.array([UNDELIVERED_ALERT] * n),
        "error": pa.array([each.why for each in given_up]),
        "failed_at": pa.array([int(time.time() * 1000)] * n).cast(pa.timestamp("ms", "UTC")),
        "job": pa.array([job] * n),
    }
    schema = arrow_schema(schemas.load("dead_letter"))
    arrays = [columns[f.name].cast(f.type) if f.name in columns else pa.nulls(n, f.type) for f in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
