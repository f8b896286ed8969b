"""The settings of a Schema Registry: logins by reference, what is refused, what travels."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

import schemas
from beam_jobs.errors import UserError
from schemas import client as client_module
from schemas.settings import registry_settings
from schemas.writers import for_registry
from tests.unit.schemas.fake_registry import Fake

CAR = schemas.load("car_sensor")
OTHER = {"type": "record", "name": "Other", "fields": []}
CLOSED = "http://127.0.0.1:9"  # nothing listens on the discard port


def test_basic_and_bearer_auth_by_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def answer(headers: Any) -> tuple[int, bytes]:
        seen.append(headers["Authorization"])
        return 200, b'["AVRO"]'

    token = tmp_path / "token"
    token.write_text("t0ken\n")
    monkeypatch.setenv("REGISTRY_LOGIN", "user:pa:ss")
    monkeypatch.setenv("REGISTRY_PASSWORD", "pa:ss")
    with Fake(answer) as url:
        for config in (
            {"schema.registry.basic.auth.user.info": "env:REGISTRY_LOGIN"},
            {"basic.auth.user.info": "user:env:REGISTRY_PASSWORD", "basic.auth.credentials.source": "USER_INFO"},
            {"bearer.auth.token": f"file:{token}"},
        ):
            made = for_registry(url, CAR, config)
            made.check()
            travelled = pickle.dumps(made)
            assert b"pa:ss" not in travelled + repr(made).encode() + made.describe().encode()
            assert b"t0ken" not in travelled
            pickle.loads(travelled).check()
    assert seen == ["Basic dXNlcjpwYTpzcw=="] * 4 + ["Bearer t0ken"] * 2


def test_a_rotated_secret_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("user:old")

    def answer(headers: Any) -> tuple[int, bytes]:
        if headers["Authorization"] == "Basic dXNlcjpuZXc=":  # user:new
            return 200, json.dumps({"schema": json.dumps(OTHER)}).encode()
        return 401, b"{}"

    monkeypatch.setattr(client_module, "_pause", lambda seconds: secret.write_text("user:new"))
    with Fake(answer) as url:
        source = for_registry(url, CAR, {"basic.auth.user.info": f"file:{secret}"})
        assert source.writer_schema(3) == OTHER


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"basic.auth.user.info": "user:pass"}, "in clear"),
        ({"schema.registry.ssl.key.password": "pass"}, "in clear"),
        ({"bearer.auth.token": "abc"}, "in clear"),
        ({"basic.auth.credentials.source": "SASL_INHERIT"}, "USER_INFO"),
        ({"schema.registry.ssl.truststore.location": "x.jks"}, "PEM"),
        ({"schema.registry.sll.ca.location": "x"}, "not a property"),
    ],
)
def test_wrong_properties(config: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        for_registry(CLOSED, CAR, config)
    assert "pass" not in str(caught.value).replace("ssl.key.password", "")


def test_passwords_in_the_url_are_refused() -> None:
    with pytest.raises(UserError, match="password in its URL") as caught:
        for_registry("http://user:hunter2@host:8081", CAR)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"basic.auth.user.info": "env:NO_SUCH_VARIABLE"}, "NO_SUCH_VARIABLE is not set"),
        ({"basic.auth.user.info": "file:/no/such/file"}, "cannot read /no/such/file"),
        ({"schema.registry.ssl.ca.location": "/no/such/ca.pem"}, "mend the schema.registry"),
    ],
)
def test_what_is_missing_on_a_worker_is_said_there(config: dict[str, str], message: str) -> None:
    source = for_registry(CLOSED, CAR, config)  # the machine that launches a job need not have it
    with pytest.raises(UserError, match=message):
        source.check()
    with pytest.raises(UserError, match=message):
        source.writer_schema(1)


def test_kafkas_properties_are_left_alone() -> None:
    config = {
        "bootstrap.servers": "b:9092",
        "ssl.ca.location": "kafka.pem",
        "sasl.password": "x",
        "schema.registry.url": "http://r:8081",
        "schema.registry.ssl.ca.location": "registry.pem",
    }
    assert registry_settings(config) == {"url": "http://r:8081", "ssl.ca.location": "registry.pem"}
    assert for_registry(None, CAR, config).describe() == "schemas of http://r:8081"
    assert for_registry("http://other", CAR, config).describe() == "schemas of http://other"
