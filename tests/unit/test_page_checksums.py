"""A bit that changed on a disk: every reader of Parquet refuses the file by name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_jobs.archives.event_files import read_events
from beam_jobs.archives.read import read_rows
from beam_jobs.errors import UserError
from beam_jobs.steps import lookup
from tests.unit.archives.test_files import SCHEMA, block, files, run, writer

ROWS = pa.table({"car_id": [f"car-{i}" for i in range(1000)], "speed": pa.array([50.0] * 1000)})
USE_CASE = SimpleNamespace(schema={"type": "record", "name": "E", "fields": [{"name": "speed", "type": "double"}]})


def flipped(path: Path) -> Path:
    """The file with one bit of its first data page changed."""
    data = bytearray(path.read_bytes())
    column = pq.read_metadata(path).row_group(0).column(1)
    start = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
    data[start + column.total_compressed_size - 3] ^= 0x10
    path.write_bytes(data)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    pq.write_table(ROWS, tmp_path / "a.parquet", compression="none", use_dictionary=False, write_page_checksum=True)
    return flipped(tmp_path / "a.parquet")


def test_training_data(path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.parquet: can't be read \(.*checksum"):
        list(read_events(path, cast("Any", USE_CASE), ["speed"]))


def test_a_lookup_table(path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.parquet: can't be read as a lookup table \(.*checksum"):
        lookup.describe(str(path), "car_id", pa.string())


@pytest.mark.parametrize("compression", ["zstd", "snappy", "none"])
def test_an_archive_as_it_is_written(tmp_path: Path, compression: str) -> None:
    run(writer(tmp_path, "parquet", compression), block(0))
    (path,) = files(tmp_path)
    assert sum(rows.num_rows for rows in read_rows(str(path), SCHEMA)) == 500
    flipped(path)
    with pytest.raises(UserError, match=r"\.parquet: can't be read \(.*checksum"):
        list(read_rows(str(path), SCHEMA))
