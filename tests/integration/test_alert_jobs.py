"""Alerts of whole jobs on Apache Kafka: as many as the budget has."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.topics import Topics, events, framed, run

pytestmark = pytest.mark.integration

EVENTS = 20_000


def place(row: dict[str, Any]) -> tuple[int, int]:
    return row["source_partition"], row["source_offset"]


def test_a_budget_is_kept_whatever_the_scores_are(topics: Topics, trained_model: Path, tmp_path: Path) -> None:
    """A fifth of the cars fail some day: the model's threshold alone would make thousands of alerts."""
    topics.send("events", list(framed(events(EVENTS))))
    command = [sys.executable, "-m", "beam_jobs.score", "--use_case", "car_sensors", "--model", str(trained_model)]
    command += ["--input", topics.uri("events"), "--until", "latest", "--report", str(tmp_path / "report.json")]
    command += ["--alerts", topics.uri("alerts"), "--scores", topics.uri("scores"), "--alert_budget", "1/200"]
    done = run([*command, "--dead_letters", topics.uri("dead")])
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
