"""Whole jobs on Google's fake of Pub/Sub: in, out, mixed with Kafka, killed, without the service for a while."""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

import schemas
from chaos.proxy import Proxy
from tests.integration.archives import SMALL, kill_at_random, report, rows
from tests.integration.pubsub_topics import PubSubTopics
from tests.integration.topics import Topics, events, framed, run
from tests.services.job import PIPE, Job
from tests.services.pubsub import Server

pytestmark = pytest.mark.integration

QUIET = ["--quiet_seconds", "5"]  # a busy machine may stop for a while


@pytest.fixture
def pub(pubsub: str) -> PubSubTopics:
    return PubSubTopics(pubsub)


@pytest.fixture
def archive(pub: PubSubTopics, tmp_path: Path) -> Callable[..., list[str]]:
    def command(*more: str, until: str | None = "latest") -> list[str]:
        return [
            *(sys.executable, "-m", "beam_jobs.archive", "--use_case", "car_sensors"),
            *("--input", pub.uri("events"), *(["--until", until] if until else [])),
            *("--output", (tmp_path / "archive").as_uri(), "--dead_letters", pub.uri("dead")),
            *("--report", str(tmp_path / "report.json"), *more),
        ]

    return command


@pytest.fixture
def score(pub: PubSubTopics, trained_model: Path, tmp_path: Path) -> Callable[..., list[str]]:
    def command(**changed: str | None) -> list[str]:
        options: dict[str, str | None] = {
            "use_case": "car_sensors",
            "model": str(trained_model),
            "input": pub.uri("events"),
            "until": "latest",
            "quiet_seconds": QUIET[1],
            "alerts": pub.uri("alerts"),
            "scores": pub.uri("scores"),
            "dead_letters": pub.uri("dead"),
            "report": str(tmp_path / "report.json"),
        } | changed
        words = [word for name, value in options.items() if value is not None for word in (f"--{name}", value)]
        return [sys.executable, "-m", "beam_jobs.score", *words]

    return command


def test_every_message_is_scored_or_a_dead_letter(
    pub: PubSubTopics, score: Callable[..., list[str]], tmp_path: Path
) -> None:
    sent = events(3000)
    pub.send("events", [*framed(sent), b"broken"], attributes={"source": "fleet"})
    place = sent.schema.get_field_index("car_id")
    huge = sent.slice(0, 1).set_column(place, "car_id", pa.array(["k" * 6_000_000]))  # an alert would hold it twice
    pub.send("events", framed(huge))
    run(score())
    counted = report(tmp_path)
    assert (counted["read"], counted["scored"], counted["dead_letters"]) == (3002, 3000, 2)
    assert counted["reasons"] == {"bad_magic_byte": 1, "key_too_large": 1}
    assert counted["unaccounted"] == 0
    scores = pub.read("scores", "score")
    assert len({row["source_offset"] for row in scores}) == 3000
    assert {row["source_topic"] for row in scores} == {pub.name("events")}
    alerts = pub.messages("alerts")
    assert len(alerts) == counted["alerts"] > 0
    assert all(message.ordering_key.startswith("car-") for message in alerts)
    letters = {letter["reason"]: letter for letter in pub.read("dead", "dead_letter")}
    assert letters["bad_magic_byte"]["value"] == b"broken"
    assert letters["bad_magic_byte"]["headers"] == [{"key": "source", "value": b"fleet"}]
    assert letters["key_too_large"]["value"] == framed(huge)[0]


def test_kafka_in_pubsub_out_and_back(
    pub: PubSubTopics, topics: Topics, score: Callable[..., list[str]], tmp_path: Path
) -> None:
    topics.send("events", list(framed(events(500))))
    run(score(input=topics.uri("events"), scores=topics.uri("scores")))
    assert report(tmp_path)["scored"] == 500
    assert len(topics.read("scores", "score")) == 500
    assert len(pub.read("alerts", "alert")) == report(tmp_path)["alerts"]


def test_encodings_of_pubsub_schemas_are_mixed_in_a_block(
    pub: PubSubTopics, score: Callable[..., list[str]], tmp_path: Path
) -> None:
    rows = events(90)
    schema = schemas.load("car_sensor")
    name, union = pub.schema(schema), pub.schema(["null", schema])
    bare = [value[5:] for value in framed(rows)]
    revision = {"googclient_schemaname": name.split("@")[0], "googclient_schemarevisionid": name.split("@")[1]}
    pub.send("events", framed(rows)[:20])
    several = {"googclient_schemaname": union.split("@")[0], "googclient_schemarevisionid": union.split("@")[1]}
    branch = b"\x02"  # number 1
    pub.send(
        "events",
        [branch + value for value in bare[20:30]],
        attributes={"googclient_schemaencoding": "BINARY", **several},
    )
    pub.send("events", bare[30:50], attributes={"googclient_schemaencoding": "BINARY"})
    pub.send("events", bare[50:60], attributes={"googclient_schemaencoding": "BINARY", **revision})
    texts = pub.avro_json(schema, rows.slice(60))
    pub.send("events", texts, attributes={"googclient_schemaencoding": "JSON", **revision})
    pub.send(
        "events",
        [bare[0]],
        attributes={"googclient_schemaencoding": "BINARY", **revision, "googclient_schemarevisionid": "none"},
    )
    pub.send("events", [b"{}"], attributes={"googclient_schemaencoding": "JSON"})
    run(score())
    counted = report(tmp_path)
    assert (counted["scored"], counted["dead_letters"]) == (90, 2)
    assert Counter(counted["reasons"]) == Counter({"unknown_schema_id": 1, "missing_field": 1})
    scored = {(row["key"], row["event_time"]) for row in pub.read("scores", "score")}
    assert scored == set(zip(rows.column("car_id").to_pylist(), rows.column("event_time").to_pylist(), strict=True))


