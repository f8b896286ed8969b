"""Kafka to Kafka through Beam, on both local runners, with brokers that go away and records that do not fit."""

from __future__ import annotations

import gc
import itertools
import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from beam_jobs import metrics, stop
from beam_jobs.block import HEADERS_TYPE, Block
from beam_jobs.errors import UserError
from beam_jobs.io.block_reader import BlockSettings
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.client import CONTROLS, FetchPath, KafkaTransport, check_topic, ensure_topic
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.source import SESSIONS, KafkaSource
from beam_jobs.io.kafka.transforms import KafkaInput, ReadFromKafka, WriteToKafka
from beam_jobs.io.position import EARLIEST, LATEST
from beam_jobs.io.sink import WriteSettings
from beam_jobs.terminal.cli import find_user_error
from demo.broker import ApacheKafka
from tests.services.kafka import SASL_PASSWORD, SASL_USER, SharedBroker

pytestmark = pytest.mark.integration

CONFIG = KafkaConfig()
TIMEOUT_S = 60.0


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    stop.reset()
    yield
    stop.reset()
    SESSIONS.close_all()


def topic(servers: str, partitions: int = 1, **settings: str) -> KafkaAddress:
    address = KafkaAddress(servers, f"pipeline-{uuid.uuid4().hex[:12]}")
    ensure_topic(address, CONFIG, partitions, settings)
    return address


def write(address: KafkaAddress, values: Sequence[bytes], partitions: int = 1) -> None:
    producer = Producer(
        {"bootstrap.servers": address.bootstrap_servers, "message.max.bytes": 20_000_000, "log_level": 2}
    )
    for i, value in enumerate(values):
        producer.produce(address.topic, value, b"%d" % i, partition=i % partitions)
    assert producer.flush(TIMEOUT_S) == 0


class Watcher:
    """Reads a topic with a plain consumer."""

    def __init__(self, address: KafkaAddress) -> None:
        self._consumer = Consumer(
            {"bootstrap.servers": address.bootstrap_servers, "group.id": uuid.uuid4().hex, "log_level": 2}
        )
        partitions = self._consumer.list_topics(address.topic, 10).topics[address.topic].partitions
        self._consumer.assign([TopicPartition(address.topic, p, 0) for p in partitions])
        self.messages: list[Any] = []

    def wait(self, enough: Callable[[list[Any]], bool]) -> list[Any]:
        deadline = time.monotonic() + TIMEOUT_S
        while not enough(self.messages):
            assert time.monotonic() < deadline, f"{len(self.messages)} messages within {TIMEOUT_S} s"
            self.messages += [message for message in self._consumer.consume(1000, 0.1) if message.error() is None]
        return self.messages

    def close(self) -> None:
        self._consumer.close()


def messages(address: KafkaAddress, count: int) -> list[Any]:
    watcher = Watcher(address)
    try:
        return watcher.wait(lambda found: len(found) >= count)
    finally:
        watcher.close()


def records(block: Block) -> Block:
    return block.select(["key", "value", "headers", "timestamp"])


def copy(pipeline: beam.Pipeline, read: ReadFromKafka, write: WriteToKafka) -> None:
    pipeline | "Read" >> read | "Records" >> beam.Map(records).with_output_types(pa.RecordBatch) | "Write" >> write


def committed(address: KafkaAddress, group_id: str, partitions: int) -> list[int]:
    consumer = Consumer({"bootstrap.servers": address.bootstrap_servers, "group.id": group_id})
    try:
        asked = [TopicPartition(address.topic, p) for p in range(partitions)]
        return [answer.offset for answer in consumer.committed(asked, 10)]
    finally:
        consumer.close()


@pytest.mark.parametrize("fetch", ["client", "wire"])
def test_fn_api_runner_copies_every_record(apache_kafka: SharedBroker, fetch: FetchPath) -> None:
    source, sink = topic(apache_kafka.bootstrap_servers, 4), topic(apache_kafka.bootstrap_servers, 2)
    write(source, [b"%d" % i for i in range(20_000)], 4)
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        copy(
            pipeline,
            ReadFromKafka(KafkaInput(source, CONFIG, "copy", EARLIEST, LATEST, fetch=fetch)),
            WriteToKafka(sink, CONFIG),
        )
    found = messages(sink, 20_000)
    assert Counter(message.value() for message in found) == Counter(b"%d" % i for i in range(20_000))
    assert committed(source, "copy", 4) == [5000] * 4


