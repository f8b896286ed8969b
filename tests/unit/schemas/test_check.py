"""``python -m schemas.check`` on schemas that are really broken, in real git repositories."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import schemas
from beam_jobs.errors import UserError
from schemas import golden
from schemas.check import main

HERE = Path(schemas.__file__).parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped schemas and their golden data, in no git repository."""
    copy = tmp_path / "checkout" / "schemas"
    copy.mkdir(parents=True)
    for path in HERE.glob("*.avsc"):
        shutil.copy(path, copy)
    shutil.copytree(HERE / "golden", copy / "golden")
    return copy


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def commit(folder: Path, tag: str | None = None) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "change")
    if tag:
        git(folder, "tag", tag)


@pytest.fixture
def released(folder: Path) -> Path:
    """The same in a git repository with a release, and without golden data."""
    shutil.rmtree(folder / "golden")
    git(folder.parent, "init", "--quiet")
    commit(folder, "v0.9.0")
    commit(folder, "v0.10.0")
    commit(folder, "v0.11.0-rc1")
    commit(folder)
    return folder


def change(folder: Path, schema_name: str, field: str, /, **changes: Any) -> None:
    """Changes a field of a schema file; ``...`` takes a property away, name=... the whole field."""
    path = folder / f"{schema_name}.avsc"
    schema = json.loads(path.read_text())
    entry = next(f for f in schema["fields"] if f["name"] == field)
    entry.update(changes)
    for key in [key for key, value in entry.items() if value is ...]:
        del entry[key]
    schema["fields"] = [f for f in schema["fields"] if "name" in f]
    path.write_text(json.dumps(schema))


def test_the_shipped_schemas_break_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert "nothing breaks" in out
    assert "BREAKS" not in out


CHANGES: list[tuple[str, dict[str, Any], str]] = [
    ("speed", {"name": "velocity"}, "old data: field 'velocity' was added without a default: give it a default"),
    ("speed", {"name": "velocity"}, "old readers: field 'speed' was removed, and the earlier schema has no default"),
    ("vin", {"name": "chassis"}, "old data: field 'vin' is gone, and its values with it"),
    ("speed", {"type": "float"}, "old data: field 'speed' is float where the earlier schema has double: keep double"),
    ("speed", {"unit": "km/h"}, "meaning: field 'speed' has the unit 'km/h' where the earlier schema has 'm/s'"),
    ("speed", {"max": 50}, "old data: field 'speed' has the max 50 where the earlier schema has 100"),
    ("vin", {"pii": ...}, "personal data: field 'vin' is no longer tagged as personal data"),
    ("vin", {"default": ...}, "old data: field 'vin' lost its default: keep it for writers that leave the field out"),
    ("speed", {"aliases": []}, "old data: field 'speed' lost the alias SPEED: keep it for those who write that name"),
]


@pytest.mark.parametrize(("field", "changes", "told"), CHANGES)
@pytest.mark.parametrize("against", ["golden data", "the release"])
def test_a_break_is_told(
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    field: str,
    changes: dict[str, Any],
    told: str,
    against: str,
) -> None:
    folder: Path = request.getfixturevalue("folder" if against == "golden data" else "released")
    change(folder, "car_sensor", field, **changes)
    assert main([str(folder)]) == 1
    out = capsys.readouterr().out
    where = "golden/car_sensor/1.avro" if against == "golden data" else "v0.10.0"
    assert any(line.startswith(f"  BREAKS car_sensor ({where}") and told in line for line in out.splitlines()), out
    assert "break somebody" in out
    sentence = "no git work tree, so" if against == "golden data" else "compared with the release v0.10.0"
    assert sentence in out