def test_redrive_puts_the_messages_back(pub: PubSubTopics, score: Callable[..., list[str]], tmp_path: Path) -> None:
    pub.send("events", [b"broken", b""], attributes={"source": "fleet"})
    pub.send("events", [b"broken too"], keys=["car-7"])
    run(score())
    assert report(tmp_path)["dead_letters"] == 3
    back = [sys.executable, "-m", "beam_jobs.redrive", "--input", pub.uri("dead"), "--output", pub.uri("events")]
    counted_only = run([*back, *QUIET, "--count_only"])
    assert "would be put back" in counted_only.stdout
    run([*back, *QUIET])
    found = {message.data: message for message in pub.messages("events")}
    assert set(found) == {b"broken", b"", b"broken too"}
    assert dict(found[b"broken"].attributes).items() >= {"source": "fleet", "highbeam.redrives": "1"}.items()
    assert found[b"broken too"].ordering_key == "car-7"


@pytest.mark.nightly
def test_killed_at_random_every_message_is_in_one_row(
    pub: PubSubTopics, archive: Callable[..., list[str]], tmp_path: Path
) -> None:
    """By day test_archive_restarts.py kills one too, among its restarts."""
    pub.send("events", list(framed(events(8000))))
    killed = kill_at_random(archive(*SMALL), tmp_path, 2, timeout_s=60)
    assert killed == 2
    run(archive("--quiet_seconds", "22"))  # leases of a killed job run out after 20 s
    found = Counter(row["source_offset"] for row in rows(tmp_path))
    assert set(found.values()) == {1}
    assert len(found) == 8000
    assert not list((tmp_path / "archive").rglob("*.part"))
    assert pub.left("events") == 0


def test_live_ctrl_c_gives_the_rest_back(pub: PubSubTopics, archive: Callable[..., list[str]], tmp_path: Path) -> None:
    pub.send("events", list(framed(events(2000))))
    job = Job(archive("--max_file_age", "0.5", until=None), stdout=PIPE, stderr=PIPE)
    try:
        deadline = time.monotonic() + 90
        while len(rows(tmp_path)) < 2000:
            assert time.monotonic() < deadline, job.poll()
            time.sleep(0.1)
        pub.send("events", list(framed(events(300, seed=9))))
    finally:
        job.send_signal(signal.SIGINT)
        _, errors = job.communicate(timeout=60)
    assert job.returncode == 0, errors
    assert report(tmp_path)["unaccounted"] == 0
    run(archive(*QUIET))  # what was given back is there at once, without waiting for a lease
    found = Counter(row["source_offset"] for row in rows(tmp_path))
    assert set(found.values()) == {1}
    assert len(found) == 2300


def test_the_service_away_is_waited_for(
    pub: PubSubTopics,
    archive: Callable[..., list[str]],
    pubsub_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    pub.send("events", list(framed(events(500))))
    proxy = Proxy(pubsub_server.address)
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", proxy.address)
    job = Job(archive("--max_file_age", "0.2", until=None), stdout=PIPE, stderr=PIPE)
    try:
        wait_for(lambda: len(rows(tmp_path)) == 500, job)
        proxy.close()
        pub.send("events", list(framed(events(400, seed=9))))
        assert job.stderr is not None
        assert any("nothing can be read" in line for line in job.stderr)
        proxy = Proxy(pubsub_server.address, int(proxy.address.rpartition(":")[2]))
        wait_for(lambda: len(rows(tmp_path)) == 900, job)
    finally:
        job.send_signal(signal.SIGINT)
        _, errors = job.communicate(timeout=60)
        proxy.close()
    assert job.returncode == 0, errors
    assert "back after" in errors
    assert pub.left("events") == 0


def wait_for(condition: Callable[[], bool], job: Job) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline
        assert job.poll() is None, job.communicate()
        time.sleep(0.1)


@pytest.mark.nightly
def test_scores_on_prism(
    pub: PubSubTopics, score: Callable[..., list[str]], prism_binary: Path, tmp_path: Path
) -> None:
    """By day test_score_job.py scores there, from Kafka."""
    pub.send("events", [*framed(events(2000)), b"broken"])
    run([*score(), "--runner", "PrismRunner", "--prism_location", str(prism_binary)])
    scores = pub.read("scores", "score")
    assert len(scores) == len({row["source_offset"] for row in scores}) == 2000
    assert len(pub.read("dead", "dead_letter")) == 1
    assert pub.left("events") == 0
