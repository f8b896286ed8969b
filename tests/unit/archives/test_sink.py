"""The archive's sink, driven bundle by bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from beam_jobs.archives.log import FencedError
from beam_jobs.archives.rows import PROPERTY, SOURCE_FIELDS
from beam_jobs.archives.sink import ArchiveSettings, WriteFiles
from beam_jobs.block import RAW_SCHEMA, Block, with_source
from beam_jobs.codec.avro.file import read_avro
from beam_jobs.use_case import load_use_case

HOUR = 3_600_000
SCHEMA = {
    "type": "record",
    "name": "rows",
    PROPERTY: {},
    "fields": [*SOURCE_FIELDS, {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}}],
}


def block(positions: list[tuple[str, int, int]], hours: list[int]) -> Block:
    topics, partitions, offsets = zip(*positions, strict=True)
    n = len(positions)
    columns = {
        "topic": pa.array(topics).dictionary_encode(),
        "partition": pa.array(partitions, pa.int32()),
        "offset": pa.array(offsets, pa.int64()),
        "timestamp": pa.array([0] * n, pa.timestamp("ms", "UTC")),
    }
    raw = [columns.get(f.name, pa.nulls(n, f.type)) for f in RAW_SCHEMA]
    at = pa.array(np.array(hours) * HOUR, pa.timestamp("ms", "UTC"))
    return with_source(pa.record_batch({"at": at}), pa.RecordBatch.from_arrays(raw, schema=RAW_SCHEMA))


def writer(root: Path, **more: object) -> WriteFiles:
    made = WriteFiles(ArchiveSettings(str(root), "job", SCHEMA, "at", **more))  # type: ignore[arg-type]
    made.settings.log().recover()  # of a job that begins when the one before is gone
    made.setup()
    made.start_bundle()
    return made


def positions(root: Path) -> list[tuple[str, int, int]]:
    rows = [row for path in root.rglob("*.avro") for batch in read_avro(path, SCHEMA) for row in batch.to_pylist()]
    return sorted((row["source_topic"], row["source_partition"], row["source_offset"]) for row in rows)


def test_rows_in_any_order_are_each_written_once(tmp_path: Path) -> None:
    write = writer(tmp_path, exact=True)
    write.process(block([("t", 0, 9), ("t", 0, 1), ("u", 0, 1), ("t", 1, 1)], [0, 1, 1, 0]))
    write.process(block([("t", 0, 1), ("t", 0, 5), ("t", 0, 5)], [1, 1, 1]))
    write.finish_bundle()
    again = writer(tmp_path, exact=True)  # after a restart
    again.process(block([("t", 0, o) for o in range(10)], [0] * 10))
    again.finish_bundle()
    assert positions(tmp_path) == [*(("t", 0, o) for o in range(10)), ("t", 1, 1), ("u", 0, 1)]


def test_a_pipeline_of_ones_own_takes_the_log_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a launcher that holds the lease; two runs in one process, as in a notebook."""
    monkeypatch.chdir(tmp_path)

    def begun() -> WriteFiles:
        settings = ArchiveSettings.of(load_use_case("car_sensors"), "features", "archive", "job")
        made = WriteFiles(replace(settings, schema=SCHEMA, event_time="at"))
        made.setup()
        return made

    first = begun()
    first.start_bundle()
    first.process(block([("t", 0, 0)], [1]))
    first.finish_bundle()
    first.start_bundle()
    first.process(block([("t", 0, 1)], [1]))
    second = begun()
    with pytest.raises(FencedError):
        first.finish_bundle()
    first.teardown()
    second.start_bundle()
    second.process(block([("t", 0, 0), ("t", 0, 1)], [1, 1]))
    second.finish_bundle()
    second.teardown()
    assert positions(tmp_path / "archive") == [("t", 0, 0), ("t", 0, 1)]


def test_a_kill_repeats_only_what_was_not_committed_meanwhile(tmp_path: Path) -> None:
    write = writer(tmp_path, exact=True, max_file_age_s=0.0)
    write.process(block([("t", 0, 8), ("t", 0, 2)], [0, 5]))
    write.process(block([("t", 0, 4)], [0]))  # the bundle never ends
    assert positions(tmp_path) == [("t", 0, 2), ("t", 0, 4), ("t", 0, 8)]
    again = writer(tmp_path, exact=True)
    again.process(block([("t", 0, o) for o in range(10)], [0] * 10))
    again.finish_bundle()
    assert positions(tmp_path) == [("t", 0, o) for o in range(10)]


@pytest.mark.parametrize("exact", [True, False])
def test_what_lies_between_the_rows_of_a_bundle(tmp_path: Path, exact: bool) -> None:
    """A topic's bundle has read all between its ends; rows of an archive say nothing of their neighbours."""
    write = writer(tmp_path, exact=exact)
    write.process(block([("t", 0, 2), ("t", 0, 6)], [0, 0]))
    write.finish_bundle()
    again = writer(tmp_path, exact=exact)
    again.process(block([("t", 0, 4), ("t", 0, 7)], [0, 0]))
    again.finish_bundle()
    assert [o for _, _, o in positions(tmp_path)] == ([2, 4, 6, 7] if exact else [2, 6, 7])


@pytest.mark.parametrize(
    ("unit", "number", "folder"),
    [
        ("us", 1_500, "highbeam_date=1970-01-01/highbeam_hour=00"),  # no whole millisecond
        ("us", -1, "highbeam_date=1969-12-31/highbeam_hour=23"),
        ("ms", (1 << 63) - 1, "highbeam_date=9999-12-31/highbeam_hour=23"),
        ("ms", -(1 << 63), "highbeam_date=0001-01-01/highbeam_hour=00"),
        ("ms", None, "highbeam_date=1970-01-01/highbeam_hour=00"),  # the record's own time
    ],
)
def test_any_event_time_has_a_folder(tmp_path: Path, unit: str, number: int | None, folder: str) -> None:
    schema = {**SCHEMA, "fields": [*SOURCE_FIELDS, {"name": "at", "type": ["null", _time(unit)]}]}
    write = WriteFiles(ArchiveSettings(str(tmp_path), "job", schema, "at"))
    write.setup()
    write.start_bundle()
    at = pa.array([number], pa.int64()).view(pa.timestamp(unit, "UTC"))
    rows = block([("t", 0, 1)], [0])
    write.process(rows.set_column(0, pa.field("at", at.type), at))
    write.finish_bundle()
    (path,) = tmp_path.rglob("*.avro")
    assert str(path.parent.relative_to(tmp_path)) == folder
    (read,) = read_avro(path, schema)
    assert read.column("at").equals(at)


def _time(unit: str) -> dict[str, str]:
    return {"type": "long", "logicalType": {"ms": "timestamp-millis", "us": "timestamp-micros"}[unit]}