def test_what_other_systems_wrote_stays_readable(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(folder, "car_sensor", "speed", aliases=[])
    assert main([str(folder)]) == 1
    found = [line for line in capsys.readouterr().out.splitlines() if "golden/car_sensor/ksql.avro" in line]
    assert any("field 'speed' is not in the writer's schema" in line for line in found)
    assert any("as JSON, row 0" in line for line in found)


def test_old_readers_may_be_left_behind(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(released, "alert", "source_partition", type="long")
    assert main([str(released)]) == 1
    assert main([str(released), "--level", "BACKWARD"]) == 0
    assert "note alert (v0.10.0): old readers: field 'source_partition' is long" in capsys.readouterr().out


def test_a_schema_that_is_gone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "score.avsc").unlink()
    assert main([str(folder)]) == 1
    assert (
        "BREAKS score (golden/score/1.avro, golden/score/2.avro): old data: the schema is gone"
        in capsys.readouterr().out
    )


def test_a_harmless_change_is_recorded_as_the_next_version(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "score.avsc"
    schema = json.loads(path.read_text())
    schema["doc"] = "Another text."
    path.write_text(json.dumps(schema))
    assert main([str(folder), "--record"]) == 0
    assert "has golden data already" in capsys.readouterr().out
    schema["fields"].insert(0, {"name": "region", "type": "string", "default": "", "doc": "Where."})
    path.write_text(json.dumps(schema))
    assert main([str(folder)]) == 0
    assert "note score: no golden data of today's schema yet" in capsys.readouterr().out
    assert main([str(folder), "--record"]) == 0
    assert [file.name for file in golden.files(folder, "score")] == ["1.avro", "2.avro", "3.avro"]
    assert main([str(folder)]) == 0
    capsys.readouterr()
    change(folder, "score", "region", default=...)  # the field is in version 3, not in those before
    assert main([str(folder)]) == 1
    out = capsys.readouterr().out
    assert (
        "BREAKS score (golden/score/1.avro, golden/score/2.avro): old data: field 'region' was added without a default"
        in out
    )
    assert "BREAKS score (golden/score/3.avro): old data: field 'region' lost its default" in out


def test_somebody_elses_schema_is_recorded(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = {"type": "record", "name": "Theirs", "fields": [{"name": "KEY", "type": ["null", "string"]}]}
    (tmp_path / "theirs.avsc").write_text(json.dumps(theirs))
    record = [str(folder), "--record", "--of", "score", "--writer", str(tmp_path / "theirs.avsc")]
    assert main(record) == 0
    assert main([str(folder)]) == 1
    assert "BREAKS score (golden/score/theirs.avro): old data: " in capsys.readouterr().out
    (folder / "mine.avsc").write_text(json.dumps({**theirs, "fields": [{"name": "KEY", "type": "string"}]}))
    assert main([*record[:3], "mine", *record[4:]]) == 0
    assert "theirs" in {file.stem for file in golden.files(folder, "mine")}


def test_which_release(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The newest release before this commit: no candidate, not this commit's own, none of another branch."""
    git(released, "checkout", "--quiet", "-b", "other")
    commit(released, "v9.0.0")
    git(released, "checkout", "--quiet", "-")
    git(released, "tag", "v0.11.0")
    assert main([str(released)]) == 0
    assert "compared with the release v0.10.0" in capsys.readouterr().out
    assert main([str(released), "--base", "v9.0.0"]) == 0
    assert "compared with v9.0.0" in capsys.readouterr().out
    with pytest.raises(UserError, match="--base nothing: git knows no such"):
        main([str(released), "--base", "nothing"])


def test_no_release_yet(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git(folder.parent, "init", "--quiet")
    commit(folder)
    assert main([str(folder)]) == 0
    assert "no release tag before this commit (a shallow clone has none)" in capsys.readouterr().out


def test_no_git_at_all(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([str(folder)]) == 0
    assert "compared with golden data only" in capsys.readouterr().out
    with pytest.raises(UserError, match="git is not installed; leave it out"):
        main([str(folder), "--base", "v1.0.0"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "holds one record schema"),
        ('{"type": "enum", "name": "E", "symbols": []}', "make it a record"),
    ],
)
def test_no_schema(folder: Path, text: str, message: str) -> None:
    (folder / "score.avsc").write_text(text)
    with pytest.raises(UserError, match=message):
        main([str(folder)])


def test_wrong_arguments(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match=r"has no \.avsc files"):
        main([str(tmp_path)])
    with pytest.raises(UserError, match="go together"):
        main(["--record", "--of", "score"])
    with pytest.raises(UserError, match=r"no folder has a nothing\.avsc"):
        main([str(folder), "--record", "--of", "nothing", "--writer", str(folder / "score.avsc")])
