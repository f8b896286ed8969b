"""The windows of a query, between the check of its rows and its result.

A query is a chain of stages: each lets some of the rows through (WHERE) and computes windows over them, which the next
one may read. What a stage makes of rows is a function of these alone; only :class:`QueryHistory` knows rows before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from beam_jobs.errors import UserError
from beam_jobs.preprocessing.fields import Field
from beam_jobs.preprocessing.pii import PiiPolicy, Protected, stands_for
from beam_jobs.preprocessing.query.compiler import Compiled, WindowFeature, roots, with_steps
from beam_jobs.preprocessing.query.intervals import to_text
from beam_jobs.preprocessing.windows.frames import EVENT_TIME, EVERY_ROW, Lateness, Window
from beam_jobs.preprocessing.windows.history import NO_CLOCK, History, TooManyRowsError, warm_up
from beam_jobs.preprocessing.windows.order import OFFSET, ORDER, PARTITION, RECORD_TIME
from beam_jobs.preprocessing.windows.packed import Arrays

FARTHEST_MS = 1 << 51  # 71,000 years: in microseconds, sums of some of them are still 64 bits

KEY = "key:"  # the second key as a text, of rows that were brought to it
LABEL = "label:"  # true of rows that are no events, but labels of such: windows of labels are made of these alone
_CLOCK = "clock:"
_KNOWN = "known:"  # whether the label of a row is
_WHERE = "where:"  # beside columns of the query; their names have no colon


Part = Literal["whole", "before", "behind"]


class Chosen(NamedTuple):
    """Some of the n rows that were given."""

    rows: pa.RecordBatch  # m of them, perhaps with more columns
    kept: NDArray[np.int64]  # which they are, ascending, int64 [m]


@dataclass(frozen=True)
class Inputs:
    """What expressions read of a row."""

    fields: Sequence[Field]
    protected: Sequence[Protected]  # what is read of fields under a key
    policy: PiiPolicy
    key: str  # field that the rows of a window have in common; what stands for it where that is read
    event_time: str
    lateness: Lateness

    @property
    def label(self) -> str:
        """The field that windows over labels read."""
        return next(field.name for field in self.fields if field.label)

    def represented(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The rows, and beside them what stands for fields under a key."""
        lacking = [each for each in self.protected if each.column not in rows.schema.names]
        stand_ins = {each.column: each.of(rows.column(each.field), self.policy) for each in lacking}
        return _with(rows, stand_ins) if stand_ins else rows

    def frame(self, rows: pa.RecordBatch, names: Collection[str]) -> pl.DataFrame:
        """Some columns of rows that are ``represented``."""
        wanted = names or (self.event_time,)  # of no column Polars does not know how many rows it has
        return pl.DataFrame(pa.RecordBatch.from_pydict({name: texts(rows.column(name)) for name in wanted}))

    def keys(self, rows: pa.RecordBatch, by: str | None = None) -> pa.Array:
        """Rows of one key are told by what may leave, so a history holds no key that is personal data.

        Args:
          by: the field that rows have in common; None: the key. NULL is one of its values, as in SQL.
        """
        if by is not None and KEY in rows.schema.names:
            return rows.column(KEY)
        name = by or self.key
        instead = stands_for(name, self.protected)
        keys = plain(rows.column(name if instead is None else instead.column)).cast(pa.string())
        if by is None:
            return keys
        marked = pc.binary_join_element_wise("=", keys, "")
        # No text begins so; an empty key would not do: librdkafka takes another partition for it each time.
        return marked.fill_null("-") if marked.null_count else marked


