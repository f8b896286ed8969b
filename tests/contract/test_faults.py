"""Every error code, delay, half answer and reset in the answers of a real broker: a single one decides nothing.

A proxy puts the fault into the first answers and lets the others pass: all is read, once and in order, by both fetch
paths, live and bounded. What lasts ends the read with one line where only the user can mend it, and is said else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from confluent_kafka import KafkaError, Producer

from beam_jobs.errors import UnreachableError, UserError
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.client import CONTROLS, FetchPath, KafkaTransport, check_topic, ensure_topic
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.source import SESSIONS, KafkaSource
from beam_jobs.io.kafka.start import resolve
from beam_jobs.io.kafka.wire.protocol import FETCH, METADATA
from beam_jobs.io.position import EARLIEST, LATEST
from demo.broker import ApacheKafka, java_missing
from tests.contract.reads import Rows, opened, read
from tests.services.fault_proxy import LIST_OFFSETS, OFFSET_COMMIT, OFFSET_FETCH, Fault, FaultProxy

pytestmark = pytest.mark.integration

PATHS = ["wire", "client"]
# All that Kafka has, and some that it may have one day.
CODES = [
    *sorted({v for v in vars(KafkaError).values() if type(v) is int and v >= -1 and v != 0}),
    *(998, 999, 32767),
]
# Those that a client handles each in its own way, and one that it does not know.
PECULIAR = [-1, 1, 2, 3, 5, 6, 7, 9, 29, 56, 74, 75, 76, 78, 100, 999]
# By day test_a_bounded_read_ends_with_all_records_after_any_code_of_a_fetch takes all of them.
TRIED = [pytest.param(PECULIAR, id="peculiar"), pytest.param(CODES, id="all", marks=pytest.mark.nightly)]
GROUPS = [-1, 3, 7, 12, 14, 15, 16, 22, 24, 25, 27, 28, 29, 30, 35, 42, 69, 82, 113, 999]  # what a coordinator may say
FAST = {"reconnect.backoff.ms": "1", "reconnect.backoff.max.ms": "10", "fetch.wait.max.ms": "10"}
FAST_CLIENT = {
    "fetch.error.backoff.ms": "5",
    "retry.backoff.ms": "5",
    "retry.backoff.max.ms": "10",
    "topic.metadata.refresh.fast.interval.ms": "10",
}


@dataclass
class Lab:
    """A broker that is reached through a proxy only."""

    proxy: FaultProxy
    producer: Producer
    topics: int = 0

    def topic(self, records: int = 0) -> KafkaAddress:
        """Two partitions with as many records each."""
        self.topics += 1
        address = KafkaAddress(f"127.0.0.1:{self.proxy.port}", f"faults-{self.topics}")
        ensure_topic(address, KafkaConfig(), 2)
        self.write(address, *(b"%d" % i for i in range(records)))
        return address

    def write(self, address: KafkaAddress, *values: bytes) -> None:
        """To both partitions."""
        for value in values:
            for partition in (0, 1):
                self.producer.produce(address.topic, value, partition=partition)
        assert self.producer.flush(20) == 0

    def source(self, address: KafkaAddress, path: FetchPath, live: bool, group: str | None = None) -> KafkaSource:
        config = KafkaConfig.from_mapping(FAST | (FAST_CLIENT if path == "client" else {}))
        transport = KafkaTransport(address, config, group, path)
        return KafkaSource(transport, start=EARLIEST, until=None if live else LATEST, discover_s=3600)


@pytest.fixture(scope="module")
def broker() -> Iterator[Lab]:
    reason = java_missing()
    if reason:
        pytest.skip(reason)
    proxy = FaultProxy()
    kafka = ApacheKafka({"advertised.listeners": f"PLAINTEXT://127.0.0.1:{proxy.port}"})
    proxy.target = kafka.port
    with kafka:
        servers = f"127.0.0.1:{proxy.port}"
        yield Lab(
            proxy, Producer({"bootstrap.servers": servers, "linger.ms": 0, "enable.idempotence": True, "log_level": 0})
        )
    proxy.close()


@pytest.fixture
def lab(broker: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setattr("beam_jobs.io.kafka.source._AGAIN_S", 0.01)
    monkeypatch.setattr("beam_jobs.io.kafka.start._AGAIN_S", 0.01)
    monkeypatch.setattr("beam_jobs.io.kafka.commits._RETRY_S", 0.0)
    broker.proxy.put()
    yield broker
    broker.proxy.put()
    SESSIONS.close_all()
    CONTROLS.close_all()


def of_partition(rows: Rows, partition: int) -> list[bytes]:
    return [row["value"] for row in rows if row["partition"] == partition]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("whole", [False, True], ids=["partition", "answer"])
@pytest.mark.parametrize("codes", TRIED)
def test_a_live_read_goes_on_after_any_code_of_a_fetch(
    lab: Lab, path: FetchPath, whole: bool, codes: list[int]
) -> None:
    address = lab.topic()
    reader = opened(lab.source(address, path, live=True))
    rows: Rows = []
    for code in codes:
        lab.proxy.put(Fault(FETCH, code, whole=whole, times=2))
        lab.write(address, b"%d" % code)
        rows += read(reader, lambda more: len(more) >= 2)
        assert lab.proxy.left == 0
    reader.close()
    for partition in (0, 1):
        assert of_partition(rows, partition) == [b"%d" % code for code in codes]


@pytest.mark.parametrize("path", PATHS)
def test_a_bounded_read_ends_with_all_records_after_any_code_of_a_fetch(lab: Lab, path: FetchPath) -> None:
    address = lab.topic(3)
    for code in CODES if path == "wire" else PECULIAR:
        lab.proxy.put(Fault(FETCH, code, times=2))
        reader = opened(lab.source(address, path, live=False))
        rows = read(reader)
        reader.close()
        assert of_partition(rows, 0) == of_partition(rows, 1) == [b"0", b"1", b"2"], code
        assert lab.proxy.left == 0


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("whole", [False, True], ids=["partition", "topic"])
@pytest.mark.parametrize("codes", TRIED)
def test_reading_goes_on_after_any_code_of_a_look_up(lab: Lab, path: FetchPath, whole: bool, codes: list[int]) -> None:
    address = lab.topic()
    reader = opened(lab.source(address, path, live=True))
    rows: Rows = []
    for code in codes:
        lab.proxy.put(
            Fault(FETCH, KafkaError.NOT_LEADER_FOR_PARTITION, times=2), Fault(METADATA, code, whole=whole, times=2)
        )
        lab.write(address, b"%d" % code)
        rows += read(reader, lambda more: len(more) >= 2)
    reader.close()
    for partition in (0, 1):
        assert of_partition(rows, partition) == [b"%d" % code for code in codes]


@pytest.mark.parametrize("api", [METADATA, LIST_OFFSETS, OFFSET_FETCH])
def test_a_start_asks_again_after_any_code(lab: Lab, api: int) -> None:
    address = lab.topic(1)
    for code in {*PECULIAR, *GROUPS}:
        lab.proxy.put(Fault(api, code, whole=api == METADATA, times=1))
        source = lab.source(address, "wire", live=False, group="start")
        found = resolve(source.transport, source.range, source.owns)
        assert (found.positions, found.ends) == ({0: 0, 1: 0}, {0: 1, 1: 1}), code


def test_a_commit_is_made_after_any_code(lab: Lab) -> None:
    address = lab.topic(3)
    for code in GROUPS:
        group = f"commits-{code}"
        reader = opened(lab.source(address, "wire", live=False, group=group))
        assert len(read(reader)) == 6, code
        lab.proxy.put(Fault(OFFSET_COMMIT, code, times=2))
        mark = reader.get_checkpoint_mark()
        assert mark.final
        mark.finalize_checkpoint()
        reader.close()
        lab.proxy.put()
        with lab.source(address, "wire", live=False, group=group).transport.control() as control:
            assert {p: at.offset for p, at in control.committed([0, 1], 10.0).items()} == {0: 3, 1: 3}, code


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("live", [True, False], ids=["live", "bounded"])
def test_a_right_that_stays_missing_ends_the_read_with_one_line(
    lab: Lab, path: FetchPath, live: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beam_jobs.io.reading._PATIENCE_S", 0.05)
    address = lab.topic(1)
    lab.proxy.put(Fault(FETCH, KafkaError.TOPIC_AUTHORIZATION_FAILED, times=10**6))
    reader = opened(lab.source(address, path, live=live))
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(UserError, match="grant this user READ on the topic") as raised,
    ):
        read(reader)
    reader.close()
    assert "\n" not in str(raised.value)
    said = [record.message.removeprefix(f"{address}: ") for record in caplog.records]
    assert len(said) <= 1, said  # what is asked again is not back
    assert not any(text.startswith("back") for text in said)


@pytest.mark.parametrize("code", [-1, 6, 56, 999])
def test_what_lasts_is_said_once_and_stops_no_other_partition(
    lab: Lab, code: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beam_jobs.io.reading._PATIENCE_S", 0.1)
    address = lab.topic(3)
    lab.proxy.put(Fault(FETCH, code, times=10**6))
    reader = opened(lab.source(address, "wire", live=True))
    with caplog.at_level(logging.WARNING):
        rows = read(reader, lambda rows: "can't be read" in caplog.text and len(rows) >= 3)
        assert of_partition(rows, 0) == []
        lab.proxy.put()
        rows += read(reader, lambda more: len(more) >= 3)
        read(reader, lambda _: "back after" in caplog.text)
    reader.close()
    assert of_partition(rows, 0) == of_partition(rows, 1) == [b"0", b"1", b"2"]
    said = [record.message.removeprefix(f"{address}: ")[:30] for record in caplog.records]
    assert [text[:11] for text in said] == ["partition 0", "back after "], said


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("api", [FETCH, METADATA, LIST_OFFSETS, OFFSET_FETCH])
def test_delays_half_answers_and_resets_lose_nothing(lab: Lab, path: FetchPath, api: int) -> None:
    address = lab.topic(3)
    for fault in (
        Fault(api, delay_s=0.2),
        *(Fault(api, keep=keep, times=2) for keep in (0, 2, 4, 9, 30, 80)),
    ):
        lab.proxy.put(fault)
        reader = opened(lab.source(address, path, live=False, group="halves"))
        rows = read(reader)
        reader.close()
        assert of_partition(rows, 0) == of_partition(rows, 1) == [b"0", b"1", b"2"], fault
        CONTROLS.close_all()


def test_an_advertised_address_that_never_answers_is_named_before_the_start(lab: Lab) -> None:
    inside = KafkaAddress(f"127.0.0.1:{lab.proxy.target}", lab.topic().topic)  # metadata from here name the proxy
    lab.proxy.silent = True
    try:
        with pytest.raises(UnreachableError, match="can't be reached at the address it advertises") as raised:
            check_topic(inside, KafkaConfig(), timeout_s=0.2)
    finally:
        lab.proxy.silent = False
    assert "broker 1, which leads partition 0, can't be reached" in str(raised.value)
    assert f"127.0.0.1:{lab.proxy.port}" in str(raised.value)
    assert check_topic(inside, KafkaConfig()) == 2


@pytest.mark.parametrize("code", PECULIAR)
def test_a_check_before_the_start_asks_again_after_any_code(lab: Lab, code: int) -> None:
    address = lab.topic()
    lab.proxy.put(Fault(METADATA, code, whole=True))
    assert check_topic(address, KafkaConfig()) == 2
