"""What training says of the data people have: sentinels, and rows that a person calls normal."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from beam_jobs.errors import UserError
from beam_jobs.use_case import UseCase
from model.loaded import LoadedModel
from model.manifest import read
from model.train import print_summary
from model.training import data as training_data
from model.training import gather, plan
from model.training.data import Counts, Source
from model.training.plan import Settings
from model.training.spool import Examples
from model.training.train import train

FEATURES = ("temperature", "pressure", "flow", "load")
Train = Callable[..., Settings]


@pytest.fixture
def given(tmp_path: Path) -> Train:
    """Writes a use case and rows of it, float [n, 4], and returns the settings of a quick training."""

    def settings(
        x: np.ndarray, labels: Sequence[str] = (), keys: int = 100, normal: object = None, **more: object
    ) -> Settings:
        folder = tmp_path / "plant"
        folder.mkdir()
        time = {"type": "long", "logicalType": "timestamp-millis"}
        fields: list[dict[str, object]] = [{"name": "plant", "type": "string"}, {"name": "at", "type": time}]
        fields += [{"name": name, "type": "double"} for name in FEATURES]
        fields += [{"name": "fault", "type": ["null", "string"], "label": True}]
        (folder / "plant.avsc").write_text(json.dumps({"type": "record", "name": "Plant", "fields": fields}))
        (folder / "preprocess.sql").write_text(f"SELECT plant, at, {', '.join(FEATURES)} FROM events")
        model = {"hidden": [4, 2, 4], "epochs": 1, "alert_budget": 0.01}
        about = {"schema": "plant.avsc", "key": "plant", "event_time": "at", "model": model, "normal": normal}
        (folder / "use_case.yaml").write_text(json.dumps(about))
        columns = {
            "plant": [f"plant-{i % keys}" for i in range(len(x))],
            "at": pa.array(1_795_348_800_000 + 1000 * np.arange(len(x)), pa.timestamp("ms", "UTC")),
            **{name: x[:, i] for i, name in enumerate(FEATURES)},
            "fault": pa.array([*labels, *[None] * (len(x) - len(labels))], pa.string()),
        }
        pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
        more = {"baseline": False, "peers": False, **more}
        return Settings(str(folder), str(tmp_path / "rows.parquet"), str(tmp_path / "models"), **more)

    return settings


def normal_rows(n: int = 3000) -> np.ndarray:
    random = np.random.default_rng(3)
    common = random.normal(size=(n, 1))
    return 20 + 5 * (common + 0.3 * random.normal(size=(n, len(FEATURES))))


def refused(settings: Settings) -> str:
    with pytest.raises(UserError) as caught:
        train(settings)
    assert "\n" not in str(caught.value)
    assert not list(Path(settings.registry).rglob("manifest.json"))
    return str(caught.value)


def test_rows_with_a_sentinel_are_left_out_and_named(given: Train) -> None:
    x = normal_rows()
    x[:30, 0] = 3e38  # labelled as failures
    x[100, 0], x[200, 2], x[300:340, 2], x[500:540, 3] = 65535, 3e38, -999, 32767
    settings = given(x, ["true"] * 30, normal=["flow = -999"])
    out = io.StringIO()
    made = train(settings, Console(file=out, width=300))
    described = read(made.path)
    named = {(one.column, one.value): (one.rows, one.left_out) for one in described.sentinels}
    assert named == {
        ("temperature", 65535.0): (1, 1),
        ("flow", -999.0): (40, 0),
        ("flow", float(np.float32(3e38))): (1, 1),
        ("load", 32767.0): (40, 40),
    }
    assert described.normal == ("flow = -999",)
    text = out.getvalue()
    assert "column temperature: 65535 in 1 row looks like a sentinel (the other values are " in text
    assert "40 left out; if it is a reading, call it normal: --normal 'load = 32767'" in text
    assert "-999 in" not in text
    judged = made.evaluations["autoencoder"]
    assert judged.failures > 0
    assert judged.recall == 1
    assert judged.false_alert_share is not None
    assert judged.false_alert_share < 0.05
    scores = LoadedModel.load(made.path).score(np.array([[65535, 20, 20, 20], [20, 20, 20, 20]], np.float32))
    assert scores[0] > described.threshold > scores[1]
    out = io.StringIO()
    print_summary(Console(file=out, width=300), made, settings)
    assert "sentinels  column temperature: 65535 in 1 row" in out.getvalue()


@pytest.mark.parametrize("met", [0, 2])
def test_labels_that_meet_no_row_are_told(given: Train, monkeypatch: pytest.MonkeyPatch, met: int) -> None:
    read_all = training_data.read

    def read_with(use_case: UseCase, source: Source, counts: Counts, *more: Any) -> Iterator[Examples]:
        yield from read_all(use_case, source, counts, *more)
        counts.labels = met, 1003

    monkeypatch.setattr(training_data, "read", read_with)
    said, out = io.StringIO(), io.StringIO()
    settings = given(normal_rows())
    made = train(settings, Console(file=said, width=300))
    line = (
        f"warning: 0 of --labels met a row, {1003 - met:,} did not: are they of these files' topic, and of their time?"
    )
    assert (line in said.getvalue()) == (met == 0)
    print_summary(Console(file=out, width=300), made, settings)
    assert f"labels     {met} of --labels met a row, {1003 - met:,} did not" in out.getvalue()


def test_a_rare_state_of_few_plants_is_named_and_can_be_called_normal(given: Train) -> None:
    x, rare = normal_rows(4000), np.arange(4000) % 100 < 3
    x[rare] += [40, -40, 30, 0]
    settings = given(x)
    made = train(settings)
    left_out = made.manifest.left_out
    assert left_out is not None
    first = left_out.groups[0]
    assert first.rows == pytest.approx(40 * first.keys, rel=0.05)
    assert 1 <= first.keys <= 3
    assert {(each.name, each.direction) for each in first.features} >= {("temperature", "high"), ("pressure", "low")}
    out = io.StringIO()
    print_summary(Console(file=out, width=300), made, settings)
    page = (made.path / "report" / "report.html").read_text(encoding="utf-8")
    for text in (out.getvalue(), html.unescape(page)):
        assert "temperature high: " in text
        assert "--normal g1" in text
    again = train(replace(settings, normal=["g1"])).manifest
    assert again.normal == (first.where,)
    assert again.left_out is not None
    assert first.where not in [group.where for group in again.left_out.groups]
    assert again.left_out.rows < 0.1 * first.rows


def test_sentinels_can_be_refused(given: Train) -> None:
    x = normal_rows()
    x[100, 0], x[200, 2] = 65535, -999
    said = refused(given(x, on_outlier="refuse"))
    assert said.startswith("--on_outlier refuse: column temperature: 65535 in 1 row looks like a sentinel (the other")
    assert "(and so do 1 other values)" in said


def test_what_is_called_normal_is_not_refused(given: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*_: object) -> None:
        raise InterruptedError

    monkeypatch.setattr(gather, "check_rows", reached)
    x = normal_rows()
    x[100, 0] = 65535
    with pytest.raises(InterruptedError):
        train(given(x, on_outlier="refuse", normal=["temperature = 65535"]))


def column(values: object) -> np.ndarray:
    """Normal rows whose flow is something else."""
    x = normal_rows()
    x[:, 2] = values
    return x


@pytest.mark.parametrize(
    ("x", "more", "said"),
    [
        (column(np.nan), {}, "3,000 rows, 3,000 refused: not_finite (flow is NaN, expected a finite number): nothing"),
        (column(-np.inf), {}, "not_finite (flow is -infinity, expected a finite number): nothing left"),
        (column(1e300), {}, "not_finite (flow is infinity after the query, expected a finite number): nothing left"),
        (column(np.where(np.arange(3000) > 50, np.nan, 20)), {},
         "rows for validation, at least 50 are needed; 3,000 rows read, 2,949 refused: not_finite (flow is NaN, "
         "expected a finite number): mend those values, or keep them out with COALESCE or WHERE in the SQL"),
        (normal_rows(60), {}, "60 rows read: use more data, or another --validation_fraction"),
        (normal_rows(3000), {"keys": 1, "split": "key"}, ": with 1 key use --split time"),
        (normal_rows(300), {"labels": ["true"] * 300},
         "300 rows read, 300 labelled as failures: a model learns from rows without a failure"),
        (np.where(np.eye(4, dtype=bool)[np.arange(3000) % 4], 65535, normal_rows()), {},
         "750 left out for load = 65535: if these are readings, call them normal: --normal 'temperature = 65535'"),
        (np.full((3000, 4), 7), {}, "rows to learn from are the same (temperature is 7, pressure is 7, flow is 7, "),
        (column(3e38), {}, "column flow: values such as 3e+38 are beyond what a network can calculate with (1e+18)"),
        (column(np.linspace(-3e38, 3e38, 3000)), {}, "column flow: values such as "),
        (normal_rows() * 1e30, {}, "divide it in the SQL, such as temperature / 1e20 AS temperature"),
    ],
)  # fmt: skip
def test_data_that_will_not_do_is_told_so(given: Train, x: np.ndarray, more: dict[str, object], said: str) -> None:
    assert said in refused(given(x, **more))


def test_a_network_that_diverged_is_told_so(given: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = given(normal_rows())
    own = plan._own
    monkeypatch.setattr(plan, "_own", lambda *a: replace(own(*a), learning_rate=1e30))
    assert "training diverged" in refused(settings)


def test_a_bad_condition_is_told_before_anything_is_read(given: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_data, "read", None)
    settings = given(normal_rows(200))
    for condition, said in (("flaw = 0", "unknown column flaw; did you mean flow?"), ("g3", "no version of plant yet")):
        with pytest.raises(UserError, match=f"--normal .*{said}"):
            train(replace(settings, normal=[condition]))
    assert not Path(settings.registry).exists()