@dataclass(frozen=True)
class Stage:
    """The windows of one SELECT, and the rows they are made of."""

    where: Compiled | None
    windows: Sequence[WindowFeature]  # at least one
    by: str | None = None  # the field whose rows they are about; None: the key
    labels: bool = False  # they are made of rows whose label is known; the others only see

    @cached_property
    def _arguments(self) -> Mapping[str, Compiled]:
        """By canonical text: windows of the same argument share it."""
        return {window.argument.text: window.argument for window in self.windows if window.argument is not None}

    @property
    def reads(self) -> list[Compiled]:
        """The expressions that are computed before the windows."""
        return [*self._arguments.values(), *([self.where] if self.where is not None else [])]

    @cached_property
    def _read(self) -> frozenset[str]:
        """Columns that these read."""
        return frozenset[str]().union(*map(roots, self.reads))

    def history(self, lateness: Lateness) -> History:
        """That of a partition, at the start: it knows no rows."""
        places = {text: place for place, text in enumerate(self._arguments)}
        of = [EVENT_TIME if w.argument is None else places[w.argument.text] for w in self.windows]
        windows = [Window(w.function, place, w.frame, w.share) for w, place in zip(self.windows, of, strict=True)]
        return History(windows, lateness.of_labels() if self.labels else lateness)

    def ready(self, rows: pa.RecordBatch, inputs: Inputs) -> Chosen:
        """The rows that the WHERE lets through, with what ``advance`` needs beside them."""
        exprs = [a.expr.cast(pl.Float64).alias(_argument(i)) for i, a in enumerate(self._arguments.values())]
        read = self._read
        if self.where is not None:
            exprs.append(self.where.expr.fill_null(False).alias(_WHERE))
        if self.labels:
            apart = [LABEL] if LABEL in rows.schema.names else []
            exprs.append(pl.all_horizontal(pl.col(inputs.label).is_not_null(), *apart).alias(_KNOWN))
            read = read.union([inputs.label, *apart])
        rows = inputs.represented(rows)
        known = with_steps(inputs.frame(rows, read), self.reads).with_columns(exprs)
        kept = np.arange(rows.num_rows, dtype=np.int64)
        if self.where is not None and not (through := known.get_column(_WHERE)).all():
            kept = np.flatnonzero(through.to_numpy())
            known, rows = known.filter(through), rows.take(pa.array(kept))
        names = [_argument(place) for place in range(len(self._arguments))]
        names += [_KNOWN] if self.labels else []
        columns = {name: known.get_column(name).rechunk().to_arrow() for name in names}
        return Chosen(_with(rows, columns), kept)

    def advance(self, rows: pa.RecordBatch, inputs: Inputs, history: History, emit: bool) -> pa.RecordBatch:
        """The rows that ``ready`` chose, which ``history`` takes in, with a column a window if ``emit``."""
        times, record_times = _times(rows, inputs)
        if _CLOCK in rows.schema.names:
            record_times = rows.column(_CLOCK).to_numpy()
        values, valid = _stacked([rows.column(_argument(place)) for place in range(len(self._arguments))], len(times))
        try:
            found = history.advance(
                inputs.keys(rows, self.by),
                times,
                record_times,
                values,
                valid,
                emit,
                rows.column(_KNOWN).to_numpy(zero_copy_only=False) if self.labels else None,
            )
        except TooManyRowsError as error:
            raise UserError(self._too_many(error, rows, inputs)) from error
        if not emit:
            return rows
        return _with(rows, {window.column: values for window, values in zip(self.windows, found, strict=True)})

    def advance_events(self, rows: pa.RecordBatch, inputs: Inputs, history: History, emit: bool) -> pa.RecordBatch:
        """As ``advance``, of rows with labels among them, which pass by."""
        events = np.flatnonzero(~rows.column(LABEL).to_numpy(zero_copy_only=False))
        seen = self.advance(rows.take(pa.array(events)), inputs, history, emit)
        if not emit:
            return rows
        places = np.full(rows.num_rows, -1)
        places[events] = np.arange(len(events))
        at = pa.array(places, mask=places < 0)
        return _with(rows, {window.column: seen.column(window.column).take(at) for window in self.windows})

    def _too_many(self, error: TooManyRowsError, rows: pa.RecordBatch, inputs: Inputs) -> str:
        """What to do about it. A key may be personal data, so a record that has it stands for it."""
        where = f"the event of {rows.column(inputs.event_time)[error.row].as_py()}"
        if {PARTITION, OFFSET} <= set(rows.schema.names):
            partition, offset = (rows.column(name)[error.row].as_py() for name in (PARTITION, OFFSET))
            where = f"offset {offset} of partition {partition}"
        whose = f"the {self.by or inputs.key} of {where}"
        if error.sorted:
            return (
                f"a quantile looks through each row of its window, and {whose} has more than {error.rows:,} in one; "
                "shorten that window, or use avg, stddev_samp, min and max, or a share: "
                "avg(CASE WHEN x > 100 THEN 1 ELSE 0 END) OVER (...)"
            )
        by_row = [window for window in self.windows if not window.tiled]
        ends_us = max(window.frame.end_us for window in self.windows)
        if by_row:
            longest = max(by_row, key=lambda window: window.frame.reach_us)
            held = f"windows hold every row for {to_text(longest.frame.start_us)}"
            remedy = (
                f"write long windows in hop form (RANGE BETWEEN ({inputs.event_time} - time_bucket(INTERVAL '1 hour', "
                f"{inputs.event_time} - INTERVAL '7 day')) PRECEDING AND CURRENT ROW)"
            )
            if longest.function in EVERY_ROW:
                remedy = f"shorten the window of {longest.function}, which needs every row"
        elif ends_us:
            held, remedy = (
                f"windows that end {to_text(ends_us)} before now hold every row until then",
                "let them end later",
            )
        else:
            held, remedy = "every row is held that a late one may still come before", "shorten window_lateness"
        return f"{held}, and {whose} has more than {error.rows:,}; {remedy}, or allow more with --window_key_rows"


