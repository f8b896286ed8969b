"""The order of a topic, from an archive that is cut by hours of event time."""

from __future__ import annotations

import itertools
import os
import resource
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from apache_beam.utils.timestamp import MAX_TIMESTAMP
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_jobs import stop
from beam_jobs.archives import replay_source as archive_source
from beam_jobs.archives.contents import Contents, look_through
from beam_jobs.archives.files import COMPRESSIONS, FileFormat
from beam_jobs.archives.read import open_archive
from beam_jobs.archives.replay_source import ArchiveSource, SweepMark, SweepReader
from beam_jobs.archives.rows import archive_schema
from beam_jobs.archives.sink import ArchiveSettings, WriteFiles
from beam_jobs.archives.sweep import Sweep
from beam_jobs.block import raw_block, with_source
from beam_jobs.errors import UserError
from beam_jobs.use_case import UseCase

HOUR = 3_600_000
TIME = {"type": "long", "logicalType": "timestamp-millis"}
CASE = UseCase(
    name="probe",
    schema={
        "type": "record",
        "name": "Probe",
        "fields": [
            {"name": "id", "type": "string"},
            {"name": "at", "type": TIME},
            {"name": "value", "type": "double"},
        ],
    },
    sql="SELECT id, at, value FROM events",
    key="id",
    event_time="at",
    label=None,
)

Row = tuple[int, int, int]  # partition, offset, event time in ms


def write(
    root: Path,
    bundles: Sequence[Sequence[Sequence[Row]]],
    topic: str = "t",
    name: str = "job",
    exact: bool = False,
    file_format: FileFormat = "avro",
    published: Callable[[int, int], int] = lambda offset, event_ms: event_ms + 5,
) -> None:
    """An archive of events, written bundle by bundle, a bundle block by block."""
    schema = archive_schema(CASE, "events")
    compression = COMPRESSIONS[file_format][0]
    made = WriteFiles(ArchiveSettings(str(root), name, schema, "at", file_format, compression, exact=exact))
    made.setup()
    for blocks in bundles:
        made.start_bundle()
        for rows in blocks:
            partitions, offsets, times = zip(*rows, strict=True)
            n = len(rows)
            keys = [None if o % 7 == 0 else b"key-%d" % o for o in offsets]
            stamps = [published(o, t) for o, t in zip(offsets, times, strict=True)]
            raw = raw_block(topic, partitions, offsets, stamps, keys, [None] * n)
            events = pa.record_batch(
                {
                    "id": pa.array([f"car-{o % 3}" for o in offsets]),
                    "at": pa.array(times, pa.timestamp("ms", "UTC")),
                    "value": pa.array(np.array(offsets, np.float64)),
                }
            )
            made.process(with_source(events, raw))
        made.finish_bundle()


def swept(sweep: Sweep) -> tuple[list[Row], list[int], int]:
    """(partition code, offset, event time) in order; when they are due; most rows held back at any time."""
    rows: list[Row] = []
    due: list[int] = []
    most = 0
    while (part := sweep.next()) is not None:
        times = part.rows.column("at").cast(pa.int64()).to_pylist()
        rows += zip(part.partitions.tolist(), part.rows.column("source_offset").to_pylist(), times, strict=True)
        due += part.due_ms.tolist()
        most = max(most, sweep.held_rows)
    return rows, due, most


def by_partition(rows: list[Row]) -> dict[int, list[int]]:
    found = defaultdict(list)
    for p, offset, _ in rows:
        found[p].append(offset)
    return found


def prepared(root: Path, **bounds: Any) -> tuple[Any, Contents]:
    archive = open_archive(str(root), CASE, **bounds)
    return archive, look_through(archive)


