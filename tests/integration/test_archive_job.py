"""Archiving on Apache Kafka: every record in one row of one file, whatever happens; and the way back to scores."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from beam_jobs.use_case import load_use_case
from tests.integration.archives import SMALL, kill_at_random, one, positions, report, rows
from tests.integration.topics import Topics, events, framed, run
from tests.services.job import finished

pytestmark = pytest.mark.integration

PERSONAL = {"vin", "driver_name", "latitude", "longitude"}


# The other two at night: by day each content and each format once.
@pytest.mark.parametrize(
    ("content", "file_format"),
    [
        ("features", "avro"),
        ("events", "parquet"),
        pytest.param("features", "parquet", marks=pytest.mark.nightly),
        pytest.param("events", "avro", marks=pytest.mark.nightly),
    ],
)
def test_rows_are_filed_by_event_time(
    topics: Topics, archive: Callable[..., list[str]], tmp_path: Path, file_format: str, content: str
) -> None:
    sent = events(3000)
    topics.send("events", [*framed(sent), b"broken"])
    run(archive("--file_format", file_format, *(["--raw"] if content == "events" else [])))
    counted = report(tmp_path)
    assert (counted["archived"], counted["dead_letters"], counted["unaccounted"]) == (3000, 1, 0)
    found = rows(tmp_path, file_format)
    assert set(positions(found).values()) == {1}
    assert len(found) == 3000
    assert not PERSONAL & found[0].keys()
    for path in (tmp_path / "archive").rglob(f"*.{file_format}"):
        hours = {pd.Timestamp(t).floor("h") for t in pd.DataFrame(one(path))["event_time"]}
        (hour,) = hours
        assert path.parent.name == f"highbeam_hour={hour:%H}"
        assert path.parent.parent.name == f"highbeam_date={hour:%Y-%m-%d}"
    car = load_use_case("car_sensors")
    assert Counter(row["car_id"] for row in found) == Counter(sent.column("car_id").to_pylist())
    if content == "features":
        assert set(car.preprocessor().features) < found[0].keys()
        assert car.label in found[0]


def test_the_same_range_again_adds_nothing(topics: Topics, archive: Callable[..., list[str]], tmp_path: Path) -> None:
    topics.send("events", list(framed(events(1000))))
    run(archive("--partition_by", "day"))
    topics.send("events", list(framed(events(500, seed=6))))
    run(archive())  # goes on by day
    counted = report(tmp_path)
    assert (counted["already_archived"], counted["archived"], counted["unaccounted"]) == (1000, 500, 0)
    assert set(positions(rows(tmp_path)).values()) == {1}
    assert len(rows(tmp_path)) == 1500
    days = {f"highbeam_date={row['event_time']:%Y-%m-%d}" for row in rows(tmp_path)}
    assert {path.name for path in (tmp_path / "archive").iterdir()} == {*days, "_archive"}


def test_killed_at_random_every_record_is_in_one_row(
    topics: Topics, archive: Callable[..., list[str]], tmp_path: Path
) -> None:
    topics.send("events", list(framed(events(40_000))))
    killed = kill_at_random(archive(*SMALL), tmp_path, 3)
    run(archive())
    assert killed
    found = positions(rows(tmp_path))
    assert set(found.values()) == {1}
    assert len(found) == 40_000
    assert not list((tmp_path / "archive").rglob("*.part"))


@pytest.mark.nightly
@pytest.mark.parametrize("content", ["features", "events"])
def test_scores_from_the_archive_are_those_from_the_topic(
    topics: Topics, archive: Callable[..., list[str]], trained_model: Path, tmp_path: Path, content: str
) -> None:
    """By day test_replay_job.py compares them, and those of what was replayed."""
    topics.send("events", list(framed(events(20_000))))
    run(archive(*(["--raw"] if content == "events" else [])))
    score = [sys.executable, "-m", "beam_jobs.score", "--use_case", "car_sensors", "--model", str(trained_model)]
    found = []
    for i, source in enumerate([[topics.uri("events"), "--until", "latest"], [(tmp_path / "archive").as_uri()]]):
        outputs = {name: topics.uri(f"{name}-{i}") for name in ("alerts", "scores", "dead")}
        run(
            [
                *(*score, "--input", *source, "--alerts", outputs["alerts"], "--scores", outputs["scores"]),
                *("--dead_letters", outputs["dead"], "--create_topics"),
            ]
        )
        alerts = topics.read(f"alerts-{i}", "alert")
        scores = topics.read(f"scores-{i}")
        found.append((sorted(a["id"] for a in alerts), sorted(s["value"] for s in scores)))
    assert found[0][0]
    assert found[0] == found[1]  # ids, and the bytes of every score


def test_duckdb_and_pandas_read_the_same(topics: Topics, archive: Callable[..., list[str]], tmp_path: Path) -> None:
    topics.send("events", list(framed(events(1000))))
    run(archive("--file_format", "parquet"))
    pattern = str(tmp_path / "archive" / "**" / "*.parquet")
    (count, cars), *_ = duckdb.sql(f"select count(*), count(distinct car_id) from '{pattern}'").fetchall()
    frame = pd.concat(pd.read_parquet(path) for path in (tmp_path / "archive").rglob("*.parquet"))
    assert (count, cars) == (len(frame), frame["car_id"].nunique()) == (1000, 50)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--route_by", "speed"], "no text column"),
        (["--max_file_age", "0"], "--max_file_age"),
        (["--output", "s3://bucket/x"], "gs://bucket/folder"),
    ],
)
def test_wrong_options_are_one_line(archive: Callable[..., list[str]], more: list[str], named: str) -> None:
    done = finished(archive(*more))
    assert done.returncode == 2
    assert named in done.stderr.splitlines()[-1]
