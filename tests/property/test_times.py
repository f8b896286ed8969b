"""Any 64 bits are a time: no source, folder or figure ends a job over one."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from apache_beam import coders
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Timestamp
from hypothesis import given
from hypothesis import strategies as st

import schemas
from beam_jobs import metrics
from beam_jobs.archives.layout import Layout, may_hold
from beam_jobs.block import BlockCoder, millis_of, min_timestamp, raw_block
from beam_jobs.codec.avro.decoder import AvroDecoder
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.dead_letters import dead_letter_block
from beam_jobs.errors import RowErrors
from beam_jobs.io.block_reader import BlockSettings
from beam_jobs.io.kafka.source import SESSIONS, KafkaSource
from beam_jobs.io.pubsub import messages as pubsub_messages
from beam_jobs.io.pubsub import source as pubsub_source
from beam_jobs.io.pubsub.address import PubSubAddress
from beam_jobs.io.pubsub.pull import Pulled
from beam_jobs.io.pubsub.source import PubSubReader, PubSubSource
from beam_jobs.io.reading import Outage
from beam_jobs.steps.redrive import original_records
from beam_jobs.terminal.report import time_text
from tests.services.fake_kafka import FakeCluster
from tests.services.kafka_cluster import Record

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
NOW = int(time.time() * 1000)
EDGES = [-(1 << 63), -1, 0, NOW, NOW * 10**6, MIN_TIMESTAMP.micros // 1000, MAX_TIMESTAMP.micros // 1000, (1 << 63) - 1]
LAYOUTS = {
    Layout("hour"): "highbeam_date=%Y-%m-%d/highbeam_hour=%H",
    Layout("day"): "highbeam_date=%Y-%m-%d",
    Layout("month"): "highbeam_month=%Y-%m",
    Layout("hour", plain_names=True): "date=%Y-%m-%d/hour=%H",
}
TIMES = st.lists(INT64 | st.sampled_from(EDGES), min_size=1, max_size=6)


def _check(time_: Timestamp, latest: Timestamp) -> None:
    coder = coders.TimestampCoder()
    assert coder.decode(coder.encode(time_)) == time_
    assert MIN_TIMESTAMP <= time_ <= latest < MAX_TIMESTAMP


def _element(time_: Timestamp) -> None:
    _check(time_, GlobalWindow().max_timestamp())


def _watermark(time_: Timestamp) -> None:
    _check(time_, Timestamp(time.time()))


@given(TIMES)
def test_the_time_of_any_block(times: list[int]) -> None:
    n = len(times)
    _element(min_timestamp(raw_block("t", [0] * n, range(n), times, [None] * n, [b"v"] * n)))


@given(TIMES)
def test_kafka(times: list[int]) -> None:
    cluster = FakeCluster()
    topic = cluster.create(2)
    cluster.write(topic, [Record(b"v", partition=i % 2, timestamp_ms=t) for i, t in enumerate(times)])
    source = KafkaSource(
        cluster.transport(topic), blocks=BlockSettings(block_rows=1, poll_interval_s=0.0, max_latency_s=0.0)
    )
    reader = source.split(1)[0].create_reader(None, None)
    seen: list[int] = []
    for _ in range(2 * len(times) + 2):
        if reader.advance():
            seen += reader.get_current().column("timestamp").view(pa.int64()).to_pylist()
            _element(reader.get_current_timestamp())
        _watermark(reader.get_watermark())
    reader.close()
    SESSIONS.close_all()
    assert sorted(seen) == sorted(times)


@dataclass
class _Puller:
    """Hands out one message a call."""

    messages: list[Any]
    id: str = "p"
    ordered: bool = False
    outage: Outage = field(default_factory=lambda: Outage("test"))

    def fetch(self, max_rows: int, wait_s: float, linger_s: float) -> Pulled | None:
        if not self.messages:
            return None
        return Pulled([self.messages.pop(0)], np.array([1]), np.array([NOW]))

    def connected(self) -> bool:
        return True

    def close(self) -> None:
        pass


@given(TIMES)
def test_pubsub(times: list[int]) -> None:
    messages = [pubsub_messages.Message(data=b"v", attributes={"at": str(t)}) for t in times]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pubsub_source, "Puller", lambda *arguments: _Puller(messages))
        address = PubSubAddress("project", "events")
        (source,) = PubSubSource(address, "events", timestamp_attribute="at").split(1)
        reader = source.create_reader(None, None)
        assert isinstance(reader, PubSubReader)
        for t in times:
            assert reader.advance()
            assert reader.get_current().column("timestamp").view(pa.int64()).to_pylist() == [t]
            _element(reader.get_current_timestamp())
            _watermark(reader.get_watermark())
        assert not reader.advance()
        _watermark(reader.get_watermark())
        reader.close()


@given(INT64, st.sampled_from(["ms", "us", "ns"]))
def test_the_folder_of_any_event_time(number: int, unit: str) -> None:
    (millis,) = millis_of(pa.array([number], pa.int64()).view(pa.timestamp(unit, "UTC"))).tolist()
    assert millis == number // {"ms": 1, "us": 10**3, "ns": 10**6}[unit]
    year_1, year_9999 = -62_135_596_800_000, 253_402_300_799_000
    for layout, pattern in LAYOUTS.items():
        groups, _, folder_of = layout.divided(np.array([millis]), None, 255)
        (folder,) = map(folder_of, groups.tolist())
        found = datetime.strptime(folder, pattern).replace(tzinfo=UTC)
        if year_1 <= millis <= year_9999:
            assert found.strftime(pattern) == datetime.fromtimestamp(millis // 1000, UTC).strftime(pattern)
            assert not may_hold(f"/a/{folder}/f.avro", millis + 31 * 86_400_000, None)
        for bound in (year_1 + 1, 0, NOW, year_9999):  # a row that is wanted lies in a folder that is looked into
            assert millis < bound or may_hold(f"/a/{folder}/f.avro", bound, None)
            assert millis >= bound or may_hold(f"/a/{folder}/f.avro", None, bound)


@given(TIMES)
def test_dead_letters_and_their_way_back(times: list[int]) -> None:
    n = len(times)
    raw = raw_block("t", [0] * n, range(n), times, [None] * n, [b"v"] * n)
    errors = RowErrors(np.arange(n), ["bad_magic_byte"] * n, ["no"] * n)
    schema = schemas.load("dead_letter")
    values = AvroEncoder(schema, 3).encode(dead_letter_block(raw, errors, "decode", "score/test"))
    decoded = AvroDecoder(schema, lambda _: schema).decode(values)
    assert len(decoded.errors) == 0
    back = original_records(decoded.rows)
    assert back.column("timestamp").equals(raw.column("timestamp"))
    sent = [message.attributes[pubsub_messages.TIMESTAMP] for message in pubsub_messages.to_messages(back, False)]
    assert sent == [str(t) for t in times]
    assert BlockCoder().decode(BlockCoder().encode(raw)).equals(raw)


@given(INT64)
def test_figures(millis: int) -> None:
    assert time_text(millis)
    metrics.observe(metrics.LATENCY_MS, np.array([float(millis)] * 3))
    metrics.STATE.reset()
