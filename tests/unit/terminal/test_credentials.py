"""No command takes a password in an address: not for an option of its own, not for one of Beam's; and none shows it."""

from __future__ import annotations

import argparse

import pytest

from beam_jobs.errors import UserError
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
