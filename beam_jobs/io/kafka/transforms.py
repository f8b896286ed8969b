"""Kafka in and out of a pipeline, a block at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import apache_beam as beam
import pyarrow as pa

from beam_jobs.block import MAX_BLOCK_ROWS
from beam_jobs.errors import UserError
from beam_jobs.io.address import KafkaAddress
from beam_jobs.io.block_reader import REPLAY_BLOCKS_PER_BUNDLE, linger_s, read_blocks
from beam_jobs.io.kafka.client import FetchPath, KafkaTransport, check_group, check_topic, ensure_topic
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.java import ReadWithJava
from beam_jobs.io.kafka.sink import WriteBlocks
from beam_jobs.io.kafka.source import KafkaSource
from beam_jobs.io.kafka.start import OnLost
from beam_jobs.io.position import EARLIEST, OffsetSpec
from beam_jobs.io.writing import OnTooLarge
from beam_jobs.target import target_of

__all__ = [
    "ReadFromKafka",
    "WriteToKafka",
    "OffsetSpec",
    "check_group",
    "check_topic",
    "ensure_topic",
]


class ReadFromKafka(beam.PTransform):
    """Reads one topic as raw blocks (``beam_jobs.block``), at least once, in offset order within each partition.

    Offsets are committed to ``group_id`` when a bundle is final. With ``until`` the read is bounded: the end of every
    partition is decided when the job starts.

    Args:
      address, config: the topic and the client's settings.
      group_id: where offsets are committed, and looked up first at a new start; None: neither.
      start: where to start where the group has no offset.
      until: the first record not read; None: read forever.
      fetch: "wire" (Kafka's protocol read by the source), "client" (confluent-kafka's public API) or "auto" ("wire"
        where it understands the settings).
      share: (i, n): only the partitions p with p % n == i; for a job of n processes.
      shards: readers that share the partitions, at most one a partition; more than one only where nothing downstream
        needs windows. On Dataflow it is 32.
      block_rows: rows of a block at most.
      max_blocks_per_bundle: None: 1 for a live read (latency), 40 for a bounded one (throughput), and on Dataflow.
      max_bundle_s: a bundle ends at the latest after this many seconds.
      max_latency_s: what a live read aims at from a record's timestamp to its output, in seconds: blocks wait less for
        more records, and are cut, as the pipeline needs it; None: blocks wait 20 ms. Without effect on a bounded read.
      poll_interval_s: pause of a reader that found nothing, in seconds.
      out_of_order_s: how far, in seconds, a record's timestamp may lie behind the newest of its partition without
        being late.
      idle_s: a partition read to its end that stays quiet for this many seconds no longer holds the watermark.
      gather_s: a bundle that has records stays open for this long when no more come, in seconds; blocks then wait up to
        half a second to fill. For sinks that make a file of a bundle.
      discover_s: how often new partitions are looked for, in seconds.
      on_lost: what to do where retention has passed our offset: go on at "earliest" or "latest", with a warning that
        names the loss, or "fail".
      io: "native" is all that stands above; "java" is Beam's own ReadFromKafka, which heeds address, config, group_id,
        start and block_rows, has no end, and needs a runner that can run Java (``java.py``).
    """

    def __init__(
        self,
        address: KafkaAddress,
        config: KafkaConfig | None = None,
        group_id: str | None = None,
        start: OffsetSpec = EARLIEST,
        until: OffsetSpec | None = None,
        *,
        fetch: FetchPath = "auto",
        share: tuple[int, int] = (0, 1),
        shards: int = 1,
        block_rows: int = MAX_BLOCK_ROWS,
        max_blocks_per_bundle: int | None = None,
        max_bundle_s: float = 1.0,
        max_latency_s: float | None = None,
        poll_interval_s: float = 0.05,
        out_of_order_s: float = 10.0,
        idle_s: float = 2.0,
        gather_s: float = 0.0,
        discover_s: float = 10.0,
        on_lost: OnLost = "earliest",
        io: Literal["native", "java"] = "native",
    ) -> None:
        super().__init__()
        self._java = None
        if io == "java":
            if until is not None:
                raise UserError("--kafka_io java reads without an end; leave out --until, or --kafka_io")
            self._java = ReadWithJava(address, config or KafkaConfig(), group_id, start, block_rows)
        self._source = KafkaSource(
            KafkaTransport(address, config or KafkaConfig(), group_id, fetch),
            start,
            until,
            share=share,
            shards=shards,
            block_rows=block_rows,
            wait_s=poll_interval_s,
            max_latency_s=max_latency_s if until is None else None,
            out_of_order_s=out_of_order_s,
            idle_s=idle_s,
            gather_s=gather_s,
            linger_s=linger_s(gather_s),
            discover_s=discover_s,
            on_lost=on_lost,
        )
        self._bundles = (until is None, max_blocks_per_bundle, max_bundle_s, poll_interval_s)

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection[pa.RecordBatch]:
        if self._java is not None:
            return pbegin | "Java" >> self._java
        source, (live, blocks, *rest) = self._source, self._bundles
        traits = target_of(pbegin.pipeline.options).describe()
        if traits.readers > 1:
            source = replace(source, shards=traits.readers)
        if traits.stores_bundles:
            blocks = blocks or REPLAY_BLOCKS_PER_BUNDLE
        return pbegin | "Read" >> read_blocks(source, live, blocks, *rest)


class WriteToKafka(beam.PTransform):
    """Writes each row of each block as one record; a bundle ends when all its records are acknowledged.

    Blocks have the columns ``key`` and ``value`` (binary, nullable) and may have ``headers`` (``block.HEADERS_TYPE``),
    ``timestamp`` (timestamp[ms]) and ``partition`` (int32). The producer is idempotent. A cluster that is away is
    waited for; any other failed delivery fails the bundle, so that its input is read again and nothing is lost.

    Args:
      address, config: the topic and the client's settings.
      on_too_large: what to write instead of rows that exceed the topic's ``max.message.bytes``; picklable. Without
        it such a row fails the bundle with a ``UserError``.
      record_latency: adds ``now - element timestamp`` of each element, empty ones too, to the latency metric once the
        bundle is acknowledged.
      at_once: each block is acknowledged before the next is taken, not at the end of the bundle.
    """

    def __init__(
        self,
        address: KafkaAddress,
        config: KafkaConfig | None = None,
        *,
        on_too_large: OnTooLarge | None = None,
        record_latency: bool = False,
        at_once: bool = False,
    ) -> None:
        super().__init__()
        self._write = WriteBlocks(address, config or KafkaConfig(), on_too_large, record_latency, at_once)

    def expand(self, blocks: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[Any]:
        return blocks | "Write" >> beam.ParDo(self._write)
