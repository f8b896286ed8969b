"""No command takes a password in an address, its own options or Beam's; and what an error says holds none."""

from __future__ import annotations

import argparse
import pickle

import pytest

from beam_jobs.errors import UnreachableError, UserError, one_line, without_credentials
from beam_jobs.terminal import options
from beam_jobs.terminal.commands import COMMANDS, JOBS, Command

TAKES = [
    (command, action)
    for command in COMMANDS.values()
    for action in command.parser()._actions
    if action.option_strings and action.nargs != 0 and not action.choices and action.type is None
]


@pytest.mark.parametrize(("command", "action"), TAKES, ids=lambda x: getattr(x, "dest", None) or getattr(x, "name", ""))
def test_an_option_with_a_password_in_its_address(command: Command, action: argparse.Action) -> None:
    flag = action.option_strings[-1]
    for value in ("kafka://me:hunter2@host:9092/t", "https://hunter2@host", "me:hunter2@host:9092/t"):
        for words in ([flag, value], [f"{flag}={value}"]):
            with pytest.raises(UserError, match=f"{flag} has a password in its URL: credentials do not belong") as told:
                command.check(words)
            assert "hunter2" not in str(told.value)


def test_an_option_of_beams(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--flink_master has a password") as told:
        options.parse(JOBS["redrive"].parser(), ["--flink_master", "http://me:hunter2@host:8081"])
    assert "hunter2" not in str(told.value)


def test_an_argument_that_is_no_option() -> None:
    with pytest.raises(UserError, match="an address has a password"):
        COMMANDS["watch"].check(["kafka://me:hunter2@host:9092/t"])


def test_a_folder_with_an_at_sign_is_none() -> None:
    for value in ("gs://bucket/models@champion", "me@home/models@champion", "file:///home/me@home/models"):
        COMMANDS["threshold"].check([value, "--alert_budget", "0.1"])


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
