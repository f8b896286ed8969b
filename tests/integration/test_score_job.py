"""The scoring job as a user runs it, on Apache Kafka: bad input, a kill, a redrive, Prism."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka import Consumer, TopicPartition

from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.codec.avro.file import write_avro
from model import train
from tests.integration.topics import CAR_SENSOR, Topics, events, framed, run
from tests.services.job import DEVNULL, PIPE, Job, finished

pytestmark = pytest.mark.integration

HUGE = 5_000_000  # bytes of one value
RUNNERS = ["DirectRunner", "two workers", "PrismRunner"]


def where(runner: str, request: pytest.FixtureRequest) -> list[str]:
    """The flags of one of RUNNERS."""
    if runner == "two workers":
        return ["--direct_num_workers=2"]
    prism = ["--prism_location", str(request.getfixturevalue("prism_binary"))] if runner == "PrismRunner" else []
    return ["--runner", runner, *prism]


@pytest.fixture
def score(topics: Topics, trained_model: Path, tmp_path: Path) -> Callable[..., list[str]]:
    def command(*more: str) -> list[str]:
        return [
            *(sys.executable, "-m", "beam_jobs.score", "--use_case", "car_sensors", "--model", str(trained_model)),
            *("--input", topics.uri("events"), "--from", "earliest", "--until", "latest"),
            *("--alerts", topics.uri("alerts"), "--scores", topics.uri("scores")),
            *("--dead_letters", topics.uri("dead"), "--report", str(tmp_path / "report.json"), *more),
        ]

    return command


def report(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "report.json").read_text())
    return found


def with_column(rows: pa.RecordBatch, name: str, value: Any) -> pa.RecordBatch:
    i = rows.schema.get_field_index(name)
    return rows.set_column(i, rows.schema.field(i), pa.array([value] * rows.num_rows, rows.schema.field(i).type))


def as_json(row: dict[str, Any], **changes: Any) -> bytes:
    row = {**row, "event_time": int(row["event_time"].timestamp() * 1000), **changes}
    return json.dumps({k: v for k, v in row.items() if v is not ...}).encode()


def bad_records() -> dict[str, list[tuple[bytes, str]]]:
    """What the issue tracker of any such system is full of: (value, reason the dead letter must name)."""
    one = events(1)
    row, good = one.to_pylist()[0], framed(one)[0]
    nan, inf = (framed(with_column(one, "speed", v))[0] for v in (float("nan"), float("inf")))
    vin_at = good.index(row["car_id"].encode())
    return {
        "wrong magic byte": [(b"\x01" + good[1:], "bad_magic_byte"), (b"plain text", "bad_magic_byte")],
        "truncated": [(good[:-1], "truncated"), (good[:40], "truncated"), (good[:3], "truncated_header")],
        "over-long": [(good + b"\x00", "trailing_bytes")],
        "not a number": [(nan, "not_finite"), (inf, "not_finite")],
        "out of range": [(framed(with_column(one, "tire_pressure_1_1", 250))[0], "out_of_range")],
        "empty": [(b"", "empty_value")],
        "invalid utf-8": [(good[:vin_at] + b"\xff" + good[vin_at + 1 :], "invalid_utf8")],
        "json missing field": [(as_json(row, speed=...), "missing_field")],
        "json extra field": [(as_json(row, colour="red"), "unknown_field")],
        "json wrong type": [(as_json(row, speed="fast"), "wrong_type")],
        "no json": [(b'{"speed": ', "invalid_json")],
        "5 MB": [(b"\x00\x00\x00\x00\x01" + b"\x7f" * HUGE, "")],
    }


def test_bad_records_are_dead_letters_and_every_good_neighbour_is_scored(
    topics: Topics, score: Callable[..., list[str]], tmp_path: Path
) -> None:
    good = framed(events(3000))
    bad = [pair for kind in bad_records().values() for pair in kind]
    values: list[bytes | None] = list(good)
    for i, (value, _) in enumerate(bad):
        values.insert(100 * i, value)
    values.append(as_json(events(1).to_pylist()[0]))  # JSON of the same schema is as good as Avro
    values.append(None)  # a tombstone is no event, and nothing is wrong with it
    topics.send("events", values)
    run(score())
    counted = report(tmp_path)
    assert (counted["read"], counted["unaccounted"]) == (len(values), 0)
    assert (counted["scored"], counted["dead_letters"], counted["tombstones"]) == (len(good) + 1, len(bad), 1)
    letters = topics.read("dead", "dead_letter")
    assert len(topics.read("scores", "score")) == len(good) + 1
    by_value = {letter["value"]: letter for letter in letters}
    for value, reason in bad:
        if len(value) < HUGE:
            assert by_value[value]["reason"] == reason
            assert len(by_value[value]["error"]) > 15
    huge = [letter for letter in letters if letter["value"] is None]
    assert len(huge) == 1
    assert "is left out" in huge[0]["error"]


def test_unknown_schema_ids_are_dead_letters_with_a_registry(
    topics: Topics, score: Callable[..., list[str]], tmp_path: Path
) -> None:
    from schemas.registry.server import RegistryServer
    from schemas.writers import for_registry

    with RegistryServer() as registry:
        schema_id = for_registry(registry.url, CAR_SENSOR).register(topics.name("events") + "-value", CAR_SENSOR)
        good = [v[:1] + struct.pack(">I", schema_id) + v[5:] for v in framed(events(500))]
        topics.send("events", [*good, good[0][:1] + struct.pack(">I", 4711) + good[0][5:]])
        run(score("--schema_registry", registry.url))
    letters = topics.read("dead", "dead_letter")
    assert [letter["reason"] for letter in letters] == ["unknown_schema_id"]
    assert "4711" in letters[0]["error"]
    assert report(tmp_path)["scored"] == 500


# One worker at night: by day test_archive_job.py kills such a job.
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.nightly), 2])
def test_killed_and_resumed_nothing_is_lost(topics: Topics, score: Callable[..., list[str]], workers: int) -> None:
    n = 12_000
    topics.send("events", framed(events(n)))  # type: ignore[arg-type]
    command = score("--group_id", topics.name("group"), "--progress", "json", "--block_rows", "500")
    command.append(f"--direct_num_workers={workers}")
    job = Job(command, stdout=DEVNULL, stderr=DEVNULL)
    consumer = Consumer({"bootstrap.servers": topics.servers, "group.id": "watch"})
    consumer.assign([TopicPartition(topics.name("scores"), 0, 0)])
    seen = 0
    while seen < 5_000 and job.poll() is None:
        seen += len(consumer.consume(1000, 0.2))
    consumer.close()
    job.kill()
    job.wait()
    run(command)
    scores = topics.read("scores", "score")
    positions = {(s["source_partition"], s["source_offset"]) for s in scores}
    assert len(positions) == n
    alerts = topics.read("alerts", "alert")
    anomalies = {(s["source_partition"], s["source_offset"]) for s in scores if s["is_anomaly"]}
    assert {(a["source_partition"], a["source_offset"]) for a in alerts} == anomalies
    assert {a["id"] for a in alerts} == {f"{topics.name('events')}-{p}-{o}" for p, o in anomalies}


# The others at night: by day they end in order in test_ctrl_c_ends_a_live_job_in_order.
@pytest.mark.parametrize(
    "runner", ["DirectRunner", *(pytest.param(runner, marks=pytest.mark.nightly) for runner in RUNNERS[1:])]
)
def test_too_many_dead_letters_stop_the_job(
    topics: Topics, score: Callable[..., list[str]], runner: str, request: pytest.FixtureRequest
) -> None:
    topics.send("events", [b"\x01nothing we know"] * 20_000)
    command = score("--max_dead_letter_rate", "0.5", "--block_rows", "1000", *where(runner, request))
    done = finished(command)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: stopped: ")
    assert "--max_dead_letter_rate 0.5" in last
    letters = topics.read("dead", "dead_letter")  # the case in which a person needs examples most
    assert 1000 <= len({letter["offset"] for letter in letters}) <= 20_000
    if runner != "PrismRunner":  # the counts are those of its worker
        assert f"dead letters{len(letters):,}" in re.sub(r"[^\w, ]| {2,}", "", done.stdout)
    assert "while running" not in last
    if runner != "PrismRunner":  # there, Beam's worker prints its own stack trace before the job's line
        assert "Traceback" not in done.stderr


def test_redrive_puts_dead_letters_back(topics: Topics, score: Callable[..., list[str]], tmp_path: Path) -> None:
    good = framed(events(200))
    topics.send("events", [*good, good[0][:-1], b""])
    (tmp_path / "key").write_text("1f" * 32)
    key = ("--dead_letter_key", f"file:{tmp_path}/key")
    run(score("--dead_letter_payload", "encrypt", *key))
    assert not any(good[0][5:-1] in record["value"] for record in topics.read("dead"))
    redrive = [
        *(sys.executable, "-m", "beam_jobs.redrive", "--input", topics.uri("dead"), "--output", topics.uri("events")),
        *("--from", "earliest", "--group_id", topics.name("redrive"), "--reason", "truncated"),
        *key,
    ]
    assert "truncated" in run(redrive).stdout
    back = topics.read("events")
    assert len(back) == 203
    again = [record for record in back if record["headers"]]
    assert again == [{"value": good[0][:-1], "headers": [("highbeam.redrives", b"1")]}]
    run(redrive)
    assert len(topics.read("events")) == 203  # nothing is put back twice


@pytest.mark.parametrize("runner", RUNNERS)
def test_ctrl_c_ends_a_live_job_in_order(
    topics: Topics,
    score: Callable[..., list[str]],
    tmp_path: Path,
    runner: str,
    request: pytest.FixtureRequest,
) -> None:
    topics.send("events", framed(events(1000)))  # type: ignore[arg-type]
    command = score("--progress", "json", *where(runner, request))
    command = [word for word in command if word not in ("--until", "latest")]
    job = Job(command, stdout=PIPE, stderr=PIPE, start_new_session=True)
    assert job.stderr is not None
    states, sent = [{"scored": 0}], False
    while states[-1]["scored"] < 1100:
        line = next(job.stderr)
        states += [json.loads(line)] if line.startswith("{") else []
        if states[-1]["scored"] == 1000 and not sent:
            assert all(state.get("latency_ms_p99") is None for state in states)  # what was there before is not late
            topics.send("events", framed(events(100)))  # type: ignore[arg-type]
            sent = True
    os.killpg(job.pid, signal.SIGINT)  # as a terminal does: the runner's processes get it too
    out, errors = job.communicate(timeout=60)
    assert job.returncode == 0, errors
    assert "every record is accounted for" in out
    assert report(tmp_path)["scored"] == 1100
    assert report(tmp_path)["latency_ms"]["p99"] is not None


def test_the_same_job_on_prism(topics: Topics, score: Callable[..., list[str]], prism_binary: Path) -> None:
    topics.send("events", framed(events(5000)))  # type: ignore[arg-type]
    run(score("--runner", "PrismRunner", "--prism_location", str(prism_binary)))
    scores = topics.read("scores", "score")
    assert len({(s["source_partition"], s["source_offset"]) for s in scores}) == 5000


PUMP = {
    "type": "record",
    "name": "Pump",
    "fields": [
        {"name": "pump", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "flow", "type": "double", "unit": "l/s", "min": 0, "max": 100},
        {"name": "power", "type": ["null", "double"], "default": None, "unit": "kW", "min": 0, "max": 50},
        {"name": "operator", "type": "string", "pii": "direct"},
        {"name": "site", "type": ["null", "string"], "default": None},
    ],
}


def test_another_use_case_needs_no_python(topics: Topics, tmp_path: Path) -> None:
    folder = tmp_path / "pumps"
    folder.mkdir()
    (folder / "pump.avsc").write_text(json.dumps(PUMP))
    (folder / "preprocess.sql").write_text(
        "SELECT pump, at, site, flow, power, power / (flow + 1) AS ratio FROM events"
    )
    (folder / "use_case.yaml").write_text(
        "schema: pump.avsc\nkey: pump\nevent_time: at\nmodel: {epochs: 3, alert_budget: 0.001}\n"
    )
    n, rng = 10_000, np.random.default_rng(1)
    flow = rng.uniform(5, 60, n)
    sound = pa.record_batch(
        {
            "pump": pa.array([f"pump-{i % 40}" for i in range(n)]),
            "at": pa.array(np.arange(n) + 1_700_000_000_000).cast(pa.timestamp("ms", "UTC")),
            "flow": flow,
            "power": 2 + 0.4 * flow + rng.normal(0, 0.3, n).clip(-1, 1),
            "operator": pa.array(["somebody"] * n),
            "site": pa.array([("Köln", "Bonn", None)[i % 3] for i in range(n)]),
        }
    )
    write_avro(str(tmp_path / "history.avro"), PUMP, [sound])
    train.main(
        ["--use_case", str(folder), "--registry", str(tmp_path / "models"), "--data", str(tmp_path / "history.avro")]
    )
    blocked = sound.slice(0, 10).set_column(3, "power", pa.array([45.0] * 10))
    values = AvroEncoder(PUMP, 1).encode(
        pa.Table.from_batches([sound.slice(0, 1000), blocked]).combine_chunks().to_batches()[0]
    )
    topics.send("events", list(values.to_pylist()))
    command = [sys.executable, "-m", "beam_jobs.score", "--use_case", str(folder), "--model", str(tmp_path / "models")]
    command += ["--input", topics.uri("events"), "--until", "latest", "--report", str(tmp_path / "report.json")]
    command += ["--alerts", topics.uri("alerts"), "--alerts_format", "json", "--scores", topics.uri("scores")]
    run([*command, "--dead_letters", topics.uri("dead")])
    assert report(tmp_path)["scored"] == 1010
    alerts = [json.loads(record["value"]) for record in topics.read("alerts")]
    assert {a["key"] for a in alerts} >= {f"pump-{i}" for i in range(10)}
    assert all(f["name"] in ("flow", "power", "ratio") for a in alerts for f in a["features"])
    sites = ("Köln", "Bonn", None)
    assert {a["attributes"]["site"] for a in alerts if a["key"] in ("pump-0", "pump-1", "pump-2")} == set(sites)
    for score in topics.read("scores", "score")[:1000]:
        assert dict(score["attributes"]) == {"site": sites[(score["event_time"].microsecond // 1000) % 3]}
