"""Windows by two keys: the rows that came through the topic of the second key, and their result.

As ``steps.windows``: what is known of a partition is a function of its log, held in this process, and made anew from
the log where it is not at hand. Rows that wait for others are part of it; they go out when their turn comes, though
their own offsets are committed by then, for a restart reads them again.

How far back: with T = (the clock before which rows have gone) - (reach of the windows), from the first record at or
after T on, for a record has its row's clock as its time; and from there further back until marks have told of each
partition of the first topic, so that what went when is known. Rows that wait have later clocks than those that went.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.transforms.window import TimestampedValue
from numpy.typing import NDArray

from beam_jobs import dead_letters, metrics
from beam_jobs.block import (
    NO_RECORDS,
    SOURCE_PREFIX,
    Block,
    millis_of,
    min_timestamp,
    raw_block,
    stretch_of,
    take,
    with_source,
)
from beam_jobs.codec.avro.decoder import AvroDecoder
from beam_jobs.errors import RowErrors, UserError
from beam_jobs.io.idle import IdleCache
from beam_jobs.io.source import Log
from beam_jobs.isolate import Isolate
from beam_jobs.preprocessing.checks import merge
from beam_jobs.preprocessing.preprocessor import Preprocessed, Preprocessor
from beam_jobs.preprocessing.stages import LABEL, QueryHistory
from beam_jobs.preprocessing.threads import one_thread
from beam_jobs.preprocessing.windows.merge import NEVER, Merge
from beam_jobs.preprocessing.windows.order import OFFSET, PARTITION, RECORD_TIME
from beam_jobs.steps.rebuild import Kept
from beam_jobs.steps.repartition import placed, read_marks
from beam_jobs.steps.windows import WindowSettings, advance, check_memory, finish
from beam_jobs.storage.snapshots import Arrays, Record

_LOGGER = logging.getLogger(__name__)

_HEADERS = SOURCE_PREFIX + "headers"
_MERGE = "merge/"  # names of arrays in a snapshot
_IDLE_S = 3600.0  # a partition that is quiet for so long, or has moved away, is forgotten
_FIRST_LOOK = 4096  # records before an offset, in which marks of all partitions are looked for
_FORGET_S = 300.0  # how often records that are done with are deleted
_SPARE_US = 3_600_000_000  # of time that is kept beyond what a rebuild needs
_FURTHER = 8  # times as many, where there are not


@dataclass
class _Known:
    """What a step knows of a partition."""

    step: str
    partition: int
    merge: Merge
    history: QueryHistory
    topic_id: str  # of the topic it is about
    next: int  # offset of the next record
    last: Record | None = None  # the newest one that was taken in, for snapshots
    since: float = field(default_factory=time.monotonic)  # the last snapshot, or the beginning
    forgotten_at: float = 0.0  # when records were last deleted, monotonic clock
    done: int = 0  # records before it were done with, and committed, by then

    def took(self, records: Block, end: int) -> None:
        """These records are taken in, all before ``end``."""
        self.next = end
        if records.num_rows:
            last = records.slice(records.num_rows - 1)
            self.last = Record(last.column("offset")[0].as_py(), int(millis_of(last.column("timestamp"))[0]))

    def held(self) -> Arrays:
        """All that is known."""
        return {**self.history.held(), **{_MERGE + name: array for name, array in self.merge.held().items()}}

    def park(self) -> None:
        """Waits for the next block."""
        HELD.park((self.step, self.partition), self)

    def check_memory(self, most_mb: float) -> None:
        """Counts what it holds, rows that wait included, as ``windows.check_memory`` does."""
        rows, size = self.history.rows + self.merge.rows, self.history.memory_bytes + self.merge.memory_bytes
        own = metrics.Held(rows, self.history.keys, size, self.merge.rows)
        check_memory(self.step, self.partition, own, most_mb)

    def close(self) -> None:
        metrics.STATE.holds(self.step, self.partition, None)


HELD: IdleCache[_Known] = IdleCache(_Known.close, _IDLE_S)
"""By step and partition, between two blocks."""


class BySecondKey(beam.DoFn):
    """Raw blocks of the second key's topic, as ``ToSecondKey`` writes it, to features blocks.

    Args:
      topic: that the rows came from in the first place.
      sources: its partitions.
      labels: partitions of the topic on which labels come; 0: they do not come apart.
      log: where records of the second topic are read again.
      carry: as ToSecondKey.
    """

    def __init__(
        self,
        preprocessor: Preprocessor,
        job: str,
        topic: str,
        sources: int,
        log: Log,
        settings: WindowSettings,
        carry: Mapping[str, Any],
        labels: int = 0,
    ) -> None:
        self._preprocessor = preprocessor
        self._job = job
        self._topic = topic
        self._events = sources
        self._labels = labels
        self._sources = sources + labels
        self._log = log
        self._settings = settings
        self._carried = dict(carry)
        self._name = uuid.uuid4().hex

    def setup(self) -> None:
        one_thread()
        self._legs = self._preprocessor.legs(self._carried, apart=self._labels > 0)
        self._behind = self._preprocessor.behind(self._legs)
        self._behind.warm_up()
        self._decoder = AvroDecoder(self._legs.schema, self._legs.writer_schema)
        folder = self._settings.snapshots
        made_by = self._behind.state_key() if folder else ""
        self._kept = Kept(folder, made_by, self._log, self._settings.snapshot_s)
        self._finish: Isolate[Preprocessed] = Isolate(self._behind.finish, personal=self._preprocessor.personal)

    def process(self, raw: Block) -> Iterator[Block | beam.pvalue.TaggedOutput]:
        stretch = stretch_of(raw)
        assert stretch is not None
        partitions = raw.column("partition").to_numpy()
        topic_id = stretch.topic_id
        for q, (start, end) in stretch.partitions.items():
            known = self._known_at(q, start, topic_id)
            records = raw if len(stretch.partitions) == 1 else raw.filter(pa.array(partitions == q))
            before = known.merge.repeated
            rows, refused = self._gone(known, records)
            (found,) = advance([(known.history, rows)])
            done = finish(self._finish, found.rows, np.arange(found.rows.num_rows))
            source = self._source(found.rows)
            for block, errors, at in [(records, refused, None), *((source, e, at) for e, at in done.refused)]:
                if len(errors):
                    letters = errors if at is None else RowErrors(at[errors.rows], errors.reasons, errors.errors)
                    stage = "decode" if at is None else "preprocess"
                    yield dead_letters.refused(block, letters, stage, self._job)
            labels = pc.sum(rows.column(LABEL)).as_py() or 0 if self._labels else 0
            metrics.inc(metrics.LABELS, labels)
            metrics.inc(metrics.RECORDS_FILTERED, rows.num_rows - labels - found.rows.num_rows + done.filtered)
            metrics.inc(metrics.MARKS, records.column("key").null_count + known.merge.repeated - before)
            known.took(records, end)
            self._forget(known)
            known.check_memory(self._settings.memory_mb)
            known.since = self._kept.write(topic_id, q, known.next, known.last, known.since, known.held)
            known.park()
            if done.rows is not None:
                yield self._traced(done.rows, found.rows, source, done.kept)

    def _traced(self, rows: Block, found: Block, source: Block, kept: NDArray[np.int64]) -> Any:
        if self._carried:
            carried = take(found.select([f"carry:{name}" for name in self._carried]), kept)
            names = [*rows.schema.names, *self._carried]
            rows = pa.RecordBatch.from_arrays([*rows.columns, *carried.columns], names=names)
        block = with_source(rows, source, kept)
        return TimestampedValue(block, min_timestamp(block))

    def _gone(self, known: _Known, records: Block) -> tuple[Block, RowErrors]:
        """Takes records in; the rows that go, and which records are none."""
        rows, at, errors = self._received(records)
        marks = records.filter(records.column("key").is_null())
        told = read_marks(marks.column("offset").to_numpy(), marks.column("value").to_pylist(), self._sources)
        return known.merge.take(rows, at, told), errors

    def _received(self, records: Block) -> tuple[Block, NDArray[np.int64], RowErrors]:
        """The rows among records, their offsets, and which records are neither rows nor marks."""
        of_rows = np.flatnonzero(records.column("key").is_valid().to_numpy(zero_copy_only=False))
        rows = take(records, of_rows)
        decoded = self._decoder.decode(rows.column("value"))
        good = decoded.errors.good_rows(rows.num_rows)
        keys, ours = rows.column("key").take(pa.array(good)), self._ours(decoded.rows)
        received = self._legs.received(keys.cast(pa.string()), decoded.rows)
        received = received.append_column(_HEADERS, rows.column("headers").take(pa.array(good)))
        errors = decoded.errors
        if not ours.all():  # somebody else has written here
            wrong = RowErrors(
                good[~ours],
                ["invalid_value"] * int((~ours).sum()),
                ["the place of a row that no source has"] * int((~ours).sum()),
            )
            received, good = received.filter(pa.array(ours)), good[ours]
            errors = merge(errors, wrong)
        if self._labels:
            received = received.append_column(LABEL, pc.greater_equal(received.column(PARTITION), self._events))
        if len(errors):
            errors = RowErrors(of_rows[errors.rows], errors.reasons, errors.errors)
        return received, rows.column("offset").to_numpy()[good], errors

    def _ours(self, rows: Block) -> NDArray[np.bool_]:
        """Which rows have a place that one of ours may have."""
        partitions, offsets, clocks = (rows.column(name).to_numpy() for name in ("partition", "offset", "order"))
        return placed(partitions, offsets, clocks, self._sources)

    def _source(self, rows: Block) -> Block:
        """The records of the first topic that rows were, as far as they are known: of headers where they come from."""
        n = rows.num_rows
        nothing = pa.nulls(n, pa.binary())
        return raw_block(
            self._topic,
            rows.column(PARTITION).to_numpy(),
            rows.column(OFFSET).to_numpy(),
            rows.column(RECORD_TIME).view(pa.int64()).to_numpy(),
            nothing,
            nothing,
            rows.column(_HEADERS),
        )

    # What is known of a partition.

    def _known_at(self, q: int, start: int, topic_id: str) -> _Known:
        found = HELD.take((self._name, q))
        if found is not None and found.topic_id == topic_id and found.next == start:
            return found
        return self._rebuilt(q, start, topic_id)

    def _forget(self, known: _Known) -> None:
        """Now and then: has the records deleted that no rebuild needs."""
        now = time.monotonic()
        if now < known.forgotten_at + _FORGET_S:
            return
        if known.done and known.merge.knows_all:
            kept_us = 2 * known.history.reach_us + _SPARE_US
            begin = self._log.begin({known.partition: (known.merge.limit - kept_us) // 1000})[known.partition]
            if begin.offset:
                self._log.delete_before({known.partition: min(begin.offset, known.done)})
        known.forgotten_at, known.done = now, known.next

    def _rebuilt(self, q: int, end: int, topic_id: str) -> _Known:
        """What is known of the records before ``end``."""
        low = self._log.begin({q: NEVER})[q].offset
        known, start = self._nothing(q, topic_id), low
        if restored := self._kept.newest(topic_id, q, low, end, lambda arrays: self._restored(q, topic_id, arrays)):
            place, known = restored
            known.last, start = place.last, place.next
        elif end > low:
            limit = self._told(q, end, low)[1].limit
            begin = self._log.begin({q: (limit - known.history.reach_us) // 1000})[q]
            if begin.short:
                self._short(q, low)
            start, before = self._told(q, max(low, min(begin.offset, end)), low)
            known.merge = Merge(self._sources, deleted=start > 0 and not before.knows_all)
        for records in self._read(q, start, end):
            known.history.advance(self._gone(known, records)[0], emit=False)
            known.took(records, end)
            known.check_memory(self._settings.memory_mb)
            metrics.inc(metrics.REREAD, records.num_rows)
        known.next = end
        if known.merge.rows:  # they were read, and committed, by who was here before
            metrics.inc(metrics.RECORDS_READ, known.merge.rows)
            metrics.inc(metrics.RECORDS_COMMITTED, known.merge.rows)
        return known

    def _nothing(self, q: int, topic_id: str) -> _Known:
        """What is known of a partition at the start of its log."""
        history = self._behind.history()
        assert history is not None
        return _Known(self._name, q, Merge(self._sources), history, topic_id, 0)

    def _restored(self, q: int, topic_id: str, arrays: Arrays) -> _Known:
        """What a snapshot says that is known; ValueError: it is of something else."""
        known = self._nothing(q, topic_id)
        of_merge = {name.removeprefix(_MERGE): array for name, array in arrays.items() if name.startswith(_MERGE)}
        known.merge.restore(of_merge, self._received(NO_RECORDS)[0].schema)
        known.history.restore({name: array for name, array in arrays.items() if not name.startswith(_MERGE)})
        return known

    def _told(self, q: int, end: int, low: int) -> tuple[int, Merge]:
        """From where to ``end`` marks tell of each partition of the first topic, and what they say."""
        span = _FIRST_LOOK
        while True:
            start = max(low, end - span)
            merge = self._of_marks(q, start, end, Merge(self._sources))
            if merge.knows_all or start == 0:
                return start, merge
            if start == low:
                return start, self._of_marks(q, start, end, Merge(self._sources, deleted=True))
            span *= _FURTHER

    def _of_marks(self, q: int, start: int, end: int, merge: Merge) -> Merge:
        for records in self._read(q, start, end):
            marks = records.filter(records.column("key").is_null())
            told = read_marks(marks.column("offset").to_numpy(), marks.column("value").to_pylist(), self._sources)
            merge.take(_NO_ROWS, np.zeros(0, np.int64), told)
        return merge

    def _read(self, q: int, start: int, end: int) -> Iterator[Block]:
        return self._log.read({q: (start, end)}) if start < end else iter(())

    def _short(self, q: int, low: int) -> None:
        text = f"partition {q} of the second key's topic begins at offset {low}, and its windows reach further back"
        if self._settings.on_short == "refuse":
            raise UserError(f"{text}; choose another --group_id, or --short_history warn")
        metrics.inc(metrics.SHORT_HISTORIES)
        _LOGGER.warning("%s; the features of its first rows lack what was deleted", text)


_NO_ROWS = pa.RecordBatch.from_pylist(
    [], pa.schema([(PARTITION, pa.int32()), (OFFSET, pa.int64()), ("order:", pa.int64())])
)
