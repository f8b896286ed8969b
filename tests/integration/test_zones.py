"""Two zones, two brokers: raw payments stay at the edge, the centre trains on an archive without personal data and
gets alerts without any.

Each tagged field of each payment holds values that are nowhere else, and those are looked for in all that the centre
has: records of every topic, the broker's files, the archive, the models and what training said.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

import schemas
from beam_jobs.codec.avro.decoder import AvroDecoder
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.client import ensure_topic
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.sandbox.frauds import simulate
from beam_jobs.sandbox.process import Tansu, free_port
from beam_jobs.use_case import load_use_case
from tests.integration.test_canaries import MARK, in_files, leaks
from tests.integration.test_first_steps import ROOT, following
from tests.services.kafka import SASL_PASSWORD, SASL_USER, SharedBroker

pytestmark = pytest.mark.integration

KEY = "5e" * 32
TAGGED = ("card", "customer", "device", "latitude", "longitude")  # of card_payment.avsc
BAD = 8  # records that are no payments
SECOND = 500  # payments that come after training


def payments() -> pa.RecordBatch:
    """Of 60 cards in 40 days; each tagged value is found again wherever it comes."""
    rows = simulate(60, 40, 5, 0.03).table()
    assert {field["name"] for field in load_use_case("payment_fraud").schema["fields"] if "pii" in field} == set(TAGGED)
    for name in TAGGED:
        at, own = rows.schema.get_field_index(name), rows.column(name)
        if pa.types.is_floating(own.type):  # seven decimals, the last of them each row's own
            own = pa.array(np.round(own.to_numpy() + 3e-6 + np.arange(rows.num_rows) * 1e-7 % 7e-6, 7))
        else:
            own = pc.binary_join_element_wise(own.cast(pa.string()), f"{MARK}-{name}", "-")
        rows = rows.set_column(at, name, own)
    return rows.combine_chunks().to_batches()[0]


class Zones:
    """The edge with its broker and key, the centre with its own."""

    def __init__(self, edge: Tansu, centre: SharedBroker, folder: Path) -> None:
        run = uuid.uuid4().hex[:8]
        self.edge, self.centre = folder / "edge", folder / "centre"
        for zone in (self.edge, self.centre):
            zone.mkdir()
        self.payments = KafkaAddress(edge.bootstrap_servers, f"payments-{run}")
        self.refused = KafkaAddress(edge.bootstrap_servers, f"refused-{run}")
        self.alerts, self.scores, self.dead = (
            KafkaAddress(centre.sasl_servers, f"{name}-{run}") for name in ("alerts", "scores", "dead")
        )
        self.servers, self.logs, self.run = centre.bootstrap_servers, Path(centre.logs), run
        ensure_topic(self.payments, KafkaConfig(), partitions=2)
        config = "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.password=env:CENTRE_PASSWORD\n"
        (self.edge / "centre.properties").write_text(f"{config}sasl.username={SASL_USER}\n")

    def send(self, rows: pa.RecordBatch) -> None:
        """Payments to the edge, each alone in its batch at the end: the embedded broker's end of a partition."""
        case = load_use_case("payment_fraud")
        values = AvroEncoder(case.schema, 1).encode(rows).to_pylist()
        times = rows.column("event_time").cast(pa.int64()).to_pylist()
        cards = rows.column("card").to_pylist()
        producer = Producer({"bootstrap.servers": self.payments.bootstrap_servers})
        for i, (value, card, time_ms) in enumerate(zip(values, cards, times, strict=True)):
            producer.produce(self.payments.topic, value, card, timestamp=time_ms)
            if i >= len(values) - 40:
                producer.flush()
        producer.flush()

    def job(self, module: str, where: Path, *more: str, **secrets: str) -> str:
        """Runs a command in a zone, which knows these secrets alone; what it said."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HIGHBEAM_")}
        environment |= {"PYTHONPATH": os.getcwd(), "TMPDIR": str(where), **secrets}
        command = [sys.executable, "-m", module, "--use_case", "payment_fraud", *more]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def zones(embedded: Tansu, apache_kafka: SharedBroker, tmp_path: Path) -> Zones:
    return Zones(embedded, apache_kafka, tmp_path)


def test_an_archive_without_persons_trains_a_model_that_scores_near_the_data(zones: Zones) -> None:
    rows = payments()
    before = rows.slice(0, rows.num_rows - SECOND)
    zones.send(before)
    group = ("--group_id", "edge", "--input", str(zones.payments), "--until", "latest")
    archive, key = zones.centre / "archive", {"HIGHBEAM_PII_KEY": KEY}
    report = zones.edge / "archive.json"
    where = ("--output", str(archive), "--dead_letters", str(zones.refused), "--create_topics", "--report", str(report))
    zones.job("beam_jobs.archive", zones.edge, *group, *where, **key)
    assert json.loads(report.read_text())["archived"] == before.num_rows

    # The centre has neither the key of the pseudonyms nor an address of the edge.
    models = zones.centre / "models"
    learn = ("--data", str(archive), "--registry", str(models), "--alert_budget", "0.02", "--no-baseline")
    said = zones.job("model.train", zones.centre, *learn)
    shutil.copytree(models, zones.edge / "models")

    zones.send(rows.slice(before.num_rows))
    bad = Producer({"bootstrap.servers": zones.payments.bootstrap_servers})
    for i in range(BAD):
        bad.produce(zones.payments.topic, f"no payment of {MARK}-{i}".encode(), f"{MARK}-{i}".encode())
        bad.flush()
    report = zones.edge / "score.json"
    out = [f"--{name}={address}" for name, address in (("alerts", zones.alerts), ("scores", zones.scores))]
    out += [f"--dead_letters={zones.dead}", "--dead_letter_payload=drop", "--create_topics"]
    out += ["--output_kafka_config", str(zones.edge / "centre.properties"), "--report", str(report)]
    model = ("--model", str(zones.edge / "models"))
    zones.job("beam_jobs.score", zones.edge, *group, *model, *out, **key, CENTRE_PASSWORD=SASL_PASSWORD)
    counted = json.loads(report.read_text())
    assert (counted["scored"], counted["dead_letters"], counted["unaccounted"]) == (SECOND, BAD, 0)

    alerts = read(zones, zones.alerts.topic, "alert")
    assert len(alerts) == counted["alerts"] > 0
    cards = {row["card"] for row in archived(archive)}
    assert {alert["key"] for alert in alerts} <= cards
    assert all(len(card) == 64 for card in cards)
    assert {dict(alert["attributes"])["payment_id"] for alert in alerts} <= set(rows.column("payment_id").to_pylist())

    found = [*in_files(zones.centre), *leaks("training", said.encode()), *in_records(zones), *in_logs(zones)]
    found += positions_in(archived(archive), rows)
    places = [*rows.column("latitude").to_pylist(), *rows.column("longitude").to_pylist()]
    found += [leak for what, data in everything(zones) for leak in doubles(what, data, places)]
    assert found == []


def test_the_search_finds_what_the_edge_has(zones: Zones) -> None:
    rows = payments().slice(0, 60)
    zones.send(rows)
    records = [record for _, record in consumed(zones.payments.bootstrap_servers, [zones.payments.topic])]
    places = rows.column("latitude").to_pylist()
    assert any(True for record in records for _ in leaks("edge", record))
    assert any(True for record in records for _ in doubles("edge", record, places))
    plain = [{"payment_id": name, "x": x} for name, x in zip(rows["payment_id"].to_pylist(), places, strict=True)]
    assert positions_in(plain, rows)


@pytest.mark.nightly  # the commands of docs/privacy.md, whose steps the test above takes
def test_the_page_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGHBEAM_PII_KEY", KEY)  # each block has a shell of its own
    page = (
        (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8").partition("## Zones apart")[2].partition("\n## ")[0]
    )
    page = page.replace("export HIGHBEAM_PII_KEY=$(openssl rand -hex 32)\n", "")
    for port in ("19092", "18081"):
        page = page.replace(port, str(free_port()))
    with following(page, tmp_path, "") as followed:
        summary = followed.end()
    assert "every record is accounted for" in summary
    alerts = [json.loads(line) for line in followed.said[-1].splitlines() if line.startswith("{")]
    assert len(alerts) == 5
    assert {alert["key"] for alert in alerts} <= {row["card"] for row in archived(tmp_path / "centre" / "archive")}


# What the centre has.


def archived(folder: Path) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    for file in folder.rglob("*.avro"):
        with file.open("rb") as opened:
            found += [row for row in fastavro.reader(opened) if isinstance(row, dict)]
    assert found
    return found


def positions_in(found: Sequence[Mapping[str, Any]], rows: pa.RecordBatch) -> list[str]:
    """Columns that hold a payment's own position."""
    where = {
        name: place
        for name, *place in zip(*(rows[c].to_pylist() for c in ("payment_id", "latitude", "longitude")), strict=True)
    }
    return [
        f"{row['payment_id']}: {name}"
        for row in found
        for name, value in row.items()
        if isinstance(value, float) and any(abs(value - own) < 1e-5 for own in where[row["payment_id"]])
    ]