class QueryHistory:
    """What the windows of a query know of the rows of one partition: a History a stage. For one thread at a time.

    Args:
      stages: in the order in which rows pass them.
      part: "whole"; or of a query with two keys the stages "before" the second one, which give rows their ORDER, or
        those "behind" it, which take them by that, and whose first WHERE is still to choose among them.
    """

    def __init__(self, stages: Sequence[Stage], inputs: Inputs, part: Part = "whole") -> None:
        self._stages = tuple(stages)
        self._inputs = inputs
        self._part = part
        self._histories = [stage.history(inputs.lateness) for stage in stages]
        self._clock = NO_CLOCK  # the newest record time so far, in microseconds
        # What windows of labels see ends so long ago that it is no matter how late a row is.
        self._of_rows = [history for stage, history in zip(stages, self._histories, strict=True) if not stage.labels]

    def warm_up(self) -> None:
        """See ``history.warm_up``."""
        for tiled, labels in {(h.tiled, s.labels) for s, h in zip(self._stages, self._histories, strict=True)}:
            warm_up(tiled, labels)

    @property
    def reach_us(self) -> int:
        """How far before the clock a record's timestamp may lie and its row still matter.

        A row that a later stage still sees has windows of its own, so the reaches of stages add up that need others.
        """
        return reach_of(
            [(stage, history.reach_us) for stage, history in zip(self._stages, self._histories, strict=True)]
        )

    @property
    def late(self) -> int:
        """Rows so far that came after younger ones of their key, and saw what was before them."""
        return max((history.late for history in self._of_rows), default=0)

    @property
    def alone(self) -> int:
        """Rows so far that came too late to see others, or to be seen."""
        return max((history.alone for history in self._of_rows), default=0)

    @property
    def future(self) -> int:
        """Rows so far whose time was too far ahead of their record's to see others, or to be seen."""
        return max((history.future for history in self._of_rows), default=0)

    @property
    def keys(self) -> int:
        """Keys of which rows are kept."""
        return max((history.keys for history in self._histories), default=0)

    @property
    def rows(self) -> int:
        """Rows that are kept, of all stages."""
        return sum(history.rows for history in self._histories)

    @property
    def memory_bytes(self) -> int:
        """What is held in memory."""
        return sum(history.memory_bytes for history in self._histories)

    def advance(self, rows: pa.RecordBatch, emit: bool = True) -> Chosen:
        """Takes in rows of the partition, in the order of its log, and adds their windows to them.

        Args:
          rows: of ``Preprocessor.prepare``, those of this partition.
          emit: False where the result does not matter, only that the rows are known from now on.

        Returns:
          What ``Preprocessor.finish`` takes; no rows without ``emit``. Rows may be missing that a WHERE around windows
          removes.
        """
        kept = np.arange(rows.num_rows, dtype=np.int64)
        last = len(self._stages) - 1
        labels = LABEL in rows.schema.names
        if last or self._part != "whole":
            rows = _with(rows, self._clocks(rows))
        for number, (stage, history) in enumerate(zip(self._stages, self._histories, strict=True)):
            if number or self._part == "behind":
                chosen = stage.ready(rows, self._inputs)
                rows, kept = chosen.rows, kept[chosen.kept]
            advance = stage.advance_events if labels and not stage.labels else stage.advance
            rows = advance(rows, self._inputs, history, emit or number < last)
        if labels:
            events = pc.invert(rows.column(LABEL))
            rows, kept = rows.filter(events), kept[events.to_numpy(zero_copy_only=False)]
        return Chosen(rows, kept) if emit else Chosen(rows.slice(0, 0), kept[:0])

    def held(self) -> Arrays:
        """All that is known, by name, in arrays of its own: ``restore`` takes them, in whatever process."""
        arrays: dict[str, NDArray[Any]] = {"clock": np.array([self._clock])}
        for stage, history in enumerate(self._histories):
            arrays |= {f"{stage}/{name}": array for name, array in history.held().items()}
        return arrays

    def restore(self, arrays: Arrays) -> None:
        """Takes what one of the same query has ``held``, instead of what is known.

        Raises:
          ValueError: it is something else; this one can't be used any more.
        """
        expected = {"clock", *(str(stage) for stage in range(len(self._histories)))}
        if {name.partition("/")[0] for name in arrays} != expected or arrays["clock"].shape != (1,):
            raise ValueError("not the windows of this query")
        self._clock = int(arrays["clock"][0])
        for stage, history in enumerate(self._histories):
            own = f"{stage}/"
            history.restore({name.removeprefix(own): a for name, a in arrays.items() if name.startswith(own)})

    def _clocks(self, rows: pa.RecordBatch) -> dict[str, pa.Array]:
        """The partition's clock as it was at each row, and what the stages take for the record times of rows.

        That is the clock, one for all of them: a later stage sees fewer rows, by which alone its clock would lag
        behind, and a rebuild would begin too late. Rows from the future keep their own time: only that tells them.
        """
        times, record_times = _times(rows, self._inputs)
        if self._part == "behind":
            clocks = rows.column(ORDER).to_numpy()
        else:
            clocks = np.maximum(np.maximum.accumulate(record_times), self._clock) if len(times) else record_times
        self._clock = int(clocks[-1]) if len(clocks) else self._clock
        ahead = times > record_times + self._inputs.lateness.clock_skew_ms * 1000
        return {ORDER: pa.array(clocks), _CLOCK: pa.array(np.where(ahead, record_times, clocks))}


