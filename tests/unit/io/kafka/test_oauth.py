"""Tokens of Google's credentials, in the form that Managed Service for Apache Kafka takes."""

from __future__ import annotations

import base64
import json
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from beam_jobs.credentials.google_credentials import GoogleAwayError
from beam_jobs.errors import UserError
from beam_jobs.io.kafka.oauth import GOOGLE_TOKENS, GoogleTokens, google_token
from tests.services.google import ACCOUNT, REFUSED, TokenServer


def decoded(part: str) -> str:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)).decode()


def test_the_form_of_a_token(tokens: TokenServer) -> None:
    tokens.issue("ya29.access~token", 1800)
    token, expires = GOOGLE_TOKENS("")
    header, claims, access = (decoded(part) for part in token.split("."))
    assert json.loads(header) == {"typ": "JWT", "alg": "GOOG_OAUTH2_TOKEN"}
    said = json.loads(claims)
    assert said == {"exp": int(expires), "iat": said["iat"], "iss": "Google", "scope": "kafka", "sub": ACCOUNT}
    assert access == "ya29.access~token"
    assert "=" not in token
    assert abs(expires - time.time() - 1800) < 60
    assert GOOGLE_TOKENS.token()[0].split(".")[2] == token.split(".")[2]
    assert tokens.asked == 1


def test_a_token_about_to_expire_is_replaced(tokens: TokenServer) -> None:
    tokens.issue("first", 60)  # good for less than the minutes that google-auth keeps in reserve
    first, _ = GOOGLE_TOKENS.token()
    tokens.issue("second")
    assert decoded(GOOGLE_TOKENS.token()[0].split(".")[2]) == "second"
    assert decoded(first.split(".")[2]) == "first"


def test_while_nobody_answers_a_token_serves_to_its_end(tokens: TokenServer) -> None:
    tokens.issue("first", 60)
    GOOGLE_TOKENS.token()
    GOOGLE_TOKENS._credentials._token_uri = "http://127.0.0.1:1/token"  # nobody listens there
    assert decoded(GOOGLE_TOKENS.token()[0].split(".")[2]) == "first"
    GOOGLE_TOKENS._credentials.expiry = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=1)
    with pytest.raises(GoogleAwayError, match="no token for the Google credentials"):
        GOOGLE_TOKENS.token()


def test_for_the_client_nothing_is_raised_and_trouble_is_told_once(
    tokens: TokenServer, caplog: pytest.LogCaptureFixture
) -> None:
    source = GoogleTokens()
    tokens.answer = (400, REFUSED)
    assert source("") == ("", 0.0)
    assert source("") == ("", 0.0)
    tokens.issue("good")
    assert source("")[0]
    assert [record.message for record in caplog.records if "refuses the credentials" in record.message] == [
        record.message for record in caplog.records
    ][:1]


def of_a_person(**what: Any) -> SimpleNamespace:
    return SimpleNamespace(token="ya29", expiry=datetime(2030, 1, 1), **what)


def test_a_person_is_known_by_the_token_of_identity() -> None:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode() for part in ({}, {"email": "a@b.c"}, {})]
    token, expires = google_token(of_a_person(id_token=".".join(parts)))
    assert json.loads(decoded(token.split(".")[1]))["sub"] == "a@b.c"
    assert expires == datetime(2030, 1, 1, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("id_token", [None, "e30.e30.e30"])
def test_a_person_who_is_not_known(id_token: str | None) -> None:
    with pytest.raises(UserError, match="don't say whose they are; use a service account's"):
        google_token(of_a_person(id_token=id_token))
