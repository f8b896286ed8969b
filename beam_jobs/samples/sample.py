"""A sample of events taken through a use case's schema and SQL, as a job would: what passes, and what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.block import with_source
from beam_jobs.codec.decoded import Decoded
from beam_jobs.codec.events import EventDecoder
from beam_jobs.errors import RowErrors
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.client import KafkaTransport, check_topic
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.preprocessing.stages import Unordered
from beam_jobs.preprocessing.windows.order import by_log
from beam_jobs.samples.topic import newest, read_topic
from beam_jobs.use_case import UseCase
from model.training.data import local_copy, rows_of, source
from schemas.writers import for_registry

MAX_EXAMPLES = 3  # of a reason
_FEW_VALUES = 2


class Part(NamedTuple):
    """Some of the rows, decoded."""

    decoded: Decoded
    preprocessed: bool  # features of an archive, which the SQL has seen already


@dataclass(frozen=True)
class Refused:
    """Rows that are refused for one reason."""

    stage: str  # decode or preprocess
    reason: str
    count: int
    examples: Sequence[str]  # sentences, MAX_EXAMPLES at most; nothing personal in them


@dataclass(frozen=True)
class Feature:
    """A feature of the rows that pass."""

    name: str
    unit: str | None
    least: float
    mean: float
    most: float
    spread: float  # standard deviation
    values: int  # different ones

    @property
    def note(self) -> str:
        """What a person should know of it; "": nothing."""
        if self.values == 1:
            return "one value: it says nothing"
        return "two values: a switch" if self.values == _FEW_VALUES else ""


@dataclass(frozen=True)
class Checked:
    """What came of a sample."""

    rows: int
    filtered: int  # by the WHERE
    passed: int
    refused: Sequence[Refused]  # most frequent first
    features: Sequence[Feature]  # none where no row passes
    keys: int
    unordered: Sequence[str]  # what to say of rows that windows did not see in order
    first_ms: int | None  # event times of what passes
    last_ms: int | None

    @property
    def refused_share(self) -> float:
        """Of the rows, 0 to 1."""
        return sum(one.count for one in self.refused) / self.rows if self.rows else 0.0


@dataclass
class Sample:
    """Takes parts, and sums up."""

    use_case: UseCase
    _rows: int = 0
    _filtered: int = 0
    _counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    _examples: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    _passed: list[pa.RecordBatch] = field(default_factory=list)
    _waiting: list[pa.RecordBatch] = field(default_factory=list)  # of an SQL with windows, which need an order

    def add(self, part: Part) -> None:
        """Takes rows through the SQL."""
        decoded, preprocessor = part.decoded, self.use_case.preprocessor()
        self._rows += decoded.rows.num_rows + len(decoded.errors)
        self._refuse("decode", decoded.errors)
        if part.preprocessed:
            self._passed.append(
                decoded.rows.select([*preprocessor.features, preprocessor.key, preprocessor.event_time])
            )
        elif preprocessor.windows:
            self._waiting.append(decoded.rows)
        else:
            self._apply(decoded.rows)

    def checked(self) -> Checked:
        """The sum, after the last part."""
        preprocessor, unordered = self.use_case.preprocessor(), Unordered()
        for blocks in by_log(self._waiting, self.use_case.event_time):
            history = preprocessor.history()
            for events in blocks:
                result = preprocessor.apply(events, history)
                self._take(result.rows, result.filtered, result.errors)
            if history is not None:
                unordered.add(history)
        self._waiting = []
        rows = pa.Table.from_batches(self._passed) if self._passed else None
        if rows is None or not rows.num_rows:
            return Checked(self._rows, self._filtered, 0, self._told(), (), 0, unordered.phrases(), None, None)
        times = pc.min_max(rows[preprocessor.event_time].cast(pa.int64())).as_py()
        return Checked(
            rows=self._rows,
            filtered=self._filtered,
            passed=rows.num_rows,
            refused=self._told(),
            features=[self._feature(name, rows[name], preprocessor.units) for name in preprocessor.features],
            keys=pc.count_distinct(rows[preprocessor.key]).as_py(),
            unordered=unordered.phrases(),
            first_ms=times["min"],
            last_ms=times["max"],
        )

    def _apply(self, events: pa.RecordBatch) -> None:
        if events.num_rows:
            preprocessor = self.use_case.preprocessor()
            result = preprocessor.apply(events.select(list(preprocessor.input_columns)))
            self._take(result.rows, result.filtered, result.errors)

    def _take(self, rows: pa.RecordBatch, filtered: int, errors: RowErrors) -> None:
        preprocessor = self.use_case.preprocessor()
        self._filtered += filtered
        self._refuse("preprocess", errors)
        self._passed.append(rows.select([*preprocessor.features, preprocessor.key, preprocessor.event_time]))

    def _refuse(self, stage: str, errors: RowErrors) -> None:
        for reason, sentence in zip(errors.reasons, errors.errors, strict=True):
            self._counts[stage, reason] += 1
            known = self._examples.setdefault((stage, reason), [])
            if len(known) < MAX_EXAMPLES and sentence not in known:
                known.append(sentence)

    def _told(self) -> list[Refused]:
        return [Refused(*where, n, self._examples[where]) for where, n in self._counts.most_common()]

    @staticmethod
    def _feature(name: str, values: pa.ChunkedArray, units: Mapping[str, str | None]) -> Feature:
        numbers = values.to_numpy().astype(np.float64)
        return Feature(
            name,
            units.get(name),
            float(numbers.min()),
            float(numbers.mean()),
            float(numbers.max()),
            float(numbers.std()),
            pc.count_distinct(values).as_py(),
        )


def from_topic(
    use_case: UseCase, address: KafkaAddress, config: KafkaConfig, registry: str | None, rows: int
) -> Iterator[Part]:
    """The newest records of a topic.

    Raises:
      UserError: the topic, or the registry, can't be read.
    """
    check_topic(address, config)
    writers = for_registry(registry, use_case.schema, dict(config.settings))
    writers.check()
    decoder = EventDecoder(use_case.schema, writers.writer_schema, use_case.preprocessor().input_columns)
    transport = KafkaTransport(address, config, fetch="client")
    left = rows
    for block in read_topic(transport, newest(transport, rows)):
        if block is None:
            continue
        block = block.filter(pc.is_valid(block.column("value"))).slice(0, left)  # tombstones are no events
        left -= block.num_rows
        decoded = decoder.decode(block.column("value"), block.column("headers"))
        if use_case.preprocessor().windows:  # they need the order of the log
            good = decoded.errors.good_rows(block.num_rows)
            sourced = with_source(decoded.rows, block, good).drop_columns(["_key", "_value", "_headers"])
            decoded = Decoded(sourced, decoded.errors)
        yield Part(decoded, False)
        if not left:
            return


def from_files(use_case: UseCase, pattern: str, rows: int, scratch: Path) -> Iterator[Part]:
    """The first rows of an archive, or of files as training reads them.

    Raises:
      UserError: there are none, or one can't be read.
    """
    left = rows
    for path in source(pattern).paths:
        with local_copy(path, scratch) as file:
            for decoded, archived in rows_of(file, use_case):
                decoded = Decoded(decoded.rows.slice(0, left), decoded.errors)
                left -= decoded.rows.num_rows + len(decoded.errors)
                yield Part(decoded, archived)
                if left <= 0:
                    return
