"""Training: one command makes a version that says all about itself, or nothing at all."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from beam_jobs.codec.fingerprint import fingerprint
from beam_jobs.errors import UserError
from beam_jobs.terminal.commands import MODELS
from beam_jobs.use_case import load_use_case
from model import registry
from model.manifest import file_hashes, sha256
from model.registry import resolve, versions
from model.train import print_summary
from model.training import report
from model.training import train as training
from model.training.data import LIST_FILE
from model.training.plan import Settings, command
from model.training.train import Trained, train


def test_the_manifest_tells_it_all(trained: Trained, data: Path) -> None:
    described, use_case = trained.manifest, load_use_case("car_sensors")
    preprocessor = use_case.preprocessor()
    assert resolve(str(trained.path)).manifest == described
    assert described.features == preprocessor.features
    assert described.units[described.features.index("speed")] == "m/s"
    assert described.preprocessing_fingerprint == preprocessor.fingerprint
    assert described.schema_fingerprint == fingerprint(use_case.schema)
    assert (described.data.rows, described.data.seed) == (6000, described.network["seed"])
    assert (described.data.source, described.data.files) == (str(data.parent), 1)
    (file,) = json.loads((trained.path / LIST_FILE).read_text())
    assert file == {"name": data.name, "sha256": sha256(data), "rows": 6000}
    assert described.files[LIST_FILE] == sha256(trained.path / LIST_FILE)
    assert described.data.first_event_time < described.data.last_event_time
    assert described.files == file_hashes(trained.path)
    assert described.files["model.keras"] == sha256(trained.path / "model.keras")
    assert "keras" in described.libraries
    assert set(described.metrics) == {"autoencoder", "baseline"}
    assert described.network["epochs"] == 4


def test_the_first_version_becomes_champion(trained: Trained) -> None:
    assert trained.alias == "champion"
    assert resolve(str(trained.path.parents[2]), "car_sensors").version == trained.manifest.version


def test_it_beats_the_reference_net(trained: Trained) -> None:
    ours, theirs = trained.evaluations["autoencoder"], trained.evaluations["baseline"]
    assert ours.roc_auc > max(0.97, theirs.roc_auc)
    assert ours.average_precision > theirs.average_precision
    assert ours.recall > theirs.recall
    assert ours.false_alert_share < 0.02


def test_the_report_is_one_page(trained: Trained) -> None:
    page = (trained.path / "report" / "report.html").read_text(encoding="utf-8")
    assert (trained.path / "report" / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "data:image/png;base64," in page
    assert trained.manifest.version in page
    assert not re.search(r"(src|href)=['\"]?https?:", page)


def test_tensorboard_logs_are_there(trained: Trained) -> None:
    assert list((trained.path / "logs").rglob("events.out.tfevents.*"))


def test_the_summary_says_what_to_do_next(trained: Trained) -> None:
    out = io.StringIO()
    print_summary(Console(file=out, width=200), trained, Settings("car_sensors", "x", "y"))
    text = out.getvalue()
    assert f"version    {trained.manifest.version} (champion)" in text
    assert "highbeam score --use_case car_sensors --model" in text
    assert trained.report in text
    for column in ("autoencoder", "baseline", "isolation forest", "robust Mahalanobis"):
        assert column in text
    assert re.search(r"strangest  2\d{3}-.*  score \d.*, expected ", text)
    assert re.search(r"threshold  .*\ntest       alerts on \d", text)


def test_a_summary_obeys_no_feature_and_no_label(trained: Trained) -> None:
    hostile = "[red]x[/red]\x1b[2J\r\u202e[/]"
    first, *rest = trained.shown.strangest
    readings = (replace(first.readings[0], name=hostile),) * 2
    evaluations = {
        name: replace(judged, recall_by_kind={hostile: 0.5}, keys_caught_by_kind={hostile: 0.5})
        for name, judged in trained.evaluations.items()
    }
    shown = replace(trained.shown, strangest=(replace(first, kind=hostile, readings=readings), *rest), peers=())
    out = io.StringIO()
    hurt = replace(trained, evaluations=evaluations, shown=shown)
    print_summary(Console(file=out, width=200, force_terminal=True), hurt, Settings("car_sensors", "x", "y"))
    assert out.getvalue().count(r"[red]x[/red]\x1b[2J \u202e[/]") == 3 + len(readings[:2])
    assert "\x1b[2J" not in out.getvalue()


def test_the_command_line_of_settings_makes_them_again() -> None:
    given = Settings(
        "cars", "my data", "m", start="2026-11-22T07:00:00Z", seed=3, baseline=False, normal=["a = 0", "g1"]
    )
    line = command(given)
    assert line.startswith("python -m model.train --use_case cars --data 'my data' --registry m --from 2026-11-22")
    read = vars(MODELS["train"].parser().parse_args(shlex.split(line)[3:]))
    assert Settings(**{name: value for name, value in read.items() if name in vars(given)}) == given


@pytest.fixture
def quick(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings for a training of no more than a moment, whose report has no picture."""
    monkeypatch.setattr(report, "draw", lambda path, *_: path.write_bytes(b""))
    return Settings(
        "car_sensors", str(data), str(tmp_path / "models"), epochs=1, limit=3000, baseline=False, peers=False
    )


def test_the_same_seed_gives_the_same_bits_and_the_champion_stays(quick: Settings) -> None:
    first, second = train(quick), train(quick)
    assert (first.alias, second.alias) == ("champion", None)
    assert second.manifest.threshold == first.manifest.threshold
    weights = [np.load(made.path / "network.npz") for made in (first, second)]
    for name in weights[0].files:
        np.testing.assert_array_equal(*(file[name] for file in weights))
    assert train(replace(quick, seed=1)).manifest.threshold != first.manifest.threshold
    out = io.StringIO()
    print_summary(Console(file=out, width=200), second, quick)
    assert "highbeam models promote" in out.getvalue()


def test_an_interrupted_training_leaves_nothing(quick: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "write_report", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(quick)
    model = Path(quick.registry) / "car_sensors"
    assert versions(model) == []
    assert list((model / "versions").iterdir()) == []
    assert registry.aliases(model) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "/nowhere"}, "--data /nowhere: no .avro, .parquet, .csv, .tsv, .jsonl or .ndjson file there"),
        ({"alert_budget": 1.5}, "--alert_budget 1.5"),
        ({"validation_fraction": 0.6}, "--validation_fraction 0.6"),
        ({"epochs": 0}, "--epochs 0"),
        ({"use_case": "boats"}, "use case 'boats'"),
        ({"registry": "s3://models"}, "expected gs://bucket/folder"),
        ({"limit": 120}, " rows for validation, at least 50 are needed; 120 rows read"),
    ],
)
def test_errors_name_the_flag(quick: Settings, change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        train(Settings(**{**vars(quick), **change}))


def test_missing_libraries_are_named(quick: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"training needs matplotlib.*pip install 'highbeam\[train\]'"):
        train(quick)


def test_help_does_not_wait_for_tensorflow() -> None:
    code = (
        "import sys, model.train; model.train.MODELS['train'].parser()\n"
        "sys.exit(bool({'tensorflow', 'keras', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
