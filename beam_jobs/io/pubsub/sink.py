"""The Pub/Sub sink's DoFn: rows out as messages, all of a block's acknowledged before the next is taken."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import apache_beam as beam
import grpc
import pyarrow as pa
from google.pubsub_v1 import types

from beam_jobs import stop
from beam_jobs.block import Block, take
from beam_jobs.errors import UserError, one_line
from beam_jobs.io.pubsub.address import PubSubAddress
from beam_jobs.io.pubsub.client import Refusals, call
from beam_jobs.io.pubsub.messages import MAX_MESSAGE_BYTES, PublishRequest, message_bytes, requests, to_messages
from beam_jobs.io.sink import DRAIN_TIMEOUT_S, WriteSettings, Written

_LOGGER = logging.getLogger(__name__)

_REQUESTS_AT_ONCE = 8
_TIMEOUT_S = 60.0  # of one request
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 1.0  # before it is tried again
_SAY_AWAY_AFTER_S = 2.0  # a service that is merely slow is not reported


class PublishBlocks(beam.DoFn):
    """See ``pubsub.WriteToPubSub``."""

    def __init__(self, address: PubSubAddress, settings: WriteSettings = WriteSettings()) -> None:
        self._address = address
        self._settings = settings

    def setup(self) -> None:
        self._publish_once = call("Publisher/Publish", PublishRequest, types.PublishResponse.pb())
        self._pool = ThreadPoolExecutor(_REQUESTS_AT_ONCE, thread_name_prefix="highbeam-publish")

    def teardown(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def start_bundle(self) -> None:
        self._written = Written(self._address.topic)

    def process(self, block: pa.RecordBatch, timestamp: Any = beam.DoFn.TimestampParam) -> None:
        if self._settings.record_latency:
            self._written.element(timestamp)
        if block.num_rows:
            self._written.rows += self._write(block)

    def finish_bundle(self) -> None:
        self._written.count()

    def _write(self, block: Block) -> int:
        """Publishes the rows, or what stands in for those that are too large; how many that were."""
        messages = list(to_messages(block, self._settings.ordered))
        large = [i for i, message in enumerate(messages) if message_bytes(message) > MAX_MESSAGE_BYTES]
        if large:
            instead = self._instead(take(block, large))
            keep = set(large)
            messages = [message for i, message in enumerate(messages) if i not in keep] + instead
        self._publish(messages)
        return len(messages)

    def _instead(self, rows: Block) -> list[Any]:
        largest = max(len(value or b"") for value in rows.column("value").to_pylist())
        if self._settings.on_too_large is None:
            raise UserError(
                f"{self._address}: a record of {largest} bytes, with its key and headers, is more than a Pub/Sub "
                f"message may be ({MAX_MESSAGE_BYTES:,} bytes); send it to a topic of Kafka"
            )
        replacement = self._settings.on_too_large(rows)
        messages = [] if replacement is None else list(to_messages(replacement, self._settings.ordered))
        if any(message_bytes(message) > MAX_MESSAGE_BYTES for message in messages):
            raise UserError(f"{self._address}: even what stands in for a record of {largest} bytes is too large")
        return messages

    def _publish(self, messages: list[Any]) -> None:
        """Publishes messages, those of one key in their order; returns when the service has all of them."""
        chains = requests(self._address.topic_path, messages)
        for done in [self._pool.submit(self._send, chain) for chain in chains]:
            done.result()

    def _send(self, chain: list[Any]) -> None:
        for request in chain:
            self._patiently(partial(self._publish_once, request, timeout=_TIMEOUT_S))

    def _patiently(self, publish: Any) -> None:
        """Retries while the service is unavailable; what it refuses for good is raised and fails the bundle."""
        since, said, pause = time.monotonic(), False, _FIRST_PAUSE_S
        refusals = Refusals(self._address)
        while True:
            try:
                publish()
            except grpc.RpcError as error:
                waited = time.monotonic() - since
                reason = f"{error.code().name}: {one_line(error.details(), 300)}"
                refused = refusals.seen(error)
                if refused is not None:
                    raise UserError(f"{refused}; what was read and is not acknowledged is read again") from None
                if stop.requested() and waited > DRAIN_TIMEOUT_S:
                    raise UserError(
                        f"{self._address}: ended while records waited for the service ({reason}); "
                        "their input is not acknowledged and will be read again"
                    ) from None
                if waited > _SAY_AWAY_AFTER_S and not said:
                    said = True
                    _LOGGER.warning("%s: takes no messages (%s); waiting", self._address, reason)
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                continue
            if said:
                _LOGGER.warning("%s: back after %.1f s", self._address, time.monotonic() - since)
            return
