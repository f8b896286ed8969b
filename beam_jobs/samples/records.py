"""The events that a sample is made of: read once, decoded as often as the use case changes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow.compute as pc

from beam_jobs.block import SOURCE_PREFIX, Block, millis_of, with_source
from beam_jobs.codec.decoded import Decoded
from beam_jobs.codec.events import EventDecoder
from beam_jobs.errors import UserError
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.client import KafkaTransport, check_topic, topic_settings
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.topic import KafkaLog
from beam_jobs.preprocessing.preprocessor import Preprocessor
from beam_jobs.preprocessing.query.intervals import to_text
from beam_jobs.preprocessing.stages import FARTHEST_MS
from beam_jobs.samples.topic import newest, read_topic
from beam_jobs.storage.files import download, is_local, patiently
from beam_jobs.use_case import UseCase
from model.training.data import rows_of, source
from schemas.writers import for_registry

MAX_BYTES = 1_000_000_000  # of records that are kept; a sample is for looking at
_UNUSED = ["_key", "_value", "_headers"]


class Part(NamedTuple):
    """Some of the rows, decoded."""

    decoded: Decoded
    preprocessed: bool = False  # features of an archive, which the SQL has seen already
    before: bool = False  # records before the sample, for windows alone


class Records(Protocol):
    """Where a sample comes from."""

    def parts(self, use_case: UseCase) -> Iterator[Part]:
        """All of it, the records before the sample first.

        Raises:
          UserError: it can't be read.
        """

    def shortcomings(self) -> list[str]:
        """What windows could not know of the records before the sample last time, a phrase each."""


class TopicRecords:
    """The newest records of a topic, and as many before them as windows reach; without a group, so without a commit.

    Args:
      rows: of the newest, about as many of each partition.
      history: records before them at most, of all partitions.

    Raises:
      UserError: the topic can't be read.
    """

    def __init__(self, address: KafkaAddress, config: KafkaConfig, registry: str | None, rows: int, history: int):
        check_topic(address, config)
        self._transport = KafkaTransport(address, config, fetch="client")
        self._address, self._config, self._registry, self._rows, self._history = (
            address,
            config,
            registry,
            rows,
            history,
        )
        start = newest(self._transport, rows)
        self._starts = dict(start.offsets)
        newest_blocks = (block for block in read_topic(self._transport, start) if block is not None)
        self._newest: list[Block] = list(self._within_bounds(newest_blocks, 0))
        self._before: list[Block] = []
        self._begins: dict[int, int] = {}  # partition -> offset from which on the records before are kept
        self._short: list[str] = []

    def parts(self, use_case: UseCase) -> Iterator[Part]:
        preprocessor = use_case.preprocessor()
        writers = for_registry(self._registry, use_case.schema, dict(self._config.settings))
        writers.check()
        guids = writers.guid_schema if writers.url else None
        columns = preprocessor.input_columns
        decoder = EventDecoder(use_case.schema, writers.writer_schema, columns, guid_schema=guids)
        parts, left = [], self._rows
        for block in self._newest:
            events = block.filter(pc.is_valid(block.column("value"))).slice(0, left)  # tombstones are no events
            left -= events.num_rows
            parts.append(Part(_decoded(decoder, events)))
        self._short = []
        if preprocessor.windows:
            self._read_before(preprocessor, parts)
            for block in self._before:
                yield Part(_decoded(decoder, block), before=True)
        yield from parts

    def shortcomings(self) -> list[str]:
        return self._short

    def _read_before(self, preprocessor: Preprocessor, parts: list[Part]) -> None:
        """Reads as a job does that begins with the sample, unless what is kept goes back as far."""
        history = preprocessor.history()
        assert history is not None
        reach_ms = -(-history.reach_us // 1000)
        log = KafkaLog(self._transport)
        begins = log.begin({p: at - reach_ms for p, at in _first_times(preprocessor, parts).items()})
        wanted = {p: max(begin.offset, 0) for p, begin in begins.items()}
        allowed = self._history // max(1, len(wanted))
        spans = {p: (max(at, self._starts[p] - allowed), self._starts[p]) for p, at in wanted.items()}
        policy = topic_settings(self._address, self._config).get("cleanup.policy", "")
        if "compact" in policy:
            self._short.append(
                f"the topic is compacted (cleanup.policy={policy}): it loses all but the last record of a key, which "
                "windows then lack, and a job refuses such a topic"
            )
        for p, begin in begins.items():
            why = ""
            if begin.short and begin.offset < self._starts[p]:
                why = f"its records before offset {begin.offset:,} are deleted"
            if spans[p][0] > wanted[p]:
                why = f"of the {self._starts[p] - wanted[p]:,} before the sample {allowed:,} were read (--history)"
            if why:
                reach = to_text(history.reach_us)
                self._short.append(
                    f"partition {p}: {why}, and windows reach back {reach}; its first rows may lack what was before"
                )
        if any(start < self._begins.get(p, self._starts[p]) for p, (start, _) in spans.items()):
            self._before = list(self._within_bounds(log.read(spans), sum(block.nbytes for block in self._newest)))
            self._begins = {p: start for p, (start, _) in spans.items()}

    def _within_bounds(self, blocks: Iterator[Block], kept: int) -> Iterator[Block]:
        """The blocks, as long as they fit beside ``kept`` bytes."""
        for block in blocks:
            kept += block.nbytes
            if kept > MAX_BYTES:
                raise UserError(
                    f"{self._transport}: the records take more than {MAX_BYTES // 1_000_000:,} MB; ask for less with "
                    "--rows, or with --history for what windows need of those before"
                )
            yield block


class FileRecords:
    """The first rows of an archive, or of files as training reads them.

    Args:
      pattern: a file, a folder or a glob, here or on ``gs://``.
      scratch: folder for copies of files that are not local; they are kept.

    Raises:
      UserError: there are none.
    """

    def __init__(self, pattern: str, rows: int, scratch: Path):
        try:
            self._paths = source(pattern).paths
        except UserError as error:
            raise _as_input(error) from error
        self._rows, self._scratch = rows, scratch
        self._copies: dict[str, Path] = {}
        self._windows = False

    def parts(self, use_case: UseCase) -> Iterator[Part]:
        self._windows = bool(use_case.preprocessor().windows)
        left = self._rows
        for path in self._paths:
            try:
                for decoded, archived in rows_of(self._local(path), use_case):
                    decoded = Decoded(decoded.rows.slice(0, left), decoded.errors)
                    left -= decoded.rows.num_rows + len(decoded.errors)
                    yield Part(decoded, archived)
                    if left <= 0:
                        return
            except UserError as error:
                raise _as_input(error) from error

    def shortcomings(self) -> list[str]:
        return ["nothing is known of rows before the first one looked at"] if self._windows else []

    def _local(self, path: str) -> Path:
        if is_local(path):
            return Path(path)
        if path not in self._copies:
            folder = self._scratch / str(len(self._copies))  # files of two folders may have one name
            folder.mkdir()
            copy = folder / path.rpartition("/")[2]
            patiently(partial(download, path, copy))
            self._copies[path] = copy
        return self._copies[path]


def records_of(
    given: str, rows: int, history: int, registry: str | None, kafka_config: str | None, scratch: Path
) -> Records:
    """What an address names.

    Raises:
      UserError: it can't be read, or not without taking messages away from others.
    """
    if given.startswith("kafka://"):
        config = KafkaConfig.from_file(kafka_config)
        return TopicRecords(KafkaAddress.parse(given), config, registry, rows, history)
    if given.startswith("pubsub://"):
        raise UserError(
            f"--input {given}: preview reads topics of Kafka and files: messages it took from a subscription would "
            "be lost to others; archive some (highbeam archive --raw), and preview those"
        )
    return FileRecords(given, rows, scratch)


def _as_input(error: UserError) -> UserError:
    """What training says of --data, of --input."""
    return UserError(str(error).replace("--data ", "--input ", 1))


def _decoded(decoder: EventDecoder, block: Block) -> Decoded:
    """The events of raw records, which say where they stood in the log."""
    decoded = decoder.decode(block.column("value"), block.column("headers"))
    good = decoded.errors.good_rows(block.num_rows)
    return Decoded(with_source(decoded.rows, block, good).drop_columns(_UNUSED), decoded.errors)


def _first_times(preprocessor: Preprocessor, parts: list[Part]) -> dict[int, int]:
    """Partition -> time of its first record that windows take in, milliseconds; where there is one."""
    found: dict[int, int] = {}
    for part in parts:
        rows = preprocessor.prepare(part.decoded.rows).rows
        partitions, first = np.unique(rows.column(f"{SOURCE_PREFIX}partition").to_numpy(), return_index=True)
        times = np.clip(millis_of(rows.column(f"{SOURCE_PREFIX}timestamp")), -FARTHEST_MS, FARTHEST_MS)
        for p, row in zip(partitions.tolist(), first.tolist(), strict=True):
            found.setdefault(p, int(times[row]))
    return found
