"""What an error says holds no credentials, whatever address went into it."""

from __future__ import annotations

import pickle

import pytest

from beam_jobs.errors import UnreachableError, UserError, one_line, without_credentials

WITH = [
    "kafka://user:hunter2@host:9092/t",
    "kafka://a:9092,user:hunter2@b:9092/t",
    "kafka:/user:hunter2@host/t",
    "kafka//user:hunter2@host/t",
    "user:hunter2@host:9092/t",
    "http://user:hun@ter2/hunter2@host",
    "https://hunter2@host/",
    "ftp://:hunter2@host",
    "'https://u:hunter2@host': no",
]
WITHOUT = [
    "gs://bucket/models@champion",
    "gs://bucket@champion",
    "models/cars@20261129T010642Z-b7a620",
    "http://host:8081/subjects/a@b",
    "kafka://a:9092,b:9093/t",
    "file:/keys/me@home",
    "file:///keys/me@home/x",
    "env:KEY@x",
    "at 10:30:22 somebody said",
]


@pytest.mark.parametrize("text", WITH)
def test_credentials_are_left_out(text: str) -> None:
    for said in (without_credentials(text), str(UserError(f"address {text}: no")), one_line(f"a {text}\n")):
        assert "hunter2" not in said
        assert "…@" in said
    again = pickle.loads(pickle.dumps(UnreachableError(text)))
    assert type(again) is UnreachableError
    assert "hunter2" not in str(again)


@pytest.mark.parametrize("text", WITHOUT)
def test_what_is_no_credential_stays(text: str) -> None:
    assert without_credentials(text) == text
