"""The registry in a bucket: whole versions only, no promotion lost, one copy on each machine."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import use_cases
from beam_jobs.errors import UserError
from beam_jobs.storage import files
from beam_jobs.use_case import load_use_case
from model import manifest, registry
from model.loaded import LoadedModel
from model.manifest import FILE_NAME
from model.registry import aliases, new_version, promote, resolve, versions


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's copies of models are."""
    monkeypatch.setenv("HIGHBEAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def publish(root: str, version: Path) -> str:
    """Puts a trained version into a registry under a new name."""
    with new_version(root, "car_sensors") as draft:
        shutil.copytree(version, draft.path, dirs_exist_ok=True)
        text = (draft.path / FILE_NAME).read_text().replace(version.name, draft.version)
        (draft.path / FILE_NAME).write_text(text)
    return draft.version


def test_a_version_is_published_found_promoted_and_loaded(
    bucket: str, version: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = f"{bucket}/models"
    with pytest.raises(UserError, match="no model in this registry; it holds no model"):
        resolve(root)
    first, second = publish(root, version), publish(root, version)
    model = f"{root}/car_sensors"
    assert versions(model) == sorted([first, second])
    with pytest.raises(UserError, match="no alias or version 'champion'"):
        resolve(root)
    assert promote(model, first) is None
    assert promote(model, second, only_if_absent=True) == first
    registry.main(["promote", f"{root}@{second}", "--alias", "challenger"])
    registry.main(["list", root])
    registry.main(["show", f"{model}@challenger", "--json"])
    listed = capsys.readouterr().out
    assert f"challenger is {second} now" in listed
    assert f'"version": "{second}"' in listed
    assert [line.split()[-1] for line in listed.splitlines() if first in line] == ["champion"]
    assert resolve(f"{root}@challenger", "car_sensors").version == second
    assert resolve(f"{model}/versions/{first}").version == first
    found = resolve(root, "car_sensors")
    assert (found.version, found.alias, found.folder) == (first, "champion", f"{model}/versions/{first}")
    x = np.zeros((3, len(found.manifest.features)), np.float32)
    there, here = LoadedModel.load(version), LoadedModel.load(found.path)
    assert there.score(x).tobytes() == here.score(x).tobytes()
    assert [path.name for path in cache.iterdir()] == [f"{first}-{found.digest[:16]}"]
    assert {path.name for path in found.path.iterdir()}.isdisjoint({"report", "logs"})


def test_half_a_version_does_not_count_and_vanishes(bucket: str, version: Path) -> None:
    root = f"{bucket}/models"

    upload = files.upload

    def interrupted(path: Path, target: str) -> None:
        assert versions(f"{root}/car_sensors") == []
        if target.endswith(FILE_NAME):
            assert len(files.list_files(f"{root}/**")) > 3
            raise KeyboardInterrupt
        upload(path, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "upload", interrupted)
        with pytest.raises(KeyboardInterrupt):
            publish(root, version)
    assert files.list_files(f"{root}/**") == []


def test_of_many_promotions_at_once_none_is_lost(bucket: str, version: Path) -> None:
    root = f"{bucket}/models"
    one = publish(root, version)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: promote(f"{root}/car_sensors", one, f"alias-{i}"), range(24)))
    assert len(aliases(f"{root}/car_sensors")) == 24
    with ThreadPoolExecutor(8) as pool:
        first = list(pool.map(lambda i: promote(f"{root}/car_sensors", one, only_if_absent=True), range(8)))
    assert first.count(None) == 1


def test_many_workers_make_one_copy(bucket: str, version: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = f"{bucket}/models"
    publish(root, version)
    promote(f"{root}/car_sensors", versions(f"{root}/car_sensors")[0])
    found = resolve(root)
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: found.path, range(4)))) == 1
    assert len(list(cache.iterdir())) == 1  # nothing else is left
    monkeypatch.setattr("model.local_copy.download", None)  # from now on nothing is fetched
    LoadedModel.load(found.path)


def test_a_damaged_copy_is_made_again(bucket: str, version: Path) -> None:
    root = f"{bucket}/models"
    name = publish(root, version)
    found = resolve(f"{root}@{name}")
    copy = found.path
    (copy / "network.npz").write_bytes(b"damaged")
    assert found.path == copy
    LoadedModel.load(copy)


def test_a_version_that_was_changed_in_the_bucket_is_refused(bucket: str, version: Path, cache: Path) -> None:
    root = f"{bucket}/models"
    name = publish(root, version)
    found = resolve(f"{root}@{name}")
    files.write_bytes(f"{found.folder}/network.npz", b"changed")
    with pytest.raises(UserError, match=r"network\.npz is not what the manifest says"):
        _ = found.path
    files.remove([f"{found.folder}/network.npz"])
    with pytest.raises(UserError, match=r"network\.npz is missing"):
        _ = found.path
    assert list(cache.iterdir()) == []
    outside = {"../../outside": "00"}
    text = manifest.Manifest(**{**found.manifest.__dict__, "files": outside}).to_json()
    files.write_bytes(f"{found.folder}/{FILE_NAME}", text.encode())
    with pytest.raises(UserError, match="names a file outside the version's folder"):
        _ = resolve(f"{root}@{name}").path


def test_a_use_case_in_a_bucket(bucket: str) -> None:
    here = Path(use_cases.__file__).parent / "car_sensors"
    for path in here.iterdir():
        if path.is_file():
            files.upload(path, f"{bucket}/use_cases/my_cars/{path.name}")
    loaded = load_use_case(f"{bucket}/use_cases/my_cars")
    assert loaded.name == "my_cars"
    assert loaded.preprocessor().fingerprint == load_use_case("car_sensors").preprocessor().fingerprint
    with pytest.raises(UserError, match=f"{bucket}/other.*nor a folder with a use_case.yaml"):
        load_use_case(f"{bucket}/other")
