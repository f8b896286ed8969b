"""Snapshots of windows shorten a rebuild, and change no bit; one in doubt is passed over."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from beam_jobs import metrics
from beam_jobs.block import Block, Stretch
from beam_jobs.io.kafka.topic import KafkaLog
from beam_jobs.preprocessing import compile_sql
from beam_jobs.steps.windows import HISTORIES
from beam_jobs.storage import files
from beam_jobs.storage.snapshots import writer
from tests.property.test_windows_rebuilt import PARTITIONS, Features, Process, by_the_log, features, topic_of
from tests.services.fake_kafka import FakeCluster

HalfRead = tuple[FakeCluster, str, dict[str, Any], Features]


@pytest.fixture(autouse=True)
def _nothing_left_open() -> Iterator[None]:
    yield
    HISTORIES.close_all()


def read(cluster: FakeCluster, topic: str, partition: int, start: int, end: int) -> Block:
    """Records as the reader gives them, which knows the topic's id."""
    (raw,) = KafkaLog(cluster.transport(topic)).read({partition: (start, end)})
    return Stretch({partition: (start, end)}, cluster.ids[topic]).on(raw)


@pytest.fixture
def half_read(tmp_path: Path) -> HalfRead:
    return half_read_into(str(tmp_path / "snapshots"))


def half_read_into(folder: str) -> HalfRead:
    """A topic, settings with snapshots, and what is right; a process has read half of it and written some."""
    cluster = FakeCluster()
    topic = topic_of(cluster, Random(3), 900, wild=False)
    settings = {"snapshots": folder, "snapshot_s": 0.0}
    process = Process(cluster, topic, **settings)
    for p in range(PARTITIONS):
        for start in range(0, 100, 20):
            process.run(read(cluster, topic, p, start, start + 20))
            writer().wait()
    HISTORIES.close_all()
    return cluster, topic, settings, by_the_log(cluster, topic)


def behind(cluster: FakeCluster, topic: str, start: int, settings: dict[str, Any]) -> tuple[Features, int]:
    """What a new process makes of each partition from an offset on, and how many records it has read again."""
    before = metrics.STATE.snapshot()[metrics.REREAD]
    process = Process(cluster, topic, **settings)
    found: Features = {}
    for p in range(PARTITIONS):
        raw = read(cluster, topic, p, start, cluster.topics[topic][p].high)
        found |= dict(features(process.run(raw)))
    writer().wait()
    HISTORIES.close_all()
    return found, metrics.STATE.snapshot()[metrics.REREAD] - before


def test_snapshots_in_a_bucket(bucket: str) -> None:
    folder = f"{bucket}/snapshots"
    cluster, topic, settings, right = half_read_into(folder)
    without, all_again = behind(cluster, topic, 100, {})
    found, again = behind(cluster, topic, 100, settings)
    assert again < all_again
    kept = files.list_files(f"{folder}/**")
    assert len(kept) == 3 * PARTITIONS  # older ones are removed
    files.remove(kept)
    anew, again = behind(cluster, topic, 100, settings)
    assert again == all_again
    assert found == anew == without == {place: row for place, row in right.items() if place[1] >= 100}


@pytest.mark.parametrize("start", [100, 70, 5])
def test_a_snapshot_shortens_a_rebuild_and_changes_no_bit(half_read: HalfRead, start: int) -> None:
    """At 70 it has to be an older one, at 5 there is none left that old."""
    cluster, topic, settings, right = half_read
    without, all_again = behind(cluster, topic, start, {})
    found, again = behind(cluster, topic, start, settings)
    assert found == without == {place: row for place, row in right.items() if place[1] >= start}
    assert again < all_again or start == 5
    assert len(list(Path(settings["snapshots"]).glob("*/*/*/*.npz"))) == 3 * PARTITIONS


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for place in range(0, len(data), 97):  # one alone may be of no consequence
        data[place] ^= 4
    path.write_bytes(data)


def no_file(path: Path) -> None:
    path.unlink()
    path.mkdir()


def of_another_offset(path: Path) -> None:
    path.rename(path.with_name(f"{int(path.stem) - 1:020d}.npz"))


def pickled(path: Path) -> None:
    np.savez(path, about=np.array([{"topic_id": "x"}], object))


def of_other_windows(path: Path) -> None:
    with np.load(path) as found:
        arrays = {name: found[name] for name in found.files if "heads" not in name}
    np.savez(path, **arrays)


