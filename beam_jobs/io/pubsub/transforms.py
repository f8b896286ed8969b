"""Pub/Sub in and out of a pipeline, a block at a time: a source of our own, and on Dataflow Beam's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.io.gcp import pubsub as beam_pubsub
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from beam_jobs import metrics
from beam_jobs.block import MAX_BLOCK_ROWS, Block, min_timestamp
from beam_jobs.errors import UserError
from beam_jobs.io.address import PubSubAddress
from beam_jobs.io.block_reader import linger_s, read_blocks
from beam_jobs.io.pubsub.messages import message_numbers, to_block, to_messages
from beam_jobs.io.pubsub.pull import PullSettings
from beam_jobs.io.pubsub.sink import PublishBlocks
from beam_jobs.io.pubsub.source import PubSubSource
from beam_jobs.io.writing import OnTooLarge
from beam_jobs.target import target_of


class ReadFromPubSub(beam.PTransform):
    """Reads a subscription as raw blocks (``beam_jobs.block``), at least once, in no order but that of ordering keys.

    The columns: topic is ``name``, partition 0, offset the message id as a number (``message_numbers``), timestamp the
    publish time or an attribute's, key the ordering key, headers the attributes. Messages are acknowledged when their
    bundle is final. A message that comes again within ``settings.dedupe_s`` is dropped. On Dataflow it is Beam's
    ReadFromPubSub that reads, and the settings below the first three have no effect.

    Args:
      address: the subscription.
      name: of the stream, in the topic column; None: the subscription's.
      timestamp_attribute: attribute with a record's time (epoch milliseconds or RFC 3339); None: the publish time.
      until_ms: messages published at or after this time (ms since the epoch) are left; the read ends when it is past
        and ``quiet_s`` seconds brought no other. None: read forever.
      settings: of the pull.
      share: (number, count) of the processes that read this subscription; the service divides it by itself.
      block_rows, max_blocks_per_bundle, max_bundle_s, max_latency_s, poll_interval_s, out_of_order_s, idle_s, gather_s:
        as in ``kafka.ReadFromKafka``. A bundle also ends when the service waits for acknowledgements.
    """

    def __init__(
        self,
        address: PubSubAddress,
        name: str | None = None,
        timestamp_attribute: str | None = None,
        until_ms: int | None = None,
        quiet_s: float = 30.0,
        settings: PullSettings | None = None,
        *,
        block_rows: int = MAX_BLOCK_ROWS,
        max_blocks_per_bundle: int | None = None,
        max_bundle_s: float = 1.0,
        max_latency_s: float | None = None,
        poll_interval_s: float = 0.05,
        out_of_order_s: float = 10.0,
        idle_s: float = 2.0,
        gather_s: float = 0.0,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        super().__init__()
        self._source = PubSubSource(
            address,
            name or address.topic,
            until_ms,
            quiet_s,
            timestamp_attribute,
            settings or PullSettings(),
            block_rows=block_rows,
            wait_s=poll_interval_s,
            linger_s=linger_s(gather_s),
            max_latency_s=max_latency_s if until_ms is None else None,
            out_of_order_s=out_of_order_s,
            idle_s=idle_s,
            gather_s=gather_s,
        )
        self._bundles = (until_ms is None, max_blocks_per_bundle, max_bundle_s, poll_interval_s)

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection[pa.RecordBatch]:
        source = self._source
        if target_of(pbegin.pipeline.options).describe().reads_pubsub:
            if source.until_ms is not None:
                raise UserError(f"{source.subscription}: Dataflow reads Pub/Sub without an end; leave --until out")
            return (
                pbegin
                | "Read"
                >> beam_pubsub.ReadFromPubSub(
                    subscription=source.subscription.subscription_path,
                    with_attributes=True,
                    timestamp_attribute=source.timestamp_attribute,
                )
                | "ToBlocks"
                >> beam.ParDo(_ToBlocks(source.name, source.timestamp_attribute, source.block_rows)).with_output_types(
                    Block
                )
            )
        return pbegin | "Read" >> read_blocks(source, *self._bundles)


class WriteToPubSub(beam.PTransform):
    """Writes each row of each block as one message; a bundle ends when the service has all of them.

    Blocks have the columns ``key`` and ``value`` (binary, nullable) and may have ``headers`` (``block.HEADERS_TYPE``)
    and ``timestamp`` (timestamp[ms]); what a message can't say plainly goes into attributes (``messages.py``). A
    service that is unavailable is waited for; any other failure fails the bundle.

    Args:
      address: the topic.
      on_too_large: what to write instead of rows that are more than a message may be; without it such a row fails the
        bundle with a ``UserError``.
      record_latency: as in ``kafka.WriteToKafka``.
      ordered: keys become ordering keys, and their order is kept: at the price of a request a key. False: keys are an
        attribute. On Dataflow they always are.
    """

    def __init__(
        self,
        address: PubSubAddress,
        *,
        on_too_large: OnTooLarge | None = None,
        record_latency: bool = False,
        ordered: bool = True,
    ) -> None:
        super().__init__()
        self._address = address
        self._write = PublishBlocks(address, on_too_large, record_latency, ordered)

    def expand(self, blocks: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[Any]:
        if target_of(blocks.pipeline.options).describe().reads_pubsub:
            messages = blocks | "ToMessages" >> beam.ParDo(_ToMessages()).with_output_types(beam_pubsub.PubsubMessage)
            return messages | "Write" >> beam_pubsub.WriteToPubSub(self._address.topic_path, with_attributes=True)
        return blocks | "Write" >> beam.ParDo(self._write)


class _ToBlocks(beam.DoFn):
    """Beam's messages to blocks, at most a bundle's messages in one."""

    def __init__(self, name: str, timestamp_attribute: str | None, block_rows: int) -> None:
        self._name, self._timestamp_attribute, self._block_rows = name, timestamp_attribute, block_rows

    def start_bundle(self) -> None:
        self._messages: list[Any] = []

    def process(self, message: Any) -> Iterator[Any]:
        self._messages.append(message)
        if len(self._messages) >= self._block_rows:
            yield from self.finish_bundle()

    def finish_bundle(self) -> Iterable[Any]:
        messages, self._messages = self._messages, []
        if not messages:
            return
        published = np.array([m.publish_time.timestamp() * 1000 for m in messages]).astype(np.int64)
        numbers = message_numbers([m.message_id for m in messages])
        wrapped = [_Bare(m.data, m.attributes or {}, m.ordering_key or "") for m in messages]
        block = to_block(self._name, wrapped, numbers, published, self._timestamp_attribute)
        metrics.inc(metrics.RECORDS_READ, block.num_rows)
        yield WindowedValue(block, min_timestamp(block), (GlobalWindow(),))


class _Bare:
    """A message with the three fields ``to_block`` reads."""

    __slots__ = ("attributes", "data", "ordering_key")

    def __init__(self, data: bytes, attributes: dict[str, str], ordering_key: str) -> None:
        self.data, self.attributes, self.ordering_key = data, attributes, ordering_key


class _ToMessages(beam.DoFn):
    """Rows of blocks to Beam's messages."""

    def process(self, block: Block) -> Iterator[beam_pubsub.PubsubMessage]:
        for message in to_messages(block, ordered=False):
            yield beam_pubsub.PubsubMessage(message.data, dict(message.attributes))
