"""The figures of the bench: an incident is found by one of its payments, and a share of the payments are alerts."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.sandbox.frauds import GENUINE, PATTERNS
from bench.fraud_patterns import BUDGET, Rows, alerts, judge


def rows(incident: list[int], genuine: int) -> Rows:
    """Two payments an incident of each pattern, then genuine ones."""
    n = len(incident) + genuine
    kinds = list(PATTERNS)
    pattern = [kinds[number % len(kinds)] for number in incident] + [GENUINE] * genuine
    numbers = np.array(incident + [-1] * genuine)
    return Rows(np.zeros((n, 1), np.float32), np.arange(n, dtype=np.uint64), np.arange(n), numbers, np.array(pattern))


def test_one_payment_finds_an_incident() -> None:
    found = rows([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6], 9_986)
    scores = np.zeros(10_000)
    scores[[0, 2, 4, 6, 8]] = 5, 4, 3, 2, 1  # a payment of the first five incidents
    scores[20:25] = 10  # genuine
    figures = judge(scores, found)
    assert round(BUDGET * 10_000) == 10
    first, *middle, last = figures["recall"].values()
    assert (first, middle, last) == (0.5, [1, 1, 1, 1], 0)  # the seventh incident is of the first pattern too
    assert figures["precision"] == 0.5


def test_of_a_card_there_is_one_alert_until_it_has_rested() -> None:
    card, time_ms = np.array([1, 1, 2, 1, 1], np.uint64), np.array([0, 4, 5, 10, 13])
    scores = np.array([5.0, 9, 1, 8, 7])
    assert np.flatnonzero(alerts(scores, card, time_ms, 5, rest_ms=10)).tolist() == [0, 2, 3]
    assert np.flatnonzero(alerts(scores, card, time_ms, 2, rest_ms=10)).tolist() == [0, 3]
    assert np.flatnonzero(alerts(scores, card, time_ms, 1, rest_ms=10)).tolist() == [1]
    assert not alerts(scores, card, time_ms, 0, rest_ms=10).any()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 9)), max_size=40), st.integers(0, 12))
def test_there_are_never_more_alerts_than_asked_for(rows: list[tuple[int, int, int]], most: int) -> None:
    card, step, score = np.array(rows, np.int64).reshape(-1, 3).T
    found = alerts(score.astype(float), card.astype(np.uint64), np.cumsum(step), most, rest_ms=3)
    assert found.sum() <= most


def test_days_are_counted_from_the_first_payment() -> None:
    day = 86_400_000
    week = Rows(
        np.zeros((5, 1), np.float32),
        np.arange(5, dtype=np.uint64),
        7 + day * np.arange(5),
        np.full(5, -1),
        np.array([GENUINE] * 5),
    )
    assert week.between((1, 3)).card.tolist() == [1, 2]
