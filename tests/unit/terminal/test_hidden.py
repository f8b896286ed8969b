"""One's own model.py, schemas/ or use_cases.py hides nothing from highbeam; python -m says what hides what."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import beam_jobs
from demo.past import environment

HOME = str(Path(beam_jobs.__file__).parents[1])
RUNS = "print('MINE IS RUN')\n"
CONSOLE = "import sys; from beam_jobs.__main__ import console; console()"  # as the installed script does


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where somebody has their own work."""
    (tmp_path / "model.py").write_text(RUNS)
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "__init__.py").write_text(RUNS)
    (tmp_path / "use_cases.py").write_text(RUNS)
    return tmp_path


def start(folder: Path, *words: str, path: str = HOME, safe: bool = False) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": path, **({"PYTHONSAFEPATH": "1"} if safe else {})}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    ("hides", "module"),
    [("model.py", "beam_jobs.score"), ("schemas", "beam_jobs"), ("use_cases.py", "beam_jobs.archive")],
)
def test_python_m_says_what_hides_what(folder: Path, hides: str, module: str) -> None:
    for other in {"model.py", "use_cases.py"} - {hides}:
        (folder / other).unlink()
    if hides != "schemas":
        (folder / "schemas" / "__init__.py").unlink()  # what is no package hides none
    done = start(folder, "-m", module, "--help")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"{hides}" in line
    assert f"hides Highbeam's package {hides.removesuffix('.py')}; start in another folder" in line
    assert "MINE IS RUN" not in done.stdout


@pytest.mark.parametrize("hides", ["numpy.py", "logging.py", "pyarrow/__init__.py"])
def test_a_package_of_others_that_is_hidden_is_named(tmp_path: Path, hides: str) -> None:
    (tmp_path / hides).parent.mkdir(exist_ok=True)
    (tmp_path / hides).write_text("mine = 1\n")
    done = start(tmp_path, "-m", "beam_jobs.score", "--help")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    name = hides.removesuffix("/__init__.py").removesuffix(".py")
    assert f"hides the package {name}; start in another folder" in line


def test_what_fails_for_another_reason_keeps_its_stack_trace(tmp_path: Path) -> None:
    (tmp_path / "numbers_of_mine.py").write_text("raise ValueError('mine')\n")
    code = "import sys\nfrom beam_jobs.terminal.hidden import refuse_hidden\nrefuse_hidden()\nimport numbers_of_mine\n"
    done = start(tmp_path, "-c", code)
    assert "Traceback" in done.stderr
    assert "hides" not in done.stderr


def test_training_says_so_too(folder: Path) -> None:
    (folder / "model.py").unlink()
    done = start(folder, "-m", "model.train", "--use_case", "car_sensors", "--data", "x", "--registry", "y")
    assert "hides Highbeam's package schemas" in done.stderr
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["score", "--help"], "--model_key"),
        pytest.param(
            ["train", "--use_case", "nobody", "--data", "x", "--registry", "y"],
            "use case 'nobody'",
            marks=pytest.mark.nightly,
        ),
        (["models", "list", "nowhere"], "nowhere: no such folder"),
        (["schemas", "compatibility", "--help"], "earlier.avsc"),
        pytest.param(["redrive", "--input", "kafka://127.0.0.1:1/t"], "missing --output", marks=pytest.mark.nightly),
    ],
)
def test_highbeam_is_immune(folder: Path, words: list[str], said: str) -> None:
    path = f".{os.pathsep}{HOME}" if words[0] in ("score", "models") else HOME
    done = start(folder, "-c", CONSOLE, *words, path=path, safe=True)
    assert said in done.stdout + done.stderr
    assert "MINE IS RUN" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_workers_of_a_job_are_immune(folder: Path) -> None:
    """Processes that multiprocessing starts get the parent's path, not the folder they are started in."""
    code = (
        "from functools import partial\n"
        "from beam_jobs.terminal.hidden import look_here_first\nlook_here_first()\n"
        "from beam_jobs.running.workers import Workers\nfrom model.registry import versions\n"
        "if __name__ == '__main__':\n"
        "    with Workers(2) as workers:\n"
        "        workers.start([partial(versions, '.')])\n        workers.join()\n    print('DONE')\n"
    )
    (folder / "job_script.py").write_text(code)
    done = start(folder, "job_script.py", path=f".{os.pathsep}{HOME}", safe=True)
    assert done.stdout == "DONE\n", done.stderr


def test_commands_of_the_demo_are_immune(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", ".")
    command = [sys.executable, "-m", "model.train", "--help"]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert "--registry" in done.stdout
    assert "MINE IS RUN" not in done.stdout
