"""What a threshold promises is said with its interval, compared with the test rows, and never said in doubt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model.alert_rate import binomial_interval
from tests.unit.model.samples import THRESHOLD

FIT = replace(THRESHOLD, threshold=4.0, cut=50.0, left_out=0.02)


def scores(alerts: int, outliers: int = 0) -> np.ndarray:
    return np.concatenate([np.full(1000 - alerts, 1.0), np.full(alerts, 5.0), np.full(outliers, 100.0)])


def test_the_promise_has_its_interval_and_what_it_rests_on() -> None:
    assert str(FIT) == (
        "expected to alert on 0.01 (0.007 to 0.0135) of normal rows; counted: 40 of 4,000 held-out rows lie above it"
    )
    tied = replace(FIT, share=0.004, low=0.0025, high=0.0064)
    assert "on 0.004 (0.0025 to 0.0064) of normal rows, not 0.01, since scores tie; counted" in str(tied)


def test_test_rows_that_keep_the_budget_are_no_warning() -> None:
    found = FIT.compare(scores(alerts=12, outliers=3))
    assert (found.rows, found.share, found.outliers, found.warning) == (1000, 0.012, 3, "")
    assert found.low < 0.01 < found.high
    assert str(found) == f"0.012 ({found.low:.3g} to {found.high:.3g}) of 1,000 rows; 3 outliers not counted"


@pytest.mark.parametrize("alerts", [0, 30])
def test_test_rows_that_do_not_keep_it_are(alerts: int) -> None:
    found = FIT.compare(scores(alerts))
    assert f"{alerts / 1000:.3g} (" in found.warning
    assert "the alert budget is 0.01" in found.warning


def test_rows_that_are_alike_are_fewer() -> None:
    one, other = FIT.compare(scores(30)), replace(FIT, design_effect=20.0).compare(scores(30))
    assert (one.share, one.rows) == (other.share, other.rows)
    assert other.low < one.low < one.high < other.high
    assert one.warning
    assert not other.warning


def test_without_outliers_every_test_row_counts() -> None:
    assert replace(FIT, cut=None).compare(scores(0, outliers=10)).share == pytest.approx(10 / 1010)


def test_in_doubt_no_budget_is_said_to_be_kept() -> None:
    doubted = replace(FIT, doubt="outliers overlap the tail")
    assert str(doubted) == "no telling which share of normal rows it alerts on: outliers overlap the tail"
    warning = doubted.compare(scores(10)).warning
    assert warning == "whether the alert budget of 0.01 is kept cannot be told: outliers overlap the tail"


def test_no_test_rows_tell_nothing() -> None:
    found = FIT.compare(np.zeros(0))
    assert (found.rows, found.low, found.high, found.warning) == (0, 0.0, 1.0, "")


@pytest.mark.parametrize(("share", "rows"), [(0.01, 4000), (0.001, 4000), (0.5, 20)])
def test_the_binomial_interval_holds_the_true_share(share: float, rows: int) -> None:
    random = np.random.default_rng(0)
    found = [binomial_interval(int(hits), rows) for hits in random.binomial(rows, share, 2000)]
    assert np.mean([low <= share <= high for low, high in found]) == pytest.approx(0.95, abs=0.03)
    assert binomial_interval(0, rows)[0] == 0
    assert binomial_interval(rows, rows)[1] == 1
