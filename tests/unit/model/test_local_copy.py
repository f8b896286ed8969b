"""Names in a manifest lead nowhere but into the version's folder, or into its copy in the cache."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from beam_jobs.errors import UserError
from model import local_copy, manifest, registry
from tests.unit.model.samples import MANIFEST

DIGEST = "0" * 64
OUTSIDE = [
    "../../x", "/etc/x", "..", ".", "", "a/../../x", "a//b", "a/", "/", "..\\x", "C:\\x", "C:x", "a\0b", "a\nb",
    "\x1b[2J", "manifest.json", "manifest.sig", "report/x", "logs/x", "x" * 2000,
]  # fmt: skip


def written(version: object = "1", files: object = None, **more: object) -> bytes:
    value = {"format": manifest.FORMAT, **asdict(MANIFEST), "version": version, "files": files or {}, **more}
    return json.dumps(value).encode()


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_file_outside_the_folder_is_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"m\.json: it names a file outside the version's folder") as refused:
        manifest.parse(written(files={name: DIGEST}), "m.json")
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300
    monkeypatch.setenv("HIGHBEAM_CACHE", str(tmp_path / "deep" / "cache"))
    monkeypatch.setattr(local_copy, "download", None)  # nothing is fetched
    with pytest.raises(UserError, match="names a file outside the version's folder"):
        local_copy.local_copy("gs://bucket/v", "v", DIGEST, {name: DIGEST})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["../../../outside", "/tmp/x", "..", ".hidden", "", "a/b", "a\\b", "é", "x" * 201, 7, None, ["x"]]
)
@pytest.mark.parametrize("field", ["version", "name", "use_case", "kind"])
def test_a_name_that_is_none_is_refused(field: str, name: object) -> None:
    with pytest.raises(UserError, match=rf"{field} .* is no name of letters"):
        manifest.parse(written(**{field: name}), "m.json")


@pytest.mark.parametrize("version", ["../../../outside", "/tmp/x", "..", "a/b", ""])
def test_a_version_never_leads_out_of_the_cache(tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGHBEAM_CACHE", str(tmp_path / "deep" / "cache"))
    with pytest.raises(UserError, match="names a file outside"):
        local_copy.local_copy("gs://bucket/v", version, DIGEST, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {"a": "00"}},
        {"files": {"a": DIGEST.upper().replace("0", "F")}},
        {"files": {"a": 7}},
        {"files": {f"f{i}": DIGEST for i in range(10_001)}},
        {"files": [1]},
        {"threshold": float("nan")},
        {"threshold": "high"},
        {"threshold": None},
        {"features": []},
        {"features": ["a", "a"], "units": [None, None]},
        {"features": [1]},
        {"units": []},
        {"score_quantiles": []},
        {"score_quantiles": [[0, 2], [1, 1]]},
        {"score_quantiles": 7},
        {"score_quantiles": [[0, float("nan")], [1, 1]]},
        {"score_quantiles": [[0, 1], [1, float("inf")]]},
        {"score_quantiles": [[0.9, 1], [0, 2]]},
        {"created_at": "\ud800"},
        {"network": None},
        {"metrics": []},
        {"libraries": "x"},
        {"network": reduce(lambda inner, _: {"a": inner}, range(900), {})},
        {"alert_budget": 7},
        {"data": 7},
    ],
)  # fmt: skip
def test_what_no_model_can_have_is_refused_in_one_line(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^m\.json: .*; train the model again$"):
        manifest.parse(written(**changes), "m.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(name=st.sampled_from(sorted(asdict(MANIFEST))), value=JSON)
@example(name="metrics", value=None)
@example(name="metrics", value={"autoencoder": {"recall": "x"}})
@example(name="libraries", value=None)
@example(name="normal", value=[None])
def test_any_other_value_is_refused_or_can_be_told(name: str, value: object) -> None:
    try:
        made = manifest.parse(written(**{name: value}), "m.json")
    except UserError as refused:
        told = str(refused)
    else:
        told = made.summary()
    assert told.replace("\n", "").isprintable()


def test_a_manifest_that_is_too_large_or_too_deep_is_refused() -> None:
    with pytest.raises(UserError, match="more than 4,194,304 bytes"):
        manifest.parse(b" " * (manifest.MAX_BYTES + 1), "m.json")
    with pytest.raises(UserError, match="nests so deeply"):
        manifest.parse(b"[" * 1_000_000, "m.json")


def test_a_version_has_the_name_of_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "cars" / "versions" / "other"
    folder.mkdir(parents=True)
    (folder / manifest.FILE_NAME).write_bytes(written())
    for spec in (f"{tmp_path}@other", str(folder)):
        with pytest.raises(UserError, match="is of version 1, its folder is called other"):
            registry.resolve(spec)


def test_a_version_that_is_none_hides_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for version, text in (("1", written()), ("2", written("3")), ("4", b"no json"), ("5\x1b[2J", b"")):
        folder = tmp_path / "cars" / "versions" / version
        folder.mkdir(parents=True)
        (folder / manifest.FILE_NAME).write_bytes(text)
    registry.main(["list", str(tmp_path)])
    first, second, third, fourth = capsys.readouterr().out.splitlines()
    assert first == "cars  1  threshold 4.5"
    assert all("can't be used: " in line and line.isprintable() for line in (second, third, fourth))


def special(folder: Path, what: str) -> None:
    path = folder / "saved_model"
    if what == "folder":
        (folder.parent / "elsewhere").mkdir()
        path.symlink_to(folder.parent / "elsewhere")
    elif what == "dangling":
        path.symlink_to(folder / "nowhere")
    elif what == "device":
        path.symlink_to("/dev/zero")
    else:
        os.mkfifo(path)


@pytest.mark.parametrize("what", ["folder", "dangling", "device", "pipe"])
def test_what_has_no_hash_is_refused(tmp_path: Path, what: str) -> None:
    """Else it would be loaded though no manifest vouches for it, or be waited for."""
    folder = tmp_path / "v"
    folder.mkdir()
    special(folder, what)
    with pytest.raises(UserError, match="saved_model is neither a file nor a folder of the version"):
        manifest.file_hashes(folder)


def test_a_link_to_a_file_is_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "blob").write_bytes(b"x")
    (tmp_path / "v" / "network.npz").symlink_to(tmp_path / "blob")
    assert manifest.file_hashes(tmp_path / "v") == {"network.npz": hashlib.sha256(b"x").hexdigest()}


def test_a_temporary_cache_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HIGHBEAM_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")  # no home to write to
    monkeypatch.setattr(local_copy.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = local_copy.cache_folder()
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    with pytest.raises(UserError, match="may be written by others; set HIGHBEAM_CACHE"):
        local_copy.cache_folder()
