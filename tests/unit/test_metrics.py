import numpy as np
import pytest

from beam_jobs import metrics


@pytest.fixture
def totals(monkeypatch: pytest.MonkeyPatch) -> metrics._Totals:
    fresh = metrics._Totals()
    monkeypatch.setattr(metrics, "TOTALS", fresh)
    return fresh


def test_counts_add_up(totals: metrics._Totals) -> None:
    metrics.inc(metrics.ALERTS, 2)
    metrics.inc(metrics.ALERTS)
    metrics.inc(metrics.DEAD_LETTERS, 0)
    counts, _ = totals.snapshot()
    assert counts == {metrics.ALERTS: 3}


@pytest.mark.parametrize("q", [0.5, 0.99, 1.0])
def test_latency_quantiles_are_within_a_bucket(totals: metrics._Totals, q: float) -> None:
    values = np.linspace(1, 1000, 5000)
    metrics.observe_latency(values)
    found = metrics.latency_quantile(totals.snapshot()[1], q)
    assert found == pytest.approx(float(np.quantile(values, q)), rel=0.06)


def test_latency_outside_the_edges_is_kept(totals: metrics._Totals) -> None:
    metrics.observe_latency(np.array([-5.0, 0.0, 1e9]))
    assert totals.snapshot()[1].sum() == 3
    assert metrics.latency_quantile(np.zeros_like(totals.latency), 0.5) is None


def test_active_span_is_from_first_read_to_last_output(totals: metrics._Totals) -> None:
    assert totals.active_span() == (0.0, 0.0)
    metrics.inc(metrics.RECORDS_READ, 5)
    first, last = totals.active_span()
    assert first == last > 0
    metrics.observe_latency(np.array([1.0]))
    assert totals.active_span()[1] >= first
