"""``python -m model.threshold``: another threshold for a trained version, on this machine and in a bucket."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from beam_jobs.errors import UserError
from beam_jobs.storage import files
from model import registry, threshold
from model.loaded import LoadedModel
from model.manifest import FILE_NAME
from model.threshold import change
from model.training.distribution import SCORES_FILE, ScoreDistribution
from model.training.train import Trained


def registry_of(version: Path) -> Path:
    registry.promote(version.parent.parent, version.name)
    return version.parent.parent.parent


def test_a_new_version_has_the_same_network_and_another_threshold(
    version: Path, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    root = registry_of(version)
    threshold.main([f"{root}@{version.name}", "--alert_budget", "0.05", "--alias", "challenger"])
    printed = capsys.readouterr().out
    made = registry.resolve(f"{root}@challenger")
    assert made.version != version.name
    assert made.manifest.made_from == version.name
    assert made.manifest.files == trained.manifest.files
    assert made.manifest.score_quantiles == trained.manifest.score_quantiles
    assert made.manifest.threshold < trained.manifest.threshold
    assert made.manifest.alert_budget == 0.05
    fitted = made.manifest.threshold_fit
    assert fitted is not None
    assert fitted.low < 0.05 < fitted.high
    assert f"threshold  {made.manifest.threshold:.4g}, expected to alert on 0.05 (" in printed
    assert "counted: " in printed
    assert registry.resolve(str(root)).version == version.name  # the champion stays
    assert LoadedModel.load(made.path).manifest == made.manifest


def test_it_has_the_threshold_of_a_training_with_that_budget(version: Path, trained: Trained) -> None:
    made = change(f"{registry_of(version)}@{version.name}", trained.manifest.alert_budget)
    assert made.threshold == trained.manifest.threshold
    assert made.threshold_fit == trained.manifest.threshold_fit


def test_figures_that_depend_on_the_threshold_are_not_taken_along(version: Path, trained: Trained) -> None:
    made = change(str(version), 0.02)
    before, after = trained.manifest.metrics["autoencoder"], made.metrics["autoencoder"]
    assert after["roc_auc"] == before["roc_auc"]
    assert (after["recall"], after["precision"], after["false_alert_share"]) == (None, None, None)
    assert (after["recall_by_kind"], made.test_alerts) == ({}, None)


def test_it_works_in_a_bucket(
    bucket: str, version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HIGHBEAM_CACHE", str(tmp_path / "cache"))
    root = f"{bucket}/models"
    with registry.new_version(root, "car_sensors") as draft:
        shutil.copytree(version, draft.path, dirs_exist_ok=True)
        text = (draft.path / FILE_NAME).read_text().replace(version.name, draft.version)
        (draft.path / FILE_NAME).write_text(text)
    threshold.main([f"{root}@{draft.version}", "--alert_budget", "0.02", "--alias", "champion"])
    made = registry.resolve(root)
    assert made.manifest.made_from == draft.version
    assert sorted(made.manifest.files) == sorted(
        name.removeprefix(f"{made.folder}/") for name in files.list_files(f"{made.folder}/**") if FILE_NAME not in name
    )
    assert LoadedModel.load(made.path).manifest.threshold == made.manifest.threshold


def test_what_cannot_be_done_is_said_and_leaves_nothing(version: Path, tmp_path: Path) -> None:
    root = registry_of(version)
    for alert_budget, alias, message in (
        (1.5, None, "--alert_budget 1.5 is not a share"),
        (0.01, "no way", "'no way' is no name"),
        (0.01, version.name, "no name for an alias"),
    ):
        with pytest.raises(UserError, match=message):
            change(str(root), alert_budget, alias)
    with pytest.raises(UserError, match="no alias or version 'nobody'"):
        change(f"{root}@nobody", 0.01)
    shutil.copytree(version, tmp_path / version.name)
    with pytest.raises(UserError, match="not in a registry"):
        change(str(tmp_path / version.name), 0.01)
    assert registry.versions(version.parent.parent) == [version.name]


def test_a_version_without_scores_says_what_to_do(version: Path) -> None:
    described = json.loads((version / FILE_NAME).read_text())
    del described["threshold_fit"], described["files"][SCORES_FILE]
    (version / FILE_NAME).write_text(json.dumps(described))
    with pytest.raises(UserError, match=r"trained before versions kept the scores .* train again with"):
        change(str(version), 0.01)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no zip"])
def test_broken_scores_are_named(version: Path, content: bytes) -> None:
    (version / SCORES_FILE).write_bytes(content)
    with pytest.raises(UserError, match=rf"{SCORES_FILE} can't be read"):
        change(str(version), 0.01)


@pytest.mark.parametrize("rows", [60, 9_999, 250_000])
def test_stored_scores_give_the_same_thresholds(rows: int, tmp_path: Path) -> None:
    scores = np.random.default_rng(0).lognormal(size=rows).astype(np.float32)
    fitted = ScoreDistribution.fit(scores)
    fitted.save(tmp_path / SCORES_FILE)
    assert ScoreDistribution.load(tmp_path / SCORES_FILE).quantiles() == fitted.quantiles()
    assert (tmp_path / SCORES_FILE).stat().st_size < max(40_000, 0.4 * rows) + 10_000
