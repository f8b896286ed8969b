import json
import signal
import subprocess
import sys
from collections.abc import Sequence

import pytest

from beam_jobs.errors import UserError
from beam_jobs.terminal.cli import Parser, find_user_error, run


def status_of(error: BaseException | None, argv: list[str]) -> int | str | None:
    def main(args: object) -> int:
        if error:
            raise error
        return 0

    with pytest.raises(SystemExit) as end:
        run(main, argv)
    return end.value.code


def test_user_error_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(UserError("topic x is missing; create it"), []) == 2
    assert capsys.readouterr().err == "error: topic x is missing; create it\n"


def test_user_error_inside_a_runner_error_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    wrapped = RuntimeError("bundle failed")
    wrapped.__cause__ = UserError("the reason")
    assert str(find_user_error(wrapped)) == "the reason"
    assert status_of(wrapped, []) == 2
    assert capsys.readouterr().err == "error: the reason\n"


def test_user_error_that_another_process_tells_of_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    text = "bundle 7 failed:Traceback\n  File x\nbeam_jobs.errors.UserError: mend it [while running 'A/B']"
    assert status_of(RuntimeError(text), []) == 2
    assert capsys.readouterr().err == "error: mend it\n"


def test_other_errors_are_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(ValueError("a\nb"), []) == 1
    assert capsys.readouterr().err == "error: ValueError: a b (--verbose shows the stack trace)\n"


def test_verbose_adds_the_stack_trace(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(ValueError("x"), ["--verbose"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_success_and_ctrl_c() -> None:
    assert status_of(None, []) == 0
    assert status_of(KeyboardInterrupt(), []) == 130


@pytest.mark.parametrize("lines", [1, 100_000])
def test_what_nobody_reads_ends_a_command_without_a_word(lines: int) -> None:
    code = f"from beam_jobs.terminal.cli import run\nrun(lambda _: [print('x' * 20) for _ in range({lines})] and 0)"
    shell = f'"{sys.executable}" -c "$0" | true; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", shell, code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_connection_that_broke_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(BrokenPipeError(32, "Broken pipe"), []) == 1
    assert "BrokenPipeError" in capsys.readouterr().err


def test_an_empty_value_is_none() -> None:
    parser = Parser()
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--fast", action="store_true")
    for argv in (["--epochs="], ["--epochs", ""], ["--epochs", " ", "--fast="]):
        assert vars(parser.parse_args(argv)) == {"epochs": 3, "fast": False}


def test_what_can_t_be_parsed_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: Sequence[str]) -> int:
        parser = Parser()
        parser.add_argument("--epochs", type=int)
        parser.add_argument("--mapping", type=json.loads)
        return int(parser.parse_args(argv).epochs)

    for argv, error in (
        (["--epoch", "3"], "unrecognized arguments: --epoch 3"),
        (["--epochs", "x"], "argument --epochs: invalid int value: 'x'"),
        (["--mapping", "old:new"], "argument --mapping: no JSON: 'old:new'"),
    ):
        with pytest.raises(SystemExit) as end:
            run(main, argv)
        assert end.value.code == 2
        assert capsys.readouterr().err == f"error: {error}; --help lists the options\n"


@pytest.mark.parametrize("command", ["beam_jobs.score", pytest.param("model.train", marks=pytest.mark.nightly)])
def test_ctrl_c_while_it_is_imported_ends_a_command_without_a_trace(command: str) -> None:
    job = subprocess.Popen([sys.executable, "-X", "importtime", "-m", command], stderr=subprocess.PIPE, text=True)
    assert job.stderr is not None
    for line in job.stderr:
        if line.endswith(" numpy\n"):
            break
    job.send_signal(signal.SIGINT)
    said = job.stderr.read()
    job.stderr.close()
    assert job.wait(30) == -signal.SIGINT
    assert "Traceback" not in said
