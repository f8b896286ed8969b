"""Metrics: what is declared, what is counted, and that one declaration is all that a new one needs."""

from __future__ import annotations

import importlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from beam_jobs import metrics
from beam_jobs.metrics import Metric
from beam_jobs.terminal.report import conclude, status_line
from tests.distribution import install


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> metrics.JobState:
    fresh = metrics.JobState()
    monkeypatch.setattr(metrics, "STATE", fresh)
    return fresh


def test_counts_add_up(state: metrics.JobState) -> None:
    metrics.inc(metrics.ALERTS, 2)
    metrics.inc(metrics.ALERTS)
    metrics.inc(metrics.DEAD_LETTERS, 0)
    assert state.snapshot().counts == {"alerts": 3}


def test_counts_by_value_stand_beside_the_count(state: metrics.JobState) -> None:
    metrics.inc(metrics.DEAD_LETTERS, 5)
    for n, reason in ((2, "null_value"), (3, "truncated")):
        metrics.inc(metrics.DEAD_LETTERS, n, reason)
    counted = state.snapshot()
    assert counted[metrics.DEAD_LETTERS] == 5
    assert list(counted.by_value(metrics.DEAD_LETTERS).items()) == [("truncated", 3), ("null_value", 2)]
    assert counted.by_value(metrics.REDRIVEN) == {}
    assert counted.counts["dead_letters.truncated"] == 3  # as runners show it


def test_other_processes_are_added_and_replaced(state: metrics.JobState) -> None:
    other = metrics.JobState()
    metrics.inc(metrics.RECORDS_READ, 1)
    other.add(metrics.RECORDS_READ, 2)
    other.observe(metrics.LATENCY_MS, np.array([1.0]))
    state.of_worker(1, pickle.loads(pickle.dumps(other.own())))
    other.add(metrics.RECORDS_READ, 3)
    state.of_worker(1, other.own())
    counted = state.snapshot()
    assert counted[metrics.RECORDS_READ] == 6
    assert counted.values(metrics.LATENCY_MS).sum() == 1
    assert state.own()[metrics.RECORDS_READ] == 1


@pytest.mark.parametrize("q", [0.5, 0.99, 1.0])
def test_latency_quantiles_are_within_a_bucket(state: metrics.JobState, q: float) -> None:
    values = np.linspace(1, 1000, 5000)
    metrics.observe(metrics.LATENCY_MS, values)
    found = metrics.quantile(state.snapshot().values(metrics.LATENCY_MS), q)
    assert found == pytest.approx(float(np.quantile(values, q)), rel=0.06)


def test_latency_outside_the_edges_is_kept(state: metrics.JobState) -> None:
    assert metrics.quantile(state.snapshot().values(metrics.LATENCY_MS), 0.5) is None
    metrics.observe(metrics.LATENCY_MS, np.array([-5.0, 0.0, 1e9]))
    assert state.snapshot().values(metrics.LATENCY_MS).sum() == 3


def test_active_time_is_from_first_read_to_last_output(
    state: metrics.JobState, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert state.snapshot().active_s == 0
    clock = iter([100.0, 107.0])
    monkeypatch.setattr("time.time", lambda: next(clock))
    metrics.inc(metrics.RECORDS_READ, 5)
    assert state.snapshot().active_s == 0
    metrics.observe(metrics.LATENCY_MS, np.array([1.0]))
    assert state.snapshot().active_s == 7


def test_a_name_is_taken_once() -> None:
    again = Metric("files_read", metrics.FILES_READ.help, "files")  # a module that is imported anew
    assert again == metrics.FILES_READ
    with pytest.raises(ValueError, match="'files_read' is declared already"):
        Metric("files_read", "something else")


def test_every_metric_says_what_it_is() -> None:
    for metric in metrics.declared():
        assert metric.help
        assert metric.unit
        assert pickle.loads(pickle.dumps(metric)) == metric
    taken = [key for metric in metrics.declared() for key in (metric.report, metric.report_by) if key]
    assert len(taken) == len(set(taken))
    for metric in metrics.declared():
        assert not metric.line or metric.progress


ACME = """
from beam_jobs import metrics

RETRIES = metrics.Metric(
    "acme_retries", "requests that were tried again", "requests", by="status", report="retries", report_by="retries_by",
    progress="retries", line=9, row="tried again", rows_by=True,
)


def work():
    metrics.inc(RETRIES, 3)
    metrics.inc(RETRIES, 3, "503")
"""


def test_a_metric_of_another_distribution_is_one_declaration(
    state: metrics.JobState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(metrics, "_DECLARED", dict(metrics._DECLARED))
    monkeypatch.syspath_prepend(install(tmp_path / "site", "acme_metric", ACME, {}))
    importlib.import_module("acme_metric").work()
    conclude(True, str(tmp_path / "report.json"), keeps_position=False)
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["retries"], report["retries_by"]) == (3, {"503": 3})
    rows = [[cell.strip() for cell in line.split("│")[1:3]] for line in capsys.readouterr().out.splitlines()]
    assert rows.index(["tried again", "3"]) + 1 == rows.index(["503", "3"])
    assert status_line("archive", state.snapshot(), 0, None).endswith("  retries 3")
