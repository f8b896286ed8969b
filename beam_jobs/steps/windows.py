"""Events to features with windows: what these know of a partition is a function of its log, and is made from it anew.

The step holds in its process, for each partition of the topic, what the windows know of its rows up to an offset. A
block whose part of the log begins there is taken in. Before any other one (the job was killed, its bundle failed, the
partition has moved here) the records that come before it are read from the log again, as far back as windows reach, and
nothing comes of them but that they are known. So wherever a row is computed, and however often, its features are the
same bits. Nothing has to be stored, and outputs come before commits as without windows; snapshots only shorten what is
read (storage/snapshots.py).

How far back: with T = (time of the first record that is taken in) - (reach of the windows), from the first record at or
after T on. All that rows from there on may see has a time of at least the newest time so far less the reach, which is
at least T; and a record before it, older than T, is not what made the newest time.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Literal

import apache_beam as beam
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs import dead_letters, metrics
from beam_jobs.block import SOURCE_PREFIX, Block, Stretch, concat, millis_of, source_of, stretch_of, take
from beam_jobs.errors import RowErrors, UserError
from beam_jobs.io.idle import IdleCache
from beam_jobs.io.source import Log
from beam_jobs.isolate import Isolate
from beam_jobs.preprocessing.preprocessor import Prepared, Preprocessed, Preprocessor
from beam_jobs.preprocessing.stages import FARTHEST_MS, Chosen, QueryHistory, texts
from beam_jobs.preprocessing.threads import at_once, one_thread
from beam_jobs.steps import partition_keys
from beam_jobs.steps.decode import DecodeEvents
from beam_jobs.steps.partition_keys import PartitionKeys
from beam_jobs.steps.preprocess import traced
from beam_jobs.steps.rebuild import Kept, Telling, ahead
from beam_jobs.storage.snapshots import Arrays, Record

_LOGGER = logging.getLogger(__name__)

_PARTITION, _OFFSET, _TIME = (SOURCE_PREFIX + name for name in ("partition", "offset", "timestamp"))
_IDLE_S = 3600.0  # a partition that is quiet for so long, or has moved away, is forgotten
_MB = 1_000_000
_SAMPLED = 16_384  # records in which it is looked for keys in two partitions at the start: of 10 million keys, 10 pairs

OnShort = Literal["refuse", "warn"]


@dataclass(frozen=True)
class WindowSettings:
    """How windows are kept."""

    on_short: OnShort = "refuse"  # where the log does not go back as far as they do
    memory_mb: float = 2048.0  # of a process at most
    snapshots: str = ""  # folder, local or ``gs://``; "": none are written
    snapshot_s: float = 300.0  # between two of a partition


@dataclass
class _Known:
    """What a step knows of a partition."""

    step: str
    partition: int
    history: QueryHistory
    topic_id: str  # of the topic it is about
    next: int  # offset of the next record
    last: Record | None = None  # the newest one that was taken in, for snapshots
    since: float = field(default_factory=time.monotonic)  # the last snapshot, or the beginning

    def took(self, rows: Block, row: int) -> None:
        """This one of the rows was the last of this partition that was taken in."""
        self.last = Record(rows.column(_OFFSET)[row].as_py(), int(millis_of(rows.column(_TIME).slice(row, 1))[0]))

    def park(self) -> None:
        """Waits for the next block."""
        HISTORIES.park((self.step, self.partition), self)

    def check_memory(self, most_mb: float) -> None:
        """Counts what it holds, as ``check_memory`` does."""
        own = metrics.Held(self.history.rows, self.history.keys, self.history.memory_bytes)
        check_memory(self.step, self.partition, own, most_mb)

    def close(self) -> None:
        metrics.STATE.holds(self.step, self.partition, None)


def check_memory(step: str, partition: int, held: metrics.Held, most_mb: float) -> None:
    """Counts what a step holds of a partition.

    Raises:
      UserError: this process holds more than it may.
    """
    every = metrics.STATE.holds(step, partition, held)
    if every.bytes > most_mb * _MB:
        waiting = f", {every.waiting:,} of which wait for other partitions" if every.waiting else ""
        raise UserError(
            f"windows hold {every.rows:,} rows of {every.keys:,} keys{waiting}, more than {most_mb:g} MB; "
            "allow more with --window_memory_mb, shorten the windows, or run more processes"
        )


def advance(work: Sequence[tuple[QueryHistory, Block]]) -> list[Chosen]:
    """Each history, of a partition, takes its rows in; counts late ones, those too late and those from the future."""
    before = [(history.late, history.alone, history.future) for history, _ in work]
    found = at_once(lambda one: one[0].advance(one[1]), work)
    for (history, _), (late, alone, future) in zip(work, before, strict=True):
        metrics.inc(metrics.LATE, history.late - late)
        metrics.inc(metrics.ALONE, history.alone - alone)
        metrics.inc(metrics.FUTURE, history.future - future)
    return found


HISTORIES: IdleCache[_Known] = IdleCache(_Known.close, _IDLE_S)
"""By step and partition, between two blocks. Whoever takes one has it alone; whoever finds none makes it anew."""


_KEYS: dict[tuple[str, str], PartitionKeys] = {}  # by step and id of the topic


@dataclass(frozen=True)
class Advanced:
    """The rows of a block on their way."""

    rows: Block | None  # None: there are none
    places: NDArray[np.int64]  # of the rows in the block
    refused: list[tuple[RowErrors, NDArray[np.int64]]]  # errors, and the places in the block that their rows count in
    filtered: int


@dataclass(frozen=True)
class Finished:
    """What came of rows."""

    rows: Block | None  # None: there are none
    kept: NDArray[np.int64]  # which of the rows that were given they are
    refused: list[tuple[RowErrors, NDArray[np.int64]]]  # errors, and the places that their rows count in
    filtered: int


def finish(work: Isolate[Preprocessed], rows: Block | None, places: NDArray[np.int64]) -> Finished:
    """Takes rows with their windows to the result; ``places``: what errors count in."""
    if rows is None or not rows.num_rows:
        return Finished(None, np.zeros(0, np.int64), [], 0)
    parts, bad = work(rows)
    refused, filtered, done, kept = [(bad, places)], 0, [], []
    for part in parts:
        refused.append((part.result.errors, places[part.rows]))
        filtered += part.result.filtered
        done.append(part.result.rows)
        kept.append(part.rows[part.result.kept])
    features = concat(done) if done else None
    if features is None or not features.num_rows:
        return Finished(None, np.zeros(0, np.int64), refused, filtered)
    return Finished(features, np.concatenate(kept), refused, filtered)


class PreprocessWindows(beam.DoFn):
    """Events blocks, as ``decode`` makes them, to features blocks by a query with windows.

    Args:
      decode: makes the same events of records that are read again.
      log: where they are read.
      carry: as for ``Preprocess``.
    """

    def __init__(
        self,
        preprocessor: Preprocessor,
        job: str,
        decode: DecodeEvents,
        log: Log,
        settings: WindowSettings = WindowSettings(),
        carry: Sequence[str] = (),
    ) -> None:
        self._preprocessor = preprocessor
        self._job = job
        self._decode = decode
        self._log = log
        self._settings = settings
        self._carry = tuple(carry)
        self._name = uuid.uuid4().hex  # of the step, whichever instance of it is at work

    def setup(self) -> None:
        one_thread()
        self._preprocessor.check_secrets()
        self._preprocessor.warm_up()
        partition_keys.warm_up()
        folder = self._settings.snapshots
        made_by = self._preprocessor.state_key() if folder else ""
        self._kept = Kept(folder, made_by, self._log, self._settings.snapshot_s)
        self._decode.setup()
        self._reach_ms = -(-self._new_history().reach_us // 1000)
        columns = [*self._preprocessor.input_columns, _PARTITION, _OFFSET, _TIME]
        self._windows = [window.column for stage in self._preprocessor.stages for window in stage.windows]
        prepare, personal = self._preprocessor.prepare, self._preprocessor.personal
        self._prepare: Isolate[Prepared] = Isolate(lambda events: prepare(events.select(columns)), personal=personal)
        self._finish: Isolate[Preprocessed] = Isolate(self._preprocessor.finish, personal=personal)

    def process(self, events: Block) -> Iterator[Block | beam.pvalue.TaggedOutput]:
        advanced = self._advanced(events)
        finished = finish(self._finish, advanced.rows, advanced.places)
        yield from self._left_out(events, [*advanced.refused, *finished.refused], advanced.filtered + finished.filtered)
        if finished.rows is not None:
            yield traced(finished.rows, events, advanced.places[finished.kept], self._carry)

    def _left_out(
        self, events: Block, refused: Sequence[tuple[RowErrors, NDArray[np.int64]]], filtered: int
    ) -> Iterator[beam.pvalue.TaggedOutput]:
        """Counts the rows that are filtered; the dead letters of those that are refused."""
        for errors, at in refused:
            if len(errors):
                letters = RowErrors(at[errors.rows], errors.reasons, errors.errors)
                yield dead_letters.refused(source_of(events), letters, "preprocess", self._job)
        metrics.inc(metrics.RECORDS_FILTERED, filtered)

    def _advanced(self, events: Block) -> Advanced:
        """The rows of a block with their windows."""
        stretch = stretch_of(events)
        if stretch is None:
            raise UserError("windows need a source that says which part of its log a block is; use Kafka's own source")
        parts, bad = self._prepare(events)
        refused = [(bad, np.arange(events.num_rows))]
        filtered = 0
        for part in parts:
            refused.append((part.result.errors, part.rows))
            filtered += part.result.filtered
        if not parts:
            return Advanced(None, np.zeros(0, np.int64), refused, filtered)
        rows, places = _joined([(part.result.rows, part.rows[part.result.kept]) for part in parts])
        through, places = self._through_windows(rows, places, stretch)
        return Advanced(through, places, refused, filtered + rows.num_rows - through.num_rows)

    def _new_history(self) -> QueryHistory:
        """That of a partition, at the start."""
        history = self._preprocessor.history()
        assert history is not None
        return history

    def _through_windows(
        self, rows: Block, places: NDArray[np.int64], stretch: Stretch
    ) -> tuple[Block, NDArray[np.int64]]:
        """The prepared rows of a block, at ``places`` of it, with their windows; in the same order."""
        self._check_keys(rows, stretch.topic_id)
        by_partition = _by_partition(rows)
        known = self._known_at({p: by_partition.get(p) for p in stretch.partitions}, rows, stretch)
        seen = self._of_histories(rows)
        chosen = []
        advanced = advance([(known[p].history, _rows(seen, at)) for p, at in by_partition.items()])
        for (p, at), found in zip(by_partition.items(), advanced, strict=True):
            known[p].took(rows, int(at[-1]))
            chosen.append((found.rows.select(self._windows), at[found.kept]))
        for p, one in known.items():
            one.next = stretch.partitions[p][1]
            one.check_memory(self._settings.memory_mb)
            one.since = self._kept.write(one.topic_id, p, one.next, one.last, one.since, one.history.held)
            one.park()
        if not chosen:
            return rows, places
        windows, at = _joined(chosen)
        rows = _rows(rows, at)
        columns, names = [*rows.columns, *windows.columns], [*rows.schema.names, *self._windows]
        return pa.RecordBatch.from_arrays(columns, names=names), places[at]

    def _known_at(
        self, wanted: Mapping[int, NDArray[np.int64] | None], rows: Block, stretch: Stretch
    ) -> dict[int, _Known]:
        """What is known of each partition before its first row here; of one without rows, where that is at hand."""
        offsets = rows.column(_OFFSET).to_numpy()
        known: dict[int, _Known] = {}
        lacking: dict[int, tuple[int, int]] = {}  # partition -> place of its first row, offset up to which it is known
        for p, at in wanted.items():
            start, end = stretch.partitions[p]
            first = end if at is None else int(offsets[at[0]])
            found = HISTORIES.take((self._name, p))
            if found is not None and (found.topic_id != stretch.topic_id or found.next > first):
                found = None  # of an earlier topic, or a bundle is taken again
            if found is not None and (start <= found.next):
                known[p] = found
            elif at is not None:
                lacking[p] = int(at[0]), -1 if found is None else found.next
                if found is not None:
                    known[p] = found
        if lacking:
            self._rebuild(known, lacking, rows, stretch.topic_id)
        return known

    def _rebuild(
        self, known: dict[int, _Known], lacking: Mapping[int, tuple[int, int]], rows: Block, topic_id: str
    ) -> None:
        """Reads from the log what is to be known of partitions before rows: place of the first row, what is known."""
        offsets = rows.column(_OFFSET).to_numpy()
        times, reach_ms = _times(rows), self._reach_ms
        beginnings = self._log.begin({p: int(times[row]) - reach_ms for p, (row, _) in lacking.items()})
        spans = {}
        for p, (row, after) in lacking.items():
            begin, end = beginnings[p], int(offsets[row])
            restored = self._restored(p, topic_id, max(after, begin.offset), end)
            if restored is not None:
                known[p] = restored
            elif after < begin.offset:  # what is known, if anything, ends before what matters
                known[p] = _Known(self._name, p, self._new_history(), topic_id, begin.offset)
                if begin.short:
                    self._short(p, begin.offset)
            spans[p] = min(known[p].next, end), end
        wanted = sum(end - start for start, end in spans.values())
        with closing(ahead(self._read(self._log.read(spans)))) as blocks, Telling(wanted, reach_ms) as told:
            for stretch, records, parts in blocks:
                for again in parts:
                    self._check_keys(again, topic_id)
                    for p, at in _by_partition(again).items():
                        known[p].history.advance(_rows(again, at), emit=False)
                        if self._kept.wanted:
                            known[p].took(again, int(at[-1]))
                        known[p].check_memory(self._settings.memory_mb)
                told.read(sum(end - start for start, end in stretch.partitions.values()), records)

    def _restored(self, partition: int, topic_id: str, first: int, end: int) -> _Known | None:
        """What is known of a partition up to an offset behind ``first``, at most ``end``, by a snapshot."""

        def restore(arrays: Arrays) -> QueryHistory:
            history = self._new_history()
            history.restore(arrays)
            return history

        found = self._kept.newest(topic_id, partition, first, end, restore)
        if found is None:
            return None
        place, history = found
        return _Known(self._name, partition, history, topic_id, place.next, place.last)

    def _read(self, log: Iterator[Block]) -> Generator[tuple[Stretch, int, list[Block]]]:
        """Records of the log, block by block: which they are, how many, and what histories take of them."""
        for raw in log:
            stretch = stretch_of(raw)
            assert stretch is not None
            events, _ = self._decode.decode(raw)
            parts = [] if events is None else self._prepare(events)[0]
            yield stretch, raw.num_rows, [self._of_histories(part.result.rows) for part in parts]

    def _of_histories(self, rows: Block) -> Block:
        """What histories take of prepared rows: of a query with one stage not the fields that only come out again."""
        if len(self._preprocessor.stages) > 1:
            return rows
        plain = (self._preprocessor.key, self._preprocessor.event_time, _PARTITION, _OFFSET, _TIME)
        return rows.select([name for name in rows.schema.names if name in plain or ":" in name])

    def _check_keys(self, rows: Block, topic_id: str) -> None:
        """Refuses a topic whose partitions have a key in common: neither holds all of what its windows are about."""
        seen = _KEYS.get((self._name, topic_id))
        if seen is None:  # other processes read other partitions: what these hold now is seen here as well
            seen = PartitionKeys()
            parts = [part for _, _, parts in self._read(self._log.newest(_SAMPLED)) for part in parts if part.num_rows]
            if parts:
                newest = concat(parts)
                times = _times(newest)  # keys may have moved long ago, as when partitions were added
                self._look(seen, take(newest, np.flatnonzero(times >= times.max() - self._reach_ms)))
            _KEYS[self._name, topic_id] = seen
        self._look(seen, rows)

    def _look(self, seen: PartitionKeys, rows: Block) -> None:
        key = self._preprocessor.key
        pair = seen.elsewhere(texts(rows.column(key)).cast(pa.string()), rows.column(_PARTITION).to_numpy())
        if pair is not None:
            raise UserError(
                f"partitions {pair[0]} and {pair[1]} of the topic hold records of the same {key}, and windows over it "
                f"need all of them in one; bring the events to a topic whose records have {key} as their key, from "
                "producers with one partitioner"
            )

    def _short(self, partition: int, offset: int) -> None:
        text = (
            f"partition {partition} begins at offset {offset}, and the windows reach further back: its retention is "
            "shorter than they are"
        )
        if self._settings.on_short == "refuse":
            raise UserError(f"{text}; raise retention.ms of the topic, shorten the windows, or --short_history warn")
        metrics.inc(metrics.SHORT_HISTORIES)
        _LOGGER.warning("%s; the features of its first rows lack what was deleted", text)


def _times(rows: Block) -> NDArray[np.int64]:
    """Of the records, in milliseconds, as histories take them."""
    return np.clip(millis_of(rows.column(_TIME)), -FARTHEST_MS, FARTHEST_MS)


def _by_partition(rows: Block) -> dict[int, NDArray[np.int64]]:
    """Partition -> which rows are of it, ascending; partitions in the order in which they begin."""
    partitions = rows.column(_PARTITION).to_numpy()
    present = np.flatnonzero(np.bincount(partitions))  # np.unique would sort them
    found = [(int(p), np.flatnonzero(partitions == p)) for p in present]
    return dict(sorted(found, key=lambda item: int(item[1][0])))


def _rows(block: Block, at: NDArray[np.int64]) -> Block:
    """The rows at these ascending places, without a copy where they are one behind the other."""
    if len(at) and at[-1] - at[0] + 1 == len(at):
        return block.slice(int(at[0]), len(at))
    return take(block, at)


def _joined(parts: Sequence[tuple[Block, NDArray[np.int64]]]) -> tuple[Block, NDArray[np.int64]]:
    """The rows of all parts by their places in a block, ascending, and these. At least one part."""
    rows, places = concat([rows for rows, _ in parts]), np.concatenate([places for _, places in parts])
    order = np.argsort(places, kind="stable")
    if (order[1:] > order[:-1]).all():
        return rows, places
    return take(rows, order), places[order]