def doubles(what: str, data: bytes, places: Sequence[float]) -> Iterator[str]:
    """Positions as eight bytes, or with their decimals."""
    yield from (
        f"{what}: {place}" for place in places if struct.pack("<d", place) in data or f"{place:.7f}".encode() in data
    )


def consumed(servers: str, names: Sequence[str]) -> list[tuple[str, bytes]]:
    """Keys, values and headers of all records of topics."""
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": f"search-{uuid.uuid4()}", "enable.auto.commit": False}
    )
    topics, found = consumer.list_topics(timeout=10).topics, []
    for name in names:
        for partition in topics[name].partitions:
            low, end = consumer.get_watermark_offsets(TopicPartition(name, partition), 10)
            consumer.assign([TopicPartition(name, partition, low)])
            while low < end:
                for message in consumer.consume(10_000, 0.5):
                    parts = [
                        message.key() or b"",
                        message.value() or b"",
                        *(v or b"" for _, v in message.headers() or ()),
                    ]
                    found.append((f"{name}/{partition}/{message.offset()}", b"\0".join(map(bytes, parts))))
                    low = message.offset() + 1
                position = consumer.position([TopicPartition(name, partition)])[0].offset
                low = max(low, position)  # markers of transactions and what is compacted are no records
    consumer.close()
    return found


