"""Where a leader epoch ends in a partition's log as it is now (KIP-320): tells whether records were cut off behind it.

librdkafka has no public call for it, so that the brokers are asked here, on a connection for this one question.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import closing, suppress
from typing import Any

from beam_jobs.io import kafka_protocol as protocol
from beam_jobs.io.kafka_connection import Connection, LackingError, ReadSettings, not_understood
from beam_jobs.io.kafka_sasl import AuthenticationError

_LOGGER = logging.getLogger(__name__)


def epoch_end(properties: Mapping[str, Any], topic: str, partition: int, epoch: int, timeout_s: float) -> int | None:
    """The offset after the last record of ``epoch``, or of the newest epoch before it that the log has.

    Args:
      properties: of a consumer.
      timeout_s: for each connection, and each answer.

    Returns:
      None where it can't be had now: settings that a connection of ours does not understand, no leader, a broker before
      Kafka 2.3.
    """
    if not_understood(properties):
        return None
    settings = ReadSettings.of(properties)
    try:
        leader = _leader(settings, topic, partition, timeout_s)
        with closing(Connection(*leader, settings, timeout_s)) as connection:
            body = protocol.epoch_end_request(topic, partition, epoch)
            found = protocol.epoch_end(connection.ask(protocol.EPOCH_END, protocol.EPOCH_END_VERSION, body))
    except (OSError, ValueError, AuthenticationError, LackingError) as error:
        _LOGGER.debug("%s: partition %d: the end of epoch %d is not known: %s", topic, partition, epoch, error)
        return None
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
