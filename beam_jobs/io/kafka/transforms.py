"""Kafka in and out of a pipeline, a block at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import apache_beam as beam
import pyarrow as pa

from beam_jobs.errors import UserError
from beam_jobs.io.block_reader import REPLAY_BLOCKS_PER_BUNDLE, BlockSettings, read_blocks
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.client import FetchPath, KafkaTransport, check_topic, ensure_topic
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.java import ReadWithJava
from beam_jobs.io.kafka.sink import WriteBlocks
from beam_jobs.io.kafka.source import KafkaSource
from beam_jobs.io.kafka.start import OnLost
from beam_jobs.io.kafka.topic import KafkaLog, KafkaTopic
from beam_jobs.io.position import EARLIEST, OffsetSpec
from beam_jobs.io.sink import Sink, WriteSettings
from beam_jobs.io.source import Checks, Source
from beam_jobs.target import target_of


@dataclass(frozen=True)
class KafkaInput(Source):
    """One topic, and what of it is read; see :class:`ReadFromKafka`."""

    bus: ClassVar[str] = "Kafka"

    address: KafkaAddress
    config: KafkaConfig = KafkaConfig()  # the client's settings
    group_id: str | None = None  # where offsets are committed, and looked up first at a new start; None: neither
    start: OffsetSpec = EARLIEST  # where to start where the group has no offset
    until: OffsetSpec | None = None  # the first record not read; None: read forever
    # "wire" (Kafka's protocol read by the source), "client" (confluent-kafka's public API) or "auto" ("wire" where it
    # understands the settings).
    fetch: FetchPath = "auto"
    part: tuple[int, int] = (0, 1)  # (i, n): only the partitions p with p % n == i; for a job of n processes
    # Readers that share the partitions, at most one a partition; more than one only where nothing downstream needs
    # windows. On Dataflow it is 32.
    shards: int = 1
    blocks: BlockSettings = BlockSettings()  # on Dataflow live reads have bundles of 40 blocks as well
    discover_s: float = 10.0  # how often new partitions are looked for
    fixed: bool = False  # new ones end the job
    # How often a live read tells, by blocks without records, which partitions have nothing left to be read, in seconds.
    beat_s: float | None = None
    # Where retention has passed our offset: go on at "earliest" or "latest", with a warning that names the loss, or
    # "fail".
    on_lost: OnLost = "earliest"
    # "native" is all that stands above; "java" is Beam's own ReadFromKafka, which heeds address, config, group_id,
    # start and block_rows, has no end, and needs a runner that can run Java (``java.py``).
    io: Literal["native", "java"] = "native"

    def read(self) -> ReadFromKafka:
        return ReadFromKafka(self)

    def describe(self) -> str:
        end = "" if self.until is None else f" until {self.until}"
        where = f"where group {self.group_id} left off, or else from" if self.group_id else "from"
        return f"reading {self.address} {where} {self.start}{end}"

    @property
    def live(self) -> bool:
        return self.until is None

    @property
    def keeps_position(self) -> bool:
        return self.group_id is not None and self.io != "java"

    def share(self, number: int, count: int) -> KafkaInput:
        return replace(self, part=(number, count))

    def resumed(self) -> KafkaInput:
        return replace(self, start=EARLIEST)

    def keyed(self) -> KafkaInput:
        return replace(self, fixed=True)

    def log(self) -> KafkaLog | None:
        if self.io == "java":
            return None
        return KafkaLog(KafkaTransport(self.address, self.config, None, self.fetch))

    def stream_id(self, checks: Checks) -> KafkaTopic:
        find = partial(KafkaTopic.find, self.address, self.config)
        found = checks.ask(self.address.place, f"the id of {self.address.topic}", find)
        return found or KafkaTopic(self.address, self.config, None)

    def nothing_left(self) -> str:
        return (
            f"group {self.group_id} has read all that is on {self.address}; to read it again name another --group_id, "
            "and --from for a part of it"
        )


class ReadFromKafka(beam.PTransform):
    """Reads one topic as raw blocks (``beam_jobs.block``), at least once, in offset order within each partition.

    Offsets are committed to the group when a bundle is final. With ``until`` the read is bounded: the end of every
    partition is decided when the job starts.

    Raises:
      UserError: what Beam's Java reader can't do is asked of it.
    """

    def __init__(self, wanted: KafkaInput) -> None:
        super().__init__()
        self._wanted = wanted
        self._java = None
        if wanted.io == "java":
            if wanted.until is not None:
                raise UserError("--kafka_io java reads without an end; leave out --until, or --kafka_io")
            rows = wanted.blocks.block_rows
            self._java = ReadWithJava(wanted.address, wanted.config, wanted.group_id, wanted.start, rows)

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection[pa.RecordBatch]:
        if self._java is not None:
            return pbegin | "Java" >> self._java
        wanted, blocks, shards = self._wanted, self._wanted.blocks, self._wanted.shards
        traits = target_of(pbegin.pipeline.options).describe()
        if traits.readers > 1:
            shards = traits.readers
        if traits.stores_bundles:
            bundle = blocks.max_blocks_per_bundle or REPLAY_BLOCKS_PER_BUNDLE
            blocks = replace(blocks, max_blocks_per_bundle=bundle)
        source = KafkaSource(
            KafkaTransport(wanted.address, wanted.config, wanted.group_id, wanted.fetch),
            wanted.start,
            wanted.until,
            share=wanted.part,
            shards=shards,
            blocks=blocks,
            discover_s=wanted.discover_s,
            fixed=wanted.fixed,
            beat_s=wanted.beat_s if wanted.live else None,
            on_lost=wanted.on_lost,
        )
        return pbegin | "Read" >> read_blocks(source, wanted.live, blocks)


@dataclass(frozen=True)
class KafkaOutput(Sink):
    """One topic that is written to."""

    address: KafkaAddress
    config: KafkaConfig = KafkaConfig()  # the client's settings

    def write(self, settings: WriteSettings = WriteSettings()) -> WriteToKafka:
        return WriteToKafka(self.address, self.config, settings)

    def check(self, timeout_s: float) -> None:
        check_topic(self.address, self.config, write=True, timeout_s=timeout_s)

    def create(self) -> None:
        ensure_topic(self.address, self.config)


class WriteToKafka(beam.PTransform):
    """Writes each row of each block as one record; a bundle ends when all its records are acknowledged.

    Blocks have the columns ``key`` and ``value`` (binary, nullable) and may have ``headers`` (``block.HEADERS_TYPE``),
    ``timestamp`` (timestamp[ms]) and ``partition`` (int32). The producer is idempotent. A cluster that is away is
    waited for; any other failed delivery fails the bundle, so that its input is read again and nothing is lost.
    """

    def __init__(
        self, address: KafkaAddress, config: KafkaConfig = KafkaConfig(), settings: WriteSettings = WriteSettings()
    ) -> None:
        super().__init__()
        self._write = WriteBlocks(address, config, settings)

    def expand(self, blocks: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[Any]:
        return blocks | "Write" >> beam.ParDo(self._write)
