"""One archive, every reader: the same rows, the same types, nothing personal.

DuckDB reads Avro by an extension only, which it downloads: it reads the Parquet archives here.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any

import apache_beam as beam
import duckdb
import fastavro
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.io.avroio import ReadFromAvro
from apache_beam.io.parquetio import ReadFromParquet
from apache_beam.testing.test_pipeline import TestPipeline as Pipeline
from apache_beam.testing.util import assert_that, equal_to

from beam_jobs import dead_letters
from beam_jobs.archives.files import COMPRESSIONS, FileFormat
from beam_jobs.archives.rows import Content, archive_schema, carried
from beam_jobs.archives.sink import ArchiveSettings, WriteToArchive
from beam_jobs.block import Block, raw_block
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.codec.avro.file import write_avro
from beam_jobs.codec.schema import arrow_schema
from beam_jobs.errors import UserError
from beam_jobs.sandbox.fleet import Fleet
from beam_jobs.steps.decode import DecodeEvents
from beam_jobs.steps.preprocess import Preprocess
from beam_jobs.use_case import load_use_case
from model.training.data import Counts, read, source

CARS = load_use_case("car_sensors")
N = 400
START = 1_795_348_800_000 - 60_000  # a minute before 2026-11-22T12:00:00Z
DUCKDB = {"INTEGER": "int32", "BIGINT": "int64", "FLOAT": "float", "DOUBLE": "double", "VARCHAR": "string",
          "BLOB": "binary", "TIMESTAMP WITH TIME ZONE": "timestamp"}  # fmt: skip
PANDAS = {"int32": "int32", "int64": "int64", "float32": "float", "float64": "double", "object": "string",
          "str": "string", "datetime64[ms, UTC]": "timestamp"}  # fmt: skip


def events() -> pa.RecordBatch:
    return Fleet(50, seed=4, prevalence=0.5, start_time=START, interval=15, span=120, label="kind").step(N // 50)


@dataclass(frozen=True)
class Archive:
    """Some events, archived."""

    folder: Path
    content: Content
    file_format: FileFormat
    schema: pa.Schema

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.glob(f"highbeam_date=*/highbeam_hour=*/*.{self.file_format}"))

    def expected(self) -> list[tuple[Any, ...]]:
        """The rows, made from the events without the codec or the archive."""
        rows, columns = events(), dict[str, Any]()
        if self.content == "features":
            done = CARS.preprocessor().apply(rows)
            assert done.kept.tolist() == list(range(N))
            columns = {name: done.rows[name].to_pylist() for name in done.rows.schema.names}
        for name in self.schema.names:
            if name in rows.schema.names:
                columns.setdefault(name, rows[name].to_pylist())
        columns |= {"source_topic": ["events"] * N, "source_partition": [0] * N, "source_offset": list(range(N))}
        columns["source_key"] = [b"k"] * N
        columns["source_timestamp"] = [START + i for i in range(N)]
        return plain(zip(*(columns[name] for name in self.schema.names), strict=True))


def plain(rows: Any) -> list[tuple[Any, ...]]:
    """Rows with times in milliseconds, by topic, partition and offset."""

    def value(cell: Any) -> Any:
        return round(cell.timestamp() * 1000) if isinstance(cell, datetime) else cell

    return sorted(tuple(map(value, row)) for row in rows)


@pytest.fixture(scope="module", params=["avro", "parquet"])
def file_format(request: pytest.FixtureRequest) -> FileFormat:
    found: FileFormat = request.param
    return found


@pytest.fixture(scope="module", params=["features", "events"])
def archive(
    request: pytest.FixtureRequest, file_format: FileFormat, tmp_path_factory: pytest.TempPathFactory
) -> Archive:
    content: Content = request.param
    folder = tmp_path_factory.mktemp("archive")
    values = AvroEncoder(CARS.schema, 1).encode(events()).to_pylist()
    block = raw_block("events", [0] * N, range(N), [START + i for i in range(N)], [b"k"] * N, values)
    schema = archive_schema(CARS, content)
    label = carried(CARS)
    names = [f["name"] for f in CARS.schema["fields"]]
    wanted = arrow_schema(schema).names if content == "events" else [*CARS.preprocessor().input_columns, label]
    decode = DecodeEvents(CARS.schema, [n for n in names if n in wanted], lambda _: CARS.schema, "test")
    with Pipeline("FnApiRunner") as p:
        rows = p | beam.Create([block]) | "Decode" >> _good(decode)
        if content == "features":
            rows = rows | "Preprocess" >> _good(Preprocess(CARS.preprocessor(), "test", [label]))
        compression = COMPRESSIONS[file_format][0]
        rows | WriteToArchive(ArchiveSettings(str(folder), "test", schema, CARS.event_time, file_format, compression))
    return Archive(folder, content, file_format, arrow_schema(schema))


def _good(step: beam.DoFn) -> beam.PTransform:
    def good(blocks: beam.PCollection) -> beam.PCollection:
        done = blocks | beam.ParDo(step).with_outputs(dead_letters.TAG, main="good").with_output_types(Block)
        return done.good

    return beam.ptransform_fn(lambda pcoll: good(pcoll))()


def with_plain_library(archive: Archive) -> list[tuple[Any, ...]]:
    """fastavro or pyarrow, in the order of their own columns."""
    found = []
    for path in archive.files:
        with path.open("rb") as file:
            found += list(fastavro.reader(file)) if path.suffix == ".avro" else pq.ParquetFile(file).read().to_pylist()
    assert list(found[0]) == archive.schema.names
    return [tuple(row.values()) for row in found]


def with_pandas(archive: Archive) -> list[tuple[Any, ...]]:
    if archive.file_format == "avro":
        opened = [path.open("rb") for path in archive.files]
        frame = pd.DataFrame.from_records(list(chain.from_iterable(map(fastavro.reader, opened))))
        for file in opened:
            file.close()
    else:
        frame = pd.concat(pd.read_parquet(path) for path in archive.files)
        # Bytes are objects to it, as text was before pandas 3.
        kinds = {name: "string" if kind == "binary" else kind for name, kind in _types(archive.schema).items()}
        assert kinds == {name: PANDAS[str(dtype)] for name, dtype in frame.dtypes.items()}
    frame = frame.astype(object).where(frame.notna(), None)
    return list(frame[archive.schema.names].itertuples(index=False, name=None))


def _types(schema: pa.Schema) -> dict[str, str]:
    return {f.name: "timestamp" if pa.types.is_timestamp(f.type) else str(f.type) for f in schema}


@pytest.mark.parametrize("reader", [with_plain_library, with_pandas])
def test_python_reads_the_rows(archive: Archive, reader: Callable[[Archive], list[tuple[Any, ...]]]) -> None:
    assert len(archive.files) == 2  # hours
    assert plain(reader(archive)) == archive.expected()


def test_beam_reads_the_rows(archive: Archive) -> None:
    names, pattern = archive.schema.names, str(archive.folder / "**" / f"*.{archive.file_format}")
    transform = ReadFromAvro(pattern) if archive.file_format == "avro" else ReadFromParquet(pattern)
    with Pipeline("FnApiRunner") as p:
        rows = p | transform | beam.Map(lambda row: plain([[row[name] for name in names]])[0])
        assert_that(rows, equal_to(archive.expected()))


def test_duckdb_reads_the_rows(archive: Archive) -> None:
    if archive.file_format == "avro":
        pytest.skip("DuckDB's Avro extension has to be downloaded")
    query = f"from '{archive.folder}/**/*.parquet'"
    found = duckdb.sql(f"select {', '.join(archive.schema.names)} {query}")
    assert dict(zip(found.columns, (DUCKDB[str(t)] for t in found.types), strict=True)) == _types(archive.schema)
    assert plain(found.fetchall()) == archive.expected()
    assert duckdb.sql(f"select distinct highbeam_date, highbeam_hour {query} order by all").fetchall() == [
        (datetime(2026, 11, 22).date(), 11),
        (datetime(2026, 11, 22).date(), 12),
    ]


def test_training_reads_the_rows(archive: Archive, tmp_path: Path) -> None:
    counts = Counts()
    parts = list(read(CARS, source(str(archive.folder)), counts, tmp_path))
    x, times = np.concatenate([p.x for p in parts]), np.concatenate([p.times for p in parts])
    keys, kinds = (pa.concat_arrays([getattr(p, name) for p in parts]) for name in ("keys", "kinds"))
    wanted = CARS.preprocessor().apply(events()).rows
    truth = np.stack([wanted[name].to_numpy() for name in CARS.preprocessor().features], axis=1)
    order = np.lexsort((keys.to_numpy(zero_copy_only=False), times))
    np.testing.assert_array_equal(x[order], truth)  # events come in order of time, as the bits they were
    np.testing.assert_array_equal(times[order], wanted["event_time"].cast(pa.int64()).to_numpy())
    assert keys.take(pa.array(order)).equals(wanted["car_id"])
    labels = events()["failure_occurred"].to_pylist()
    assert kinds.take(pa.array(order)).to_pylist() == ["" if label == "false" else label for label in labels]
    assert (counts.read, len(counts.files)) == (N, 2)


def test_training_refuses_features_beside_events(archive: Archive, tmp_path: Path) -> None:
    shutil.copytree(archive.folder, tmp_path, dirs_exist_ok=True)
    write_avro(tmp_path / "z.avro", CARS.schema, [events()])
    examples = read(CARS, source(str(tmp_path)), Counts(), tmp_path)
    if archive.content == "events":
        assert sum(len(part.x) for part in examples) == 2 * N
        return
    with pytest.raises(UserError, match="holds features as well as events"):
        list(examples)


def test_nothing_personal_is_in_it(archive: Archive) -> None:
    sent = events()
    personal = [name for name, f in _fields().items() if "pii" in f]
    assert len(personal) == 4
    assert not set(personal) & set(archive.schema.names)
    secrets = {value for name in personal for value in sent[name].to_pylist()}
    found = with_plain_library(archive)
    assert not secrets & {cell for row in found for cell in row}
    assert "car-000001" in {cell for row in found for cell in row}  # it would have been seen


def _fields() -> dict[str, dict[str, Any]]:
    return {field["name"]: field for field in CARS.schema["fields"]}
