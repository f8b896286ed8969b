"""Where a leader epoch ends in a partition's log as it is now (KIP-320): tells whether records were cut off behind it.

librdkafka has no public call for it, so that the brokers are asked here, on a connection for this one question.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from beam_jobs.io import kafka_protocol as protocol
from beam_jobs.io.kafka_connection import Connection, not_understood
from beam_jobs.io.kafka_sasl import AuthenticationError

_LOGGER = logging.getLogger(__name__)


def epoch_end(properties: Mapping[str, Any], topic: str, partition: int, epoch: int) -> int | None:
    """The offset after the last record of ``epoch``, or of the newest epoch before it that the log has.

    Args:
      properties: of a consumer.

    Returns:
      None where it can't be had now: settings that a connection of ours does not understand, no leader, a broker before
      Kafka 2.3.
    """
    if not_understood(properties):
        return None
    try:
        found = _ask_leader(properties, topic, partition, epoch)
    except (OSError, ValueError, AuthenticationError) as error:
        _LOGGER.debug("%s: partition %d: the end of epoch %d is not known: %s", topic, partition, epoch, error)
        return None
    return found if found >= 0 else None


def _ask_leader(properties: Mapping[str, Any], topic: str, partition: int, epoch: int) -> int:
    leader = None
    for server in properties["bootstrap.servers"].split(","):
        host, _, port = server.strip().rpartition(":")
        with (
            contextlib.suppress(OSError),
            contextlib.closing(Connection(host.strip("[]"), int(port), properties)) as first,
        ):
            asked = first.ask(protocol.METADATA, protocol.METADATA_VERSION, protocol.metadata_request(topic))
            metadata = protocol.metadata(asked)
            leader = metadata.brokers.get(metadata.leaders.get(partition, -1))
            break
    if leader is None:
        raise ConnectionError("it has no leader")
    with contextlib.closing(Connection(*leader, properties)) as connection:
        body = protocol.epoch_end_request(topic, partition, epoch)
        return protocol.epoch_end(connection.ask(protocol.EPOCH_END, protocol.EPOCH_END_VERSION, body))