@st.composite
def topics(draw: Any) -> list[list[list[Row]]]:
    """A topic of up to 3 partitions with gaps, its event times mostly ascending, in bundles and blocks."""
    rows: list[Row] = []
    following = [0, 0, 0]
    for step in range(draw(st.integers(1, 60))):
        p = draw(st.integers(0, 2))
        following[p] += draw(st.integers(1, 3))
        late = draw(st.sampled_from([0, 0, 0, 0, 2, 30]))
        rows.append((p, following[p], (step // 6 - late + 40) * HOUR // 2 + step))
    cuts = sorted(draw(st.lists(st.integers(1, len(rows)), max_size=6)))
    blocks = [rows[a:b] for a, b in itertools.pairwise([0, *cuts, len(rows)]) if a < b]
    size = draw(st.integers(1, 3))
    return [blocks[i : i + size] for i in range(0, len(blocks), size)]


@settings(max_examples=60, deadline=None)
@given(bundles=topics(), stop=st.integers(0, 60))
def test_each_row_once_and_in_the_order_of_its_partition(
    tmp_path_factory: pytest.TempPathFactory, bundles: list[list[list[Row]]], stop: int
) -> None:
    root = tmp_path_factory.mktemp("archive")
    write(root, bundles)
    archive, contents = prepared(root)
    rows, due, most = swept(Sweep(archive, contents))
    sent = sorted(row for blocks in bundles for block in blocks for row in block)
    names = {code: p for code, (_, p) in enumerate(contents.partitions)}
    assert sorted((names[p], o, t) for p, o, t in rows) == sent
    assert all(offsets == sorted(offsets) for offsets in by_partition(rows).values())
    reached: dict[int, int] = {}
    for (p, _, t), at in zip(rows, due, strict=True):
        reached[p] = max(t, reached.get(p, t))
        assert at == reached[p]  # a late row is due with the newest before it, no row is due later
    assert most <= max(sum(map(len, blocks)) for blocks in bundles)
    # From any point on, as a reader does that is built anew.
    after = np.full(len(contents.partitions), -1)
    for p, offset, _ in rows[:stop]:
        after[p] = offset
    again = (after >= 0).astype(np.int64)
    assert sorted(swept(Sweep(archive, contents, after, again))[0]) == sorted(rows[stop:])


def test_memory_is_that_of_a_few_batches(tmp_path: Path) -> None:
    """100 bundles, one in ten rows late by a day, a partition that is seldom written to."""
    bundles = []
    for b in range(100):
        block = [(o % 2, 100 * b + o, b * HOUR // 20 - (24 * HOUR if o % 10 == 0 else 0)) for o in range(100)]
        bundles.append([[*block[:50], *([(2, b, b * HOUR // 20)] if b in (0, 99) else [])], block[50:]])
    write(tmp_path, bundles)
    archive, contents = prepared(tmp_path)
    assert len(contents.files) > 100
    rows, _, most = swept(Sweep(archive, contents))
    assert len(rows) == contents.rows == 10_002
    assert all(offsets == sorted(offsets) for offsets in by_partition(rows).values())
    assert most <= 101


def test_an_archive_made_of_another_is_in_order_as_well(tmp_path: Path) -> None:
    rows = [(0, o, (o * 7 % 5) * HOUR) for o in range(50)]
    shuffled = np.random.default_rng(3).permutation(50).tolist()
    write(tmp_path, [[[rows[i] for i in shuffled[:30]], [rows[i] for i in shuffled[30:]]]], exact=True)
    archive, contents = prepared(tmp_path)
    assert not all(file.in_order.all() for file in contents.files)
    assert contents.timed == (False,)
    assert [o for _, o, _ in swept(Sweep(archive, contents))[0]] == list(range(50))


@st.composite
def messages(draw: Any) -> list[list[list[Row]]]:
    """A subscription's messages as they came: ids without an order, publish times nearly in order, late events."""
    n = draw(st.integers(1, 80))
    mixed = np.random.default_rng(draw(st.integers(0, 99))).permutation(n)
    ids = mixed + draw(st.sampled_from([1 << 50, 1 << 53, (1 << 63) - 100]))
    rows = [(0, int(ids[i]), (i // 8 - draw(st.sampled_from([0, 0, 0, 30])) + 40) * HOUR // 2 + i) for i in range(n)]
    for i in draw(st.lists(st.integers(0, max(0, n - 5)), max_size=5)):
        rows[i : i + 4] = rows[i : i + 4][::-1]  # what is published at about the same time comes in any order
    cuts = sorted(draw(st.lists(st.integers(1, n), max_size=6)))
    blocks = [rows[a:b] for a, b in itertools.pairwise([0, *cuts, n]) if a < b]
    size = draw(st.integers(1, 3))
    return [blocks[i : i + size] for i in range(0, len(blocks), size)]


@settings(max_examples=25, deadline=None)
@given(bundles=messages(), same_ms=st.sampled_from([1, 4, 1000]), stop=st.integers(0, 80))
def test_message_ids_come_in_the_order_they_were_published_in(
    tmp_path_factory: pytest.TempPathFactory, bundles: list[list[list[Row]]], same_ms: int, stop: int
) -> None:
    sent = [row for blocks in bundles for block in blocks for row in block]
    number = {offset: t % (HOUR // 2) for _, offset, t in sent}  # in which order they were published

    def published(offset: int, _: int) -> int:
        return 1_700_000_000_000 + number[offset] // same_ms

    root = tmp_path_factory.mktemp("archive")
    write(root, bundles, published=published, exact=True)
    archive, contents = prepared(root)
    assert contents.timed == (True,)
    rows, due, _ = swept(Sweep(archive, contents))
    assert sorted(rows) == sorted(sent)
    stamps = [published(o, t) for _, o, t in rows]
    assert stamps == sorted(stamps)
    assert due == np.maximum.accumulate([t for _, _, t in rows]).tolist()
    # From any point on, in the middle of a millisecond as well.
    session = archive_source._Session(ArchiveSource(archive, contents, None), SweepMark())
    left = stop
    while left > 0 and (part := session.sweep.next()) is not None:
        session.hand_out(part.slice(0, min(left, len(part))))
        left -= len(part)
    assert swept(Sweep(archive, contents, session.after, session.again))[0] == rows[stop:]


def test_ids_without_an_order_are_told_from_offsets_by_the_times(tmp_path: Path) -> None:
    """Where they are as small as offsets, as an emulator's are."""
    order = np.random.default_rng(4).permutation(200).tolist()
    write(tmp_path, [[[(0, o, 40 * HOUR + i * 100) for i, o in enumerate(order)]]], topic="ids")
    write(tmp_path, [[[(0, o, 40 * HOUR + o * 100) for o in range(200)]]], topic="offsets", name="b")
    runs = [[(0, o, 40 * HOUR + o * 100) for o in range(start, start + 20)] for start in (100, 40, 0, 160, 60)]
    write(tmp_path, [runs], topic="copied", name="c", exact=True)
    archive, contents = prepared(tmp_path)
    assert dict(zip((topic for topic, _ in contents.partitions), contents.timed, strict=True)) == {
        "ids": True,
        "offsets": False,
        "copied": False,
    }
    rows, _, _ = swept(Sweep(archive, contents))
    found = {contents.partitions[p][0]: offsets for p, offsets in by_partition(rows).items()}
    assert found["ids"] == order
    assert found["offsets"] == list(range(200))
    assert found["copied"] == sorted(found["copied"])


def test_files_out_of_order_are_read_a_batch_at_a_time(tmp_path: Path) -> None:
    """A file of many batches, each row out of place by up to ten rows: as messages come."""
    n = 2000
    order = np.argsort(np.arange(n) + np.random.default_rng(1).uniform(0, 10, n)).tolist()
    rows = [(0, (1 << 52) + i * 7919 % n, 40 * HOUR + i) for i in order]
    write(tmp_path, [[rows[i : i + 50] for i in range(0, n, 50)]])
    archive, contents = prepared(tmp_path)
    assert [len(file.starts) for file in contents.files] == [40]
    found, _, most = swept(Sweep(archive, contents))
    assert [t for _, _, t in found] == [40 * HOUR + i for i in range(n)]
    assert most <= 50


def test_many_files_that_overlap_take_few_descriptors(tmp_path: Path) -> None:
    """As an archive has them that routes a long topic to many folders; every file has four batches."""
    files, each = 100, 4
    blocks = [[(0, f + files * r, 40 * HOUR + f * HOUR) for f in range(files)] for r in range(each)]
    write(tmp_path, [blocks])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 75, hard))
    try:
        archive, contents = prepared(tmp_path)
        assert len(contents.files) == files
        rows, _, _ = swept(Sweep(archive, contents))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [o for _, o, _ in rows] == list(range(files * each))


def test_records_that_an_archive_holds_twice_come_twice(tmp_path: Path) -> None:
    rows = [[(0, o, 0) for o in (1, 2, 3)], [(0, o, HOUR) for o in (2, 3, 4)]]
    write(tmp_path, [[rows[0]]], name="a")
    write(tmp_path, [[rows[1]]], name="b")
    archive, contents = prepared(tmp_path)
    assert [o for _, o, _ in swept(Sweep(archive, contents))[0]] == [1, 2, 2, 3, 3, 4]


def test_bounds_are_event_times(tmp_path: Path) -> None:
    write(tmp_path, [[[(0, o, o * HOUR // 4) for o in range(20)], [(1, 99, 50 * HOUR)]]])
    archive, contents = prepared(tmp_path, start_ms=HOUR + 1, end_ms=3 * HOUR)
    rows, _, _ = swept(Sweep(archive, contents))
    assert [o for _, o, _ in rows] == list(range(5, 12))
    assert (contents.rows, contents.first_ms, contents.last_ms) == (7, 5 * HOUR // 4, 11 * HOUR // 4)
    with pytest.raises(UserError, match="widen"):
        prepared(tmp_path, start_ms=2 * HOUR + 1, end_ms=2 * HOUR + 2)


def test_topics_side_by_side(tmp_path: Path) -> None:
    for topic in ("a", "b"):
        bundles = [[[(0, 10 * b + o, b * HOUR) for o in range(10)]] for b in range(20)]
        write(tmp_path, bundles, topic, name=topic)
    archive, contents = prepared(tmp_path)
    rows, due, _ = swept(Sweep(archive, contents))
    assert all(offsets == list(range(200)) for offsets in by_partition(rows).values())
    behind = np.maximum.accumulate(due) - np.array(due)
    assert behind.max() <= HOUR  # neither runs ahead by more than a batch


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def hours(tmp_path: Path) -> Path:
    """Ten events, an hour apart; the sixth a day late."""
    times = [o * HOUR - (24 * HOUR if o == 5 else 0) for o in range(10)]
    write(tmp_path, [[[(0, o, 30 * HOUR + t)] for o, t in enumerate(times)]])
    return tmp_path


def offsets(reader: SweepReader) -> list[int]:
    """What is handed out until nothing is due."""
    found = []
    while reader.advance():
        found += reader.get_current().column("_offset").to_pylist()
    return found


def test_a_paced_reader_hands_out_what_is_due(hours: Path) -> None:
    clock = Clock()
    reader = ArchiveSource(*prepared(hours), 3600.0, now=clock).create_reader(None, None)
    assert offsets(reader) == [0]
    clock.seconds += 0.999
    assert offsets(reader) == []
    assert reader.get_watermark() < MAX_TIMESTAMP
    clock.seconds += 0.001
    assert offsets(reader) == [1]
    clock.seconds += 3
    assert offsets(reader) == [2, 3, 4, 5]  # the late one with the one before it
    clock.seconds += 100
    assert offsets(reader) == [6, 7, 8, 9]
    assert reader.get_watermark() == MAX_TIMESTAMP


@pytest.mark.parametrize("parked", [True, False])
def test_a_reader_goes_on_at_a_mark(hours: Path, parked: bool) -> None:
    clock = Clock()
    source = ArchiveSource(*prepared(hours), 3600.0, now=clock)
    reader = source.create_reader(None, None)
    clock.seconds += 1
    found = offsets(reader)
    for _ in range(12):
        coder = source.get_checkpoint_mark_coder()
        mark = coder.decode(coder.encode(reader.get_checkpoint_mark()))
        assert isinstance(mark, SweepMark)
        if not parked:
            archive_source.SESSIONS.close_all()
        reader = source.create_reader(None, mark)
        clock.seconds += 1
        found += offsets(reader)
    assert found == list(range(10))
    assert reader.get_watermark() == MAX_TIMESTAMP
    reader.close()


def test_a_job_that_is_to_end_reads_no_more(hours: Path) -> None:
    reader = ArchiveSource(*prepared(hours), None, block_rows=4).create_reader(None, None)
    assert reader.start()
    try:
        stop.request()
        assert not reader.advance()
        assert reader.get_watermark() == MAX_TIMESTAMP
    finally:
        stop.reset()


def test_blocks_have_the_keys_and_times_of_the_records(tmp_path: Path) -> None:
    write(tmp_path, [[[(0, o, o) for o in range(5, 9)]]])
    reader = ArchiveSource(*prepared(tmp_path), None).create_reader(None, None)
    assert reader.start()
    block = reader.get_current()
    assert block.column("_key").to_pylist() == [b"key-5", b"key-6", None, b"key-8"]
    assert block.column("_timestamp").cast(pa.int64()).to_pylist() == [10, 11, 12, 13]
    assert block.column("value").to_pylist() == [5, 6, 7, 8]


@pytest.mark.parametrize("file_format", ["avro", "parquet"])
def test_files_from_before_keys_were_kept(
    tmp_path: Path, file_format: FileFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = archive_schema(CASE, "events")
    before = {**now, "fields": [f for f in now["fields"] if f["name"] != "source_key"]}
    before["highbeam"] = {name: value for name, value in now["highbeam"].items() if name != "keys"}
    with monkeypatch.context() as patched:
        patched.setitem(globals(), "archive_schema", lambda *_: before)
        write(tmp_path, [[[(0, 0, 0), (0, 1, 1)]]], name="old", file_format=file_format)
    write(tmp_path, [[[(0, 2, 2), (0, 7, 3)]]], name="new", file_format=file_format)
    reader = ArchiveSource(*prepared(tmp_path), None).create_reader(None, None)
    keys = []
    while reader.advance():
        keys += reader.get_current().column("_key").to_pylist()
    assert keys == [b"car-0", b"car-1", b"key-2", None]
