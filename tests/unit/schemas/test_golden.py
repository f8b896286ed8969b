"""Golden data is read back, through the decoder, as what was written; and it is noticed where it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fastavro
import pytest

import schemas
from beam_jobs.codec.schema import parse_record
from beam_jobs.errors import UserError
from schemas import golden

EVERYTHING: dict[str, Any] = {
    "type": "record",
    "name": "Everything",
    "fields": [
        {"name": "flag", "type": "boolean"},
        {"name": "small", "type": "int"},
        {"name": "large", "type": "long", "min": 3, "max": 5},
        {"name": "single", "type": "float", "max": 0.3},
        {"name": "twice", "type": ["double", "null"]},
        {"name": "text", "type": "string"},
        {"name": "raw", "type": ["null", "bytes"], "default": None},
        {"name": "four", "type": {"type": "fixed", "name": "Four", "size": 4}},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["A", "B", "C"]}},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "clock", "type": {"type": "int", "logicalType": "time-millis"}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "counts", "type": {"type": "map", "values": "long"}},
        {
            "name": "parts",
            "type": {
                "type": "array",
                "items": {"type": "record", "name": "Part", "fields": [{"name": "n", "type": ["null", "int"]}]},
            },
        },
    ],
}


@pytest.mark.parametrize("schema", [EVERYTHING, *map(schemas.load, schemas.names())], ids=lambda s: s["name"])
def test_what_is_recorded_reads_back(tmp_path: Path, schema: dict[str, Any]) -> None:
    path = golden.record(tmp_path, "x", schema, "1")
    assert golden.problems(path, schema) == []
    assert golden.writer_schema(path) == schema
    rows = golden.sample_rows(schema)
    assert len(rows) == golden.ROWS
    assert rows != [rows[0]] * golden.ROWS
    first = path.read_bytes()
    assert golden.record(tmp_path, "x", schema, "1").read_bytes() == first  # the same whenever it is made
    with path.open("rb") as file:
        assert len(list(fastavro.reader(file))) == golden.ROWS  # fastavro agrees that they fit


def test_samples_keep_to_the_limits() -> None:
    values = [row["large"] for row in golden.sample_rows(EVERYTHING)]
    assert {min(values), max(values)} == {3, 5}


def changed(**fields: dict[str, Any] | None) -> dict[str, Any]:
    """EVERYTHING with other properties of some fields; None removes one."""
    kept = [
        {**f, **(fields.get(f["name"]) or {})} for f in EVERYTHING["fields"] if fields.get(f["name"], {}) is not None
    ]
    return {**EVERYTHING, "fields": kept}


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (changed(text={"name": "words", "aliases": ["text"]}, small={"type": "double"}), []),
        (changed(text={"name": "words"}), ["field 'words' is not in the writer's schema", "as JSON, row 0: "]),
        (changed(large={"type": "int"}), ["the writer's long has no place in the reader's int"]),
        (changed(text=None), ['as JSON, row 0: field "text" is not in the schema']),
        (
            changed(kind={"type": {"type": "enum", "name": "Kind", "symbols": ["A", "B"], "default": "A"}}),
            ["row 2: field 'kind' reads as 'A', 'C' was written", "as JSON, row 2: "],
        ),
        (changed(flag={"aliases": ["x"]}), []),
    ],
)
def test_what_todays_schema_reads_wrongly(tmp_path: Path, schema: dict[str, Any], told: list[str]) -> None:
    found = golden.problems(golden.record(tmp_path, "x", EVERYTHING, "1"), schema)
    assert len(found) == len(told)
    assert all(part in problem for part, problem in zip(told, found, strict=True))


def test_rows_that_are_not_what_was_written(tmp_path: Path) -> None:
    path = golden.record(tmp_path, "x", EVERYTHING, "1")
    lines = path.with_suffix(".json").read_text().splitlines()
    lines[3] = json.dumps({**json.loads(lines[3]), "small": 7})
    path.with_suffix(".json").write_text("\n".join(lines))
    (problem,) = golden.problems(path, EVERYTHING)
    assert "row 3: field 'small' reads as" in problem
    path.with_suffix(".json").write_text("\n".join(lines[:3]))
    (problem,) = golden.problems(path, EVERYTHING)
    assert problem == "8 rows were read where 3 were written"


def test_somebody_elses_nulls_are_left_out() -> None:
    schema = {"type": "record", "name": "K", "fields": [{"name": "A", "type": ["null", "long"]}]}
    assert None in [row["A"] for row in golden.sample_rows(schema)]
    assert None not in [row["A"] for row in golden.sample_rows(schema, nulls=False)]


def test_resolution_by_the_specification() -> None:
    def record(*fields: dict[str, Any]) -> Any:
        return parse_record({"type": "record", "name": "R", "fields": list(fields)})

    writer = record({"name": "A", "type": ["null", "int"]}, {"name": "b", "type": {"type": "array", "items": "int"}})
    reader = record(
        {"name": "a", "type": "long", "aliases": ["A"]},
        {"name": "b", "type": {"type": "array", "items": "double"}},
        {"name": "c", "type": "string", "default": "none"},
    )
    assert golden.resolved({"A": 1, "b": [1, 2]}, reader, writer) == {"a": 1, "b": [1.0, 2.0], "c": "none"}


def test_damaged_golden_files(tmp_path: Path) -> None:
    path = golden.record(tmp_path, "x", EVERYTHING, "1")
    path.with_suffix(".json").unlink()
    with pytest.raises(UserError, match="restore them from git"):
        golden.problems(path, EVERYTHING)
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"1\.avro is no Avro file .*restore it from git"):
        golden.writer_schema(path)


def test_the_shipped_golden_data_holds_the_old_spellings() -> None:
    folder = Path(schemas.__file__).parent
    paths = golden.files(folder, "car_sensor")
    assert [path.stem for path in paths if not golden.is_version(path)] == ["ints", "ksql", "without_separator"]
    assert golden.is_version(paths[0])
    names = {name for path in paths for name in (field["name"] for field in golden.writer_schema(path)["fields"])}
    assert {"TIRE_PRESSURE_11", "tire_pressure11", "tire_pressure_1_1", "car", "CAR_ID"} <= names
