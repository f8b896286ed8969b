"""The files of a bundle: where rows go, how large files get, what readers see before it is committed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_jobs.archives import files as archive_files
from beam_jobs.archives import sink as archive
from beam_jobs.archives.files import COMPRESSIONS
from beam_jobs.archives.layout import Layout
from beam_jobs.archives.log import ArchiveLog
from beam_jobs.archives.rows import PROPERTY, SOURCE_FIELDS
from beam_jobs.archives.sink import ArchiveSettings, WriteFiles
from beam_jobs.block import raw_block, with_source
from beam_jobs.errors import UserError
from beam_jobs.io.kafka import topic as kafka_topic
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.topic import KafkaTopic

SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "R",
    PROPERTY: {},
    "fields": [
        *SOURCE_FIELDS,
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "value", "type": "double"},
    ],
}
HOUR_MS = 3_600_000
MAX_BYTES = 50_000
ROWS = 500  # of a block: 10 kB


def block(number: int, hour: int = 0) -> pa.RecordBatch:
    """The n-th block of the topic."""
    offsets = np.arange(ROWS) + number * ROWS
    raw = raw_block("t", np.zeros(ROWS, np.int32), offsets, offsets, [None] * ROWS, [b""] * ROWS)
    times = pa.array(np.full(ROWS, hour * HOUR_MS) + np.arange(ROWS)).cast(pa.timestamp("ms", "UTC"))
    return with_source(pa.record_batch({"at": times, "value": np.random.default_rng(number).normal(size=ROWS)}), raw)


def writer(root: Path, file_format: Any = "avro", compression: str = "deflate", topic: Any = None) -> WriteFiles:
    write = WriteFiles(
        ArchiveSettings(str(root), "job", SCHEMA, "at", file_format, compression, Layout(), MAX_BYTES, topic)
    )
    write.settings.log().recover()
    write.setup()
    return write


def run(write: WriteFiles, *blocks: pa.RecordBatch) -> None:
    write.start_bundle()
    for each in blocks:
        write.process(each)
    write.finish_bundle()


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.suffix in (".avro", ".parquet"))


def offsets(path: Path) -> list[int]:
    if path.suffix == ".parquet":
        return list(pq.read_table(path, partitioning=None).column("source_offset").to_pylist())
    with path.open("rb") as file:
        return [row["source_offset"] for row in fastavro.reader(file)]  # type: ignore[arg-type, index, call-overload]


@pytest.mark.parametrize(("file_format", "compression"), [(f, c) for f, known in COMPRESSIONS.items() for c in known])
def test_a_file_that_reached_its_size_is_followed_by_another(
    tmp_path: Path, file_format: Any, compression: str
) -> None:
    run(writer(tmp_path, file_format, compression), *(block(i) for i in range(40)))
    sizes = [path.stat().st_size for path in files(tmp_path)]
    assert len(sizes) > 4
    assert sum(size >= MAX_BYTES for size in sizes) >= len(sizes) - 1  # the last holds the rest
    assert max(sizes) < MAX_BYTES + 15_000 + 20_000  # a block, and Parquet's footer
    found = [offset for path in files(tmp_path) for offset in offsets(path)]
    assert sorted(found) == list(range(40 * ROWS))


def test_files_say_their_codec(tmp_path: Path) -> None:
    for compression, codec in (("deflate", "deflate"), ("none", "null")):
        run(writer(tmp_path / compression, "avro", compression), block(0))
        (path,) = files(tmp_path / compression)
        with path.open("rb") as file:
            assert fastavro.reader(file).metadata["avro.codec"] == codec
    for compression in COMPRESSIONS["parquet"]:
        run(writer(tmp_path / "parquet" / compression, "parquet", compression), block(0))
        (path,) = files(tmp_path / "parquet" / compression)
        said = pq.read_metadata(path).row_group(0).column(5).compression
        assert said == {"none": "UNCOMPRESSED"}.get(compression, compression.upper())
        assert pl.read_parquet(path).height == ROWS


def test_nothing_is_seen_before_the_commit_and_each_hour_has_its_folder(tmp_path: Path) -> None:
    write = writer(tmp_path)
    write.start_bundle()
    for i, hour in enumerate([5, 6, 5, 2]):  # the last is late
        write.process(block(i, hour))
        assert files(tmp_path) == []
    write.finish_bundle()
    found = {path.parent.name: offsets(path) for path in files(tmp_path)}
    assert {name: sorted({o // ROWS for o in of}) for name, of in found.items()} == {
        "highbeam_hour=02": [3],
        "highbeam_hour=05": [0, 2],
        "highbeam_hour=06": [1],
    }


def test_positions_are_those_of_a_topics_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_topic, "_id_now", lambda *of: "first")
    address = KafkaAddress("h:1", "t")
    first, second = (KafkaTopic(address, KafkaConfig(), name) for name in ("first", "second"))
    old = writer(tmp_path, topic=first)
    run(old, block(0))
    run(old, block(0))
    assert len(files(tmp_path)) == 1
    monkeypatch.setattr(kafka_topic, "_id_now", lambda *of: "second")
    with pytest.raises(UserError, match="made anew"):
        run(old, block(1))
    assert len(files(tmp_path)) == 1
    run(writer(tmp_path, topic=second), block(0))
    run(writer(tmp_path, topic=second), block(0))
    assert len(files(tmp_path)) == 2


def test_a_log_without_ids_is_adopted(tmp_path: Path) -> None:
    run(writer(tmp_path), block(0))
    log = ArchiveLog(str(tmp_path), "job")
    held = log.recover(adopt={"t": "t#id"})
    assert {topic for topic, _ in held.ranges.of} == {"t#id"}
    again = ArchiveLog(str(tmp_path), "job", log.owner).held()
    assert again.holds(("t#id", 0), np.array([0, ROWS])).tolist() == [True, False]


def routed(number: int, values: list[str], hour: int = 0) -> pa.RecordBatch:
    """A block of a row for each route."""
    n = len(values)
    offsets = np.arange(n) + number * n
    raw = raw_block("t", np.zeros(n, np.int32), offsets, offsets, [None] * n, [b""] * n)
    times = pa.array(np.full(n, hour * HOUR_MS)).cast(pa.timestamp("ms", "UTC"))
    return with_source(pa.record_batch({"at": times, "value": np.zeros(n), "fleet": pa.array(values)}), raw)


ROUTED = {**SCHEMA, "fields": [*SCHEMA["fields"], {"name": "fleet", "type": ["null", "string"]}]}


def routing(root: Path, file_format: Any = "avro") -> WriteFiles:
    compression = COMPRESSIONS[file_format][0]
    write = WriteFiles(
        ArchiveSettings(str(root), "job", ROUTED, "at", file_format, compression, Layout(route_by="fleet"), MAX_BYTES)
    )
    write.settings.log().recover()
    write.setup()
    return write


def open_in(folder: Path) -> int:
    """How many files of a folder are open; what clients of other tests open in their threads is not counted."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            found += str(link.readlink()).startswith(str(folder))
    return found


