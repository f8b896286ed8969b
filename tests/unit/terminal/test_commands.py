"""Every command explains itself, and a wrong command line is refused without waiting for Beam."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

import beam_jobs
from beam_jobs.__main__ import main
from beam_jobs.block import MAX_BLOCK_ROWS
from beam_jobs.errors import UserError
from beam_jobs.terminal import commands, options
from beam_jobs.terminal.commands import COMMANDS, GROUPS, JOBS, Command

ROOT = Path(beam_jobs.__file__).resolve().parent.parent
every_command = pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
FLAG = re.compile(r"(?<![\w-])--[a-z_]+")


@pytest.fixture(autouse=True)
def _own_argv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["highbeam"])


def highbeam(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which also says what it has imported of what takes long."""
    code = (
        "import atexit, sys\n"
        "late = {'apache_beam', 'tensorflow', 'sklearn', 'matplotlib'}\n"
        "atexit.register(lambda: print('imported', sorted(late & set(sys.modules)), file=sys.stderr))\n"
        "from beam_jobs.__main__ import console\nconsole()"
    )
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def help_of(command: Command) -> str:
    out = io.StringIO()
    with redirect_stdout(out), pytest.raises(SystemExit, match="0"):
        main([*command.name.split(), "--help"])
    return out.getvalue()


@every_command
def test_help_has_an_example_that_is_taken(command: Command) -> None:
    text = help_of(command)
    assert text.startswith(f"usage: highbeam {command.name} ")
    _, _, example = text.partition("Example:\n  ")
    words = example.split("\n\n")[0].replace("\\\n", " ").split()
    assert words[: 1 + len(command.name.split())] == ["highbeam", *command.name.split()]
    command.check(words[1 + len(command.name.split()) :])


@every_command
def test_the_module_is_the_same_command(command: Command) -> None:
    assert command.parser().prog == f"python -m {command.module}"
    assert callable(command.main())


def test_help_of_a_job_says_nothing_of_other_jobs() -> None:
    others = {"score": {"--output", "--raw", "--speed", "--reason"}, "archive": {"--model", "--alerts", "--kafka_io"}}
    others |= {
        "replay": {"--model", "--group_id", "--fetch"},
        "redrive": {"--use_case", "--alerts", "--max_latency_ms"},
    }
    for name, job in JOBS.items():
        assert others[name] & set(FLAG.findall(help_of(job))) == set()


def test_an_option_that_help_does_not_name_is_taken_as_before() -> None:
    parsed = options.parse(JOBS["replay"].parser(), ["--group_id=g", "--fetch=client"]).get_all_options()
    assert (parsed["group_id"], parsed["fetch"]) == ("g", "client")


def test_the_overview_names_each_command_in_its_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    for title, group in GROUPS.items():
        assert f"\n{title}:\n" in text
        assert all(f"\n  {name} " in text for name in group)
    assert main(["schemas"]) == 0
    assert "score" not in capsys.readouterr().out


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"highbeam {beam_jobs.__version__}\n"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["scroe"], r"no command 'scroe'; did you mean score\?"),
        (["schemas", "chek"], r"no command 'schemas chek'; did you mean schemas check\?"),
        (["score", "--use_cases", "x"], r"unknown option --use_cases; did you mean --use_case\?"),
        (["score", "--runer=PrismRunner"], r"unknown option --runer; did you mean --runner\?"),
        (["score", "--fetch", "fast"], "--fetch: invalid choice: 'fast'"),
        (["score", "--block_rows=many"], "--block_rows: invalid int value: 'many'"),
        (["archive", "--use_case=", "--input=x"], "missing --use_case, --output, --dead_letters; --help explains them"),
        (["redrive", "x"], "'x' is not an option"),
        (["train", "--epochs=many"], "--epochs: invalid int value"),
        (["models", "promote"], "required: DIR"),
        (["schemas", "publish", "--level"], "unrecognized arguments: --level"),
        (["demo", "--cars=many"], "--cars: invalid int value"),
    ],
)
def test_usage_errors(words: list[str], error: str) -> None:
    with pytest.raises(UserError, match=error):
        main(words)


def test_a_job_that_may_begin_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """With Beam's options, switches as templates give them, and empty ones."""
    begun: list[list[str]] = []
    monkeypatch.setattr("beam_jobs.replay.main", lambda argv: begun.append([*sys.argv, *argv]))
    words = ["--use_case=u", "--input=i", "--output=o", "--create_topics=true", "--runner", "PrismRunner", "--speed="]
    assert main(["replay", *words, "--streaming=false"]) == 0
    assert begun == [["highbeam replay", *words, "--streaming=false", *words, "--streaming=false"]]


@pytest.mark.parametrize(
    "words",
    [
        ["score", "--bogus"],
        ["score", "--help"],
        ["train", "--help"],
        ["demo", "--cars=x"],
        ["models", "x"],
        ["broker", "--port=x"],
        ["watch"],
        ["init", "x.csv"],
        ["preview", "--rows=x"],
    ],
)
def test_nothing_that_takes_long_is_imported_for_it(words: list[str]) -> None:
    """Beam alone takes longer than the 1.5 s that a usage error may take."""
    done = highbeam(*words)
    assert done.returncode == (0 if "--help" in words else 2), done.stderr
    assert done.stderr.splitlines()[-1] == "imported []"


def test_the_flags_of_beam_are_those_it_parses() -> None:
    own = {flag for job in JOBS.values() for flag in job.parser()._option_string_actions}
    assert set(options._every_option()._option_string_actions) - own <= commands._beam_flags()


def test_the_default_is_the_block_size() -> None:
    [action] = [a for a in JOBS["score"].parser()._actions if a.dest == "block_rows"]
    assert action.default == MAX_BLOCK_ROWS


def test_the_demo_is_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beam_jobs.__main__.__file__", str(tmp_path / "beam_jobs" / "__main__.py"))
    with pytest.raises(UserError, match="the demo is in Highbeam's repository"):
        main(["demo"])


@pytest.mark.parametrize(
    ("line", "wanted", "unwanted"),
    [
        ("highbeam s", {"score", "schemas"}, {"archive"}),
        ("highbeam schemas ", {"check", "docs", "publish", "registry"}, {"score"}),
        ("highbeam demo ", {"history"}, {"score", "demo"}),
        ("highbeam demo --c", {"--cars"}, {"history"}),
        ("highbeam watch --c", {"--count"}, {"--cars", "--port"}),
        ("highbeam score --al", {"--alerts"}, {"--alias", "--input"}),
        ("highbeam score --fetch ", {"auto", "client", "wire"}, {"--alerts"}),
        ("highbeam train --al", {"--alert_budget", "--alias"}, {"--alerts"}),
        ("highbeam models pr", {"promote"}, {"list"}),
    ],
)
def test_completion(line: str, wanted: set[str], unwanted: set[str], tmp_path: Path) -> None:
    """As a shell asks for it."""
    answer = tmp_path / "answer"
    env = {**os.environ, "_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
    done = highbeam(env={**env, "_ARGCOMPLETE_STDOUT_FILENAME": str(answer), "_ARGCOMPLETE_IFS": "\n"})
    found = {word.strip() for word in answer.read_text().splitlines()}
    assert wanted <= found, done.stderr
    assert unwanted & found == set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_code(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    code = capsys.readouterr().out
    assert "highbeam" in code
    assert ("complete --command highbeam" in code) is (shell == "fish")
