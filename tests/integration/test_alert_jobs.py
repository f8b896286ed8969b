"""Alerts of whole jobs on Apache Kafka: as many as the budget has, one of a key at a time, wherever they are to go."""

from __future__ import annotations

import json
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beam_jobs.io.webhook import signature
from beam_jobs.sandbox.process import free_port
from beam_jobs.steps.alerting.judge import SEVERITIES
from tests.integration.pubsub_topics import PubSubTopics
from tests.integration.topics import Topics, events, framed, run
from tests.services.hook import Hook
from tests.services.job import PIPE, Job

pytestmark = pytest.mark.integration

EVENTS = 20_000
SECRET = "a secret of this test, and long enough"


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


def test_alerts_go_to_two_buses_and_a_webhook(
    topics: Topics, pubsub: str, trained_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pub = PubSubTopics(pubsub)
    topics.send("events", list(framed(events(3000))))
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    with Hook(lambda n: (503 if n == 0 else 204, {}), certificates=tmp_path) as hook:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(hook.certificate))
        also = ("--alerts_also", pub.uri("alerts"), "--alert_webhook", hook.url)
        more = ("--alert_webhook_secret", "env:HOOK_SECRET", "--alert_cooldown", "1h")
        run(command(topics, trained_model, tmp_path, *also, *more))
    alerts, report = topics.read("alerts", "alert"), json.loads((tmp_path / "report.json").read_text())
    assert len(alerts) == report["alerts"] == report["alerts_delivered"] > 5
    assert report["unaccounted"] == report["alerts_undelivered"] == 0
    assert sorted(pub.read("alerts", "alert"), key=place) == sorted(alerts, key=place)
    taken = {post.headers["webhook-id"]: post for post in hook.posts if post.answer == 204}
    assert set(taken) == {alert["id"] for alert in alerts}
    for alert in alerts:
        post = taken[alert["id"]]
        stamp = int(post.headers["webhook-timestamp"])
        assert post.headers["webhook-signature"] == signature([SECRET.encode()], alert["id"], stamp, post.body)
        posted = json.loads(post.body)
        assert (posted["key"], posted["severity"]) == (alert["key"], alert["severity"])


def test_a_webhook_that_is_away_stops_no_job_and_loses_no_alert(
    topics: Topics, trained_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was not told is a dead letter when the job has ended, and none that redrive takes for an event."""
    topics.send("events", list(framed(events(3000))))
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    url = f"http://127.0.0.1:{free_port()}/"
    more = ("--alert_webhook", url, "--alert_webhook_secret", "env:HOOK_SECRET", "--progress", "json")
    words = [word for word in command(topics, trained_model, tmp_path, *more) if word not in ("--until", "latest")]
    job = Job([*words, "--from", "earliest"], stdout=PIPE, stderr=PIPE, start_new_session=True)
    assert job.stderr is not None
    scored = 0
    while scored < 3000:
        line = next(job.stderr)
        scored = json.loads(line)["scored"] if line.startswith("{") else scored
    os.killpg(job.pid, signal.SIGINT)
    out, errors = job.communicate(timeout=120)
    assert job.returncode == 0, errors
    assert "every record is accounted for" in out
    assert "alerts undelivered, dead letters" in out
    alerts, report = topics.read("alerts", "alert"), json.loads((tmp_path / "report.json").read_text())
    letters = topics.read("dead", "dead_letter")
    assert report["scored"] == 3000
    assert report["dead_letters"] == 0
    assert report["alerts_undelivered"] == len(letters) == len(alerts) > 5
    assert {letter["id"] for letter in letters} == {alert["id"] for alert in alerts}
    assert {(letter["stage"], letter["reason"]) for letter in letters} == {("webhook", "webhook_undelivered")}
    assert {json.loads(letter["value"])["id"] for letter in letters} == {alert["id"] for alert in alerts}
    redrive = [sys.executable, "-m", "beam_jobs.redrive", "--input", topics.uri("dead"), "--count_only"]
    done = run([*redrive, "--group_id", topics.name("g"), "--output", topics.uri("events")])
    assert f"{len(letters):,}" in next(line for line in done.stdout.splitlines() if "another reason" in line)


def test_a_replay_waits_for_its_webhook_at_its_end(
    topics: Topics, trained_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its many bundles wait for nothing, and every alert is accounted for."""
    topics.send("events", list(framed(events(3000))))
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    url = f"http://127.0.0.1:{free_port()}/"
    more = ("--alert_webhook", url, "--alert_webhook_secret", "env:HOOK_SECRET", "--block_rows", "20")
    run(command(topics, trained_model, tmp_path, *more))
    alerts, report = topics.read("alerts", "alert"), json.loads((tmp_path / "report.json").read_text())
    letters = topics.read("dead", "dead_letter")
    assert report["alerts_undelivered"] == len(letters) == len(alerts) > 5
    assert (report["scored"], report["alerts_delivered"], report["unaccounted"]) == (3000, 0, 0)
    assert {letter["id"] for letter in letters} == {alert["id"] for alert in alerts}
