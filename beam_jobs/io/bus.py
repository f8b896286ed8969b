"""Kafka or Pub/Sub, by the type of the address: the one place that asks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import apache_beam as beam

from beam_jobs import metrics
from beam_jobs.block import Block
from beam_jobs.io.address import Address, KafkaAddress
from beam_jobs.io.kafka import transforms as kafka
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.pubsub import client as pubsub_client
from beam_jobs.io.pubsub import transforms as pubsub
from beam_jobs.io.writing import OnTooLarge

_LOGGER = logging.getLogger(__name__)


def read(address: Address, **settings: Any) -> beam.PTransform:
    """Raw blocks of a topic or a subscription; ``settings`` as ``preflight.addresses.stream_source`` gives them."""
    if isinstance(address, KafkaAddress):
        return kafka.ReadFromKafka(address, **settings)
    return pubsub.ReadFromPubSub(address, **settings)


def revision_schema(address: Address) -> Callable[[str], dict[str, Any]] | None:
    """Where the schemas of Avro without a frame come from, by name and revision; None: there are none on this bus."""
    return None if isinstance(address, KafkaAddress) else pubsub_client.revision_schema


def write(
    address: Address,
    config: KafkaConfig,
    *,
    on_too_large: OnTooLarge | None = None,
    record_latency: bool = False,
    ordered: bool = True,
    at_once: bool = False,
) -> beam.PTransform:
    """Writes blocks of records to a topic; see ``kafka.WriteToKafka`` and ``pubsub.WriteToPubSub``.

    Args:
      config: for Kafka.
      ordered: False where the order of a key's records says nothing: it costs requests on Pub/Sub.
      at_once: a block is acknowledged when it has been handed over, not at the end of its bundle; on Pub/Sub always
        (but for Dataflow's own sink). The step before, in the same fused stage, knows after its ``yield``.
    """
    if isinstance(address, KafkaAddress):
        return kafka.WriteToKafka(
            address, config, on_too_large=on_too_large, record_latency=record_latency, at_once=at_once
        )
    return pubsub.WriteToPubSub(address, on_too_large=on_too_large, record_latency=record_latency, ordered=ordered)


def leave_out(address: Address, rows: Block) -> None:
    """An ``on_too_large`` for records that are kept elsewhere: they are counted, reported, and not written."""
    metrics.inc(metrics.TOO_LARGE, rows.num_rows)
    _LOGGER.warning("%s: %d records are larger than the topic takes, and not written", address, rows.num_rows)


def check_output(address: Address, config: KafkaConfig, timeout_s: float) -> None:
    """Asks whether a topic is there and may be written to.

    Args:
      timeout_s: how long Kafka is waited for.

    Raises:
      UnreachableError: nobody answers.
      UserError: it does not exist, or access is denied.
    """
    if isinstance(address, KafkaAddress):
        kafka.check_topic(address, config, write=True, timeout_s=timeout_s)
    else:
        pubsub_client.check_topic(address)


def ensure_topic(address: Address, config: KafkaConfig) -> None:
    """Creates a topic if it is missing."""
    if isinstance(address, KafkaAddress):
        kafka.ensure_topic(address, config)
    else:
        pubsub_client.ensure_topic(address)
