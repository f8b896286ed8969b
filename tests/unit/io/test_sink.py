"""What a bundle's blocks say of the latency: live ones, and those that were there before the reading began."""

from __future__ import annotations

import time

import pytest
from apache_beam.utils.timestamp import Timestamp

from beam_jobs import metrics
from beam_jobs.io.sink import Written


@pytest.fixture(autouse=True)
def _state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "STATE", metrics.JobState())


def written(*ages_s: float) -> tuple[int, int]:
    """Blocks whose oldest record is so old: how many count as live, and as backlog."""
    bundle = Written("alerts")
    for age_s in ages_s:
        bundle.element(Timestamp(time.time() - age_s))
    bundle.count()
    counted = metrics.STATE.snapshot()
    assert bool(counted.active_s or counted.last_output) == bool(ages_s)
    return tuple(int(counted.values(metric).sum()) for metric in (metrics.LATENCY_MS, metrics.BACKLOG_AGE_MS))  # type: ignore[return-value]


def test_what_came_before_the_reading_is_no_latency() -> None:
    metrics.STATE.started = time.time() - 600
    metrics.inc(metrics.RECORDS_READ)
    assert written(3600, 300, 0.1) == (2, 1)  # nobody has said when the reading began: the start of the job counts
    metrics.STATE._reading_since = time.time() - 60
    assert written(3600, 300, 0.1) == (3, 3)


def test_the_reading_begins_with_the_first_reader() -> None:
    metrics.STATE.started = time.time() - 600
    before = time.time()
    metrics.inc(metrics.READERS_CREATED)
    since = metrics.STATE.live_since
    assert before <= since <= time.time()
    metrics.inc(metrics.READERS_CREATED)
    assert metrics.STATE.live_since == since


def test_a_bundle_without_blocks_says_nothing() -> None:
    assert written() == (0, 0)