@pytest.mark.parametrize("harm", [cut, flipped, no_file, of_another_offset, pickled, of_other_windows])
def test_a_snapshot_in_doubt_is_passed_over(half_read: HalfRead, harm: Callable[[Path], None]) -> None:
    cluster, topic, settings, right = half_read
    _, all_again = behind(cluster, topic, 100, {})
    for path in Path(settings["snapshots"]).glob("*/*/*/*.npz"):
        harm(path)
    found, again = behind(cluster, topic, 100, settings)
    assert found == {place: row for place, row in right.items() if place[1] >= 100}
    assert again == all_again


def test_a_log_that_was_cut_and_written_anew_has_no_snapshot(half_read: HalfRead) -> None:
    """As after an election of a leader that lacked records: the offsets are there again, with other records."""
    cluster, topic, settings, _ = half_read
    for log in cluster.topics[topic]:
        log.rows[:100] = [
            (offset, replace(record, timestamp_ms=record.timestamp_ms + 1)) for offset, record in log.rows[:100]
        ]
    found, again = behind(cluster, topic, 100, settings)
    without, all_again = behind(cluster, topic, 100, {})
    assert (found, again) == (without, all_again)


def test_a_topic_without_an_id_has_no_snapshots(tmp_path: Path) -> None:
    cluster = FakeCluster()
    topic = topic_of(cluster, Random(3), 200, wild=False)
    cluster.ids[topic] = ""
    behind(cluster, topic, 20, {"snapshots": str(tmp_path / "snapshots"), "snapshot_s": 0.0})
    assert not (tmp_path / "snapshots").exists()


def test_snapshots_that_cant_be_written_or_listed_stop_nothing(tmp_path: Path) -> None:
    cluster = FakeCluster()
    topic = topic_of(cluster, Random(3), 200, wild=False)
    (tmp_path / "file").write_text("")
    found, _ = behind(cluster, topic, 20, {"snapshots": str(tmp_path / "file/below"), "snapshot_s": 0.0})
    assert found == {place: row for place, row in by_the_log(cluster, topic).items() if place[1] >= 20}


DISTINCT = """
SELECT card, at, count(DISTINCT shop) OVER w AS shops, count(DISTINCT shop || '!') OVER w AS loud,
       count(DISTINCT number) OVER w AS numbers, count(DISTINCT number * number) OVER w AS squares
FROM events
WINDOW w AS (PARTITION BY card ORDER BY at RANGE BETWEEN INTERVAL '1' HOUR PRECEDING AND CURRENT ROW)
"""


def distinct_rows(start: int) -> tuple[Any, pa.RecordBatch]:
    """A query that counts texts and large numbers, and eight rows in which each of three comes again and again."""
    time = {"type": "long", "logicalType": "timestamp-millis"}
    types = {"card": "string", "at": time, "shop": "string", "number": "long"}
    schema = {"type": "record", "name": "E", "fields": [{"name": name, "type": type_} for name, type_ in types.items()]}
    numbers = range(start, start + 8)
    rows = {
        "card": ["c"] * 8,
        "at": pa.array([1000 * n for n in numbers], pa.timestamp("ms", "UTC")),
        "shop": [f"shop {n % 3}" for n in numbers],
        "number": [2**60 + n % 3 for n in numbers],
    }
    return compile_sql(DISTINCT, schema, key="card", event_time="at"), pa.record_batch(rows)


def test_another_process_takes_equal_values_for_equal(tmp_path: Path) -> None:
    """Hashes stand for texts, and what a process knows of a partition may go on in another one."""
    program = (
        "import sys, numpy; from tests.property.windows.test_snapshots import distinct_rows; "
        "query, rows = distinct_rows(0); history = query.history(); query.apply(rows, history); "
        "numpy.savez(sys.argv[1], **history.held()); print(query.state_key())"
    )
    held = tmp_path / "held.npz"
    done = subprocess.run([sys.executable, "-c", program, str(held)], check=True, capture_output=True, text=True)
    query, rows = distinct_rows(8)
    assert done.stdout.strip() == query.state_key()
    history = query.history()
    with np.load(held) as arrays:
        history.restore({name: arrays[name] for name in arrays.files})
    found = query.apply(rows, history).rows
    assert {name: found[name].to_pylist() for name in query.features} == dict.fromkeys(query.features, [3.0] * 8)
