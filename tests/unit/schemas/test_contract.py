"""What a change breaks, and for whom."""

from __future__ import annotations

from typing import Any

import pytest

import schemas
from beam_jobs.errors import UserError
from schemas.contract import MEANING, OLD_DATA, OLD_READERS, PERSONAL, compare

MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
SPEED: dict[str, Any] = {"name": "speed", "type": "double", "aliases": ["v"], "unit": "m/s", "min": 0, "max": 100}
OWNER: dict[str, Any] = {"name": "owner", "type": ["null", "string"], "default": None, "pii": "direct"}
AT: dict[str, Any] = {"name": "at", "type": MILLIS}
LABEL: dict[str, Any] = {"name": "failed", "type": "boolean", "default": False, "label": True}


def car(*fields: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "record", "name": "Car", "fields": list(fields), **more}


def changed(field: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The field with other properties; ``...`` takes one away."""
    return {name: value for name, value in {**field, **changes}.items() if value is not ...}


BREAKS = [
    (SPEED, changed(SPEED, unit="km/h"), MEANING, "has the unit 'km/h' where the earlier schema has 'm/s': add a"),
    (SPEED, changed(SPEED, unit=...), MEANING, "has no unit where the earlier schema has 'm/s'"),
    (SPEED, changed(SPEED, max=50), OLD_DATA, "has the max 50 where the earlier schema has 100: records outside"),
    (SPEED, changed(SPEED, min=1), OLD_DATA, "has the min 1 where the earlier schema has 0"),
    (AT, changed(AT, min=0), OLD_DATA, "has the min 0 where the earlier schema has None"),
    (SPEED, changed(SPEED, aliases=[]), OLD_DATA, "lost the alias v: keep it"),
    (SPEED, changed(SPEED, type="float"), OLD_DATA, "is float where the earlier schema has double: keep double"),
    (SPEED, changed(SPEED, name="velocity"), OLD_DATA, "'velocity' was added without a default: give it a default"),
    (SPEED, changed(SPEED, name="velocity"), OLD_DATA, "field 'speed' is gone, and its values with it"),
    (OWNER, changed(OWNER, name="holder"), OLD_DATA, "field 'owner' is gone, and its values with it"),
    (SPEED, changed(SPEED, name="velocity", aliases=["v", "speed"]), OLD_READERS, "'speed' was removed"),
    (AT, changed(AT, type="long"), MEANING, "is a plain value where the earlier schema has timestamp-millis: keep it"),
    (OWNER, changed(OWNER, default=...), OLD_DATA, "lost its default: keep it"),
    (OWNER, changed(OWNER, pii=...), PERSONAL, "is no longer tagged as personal data where the earlier schema"),
    (OWNER, changed(OWNER, pii="quasi"), PERSONAL, "is tagged 'quasi' where the earlier schema has pii 'direct'"),
    (LABEL, changed(LABEL, default=True), MEANING, "has the default True where the earlier schema has False"),
    (LABEL, changed(LABEL, label=...), MEANING, "is no longer the label"),
]


@pytest.mark.parametrize(("old", "new", "direction", "text"), BREAKS, ids=[text for *_, text in BREAKS])
def test_what_breaks(old: dict[str, Any], new: dict[str, Any], direction: str, text: str) -> None:
    found = [
        finding.text for finding in compare(car(new), car(old)) if finding.breaks and finding.direction == direction
    ]
    assert [text in sentence for sentence in found].count(True) == 1
    assert len(found) == (2 if direction == OLD_DATA and new["name"] == "velocity" else 1)  # gone, and added


@pytest.mark.parametrize(
    ("old", "new", "note"),
    [
        (SPEED, changed(SPEED, doc="Over ground."), None),
        (SPEED, changed(SPEED, aliases=["v", "V"]), None),
        (SPEED, changed(SPEED, type={"type": "double", "unit": "m/s"}, unit=...), None),  # the tag beside the type
        (AT, changed(AT, unit="ms"), "has the unit 'ms', the earlier schema none: retrain"),
        (SPEED, changed(SPEED, max=200), "has the max 200 where the earlier schema has 100: jobs that are not updated"),
        (SPEED, changed(SPEED, pii="quasi"), "is now tagged pii 'quasi'"),
        (changed(LABEL, label=...), LABEL, "is now the label"),
    ],
)
def test_what_breaks_nobody(old: dict[str, Any], new: dict[str, Any], note: str | None) -> None:
    found = compare(car(new), car(old))
    assert not any(finding.breaks for finding in found)
    assert len(found) == (note is not None)
    assert all(str(note) in finding.text for finding in found)


def test_a_field_more_in_another_order() -> None:
    assert compare(car(OWNER, SPEED), car(SPEED)) == []


def test_a_renamed_field_takes_its_tags_along() -> None:
    renamed = changed(OWNER, name="holder", aliases=["owner"], pii=...)
    assert [f.direction for f in compare(car(renamed), car(OWNER))] == [PERSONAL]


def test_records_within() -> None:
    def cars(unit: str, **more: Any) -> dict[str, Any]:
        wheel = {"type": "record", "name": "Wheel", "fields": [{"name": "rpm", "type": "int", "unit": unit}], **more}
        return car({"name": "wheels", "type": ["null", {"type": "array", "items": wheel}], "default": None})

    assert [str(f) for f in compare(cars("1/s"), cars("1/min"))] == [
        "meaning: field 'Wheel.rpm' has the unit '1/s' where the earlier schema has '1/min': "
        "add a field of another name instead"
    ]
    lost = compare(cars("1/s"), cars("1/s", aliases=["Rim"]))
    assert [f.text for f in lost] == ["record 'Wheel' lost the alias Rim: keep it for those who write that name"]


@pytest.mark.parametrize("name", schemas.names())
def test_a_shipped_schema_and_itself(name: str) -> None:
    assert compare(schemas.load(name), schemas.load(name)) == []


def test_no_record() -> None:
    with pytest.raises(UserError, match="make it a record"):
        compare({"type": "enum", "name": "E", "symbols": ["A"]}, car(SPEED))
