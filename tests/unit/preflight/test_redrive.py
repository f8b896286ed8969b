"""What redrive refuses, and what it says where there is nothing to read."""

from __future__ import annotations

import re

import pytest

from beam_jobs import metrics
from beam_jobs.errors import REASONS, UserError
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.transforms import KafkaInput, KafkaOutput
from beam_jobs.io.pubsub.address import PubSubAddress
from beam_jobs.io.pubsub.transforms import PubSubInput
from beam_jobs.io.source import Source
from beam_jobs.preflight.redrive import RedriveJob, redrive_job
from beam_jobs.terminal import options, report
from beam_jobs.terminal.commands import JOBS
from schemas.source import ShippedSchemas

NOWHERE = ["--input", "kafka://127.0.0.1:9/dead", "--output", "kafka://127.0.0.1:9/events"]
KNOWN = [reason for step in REASONS.values() for reason in step]


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("missing_fields", "missing_field"),
        ("Unknown_Schema_Id", "unknown_schema_id"),
        ("unresolved", "unresolvable"),
        ("zzz", None),
    ],
)
def test_an_unknown_reason_is_refused_with_the_nearest(given: str, near: str | None) -> None:
    parsed = options.parse(JOBS["redrive"].parser(), [*NOWHERE, "--reason", KNOWN[0], "--reason", given])
    with pytest.raises(UserError) as raised:
        redrive_job(parsed)
    text = str(raised.value)
    assert text.startswith(f"--reason {given}: no dead letter has this reason")
    if near:
        assert f"did you mean {near}?" in text
    assert all(reason in text for reason in KNOWN)


@pytest.mark.parametrize("reason", KNOWN)
def test_every_reason_of_a_step_is_taken(reason: str) -> None:
    parsed = options.parse(JOBS["redrive"].parser(), [*NOWHERE, "--reason", reason])
    with pytest.raises(UserError, match=r"no broker answers|cannot be reached|not reach"):
        redrive_job(parsed)


@pytest.mark.parametrize(
    ("address", "dry_run", "part"),
    [
        ("kafka://b:9092/dead", False, "group g has read all that is on kafka://b:9092/dead; .* another --group_id"),
        ("kafka://b:9092/dead", True, "there are no dead letters on kafka://b:9092/dead"),
        (
            "pubsub://my-project/dead-sub",
            False,
            "nothing is left on pubsub:.*; --from TIME takes it back",
        ),
    ],
)
def test_reading_nothing_says_how_to_come_back(
    address: str, dry_run: bool, part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(metrics, "STATE", metrics.JobState())
    if address.startswith("kafka:"):
        source: Source = KafkaInput(KafkaAddress.parse(address), group_id="g")
    else:
        source = PubSubInput(PubSubAddress.parse(address))
    output = None if dry_run else KafkaOutput(KafkaAddress("b:9092", "events"))
    job = RedriveJob(source, ShippedSchemas({}), output, ())
    report.conclude_redrive(dry_run, False, job.nothing_read)
    assert re.search(part, capsys.readouterr().err)
    metrics.STATE.add(metrics.RECORDS_READ, 1)
    report.conclude_redrive(dry_run, False, job.nothing_read)
    assert capsys.readouterr().err == ""
