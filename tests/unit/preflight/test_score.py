"""What score refuses before a broker is asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from beam_jobs.errors import UserError
from beam_jobs.io.webhook import WebhookSettings
from beam_jobs.preflight.reach import Preflight
from beam_jobs.preflight.score import alert_budget, check_fingerprint, score_job, webhook
from beam_jobs.steps.alerting.budget import DAY_MS, AlertBudget
from beam_jobs.terminal import options
from beam_jobs.terminal.commands import JOBS
from beam_jobs.use_case import load_use_case

NOWHERE = "kafka://127.0.0.1:1"


def refused(**changes: str | None) -> str:
    given: dict[str, str | None] = {
        "use_case": "car_sensors",
        "input": f"{NOWHERE}/events",
        "model": "models",
        "alerts": f"{NOWHERE}/alerts",
        "dead_letters": f"{NOWHERE}/dead",
    }
    words = [f"--{name}={value}" for name, value in (given | changes).items() if value is not None]
    with pytest.raises(UserError) as error:
        score_job(options.parse(JOBS["score"].parser(), words))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_all_that_is_missing_is_named_at_once() -> None:
    assert refused(model=None, alerts="") == "missing --model, --alerts; --help explains them"


@pytest.mark.parametrize("share", ["-0.1", "1.5"])
def test_a_share_is_between_0_and_1(share: str) -> None:
    assert refused(max_dead_letter_rate=share) == f"--max_dead_letter_rate {share}: a share between 0 and 1"


def test_a_use_case_and_a_model_are_there(tmp_path: Path) -> None:
    assert "use case 'cars' is neither one that ships" in refused(use_case="cars")
    assert str(tmp_path / "none") in refused(model=str(tmp_path / "none"))


def test_a_model_of_another_preprocessing_is_refused() -> None:
    preprocessor = load_use_case("car_sensors").preprocessor()
    model: Any = SimpleNamespace(name="cars", version="v1", preprocessing_fingerprint=preprocessor.fingerprint)
    check_fingerprint(model, preprocessor)
    model.preprocessing_fingerprint = "0" * 64
    with pytest.raises(UserError, match=r"model cars v1 was trained on preprocessing 000000000000, .* restore the old"):
        check_fingerprint(model, preprocessor)


def test_a_model_of_another_lateness_is_refused_where_the_sql_has_windows() -> None:
    plain = load_use_case("car_sensors")
    later = {"window_lateness": "1 hour"}
    assert plain.with_lateness(later).preprocessor().fingerprint == plain.preprocessor().fingerprint
    window = "avg(speed) OVER (PARTITION BY car_id ORDER BY event_time RANGE INTERVAL 5 MINUTES PRECEDING)"
    windowed = replace(plain, sql=f"SELECT car_id, event_time, {window} AS mean FROM events")
    fingerprint = windowed.preprocessor().fingerprint
    model: Any = SimpleNamespace(name="cars", version="v1", preprocessing_fingerprint=fingerprint)
    check_fingerprint(model, windowed.with_lateness({"window_lateness": "10 minutes"}).preprocessor())
    with pytest.raises(UserError, match=r"window_lateness, window_delay, window_clock_skew.* or restore the old ones"):
        check_fingerprint(model, windowed.with_lateness(later).preprocessor())


def test_what_dead_letters_hold_and_their_key_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(dead_letter_payload="encrypt").startswith("--dead_letter_payload encrypt needs a key; name it with")
    assert refused(dead_letter_key="env:K").startswith(
        "--dead_letter_key is for --dead_letter_payload encrypt; add that"
    )
    lost = refused(dead_letter_payload="encrypt", dead_letter_key="env:K")
    assert lost == "--dead_letter_key: environment variable K is not set; export it on every worker"
    monkeypatch.setenv("K", "hunter2")
    assert "not 64 hexadecimal digits a line" in refused(dead_letter_payload="encrypt", dead_letter_key="env:K")
    remote = {"runner": "DataflowRunner", "dead_letter_payload": "encrypt", "dead_letter_key": "env:K"}
    assert "--dead_letter_key env:K: workers of Beam's image do not have it" in refused(**remote)


def test_an_alert_budget_is_one_that_can_be_kept() -> None:
    assert "--alert_budget 1/week: expected N/RECORDS" in refused(alert_budget="1/week")
    assert "1 in 10 records at most" in refused(alert_budget="1/2")


def budget_of(*words: str) -> AlertBudget | None:
    return alert_budget(options.parse(JOBS["score"].parser(), list(words)))


def test_processes_share_a_budget_by_time() -> None:
    assert budget_of() is None
    assert budget_of("--alert_budget=100/day", "--direct_num_workers=4") == AlertBudget("time", 100, 4 * DAY_MS)
    assert budget_of("--alert_budget=1/1000", "--direct_num_workers=4") == AlertBudget.parse("1/1000")
    workers = ("--runner=DataflowRunner", "--project=my-project", "--region=europe-west3", "--temp_location=gs://b/t")
    assert budget_of("--alert_budget=1/1000", *workers) == AlertBudget.parse("1/1000")
    with pytest.raises(UserError, match=r"--alert_budget 100/day: workers come and go there"):
        budget_of("--alert_budget=100/day", *workers)


def hook_of(*words: str) -> WebhookSettings | None:
    return webhook(Preflight(options.parse(JOBS["score"].parser(), list(words))))


def test_a_webhook_and_its_secret_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    url, secret = "--alert_webhook=https://hooks.example.com/a", "--alert_webhook_secret=env:HOOK_SECRET"
    assert hook_of() is None
    with pytest.raises(UserError, match=r"--alert_webhook needs --alert_webhook_secret"):
        hook_of(url)
    with pytest.raises(UserError, match=r"--alert_webhook_secret is for --alert_webhook"):
        hook_of(secret)
    with pytest.raises(UserError, match=r"environment variable HOOK_SECRET is not set"):
        hook_of(url, secret)
    with pytest.raises(UserError, match=r"not a reference to a secret"):
        hook_of(url, "--alert_webhook_secret=hunter2")
    monkeypatch.setenv("HOOK_SECRET", "a secret that is long enough")
    found = hook_of(url, secret)
    assert found is not None
    assert (found.url, found.secret) == ("https://hooks.example.com/a", "env:HOOK_SECRET")
    with pytest.raises(UserError, match=r"alerts leave this machine encrypted"):
        hook_of("--alert_webhook=http://hooks.example.com/a", secret)
    workers = ("--runner=DataflowRunner", "--project=my-project", "--region=europe-west3", "--temp_location=gs://b/t")
    with pytest.raises(UserError, match=r"workers of Beam's image do not have it"):
        hook_of(url, secret, *workers)
