"""A payment's own label does not reach its features; where it is planted, the measurement shows it.

The benchmark with fewer customers and terminals. The plant: the label as a field that nobody has tagged, and frames of
a terminal that end now instead of 7 days before.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from beam_jobs.errors import UserError
from beam_jobs.sandbox.payments import Payments, benchmark
from beam_jobs.use_case import UseCase, load_use_case
from bench.accuracy.fraud import features_of
from model.backtest.rounds import DAY_MS, Labelled, Split, fit, judge, rounds
from model.kinds import KINDS

NAMES = ("fraud_benchmark", "fraud_benchmark_history")
KNOWN = "AND INTERVAL '7' DAY PRECEDING)"
TREES = {"trees": 100}


@pytest.fixture(scope="module")
def payments() -> Payments:
    """34,000 of 300 customers at 600 terminals in 60 days."""
    return benchmark(customers=300, terminals=600, days=60)


def planted(use_case: UseCase) -> UseCase:
    """With frames that hold the row's own label."""
    fields = [{name: value for name, value in f.items() if name != "label"} for f in use_case.schema["fields"]]
    sql = use_case.sql.replace(KNOWN, "AND CURRENT ROW)").replace("INTERVAL '8' DAY", "INTERVAL '1' HOUR")
    return replace(use_case, sql=sql, schema={**use_case.schema, "fields": fields}, label=None)


def average_precision(use_case: UseCase, payments: Payments) -> float:
    """Of boosting, judged a fortnight after it was trained."""
    table, query = payments.table(), use_case.preprocessor()
    times = table["event_time"].cast(pa.int64()).to_numpy()
    names = pa.array(["", "1", "2", "3"])
    kinds = pa.DictionaryArray.from_arrays(pa.array(payments.scenario.astype(np.int32)), names)
    rows = Labelled(features_of(use_case, table), payments.customer, times, kinds)
    (one,) = rounds(rows, int(times[0]) // DAY_MS * DAY_MS + 38 * DAY_MS, Split(), 1)
    kind = KINDS.get("boosting")
    fitted = fit(kind, kind.settings(**TREES), one.train, query.features, 1, 0.05)
    judged = judge(fitted.scorer.score(one.test.x), one, 10, 0.05)
    assert judged.failures > 100
    return judged.average_precision


@pytest.mark.parametrize("name", NAMES)
def test_a_leak_gives_itself_away(payments: Payments, name: str) -> None:
    """Honest inputs leave many frauds out of reach: at a terminal whose first fraud is not known yet."""
    use_case = load_use_case(name)
    assert 0.3 < average_precision(use_case, payments) < 0.8
    assert average_precision(planted(use_case), payments) > 0.98


@pytest.mark.parametrize("name", NAMES)
def test_a_label_younger_than_its_delay_changes_no_feature(payments: Payments, name: str) -> None:
    """Of the last 7 days all labels are turned round; those of the day before are known to the last rows."""
    table = payments.table()
    times = table["event_time"].cast(pa.int64()).to_numpy()
    column = table.schema.get_field_index("scenario")

    def turned(days: int) -> pa.Table:
        other = np.where(times > times[-1] - days * DAY_MS, 1 - np.minimum(payments.scenario, 1), payments.scenario)
        return table.set_column(column, "scenario", pa.array(other.astype(np.int32)))

    use_case = load_use_case(name)
    before = features_of(use_case, table)
    assert np.array_equal(features_of(use_case, turned(7)), before)
    assert not np.array_equal(features_of(use_case, turned(8)), before)
    leaking = planted(use_case)
    assert not np.array_equal(features_of(leaking, turned(7)), features_of(leaking, table))


@pytest.mark.parametrize("name", NAMES)
def test_a_frame_that_would_hold_it_is_refused(name: str) -> None:
    use_case = load_use_case(name)
    for end in ("AND CURRENT ROW)", "AND INTERVAL '6' DAY PRECEDING)"):
        sql = use_case.sql.replace(KNOWN, end)
        assert sql != use_case.sql
        with pytest.raises(UserError, match=r"scenario is the label.* takes 7 d \(label_delay\)"):
            replace(use_case, sql=sql).preprocessor()
