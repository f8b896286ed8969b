"""The package as pip installs it: everything it needs is in it, and it works away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import beam_jobs

CHECKOUT = Path(beam_jobs.__file__).resolve().parent.parent
DEPENDENCIES = sysconfig.get_paths()["purelib"]

USE = """
import importlib, pkgutil
import beam_jobs, model, schemas, use_cases
from beam_jobs.use_case import load_use_case

checkout = {checkout!r}
for package in (beam_jobs, model, schemas, use_cases):
    assert not package.__file__.startswith(checkout), package.__file__
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
for name in ("car_sensor", "score", "alert", "dead_letter"):
    assert schemas.load(name)["type"] == "record"
assert "coolant_temp" in load_use_case("car_sensors").preprocessor().features
print("imported", beam_jobs.__version__)
"""


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with nothing but the wheel made from the sdist; the dependencies come by PYTHONPATH."""
    folder = tmp_path_factory.mktemp("install")
    # From a copy, because setuptools leaves build/ and egg-info in the folder it builds.
    source = folder / "source"
    files = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=CHECKOUT).split()
    for name in files:
        if (CHECKOUT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((CHECKOUT / name).read_bytes())
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source, cwd=folder)
    venv.create(folder / "venv", with_pip=False)
    (wheel,) = folder.glob("highbeam-*.whl")
    site = next((folder / "venv" / "lib").glob("python*/site-packages"))
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel, cwd=folder)
    return folder / "venv" / "bin" / "python"


def environment() -> dict[str, str]:
    # A folder on PYTHONPATH has its .pth files ignored: the editable install of the checkout is not seen.
    return {**os.environ, "PYTHONPATH": DEPENDENCIES, "PYTHONWARNINGS": "ignore"}


def test_every_module_imports_and_every_resource_is_there(installed: Path, tmp_path: Path) -> None:
    out = run(installed, "-c", USE.format(checkout=str(CHECKOUT)), cwd=tmp_path, env=environment())
    assert out.strip() == f"imported {beam_jobs.__version__}"


def test_commands_explain_themselves(installed: Path, tmp_path: Path) -> None:
    """In one process: each of its own would import the same for seconds."""
    commands = ["beam_jobs.score", "beam_jobs.redrive", "model.train", "model.registry", "schemas.registry"]
    commands += ["schemas.publish", "schemas.check"]
    code = (
        "import runpy, sys\n"
        f"for command in {commands}:\n"
        "    sys.argv = [command, '--help']\n"
        "    try:\n"
        "        runpy.run_module(command, run_name='__main__', alter_sys=True)\n"
        "    except SystemExit as ended:\n"
        "        print('\\fexit code', ended.code or 0, end='\\f')"
    )
    said = run(installed, "-c", code, cwd=tmp_path, env=environment()).split("\f")
    assert said[1::2] == ["exit code 0"] * len(commands)
    for command, explained in zip(commands, said[::2], strict=False):
        assert f"python -m {command}" in explained


def test_the_version_is_one(tmp_path: Path) -> None:
    assert f'VERSION = "{beam_jobs.__version__}"' in (CHECKOUT / "setup.py").read_text()


def test_help_does_not_import_what_takes_long() -> None:
    code = (
        "import contextlib, sys, runpy\n"
        "for job in ('score', 'archive', 'replay', 'redrive'):\n"
        "    sys.argv = [job, '--help']\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        runpy.run_module(f'beam_jobs.{job}', run_name='__main__')\n"
        "print({'tensorflow', 'sklearn', 'confluent_kafka.schema_registry'} & set(sys.modules))"
    )
    assert run(sys.executable, "-c", code, cwd=CHECKOUT).strip().endswith("set()")


def test_what_is_installed_can_be_packed_again_for_workers(installed: Path, tmp_path: Path) -> None:
    code = "import pathlib, beam_jobs.running.dataflow.packaging as p; print(p.package(pathlib.Path('.')))"
    wheel = tmp_path / run(installed, "-c", code, cwd=tmp_path, env=environment()).strip()
    [original] = installed.parent.parent.parent.glob("highbeam-*.whl")
    assert wheel.name == original.name
    with zipfile.ZipFile(wheel) as made, zipfile.ZipFile(original) as first:
        names = {name for name in first.namelist() if not name.endswith("/RECORD")}
        assert {name for name in made.namelist() if not name.endswith("/RECORD")} == names
        assert all(made.read(name) == first.read(name) for name in names)
    target = tmp_path / "again"
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, wheel, cwd=tmp_path)
    assert (target / "beam_jobs" / "score.py").exists()


def test_a_first_user_needs_no_checkout(installed: Path, tmp_path: Path) -> None:
    rows = "".join(f"{'ab'[n % 2]},2026-11-22T07:00:{n:02}Z,{n * n}\n" for n in range(9))
    (tmp_path / "readings.csv").write_text(f"pump,time,flow\n{rows}")
    code = (
        "from beam_jobs.__main__ import main\n"
        "import beam_jobs.broker, beam_jobs.watch\n"
        "main(['init', 'readings.csv', '--output', 'pumps'])\n"
        "main(['preview', '--use_case', 'pumps', '--input', 'readings.csv'])"
    )
    said = run(installed, "-c", code, cwd=tmp_path, env=environment())
    assert "key         pump: guessed" in said
    assert "passed      9, 0 filtered" in said
