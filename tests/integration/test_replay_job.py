"""An archive back on a topic of Apache Kafka: the same keys, times, order and scores; and archives of archives."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from confluent_kafka import Consumer, Message, Producer, TopicPartition

import schemas
from beam_jobs import archive, replay
from beam_jobs.archives.read import find, read_rows
from beam_jobs.archives.rows import archive_schema
from beam_jobs.block import raw_block
from beam_jobs.codec.avro.decoder import AvroDecoder
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.io.bus import parse
from beam_jobs.io.kafka.client import ensure_topic
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.sink import WriteBlocks
from beam_jobs.origin import ORIGIN_HEADER
from beam_jobs.terminal import cli
from beam_jobs.use_case import load_use_case
from schemas.registry.server import RegistryServer
from tests.integration.pubsub_topics import PubSubTopics
from tests.integration.topics import CAR_SENSOR, Topics, events, framed, run
from tests.services.job import DEVNULL, PIPE, Job, finished

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

HOUR = 3_600_000
PERSONAL = {"vin", "driver_name", "latitude", "longitude"}


@dataclass(frozen=True)
class Jobs:
    """Command lines on the topics of one test."""

    topics: Topics
    folder: Path
    use_case: str = "car_sensors"

    def uri(self, name: str) -> str:
        return self.topics.uri(name)

    def archive(self, source: str, target: str, *more: str) -> list[str]:
        span = ["--from", "earliest", "--until", "latest"] if source.startswith("kafka") else []
        return [
            *(sys.executable, "-m", "beam_jobs.archive", "--use_case", self.use_case, "--input", source, *span),
            *("--output", str(self.folder / target), "--dead_letters", self.uri("dead"), *self.report(), *more),
        ]

    def replay(self, source: str, target: str, *more: str) -> list[str]:
        """``target``: short for a topic of the test's, or an address."""
        output = target if "://" in target else self.uri(target)
        return [
            *(sys.executable, "-m", "beam_jobs.replay", "--use_case", self.use_case),
            *("--input", str(self.folder / source), "--output", output, *self.report(), *more),
        ]

    def score(self, source: str, model: Path, name: str) -> list[str]:
        bus = source.partition("://")[0]
        span = {
            "kafka": ["--from", "earliest", "--until", "latest"],
            "pubsub": ["--until", "latest", "--quiet_seconds", "5"],
        }.get(bus, [])
        outputs = [word for to in ("alerts", "scores") for word in (f"--{to}", self.uri(f"{to}-{name}"))]
        return [
            *(sys.executable, "-m", "beam_jobs.score", "--use_case", self.use_case, "--model", str(model)),
            *("--input", source, *span, *outputs, "--dead_letters", self.uri("dead"), "--create_topics"),
        ]

    def report(self) -> list[str]:
        return ["--report", str(self.folder / "report.json")]

    def reported(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "report.json").read_text())
        return found

    def rows(self, folder: str) -> list[dict[str, Any]]:
        """All rows of an archive, in its own schema."""
        content = "features" if "features" in folder else "events"
        schema = archive_schema(load_use_case(self.use_case), content)  # type: ignore[arg-type]
        paths = find(str(self.folder / folder))
        return [row for path in paths for batch in read_rows(path, schema) for row in batch.to_pylist()]


@pytest.fixture
def jobs(topics: Topics, tmp_path: Path) -> Jobs:
    return Jobs(topics, tmp_path)


def late(rows: pa.RecordBatch, share: float = 0.1) -> pa.RecordBatch:
    """The same events; a share of them hours late, at random."""
    chance = np.random.default_rng(8)
    millis = rows.column("event_time").cast(pa.int64()).to_numpy()
    millis = millis - HOUR * chance.integers(1, 30, len(millis)) * (chance.random(len(millis)) < share)
    index = rows.schema.get_field_index("event_time")
    return rows.set_column(index, rows.schema.field(index), pa.array(millis).cast(rows.schema.field(index).type))


