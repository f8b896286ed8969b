"""The shipped schemas: valid, documented, and able to read what the older systems wrote."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import fastavro
import pytest

import schemas
from beam_jobs.errors import UserError

NAMES = ["alert", "car_sensor", "dead_letter", "score"]
INPUTS = [field for field in schemas.load("car_sensor")["fields"] if "min" in field and "pii" not in field]


def every_field(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, list):
        for branch in schema:
            yield from every_field(branch)
    elif isinstance(schema, dict):
        for field in schema.get("fields", []):
            yield field
            yield from every_field(field["type"])
        yield from every_field(schema.get("items"))


@pytest.mark.parametrize("name", NAMES)
def test_every_schema_is_valid_and_documented(name: str) -> None:
    schema = schemas.load(name)
    fastavro.parse_schema(schema)
    assert schema["doc"]
    assert all(field["doc"] for field in every_field(schema))
    assert schemas.load(name) is not schema


def test_unknown_schema() -> None:
    with pytest.raises(UserError, match=r"it is one of alert, car_sensor"):
        schemas.load("car_sensors")
    with pytest.raises(UserError, match="does not ship"):
        schemas.load("../schemas/score")


def test_inputs_are_the_18_of_the_reference() -> None:
    assert len(INPUTS) == 18
    assert [field["name"] for field in INPUTS if field["type"] == "long"] == [
        *(f"tire_pressure_{i}_{j}" for i in (1, 2) for j in (1, 2)),
        "control_unit_firmware",
    ]
    assert all(field["min"] < field["max"] for field in INPUTS)
    without_unit = [field["name"] for field in INPUTS if "unit" not in field]
    assert without_unit == ["throttle_pos", "control_unit_firmware"]


def test_personal_data_and_label_are_tagged() -> None:
    fields = {field["name"]: field for field in schemas.load("car_sensor")["fields"]}
    assert {name: field["pii"] for name, field in fields.items() if "pii" in field} == {
        "vin": "direct",
        "driver_name": "direct",
        "latitude": "quasi",
        "longitude": "quasi",
    }
    assert [name for name, field in fields.items() if field.get("label")] == ["failure_occurred"]
    assert all(fields[name]["default"] is None for name in ("vin", "latitude", "failure_occurred"))


def test_no_spelling_means_two_fields() -> None:
    spellings = [name for f in schemas.load("car_sensor")["fields"] for name in (f["name"], *f.get("aliases", []))]
    assert len(spellings) == len(set(spellings))


@pytest.mark.parametrize(
    ("tire", "accelerometer"),
    [
        ("tire_pressure_{}_{}", "accelerometer_{}_{}_value"),
        ("tire_pressure_{}{}", "accelerometer_{}{}_value"),
        ("tire_pressure{}{}", "accelerometer{}{}_value"),
    ],
)
@pytest.mark.parametrize("ksql", [False, True])
def test_reads_the_authors_spellings(tire: str, accelerometer: str, ksql: bool) -> None:
    """KSQL writes upper case, nullable, under its own record name."""

    def spelled(name: str) -> str:
        for prefix, pattern in (("tire_pressure_", tire), ("accelerometer_", accelerometer)):
            if name.startswith(prefix):
                name = pattern.format(*name.removeprefix(prefix).split("_")[:2])
        return name.upper() if ksql else name

    def type_of(avro: str) -> Any:
        return ["null", avro] if ksql else avro

    fields = [{"name": spelled(f["name"]), "type": type_of(f["type"])} for f in INPUTS]
    fields += [{"name": spelled("car_id"), "type": type_of("string")}]
    fields += [{"name": spelled("event_time"), "type": type_of("long")}]
    name = "io.confluent.ksql.avro_schemas.KsqlDataSourceSchema" if ksql else "highbeam.CarSensor"
    writer = fastavro.parse_schema({"type": "record", "name": name, "fields": fields})
    row: dict[str, Any] = {spelled(f["name"]): i for i, f in enumerate(INPUTS)}
    row |= {spelled("car_id"): "car1", spelled("event_time"): 1}
    data = io.BytesIO()
    fastavro.schemaless_writer(data, writer, row)
    data.seek(0)
    read: Any = fastavro.schemaless_reader(data, writer, fastavro.parse_schema(schemas.load("car_sensor")))
    assert [read[f["name"]] for f in INPUTS] == list(range(18))
    assert read["car_id"] == "car1"
    assert read["vin"] is None
