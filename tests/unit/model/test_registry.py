"""Versions never change and are never half there; aliases move in one step; errors say what there is."""

from __future__ import annotations

import errno
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from beam_jobs.errors import UserError
from model import manifest, registry
from model.manifest import FILE_NAME, DataSummary, Manifest
from model.registry import aliases, new_version, promote, resolve, versions

as_user = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")


def publish(root: Path, name: str = "cars") -> str:
    with new_version(str(root), name) as draft:
        data = DataSummary("/data", 1, "00", 1, 1, None, None, "2026-01-01", "2026-01-02", 7)
        described = Manifest(
            name, draft.version, "2026-01-01", name, ("x",), (None,), "p", "s", 1.5, 0.001, ((0.0, 1.0), (1.0, 2.0)),
            data, {}, {}, {}, {},
        )  # fmt: skip
        (draft.path / FILE_NAME).write_text(described.to_json())
        (draft.path / "model.keras").write_text("weights")
    return draft.version


def test_a_version_is_found_by_alias_name_and_path(tmp_path: Path) -> None:
    first, second = publish(tmp_path), publish(tmp_path)
    model = tmp_path / "cars"
    assert promote(model, first) is None
    assert promote(model, second, "challenger") is None
    path = model / "versions" / first
    assert resolve(str(tmp_path), "cars").path == path
    assert resolve(str(tmp_path)).alias == "champion"
    assert resolve(f"file://{model}").version == first
    assert resolve(f"{model}@challenger", "cars").version == second
    assert resolve(f"{tmp_path}@{second}").alias is None
    assert resolve(str(path)).manifest.version == first
    assert versions(model) == sorted([first, second])


def test_a_folder_with_an_at_sign_in_its_path(tmp_path: Path) -> None:
    version = publish(tmp_path / "me@home")
    promote(tmp_path / "me@home" / "cars", version)
    assert resolve(f"{tmp_path}/me@home/cars").version == version


def test_half_a_version_is_never_seen_and_vanishes_with_an_exception(tmp_path: Path) -> None:
    model = tmp_path / "cars"

    def interrupted() -> None:
        with new_version(str(tmp_path), "cars") as draft:
            (draft.path / FILE_NAME).write_text("{")
            assert versions(model) == []
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list((model / "versions").iterdir()) == []


def test_published_files_are_read_only(tmp_path: Path) -> None:
    path = tmp_path / "cars" / "versions" / publish(tmp_path) / "model.keras"
    assert path.stat().st_mode & 0o222 == 0


def test_two_trainers_at_once_get_two_versions_and_one_champion(tmp_path: Path) -> None:
    def one(_: int) -> tuple[str, str | None]:
        version = publish(tmp_path)
        return version, promote(tmp_path / "cars", version, only_if_absent=True)

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(one, range(16)))
    champion = aliases(tmp_path / "cars")["champion"]
    assert sorted(version for version, _ in made) == versions(tmp_path / "cars")
    assert [version for version, before in made if before is None] == [champion]
    assert {before for version, before in made if version != champion} == {champion}


def test_no_alias_is_lost_when_many_change_at_once(tmp_path: Path) -> None:
    version = publish(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: promote(tmp_path / "cars", version, f"alias-{i}"), range(24)))
    assert len(aliases(tmp_path / "cars")) == 24
    left = {p.name for p in (tmp_path / "cars").iterdir()}
    assert left == {"versions", "aliases.json", ".aliases.json.lock"}


