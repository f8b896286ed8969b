"""Kinds other than the autoencoder through the whole training: from a file with labels to a version that explains."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_jobs.errors import UserError
from model.loaded import LoadedModel
from model.training.plan import Settings
from model.training.train import train

ROWS = 6000
SCHEMA = {
    "type": "record",
    "name": "Payment",
    "fields": [
        {"name": "card", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "amount", "type": "double"},
        {"name": "frauds", "type": "double"},
        {"name": "payments", "type": "double"},
        {"name": "fraud", "type": ["null", "string"], "label": True},
    ],
}
MODELS: dict[str, dict[str, Any]] = {
    "average": {"of": [{"kind": "tail_probability", "only_more": ["amount"]}, {"kind": "boosting", "trees": 60}]},
    "boosting": {"trees": 60},
    "isolation_forest": {"trees": 30},
    "logistic_regression": {"only_more": ["amount"], "rates": [["frauds", "payments"]]},
    "robust_distance": {},
    "tail_probability": {"only_more": ["amount"], "rates": [["frauds", "payments"]]},
}
Write = Callable[..., Settings]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A use case and its history, in which a large amount at a bad terminal is a fraud."""

    def written(model: dict[str, Any], label: bool = True, frauds: float = 0.03) -> Settings:
        random = np.random.default_rng(1)
        fraud = random.random(ROWS) < frauds
        payments = random.poisson(20, ROWS)
        table = pa.table(
            {
                "card": [f"card-{i % 90}" for i in range(ROWS)],
                "at": pa.array(1_795_348_800_000 + 1000 * np.arange(ROWS), pa.timestamp("ms", "UTC")),
                "amount": random.lognormal(3, 0.5, ROWS) * np.where(fraud, 6, 1),
                "frauds": random.binomial(payments, np.where(fraud, 0.3, 0.005)).astype(float),
                "payments": payments.astype(float),
                "fraud": pa.array(np.where(fraud, "large", None), pa.string()),
            }
        )
        pq.write_table(table, tmp_path / "rows.parquet")
        folder = tmp_path / "payments"
        folder.mkdir(exist_ok=True)
        fields = [{k: v for k, v in f.items() if label or k != "label"} for f in SCHEMA["fields"]]  # type: ignore[attr-defined]
        (folder / "payment.avsc").write_text(json.dumps({**SCHEMA, "fields": fields}))
        (folder / "preprocess.sql").write_text("SELECT card, at, amount, frauds, payments FROM events")
        about = {"schema": "payment.avsc", "key": "card", "event_time": "at", "model": {"alert_budget": 0.01, **model}}
        (folder / "use_case.yaml").write_text(json.dumps(about))
        return Settings(str(folder), str(tmp_path / "rows.parquet"), str(tmp_path / "models"), peers=False)

    return written


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_it_is_trained_judged_and_explains(write: Write, kind: str) -> None:
    made = train(write({"kind": kind, **MODELS[kind]}))
    found = made.evaluations[kind]
    assert found.roc_auc is not None
    assert found.roc_auc > 0.95
    assert found.recall_by_kind["large"] > 0.5
    assert found.false_alert_share is not None
    # A count of few steps makes gaps in these scores, and the cut takes sound rows beyond one for outliers.
    assert found.false_alert_share < {"average": 0.06, "robust_distance": 0.12}.get(kind, 0.03)
    model = LoadedModel.load(made.path)
    said = model.explain(np.array([[2000, 0, 20], [20, 12, 14]], np.float32))
    assert (said.score > model.manifest.threshold).all()
    assert said.error is not None
    assert said.error[0].argmax() == 0
    assert said.error[1].argmax() in (1, 2)
    assert made.manifest.data.training_rows > 3000
    assert "expected nan" not in Path(made.report).read_text(encoding="utf-8")


def test_boosting_learns_from_the_failures_and_its_threshold_from_the_others(write: Write) -> None:
    made = train(write({"kind": "boosting", "trees": 20}))
    fit = made.manifest.threshold_fit
    assert fit is not None
    assert made.manifest.libraries["lightgbm"]
    sound = train(write({"kind": "tail_probability"})).manifest
    assert sound.threshold_fit is not None
    assert fit.rows == sound.threshold_fit.rows  # of normal rows
    assert made.manifest.data.training_rows > sound.data.training_rows  # and failures


@pytest.mark.parametrize(
    ("model", "label", "said"),
    [
        ({"kind": "boosting"}, False, "use_case.yaml: a model of the kind boosting learns from labels, and no field"),
        ({"kind": "tail_probability", "baseline": "boosting"}, False, "of the kind boosting learns from labels"),
        ({"kind": "tail_probability", "inputs": ["amuont"]}, True, "model.inputs names 'amuont', no feature; the SQL"),
        ({"kind": "tail_probability", "rates": [["amount", "x"]]}, True, "model.rates names 'x', no feature"),
    ],
)
def test_what_can_not_be_trained_is_refused_before_a_row_is_read(
    write: Write, model: dict[str, Any], label: bool, said: str
) -> None:
    settings = write(model, label)
    Path(settings.data).write_bytes(b"not read")
    with pytest.raises(UserError, match=said):
        train(settings)


def test_labels_without_a_failure_are_told(write: Write) -> None:
    with pytest.raises(UserError, match=r"0 of [\d,]+ rows to learn from are labelled as failures"):
        train(write({"kind": "boosting"}, frauds=0))


def test_another_kind_is_compared_by_rows_it_may_learn_from(write: Write) -> None:
    """With a baseline that learns from labels, the kind itself still learns from none of the failures."""
    both = train(write({"kind": "tail_probability", "baseline": "boosting"}))
    alone = train(write({"kind": "tail_probability"}))
    assert both.manifest.threshold == alone.manifest.threshold
    assert both.manifest.data.training_rows == alone.manifest.data.training_rows
    assert both.evaluations["baseline"].roc_auc > 0.95  # type: ignore[operator]
