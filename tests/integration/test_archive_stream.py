"""Archiving a stream: what readers see meanwhile, late rows, limits of files, lookup tables, topics made anew."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from beam_jobs.archives.read import find, read_rows
from beam_jobs.archives.rows import archive_schema
from beam_jobs.use_case import load_use_case
from tests.integration.archives import Reader, live, one, positions, report, rows, stop, wait
from tests.integration.topics import Topics, events, framed, run
from tests.services.job import finished

pytestmark = pytest.mark.integration


# On Prism at night: by day test_a_bounded_archive_on_prism runs there.
@pytest.fixture(params=["DirectRunner", pytest.param("PrismRunner", marks=pytest.mark.nightly)])
def runner(request: pytest.FixtureRequest) -> list[str]:
    where = ["--prism_location", str(request.getfixturevalue("prism_binary"))] if request.param == "PrismRunner" else []
    return ["--runner", request.param, *where]


def shifted(block: pa.RecordBatch, hours: int) -> pa.RecordBatch:
    """The events, so much later."""
    at = block.schema.get_field_index("event_time")
    times = pc.cast(pc.add(pc.cast(block.column(at), pa.int64()), hours * 3_600_000), block.schema.field(at).type)
    return block.set_column(at, block.schema.field(at), times)


def test_a_live_archive_is_whole_at_any_time_and_late_rows_go_where_they_belong(
    topics: Topics, archive: Callable[..., list[str]], tmp_path: Path, runner: list[str]
) -> None:
    topics.send("events", list(framed(events(3000))))
    small = [
        "--max_file_age",
        "0.5",
        "--block_rows",
        "200",
        "--max_file_mb",
        "0.02",
        "--group_id",
        topics.name("group"),
    ]
    with live(archive(*runner, *small, until=None)) as job, Reader(tmp_path) as reader:
        wait(lambda: sum(reader.rows.values()) >= 3000, job)
        late = shifted(events(300, seed=9), -30)
        topics.send("events", list(framed(late)))
        wait(lambda: sum(reader.rows.values()) >= 3300, job)
        topics.send("events", list(framed(events(200, seed=10))))
        stop(job)
    assert reader.wrong == []
    assert len(reader.rows) > 10
    assert report(tmp_path)["unaccounted"] == 0
    run(archive("--group_id", topics.name("group")))  # what Ctrl-C found unread
    found = rows(tmp_path)
    assert set(positions(found).values()) == {1}
    assert len(found) == 3500
    filed = Counter()
    for path in (tmp_path / "archive").rglob("*.avro"):
        for row in one(path):
            hour = pd.Timestamp(row["event_time"])
            assert path.parent.parent.name == f"highbeam_date={hour:%Y-%m-%d}"
            assert path.parent.name == f"highbeam_hour={hour:%H}"
            filed[f"{hour:%Y-%m-%d %H}"] += 1
    hours = Counter(f"{t:%Y-%m-%d %H}" for t in late.column("event_time").to_pylist())
    assert {hour: filed[hour] for hour in hours} == hours


def test_a_bounded_archive_on_prism(
    topics: Topics, archive: Callable[..., list[str]], tmp_path: Path, prism_binary: Path
) -> None:
    topics.send("events", [*framed(events(20_000)), b"broken"])
    run(archive("--runner", "PrismRunner", "--prism_location", str(prism_binary)))
    counted = report(tmp_path)
    assert (counted["archived"], counted["dead_letters"], counted["unaccounted"]) == (20_000, 1, 0)
    assert set(positions(rows(tmp_path)).values()) == {1}
    assert len(rows(tmp_path)) == 20_000


def test_a_second_archive_of_a_topic_begins_at_its_own_start(
    topics: Topics, archive: Callable[..., list[str]], tmp_path: Path
) -> None:
    topics.send("events", list(framed(events(1000))))
    for folder, more in (("archive", []), ("raw", ["--raw"])):
        output = ["--output", str(tmp_path / folder)]  # the last one named counts
        with live(archive("--max_file_age", "0.5", *output, *more, until=None)) as job:
            wait(lambda folder=folder: len(rows(tmp_path, folder=folder)) >= 1000, job)  # type: ignore[misc]
            stop(job)
    mixed = finished(archive("--raw"))
    assert mixed.returncode == 2
    assert "holds car_sensors-features-" in mixed.stderr
    assert "choose another folder for car_sensors-events" in mixed.stderr
    assert len(rows(tmp_path)) == 1000


def test_rows_are_enriched_and_routed_by_a_lookup_table_that_changes(
    topics: Topics, archive: Callable[..., list[str]], tmp_path: Path
) -> None:
    cars = tmp_path / "cars.csv"

    def put(fleet: str) -> None:
        lines = "".join(f"car-{i:06d},{fleet},{2000 + i},2020-01-02,2024-05-01T10:00:00Z\n" for i in range(40))
        part = cars.with_suffix(".part")
        part.write_text(f"car_id,fleet,built,sold,seen\n{lines}")
        part.replace(cars)

    def fleets() -> Counter[str]:
        return Counter(row["fleet"] for row in rows(tmp_path))

    put("north")
    sent = events(1000)
    known = sum(key < "car-000040" for key in sent.column("car_id").to_pylist())
    topics.send("events", list(framed(sent)))
    enriched = ["--enrich", str(cars), "--enrich_every", "0.1", "--route_by", "fleet", "--max_file_age", "0.5"]
    with live(archive(*enriched, "--group_id", topics.name("group"), until=None)) as job:
        wait(lambda: fleets() == {"north": known, None: 1000 - known}, job)
        put("south")
        time.sleep(0.2)  # the table is looked at every 0.1 s
        topics.send("events", list(framed(sent)))
        wait(lambda: fleets() == {"north": known, "south": known, None: 2 * (1000 - known)}, job)
        assert "loaded anew, 40 rows" in stop(job)
    assert report(tmp_path)["not_in_lookup"] == 2 * (1000 - known)
    assert {path.name for path in (tmp_path / "archive").iterdir()} == {
        *("highbeam_route=fleet.north", "highbeam_route=fleet.south", "highbeam_route=fleet", "_archive")
    }
    schema = archive_schema(load_use_case("car_sensors"), "features")
    back = [read_rows(path, schema) for path in find(str(tmp_path / "archive"))]  # as score and training read it
    assert sum(batch.num_rows for batches in back for batch in batches) == 2000
    row = next(row for row in rows(tmp_path) if row["car_id"] == "car-000007")
    assert (row["built"], str(row["sold"]), str(row["seen"])) == (2007, "2020-01-02", "2024-05-01 10:00:00+00:00")


def make_anew(topics: Topics, short: str) -> None:
    admin = AdminClient({"bootstrap.servers": topics.servers})
    admin.delete_topics([topics.name(short)])[topics.name(short)].result(30)
    deadline = time.monotonic() + 30
    while True:
        try:
            admin.create_topics([NewTopic(topics.name(short), 4, 1)])[topics.name(short)].result(30)
            return
        except KafkaException:  # the old one is still on its way out
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_topic_made_anew_ends_the_job_and_is_archived_beside_the_old_one(
    topics: Topics, archive: Callable[..., list[str]], tmp_path: Path
) -> None:
    topics.send("events", list(framed(events(500))))
    group = ["--group_id", topics.name("group")]
    with live(archive(*group, "--max_file_age", "0.5", until=None)) as job:
        wait(lambda: len(rows(tmp_path)) == 500, job)
        make_anew(topics, "events")
        topics.send("events", list(framed(events(2000, seed=9))))
        _, errors = job.communicate(timeout=90)
    assert job.returncode == 2, errors
    assert "was deleted and made anew while it was archived" in errors.splitlines()[-1]
    again = archive(*group, "--max_file_age", "0.5", until=None)
    del again[again.index("--from") : again.index("--from") + 2]  # the group's offsets went with the old topic
    with live(again) as job:
        wait(lambda: len(rows(tmp_path)) == 2500, job)
        assert "made anew since it was last archived" in stop(job)
    assert (report(tmp_path)["archived"], report(tmp_path)["already_archived"]) == (2000, 0)
    assert "made anew" not in run(archive()).stderr
    assert (report(tmp_path)["archived"], report(tmp_path)["already_archived"]) == (0, 2000)