def test_an_interrupted_change_of_an_alias_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = publish(tmp_path), publish(tmp_path)
    promote(tmp_path / "cars", first)

    def interrupted(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        promote(tmp_path / "cars", second)
    assert aliases(tmp_path / "cars") == {"champion": first}
    assert not list((tmp_path / "cars").glob(".aliases.json-*"))


def test_errors_name_what_is_wrong_and_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder; train one"):
        resolve(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="no model in this registry"):
        resolve(str(tmp_path))
    version = publish(tmp_path)
    with pytest.raises(UserError, match=f"no alias or version 'champion'; it has {version}"):
        resolve(str(tmp_path))
    promote(tmp_path / "cars", version)
    with pytest.raises(UserError, match=f"'challenger'; it has champion, {version}"):
        resolve(f"{tmp_path}@challenger")
    with pytest.raises(UserError, match="no model 'fraud' in this registry; it holds cars"):
        resolve(str(tmp_path), "fraud")
    publish(tmp_path, "fraud")
    with pytest.raises(UserError, match="several models in this registry; it holds cars, fraud"):
        resolve(str(tmp_path))
    with pytest.raises(UserError, match="no version 'v9'"):
        promote(tmp_path / "cars", "v9")
    with pytest.raises(UserError, match="is no name for an alias"):
        promote(tmp_path / "cars", version, "../x")
    with pytest.raises(UserError, match="expected gs://bucket/folder"):
        resolve("s3://bucket/models")
    with pytest.raises(UserError, match="leave out @other"):
        resolve(f"{tmp_path}/cars/versions/{version}@other")
    (tmp_path / "cars" / "aliases.json").write_text(json.dumps({"champion": "gone"}))
    with pytest.raises(UserError, match="champion is version gone, which is missing"):
        resolve(str(tmp_path / "cars"))
    for broken in ("{", "[" * 200_000):
        (tmp_path / "cars" / "aliases.json").write_text(broken)
        with pytest.raises(UserError, match=r"aliases\.json can't be read"):
            resolve(str(tmp_path / "cars"))
    (tmp_path / "cars" / "aliases.json").write_bytes(b" " * (manifest.MAX_BYTES + 1))
    with pytest.raises(UserError, match=r"aliases\.json: more than 4,194,304 bytes"):
        resolve(str(tmp_path / "cars"))


def test_a_manifest_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    for text in ("{", "[]", "{}", '{"format": 1, "name": "x"}'):
        path.write_text(text)
        with pytest.raises(UserError, match=r"manifest\.json"):
            resolve(str(tmp_path))


def test_a_file_in_the_way_of_the_registry(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("")
    with pytest.raises(UserError, match="can't be written"), new_version(str(tmp_path / "models"), "cars"):
        pass


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("x.pb; No space left on device")]
)
def test_a_full_disk_is_one_line_whoever_writes(tmp_path: Path, error: Exception) -> None:
    """Arrays, graphs and pages are written by others, with errors of their own."""
    wanted = r"--registry .*models/cars: can't be written \(No space left on device\); free space and start again"
    with pytest.raises(UserError, match=wanted), new_version(str(tmp_path / "models"), "cars"):
        raise error
    assert not list((tmp_path / "models/cars/versions").iterdir())
    with pytest.raises(FileNotFoundError), new_version(str(tmp_path / "models"), "cars"):
        (tmp_path / "data.csv").read_text()


@as_user
def test_no_permission_to_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(UserError, match=r"can't be written \(.*Permission denied\); give this account"):
            publish(tmp_path)
    finally:
        tmp_path.chmod(0o755)


def test_the_command_lists_shows_and_promotes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = publish(tmp_path), publish(tmp_path)
    registry.main(["promote", f"{tmp_path}@{first}"])
    registry.main(["promote", f"{tmp_path}/cars@{second}"])
    assert capsys.readouterr().out.splitlines()[-1] == f"cars: champion is {second} now, was {first}"
    registry.main(["list", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[1] for line in lines} == {first, second}
    assert [line.split()[-1] for line in lines if second in line] == ["champion"]
    registry.main(["show", str(tmp_path)])
    text = capsys.readouterr().out
    assert re.search(rf"^version +cars {second}", text)
    assert re.search(r"^data +1 file of /data, sha256 00$", text, re.MULTILINE)
    assert re.search(r"^rows +1 read, 1 trained on, seed 7$", text, re.MULTILINE)
    registry.main(["show", str(tmp_path), "--json"])
    assert json.loads(capsys.readouterr().out)["version"] == second
    with pytest.raises(UserError, match="say which version"):
        registry.main(["promote", str(tmp_path)])


def test_promoting_a_version_from_few_rows_is_warned_of_and_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path)
    few = publish(tmp_path)
    monkeypatch.setattr(Manifest, "few_rows", "cars 1 has learnt from 203 rows")
    registry.main(["promote", f"{tmp_path}@{few}"])
    said = capsys.readouterr()
    assert said.err == "warning: cars 1 has learnt from 203 rows\n"
    assert said.out.startswith(f"cars: champion is {few} now")


def test_a_manifest_survives_its_file() -> None:
    data = DataSummary("gs://bucket/cars", 2, "00", 2, 1, "x", None, "x", "y", 7)
    one = Manifest("n", "v", "c", "u", ("a", "b"), (None, "°C"), "p", "s", 2.5, 0.1, ((0.0, 1.0), (0.9, 3.0)), data,
                   {"epochs": 2, "seed": 7}, {}, {"numpy": "2"}, {"model.keras": "0" * 64})  # fmt: skip
    assert Manifest.from_json(one.to_json()) == one
    assert "data           2 files of gs://bucket/cars, from x, sha256 00\n" in one.summary()
    assert one.percentile(np.array([0, 2, 99])).tolist() == pytest.approx([0, 45, 90])


def test_a_manifest_written_before_file_lists_is_still_read() -> None:
    data = {"files": ["a", "b"], "sha256": "00", "rows": 2, "training_rows": 1}
    old = {"format": 1, "name": "n", "version": "v", "created_at": "c", "use_case": "u", "features": ["a"]}
    old |= {"units": [None], "preprocessing_fingerprint": "p", "schema_fingerprint": "s", "threshold": 2.5}
    old |= {"alert_budget": 0.1, "score_quantiles": [[0, 1]], "network": {"seed": 7}, "metrics": {}, "libraries": {}}
    old |= {"files": {}, "data": {**data, "first_event_time": "x", "last_event_time": "y"}}
    found = Manifest.from_json(json.dumps(old)).data
    assert (found.files, found.rows, found.seed, found.start) == (2, 2, 7, None)
