"""highbeam privacy report: of known rows, in both formats, by the use case or by names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from beam_jobs.errors import UserError
from beam_jobs.privacy import report

ROWS: list[dict[str, Any]] = [
    {"card": f"c{i}", "at": 1_764_000_000_000 + i * 61_000, "zip": zip_, "lat": lat, "amount": float(i)}
    for i, (zip_, lat) in enumerate([("80331", 48.1), ("80333", 48.1), ("80335", 48.1), ("10115", 52.5)] * 3)
]
TIME = {"type": "long", "logicalType": "timestamp-millis"}
SCHEMA = {
    "type": "record",
    "name": "Row",
    "fields": [
        {"name": "card", "type": "string"},
        {"name": "at", "type": TIME},
        {"name": "zip", "type": ["null", "string"]},
        {"name": "lat", "type": "float"},
        {"name": "amount", "type": "double"},
    ],
}


@pytest.fixture(params=["avro", "parquet"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    folder = tmp_path / "archive"
    for number, rows in enumerate([ROWS[:7], ROWS[7:]]):
        path = folder / f"highbeam_date=2026-0{number + 1}-01" / f"rows.{request.param}"
        path.parent.mkdir(parents=True)
        if request.param == "avro":
            with path.open("wb") as file:
                fastavro.writer(file, SCHEMA, rows)  # type: ignore[arg-type]
        else:
            types = {"card": pa.string(), "at": pa.timestamp("ms", "UTC"), "zip": pa.string(), "lat": pa.float32()}
            table = pa.Table.from_pylist(rows, pa.schema({**types, "amount": pa.float64()}))
            pq.write_table(table.set_column(2, "zip", table.column("zip").dictionary_encode()), path)
    return str(folder)


def test_known_classes(archive: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    html = tmp_path / "report.html"
    options = ["--quasi_identifiers", "zip,lat", "--key", "card", "--html", str(html)]
    assert report.main([archive, *options, "--k", "3"]) == 0
    shown = capsys.readouterr().out
    assert "12 rows, 12 persons by card" in shown
    assert "k = 3: the smallest of 4 classes; 0 rows (0.00%)" in shown
    assert "nothing to do" in shown
    assert report.main([archive, *options, "--k", "4"]) == 1
    shown = capsys.readouterr().out
    assert "12 (100.00%) are in classes of fewer than 4" in shown
    page = html.read_text()
    assert "left out" in shown
    assert "<h2>To reach k = 4</h2>" in page
    assert not any(value in shown + page for value in ("80331", "48.1", "c11"))  # it counts values, and shows none


def test_what_to_cut(archive: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([archive, "--quasi_identifiers", "at", "--k", "12"]) == 1
    shown = capsys.readouterr().out
    assert "12 rows, each of another person" in shown
    assert "to the hour  truncate(at, 'hour')" in shown
    assert report.main([archive, "--quasi_identifiers", "at", "--k", "13"]) == 1
    assert "no cut reaches k = 13: there are 12 persons in all" in capsys.readouterr().out


def test_columns_of_a_use_case(archive: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "case"
    folder.mkdir()
    fields = [dict(field) for field in SCHEMA["fields"]]
    fields[0]["pii"], fields[2]["pii"], fields[3]["pii"] = "direct", "quasi", "quasi"
    schema = {**SCHEMA, "fields": fields}
    (folder / "e.avsc").write_text(json.dumps(schema))
    settings = {"schema": "e.avsc", "key": "card", "event_time": "at", "pii": {"key": "env:NOT_READ_HERE"}}
    (folder / "use_case.yaml").write_text(yaml.safe_dump(settings))
    (folder / "preprocess.sql").write_text(
        "SELECT pseudonymize(card) AS card, at, amount, pseudonymize(zip) AS zip, generalize(lat, 1) AS lat FROM events"
    )
    report.main([archive, "--use_case", str(folder), "--k", "4"])
    shown = capsys.readouterr().out
    assert "quasi-identifiers: zip, lat" in shown
    assert "12 persons by card" in shown
    assert "leave zip out" in shown  # a pseudonym has no first characters


def test_what_is_missing(archive: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no use case is named, so no column is known"):
        report.main([archive])
    with pytest.raises(UserError, match="car_sensors selects nothing of a field tagged quasi"):
        report.main([archive, "--use_case", "car_sensors"])
    with pytest.raises(UserError, match="has no column street; it has card, at, zip"):
        report.main([archive, "--quasi_identifiers", "zip,street"])
    with pytest.raises(UserError, match="zip says who a row is about"):
        report.main([archive, "--quasi_identifiers", "zip", "--key", "zip"])
    with pytest.raises(UserError, match="at least 2 persons"):
        report.main([archive, "--quasi_identifiers", "zip", "--k", "1"])
    with pytest.raises(UserError, match=r"no \.avro or \.parquet file there"):
        report.main([str(tmp_path / "nowhere"), "--quasi_identifiers", "zip"])