def test_prism_copies_every_record(apache_kafka: SharedBroker, prism_binary: Path) -> None:
    source, sink = topic(apache_kafka.bootstrap_servers, 4), topic(apache_kafka.bootstrap_servers, 2)
    write(source, [b"%d" % i for i in range(20_000)], 4)
    options = PipelineOptions(
        ["--runner=PrismRunner", f"--prism_location={prism_binary}", "--environment_type=LOOPBACK"]
    )
    before = metrics.STATE.snapshot()[metrics.READERS_CREATED]
    with beam.Pipeline(options=options) as pipeline:
        copy(
            pipeline,
            ReadFromKafka(
                KafkaInput(
                    source,
                    CONFIG,
                    "copy",
                    EARLIEST,
                    LATEST,
                    blocks=BlockSettings(max_blocks_per_bundle=1, block_rows=500),
                )
            ),
            WriteToKafka(sink, CONFIG),
        )
    found = messages(sink, 20_000)
    assert Counter(message.value() for message in found) == Counter(b"%d" % i for i in range(20_000))
    assert committed(source, "copy", 4) == [5000] * 4
    # Prism rebuilds readers; the live consumer is handed on.
    assert metrics.STATE.snapshot()[metrics.READERS_CREATED] - before <= 2


class Running:
    """A live pipeline on a thread of its own, ended by a drain."""

    def __init__(self, read: ReadFromKafka, write: WriteToKafka) -> None:
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(read, write))
        self._thread.start()

    def _run(self, read: ReadFromKafka, write: WriteToKafka) -> None:
        try:
            with beam.Pipeline(runner=FnApiRunner()) as pipeline:
                copy(pipeline, read, write)
        except BaseException as error:
            self.error = error

    def drain(self) -> None:
        stop.request()
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error


# At night on the other path too: by day the next test takes both through a broker that dies.
@pytest.mark.parametrize("fetch", [pytest.param("client", marks=pytest.mark.nightly), "wire"])
def test_a_killed_broker_loses_nothing(
    own_apache_kafka: ApacheKafka, fetch: FetchPath, caplog: pytest.LogCaptureFixture
) -> None:
    broker = own_apache_kafka
    source, sink = topic(broker.bootstrap_servers, 2), topic(broker.bootstrap_servers)
    first, second = ([b"%d" % i for i in range(*span)] for span in ((0, 3000), (3000, 6000)))
    write(source, first, 2)
    watcher = Watcher(sink)
    with caplog.at_level(logging.WARNING, logger="beam_jobs"):
        running = Running(
            ReadFromKafka(KafkaInput(source, CONFIG, "kill", fetch=fetch, blocks=BlockSettings(block_rows=200))),
            WriteToKafka(sink, CONFIG),
        )
        watcher.wait(lambda found: len(found) >= 400)
        broker.kill()
        broker.start()
        write(source, second, 2)
        watcher.wait(lambda found: len({message.value() for message in found}) >= 6000)
        running.drain()
    watcher.close()
    assert {message.value() for message in watcher.messages} == {*first, *second}
    assert committed(source, "kill", 2) == [3000, 3000]
    said = [record.message for record in caplog.records if record.message.endswith("waiting")]
    assert len(said) == len({text.split(" (")[0] for text in said}) > 0, said  # told once, by source and sink each


