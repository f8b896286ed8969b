"""What is said of records that no broker takes, and when waiting ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import KafkaError, Producer

from beam_jobs import stop
from beam_jobs.io.kafka import delivery as kafka_delivery
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.delivery import GONE_TIMEOUT_S, TOO_LARGE, Waiting, delivery_error
from beam_jobs.io.kafka.sink import WriteBlocks

SINK = KafkaAddress("broker:9092", "scores")
CODES = sorted({value for name, value in vars(KafkaError).items() if name.isupper() and isinstance(value, int)})


def test_every_code_ends_in_one_line_with_reason_and_remedy() -> None:
    assert len(CODES) > 100
    for error in (KafkaError(code, *text) for code in CODES for text in ((), ("",))):
        text = str(delivery_error(SINK, error))
        assert text.startswith("kafka://broker:9092/scores: ")
        assert "\n" not in text
        assert "()" not in text
        assert "(: " not in text
        assert "is read again" in text
        assert text.count(";") + text.count(":") >= 3  # address, reason, remedy


@pytest.mark.parametrize(
    ("code", "part"),
    [
        (KafkaError.UNKNOWN_TOPIC_OR_PART, "the topic does not exist any more; create it"),
        (KafkaError._UNKNOWN_TOPIC, "the topic does not exist any more; create it"),
        (KafkaError._UNKNOWN_PARTITION, "the topic was deleted, or has fewer partitions"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "grant this user DESCRIBE and READ (of an output, WRITE)"),
        (KafkaError.CLUSTER_AUTHORIZATION_FAILED, "grant this user the right"),
        (KafkaError.INVALID_TIMESTAMP, "message.timestamp.before.max.ms"),
        (KafkaError.INVALID_RECORD, "cleanup.policy"),
        (KafkaError.POLICY_VIOLATION, "policy"),
        (KafkaError._MSG_TIMED_OUT, "message.timeout.ms"),
        (KafkaError.PRODUCER_FENCED, "start the job again"),
        (KafkaError.INVALID_PRODUCER_EPOCH, "start the job again"),
        (KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "start the job again"),
        (KafkaError._FATAL, "start the job again"),
        (KafkaError.UNKNOWN, "look at the broker's log"),
    ],
)
def test_remedies(code: int, part: str) -> None:
    assert part in str(delivery_error(SINK, KafkaError(code)))


def test_the_record_that_is_refused_is_named_and_not_its_neighbours() -> None:
    write = WriteBlocks(SINK, KafkaConfig())
    write._producer = Producer({})
    write.start_bundle()
    codes = [KafkaError._INVALID_DIFFERENT_RECORD, KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_TIMESTAMP]
    write._failed = [(KafkaError(code), {}) for code in codes]
    with pytest.raises(kafka_delivery.UserError, match="refuses the time of a record"):
        write._take_failed()


def test_too_large_is_one_kind() -> None:
    assert {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE} <= TOO_LARGE


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Iterator[Clock]:
    yield Clock()
    stop.reset()


Ask = Callable[[], tuple[str, bool]]


def waiting(clock: Clock, ask: Ask) -> Waiting:
    return Waiting(SINK, ask, clock)


def wait(state: Waiting, clock: Clock, seconds: float, left: int = 5) -> None:
    for _ in range(int(seconds * 5)):
        clock.now += 0.2
        state.see(left)


def test_a_deleted_topic_is_said_once_and_ends_the_job(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    state = waiting(clock, lambda: ("Unknown topic or partition", True))
    wait(state, clock, 20)
    (line,) = caplog.messages
    assert "no records are taken (Unknown topic or partition); waiting; the job ends in 30 s" in line
    with pytest.raises(kafka_delivery.UserError, match="does not exist any more; create it"):
        wait(state, clock, GONE_TIMEOUT_S)
    assert len(caplog.messages) == 1


def test_a_topic_made_anew_in_time_is_written_on(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    state = waiting(clock, lambda: ("Unknown topic or partition", clock.now < 20))
    wait(state, clock, 25)
    state.over()
    assert [("waiting" in line, "back after" in line) for line in caplog.messages] == [(True, False), (False, True)]
    wait(state, clock, 5)


def test_a_reason_that_changes_to_a_deleted_topic_is_said_too(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    state = waiting(clock, lambda: ("connection refused", False) if clock.now < 10 else ("Unknown topic", True))
    wait(state, clock, 20)
    assert ["refused" in line for line in caplog.messages] == [True, False]


def test_waiting_without_a_known_reason_is_said_late_but_said(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    state = waiting(clock, lambda: ("", False))
    wait(state, clock, 8)
    assert not caplog.messages
    wait(state, clock, 30)
    (line,) = caplog.messages
    assert "min.insync.replicas" in line


def test_progress_is_no_waiting(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    state = waiting(clock, lambda: ("slow", False))
    for left in range(500, 0, -1):
        clock.now += 1.0
        state.see(left)
        state.see(left + 3)  # the client's own events
    assert not caplog.messages


def test_an_ending_job_gives_up_with_a_reason(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    state = waiting(clock, lambda: ("", False))
    stop.request()
    with pytest.raises(kafka_delivery.UserError, match=r"ended while records waited \(.{10,}\); their input is not"):
        wait(state, clock, 40)
    state = waiting(clock, lambda: ("gone", True))
    wait(state, clock, 4)
    with pytest.raises(kafka_delivery.UserError, match="does not exist any more"):
        wait(state, clock, 6)


def test_one_answer_that_the_topic_is_gone_decides_nothing(clock: Clock) -> None:
    answers = iter([("gone", True), ("", False)] * 100)
    wait(waiting(clock, lambda: next(answers)), clock, 3 * GONE_TIMEOUT_S)
