"""Use cases: the shipped one, one of your own, and settings that are wrong."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

import schemas
from beam_jobs.codec.csv.dialect import Dialect
from beam_jobs.errors import UserError
from beam_jobs.preprocessing.windows.frames import Lateness
from beam_jobs.use_case import load_use_case
from model.kinds.autoencoder.settings import NetworkConfig
from model.settings import ModelSettings

INPUTS = [field["name"] for field in schemas.load("car_sensor")["fields"] if "min" in field and "pii" not in field]


def test_car_sensors() -> None:
    use_case = load_use_case("car_sensors")
    assert (use_case.name, use_case.key, use_case.event_time) == ("car_sensors", "car_id", "event_time")
    assert use_case.label == "failure_occurred"
    assert use_case.schema == schemas.load("car_sensor")
    query = use_case.preprocessor()
    assert query is use_case.preprocessor()
    assert query.features == (*INPUTS, "vibration_per_speed")
    assert query.units["tire_pressure_1_1"] == "psi"
    assert query.attributes == ()
    assert not {"vin", "driver_name", "latitude", "longitude", "failure_occurred"} & set(query.input_columns)
    assert use_case.model.kind == "autoencoder"
    assert use_case.model.of_kind() == NetworkConfig(hidden=(32, 12, 32))


def test_how_csv_files_are_written(tmp_path: Path) -> None:
    written = {"delimiter": ";", "decimal": ",", "times": "%d.%m.%Y"}
    assert load_use_case(str(folder(tmp_path, csv=written))).csv == Dialect(**written)
    assert load_use_case(str(folder(tmp_path))).csv == Dialect()


@pytest.mark.parametrize(
    ("section", "what"),
    [
        ({"decimals": ","}, "csv: unknown key 'decimals'"),
        ({"decimal": 1}, "csv.decimal is 1; use a text"),
        ({"decimal": "x"}, "csv: decimal 'x'"),
        (";", "csv: is ';'"),
    ],
)
def test_what_is_no_way_to_write_csv(tmp_path: Path, section: Any, what: str) -> None:
    with pytest.raises(UserError, match=what):
        load_use_case(str(folder(tmp_path, csv=section)))


def test_pickles() -> None:
    use_case = load_use_case("car_sensors")
    fingerprint = use_case.preprocessor().fingerprint
    assert pickle.loads(pickle.dumps(use_case)).preprocessor().fingerprint == fingerprint


SETTINGS: dict[str, Any] = {"schema": "pump.avsc", "key": "pump", "event_time": "at", "model": {"hidden": [4, 2, 4]}}
SCHEMA = {
    "type": "record",
    "name": "Pump",
    "fields": [
        {"name": "pump", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "flow", "type": "double", "unit": "l/s", "min": 0, "max": 50},
    ],
}


def folder(path: Path, **changes: Any) -> Path:
    settings = {name: value for name, value in {**SETTINGS, **changes}.items() if value is not None}
    (path / "use_case.yaml").write_text(yaml.safe_dump(settings))
    (path / "pump.avsc").write_text(json.dumps(SCHEMA))
    (path / "preprocess.sql").write_text("SELECT pump, at, flow FROM events")
    return path


def test_one_of_your_own(tmp_path: Path) -> None:
    path = folder(tmp_path)
    use_case = load_use_case(str(path))
    assert use_case.name == tmp_path.name
    assert use_case.label is None
    assert use_case.model == ModelSettings(own={"hidden": [4, 2, 4]})
    assert use_case.model.of_kind() == NetworkConfig(hidden=(4, 2, 4))
    block = pa.record_batch({"pump": ["p"], "at": pa.array([0], pa.timestamp("ms", "UTC")), "flow": [3.0]})
    assert use_case.preprocessor().apply(block).rows.column("flow").to_pylist() == [3.0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"modle": {}}, "unknown key 'modle'; it is one of name, schema"),
        ({"model": {"layers": [1]}}, "model: unknown key 'layers'; it is one of hidden"),
        ({"model": {"hidden": [4, 0]}}, "model.hidden is [4, 0]; use a list of whole numbers"),
        ({"model": {"alert_budget": 2}}, "model.alert_budget is 2; use a share"),
        ({"model": {"kind": "forest"}}, "model: no model kind 'forest'; there are autoencoder, "),
        ({"model": {"kind": 7}}, "model.kind is 7"),
        ({"model": {"baseline": "forest"}}, "model: no model kind 'forest'"),
        ({"model": {"seed": -1}}, "model.seed is -1"),
        ({"model": {"epochs": True}}, "model.epochs is True"),
        ({"model": {"l1": "1e-7"}}, "model.l1 is '1e-7'"),
        ({"model": [1]}, "model: is [1]"),
        ({"schema": None}, "schema is missing"),
        ({"schema": "car_senzor"}, "does not ship with Highbeam; it is one of alert, car_sensor"),
        ({"schema": "other.avsc"}, "other.avsc can't be read"),
        ({"key": "pmup"}, "key is 'pmup', not a field of the schema; it has pump, at, flow"),
        ({"event_time": 7}, "event_time is 7; use a text"),
        ({"sql": "other.sql"}, "other.sql can't be read"),
        ({"pii": {"salt": "x"}}, "pii: unknown key 'salt'"),
        ({"pii": {"key": "hunter2"}}, "not a reference"),
        ({"pii": {"key": 5}}, "not a reference"),
        ({"pii": {"keys": "env:A"}}, "the first is used"),
        ({"pii": {"keys": {2026: "env:A"}}}, "the id 2026 is no text; put it in quotes"),
        ({"pii": {"keys": {"2026-11": "hunter2"}}}, "pii.keys.2026-11 is not a reference"),
    ],
)
def test_wrong_settings(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_use_case(str(folder(tmp_path, **changes)))
    message = str(caught.value)
    assert expected in message
    assert "use_case.yaml" in message
    assert "\n" not in message
    assert "hunter2" not in message


def test_files_that_are_none(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "pump.avsc").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        load_use_case(str(tmp_path))
    (tmp_path / "use_case.yaml").write_text("a: [")
    with pytest.raises(UserError, match="not YAML"):
        load_use_case(str(tmp_path))
    (tmp_path / "use_case.yaml").write_text("just text")
    with pytest.raises(UserError, match="key: value"):
        load_use_case(str(tmp_path))


def test_an_unknown_name_lists_the_shipped_ones() -> None:
    with pytest.raises(UserError, match=r"neither one that ships \(car_sensors.*\) nor a folder"):
        load_use_case("car_sensor")


def test_a_typo_in_the_sql_names_the_file(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "preprocess.sql").write_text("SELECT pump, at,\n flwo FROM events")
    with pytest.raises(UserError, match=r"preprocess\.sql line 2, column 2: unknown column flwo; did you mean flow\?"):
        load_use_case(str(tmp_path)).preprocessor()


def test_a_file_address_names_the_same_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my cars 100%"
    folder.mkdir()
    (folder / "use_case.yaml").write_text("schema: car_sensor\nkey: car_id\nevent_time: event_time\n")
    (folder / "preprocess.sql").write_text("SELECT car_id, event_time, speed FROM events")
    assert load_use_case(folder.as_uri()).schema == load_use_case(str(folder)).schema


def test_how_late_rows_may_be_that_windows_see(tmp_path: Path) -> None:
    written = {"window_lateness": "90 seconds", "window_delay": "2 hours", "window_clock_skew": "00:00:30"}
    use_case = load_use_case(str(folder(tmp_path, **written)))
    assert use_case.lateness == Lateness(90_000, 7_200_000, 30_000)
    assert use_case.with_lateness({"window_delay": "1h", "window_lateness": None}).lateness == Lateness(
        90_000, 3_600_000, 30_000
    )
    assert load_use_case(str(folder(tmp_path))).lateness == Lateness()


def test_how_many_rows_of_a_key_windows_may_hold(tmp_path: Path) -> None:
    use_case = load_use_case(str(folder(tmp_path, window_key_rows=5000)))
    assert use_case.lateness == Lateness(key_rows=5000)
    assert use_case.with_lateness({"window_key_rows": 7, "window_delay": "1h"}).lateness == Lateness(key_rows=7)
    assert use_case.preprocessor().fingerprint == load_use_case(str(folder(tmp_path))).preprocessor().fingerprint
    for value in (0, -1, 2.5, "5000", True, 10**9):
        with pytest.raises(UserError, match=r"use_case.yaml: window_key_rows is .*; use a whole number of rows"):
            load_use_case(str(folder(tmp_path, window_key_rows=value)))


def test_how_long_labels_take(tmp_path: Path) -> None:
    assert load_use_case(str(folder(tmp_path, label_delay="90 days"))).lateness == Lateness(label_ms=90 * 86_400_000)
    with pytest.raises(UserError, match=r"label_delay is '2 years'; use an interval such as 7 days, at most 400 days"):
        load_use_case(str(folder(tmp_path, label_delay="2 years")))


@pytest.mark.parametrize("value", [90, "90", "soon", "-1 minute", "1 month", "90 days", "7 us"])
def test_what_is_no_lateness(tmp_path: Path, value: Any) -> None:
    with pytest.raises(UserError, match=r"use_case.yaml: window_delay is .*; use an interval such as 10 minutes"):
        load_use_case(str(folder(tmp_path, window_delay=value)))
