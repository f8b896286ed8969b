"""docs/options.md says what the options are, and its examples are taken."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import pytest

from beam_jobs.terminal import reference
from beam_jobs.terminal.commands import Command
from beam_jobs.terminal.reference import COMMANDS, PAGE, example, main, options_of, page

OPTIONS = [
    pytest.param(command, action, id=f"{command.name} {' '.join(action.option_strings) or action.dest}")
    for command in COMMANDS
    for _, actions in options_of(command.parser())
    for action in actions
]


def test_the_page_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, "run python -m beam_jobs.terminal.reference"


@pytest.mark.parametrize(("command", "action"), OPTIONS)
def test_every_example_is_taken(command: Command, action: argparse.Action) -> None:
    """Its option gets another value than its default."""
    parser = command.parser()
    for other in parser._actions:
        other.required = False
    if not action.option_strings:
        return
    shown = example(command, action)
    others = [command.example_of(other) or "MODEL" for other in parser._actions if not other.option_strings]
    parsed = vars(parser.parse_args([*shlex.split(shown), *others]))
    assert parsed[action.dest] not in (action.default, None)
    assert f"`{shown}`" in page()


def test_what_a_row_says() -> None:
    lines = page().splitlines()
    sections = {line.removeprefix("## "): n for n, line in enumerate(lines) if line.startswith("## ")}
    begin = ["broker", "init", "preview", "watch", "feedback"]
    assert list(sections) == ["score", "archive", "replay", "redrive", *begin, "model.train", "model.threshold"]
    score, archive = "\n".join(lines[: sections["archive"]]), "\n".join(lines[sections["archive"] : sections["replay"]])
    assert "| `--alerts URI` | text | required | `--alerts kafka://localhost:9092/alerts` | topic for alerts |" in score
    assert "--alerts" not in archive
    assert "| `--file_format` | `avro`, `parquet` | `avro` | `--file_format parquet` |  |" in archive
    assert "| `--max_file_mb MB` | number | `128` | `--max_file_mb 64` | a file this large is finished |" in archive
    assert "| `--data PATH` | text | required | `--data archive/car_sensors` |" in "\n".join(lines)


def test_a_page_that_is_behind_is_told_and_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reference, "PAGE", tmp_path / "options.md")
    (tmp_path / "options.md").write_text(PAGE.read_text().replace("--alerts URI", "--alarms URI"))
    assert main(["--check"]) == 1
    assert "run python -m beam_jobs.terminal.reference" in capsys.readouterr().out
    assert main([]) == 0
    assert (tmp_path / "options.md").read_text() == PAGE.read_text()
