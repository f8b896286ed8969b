"""Where a leader epoch ends in a partition's log as it is now (KIP-320): tells whether records were cut off behind it.

librdkafka has no public call for it, so that the brokers are asked here, on a connection for this one question.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import closing, suppress
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from beam_jobs.errors import one_line
from beam_jobs.io.kafka.wire import protocol
from beam_jobs.io.kafka.wire.connection import Connection, LackingError, ReadSettings, not_understood
from beam_jobs.io.kafka.wire.sasl import AuthenticationError

_LOGGER = logging.getLogger(__name__)

_NEEDED = {protocol.EPOCH_END: protocol.EPOCH_END_VERSION}


def epoch_end(properties: Mapping[str, Any], topic: str, partition: int, epoch: int, timeout_s: float) -> int | None:
    """The offset after the last record of ``epoch``, or of the newest epoch before it that the log has.

    Args:
      properties: of a consumer.
      timeout_s: for each connection, and each answer.

    Returns:
      None where nobody will ever say: settings that a connection of ours does not understand, a broker before Kafka
      2.3, a log that knows no epoch so old.

    Raises:
      KafkaException: no answer now.
    """
    if not_understood(properties):
        return None
    settings = ReadSettings.of(properties)
    try:
        leader = _leader(settings, topic, partition, timeout_s)
        with closing(Connection(*leader, settings, timeout_s, _NEEDED)) as connection:
            body = protocol.epoch_end_request(topic, partition, epoch)
            code, found = protocol.epoch_end(connection.ask(protocol.EPOCH_END, protocol.EPOCH_END_VERSION, body))
    except LackingError as error:
        _LOGGER.debug(
            "%s: partition %d: the end of epoch %d is not known: %s", topic, partition, epoch, one_line(error)
        )
        return None
    except (OSError, ValueError, AuthenticationError) as error:
        raise KafkaException(KafkaError(KafkaError._TRANSPORT, one_line(error))) from None
    if code:
        raise KafkaException(KafkaError(code))
    return found if found >= 0 else None


def _leader(settings: ReadSettings, topic: str, partition: int, timeout_s: float) -> tuple[str, int]:
    for server in settings.servers:
        with suppress(OSError), closing(Connection(*server, settings, timeout_s)) as connection:
            request = protocol.metadata_request(topic)
            found = protocol.metadata(connection.ask(protocol.METADATA, protocol.METADATA_VERSION, request))
            leader = found.brokers.get(found.leaders.get(partition, -1))
            if leader is not None:
                return leader
    raise ConnectionError("no broker says who leads it")
