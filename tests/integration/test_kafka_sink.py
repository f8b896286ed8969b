"""What the Kafka sink does about records a real broker does not take."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from beam_jobs import metrics
from beam_jobs.block import HEADERS_TYPE, Block, raw_block
from beam_jobs.dead_letters import dead_letter_block
from beam_jobs.errors import RowErrors, UserError
from beam_jobs.io.kafka import delivery as kafka_delivery
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.client import ensure_topic
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.sink import WriteBlocks
from beam_jobs.io.kafka.transforms import KafkaOutput, WriteToKafka
from beam_jobs.io.sink import OnTooLarge, WriteSettings
from beam_jobs.steps.write_dead_letters import WriteDeadLetters
from beam_jobs.terminal.cli import find_user_error
from tests.services.kafka import SASL_PASSWORD, SASL_USER, SharedBroker

pytestmark = pytest.mark.integration

Sink = Callable[..., WriteBlocks]

CONFIG = KafkaConfig()
NOW_MS = int(time.time() * 1000)


@pytest.fixture(autouse=True)
def totals(monkeypatch: pytest.MonkeyPatch) -> metrics.JobState:
    fresh = metrics.JobState()
    monkeypatch.setattr(metrics, "STATE", fresh)
    return fresh


@pytest.fixture
def servers(apache_kafka: SharedBroker) -> str:
    return apache_kafka.bootstrap_servers


def topic(servers: str, partitions: int = 1, **settings: str) -> KafkaAddress:
    address = KafkaAddress(servers, f"sink-{uuid.uuid4().hex[:8]}")
    ensure_topic(address, CONFIG, partitions, {name.replace("_", "."): value for name, value in settings.items()})
    return address


def delete(address: KafkaAddress) -> None:
    admin = AdminClient({"bootstrap.servers": address.bootstrap_servers})
    admin.delete_topics([address.topic])[address.topic].result()


def written(write: WriteBlocks, block: Block) -> None:
    """One bundle."""
    write.start_bundle()
    write.process(block, beam.utils.timestamp.Timestamp(0))
    write.finish_bundle()


def messages(address: KafkaAddress) -> list[Any]:
    """All that is on the topic."""
    consumer = Consumer({"bootstrap.servers": address.bootstrap_servers, "group.id": "none"})
    found: list[Any] = []
    for number in consumer.list_topics(address.topic, 10).topics[address.topic].partitions:
        _, end = consumer.get_watermark_offsets(TopicPartition(address.topic, number), 10)
        consumer.assign([TopicPartition(address.topic, number, 0)])
        here = 0
        while here < end:
            batch = consumer.consume(min(end - here, 10_000), 5.0)
            found += batch
            here = batch[-1].offset() + 1
    consumer.close()
    return found


def rows(n: int, size: int = 10, large: tuple[int, ...] = (), extras: bool = False) -> Block:
    columns: dict[str, Any] = {
        "key": pa.array([b"%d" % i for i in range(n)], pa.binary()),
        "value": pa.array([b"x" * (3_000_000 if i in large else size) for i in range(n)], pa.binary()),
    }
    if extras:
        headers = [[{"key": "h", "value": b"%d" % i}] for i in range(n)]
        columns |= {
            "headers": pa.array(headers, HEADERS_TYPE),
            "timestamp": pa.array([NOW_MS + i for i in range(n)], pa.timestamp("ms", "UTC")),
            "partition": pa.array([i % 2 for i in range(n)], pa.int32()),
        }
    return pa.record_batch(columns)


@pytest.fixture
def sink() -> Iterator[Sink]:
    made: list[WriteBlocks] = []

    def make(address: KafkaAddress, config: KafkaConfig = CONFIG, large: OnTooLarge | None = None) -> WriteBlocks:
        made.append(WriteBlocks(address, config, WriteSettings(on_too_large=large)))
        made[-1].setup()
        return made[-1]

    yield make
    for each in made:
        each.teardown()


def test_a_topic_deleted_under_the_sink_is_said_and_ends_the_job(
    servers: str, sink: Sink, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kafka_delivery, "GONE_TIMEOUT_S", 2.0)
    address = topic(servers, 2)
    write = sink(address)
    written(write, rows(10))
    delete(address)
    with pytest.raises(UserError, match=r"the topic does not exist any more; create it.*is read again"):
        written(write, rows(10))
    said = [line for line in caplog.messages if address.topic in line]
    assert len(said) == 1
    assert "waiting; the job ends in" in said[0]


def test_a_topic_made_anew_in_time_gets_all_records(
    servers: str, sink: Sink, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    address = topic(servers)
    write = sink(address)
    written(write, rows(3))
    delete(address)
    ask = kafka_delivery.trouble

    def make_anew(*args: Any) -> tuple[str, bool]:
        found = ask(*args)
        if found[1]:
            ensure_topic(address, CONFIG)
        return found

    monkeypatch.setattr("beam_jobs.io.kafka.sink.trouble", make_anew)
    written(write, rows(10))
    assert sorted(message.key() for message in messages(address)) == [b"%d" % i for i in range(10)]
    assert ["waiting" in line for line in caplog.messages] == [True, False]
    assert "back after" in caplog.messages[1]


def test_a_right_taken_away_ends_the_job_with_one_line(apache_kafka: SharedBroker, sink: Sink) -> None:
    address = topic(apache_kafka.bootstrap_servers)
    settings = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": SASL_USER,
        "sasl.password": SASL_PASSWORD,
    }
    write = sink(KafkaAddress(apache_kafka.sasl_servers, address.topic), KafkaConfig(tuple(settings.items())))
    written(write, rows(3))
    admin = AdminClient({"bootstrap.servers": apache_kafka.bootstrap_servers})
    denied = AclBinding(
        *(ResourceType.TOPIC, address.topic, ResourcePatternType.LITERAL, f"User:{SASL_USER}", "*"),
        *(AclOperation.WRITE, AclPermissionType.DENY),
    )
    for done in admin.create_acls([denied]).values():
        done.result()
    with pytest.raises(UserError, match=r"access denied \(.+\); grant this user DESCRIBE and READ .*is read again"):
        _until_refused(write)


def _until_refused(write: WriteBlocks) -> None:
    for _ in range(1000):  # the broker takes a moment to know
        written(write, rows(3))


@pytest.mark.parametrize(
    ("settings", "block", "part"),
    [
        ({"message_timestamp_after_max_ms": "1000", "message_timestamp_before_max_ms": "1000"}, "old", "before.max.ms"),
        ({"message_timestamp_before_max_ms": "10000000"}, "one is old", "refuses the time of a record"),
        ({"cleanup_policy": "compact"}, "no key", "cleanup.policy"),
        ({}, "partition 7", "has fewer partitions than the records name"),
    ],
)
def test_what_a_topic_does_not_take(servers: str, sink: Sink, settings: dict[str, str], block: str, part: str) -> None:
    address, now_ms = topic(servers, **settings), int(time.time() * 1000)
    made = {
        "old": pa.record_batch(
            {
                "key": [b"k"],
                "value": [b"v"],
                "timestamp": pa.array([1_700_000_000_000], pa.timestamp("ms", "UTC")),
            }
        ),
        "one is old": pa.record_batch(
            {
                "key": [b"k"] * 50,
                "value": [b"v"] * 50,
                "timestamp": pa.array([now_ms] * 49 + [1_700_000_000_000], pa.timestamp("ms", "UTC")),
            }
        ),
        "no key": pa.record_batch({"key": pa.nulls(1, pa.binary()), "value": [b"v"]}),
        "partition 7": pa.record_batch({"key": [b"k"], "value": [b"v"], "partition": pa.array([7], pa.int32())}),
    }
    write = sink(address)
    with pytest.raises(UserError, match=part):
        written(write, made[block])


def shortened(seen: list[Any], block: Block) -> Block:
    seen += block.to_pylist()
    return pa.record_batch({"key": block.column("key"), "value": pa.array([b"short"] * block.num_rows, pa.binary())})


@pytest.mark.parametrize("extras", [False, True])
def test_a_record_too_large_is_replaced_and_its_neighbours_keep_all(servers: str, sink: Sink, extras: bool) -> None:
    address = topic(servers, 2)
    seen: list[Any] = []
    write = sink(address, large=partial(shortened, seen))
    written(write, rows(10, large=(3, 8), extras=extras))
    assert [(row["key"], len(row["value"])) for row in seen] == [(b"3", 3_000_000), (b"8", 3_000_000)]
    assert [row["headers"] for row in seen] == [[{"key": "h", "value": key}] if extras else [] for key in (b"3", b"8")]
    found = {message.key(): message for message in messages(address)}
    assert sorted(found) == [b"%d" % i for i in range(10)]
    for i, message in sorted((int(key), message) for key, message in found.items()):
        assert message.value() == (b"short" if i in (3, 8) else b"x" * 10)
        if extras and i not in (3, 8):
            assert message.headers() == [("h", b"%d" % i)]
            assert (message.timestamp()[1], message.partition()) == (NOW_MS + i, i % 2)


def test_records_that_differ_in_their_headers_alone_are_all_written(servers: str, sink: Sink) -> None:
    """A batch of them is refused: which of them it held is not known."""
    address = topic(servers)
    write = sink(address, KafkaConfig.from_mapping({"batch.size": "5000000", "linger.ms": "500"}))
    n = 20
    block = rows(n, 400_000, extras=True)
    same = {"key": pa.array([b"k"] * n), "partition": pa.array([0] * n, pa.int32())}
    written(write, pa.record_batch({name: same.get(name, block.column(name)) for name in block.schema.names}))
    assert {message.headers()[0] for message in messages(address)} == {("h", b"%d" % i) for i in range(n)}


class Bad(beam.DoFn):
    """Every row of the blocks it is handed is a dead letter."""

    def process(self, n: int) -> Iterator[Block]:
        raw = raw_block("events", [0] * n, range(n), [NOW_MS] * n, [b"k"] * n, [b"v"] * n)
        metrics.inc(metrics.RECORDS_READ, n)
        yield dead_letter_block(raw, RowErrors(np.arange(n), ["bad_magic_byte"] * n, ["no"] * n), "decode", "score/x")


class Refuse(beam.DoFn):
    def process(self, block: Block) -> None:
        raise UserError("another output is gone")


def run(address: KafkaAddress, limit: float) -> None:
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        letters = pipeline | beam.Create([20_000]) | beam.ParDo(Bad()).with_output_types(Block)
        letters | WriteDeadLetters(KafkaOutput(address, CONFIG), 3, limit)
        if limit == 1.0:
            letters | "Another" >> beam.ParDo(Refuse()) | "Write" >> WriteToKafka(address, CONFIG)


@pytest.mark.parametrize(
    ("limit", "said"), [(0.5, "stopped: 20,000 of the last 20,000 records"), (1.0, "another output is gone")]
)
def test_however_a_job_ends_the_dead_letters_it_counts_are_on_the_topic(
    servers: str, totals: metrics.JobState, limit: float, said: str
) -> None:
    """The first block stops the job; or another step of the same bundle fails."""
    address = topic(servers)
    with pytest.raises(Exception, match=said) as raised:
        run(address, limit)
    assert str(find_user_error(raised.value)).startswith(said)
    counted, on_topic = totals.snapshot(), len(messages(address))
    assert counted[metrics.DEAD_LETTERS] == counted.by_value(metrics.DEAD_LETTERS).get("bad_magic_byte", 0) == on_topic
    assert limit == 1.0 or on_topic == 20_000
