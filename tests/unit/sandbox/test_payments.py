"""The benchmark's payments are those that were published."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from beam_jobs.sandbox.payments import Payments, benchmark


@pytest.fixture(scope="module")
def payments() -> Payments:
    return benchmark(customers=300, terminals=600, days=60)


@pytest.mark.nightly  # half a minute of CPU; test_the_same_for_the_same_numbers pins a part of it
def test_the_published_counts() -> None:
    payments = benchmark()
    assert (len(payments), payments.added) == (1_754_155, (978, 9_099, 4_604))
    week = (payments.time_s >= 115 * 86_400) & (payments.time_s < 122 * 86_400)  # July 25 to 31
    assert (np.count_nonzero(week), np.count_nonzero(payments.scenario[week])) == (67_240, 598)


def test_the_same_for_the_same_numbers(payments: Payments) -> None:
    """Taken down from the code that gives the published counts."""
    assert (len(payments), payments.added) == (33_762, (16, 2_618, 1_346))
    assert round(float(payments.amount.sum()), 2) == 2_136_982.63


def test_frauds_are_where_the_scenarios_put_them(payments: Payments) -> None:
    amount, scenario = payments.amount, payments.scenario
    assert (amount[scenario == 1] > 220).all()
    assert (amount[scenario == 0] <= 220).all()
    day = payments.time_s // 86_400
    for terminal in np.unique(payments.terminal[scenario == 2])[:20]:
        here = payments.terminal == terminal
        days = day[here & (scenario == 2)]
        untouched = here & (day >= days.min()) & (day <= min(days.max(), days.min() + 27)) & (scenario == 0)
        assert not untouched.any()
    assert sum(payments.added) == np.count_nonzero(scenario)


def test_rows_are_in_the_order_of_their_time(payments: Payments) -> None:
    table = payments.table()
    assert table.schema.field("event_time").type == pa.timestamp("ms", "UTC")
    assert pc.all(
        pc.greater_equal(pc.pairwise_diff(table["event_time"].cast(pa.int64()).combine_chunks())[1:], 0)
    ).as_py()
    assert str(table["event_time"][0]).startswith("2018-04-01")
