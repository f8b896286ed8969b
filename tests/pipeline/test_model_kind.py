"""A kind of model from another package: the one of docs/model.md, trained, loaded, and in the steps of the job."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam import Create, Flatten, Map, ParDo
from apache_beam.ml.inference.base import RunInference
from apache_beam.testing.test_pipeline import TestPipeline as Pipeline
from apache_beam.testing.util import assert_that

import schemas
from beam_jobs.block import Block, raw_block, with_source
from beam_jobs.codec.avro.decoder import AvroDecoder
from beam_jobs.dead_letters import step
from beam_jobs.errors import UserError
from beam_jobs.steps.infer import BlockModelHandler
from beam_jobs.steps.preprocess import Preprocess
from beam_jobs.steps.score_records import CheckScores, to_alerts, to_scores
from beam_jobs.use_case import load_use_case
from model.loaded import LoadedModel
from model.registry import resolve
from model.threshold import change
from model.training.plan import Settings
from model.training.train import train
from tests.distribution import install
from tests.unit.model.test_signature import Keys

ROOT = Path(__file__).parents[2]
ROWS = 4000
SCHEMA = {
    "type": "record",
    "name": "Pump",
    "fields": [
        {"name": "pump", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "flow", "type": "double"},
        {"name": "pressure", "type": "double"},
    ],
}


def rows(flow: np.ndarray, pressure: np.ndarray) -> Block:
    n = len(flow)
    at = pa.array(1_795_348_800_000 + 1000 * np.arange(n), pa.timestamp("ms", "UTC"))
    pumps = [f"pump-{i % 50}" for i in range(n)]
    return pa.record_batch({"pump": pumps, "at": at, "flow": flow, "pressure": pressure})


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The example of the documentation, as pip would install it."""
    text = (ROOT / "docs" / "model.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?acme_distance.*?)```", text, re.DOTALL)
    path = install(
        tmp_path / "site", "acme_distance", code, {"highbeam.model_kinds": {"distance": "acme_distance:KIND"}}
    )
    monkeypatch.syspath_prepend(path)
    monkeypatch.delitem(sys.modules, "acme_distance", raising=False)
    return path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a training on rows of a use case that names the kind."""
    folder = tmp_path / "pumps"
    folder.mkdir()
    (folder / "pump.avsc").write_text(json.dumps(SCHEMA))
    (folder / "preprocess.sql").write_text("SELECT pump, at, flow, pressure FROM events")
    model = {"kind": "distance", "power": 1.5, "alert_budget": 0.01, "seed": 3}
    about = {"schema": "pump.avsc", "key": "pump", "event_time": "at", "model": model}
    (folder / "use_case.yaml").write_text(json.dumps(about))
    random = np.random.default_rng(1)
    table = pa.Table.from_batches([rows(random.normal(30, 2, ROWS), random.normal(5, 0.1, ROWS))])
    pq.write_table(table, tmp_path / "rows.parquet")
    return Settings(str(folder), str(tmp_path / "rows.parquet"), str(tmp_path / "models"))


def records(name: str, blocks: list[Block]) -> list[dict[str, object]]:
    schema = schemas.load(name)
    decoder = AvroDecoder(schema, lambda _: schema)
    return [row for block in blocks for row in decoder.decode(block.column("value")).rows.to_pylist()]


def test_a_kind_from_outside_is_trained_loaded_and_scores_in_the_job(
    distribution: str, settings: Settings, tmp_path: Path
) -> None:
    keys = Keys.make(tmp_path, "keys")
    made = train(replace(settings, signing_key=f"file:{keys.private}"))
    described = made.manifest
    assert described.kind == "distance"
    assert described.network == {"power": 1.5, "seed": 3, "split": "key"}
    assert set(described.metrics) == {"distance"}
    assert described.libraries["acme-distance"] == "1.0"
    assert "keras" not in described.libraries
    assert "distance.npz" in described.files
    page = Path(made.report).read_text(encoding="utf-8")
    assert "the distance&#x27;s alerts it raises too" in page
    assert "autoencoder" not in page

    use_case, version = load_use_case(settings.use_case), resolve(settings.registry, "pumps", f"file:{keys.public}")
    preprocessor = use_case.preprocessor()
    flow, pressure = np.full(300, 30.0), np.full(300, 5.0)
    flow[[7, 200]], pressure[40] = 60.0, 9.0
    events = rows(flow, pressure)
    sent = with_source(events, raw_block("pumps", [0] * 300, range(300), [0] * 300, [None] * 300, [b""] * 300))

    def check(found: list[tuple[str, Block]]) -> None:
        alerts = records("alert", [block for name, block in found if name == "alert"])
        assert [alert["id"] for alert in alerts] == ["pumps-0-7", "pumps-0-40", "pumps-0-200"]
        assert [alert["features"] for alert in alerts] == [[], [], []]
        assert {alert["version"] for alert in alerts} == {described.version}
        scores = records("score", [block for name, block in found if name == "score"])
        assert [row["is_anomaly"] for row in scores] == [i in (7, 40, 200) for i in range(300)]
        x = np.stack([flow, pressure], axis=1).astype(np.float32)
        wanted = LoadedModel.load(version.path).score(x)
        np.testing.assert_array_equal(np.array([row["score"] for row in scores], np.float32), wanted)

    with Pipeline("FnApiRunner") as p:
        features, _ = step("Preprocess", Preprocess(preprocessor, "j"), p | Create([sent]).with_output_types(Block))
        infer = RunInference(BlockModelHandler(version, preprocessor.features)).with_output_types(Block)
        scored, _ = step("CheckScores", CheckScores("j", "pump"), features | infer)
        alerts = scored | "Alerts" >> ParDo(to_alerts(use_case, preprocessor, 1)).with_output_types(Block)
        scores = scored | "Scores" >> ParDo(to_scores(use_case, 1)).with_output_types(Block)
        both = (alerts | "A" >> Map(lambda b: ("alert", b)), scores | "S" >> Map(lambda b: ("score", b)))
        assert_that(both | Flatten(), check)


def test_it_takes_another_threshold(distribution: str, settings: Settings) -> None:
    made = train(replace(settings, peers=False))
    other = change(settings.registry, 0.2, use_case="pumps")
    assert (other.kind, other.made_from) == ("distance", made.manifest.version)
    assert other.threshold < made.manifest.threshold
    assert LoadedModel.load(resolve(f"{settings.registry}@{other.version}").path).manifest == other


def test_its_settings_are_its_own(distribution: str, settings: Settings) -> None:
    path = Path(settings.use_case) / "use_case.yaml"
    about = json.loads(path.read_text())
    for wrong, said in (
        ({"power": -1}, "use_case.yaml: model.power is -1; use a number above 0"),
        ({"epochs": 3}, "unknown key 'epochs'; it is one of power, kind, alert_budget, seed, baseline"),
    ):
        path.write_text(json.dumps({**about, "model": {**about["model"], **wrong}}))
        with pytest.raises(UserError, match=re.escape(said)):
            load_use_case(settings.use_case)
    path.write_text(json.dumps(about))
    with pytest.raises(UserError, match="--epochs 3: a model of the kind distance has no epochs"):
        train(replace(settings, epochs=3))


def test_without_its_package_a_version_is_refused_by_name(distribution: str, settings: Settings) -> None:
    made = train(replace(settings, peers=False))
    code = f"from pathlib import Path; from model.loaded import LoadedModel; LoadedModel.load(Path({str(made.path)!r}))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "no model kind 'distance'; there are autoencoder, average, boosting, car_baseline" in run.stderr
