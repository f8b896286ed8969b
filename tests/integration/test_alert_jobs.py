"""Alerts of whole jobs on Apache Kafka: as many as the budget has, one of a key at a time."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beam_jobs.steps.alerting.judge import SEVERITIES
from tests.integration.topics import Topics, events, framed, run

pytestmark = pytest.mark.integration

EVENTS = 20_000


def place(row: dict[str, Any]) -> tuple[int, int]:
    return row["source_partition"], row["source_offset"]


def command(topics: Topics, model: Path, folder: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "beam_jobs.score", "--use_case", "car_sensors", "--model", str(model)),
        *("--input", topics.uri("events"), "--until", "latest", "--report", str(folder / "report.json")),
        *("--alerts", topics.uri("alerts"), "--scores", topics.uri("scores"), "--dead_letters", topics.uri("dead")),
        *more,
    ]


def test_a_budget_is_kept_whatever_the_scores_are(topics: Topics, trained_model: Path, tmp_path: Path) -> None:
    """A fifth of the cars fail some day: the model's threshold alone would make thousands of alerts."""
    topics.send("events", list(framed(events(EVENTS))))
    done = run(command(topics, trained_model, tmp_path, "--alert_budget", "1/200"))
    assert "alerts 1/200 at most" in done.stderr + done.stdout
    alerts, report = topics.read("alerts", "alert"), json.loads((tmp_path / "report.json").read_text())
    scores = topics.read("scores", "score")
    assert len(scores) == report["scored"] == EVENTS
    assert len(alerts) == report["alerts"] == pytest.approx(EVENTS / 200, abs=10)
    assert report["alerts_over_budget"] > 100
    assert {place(score) for score in scores if score["is_anomaly"]} == {place(alert) for alert in alerts}
    assert {alert["severity"] for alert in alerts} <= {"low", "medium", "high", "critical"}
    assert all(alert["score"] > alert["threshold"] for alert in alerts)
    assert np.nanmedian([alert["recent_percentile"] or np.nan for alert in alerts]) > 95
    assert alerts[-1]["features"]


def test_a_key_has_one_alert_and_then_none_for_a_while(topics: Topics, trained_model: Path, tmp_path: Path) -> None:
    topics.send("events", list(framed(events(5000))))
    run(command(topics, trained_model, tmp_path, "--alert_cooldown", "1h", "--direct_num_workers", "2"))
    alerts, report = topics.read("alerts", "alert"), json.loads((tmp_path / "report.json").read_text())
    anomalies = [score for score in topics.read("scores", "score") if score["is_anomaly"]]
    assert report["alerts"] == len(alerts)
    assert report["alerts_suppressed"] == len(anomalies) - len(alerts) > 100
    assert report["unaccounted"] == 0
    assert {alert["key"] for alert in alerts} == {score["key"] for score in anomalies}
    for key in {alert["key"] for alert in alerts}:
        of_key = [alert for alert in alerts if alert["key"] == key]
        levels = [SEVERITIES.index(alert["severity"]) for alert in of_key]
        within = of_key[-1]["event_time"] - of_key[0]["event_time"] < timedelta(hours=1)
        assert not within or levels == sorted(set(levels))
