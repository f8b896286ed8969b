"""What happens to records that a Kafka broker does not take: waited for, written otherwise, or the end of the job.

librdkafka retries by itself, forever, what is transient: a network, an election, too few replicas in sync. That is
waited for, and said when nothing moves. What reaches a delivery report is final.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from confluent_kafka import KafkaError, KafkaException, Producer

from beam_jobs import stop
from beam_jobs.errors import UserError, one_line
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.client import user_error
from beam_jobs.io.kafka.control import NO_TOPIC
from beam_jobs.io.sink import DRAIN_TIMEOUT_S

_LOGGER = logging.getLogger(__name__)

TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_MSG_SIZE})
_TOPIC_GONE = NO_TOPIC - {KafkaError._UNKNOWN_PARTITION}

GONE_TIMEOUT_S = 30.0  # how long a topic that was deleted may be recreated
_SAY_AFTER_S = 2.0  # a broker that is merely slow is not reported
_SAY_UNKNOWN_AFTER_S = 10.0  # where no reason is known
_ASK_EVERY_S = 2.0

_READ_AGAIN = "what was read and is not committed is read again"
_LOST_STATE = "the broker has no use for this producer any more; start the job again"
_REMEDIES: Mapping[int, str] = {
    KafkaError._UNKNOWN_PARTITION: "the topic was deleted, or has fewer partitions than the records name; create it or "
    "add some, and start the job again",
    KafkaError.INVALID_RECORD: "a compacted topic takes no record without a key; use a topic with "
    "cleanup.policy=delete, or give the records keys",
    KafkaError._INVALID_DIFFERENT_RECORD: "a record beside them has a time that the topic does not take "
    "(message.timestamp.after.max.ms, message.timestamp.before.max.ms), or no key on a compacted topic",
    KafkaError.POLICY_VIOLATION: "the cluster's policy forbids it; ask who runs the cluster",
    KafkaError.TOPIC_EXCEPTION: "the topic's name is not allowed, or it is one of Kafka's own; choose another",
    KafkaError.INVALID_REQUIRED_ACKS: "leave acks out of --kafka_config",
    KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT: "raise the topic's message.format.version",
    KafkaError.UNSUPPORTED_COMPRESSION_TYPE: "set another compression.type in --kafka_config",
    KafkaError._MSG_TIMED_OUT: "leave message.timeout.ms and delivery.timeout.ms out of --kafka_config",
    KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER: _LOST_STATE,
    KafkaError.DUPLICATE_SEQUENCE_NUMBER: _LOST_STATE,
    KafkaError.INVALID_PRODUCER_EPOCH: _LOST_STATE,
    KafkaError.INVALID_PRODUCER_ID_MAPPING: _LOST_STATE,
    KafkaError.UNKNOWN_PRODUCER_ID: _LOST_STATE,
    KafkaError.PRODUCER_FENCED: _LOST_STATE,
    KafkaError._FENCED: _LOST_STATE,
    KafkaError._FATAL: _LOST_STATE,
    KafkaError._STATE: _LOST_STATE,
}


def delivery_error(address: KafkaAddress, error: KafkaError) -> UserError:
    """The end of the job for a delivery that failed for good, whatever the code: reason, remedy, what comes next."""
    reason = one_line(f"{error.name()}: {error.str()}" if error.str() else error.name(), 300)
    if error.code() in _TOPIC_GONE:
        return _gone(address)
    known = None if error.code() in _REMEDIES else user_error(address, error)
    if known is not None:
        return UserError(f"{known}; {_READ_AGAIN}")
    remedy = _REMEDIES.get(error.code(), "look at the broker's log, then start the job again")
    return UserError(f"{address}: records are refused ({reason}); {remedy}; {_READ_AGAIN}")


def _gone(address: KafkaAddress) -> UserError:
    return UserError(f"{address}: the topic does not exist any more; create it, and start the job again: {_READ_AGAIN}")


class Waiting:
    """Speaks while rows wait for the broker, once, and knows when waiting is in vain.

    Args:
      ask: gives the topic's state, see :func:`trouble`.
    """

    def __init__(
        self, address: KafkaAddress, ask: Callable[[], tuple[str, bool]], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._address = address
        self._ask = ask
        self._now = now
        self.done()

    def done(self) -> None:
        """Nothing waits."""
        self._least = -1  # that ever waited; the client counts its own events among them
        self._since = self._asked = 0.0
        self._gone_since: float | None = None
        self._said = ""
        self._reason = "the brokers answer, and acknowledge nothing; are min.insync.replicas there?"

    def see(self, left: int) -> None:
        """Called again and again while ``left`` rows wait.

        Raises:
          UserError: the topic is gone for good, or the job is to end and the cluster is still unavailable.
        """
        now = self._now()
        if not 0 <= self._least <= left:
            self.over()
            self._least, self._since, self._asked = left, now, now
            return
        waited = now - self._since
        if waited > _SAY_AFTER_S and now - self._asked >= _ASK_EVERY_S:
            self._asked = now
            found, gone = self._ask()
            self._reason = found or self._reason
            self._gone_since = (self._gone_since or now) if gone else None
            known = bool(found) or waited > _SAY_UNKNOWN_AFTER_S
            if known and self._reason != self._said and (gone or not self._said):
                self._said = self._reason
                ends = f"; the job ends in {GONE_TIMEOUT_S:.0f} s unless it is made anew" if gone else ""
                _LOGGER.warning(
                    "%s: no records are taken (%s); waiting%s", self._address, one_line(self._reason, 300), ends
                )
        patience = 2 * _ASK_EVERY_S if stop.requested() else GONE_TIMEOUT_S  # one answer decides nothing
        if self._gone_since is not None and now - self._gone_since > patience:
            raise _gone(self._address)
        if stop.requested() and waited > DRAIN_TIMEOUT_S:
            raise UserError(
                f"{self._address}: ended while records waited ({self._reason}); their input is not committed and will "
                "be read again"
            )

    def over(self) -> None:
        """Something was acknowledged."""
        if self._said:
            _LOGGER.warning("%s: back after %.1f s", self._address, self._now() - self._since)
        self.done()


def trouble(producer: Producer, topic: str, last_error: str) -> tuple[str, bool]:
    """(why nothing is taken, "" where that is not known; whether the topic does not exist)."""
    try:
        found = producer.list_topics(topic, 1.0).topics[topic]
    except KafkaException as error:
        return last_error or error.args[0].str(), False
    if found.error is not None:
        return found.error.str(), found.error.code() in _TOPIC_GONE
    leaderless = sorted(number for number, partition in found.partitions.items() if partition.leader < 0)
    if leaderless:
        return f"partition {leaderless[0]} has no leader", False
    return last_error, False
