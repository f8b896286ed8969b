"""Archives in every layout, read as a folder by DuckDB, pandas and pyarrow, and back by the project.

Rows have columns called like what readers make of folders' names, and route values of every odd kind.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from beam_jobs.archives.layout import Layout, find_layout
from beam_jobs.archives.log import log_names
from beam_jobs.archives.read import ArchiveInput, ReadFiles, open_archive
from beam_jobs.archives.rows import archive_schema
from beam_jobs.archives.sink import ArchiveSettings, WriteFiles
from beam_jobs.block import raw_block, with_source
from beam_jobs.use_case import UseCase

NAMES = ["hour", "date", "month", "route", "day", "highbeam"]  # of fields
_MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
CASE = UseCase(
    name="routes",
    schema={
        "type": "record",
        "name": "event",
        "fields": [
            {"name": "id", "type": "string"},
            {"name": "at", "type": _MILLIS},
            *({"name": name, "type": "double"} for name in NAMES),
            {"name": "fleet", "type": ["null", "string"]},
        ],
    },
    sql="SELECT id, at, hour FROM events",
    key="id",
    event_time="at",
    label=None,
)
ODD: list[str | None] = [
    *(None, "", " ", "north", "North", "NORTH", "007", "7", "-1", "1.0", "1.00", "1e5", "99999999999", "NaN", "inf"),
    *("true", "false", "null", "NULL", "None", "__none__", "__HIVE_DEFAULT_PARTITION__", "2026-01-01", "2026-1-1"),
    *("a/b", "/", "..", ".", "../../x", "a\\b", "a\nb", "a\r", "\t", "\x00", "\x1b[31m", "\x9b", "\u2028", "\u202e"),
    *("50%", "a%20b", "a b", "a+b", "x=y", "fleet=x", "date=2026-01-01", "{a,b}", "[a]", "*", "?", "#", "'", '"', ":"),
    *(
        "é",
        "e\u0301",
        "Ж" * 58,
        "Ж" * 120,
        "😀",
        "ß",
        "İ",
        "x" * 255,
        "x" * 256,
        "x" * 5000,
        " lead",
        "trail ",
        "~",
        "_x",
    ),
]
NUMBERS: list[str | None] = ["7", "007", "8"]  # which readers take for numbers where all are
PAGE = Path(__file__).resolve().parents[2] / "docs/archive.md"
TOPIC = "t" * 249
START = 1_795_348_800_000  # 2026-11-22T12:00:00Z
STEP = 40 * 60_000  # of event time, from row to row
LAYOUTS = [Layout("hour", "fleet"), Layout("day", "fleet"), Layout("month", "fleet"), Layout("hour"), Layout("month")]


def write(root: Path | str, layout: Layout, values: list[str | None]) -> list[tuple[Any, ...]]:
    """An archive of events, written by two jobs one after the other; the rows: offset, fleet, then those of NAMES."""
    schema = archive_schema(CASE, "events")
    n = len(values)
    numbers = [[float(i * 10 + k) for i in range(n)] for k, _ in enumerate(NAMES)]
    events = pa.record_batch(
        {
            "id": pa.array(["a"] * n),
            "at": pa.array([START + i * STEP for i in range(n)], pa.timestamp("ms", "UTC")),
            **{name: pa.array(column) for name, column in zip(NAMES, numbers, strict=True)},
            "fleet": pa.array(values, pa.string()),
        }
    )
    block = with_source(events, raw_block(TOPIC, [0] * n, range(n), range(n), [None] * n, [b""] * n))
    for end in (n // 2, n):  # the second one reads from the beginning again, and a row comes late
        made = WriteFiles(ArchiveSettings(str(root), "job", schema, "at", "parquet", "zstd", layout))
        made.settings.log().recover()
        made.setup()
        made.start_bundle()
        made.process(block.slice(0, end))
        made.finish_bundle()
        made.teardown()
    return list(zip(range(n), values, *numbers, strict=True))


@pytest.mark.parametrize("values", [ODD, NUMBERS], ids=["odd", "numbers"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout.partition_by}-{layout.route_by}")
def test_readers_of_the_folder_see_the_rows(tmp_path: Path, layout: Layout, values: list[str | None]) -> None:
    rows, columns = write(tmp_path, layout, values), ["source_offset", "fleet", *NAMES]
    if layout.route_by:
        assert len({path.name for path in tmp_path.iterdir()} - {"_archive"}) == len(values)
    every = f"from read_parquet('{tmp_path}/**/*.parquet', hive_partitioning=true)"
    assert duckdb.sql(f"select {', '.join(columns)} {every} order by 1").fetchall() == rows
    found = duckdb.sql(f"select {', '.join(layout.columns)} {every}")
    assert not {name.lower() for name in found.columns} & {*columns}
    frame = pd.read_parquet(tmp_path).sort_values("source_offset")
    assert set(layout.columns) < set(frame.columns)
    frame = frame[columns].astype(object).where(frame[columns].notna(), None)
    assert list(frame.itertuples(index=False, name=None)) == rows
    table = ds.dataset(tmp_path, partitioning="hive").to_table(columns).sort_by("source_offset")
    assert [tuple(row.values()) for row in table.to_pylist()] == rows


def test_a_folder_is_chosen_by_its_value(tmp_path: Path) -> None:
    """What the folder's column says is the value, behind the name of the rows' own column."""
    write(tmp_path, Layout("day", "fleet"), ODD)
    every = f"from '{tmp_path}/**/*.parquet'"
    short = [value for value in ODD if len(f"fleet.{value or ''}".encode()) < 200]
    for number, value in enumerate(short):
        text = "fleet" if value is None else f"fleet.{value}"
        found = duckdb.sql(f"select fleet, source_offset {every} where highbeam_route = $1", params=[text]).fetchall()
        assert found == [(value, ODD.index(value))], number


@pytest.mark.parametrize("layout", [*LAYOUTS, Layout("hour", "fleet", plain_names=True)], ids=str)
def test_the_project_reads_a_range_of_each_layout(tmp_path: Path, layout: Layout) -> None:
    write(tmp_path, layout, ["a", None] * 100)  # five days and a half
    everything = open_archive(str(tmp_path), CASE)
    assert rows_of(everything) == list(range(200))
    for first, last in ((0, 1), (3, 60), (17, 18), (150, 200)):
        part = open_archive(str(tmp_path), CASE, START + first * STEP, START + last * STEP)
        assert rows_of(part) == list(range(first, last))
        assert layout.partition_by == "month" or len(part.files) < len(everything.files)
    assert log_names(str(tmp_path)) == {"job"}


def test_a_bucket_takes_the_name_of_every_value(bucket: str) -> None:
    write(f"{bucket}/routes", Layout("month", "fleet"), ODD)
    archive = open_archive(f"{bucket}/routes", CASE)
    assert rows_of(archive) == list(range(len(ODD)))
    assert len({path.split("/")[-3] for path in archive.files}) == len(ODD)


def test_old_and_new_folders_beside_each_other_are_read_once(tmp_path: Path) -> None:
    for number, layout in enumerate([Layout("hour", plain_names=True), Layout("day"), Layout("month", "fleet")]):
        write(tmp_path / str(number), layout, ["a"] * 50)
    assert rows_of(open_archive(str(tmp_path), CASE)) == sorted([*range(50)] * 3)
    part = open_archive(str(tmp_path), CASE, START + 10 * STEP, START + 12 * STEP)
    assert rows_of(part) == [10, 10, 10, 11, 11, 11]


def rows_of(archive: ArchiveInput) -> list[int]:
    """The offsets of the rows that a job reads."""
    read = ReadFiles(archive)
    found = [element.value.column("_offset").to_pylist() for path in archive.files for element in read.process(path)]
    return sorted(np.concatenate(found).tolist())


def test_an_archive_from_before_gets_the_new_names_in_place(tmp_path: Path) -> None:
    """As docs/archive.md has it; the log goes on, and no row is written again."""
    root = tmp_path / "archive/car_sensors"
    write(root, Layout(plain_names=True), ["a"] * 50)
    assert find_layout(str(root), NAMES, None, None).plain_names
    (script,) = re.findall(r"```bash\n(cd archive/car_sensors\nfor .*?)```", PAGE.read_text(), re.DOTALL)
    subprocess.run(["bash", "-euc", script], cwd=tmp_path, check=True)
    layout = find_layout(str(root), NAMES, None, None)
    assert layout == Layout()
    write(root, layout, ["a"] * 60)
    assert {path.name.split("=")[0] for path in root.iterdir()} == {"_archive", "highbeam_date"}
    assert rows_of(open_archive(str(root), CASE)) == list(range(60))
    assert pd.read_parquet(root)["hour"].sum() == sum(range(0, 600, 10))


def test_history_by_the_month_is_few_files(tmp_path: Path) -> None:
    """5,340 hours of events, a row each, through one bundle."""
    schema = archive_schema(CASE, "features")
    n = 5340
    events = pa.record_batch(
        {
            "id": pa.array(["a"] * n),
            "at": pa.array([START + i * 3_600_000 for i in range(n)], pa.timestamp("ms", "UTC")),
            "hour": pa.array(np.zeros(n, np.float32)),
        }
    )
    block = with_source(events, raw_block(TOPIC, [0] * n, range(n), range(n), [None] * n, [b""] * n))
    made = WriteFiles(ArchiveSettings(str(tmp_path), "job", schema, "at", "parquet", "zstd", Layout("month")))
    made.setup()
    made.start_bundle()
    made.process(block)
    made.finish_bundle()
    assert len(list(tmp_path.rglob("*.parquet"))) == 9
    assert rows_of(open_archive(str(tmp_path), CASE)) == list(range(n))
