"""What the tests of manifests and reports say of a model."""

from __future__ import annotations

from model.alert_rate import ThresholdFit
from model.manifest import DataSummary, Manifest

MANIFEST = Manifest(
    name="cars",
    version="1",
    created_at="2026-11-22T07:00:00+00:00",
    use_case="cars",
    features=("speed",),
    units=("m/s",),
    preprocessing_fingerprint="a",
    schema_fingerprint="b",
    threshold=4.5,
    alert_budget=0.01,
    score_quantiles=((0.0, 1.0), (0.9, 2.0)),
    data=DataSummary("history", 1, "c", 20_000, 12_000, None, None, "early", "late", 0),
    network={"seed": 0},
    metrics={},
    libraries={},
    files={},
)
THRESHOLD = ThresholdFit(
    threshold=4.5,
    alert_budget=0.01,
    share=0.01,
    low=0.007,
    high=0.0135,
    how="counted: 40 of 4,000 held-out rows lie above it",
    rows=4000,
    design_effect=1.0,
    cut=None,
    left_out=0.0,
    doubt="",
)
