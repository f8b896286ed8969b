"""Windows by two keys: rows with the windows of the first go to a topic whose records have the second as their key.

Records of that topic are rows, or marks: how far each partition of the first topic has been read. Behind the rows of a
block come the marks of its partitions, in every partition of the second topic, from one producer that leaves no gap. So
a partition of it that has a row has before it all rows of the same source that go there and came before: each start of
the job writes from a committed offset on, before which all is acknowledged, and writes them in their order.

Labels that come on a topic of their own are rows, too. There its partitions are numbered on behind those of the events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs import dead_letters, metrics
from beam_jobs.block import Block, Stretch, millis_of, source_of, stretch_of, take
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.errors import RowErrors
from beam_jobs.io.source import Log
from beam_jobs.isolate import Isolate
from beam_jobs.origin import origin, origin_headers
from beam_jobs.preprocessing.preprocessor import Prepared, Preprocessor
from beam_jobs.preprocessing.stages import FARTHEST_MS, QueryHistory
from beam_jobs.preprocessing.threads import one_thread
from beam_jobs.preprocessing.windows.merge import MOST_RECORDS, NEVER, Mark
from beam_jobs.preprocessing.windows.order import OFFSET, ORDER, PARTITION, RECORD_TIME
from beam_jobs.steps.decode import DecodeEvents
from beam_jobs.steps.windows import PreprocessWindows, WindowSettings

_SCHEMA = pa.schema(
    [
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field("timestamp", pa.timestamp("ms", "UTC")),
        pa.field("partition", pa.int32()),
    ]
)
_BY_KEY = -1  # the producer chooses the partition
_EARLIEST_MS, _LATEST_MS = 1, 1 << 51  # what a record of the topic may have as its time


class ToSecondKey(PreprocessWindows):
    """Raw blocks to records of the second key's topic.

    Args:
      partitions: of the second topic.
      carry: Avro types of fields that go along as they are, by name.
      apart: labels come on a topic of their own.
      others: as PreprocessWindows.
    """

    def __init__(
        self,
        preprocessor: Preprocessor,
        job: str,
        decode: DecodeEvents,
        log: Log,
        settings: WindowSettings,
        partitions: int,
        carry: Mapping[str, Any],
        apart: bool = False,
    ) -> None:
        super().__init__(preprocessor, job, decode, log, settings)
        self._partitions = partitions
        self._apart = apart
        self._carried = dict(carry)

    def setup(self) -> None:
        self._legs = self._preprocessor.legs(self._carried, self._apart)
        super().setup()
        self._windows = [*self._legs.windows, ORDER]  # columns that histories add
        self._encoder = AvroEncoder(self._legs.schema, self._legs.schema_id)

    def process(self, raw: Block) -> Iterator[Block | beam.pvalue.TaggedOutput]:
        stretch, clocks = stretch_of(raw), dict[int, int]()
        for decoded in self._decode.process(raw) if raw.num_rows else ():
            if isinstance(decoded, beam.pvalue.TaggedOutput):
                yield decoded
                continue
            advanced = self._advanced(decoded)
            yield from self._left_out(decoded, advanced.refused, advanced.filtered)
            rows = advanced.rows
            if rows is not None and rows.num_rows:
                clocks = _newest(rows)
                yield self._records(rows, decoded, advanced.places)
                metrics.inc(metrics.REPARTITIONED, rows.num_rows)
        if stretch is not None:
            yield marks(stretch, clocks, self._partitions)

    def _new_history(self) -> QueryHistory:
        return self._legs.before()

    def _records(self, rows: Block, events: Block, places: NDArray[np.int64]) -> Block:
        carried = [name for name in self._carried if name in events.schema.names]
        if carried:
            more = take(events.select(carried), places)
            names = [*rows.schema.names, *(f"carry:{name}" for name in carried)]
            rows = pa.RecordBatch.from_arrays([*rows.columns, *more.columns], names=names)
        keys, shipped = self._legs.ship(rows)
        records = _records(keys, self._encoder.encode(shipped), rows)
        source = source_of(events)
        if source.column("headers").null_count == source.num_rows:
            return records
        return records.append_column("headers", origin_headers(origin(take(events, places))))


class LabelsToSecondKey(beam.DoFn):
    """Raw blocks of the labels' topic to records of the second key's topic.

    Args:
      decode: of the fields that labels come with.
      events: partitions of the events' topic.
      partitions, carry: as ToSecondKey.
    """

    def __init__(
        self,
        preprocessor: Preprocessor,
        job: str,
        decode: DecodeEvents,
        events: int,
        partitions: int,
        carry: Mapping[str, Any],
    ) -> None:
        self._preprocessor = preprocessor
        self._job = job
        self._decode = decode
        self._events = events
        self._partitions = partitions
        self._carried = dict(carry)

    def setup(self) -> None:
        one_thread()
        self._preprocessor.check_secrets()
        self._preprocessor.warm_up()
        self._decode.setup()
        self._legs = self._preprocessor.legs(self._carried, apart=True)
        labelled = self._preprocessor.labelled(self._legs)
        self._label = next(field.name for field in labelled.inputs if field.label)
        columns, prepare = [*labelled.input_columns, PARTITION, OFFSET, RECORD_TIME], labelled.prepare
        self._prepare: Isolate[Prepared] = Isolate(
            lambda events: prepare(events.select(columns)), personal=labelled.personal
        )
        self._encoder = AvroEncoder(self._legs.schema, self._legs.schema_id)

    def process(self, raw: Block) -> Iterator[Block | beam.pvalue.TaggedOutput]:
        stretch, clocks = stretch_of(raw), dict[int, int]()
        for decoded in self._decode.process(raw) if raw.num_rows else ():
            if isinstance(decoded, beam.pvalue.TaggedOutput):
                yield decoded
                continue
            parts, bad = self._prepare(decoded)
            for errors, at in [(bad, None), *((part.result.errors, part.rows) for part in parts)]:
                if len(errors):
                    letters = errors if at is None else RowErrors(at[errors.rows], errors.reasons, errors.errors)
                    yield dead_letters.refused(source_of(decoded), letters, "preprocess", self._job)
            metrics.inc(metrics.RECORDS_FILTERED, sum(part.result.filtered for part in parts))
            for part in parts:
                rows = self._placed(part.result.rows)
                metrics.inc(metrics.RECORDS_FILTERED, part.result.rows.num_rows - rows.num_rows)
                if rows.num_rows:
                    clocks |= {p: max(clock, clocks.get(p, clock)) for p, clock in _newest(rows).items()}
                    keys, shipped = self._legs.ship_labels(rows)
                    yield _records(keys, self._encoder.encode(shipped), rows)
                    metrics.inc(metrics.REPARTITIONED, rows.num_rows)
        if stretch is not None:
            spans = {p + self._events: span for p, span in stretch.partitions.items()}
            idle = frozenset(p + self._events for p in stretch.idle)
            yield marks(Stretch(spans, stretch.topic_id, idle), clocks, self._partitions)

    def _placed(self, rows: Block) -> Block:
        """The rows that have a label, with their places among all rows: before the events of their millisecond."""
        rows = rows.filter(rows.column(self._label).is_valid())
        recorded = np.clip(millis_of(rows.column(RECORD_TIME)), -FARTHEST_MS, FARTHEST_MS)
        age = recorded - millis_of(rows.column(self._preprocessor.event_time))
        metrics.inc(metrics.LATE_LABELS, int((age > self._preprocessor.lateness.label_ms).sum()))
        partitions = rows.column(PARTITION).to_numpy() + np.int32(self._events)
        rows = rows.set_column(rows.schema.get_field_index(PARTITION), PARTITION, pa.array(partitions))
        return rows.append_column(ORDER, pa.array(recorded * 1000 - 1))


def marks(stretch: Stretch, clocks: Mapping[int, int], partitions: int) -> Block:
    """The marks of a stretch, a record for each of ``partitions``: how far it goes, and what has nothing left.

    Args:
      clocks: of partitions of the stretch, microseconds; of others nothing new is known.
    """
    said = [(p, end, clocks.get(p, NEVER), p in stretch.idle) for p, (_, end) in stretch.partitions.items()]
    said += [(p, 0, NEVER, True) for p in stretch.idle - stretch.partitions.keys()]
    return _marks(np.array(said, "<i8").reshape(-1, 4), partitions)


def begun(sources: int, partitions: int, idle: bool) -> Block:
    """The marks of a job that starts to read ``sources`` partitions, or, ``idle``, that has read them to their ends."""
    said = [(p, 0, NEVER, idle) for p in range(sources)]
    return _marks(np.array(said, "<i8"), partitions)


def _marks(said: NDArray[np.int64], partitions: int) -> Block:
    n = partitions if len(said) else 0
    times = _time(np.full(n, said[:, 2].max(initial=NEVER)))
    return pa.RecordBatch.from_arrays(
        [pa.nulls(n, pa.binary()), pa.array([said.tobytes()] * n, pa.binary()), times, pa.array(range(n), pa.int32())],
        schema=_SCHEMA,
    )


def _records(keys: pa.Array, values: pa.Array, rows: Block) -> Block:
    """Records that have their row's clock as their time."""
    times = _time(rows.column(ORDER).to_numpy())
    partitions = pa.array(np.full(rows.num_rows, _BY_KEY, np.int32))
    return pa.RecordBatch.from_arrays([keys.cast(pa.binary()), values, times, partitions], schema=_SCHEMA)


