"""A topic that loses what windows are rebuilt from is refused at the start; one that may is warned of."""

from __future__ import annotations

from typing import Any

import pytest

from beam_jobs.errors import UserError
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.transforms import KafkaInput
from beam_jobs.preflight import kept_log
from beam_jobs.preflight.kept_log import check_kept_log, history_of_log
from beam_jobs.preflight.reach import Preflight
from beam_jobs.preprocessing import compile_sql
from beam_jobs.steps.windows import OnShort, WindowSettings
from beam_jobs.terminal import options
from beam_jobs.terminal.commands import JOBS

TIME = {"type": "long", "logicalType": "timestamp-millis"}
FIELDS = {"card": "string", "at": TIME, "shop": "string", "amount": "double"}
SCHEMA: dict[str, Any] = {"type": "record", "name": "P", "fields": [{"name": n, "type": t} for n, t in FIELDS.items()]}
HOUR = "OVER (PARTITION BY {} ORDER BY at RANGE BETWEEN INTERVAL '{}' PRECEDING AND CURRENT ROW)"
BY_CARD = f"SELECT card, at, sum(amount) {HOUR.format('card', '1 hour')} AS x FROM events"
BY_BOTH = BY_CARD.replace(" FROM", f", sum(amount) {HOUR.format('shop', '30 day')} AS y FROM")
TOPIC = KafkaInput(KafkaAddress("127.0.0.1:1", "events"))


def check(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], sql: str = BY_CARD, on_short: OnShort = "refuse"
) -> None:
    monkeypatch.setattr(kept_log, "topic_settings", lambda address, config, timeout_s: settings)
    parsed = options.parse(JOBS["score"].parser(), ["--use_case", "cars", "--input", "kafka://127.0.0.1:1/events"])
    history = history_of_log(compile_sql(sql, SCHEMA, key="card", event_time="at"))
    check_kept_log(Preflight(parsed), TOPIC, history, WindowSettings(on_short))


@pytest.mark.parametrize("policy", ["compact", "compact,delete"])
def test_a_compacted_topic_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], policy: str
) -> None:
    said = rf"127.0.0.1:1/events: its cleanup.policy is {policy}, .*set cleanup.policy=delete, .*--short_history warn "
    with pytest.raises(UserError, match=said):
        check(monkeypatch, {"cleanup.policy": policy})
    check(monkeypatch, {"cleanup.policy": policy}, on_short="warn")
    assert "features lack what was removed" in capsys.readouterr().err


def test_a_retention_that_is_too_short_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check(monkeypatch, {"cleanup.policy": "delete", "retention.ms": "3600000"})
    assert "its retention.ms is 3600000 (1 h), and windows are rebuilt from 2 h 15 min" in capsys.readouterr().err
    for settings in ({}, {"retention.ms": "-1"}, {"retention.ms": "86400000"}):
        check(monkeypatch, settings)
        check(monkeypatch, settings, BY_BOTH)  # windows by the shop are rebuilt from another topic
    assert not capsys.readouterr().err


def test_without_windows_any_topic_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    check(monkeypatch, {"cleanup.policy": "compact"}, "SELECT card, at, amount FROM events")
