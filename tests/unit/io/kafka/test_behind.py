"""How much of what was there when a live read began is still to be read."""

from __future__ import annotations

import pytest

from beam_jobs import metrics
from beam_jobs.io.kafka.source import _Session


def test_a_reader_tells_it_until_it_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "STATE", metrics.JobState())
    session = _Session.__new__(_Session)
    session.name, session.positions, session.waiting = "reader", {0: 10, 1: 500, 2: 7}, {0: 100, 1: 400, 3: 50}
    told = []
    for at in (10, 60, 100, 5000):
        session.positions[0] = at  # partition 1 was read beyond it before, 3 is another reader's by now
        session.tell_behind()
        told.append(metrics.STATE.snapshot().behind)
    assert told == [90, 40, 0, 0]
