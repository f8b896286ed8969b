"""Two versions side by side: what differs, how they do on the same rows, and the exit status."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_jobs.errors import UserError
from beam_jobs.sandbox.fleet import history
from beam_jobs.terminal.cli import EXIT_FAILED
from model import registry, threshold
from model.alert_rate import AlertRate
from model.compare import main, rows
from model.manifest import Manifest
from model.training.train import Trained
from tests.unit.model.samples import MANIFEST


@pytest.fixture
def models(trained: Trained, tmp_path: Path) -> tuple[Path, str]:
    """A registry with a champion and a challenger of a hundred times its alert budget, whose name is given."""
    folder = tmp_path / "models"
    shutil.copytree(trained.path.parent.parent.parent, folder)
    made = threshold.change(f"{folder}@{trained.manifest.version}", 0.1, "challenger", "car_sensors")
    return folder, made.version


def table(printed: str) -> dict[str, list[str]]:
    """What the table says of A and B, by the row's name; a long cell goes on in the next lines."""
    found: dict[str, list[str]] = {}
    last = ""
    for line in printed.splitlines():
        cells = [cell.strip() for cell in line.replace("┃", "│").split("│")[1:-1]]
        if len(cells) == 3:
            last = cells[0] or last
            found[last] = [f"{a} {b}".strip() for a, b in zip(found.get(last, ["", ""]), cells[1:], strict=True)]
    return found


def test_what_two_versions_say(
    models: tuple[Path, str], trained: Trained, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    folder, made = models
    main([f"{folder}@{trained.manifest.version}", f"{folder}@challenger", "--use_case", "car_sensors"])
    shown = table(capsys.readouterr().out)
    assert shown["version"] == [trained.manifest.version, made]
    assert shown["alert budget"] == ["0.001", "0.1"]
    assert shown["rows read"] == ["6,000", "6,000"]
    assert shown["source"] == ["unit-model, 1 file"] * 2  # no folders of this machine
    assert "own test rows: ROC AUC" in shown


def test_both_are_judged_by_the_same_rows(
    models: tuple[Path, str],
    trained: Trained,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    others = tmp_path / "others.parquet"
    pq.write_table(pa.Table.from_batches(list(history(2000, seed=99, cars=40, prevalence=0.3))), others)
    versions = [f"{models[0]}@{trained.manifest.version}", f"{models[0]}@challenger", "--use_case", "car_sensors"]
    main([*versions, "--data", str(others)])
    said = capsys.readouterr()
    shown = table(said.out)
    scored = [int(text.replace(",", "")) for text in shown["same rows: scored"]]
    alerts = [int(text.replace(",", "")) for text in shown["same rows: alerts"]]
    assert scored[0] == scored[1] > 1800
    assert 0 < alerts[0] < alerts[1]  # a larger budget
    assert shown["same rows: alerts of both"] == [shown["same rows: alerts"][0]] * 2
    recall = [float(text) for text in shown["same rows: failure rows found"]]
    assert 0 < recall[0] <= recall[1]
    assert "trained on" not in said.err
    main([*versions, "--data", str(data)])
    assert "1 of the 1 files were trained on" in capsys.readouterr().err


@pytest.mark.parametrize("warning", ["", "0.5 of the test rows are alerts"])
def test_the_status_says_whether_the_second_keeps_its_budget(
    warning: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    of = {
        "a": replace(MANIFEST, test_alerts=AlertRate(100, 0.5, 0.4, 0.6, 0, "the first does not")),
        "b": replace(MANIFEST, version="2", test_alerts=AlertRate(100, 0.5, 0.4, 0.6, 0, warning)),
    }

    def found(spec: str, use_case: str | None) -> registry.ModelVersion:
        return registry.ModelVersion("cars", spec, spec, None, of[spec], "")

    monkeypatch.setattr("model.compare.registry.resolve", found)
    assert main(["a", "b"]) == (EXIT_FAILED if warning else 0)
    assert (warning in capsys.readouterr().err) or not warning


def differing(first: Manifest, second: Manifest) -> Sequence[str]:
    return [name for name, a, b in rows(first, second) if a != b]


def test_features_of_one_alone_are_named() -> None:
    other = replace(MANIFEST, features=("temp", "speed"), units=("°C", "m/s"), preprocessing_fingerprint="z")
    assert differing(MANIFEST, MANIFEST) == []
    assert differing(MANIFEST, other) == ["features", "only here", "preprocessing"]
    assert ("only here", "", "temp") in rows(MANIFEST, other)


def test_models_of_two_use_cases_are_not_compared(models: tuple[Path, str], trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none: no such folder"):
        main([str(models[0]), str(tmp_path / "none")])
    other = tmp_path / "other" / "pumps"
    with registry.new_version(str(tmp_path / "other"), "pumps") as draft:
        (draft.path / "manifest.json").write_text(replace(MANIFEST, name="pumps", version=draft.version).to_json())
    registry.promote(other, draft.version)
    with pytest.raises(UserError, match=r"is a model of car_sensors, .* of pumps; name two of one use case"):
        main([f"{models[0]}/car_sensors@{trained.manifest.version}", str(other)])
