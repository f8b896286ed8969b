"""Producers of several schema versions in one topic: older, newer, KSQL's, JSON; and some that fit no reader."""

from __future__ import annotations

import io
import json
import re
import struct
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import fastavro
import pytest

import schemas
import use_cases
from schemas.registry.server import RegistryServer
from schemas.writers import for_registry
from tests.integration.topics import Topics, events, run

pytestmark = pytest.mark.integration

Row = dict[str, Any]
NOW = schemas.load("car_sensor")
FIRMWARE = "control_unit_firmware"
ROWS = 300  # of each version


def now() -> dict[str, Any]:
    """The schema of today: the firmware came later, so it has a default."""
    schema = schemas.load("car_sensor")
    next(field for field in schema["fields"] if field["name"] == FIRMWARE)["default"] = 2000
    return schema


def older_name(name: str) -> str:
    """tire_pressure11 for tire_pressure_1_1, as the first devices spelled it."""
    return re.sub(r"_(\d)_(\d)", r"\1\2", name)


def record(fields: list[dict[str, Any]], name: str = "CarSensor") -> dict[str, Any]:
    return {"type": "record", "name": name, "namespace": "highbeam", "fields": fields}


def older() -> dict[str, Any]:
    """Int where there is long now, other names, no firmware, nothing of the driver, no label."""
    wanted = [f for f in NOW["fields"] if f["name"] != FIRMWARE and "default" not in f]
    kinds = ["int" if f["type"] == "long" else f["type"] for f in wanted]
    return record([{"name": older_name(f["name"]), "type": k} for f, k in zip(wanted, kinds, strict=True)])


def newer() -> dict[str, Any]:
    """Fields reordered, two added, other documentation."""
    fields = [{**field, "doc": "As the next release says it."} for field in reversed(now()["fields"])]
    wheel = {"type": "record", "name": "Wheel", "fields": [{"name": "rpm", "type": "float"}]}
    added = {"name": "wheels", "type": {"type": "array", "items": wheel}, "default": []}
    return record([added, *fields, {"name": "ambient_temp", "type": "double", "default": 0}])


def ksql() -> dict[str, Any]:
    """Upper case, nullable, times as plain numbers, under KSQL's own name."""
    plain = [(f["name"].upper(), f["type"] if isinstance(f["type"], str) else "long") for f in NOW["fields"][:20]]
    fields = [{"name": name, "type": ["null", kind], "default": None} for name, kind in plain]
    return record(fields, "io.confluent.ksql.avro_schemas.KsqlDataSourceSchema")


def without_speed() -> dict[str, Any]:
    return record([field for field in now()["fields"] if field["name"] != "speed"])


def speed_as_text() -> dict[str, Any]:
    return record([{**field, "type": "string"} if field["name"] == "speed" else field for field in now()["fields"]])


def millis(row: Row) -> Row:
    return {**row, "event_time": int(row["event_time"].timestamp() * 1000)}


def framed(schema: dict[str, Any], schema_id: int, row: Row) -> bytes:
    """Written by fastavro, which shares nothing with the job's decoder."""
    body = io.BytesIO()
    fastavro.schemaless_writer(body, schema, row)
    return b"\x00" + struct.pack(">I", schema_id) + body.getvalue()