def messages(topics: Topics, name: str) -> list[Message]:
    """All records of a topic, each partition in order."""
    consumer = Consumer({"bootstrap.servers": topics.servers, "group.id": "test"})
    found = []
    for partition in consumer.list_topics(topics.name(name), 10).topics[topics.name(name)].partitions:
        where = TopicPartition(topics.name(name), partition, 0)
        low, end = consumer.get_watermark_offsets(where, 10)
        consumer.assign([where])
        while low < end:
            for message in consumer.consume(10_000, 1.0):
                assert message.error() is None
                found.append(message)
                low = message.offset() + 1
    consumer.close()
    return found


def origins(found: Sequence[Message]) -> list[str]:
    return [dict(message.headers() or [])[ORIGIN_HEADER].decode() for message in found]


def put_again(jobs: Jobs, address: str) -> str:
    """Replays the archive of events; the address."""
    run(jobs.replay("events", address))
    assert jobs.reported()["complete"] is True
    return address


@pytest.mark.parametrize("n", [6000, pytest.param(100_000, marks=pytest.mark.nightly)])
def test_the_same_events_give_the_same_ids_and_scores(jobs: Jobs, trained_model: Path, pubsub: str, n: int) -> None:
    """From the topic, from both kinds of archive, and from either bus that the archive was put back on."""
    jobs.topics.send("events", list(framed(late(events(n)))))
    run(jobs.archive(jobs.uri("events"), "events", "--raw", "--max_file_age", "0.1"))
    run(jobs.archive(jobs.uri("events"), "features"))
    sources = {
        "topic": jobs.uri("events"),
        "events": str(jobs.folder / "events"),
        "features": str(jobs.folder / "features"),
    }
    ensure_topic(parse(jobs.uri("again")), KafkaConfig(), partitions=3)
    sources["again"] = put_again(jobs, jobs.uri("again"))
    sources["pubsub"] = put_again(jobs, PubSubTopics(pubsub).uri("events"))
    alerts, scores = {}, {}
    for name, source in sources.items():
        run(jobs.score(source, trained_model, name))
        alerts[name] = sorted(row["id"] for row in jobs.topics.read(f"alerts-{name}", "alert"))
        values = [message.value() for message in messages(jobs.topics, f"scores-{name}")]
        schema = schemas.load("score")
        rows = AvroDecoder(schema, lambda _, schema=schema: schema).decode(pa.array(values, pa.binary())).rows
        columns = (rows.column(f"source_{part}").to_pylist() for part in ("topic", "partition", "offset"))
        scores[name] = dict(zip(zip(*columns, strict=True), values, strict=True))
        assert len(values) == len(scores[name]) == n
    assert alerts["topic"]
    assert alerts["topic"][0].startswith(jobs.topics.name("events"))
    for name in ("events", "features", "again", "pubsub"):
        assert alerts[name] == alerts["topic"], name
        assert scores[name] == scores["topic"], name  # byte for byte


def test_keys_times_and_order_are_those_of_the_topic(jobs: Jobs) -> None:
    """Keys of every kind, null ones too; the order of each key; in small files, by hour and by route."""
    rows = late(events(6000), 0.02)
    producer = Producer({"bootstrap.servers": jobs.topics.servers})
    for i, value in enumerate(framed(rows)):
        key = [b"car-%d" % (i % 40), b"\x00\x00\x00\x00\x07odd-%d" % (i % 9), None, b""][min(i % 20, 3) if i % 2 else 0]
        producer.produce(jobs.topics.name("events"), value, key, timestamp=1_700_000_000_000 + i * 10)
        producer.poll(0)
    producer.flush()
    small = ["--raw", "--keep_keys", "--block_rows", "700", "--route_by", "failure_occurred"]
    run(jobs.archive(jobs.uri("events"), "events", *small, "--max_file_mb", "0.5"))
    ensure_topic(parse(jobs.uri("again")), KafkaConfig(), partitions=3)
    run(jobs.replay("events", "again"))
    sent, found = messages(jobs.topics, "events"), messages(jobs.topics, "again")
    assert len(sent) == len(found) == 6000
    before = {f"{m.topic()}-{m.partition()}-{m.offset()}": m for m in sent}
    order = defaultdict(list)
    for name, message in zip(origins(found), found, strict=True):
        original = before.pop(name)
        assert message.key() == original.key()
        assert message.timestamp() == original.timestamp()
        assert message.headers() == [(ORIGIN_HEADER, name.encode())]
        if message.key():  # the client spreads records with no key, or an empty one, over all partitions
            order[message.key()].append((original.partition(), original.offset()))
    assert not before
    assert all(positions == sorted(positions) for positions in order.values())
    values = [pa.array([m.value() for m in ms], pa.binary()) for ms in (sent, found)]
    kept = [f["name"] for f in CAR_SENSOR["fields"] if f["name"] not in PERSONAL]
    decoded = [AvroDecoder(CAR_SENSOR, lambda _: CAR_SENSOR).decode(v).rows.select(kept).to_pylist() for v in values]
    assert Counter(map(str, decoded[0])) == Counter(map(str, decoded[1]))