def read_marks(offsets: NDArray[np.int64], values: Sequence[bytes], sources: int) -> list[Mark]:
    """The marks that records without a key are; what is none says nothing."""
    found = []
    for offset, value in zip(offsets.tolist(), values, strict=True):
        if value and len(value) % 32 == 0:
            said = np.frombuffer(value, "<i8").reshape(-1, 4)
            if (placed(said[:, 0], said[:, 1], said[:, 2], sources)).all():
                found.append(Mark(offset, said))
    return found


def placed(
    partitions: NDArray[np.int64], offsets: NDArray[np.int64], clocks: NDArray[np.int64], sources: int
) -> NDArray[np.bool_]:
    """Which places are such that a row or a mark may have."""
    there = (partitions >= 0) & (partitions < sources) & (offsets >= 0) & (offsets < MOST_RECORDS)
    return there & (clocks >= NEVER) & (clocks <= -NEVER)


def _newest(rows: Block) -> dict[int, int]:
    """Partition -> its clock, microseconds."""
    partitions, clocks = rows.column(PARTITION).to_numpy(), rows.column(ORDER).to_numpy()
    return {int(p): int(clocks[partitions == p].max()) for p in np.unique(partitions)}


def _time(clocks: NDArray[np.int64]) -> pa.Array:
    """Clocks as times of records."""
    return pa.array(np.clip(clocks // 1000, _EARLIEST_MS, _LATEST_MS)).cast(pa.timestamp("ms", "UTC"))