class World:
    """A registry with every version, a use case with today's, and a topic where all producers write."""

    def __init__(self, topics: Topics, registry: RegistryServer, folder: Path) -> None:
        self.topics, self.registry = topics, registry
        self.rows = [row for row in events(2 * ROWS).to_pylist() if row[FIRMWARE] == 2000][:ROWS]
        assert len(self.rows) == ROWS
        self.use_case = folder / "car_sensors"
        self.use_case.mkdir()
        shipped = resources.files(use_cases) / "car_sensors"
        (self.use_case / "preprocess.sql").write_text((shipped / "preprocess.sql").read_text())
        settings = (shipped / "use_case.yaml").read_text().replace("schema: car_sensor ", "schema: car.avsc ")
        (self.use_case / "use_case.yaml").write_text(settings)
        (self.use_case / "car.avsc").write_text(json.dumps(now()))
        source, subject = for_registry(registry.url, {}), topics.name("events") + "-value"
        # The registry itself finds that these may follow each other.
        self.ids = {name: source.register(subject, make()) for name, make in VERSIONS.items()}
        self.ids |= {name: source.register(f"{name}-value", make()) for name, make in FOREIGN.items()}

    def records(self, row: Row) -> Iterator[tuple[str, bytes]]:
        """One row as each producer writes it."""
        plain = millis(row)
        old = {older_name(name): value for name, value in row.items()}
        yield "older", framed(older(), self.ids["older"], old)
        yield "now", framed(now(), self.ids["now"], row)
        yield "newer", framed(newer(), self.ids["newer"], {**row, "wheels": [{"rpm": 1.0}], "ambient_temp": 9.5})
        yield "ksql", framed(ksql(), self.ids["ksql"], {name.upper(): value for name, value in plain.items()})
        yield "json", json.dumps(plain).encode()
        older_json = {older_name(name): value for name, value in plain.items() if name != FIRMWARE}
        yield "older json", json.dumps(older_json).encode()

    def send(self) -> list[bytes]:
        """Every row of every version, interleaved; returns those that fit no reader."""
        values, bad = [], []
        for i, row in enumerate(self.rows):
            values += [(value, row["car_id"].encode()) for _, value in self.records(row)]
            if i % 50 == 0:
                bad.append(framed(without_speed(), self.ids["without_speed"], row))
                bad.append(framed(speed_as_text(), self.ids["speed_as_text"], {**row, "speed": "fast"}))
                values += [(value, row["car_id"].encode()) for value in bad[-2:]]
        self.topics.send("events", [value for value, _ in values], [key for _, key in values])
        return bad

    def command(self, job: str, *more: str) -> list[str]:
        return [
            *(sys.executable, "-m", f"beam_jobs.{job}", "--use_case", str(self.use_case)),
            *("--input", self.topics.uri("events"), "--from", "earliest", "--until", "latest"),
            *("--schema_registry", self.registry.url, "--dead_letters", self.topics.uri("dead"), *more),
        ]

    def check_dead_letters(self, bad: list[bytes]) -> None:
        letters = self.topics.read("dead", "dead_letter")
        assert sorted(letter["value"] for letter in letters) == sorted(bad)
        assert {letter["reason"] for letter in letters} == {"unresolvable"}
        told = {letter["error"].partition(": ")[2] for letter in letters}
        assert told == {
            "field 'speed' is not in the writer's schema 'highbeam.CarSensor' and has no default; give it a default "
            "or, if the writer calls it otherwise, an alias",
            "field 'speed': the writer's string has no place in the reader's double; mend the writer, or widen the "
            "reader's type",
        }


VERSIONS = {"older": older, "now": now, "newer": newer}  # of one subject
FOREIGN = {"ksql": ksql, "without_speed": without_speed, "speed_as_text": speed_as_text}
GOOD = len(VERSIONS) + 3  # records of a row that can be read: those, KSQL's, two of JSON


@pytest.fixture
def world(topics: Topics, tmp_path: Path) -> Iterator[World]:
    with RegistryServer() as registry:
        yield World(topics, registry, tmp_path)


def test_every_version_scores_alike(world: World, trained_model: Path, tmp_path: Path) -> None:
    topics, bad = world.topics, world.send()
    report = tmp_path / "report.json"
    outputs = [f"--{name}={topics.uri(name)}" for name in ("alerts", "scores")]
    run(world.command("score", "--model", str(trained_model), "--report", str(report), *outputs))
    counted = json.loads(report.read_text())
    assert (counted["scored"], counted["dead_letters"], counted["unaccounted"]) == (GOOD * ROWS, len(bad), 0)
    scores = topics.read("scores", "score")
    by_event = defaultdict(list)
    for score in scores:
        by_event[score["key"], score["event_time"]].append(score["score"])
    assert by_event.keys() == {(row["car_id"], row["event_time"]) for row in world.rows}
    assert all(len(found) == GOOD and len(set(found)) == 1 for found in by_event.values())
    assert len({found[0] for found in by_event.values()}) > ROWS / 2  # and they are no constant
    anomalies = {
        f"{topics.name('events')}-{s['source_partition']}-{s['source_offset']}" for s in scores if s["is_anomaly"]
    }
    assert anomalies
    assert {alert["id"] for alert in topics.read("alerts", "alert")} == anomalies
    world.check_dead_letters(bad)


def test_every_version_is_archived_under_one_schema(world: World, tmp_path: Path) -> None:
    bad = world.send()
    run(world.command("archive", "--raw", "--output", str(tmp_path / "archive"), "--max_file_mb", "0.2"))
    headers, by_event = set(), defaultdict(list)
    for path in (tmp_path / "archive").rglob("*.avro"):
        with path.open("rb") as file:
            reader = fastavro.reader(file)
            headers.add(reader.metadata["avro.schema"])
            for row in reader:
                assert isinstance(row, dict)
                by_event[row["car_id"], row["event_time"]].append(row)
    assert len(headers) == 1
    assert by_event.keys() == {(row["car_id"], row["event_time"]) for row in world.rows}
    for row in world.rows:
        found = by_event[row["car_id"], row["event_time"]]
        assert len(found) == GOOD
        fields = [name for name in found[0] if not name.startswith("source_") and name != "failure_occurred"]
        assert FIRMWARE in fields
        assert all(other[name] == row[name] for other in found for name in fields)
        # Two of the six know no label: its default is null.
        assert sorted(str(other["failure_occurred"]) for other in found) == sorted(
            [str(row["failure_occurred"])] * (GOOD - 2) + ["None"] * 2
        )
    world.check_dead_letters(bad)