def test_a_key_the_schema_knows_nothing_of_is_not_archived(jobs: Jobs) -> None:
    keys: list[bytes | None] = [b"Jane Doe", None]
    jobs.topics.send("events", list(framed(events(2))), keys)
    done = run(jobs.archive(jobs.uri("events"), "events", "--raw"))
    assert "another key than car_id" in done.stderr
    found = {row["source_key"]: row["car_id"] for row in jobs.rows("events")}
    assert None in found
    assert [key for key in found if key] == [found[key].encode() for key in found if key]


def test_an_archive_of_a_replay_has_the_first_positions(jobs: Jobs) -> None:
    jobs.topics.send("events", list(framed(events(1000))))
    run(jobs.archive(jobs.uri("events"), "events", "--raw"))
    ensure_topic(parse(jobs.uri("again")), KafkaConfig(), partitions=2)
    run(jobs.replay("events", "again"))
    for _ in range(2):  # what is there already is known by its position on this topic
        run(jobs.archive(jobs.uri("again"), "events-2", "--raw"))
    assert jobs.reported()["already_archived"] == 1000

    def described(folder: str) -> list[str]:
        return sorted(str(sorted(row.items())) for row in jobs.rows(folder))

    assert described("events-2") == described("events")


def test_bounds_and_pace(jobs: Jobs) -> None:
    """2 seconds of event time, twice as fast."""
    rows = events(2000)
    jobs.topics.send("events", list(framed(rows)))
    run(jobs.archive(jobs.uri("events"), "events", "--raw"))
    first = rows.column("event_time").cast(pa.int64()).to_numpy().min()
    bounds = ["--from", str(first + 1000), "--until", str(first + 3000)]
    run(jobs.replay("events", "again", "--create_topics", "--speed", "2x", *bounds))
    counted = jobs.reported()
    found = messages(jobs.topics, "again")
    wanted = [t for t in rows.column("event_time").cast(pa.int64()).to_pylist() if first + 1000 <= t < first + 3000]
    assert counted["written"] == counted["wanted"] == len(found) == len(wanted) > 100
    assert 0.8 <= counted["seconds"] < 20
    assert counted["complete"]


def test_ctrl_c_says_how_far_it_came(jobs: Jobs) -> None:
    jobs.topics.send("events", list(framed(events(2000))))
    run(jobs.archive(jobs.uri("events"), "events", "--raw"))
    command = jobs.replay("events", "again", "--create_topics", "--speed", "0.05x", "--progress", "json")
    job = Job(command, stdout=PIPE, stderr=PIPE)
    assert job.stderr is not None
    for line in job.stderr:
        if line.startswith("{") and json.loads(line)["written"]:
            state = json.loads(line)
            break
    job.send_signal(signal.SIGINT)
    out, _ = job.communicate(timeout=60)
    counted = jobs.reported()
    assert job.returncode == 0
    assert "not on the topic yet" in out
    assert 0 < counted["written"] == len(messages(jobs.topics, "again")) < 2000
    assert counted["complete"] is False
    assert state["reached"] <= counted["reached"]