def reach_of(stages: Iterable[tuple[Stage, int]]) -> int:
    """How far back rows matter to stages, one behind the other, each with its own reach."""
    reach, chosen = 0, False
    for stage, own in stages:
        windows = (any(name.startswith("window:") for name in roots(value)) for value in stage.reads)
        needs = list(windows)
        reach = reach + own if chosen or any(needs) else max(reach, own)
        chosen = chosen or (stage.where is not None and needs[-1])
    return reach


@dataclass
class Unordered:
    """Rows that windows did not see in the order of their times."""

    late: int = 0  # they saw what was before them in time, as far as it had come
    alone: int = 0  # too late to see others
    future: int = 0  # their time was too far ahead of their record's to see others

    def add(self, history: QueryHistory) -> None:
        """Counts what a history has seen, at its end."""
        self.late += history.late
        self.alone += history.alone
        self.future += history.future

    def phrases(self) -> list[str]:
        """What to say of them, a phrase each."""
        found = (
            (self.late, "came late"),
            (self.alone, "came too late for windows, and see themselves alone (window_lateness, window_delay)"),
            (self.future, "are ahead of their record's time, and see themselves alone (window_clock_skew)"),
        )
        return [f"{n:,} {what}" for n, what in found if n]


def texts(array: pa.Array) -> pa.Array:
    """The array as the expressions expect it: enums as text."""
    return array.cast(pa.string()) if isinstance(array, pa.DictionaryArray) else array


def plain(array: pa.Array) -> pa.Array:
    """A field that goes out unchanged: enums as text, decimals as doubles."""
    return array.cast(pa.float64()) if pa.types.is_decimal(array.type) else texts(array)


def _stacked(columns: Sequence[pa.Array], n: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """A doubles of n rows, and which of them are not null, both [A, n]; A may be 0."""
    values, valid = np.empty((len(columns), n)), np.ones((len(columns), n), np.bool_)
    for place, column in enumerate(columns):
        values[place] = column.fill_null(0.0) if column.null_count else column
        if column.null_count:
            valid[place] = column.is_valid()
    return values, valid


def _argument(place: int) -> str:
    return f"argument:{place}"


def _with(rows: pa.RecordBatch, columns: Mapping[str, pa.Array]) -> pa.RecordBatch:
    """The rows with these columns, in place of those of the same names."""
    names = [name for name in rows.schema.names if name not in columns]
    return pa.RecordBatch.from_arrays(
        [*(rows.column(name) for name in names), *columns.values()], names=[*names, *columns]
    )


def _times(rows: pa.RecordBatch, inputs: Inputs) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Event times and times of the records, in microseconds; rows that came from no log have the former alone."""
    times = _micros(rows, inputs.event_time)
    return times, _micros(rows, RECORD_TIME) if RECORD_TIME in rows.schema.names else times


def _micros(rows: pa.RecordBatch, name: str) -> NDArray[np.int64]:
    """A column of times, none of them null, in microseconds since the epoch; beyond ±FARTHEST_MS that.

    The time of a record may be any 64 bits.
    """
    times = rows.column(name)
    numbers: NDArray[np.int64] = times.view(pa.int64()).to_numpy()
    return numbers if times.type.unit == "us" else np.clip(numbers, -FARTHEST_MS, FARTHEST_MS) * 1000