@pytest.mark.parametrize("fetch", ["client", "wire"])
def test_a_source_says_that_its_broker_is_away(
    own_apache_kafka: ApacheKafka, fetch: FetchPath, caplog: pytest.LogCaptureFixture
) -> None:
    broker = own_apache_kafka
    address = topic(broker.bootstrap_servers)
    write(address, [b"before"])
    reader = (
        KafkaSource(KafkaTransport(address, CONFIG, None, fetch), discover_s=0.5).split(1)[0].create_reader(None, None)
    )

    def advance_until(done: Callable[[bool], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not done(reader.advance()):
            assert time.monotonic() < deadline

    advance_until(bool)
    with caplog.at_level(logging.WARNING, logger="beam_jobs"):
        broker.kill()
        advance_until(lambda found: "nothing can be read" in caplog.text)
        broker.start()
        write(address, [b"after"])
        advance_until(bool)
    assert reader.get_current().column("value").to_pylist() == [b"after"]
    reader.close()
    said = [record.message.removeprefix(f"{address}: ").split(" ")[0] for record in caplog.records]
    assert said == ["nothing", "back"]


@pytest.mark.nightly
def test_latency_at_two_thousand_a_second(apache_kafka: SharedBroker) -> None:
    source, sink = topic(apache_kafka.bootstrap_servers, 4), topic(apache_kafka.bootstrap_servers)
    metrics.STATE.reset()
    running = Running(
        ReadFromKafka(KafkaInput(source, CONFIG, "latency")),
        WriteToKafka(sink, CONFIG, WriteSettings(record_latency=True)),
    )
    producer = Producer({"bootstrap.servers": source.bootstrap_servers, "linger.ms": 5})
    watcher = Watcher(sink)
    producer.produce(source.topic, b"warm up", b"0")
    watcher.wait(lambda found: len(found) >= 1)
    metrics.STATE.reset()
    started = time.monotonic()
    for i in itertools.count():
        due = int((time.monotonic() - started) * 2000)
        if i * 20 > 8000:
            break
        for _ in range(20):
            producer.produce(source.topic, b"x" * 100, b"%d" % i)
        producer.poll(max(0.0, (i * 20 - due) / 2000))
    assert producer.flush(10) == 0
    watcher.wait(lambda found: len(found) >= 8000)
    watcher.close()
    running.drain()
    p99 = metrics.quantile(metrics.STATE.snapshot().values(metrics.LATENCY_MS), 0.99)
    assert p99 is not None
    assert p99 < 1000


class Rows(beam.DoFn):
    def process(self, rows: list[dict[str, Any]]) -> Iterator[pa.RecordBatch]:
        schema = pa.schema(
            [
                ("key", pa.binary()),
                ("value", pa.binary()),
                ("headers", HEADERS_TYPE),
                ("timestamp", pa.timestamp("ms", "UTC")),
                ("partition", pa.int32()),
            ]
        )
        yield pa.RecordBatch.from_pylist(rows, schema=pa.schema([f for f in schema if f.name in rows[0]]))


def sink_rows(write: WriteToKafka, rows: list[dict[str, Any]]) -> None:
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        (
            pipeline
            | beam.Create([rows])
            | "Rows" >> beam.ParDo(Rows()).with_output_types(pa.RecordBatch)
            | "Write" >> write
        )


def test_the_sink_writes_all_columns(apache_kafka: SharedBroker) -> None:
    sink = topic(apache_kafka.bootstrap_servers, 3)
    stamp = 1_700_000_000_123
    rows = [
        {"key": b"k", "value": b"v", "headers": [{"key": "h", "value": b"1"}], "timestamp": stamp, "partition": 2},
        {"key": None, "value": None, "headers": None, "timestamp": stamp + 1, "partition": 1},
    ]
    sink_rows(WriteToKafka(sink, CONFIG), rows)
    found = sorted(messages(sink, 2), key=lambda message: message.timestamp()[1])
    assert [(m.key(), m.value(), m.partition(), m.timestamp()[1]) for m in found] == [
        (b"k", b"v", 2, stamp),
        (None, None, 1, stamp + 1),
    ]
    assert found[0].headers() == [("h", b"1")]
    assert not found[1].headers()


def shortened(block: Block) -> Block:
    return pa.record_batch(
        {"key": block.column("key"), "value": pa.array([b"too large"] * block.num_rows, pa.binary())}
    )


def test_a_record_too_large_for_the_topic(apache_kafka: SharedBroker) -> None:
    sink = topic(apache_kafka.bootstrap_servers)
    rows = [{"key": b"%d" % i, "value": b"x" * (3_000_000 if i == 5 else 10)} for i in range(10)]
    sink_rows(WriteToKafka(sink, CONFIG, WriteSettings(on_too_large=shortened)), rows)
    found = {message.key(): message.value() for message in messages(sink, 10)}
    assert found.pop(b"5") == b"too large"
    assert found == {b"%d" % i: b"x" * 10 for i in range(10) if i != 5}
    with pytest.raises(Exception, match=r"3000001 bytes is larger than the topic takes") as raised:
        sink_rows(WriteToKafka(sink, CONFIG), rows)
    assert find_user_error(raised.value) is not None


def test_sasl_plain_from_a_properties_file(
    apache_kafka: SharedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = topic(apache_kafka.bootstrap_servers)
    write(plain, [b"a", b"b"])
    guarded = KafkaAddress(apache_kafka.sasl_servers, plain.topic)
    properties = tmp_path / "client.properties"
    properties.write_text(
        f"security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.username={SASL_USER}\nsasl.password=env:KAFKA_PASSWORD\n"
    )
    config = KafkaConfig.from_file(properties)
    monkeypatch.setenv("KAFKA_PASSWORD", SASL_PASSWORD)
    assert check_topic(guarded, config) == 1
    sink = topic(apache_kafka.bootstrap_servers)
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        copy(pipeline, ReadFromKafka(KafkaInput(guarded, config, until=LATEST)), WriteToKafka(sink, CONFIG))
    assert {message.value() for message in messages(sink, 2)} == {b"a", b"b"}
    monkeypatch.setenv("KAFKA_PASSWORD", "wrong")
    started = time.monotonic()
    with pytest.raises(Exception, match=r"authentication failed .*check sasl.username and sasl.password") as raised:
        check_topic(guarded, config)
    assert "\n" not in str(raised.value)
    assert "wrong" not in str(raised.value)
    assert time.monotonic() - started < 25  # the client itself would go on


def test_no_right_to_write(apache_kafka: SharedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = topic(apache_kafka.bootstrap_servers)
    described, hidden = topic(apache_kafka.bootstrap_servers), topic(apache_kafka.bootstrap_servers)
    admin = AdminClient({"bootstrap.servers": apache_kafka.bootstrap_servers, "log_level": 2})
    rights = [
        (plain, SASL_USER, AclOperation.READ),
        (described, SASL_USER, AclOperation.DESCRIBE),
        (hidden, "somebody-else", AclOperation.READ),
    ]
    for at, user, right in rights:
        acl = AclBinding(
            ResourceType.TOPIC,
            at.topic,
            ResourcePatternType.LITERAL,
            f"User:{user}",
            "*",
            right,
            AclPermissionType.ALLOW,
        )
        for done in admin.create_acls([acl]).values():
            done.result()
    guarded = KafkaAddress(apache_kafka.sasl_servers, plain.topic)
    monkeypatch.setenv("KAFKA_PASSWORD", SASL_PASSWORD)
    config = KafkaConfig.from_mapping(
        {
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanisms": "PLAIN",
            "sasl.username": SASL_USER,
            "sasl.password": "env:KAFKA_PASSWORD",
        }
    )
    assert check_topic(plain, CONFIG, write=True) == check_topic(guarded, config) == 1
    with pytest.raises(UserError, match="no permission to write; grant"):
        check_topic(guarded, config, write=True)
    with pytest.raises(UserError, match="no permission to read; grant this user READ on the topic"):
        check_topic(KafkaAddress(apache_kafka.sasl_servers, described.topic), config)
    with pytest.raises(UserError, match="grant this user DESCRIBE and READ"):
        check_topic(KafkaAddress(apache_kafka.sasl_servers, hidden.topic), config)
    with pytest.raises(Exception, match="access denied") as raised:
        sink_rows(WriteToKafka(guarded, config), [{"key": b"k", "value": b"v", "timestamp": 1, "partition": 0}])
    assert find_user_error(raised.value) is not None


def test_what_a_user_meets_first(apache_kafka: SharedBroker) -> None:
    with pytest.raises(Exception, match="does not exist; create it"):
        check_topic(KafkaAddress(apache_kafka.bootstrap_servers, "nobody-made-it"), CONFIG)
    started = time.monotonic()
    with pytest.raises(Exception, match=r"no broker answers \(.*Connection refused\)"):
        check_topic(KafkaAddress("127.0.0.1:1", "topic"), CONFIG)
    assert time.monotonic() - started < 25  # the client itself would go on
    with pytest.raises(Exception, match="Kafka setting refused"):
        check_topic(KafkaAddress("127.0.0.1:1", "topic"), KafkaConfig.from_mapping({"no.such.setting": "1"}))


def test_no_connection_outlives_its_use(apache_kafka: SharedBroker) -> None:
    threads = Path("/proc/self/task")
    if not threads.exists():
        pytest.skip("needs Linux's /proc to count librdkafka's threads")

    def connections() -> int:
        names = [(task / "comm").read_text() for task in threads.iterdir()]
        return sum(name.startswith("rdk:main") for name in names)  # one a client

    source, sink = topic(apache_kafka.bootstrap_servers), topic(apache_kafka.bootstrap_servers)
    write(source, [b"x"] * 10)
    SESSIONS.close_all()
    CONTROLS.close_all()
    gc.collect()
    before = connections()
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        copy(pipeline, ReadFromKafka(KafkaInput(source, CONFIG, "leak", until=LATEST)), WriteToKafka(sink, CONFIG))
    SESSIONS.close_all()
    CONTROLS.close_all()
    gc.collect()
    assert connections() <= before