def everything(zones: Zones) -> list[tuple[str, bytes]]:
    """All records of the centre's broker: of this test's topics, and of the broker's own."""
    consumer = Consumer({"bootstrap.servers": zones.servers, "group.id": "search"})
    names = [name for name in consumer.list_topics(timeout=10).topics if zones.run in name or name.startswith("__")]
    consumer.close()
    assert {"__consumer_offsets", zones.alerts.topic, zones.scores.topic, zones.dead.topic} <= set(names)
    return consumed(zones.servers, names)


def in_records(zones: Zones) -> list[str]:
    return [leak for what, record in everything(zones) for leak in leaks(what, record)]


def in_logs(zones: Zones) -> list[str]:
    """The files in which the centre's broker keeps those topics, and its list of topics."""
    own = [f for f in zones.logs.rglob("*") if f.is_file() and (zones.run in f.parent.name or "__" in f.parent.name)]
    assert any(file.suffix == ".log" and file.stat().st_size for file in own)
    return [leak for file in own for leak in leaks(str(file), file.read_bytes())]


def read(zones: Zones, topic: str, schema: str) -> list[dict[str, Any]]:
    reader = schemas.load(schema)
    values: list[bytes] = []
    consumer = Consumer({"bootstrap.servers": zones.servers, "group.id": "alerts"})
    low, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), 10)
    consumer.assign([TopicPartition(topic, 0, low)])
    while len(values) < end - low:
        values += [message.value() for message in consumer.consume(1000, 0.5)]
    consumer.close()
    return list(AvroDecoder(reader, lambda _: reader).decode(pa.array(values, pa.binary())).rows.to_pylist())
