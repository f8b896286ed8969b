"""What an alert budget may be, and what it earns."""

from __future__ import annotations

import pytest

from beam_jobs.errors import UserError
from beam_jobs.steps.alerting.budget import DAY_MS, AlertBudget


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("1/1000", AlertBudget("records", 1, 1000)),
        ("3 / 10,000", AlertBudget("records", 3, 10_000)),
        ("0.001", AlertBudget("records", 1, 1000)),
        (".0025", AlertBudget("records", 1, 400)),
        ("100/day", AlertBudget("time", 100, DAY_MS)),
        ("5/1000keys", AlertBudget("keys", 5, 1000 * DAY_MS)),
    ],
)
def test_what_it_may_be(text: str, budget: AlertBudget) -> None:
    assert AlertBudget.parse(text) == budget


@pytest.mark.parametrize(
    "text", ["", "many", "0/day", "1/week", "1/0", "1/5", "5/0keys", "-1/1000", "0", "1", "1/day/key", "٣/day"]
)
def test_what_it_may_not_be(text: str) -> None:
    with pytest.raises(UserError, match="--alert_budget"):
        AlertBudget.parse(text)


def test_processes_share_what_time_earns_and_nothing_else() -> None:
    """Records and keys are each of one process: what they earn adds up by itself."""
    assert AlertBudget.parse("100/day").share(4) == AlertBudget("time", 100, 4 * DAY_MS)
    for text in ("1/1000", "5/1000keys"):
        assert AlertBudget.parse(text).share(4) == AlertBudget.parse(text)


@pytest.mark.parametrize(("text", "alerts"), [("1/1000", 10), ("100/day", 10), ("8/day", 4), ("1/day", 2)])
def test_what_may_come_at_once(text: str, alerts: int) -> None:
    budget = AlertBudget.parse(text)
    assert budget.burst == alerts * budget.costs
