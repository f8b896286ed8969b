"""What the live view says of an alert, whatever the model can say of it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from demo.live import alert_cells

TIRE = {"name": "tire", "observed": 22.0, "expected": 28.48, "unit": "psi", "share": 0.96}


@pytest.mark.parametrize(
    ("features", "text"),
    [
        ([TIRE], "tire 22 psi (expected 28.48, 96% of the error)"),
        ([{**TIRE, "expected": float("nan"), "unit": None}], "tire 22 (96% of the error)"),
        ([], ""),
    ],
)
def test_an_alert_in_cells(features: list[dict[str, object]], text: str) -> None:
    alert = {"event_time": datetime(2026, 11, 22, 7, tzinfo=UTC), "key": "car-1", "score": 12.5, "features": features}
    assert alert_cells(alert, 3, "tire") == ("07:00:00", "car-1", "3", "12.5", text, "tire")
