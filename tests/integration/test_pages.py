"""The commands of docs/archive.md, docs/replay.md and docs/pubsub.md run as they stand there, one after the other.

Addresses, folders and days are the test's own, and a job that would run until it is stopped gets an end.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import beam_jobs
from beam_jobs.origin import ORIGIN_HEADER
from beam_jobs.storage import files
from model import registry
from tests.integration.archives import one
from tests.integration.pubsub_topics import PubSubTopics
from tests.integration.topics import Topics, events, framed, run

pytestmark = pytest.mark.integration

PAGES = Path(beam_jobs.__file__).resolve().parent.parent / "docs"
BLOCK = re.compile(r"^```\n(python -m .*?)^```$", re.MULTILINE | re.DOTALL)
TOPICS = {"sensor-data": "events", "car-events": "events", "dead-letters": "dead", "alerts": "alerts"}


def run_page(page: str, topics: Topics, folder: Path, replaced: dict[str, str]) -> Iterator[str]:
    """Runs the commands of a page with ``replaced`` put in place; gives each that has run.

    ``kafka://localhost:9092/NAME`` is a topic of the test's broker, ``archive/`` is ``folder``.
    """
    blocks = BLOCK.findall((PAGES / page).read_text())
    for command in [c for block in blocks for c in re.split(r"\n(?=python)", block.replace("\\\n", " ").strip())]:
        text = command
        for old, new in replaced.items():
            text = text.replace(old, new)
        text = re.sub(r"kafka://localhost:9092/([\w-]+)", lambda m: topics.uri(TOPICS.get(m[1], m[1])), text)
        words = shlex.split(text.replace("archive/", f"{folder}/"))
        assert words[:2] == ["python", "-m"]
        run([sys.executable, *words[1:], *ends(words)])
        yield command


def ends(words: list[str]) -> list[str]:
    """What a command of a page needs to come to its end, and to find its topics."""
    job, source = words[2], words[words.index("--input") + 1] if "--input" in words else ""
    bus = source.partition("://")[0]
    if job == "model.train":
        return ["--epochs", "3", "--no-baseline"]
    more = ["--quiet_seconds", "5"] if bus == "pubsub" else []
    if job in ("beam_jobs.score", "beam_jobs.archive", "beam_jobs.replay"):
        more += ["--create_topics"]
        if "://" in source and "--until" not in words:
            more += ["--until", "latest"]
        if bus == "kafka" and "--from" not in words:
            more += ["--from", "earliest"]
    return more


def first_day(rows: pa.RecordBatch) -> str:
    return str(rows.column("event_time")[0].as_py().date())


def archived(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.rglob("*.avro")) for row in one(path)]


def test_archive(topics: Topics, trained_model: Path, bucket: str, tmp_path: Path) -> None:
    rows = events(3000)
    topics.send("events", list(framed(rows)))
    files.write_bytes(f"{bucket}/cars.csv", b"car_id,fleet\ncar-000001,north\n")
    page = run_page(
        "archive.md",
        topics,
        tmp_path,
        {
            "gs://bucket": bucket,
            "--model models": f"--model {trained_model}",
            "--registry models": f"--registry {tmp_path}/models",
            "2026-11-22": first_day(rows),
        },
    )
    assert "archive" in next(page)
    assert len(archived(tmp_path / "car_sensors")) == 3000
    assert "--enrich" in next(page)
    found = archived(tmp_path / "by_fleet")
    assert len(found) == 3000
    assert {row["fleet"] for row in found if row["car_id"] == "car-000001"} == {"north"}
    assert "score" in next(page)
    assert topics.read("alerts", "alert")
    assert "train" in next(page)
    assert registry.resolve(str(tmp_path / "models")).alias == "champion"
    assert list(page) == []


@pytest.mark.nightly
def test_replay(topics: Topics, trained_model: Path, tmp_path: Path) -> None:
    """By day test_replay_job.py takes these options, and test_docs.py knows all that a page may name."""
    rows = events(3000)
    topics.send("events", list(framed(rows)))
    replaced = {"--model models": f"--model {trained_model}", "2026-11-22": first_day(rows)}
    assert len(list(run_page("replay.md", topics, tmp_path, replaced))) >= 5
    origins = {dict(record["headers"])[ORIGIN_HEADER].decode() for record in topics.read("sensor-data-again")}
    assert len(origins) == 3000
    assert {origin.rsplit("-", 2)[0] for origin in origins} == {topics.name("events")}


@pytest.mark.nightly
def test_pubsub(topics: Topics, pubsub: str, trained_model: Path, tmp_path: Path) -> None:
    """By day test_pubsub_jobs.py runs the same jobs, and test_docs.py knows all options that a page may name."""
    pub = PubSubTopics(pubsub, ordered=True)
    pub.send("events", [*framed(events(2000)), b"broken"])
    replaced = {f"pubsub://my-project/{name}": pub.uri(short) for name, short in TOPICS.items()}
    page = run_page("pubsub.md", topics, tmp_path, replaced | {"--model models": f"--model {trained_model}"})
    assert "score" in next(page)
    assert len(topics.read("dead", "dead_letter")) == 1
    assert pub.read("alerts", "alert")
    pub.send("events", [*framed(events(500, seed=9)), b"broken too"])
    assert "archive" in next(page)
    assert len(archived(tmp_path / "car_sensors")) == 500
    assert "redrive" in next(page)
    assert [message.data for message in pub.messages("events")] == [b"broken too"]
    assert list(page) == []
