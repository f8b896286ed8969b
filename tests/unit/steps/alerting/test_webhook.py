"""When a job waits for its webhook: at its end, and once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

import schemas
from beam_jobs.block import Block
from beam_jobs.codec.schema import arrow_schema
from beam_jobs.io.webhook import WebhookSettings, sender
from beam_jobs.sandbox.process import free_port
from beam_jobs.steps.alerting.webhook import AtTheEnd, ToWebhook
from tests.services.hook import Hook


def alerts(*offsets: int) -> Block:
    schema = arrow_schema(schemas.load("alert"))
    rows = [
        {
            **{field.name: None for field in schema},
            "id": f"t-0-{offset}",
            "source_topic": "t",
            "source_partition": 0,
            "source_offset": offset,
            "event_time": 1_700_000_000_000,
            "key": "car-1",
        }
        for offset in offsets
    ]
    return pa.RecordBatch.from_pylist(rows, schema=schema)


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", "a secret that is long enough")


@pytest.fixture
def away() -> Iterator[WebhookSettings]:
    settings = WebhookSettings(f"http://127.0.0.1:{free_port()}/", "env:HOOK_SECRET", closing_s=0.2)
    yield settings
    sender(settings).close()


def test_bundles_of_a_job_with_an_end_wait_for_nothing(away: WebhookSettings) -> None:
    """The time to wait was gone with the first one, and alerts of later ones were given up untried."""
    step = ToWebhook(away, "score/x", waits=False)
    step.setup()
    began = time.monotonic()
    for offset in range(5):
        assert not [*step.process(alerts(offset)), *step.finish_bundle()]
    assert time.monotonic() - began < 0.2
    (letters,) = AtTheEnd(away, "score/x").process(None, [])
    assert letters.column("id").to_pylist() == [f"t-0-{offset}" for offset in range(5)]
    assert time.monotonic() - began >= 0.2


def test_the_end_comes_after_all_alerts_in_a_pipeline(tmp_path: Path) -> None:
    with Hook() as hook:
        settings = WebhookSettings(hook.url, "env:HOOK_SECRET")
        with beam.Pipeline(FnApiRunner()) as pipeline:
            blocks = pipeline | beam.Create([10 * i for i in range(5)]) | beam.Map(lambda i: alerts(*range(i, i + 10)))
            done = blocks | "Webhook" >> beam.ParDo(ToWebhook(settings, "score/x", waits=False))
            end = AtTheEnd(settings, "score/x")
            pipeline | "End" >> beam.Create([None]) | beam.ParDo(end, beam.pvalue.AsIter(done))
        assert sorted(int(post.headers["webhook-id"][4:]) for post in hook.posts) == list(range(50))
        sender(settings).close()
