"""Which columns look like personal data."""

from __future__ import annotations

import pyarrow as pa
import pytest

from beam_jobs.samples.personal import looks_personal


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("email", "direct"),
        ("customer_email", "direct"),
        ("CustomerName", "direct"),
        ("first_name", "direct"),
        ("name", "direct"),
        ("driver_name", "direct"),
        ("VIN", "direct"),
        ("ipAddress", "direct"),
        ("Card_Number", "direct"),
        ("cc_num", "direct"),
        ("creditCardNo", "direct"),
        ("card_pan", "direct"),
        ("account_number", "direct"),
        ("date_of_birth", "quasi"),
        ("zip_code", "quasi"),
        ("latitude", "quasi"),
        ("gpsLon", "quasi"),
        ("host_name", None),
        ("card", None),
        ("card_present", None),
        ("pan_angle", None),
        ("number", None),
        ("vibration", None),
        ("temperature", None),
        ("long", None),
        ("plate_temp", None),
        ("relation", None),
        ("sensor_id", None),
    ],
)
def test_by_name(name: str, tag: str | None) -> None:
    assert looks_personal(name) == tag


@pytest.mark.parametrize(
    ("values", "tag"),
    [
        (["ann@example.org", "bob@example.com", None], "direct"),
        (["DE89370400440532013000"], "direct"),
        (["+49 30 123456", "+1 (555) 123-4567"], "direct"),
        (["10.0.0.1"], "direct"),
        (["078-05-1120"], "direct"),
        (["4111111111111111", "5500 0055 5555 5559", "3782 822463 10005"], "direct"),
        (["4111111111111112", "5500005555555558", "1790000000000123"], None),
        (["a@b", "pump 7", "ann@example.org"], None),
        (["7", "2026-11-22"], None),
        ([None], None),
    ],
)
def test_by_value(values: list[str | None], tag: str | None) -> None:
    assert looks_personal("x", pa.array(values, pa.string())) == tag


def test_card_numbers_that_came_as_numbers() -> None:
    assert looks_personal("x", pa.chunked_array([[4111111111111111, 5500005555555559], [None]])) == "direct"
    assert looks_personal("x", pa.array([1790000000000 + n for n in range(100)])) is None
