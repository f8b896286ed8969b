"""The demo of payments: it is judged by the simulator's truth, and says that nothing is missing only if that is so."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from beam_jobs.sandbox.frauds import GENUINE, simulate
from demo.fraud.benchmark import table_of_benchmark
from demo.fraud.referee import Positions, Referee, counted
from demo.fraud.stream import FILL_DAYS, Stream
from demo.scenario import Settings

PAYMENTS = simulate(200, 10, 3, 0.1)
PATTERN = np.array(PAYMENTS.fraud().to_pylist())
IDS = PAYMENTS.ids().to_pylist()
FIRST = 100


def numbers(pattern: str) -> list[int]:
    """Live payments of a pattern."""
    return [row for row in np.flatnonzero(pattern == PATTERN).tolist() if row >= FIRST]


def test_an_incident_is_found_by_one_of_its_payments() -> None:
    referee, live = Referee(PAYMENTS, FIRST), len(PAYMENTS) - FIRST
    before = referee.verdict(live)
    assert (before.alerts, before.precision, before.recall) == (0, None, 0.0)
    burst, genuine = numbers("velocity_burst"), numbers(GENUINE)
    assert referee.judge(IDS[burst[3]]) == "velocity_burst"
    assert referee.judge(IDS[burst[3]]) == "velocity_burst"  # again, after a restart
    assert referee.judge(IDS[genuine[0]]) == ""
    incidents = len(np.unique(PAYMENTS.paid.incident[burst]))
    of = referee.found(live)["velocity_burst"]
    assert vars(of) == {"incidents": incidents, "incidents_found": 1, "payments": len(burst), "payments_found": 1}
    after = referee.verdict(live)
    assert (after.alerts, after.precision) == (2, 0.5)
    assert after.recall_by_kind["velocity_burst"] == 1 / incidents
    assert after.of_all == counted(referee.found(live))["all"]["incidents"]


def test_what_was_not_sent_is_nothing_to_find() -> None:
    referee, fraud = Referee(PAYMENTS, FIRST), min(numbers("small_then_large"))
    assert referee.found(fraud - FIRST)["small_then_large"].payments == 0
    assert referee.found(fraud - FIRST + 1)["small_then_large"].payments == 1


def test_the_story_of_a_card_ends_with_the_payment_of_the_alert() -> None:
    referee = Referee(PAYMENTS, FIRST)
    assert referee.story("card x") == ()
    last = numbers("velocity_burst")[6]
    referee.judge(IDS[last])
    head, *lines = referee.story("card x")
    assert head.startswith("The story of card x")
    assert [line.endswith("alert, velocity burst") for line in lines] == [False] * 5 + [True]
    own = np.flatnonzero(PAYMENTS.paid.card == PAYMENTS.paid.card[last])
    shown = [f"{PAYMENTS.paid.euros[row]:,.2f} EUR" for row in own[own <= last][-6:]]
    assert all(text in line for text, line in zip(shown, lines, strict=True))


@pytest.mark.parametrize(
    ("offsets", "complete"),
    [
        ([10, 11, 12], True),
        ([12, 11, 10, 10], True),  # read again after a restart
        ([10, 12, 13], False),  # one is missing
        ([11, 12, 13], False),
        ([10, 11], False),
        ([8, 9, 10, 11, 12], True),  # those from before do not count
    ],
)
def test_all_are_there_only_without_a_gap(offsets: list[int], complete: bool) -> None:
    positions = Positions({0: 10, 1: 0})
    positions.add([0] * len(offsets), offsets)
    assert positions.are_all(3) is complete


def settings(seconds: float | None) -> Settings:
    return Settings(
        use_case="payment_fraud",
        cars=50,
        rate=50,
        prevalence=0.01,
        bad_rate=0,
        seconds=seconds,
        seed=1,
        training_rows=500,
        model=None,
        keep=None,
        broker="embedded",
        runner="DirectRunner",
        headless=True,
        report=None,
        verbose=False,
    )


def test_a_stream_is_of_days_that_are_over() -> None:
    stream = Stream(settings(20))
    times = stream.payments.paid.time_ms
    assert times[-1] < time.time() * 1000
    assert times[stream.first - 1] < stream.live_ms <= times[stream.first]
    assert (stream.trained_ms - times[0]) / 86_400_000 == pytest.approx(FILL_DAYS, abs=1)
    assert len(times) - stream.first >= 20 * 50 * 0.7
    assert Stream(settings(None)).days_a_second == stream.days_a_second == 50 / 75


def test_the_benchmarks_table_is_that_of_its_page() -> None:
    table = table_of_benchmark(Path(__file__).parents[3] / "docs" / "fraud.md")
    ways = list(table.columns[0].cells)
    assert any(str(way).startswith("ceiling") for way in ways)
    assert len(ways) >= 7
    assert not any(" to " in str(cell) for column in list(table.columns)[1:] for cell in column.cells)
