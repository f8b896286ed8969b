"""highbeam privacy decrypt: for a reason, in the log, and not otherwise."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

import use_cases
from beam_jobs.errors import UserError
from beam_jobs.preprocessing import pii
from beam_jobs.preprocessing.pii import Protected
from beam_jobs.privacy import decrypt
from beam_jobs.use_case import load_use_case

NAMES = ["Erika Mustermann", "Jürgen\tGroß"]


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "cars"
    shutil.copytree(Path(use_cases.__file__).parent / "car_sensors", folder)
    settings = yaml.safe_load((folder / "use_case.yaml").read_text())
    settings["pii"] = {"keys": {"new": "env:HIGHBEAM_TEST_NEW_KEY", "old": "env:HIGHBEAM_TEST_OLD_KEY"}}
    (folder / "use_case.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    monkeypatch.setenv("HIGHBEAM_TEST_NEW_KEY", "n" * 32)
    monkeypatch.setenv("HIGHBEAM_TEST_OLD_KEY", "o" * 32)
    return str(folder)


def sealed(case: str, field: str = "driver_name", key_id: str = "new") -> list[str]:
    found: list[str] = Protected(field, "encrypt", key_id).of(pa.array(NAMES), load_use_case(case).pii).to_pylist()
    return found


def asked(case: str, log: Path, *values: str, reason: str = "claim 17") -> int:
    options = ["--use_case", case, "--field", "driver_name", "--reason", reason, "--audit_log", str(log)]
    return decrypt.main([*values, *options])


def test_texts_for_a_line_in_the_log(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, values = tmp_path / "audit.jsonl", [*sealed(case), *sealed(case, key_id="old")]
    assert asked(case, log, *values) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert shown == [{"value": value, "text": text} for value, text in zip(values, NAMES * 2, strict=True)]
    assert asked(case, log, sealed(case, "vin")[0], "nonsense", reason="claim\n18") == 1
    assert "2 of 2 values are not driver_name" in capsys.readouterr().err
    first, second = (json.loads(line) for line in log.read_text().splitlines())
    assert first.items() >= {"field": "driver_name", "reason": "claim 17", "values": 4, "decrypted": 4}.items()
    assert first.items() >= {"use_case": "cars", "keys": ["new", "old"]}.items()
    assert all(first[name] for name in ("at", "user", "host"))
    assert second.items() >= {"reason": "claim\n18", "values": 2, "decrypted": 0, "keys": []}.items()
    assert log.stat().st_mode & 0o777 == 0o600
    assert not any(name in log.read_text() for name in (*NAMES, "Mustermann"))


def test_values_of_stdin(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(sealed(case))))
    assert asked(case, tmp_path / "log") == 0
    assert [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()] == NAMES


@pytest.mark.parametrize("log", ["/dev/null", "/nowhere/log", "."])
def test_nothing_is_shown_that_is_not_logged(log: str, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="--audit_log"):
        asked(case, Path(log), *sealed(case))
    assert capsys.readouterr().out == ""


def test_not_without_a_reason_or_a_key(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = sealed(case)
    for reason in ("", " "):
        with pytest.raises(UserError, match="required: --reason"):
            asked(case, tmp_path / "log", *values, reason=reason)
    with pytest.raises(UserError, match="car_sensors has no"):
        asked("car_sensors", tmp_path / "log", *values)
    monkeypatch.setenv("HIGHBEAM_TEST_NEW_KEY", "m" * 32)
    pii._read.cache_clear()
    assert asked(case, tmp_path / "log", *values) == 1
    assert all(json.loads(line)["text"] is None for line in capsys.readouterr().out.splitlines())