def test_killed_and_started_again_it_repeats_records_that_tell_so(jobs: Jobs) -> None:
    jobs.topics.send("events", list(framed(events(3000))))
    run(jobs.archive(jobs.uri("events"), "events", "--raw"))
    ensure_topic(parse(jobs.uri("again")), KafkaConfig())
    job = Job(jobs.replay("events", "again", "--speed", "0.5x"), stderr=DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not messages(jobs.topics, "again"):
        time.sleep(0.05)
    job.kill()
    job.wait()
    partial = len(messages(jobs.topics, "again"))
    run(jobs.replay("events", "again"))
    found = Counter(origins(messages(jobs.topics, "again")))
    assert 0 < partial < 3000
    assert len(found) == 3000
    assert sum(found.values()) == 3000 + partial


@pytest.mark.nightly
def test_on_prism(jobs: Jobs, prism_binary: Path) -> None:
    """By day archive and score run there, with the same sources and sinks."""
    jobs.topics.send("events", list(framed(late(events(5000)))))
    run(jobs.archive(jobs.uri("events"), "events", "--raw"))
    prism = ["--runner", "PrismRunner", "--prism_location", str(prism_binary)]
    run(jobs.replay("events", "again", "--create_topics", *prism))
    found = origins(messages(jobs.topics, "again"))
    assert len(found) == len(set(found)) == 5000
    assert jobs.reported()["complete"]


PATIENTS = {
    "type": "record",
    "name": "Pulse",
    "namespace": "clinic",
    "fields": [
        {"name": "device", "type": "string"},
        {"name": "patient", "type": "string", "pii": "direct"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "born", "type": "int", "pii": "quasi"},
        {"name": "pulse", "type": "double"},
    ],
}


def test_personal_fields_that_can_not_be_null(topics: Topics, tmp_path: Path) -> None:
    """They are not in the archive, so not in the replayed records either; what needs none of them reads those."""
    folder = tmp_path / "clinic"
    folder.mkdir()
    (folder / "pulse.avsc").write_text(json.dumps(PATIENTS))
    (folder / "preprocess.sql").write_text("SELECT device, at, pulse / 2 AS half FROM events")
    settings = {"schema": "pulse.avsc", "key": "device", "event_time": "at"}
    (folder / "use_case.yaml").write_text(yaml.safe_dump(settings))
    jobs = Jobs(topics, tmp_path, str(folder))
    n = 500
    rows = pa.record_batch(
        {
            "device": [f"d{i % 7}" for i in range(n)],
            "patient": ["Jane Doe"] * n,
            "at": pa.array(range(n), pa.timestamp("ms", "UTC")),
            "born": pa.array([1970] * n, pa.int32()),
            "pulse": np.arange(n, dtype=np.float64),
        }
    )
    topics.send("events", AvroEncoder(PATIENTS, 1).encode(rows).to_pylist())
    run(jobs.archive(topics.uri("events"), "events", "--raw", "--file_format", "parquet"))
    refused = finished(jobs.replay("events", "again", "--create_topics"))
    assert refused.returncode == 2
    assert "'patient' is personal data" in refused.stderr
    with RegistryServer() as registry:
        where = ["--schema_registry", registry.url]
        run(jobs.replay("events", "again", "--create_topics", *where))
        run(jobs.archive(topics.uri("again"), "features", *where))
    assert not any(b"Jane" in m.value() for m in messages(topics, "again"))
    halves = {row["source_offset"] + 1000 * row["source_partition"]: row["half"] for row in jobs.rows("features")}
    assert len(halves) == n
    assert sorted(halves.values()) == [i / 2 for i in range(n)]
    assert jobs.reported()["dead_letters"] == 0


def test_archives_of_archives_hold_each_record_once(jobs: Jobs) -> None:
    """Events to features, Avro to Parquet; killed at any time and run again."""
    jobs.topics.send("events", list(framed(late(events(1500), 0.05))))
    run(jobs.archive(jobs.uri("events"), "events", "--raw", "--max_file_mb", "0.3", "--block_rows", "250"))
    run(jobs.archive(jobs.uri("events"), "features-1"))
    command = jobs.archive(
        str(jobs.folder / "events"), "features-2", "--file_format", "parquet", "--max_file_age", "0.01"
    )
    target = jobs.folder / "features-2"
    killed = 0
    for files in (2, 9):
        job = Job(command, stdout=DEVNULL, stderr=DEVNULL)
        deadline = time.monotonic() + 60
        while job.poll() is None and time.monotonic() < deadline and len(list(target.rglob("*.parquet"))) < files:
            time.sleep(0.01)
        killed += job.poll() is None
        job.kill()
        job.wait()
    assert killed
    there = len(jobs.rows("features-2"))
    run(command)
    counted = jobs.reported()
    assert counted["already_archived"] >= there
    assert (counted["already_archived"] + counted["archived"], counted["unaccounted"]) == (1500, 0)
    assert not list(target.rglob("*.part"))

    def described(folder: str) -> list[str]:
        return sorted(str(sorted(row.items())) for row in jobs.rows(folder))

    assert described("features-2") == described("features-1")
    run(command)
    assert jobs.reported()["archived"] == 0


def test_features_can_be_filed_anew(jobs: Jobs) -> None:
    jobs.topics.send("events", list(framed(events(2000))))
    run(jobs.archive(jobs.uri("events"), "features-1"))
    run(jobs.archive(str(jobs.folder / "features-1"), "features-2", "--route_by", "car_id"))
    assert {path.parent.parent.parent.name for path in (jobs.folder / "features-2").rglob("*.avro")} == {
        f"highbeam_route=car_id.{row['car_id']}" for row in jobs.rows("features-1")
    }
    assert Counter(map(str, jobs.rows("features-2"))) == Counter(map(str, jobs.rows("features-1")))


def test_records_with_headers_that_a_topic_refuses_as_a_batch_are_written_one_by_one(jobs: Jobs) -> None:
    address = parse(jobs.uri("dead"))  # takes a megabyte
    n = 20
    values = [b"x" * 400_000] * n
    headers: list[Any] = [[(ORIGIN_HEADER, b"t-0-%d" % i)] for i in range(n)]
    block = raw_block("t", [0] * n, range(n), [5] * n, [None] * n, values, headers)
    write = WriteBlocks(address, KafkaConfig.from_mapping({"batch.size": "5000000", "linger.ms": "500"}))
    write.setup()
    write.start_bundle()
    write.process(block.select(["key", "value", "headers", "timestamp"]), None)
    write.finish_bundle()
    found = messages(jobs.topics, "dead")
    assert sorted(m.headers()[0][1] for m in found) == sorted(b"t-0-%d" % i for i in range(n))


@pytest.mark.parametrize(
    ("job", "source", "more", "named"),
    [
        ("replay", "features", [], "--raw"),
        ("replay", "events", ["--speed", "fast"], "expected a factor like 1x"),
        ("replay", "events", ["--speed", "0x"], "expected a factor like 1x"),
        ("replay", "events", ["--direct_num_workers", "2"], "keeps the order"),
        ("replay", "nothing", [], "no .avro or .parquet file"),
        ("replay", "events", ["--from", "2031-01-01T00:00:00Z"], "of that time"),
        ("replay", "events", ["--from", "0:1"], "cut by event time"),
        ("replay", "events", [], "--create_topics creates it"),
        ("archive", "features", ["--raw"], "leave out --raw"),
        ("archive", "events", ["--output", "events/deeper"], "a folder of its own"),
    ],
)
def test_wrong_options_are_one_line(
    small_archives: Path,
    topics: Topics,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    job: str,
    source: str,
    more: list[str],
    named: str,
) -> None:
    monkeypatch.chdir(small_archives)
    jobs = Jobs(topics, small_archives)
    if job == "replay":
        command = jobs.replay(source, "missing", *more)
    else:
        command = jobs.archive(str(small_archives / source), "other", *more)
    with pytest.raises(SystemExit) as end:
        cli.run({"replay": replay.main, "archive": archive.main}[job], command[3:])
    printed = capsys.readouterr().err
    assert end.value.code == 2, printed
    assert named in printed.splitlines()[-1]


@pytest.fixture(scope="module")
def small_archives(tmp_path_factory: pytest.TempPathFactory, apache_kafka: Any) -> Path:
    """Archives of events and of features of 100 events."""
    folder = tmp_path_factory.mktemp("archives")
    jobs = Jobs(Topics(apache_kafka), folder)
    jobs.topics.send("events", list(framed(events(100))))
    run(jobs.archive(jobs.uri("events"), "events", "--raw"))
    run(jobs.archive(jobs.uri("events"), "features"))
    return folder
