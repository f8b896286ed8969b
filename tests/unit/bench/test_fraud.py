"""The measurement of fraud: its ceiling is what it says, a published model comes out again, its page is the run's."""

from __future__ import annotations

import numpy as np
import pytest

from bench.accuracy import fraud, page
from bench.accuracy.goals import goals
from model.backtest.rounds import DAY_MS


def test_the_page_shows_the_figures_of_the_run() -> None:
    text = page.FRAUD_PAGE.read_text(encoding="utf-8")
    assert page.rendered(text) == text, "run python -m bench.accuracy --only fraud"


def test_a_fraud_is_told_by_an_earlier_one_of_its_terminal_that_is_known() -> None:
    rng = np.random.default_rng(3)
    scenario, terminal = rng.choice(4, 400, p=[0.4, 0.1, 0.4, 0.1]), rng.integers(0, 6, 400)
    time_ms = np.sort(rng.integers(0, 60 * DAY_MS, 400))
    known = [
        any(
            scenario[j] == 2 and terminal[j] == terminal[i] and 7 <= (time_ms[i] - time_ms[j]) / DAY_MS <= 28
            for j in range(i)
        )
        for i in range(400)
    ]
    expected = (scenario > 0) & ((scenario != 2) | np.array(known))
    assert fraud.told(scenario, terminal, time_ms).tolist() == expected.tolist()
    assert 0 < expected[scenario == 2].mean() < 1


@pytest.mark.nightly  # two minutes of CPU; by day the page shows the figures of the run
def test_the_published_logistic_regression() -> None:
    figures = {}
    for name in ("data", "logistic_regression"):
        figures |= {path: [value] for path, value in fraud.measure(name, 1).figures.items()}
    assert (figures["fraud.logistic_regression.test.rows"], figures["fraud.logistic_regression.test.failures"]) == (
        [58_264],
        [385],
    )
    reached = [goal for goal in goals(figures) if goal.what.startswith(("benchmark", "logistic"))]
    assert len(reached) == 7
    assert all(goal.met for goal in reached)
