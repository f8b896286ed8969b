"""How the contract suites read a source: as Beam would."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import pytest
from apache_beam.utils.timestamp import MAX_TIMESTAMP

from beam_jobs import stop
from beam_jobs.block import RAW_SCHEMA, Block, stretch_of
from beam_jobs.io.block_reader import BlockSettings
from beam_jobs.io.kafka.mark import KafkaMark
from beam_jobs.io.kafka.source import SESSIONS, KafkaReader, KafkaSource
from beam_jobs.io.position import EARLIEST, LATEST
from tests.services.kafka_cluster import Cluster, Record

TIMEOUT_S = 30.0
T0 = 1_700_000_000_000

Rows = list[dict[str, Any]]


def opened(source: KafkaSource, mark: KafkaMark | None = None) -> KafkaReader:
    """The reader Beam would make: the source is split once, marks cross the coder."""
    if mark is None:
        source = source.split(1)[0]
    else:
        coder = source.get_checkpoint_mark_coder()
        mark = coder.decode(coder.encode(mark))
    return source.create_reader(None, mark)


def read(reader: KafkaReader, enough: Callable[[Rows], bool] = lambda rows: False) -> Rows:
    """Rows until ``enough`` or the reader is done."""
    rows: Rows = []
    deadline = time.monotonic() + TIMEOUT_S
    found = reader.start()
    while True:
        if found:
            block = reader.get_current()
            assert block.schema.equals(RAW_SCHEMA)
            block.validate(full=True)
            assert block.num_rows > 0
            _check_stretch(block)
            rows += block.to_pylist()
        if enough(rows) or (not found and reader.get_watermark() >= MAX_TIMESTAMP):
            return rows
        assert time.monotonic() < deadline, f"only {len(rows)} rows within {TIMEOUT_S} s"
        found = reader.advance()


def _check_stretch(block: Block) -> None:
    """The block says which part of the log it is, and its rows are of that."""
    stretch = stretch_of(block)
    assert stretch is not None
    partitions, offsets = (block.column(name).to_numpy() for name in ("partition", "offset"))
    assert set(partitions.tolist()) <= stretch.partitions.keys()
    for p, (start, end) in stretch.partitions.items():
        assert ((start <= offsets) & (offsets < end))[partitions == p].all()


def read_all(source: KafkaSource) -> Rows:
    """Everything a bounded source has."""
    reader = opened(source)
    try:
        return read(reader)
    finally:
        reader.close()


def values(rows: Rows) -> Counter[bytes | None]:
    return Counter(row["value"] for row in rows)


def numbered(count: int, partitions: int = 1, start: int = 0) -> list[Record]:
    """Records whose value is their number, round robin over partitions, one millisecond apart."""
    return [Record(b"%d" % i, b"k%d" % (i % 7), i % partitions, T0 + i) for i in range(start, start + count)]


class SourceSuite:
    """What the suites share; subclasses give a ``cluster`` fixture."""

    transactions = True
    exact_ends = True  # high watermarks and offsets by time are Kafka's
    topic_ids = True  # a topic made anew has another id
    members = True  # consumers can join a group

    @pytest.fixture(autouse=True)
    def _nothing_left_open(self) -> Iterator[None]:
        yield
        stop.reset()
        SESSIONS.close_all()

    def bounded(self, cluster: Cluster, topic: str, group_id: str | None = None, **settings: Any) -> KafkaSource:
        return _source(cluster, topic, group_id, {"until": LATEST, **settings})

    def live(self, cluster: Cluster, topic: str, group_id: str | None = None, **settings: Any) -> KafkaSource:
        return _source(cluster, topic, group_id, {"discover_s": 0.1, "start": EARLIEST, **settings})


def _source(cluster: Cluster, topic: str, group_id: str | None, settings: dict[str, Any]) -> KafkaSource:
    """A source; what is of its blocks among the settings is given to them."""
    blocks = {field.name: settings.pop(field.name) for field in fields(BlockSettings) if field.name in settings}
    return KafkaSource(cluster.transport(topic, group_id), blocks=BlockSettings(**blocks), **settings)