@pytest.mark.parametrize("file_format", ["avro", "parquet"])
@pytest.mark.parametrize("gathered", [0, 32 << 20])
def test_any_number_of_folders_takes_few_descriptors_and_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_format: Any, gathered: int
) -> None:
    monkeypatch.setattr(archive, "_GATHERED_BYTES", gathered)
    monkeypatch.setattr(archive_files, "MAX_DESCRIPTORS", 4)
    monkeypatch.setattr(archive_files, "MAX_BYTES", 100 * 4000)
    most = 0
    write = routing(tmp_path, file_format)
    write.start_bundle()
    values = [f"fleet {i}" for i in range(300)]
    for number in range(3):
        write.process(routed(number, values))
        most = max(most, open_in(tmp_path))
    write.finish_bundle()
    assert (0 if gathered else 1) <= most <= 4
    assert open_in(tmp_path) == 0
    found = files(tmp_path)
    assert sorted(offset for path in found for offset in offsets(path)) == list(range(900))
    assert len({path.parent for path in found}) == 300
    # Gathered, each folder's rows are written at once; else files beyond the budget are followed by others.
    assert len(found) == 300 if gathered else len(found) > 300


def test_a_value_of_any_length_is_filed(tmp_path: Path) -> None:
    values = ["berlin", "Ж" * 57, "Ж" * 58, "", "../..", "a/b", ".", "x" * 5000]
    run(routing(tmp_path), routed(0, values))
    run(routing(tmp_path), routed(1, values))
    found = files(tmp_path)
    assert len({path.parent for path in found}) == len(values)
    assert sorted(offset for path in found for offset in offsets(path)) == list(range(2 * len(values)))
    assert all(path.is_relative_to(tmp_path) for path in found)


def test_a_folder_that_cannot_be_made_is_found_before_the_commit(tmp_path: Path) -> None:
    (tmp_path / "highbeam_route=fleet.b").write_text("in the way")
    write = routing(tmp_path)
    with pytest.raises(
        UserError, match=r"=fleet\.b/highbeam_date=.*: Not a directory\); a file is where a folder should be"
    ):
        run(write, routed(0, ["a", "b"]))
    write.teardown()
    assert files(tmp_path) == []
    (tmp_path / "highbeam_route=fleet.b").unlink()
    again = routing(tmp_path)
    run(again, routed(0, ["a", "b"]))
    assert sorted(offset for path in files(tmp_path) for offset in offsets(path)) == [0, 1]
