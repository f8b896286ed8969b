"""Pub/Sub in and out of a pipeline, a block at a time: a source of our own, and on Dataflow Beam's."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.io.gcp import pubsub as beam_pubsub
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from beam_jobs import metrics
from beam_jobs.block import Block, min_timestamp
from beam_jobs.codec.avro.writers import NamedSchema
from beam_jobs.errors import UserError
from beam_jobs.io.block_reader import BlockSettings, read_blocks
from beam_jobs.io.pubsub import client
from beam_jobs.io.pubsub.address import PubSubAddress
from beam_jobs.io.pubsub.messages import message_numbers, to_block, to_messages
from beam_jobs.io.pubsub.pull import PullSettings
from beam_jobs.io.pubsub.sink import PublishBlocks
from beam_jobs.io.pubsub.source import PubSubSource
from beam_jobs.io.sink import Sink, WriteSettings
from beam_jobs.io.source import Checks, MessageIds, Source
from beam_jobs.target import target_of


@dataclass(frozen=True)
class PubSubInput(Source):
    """One subscription, and what of it is read; see :class:`ReadFromPubSub`."""

    bus: ClassVar[str] = "Pub/Sub"

    address: PubSubAddress  # the subscription
    name: str = ""  # of the stream, in the topic column; "": the subscription's
    timestamp_attribute: str | None = None  # with a record's time (epoch ms or RFC 3339); None: the publish time
    # Messages published at or after this time (ms since the epoch) are left; the read ends when it is past and
    # ``quiet_s`` seconds brought no other. None: read forever.
    until_ms: int | None = None
    quiet_s: float = 30.0
    pull: PullSettings = PullSettings()
    blocks: BlockSettings = BlockSettings()  # a bundle also ends when the service waits for acknowledgements

    def read(self) -> ReadFromPubSub:
        return ReadFromPubSub(self)

    def describe(self) -> str:
        until, quiet = self.until_ms, self.quiet_s
        end = "" if until is None else f" until {np.datetime64(until, 'ms')}Z and then {quiet:g} s of quiet"
        return f"reading subscription {self.address}{end}"

    @property
    def topic(self) -> str:
        """In the blocks' topic column."""
        return self.name or self.address.topic

    @property
    def live(self) -> bool:
        return self.until_ms is None

    @property
    def keeps_position(self) -> bool:
        return self.pull.acknowledge

    @property
    def revision_schema(self) -> NamedSchema:
        return client.revision_schema

    def share(self, number: int, count: int) -> PubSubInput:
        return self  # the service divides a subscription among all who read it

    def feed(self, checks: Checks) -> PubSubAddress | None:
        return checks.ask(self.address.place, f"the topic of {self.address}", partial(client.topic_of, self.address))

    def message_ids(self, checks: Checks, before_us: bool) -> MessageIds:
        acknowledged_s = unacknowledged_s = self.pull.dedupe_s
        if not before_us:
            kept = partial(client.retention_s, self.address)
            asked = checks.ask(self.address.place, f"how long {self.address} keeps messages", kept)
            unacknowledged_s = asked or client.LONGEST_RETENTION_S
        return MessageIds(self.address.topic, self.topic, unacknowledged_s, acknowledged_s)

    def check_beside(self, checks: Checks, others: Collection[str], where: str) -> None:
        """Refuses a second subscription of a topic: each gets all messages, and each row would be there twice."""
        read = self.address
        twins = [PubSubAddress(read.project, name) for name in sorted({*others} - {read.topic})]
        topic = self.feed(checks) if twins else None
        for other in twins if topic else []:
            try:
                others_topic = replace(self, address=other).feed(checks)
            except UserError:  # no subscription at all, or one that this account may not see
                continue
            if others_topic == topic:
                raise UserError(
                    f"{where}: holds what subscription {other} got of {topic}, and {read} gets the same messages; "
                    f"go on with --input {other}, or choose another folder"
                )

    def check_selection(self, flag: str) -> None:
        """Refuses some of a subscription's messages, for it hands out the others and loses them.

        One that the job has for itself, of a topic, may.
        """
        if self.pull.acknowledge and self.address.topic == self.topic:
            raise UserError(
                f"{flag}: dead letters of other reasons would leave {self.address} with those; leave {flag} out, or "
                "name the topic as --input and a subscription made for this with --group_id"
            )

    def nothing_left(self) -> str:
        return (
            f"nothing is left on {self.address}; --from TIME takes it back to a time, where it or its topic keeps "
            "acknowledged messages"
        )


class ReadFromPubSub(beam.PTransform):
    """Reads a subscription as raw blocks (``beam_jobs.block``), at least once, in no order but that of ordering keys.

    The columns: topic is the stream's name, partition 0, offset the message id as a number (``message_numbers``),
    timestamp the publish time or an attribute's, key the ordering key, headers the attributes. Messages are
    acknowledged when their bundle is final. A message that comes again within ``pull.dedupe_s`` is dropped. On Dataflow
    it is Beam's ReadFromPubSub that reads, and of the settings only the address, the name, the timestamp attribute and
    the rows of a block have an effect.
    """

    def __init__(self, wanted: PubSubInput) -> None:
        super().__init__()
        self._wanted = wanted

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection[pa.RecordBatch]:
        wanted = self._wanted
        if target_of(pbegin.pipeline.options).describe().reads_pubsub:
            if wanted.until_ms is not None:
                raise UserError(f"{wanted.address}: Dataflow reads Pub/Sub without an end; leave --until out")
            to_blocks = _ToBlocks(wanted.topic, wanted.timestamp_attribute, wanted.blocks.block_rows)
            return (
                pbegin
                | "Read"
                >> beam_pubsub.ReadFromPubSub(
                    subscription=wanted.address.subscription_path,
                    with_attributes=True,
                    timestamp_attribute=wanted.timestamp_attribute,
                )
                | "ToBlocks" >> beam.ParDo(to_blocks).with_output_types(Block)
            )
        source = PubSubSource(
            wanted.address,
            wanted.topic,
            wanted.until_ms,
            wanted.quiet_s,
            wanted.timestamp_attribute,
            wanted.pull,
            wanted.blocks,
        )
        return pbegin | "Read" >> read_blocks(source, wanted.live, wanted.blocks)


@dataclass(frozen=True)
class PubSubOutput(Sink):
    """One topic that is written to."""

    address: PubSubAddress

    def write(self, settings: WriteSettings = WriteSettings()) -> WriteToPubSub:
        return WriteToPubSub(self.address, settings)

    def check(self, timeout_s: float) -> None:
        client.check_topic(self.address)

    def create(self) -> None:
        client.ensure_topic(self.address)


class WriteToPubSub(beam.PTransform):
    """Writes each row of each block as one message; a bundle ends when the service has all of them.

    Blocks have the columns ``key`` and ``value`` (binary, nullable) and may have ``headers`` (``block.HEADERS_TYPE``)
    and ``timestamp`` (timestamp[ms]); what a message can't say plainly goes into attributes (``messages.py``). A
    service that is unavailable is waited for; any other failure fails the bundle. With ``settings.ordered`` keys become
    ordering keys, and their order is kept: at the price of a request a key; else keys are an attribute. On Dataflow
    they always are.
    """

    def __init__(self, address: PubSubAddress, settings: WriteSettings = WriteSettings()) -> None:
        super().__init__()
        self._address = address
        self._write = PublishBlocks(address, settings)

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
