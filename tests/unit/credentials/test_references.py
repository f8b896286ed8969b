"""References to secrets; those of Secret Manager against a mock that speaks its protocol."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from beam_jobs.credentials import secret_manager
from beam_jobs.credentials.google_credentials import GoogleAwayError
from beam_jobs.credentials.references import is_reference, may_change, read_secret
from beam_jobs.errors import UserError
from tests.services.google import ACCOUNT, REFUSED, Answer, SecretManager, TokenServer

NAME = "projects/my-project/secrets/kafka_password/versions/3"
LATEST = "projects/my-project/secrets/kafka_password/versions/latest"
WHAT = "Kafka setting sasl.password"


def test_variables_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGHBEAM_TEST", "hunter2")
    assert read_secret("env:HIGHBEAM_TEST", WHAT) == "hunter2"
    (tmp_path / "secret").write_text("hunter2\n")
    assert read_secret(f"file:{tmp_path}/secret", WHAT) == "hunter2"
    assert read_secret(f"file://{tmp_path}/secret", WHAT) == "hunter2"


def test_a_file_without_an_end_is_no_secret() -> None:
    with pytest.raises(UserError, match=f"{WHAT}: /dev/zero is longer than a secret can be"):
        read_secret("file:/dev/zero", WHAT)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("env:A", True),
        ("file:/a", True),
        (f"secret://{NAME}", True),
        ("hunter2", False),
        ("env:", False),
        ("user:pass", False),
    ],
)
def test_what_is_a_reference(value: str, expected: bool) -> None:
    assert is_reference(value) == expected


@pytest.mark.parametrize(
    "wrong",
    [
        "secret:hunter2",
        "secret://hunter2",
        "secret:projects/p/secrets/s/versions/1",
        "secret://projects/p/secrets/hunter2",
        "secret://projects/p/secrets/hunter2/versions/",
        "secret://projects/p/secrets/s/versions/1/hunter2",
        "secret://projects/p/secrets/../versions/hunter2",
        "vault:hunter2",
    ],
)
def test_a_wrong_form_is_told_without_the_value(wrong: str) -> None:
    with pytest.raises(UserError, match=r"sasl\.password: not a reference .*secret://projects/P/") as raised:
        read_secret(wrong, WHAT)
    assert "hunter2" not in str(raised.value)


def test_only_a_number_stays_what_it_is() -> None:
    assert not may_change(f"secret://{NAME}")
    assert may_change(f"secret://{LATEST}")
    assert may_change("secret://projects/p/secrets/s/versions/current")
    assert not may_change("env:KEY")


def test_a_number_is_read_once_a_process(secret_server: SecretManager) -> None:
    secret_server.secrets[NAME] = b"hunter2\n"
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda _: read_secret(f"secret://{NAME}", WHAT), range(20))) == {"hunter2"}
    assert secret_server.asked == [NAME]


def test_an_alias_is_read_again_after_a_minute(secret_server: SecretManager, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr("beam_jobs.credentials.secret_manager.time.monotonic", lambda: now)
    secret_server.secrets[LATEST] = b"old"
    assert read_secret(f"secret://{LATEST}", WHAT) == "old"
    secret_server.secrets[LATEST] = b"new"
    assert read_secret(f"secret://{LATEST}", WHAT) == "old"
    now += secret_manager.ALIAS_S + 1
    assert read_secret(f"secret://{LATEST}", WHAT) == "new"


def test_an_outage_leaves_the_value_at_hand(
    secret_server: SecretManager, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secret_server.secrets[LATEST] = b"hunter2"
    assert read_secret(f"secret://{LATEST}", WHAT) == "hunter2"
    monkeypatch.setattr(secret_manager, "ALIAS_S", 0.0)
    monkeypatch.setattr(secret_manager, "_RETRY_S", 0.1)
    value, _ = secret_manager._cache[LATEST]
    secret_manager._cache[LATEST] = value, 0.0
    secret_server.secrets[LATEST] = (grpc.StatusCode.UNAVAILABLE, "try later")
    assert read_secret(f"secret://{LATEST}", WHAT) == "hunter2"
    assert "going on with the value read before" in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, f"no secret {NAME}; create it"),
        ((grpc.StatusCode.PERMISSION_DENIED, "denied"), r"no permission .*roles/secretmanager\.secretAccessor on proj"),
        ((grpc.StatusCode.UNAUTHENTICATED, "who?"), "refuses the Google credentials"),
        ((grpc.StatusCode.FAILED_PRECONDITION, "DISABLED state"), "disabled or destroyed; enable it"),
        ((grpc.StatusCode.INVALID_ARGUMENT, "no such form"), f"refuses {NAME} .no such form"),
        ((grpc.StatusCode.UNAVAILABLE, "try later"), r"does not answer \(try later\); check the network"),
        ((grpc.StatusCode.INTERNAL, "oops"), r"does not answer \(oops\)"),
        (b"\xff\xfe", "is not UTF-8 text"),
    ],
)
def test_what_goes_wrong_is_one_clear_line(
    secret_server: SecretManager, answer: Answer | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secret_manager, "_RETRY_S", 0.1)
    if answer is not None:
        secret_server.secrets[NAME] = answer
    with pytest.raises(UserError, match=said) as raised:
        read_secret(f"secret://{NAME}", WHAT)
    assert str(raised.value).startswith(f"{WHAT}: ")
    assert "\n" not in str(raised.value)


def test_a_blip_is_waited_out(secret_server: SecretManager) -> None:
    answers: list[Answer] = [(grpc.StatusCode.UNAVAILABLE, "try later"), b"hunter2"]

    class Answers(dict[str, Answer]):
        def get(self, name: str, default: object = None) -> Answer:  # type: ignore[override]
            return answers.pop(0)

    secret_server.secrets = Answers()
    assert read_secret(f"secret://{NAME}", WHAT) == "hunter2"
    assert len(secret_server.asked) == 2


def test_damage_on_the_way_is_noticed(secret_server: SecretManager) -> None:
    secret_server.secrets[NAME] = b"hunter2"
    secret_server.damage = lambda data: data[:-1]
    with pytest.raises(GoogleAwayError, match="damaged on its way"):
        read_secret(f"secret://{NAME}", WHAT)


@pytest.mark.usefixtures("no_credentials")
def test_no_credentials_are_missed_at_once() -> None:
    start = time.monotonic()
    with pytest.raises(UserError, match="no Google credentials; run gcloud auth application-default login"):
        read_secret(f"secret://{NAME}", WHAT)
    assert time.monotonic() - start < 15  # google-auth alone would look around for 20 s


def test_the_client_logs_in_with_the_default_credentials(tokens: TokenServer) -> None:
    tokens.issue("ya29.token")
    with secret_manager._client(WHAT) as client:
        credentials = client.transport._credentials
        assert credentials.service_account_email == ACCOUNT
        assert client.api_endpoint == "secretmanager.googleapis.com"
    assert tokens.asked == 1  # credentials that Google refuses are noticed before the service is asked


def test_refused_credentials(tokens: TokenServer) -> None:
    tokens.answer = (400, REFUSED)
    with pytest.raises(UserError, match=r"Google refuses the credentials .*Invalid JWT") as raised:
        read_secret(f"secret://{NAME}", WHAT)
    assert not isinstance(raised.value, GoogleAwayError)


def test_unreadable_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key.json").write_text("{}")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    with pytest.raises(UserError, match=r"Google credentials can't be read .*key\.json") as raised:
        read_secret(f"secret://{NAME}", WHAT)
    assert "\n" not in str(raised.value)
