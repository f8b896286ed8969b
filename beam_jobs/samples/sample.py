"""A sample of events taken through a use case's schema and SQL, as a job would: what passes, and what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from beam_jobs.errors import RowErrors, UserError, shown
from beam_jobs.preprocessing.fields import Field
from beam_jobs.preprocessing.preprocessor import Preprocessed, Preprocessor
from beam_jobs.preprocessing.stages import QueryHistory, Unordered, texts
from beam_jobs.preprocessing.whole import over_all
from beam_jobs.preprocessing.windows.order import by_log
from beam_jobs.samples.records import MAX_BYTES, Part
from beam_jobs.samples.statistics import Column, Role, column_of
from beam_jobs.steps.partition_keys import PartitionKeys
from beam_jobs.use_case import UseCase

MAX_EXAMPLES = 3  # of a reason
FIRST_ROWS = 10  # that are kept to be shown
_TOPIC, _PARTITION = "_topic", "_partition"
_BEFORE = "before:"  # whether a row is only there to be known of


@dataclass(frozen=True)
class Refused:
    """Rows that are refused for one reason."""

    stage: str  # decode or preprocess
    reason: str
    count: int
    examples: Sequence[str]  # sentences, MAX_EXAMPLES at most; nothing personal in them


@dataclass(frozen=True)
class Checked:
    """What came of a sample."""

    rows: int
    filtered: int  # by the WHERE
    filtered_examples: Sequence[str]  # what the WHERE reads of some of them; nothing personal
    passed: int
    refused: Sequence[Refused]  # most frequent first
    columns: Sequence[Column]  # what goes in, beside what comes out; where no row passes, all that goes in
    keys: int
    unordered: Sequence[str]  # what to say of rows that windows did not see in order
    first_ms: int | None  # event times of what passes
    last_ms: int | None

    @property
    def refused_share(self) -> float:
        """Of the rows, 0 to 1."""
        return sum(one.count for one in self.refused) / self.rows if self.rows else 0.0

    @property
    def features(self) -> list[Column]:
        """Those of the columns that a model reads."""
        return [column for column in self.columns if column.role == "feature"]


@dataclass
class Sample:
    """Takes parts, and sums up."""

    use_case: UseCase
    _rows: int = 0
    _bytes: int = 0  # of what was decoded
    _filtered: int = 0
    _filtered_examples: list[str] = field(default_factory=list)
    _counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    _examples: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    _passed: list[pa.RecordBatch] = field(default_factory=list)
    _given: list[pa.RecordBatch] = field(default_factory=list)  # the fields that the SQL reads, of all rows
    _first: list[pa.RecordBatch] = field(default_factory=list)  # the same, of the first rows that pass
    _waiting: list[pa.RecordBatch] = field(default_factory=list)  # of an SQL with windows, which need an order
    _histories: dict[tuple[str, int], QueryHistory] = field(default_factory=dict)  # of the records before, by log
    _kinds: set[bool] = field(default_factory=set)  # whether parts were preprocessed

    def add(self, part: Part) -> None:
        """Takes rows through the SQL; those before the sample come first, in the order of the log.

        Raises:
          UserError: features of an archive came as well as events.
        """
        decoded, preprocessor = part.decoded, self.use_case.preprocessor()
        if part.before:
            if preprocessor.second_key is None:
                self._remember(decoded.rows)
            else:
                self._waiting.append(_with_before(decoded.rows, True))
            return
        self._kinds.add(part.preprocessed)
        if len(self._kinds) > 1:
            raise UserError("it holds features as well as events, perhaps of the same records; name a folder of either")
        self._rows += decoded.rows.num_rows + len(decoded.errors)
        self._bytes += decoded.rows.nbytes
        if self._bytes > MAX_BYTES:
            raise UserError(
                f"{self._rows:,} rows take more than {MAX_BYTES // 1_000_000:,} MB; ask for less with --rows"
            )
        self._refuse("decode", decoded.errors)
        if part.preprocessed:
            self._passed.append(
                decoded.rows.select([preprocessor.key, preprocessor.event_time, *preprocessor.features])
            )
        elif preprocessor.windows:
            rows = decoded.rows
            self._waiting.append(rows if preprocessor.second_key is None else _with_before(rows, False))
        elif decoded.rows.num_rows:
            self._take(decoded.rows, preprocessor.apply(decoded.rows.select(list(preprocessor.input_columns))))

    def checked(self) -> Checked:
        """The sum, after the last part."""
        unordered = self._through_windows()
        preprocessor = self.use_case.preprocessor()
        rows = pa.Table.from_batches(self._passed, None if self._passed else preprocessor.output_schema)
        times = pc.min_max(rows[preprocessor.event_time].cast(pa.int64())).as_py()
        return Checked(
            rows=self._rows,
            filtered=self._filtered,
            filtered_examples=self._filtered_examples,
            passed=rows.num_rows,
            refused=[Refused(*where, n, self._examples[where]) for where, n in self._counts.most_common()],
            columns=list(self._columns(preprocessor, rows) if rows.num_rows else self._inputs(preprocessor.inputs)),
            keys=pc.count_distinct(rows[preprocessor.key]).as_py(),
            unordered=unordered,
            first_ms=times["min"],
            last_ms=times["max"],
        )

    def _remember(self, events: pa.RecordBatch) -> None:
        """Lets windows know of rows that nothing else comes of."""
        prepared = self.use_case.preprocessor().prepare(events).rows
        for log, rows in _by_log(prepared):
            self._history(log).advance(rows, emit=False)

    def _history(self, log: tuple[str, int]) -> QueryHistory:
        if log not in self._histories:
            made = self.use_case.preprocessor().history()
            assert made is not None
            self._histories[log] = made
        return self._histories[log]

    def _through_windows(self) -> list[str]:
        """Takes the rows that wait through the SQL; what to say of those that were not in order."""
        if self.use_case.preprocessor().second_key is not None:
            return self._by_two_keys()
        before, after, keys = Unordered(), Unordered(), PartitionKeys()
        for history in self._histories.values():
            before.add(history)
        shared = None
        for number, blocks in enumerate(by_log(self._waiting, self.use_case.event_time)):
            log = ("", number)
            for events in blocks:
                if _PARTITION in events.schema.names and events.num_rows:
                    log = (events.column(_TOPIC)[0].as_py(), events.column(_PARTITION)[0].as_py())
                    shared = shared or self._seen_elsewhere(keys, events)
                self._take(events, self.use_case.preprocessor().apply(events, self._history(log)))
        self._waiting = []
        for history in self._histories.values():
            after.add(history)
        new = Unordered(after.late - before.late, after.alone - before.alone, after.future - before.future)
        phrases = new.phrases()
        if shared:
            phrases.append(
                f"partitions {shared[0]} and {shared[1]} hold records of the same {self.use_case.key}: they see a "
                "part of their past only, and a job refuses such a topic"
            )
        return phrases

    def _by_two_keys(self) -> list[str]:
        """The same of windows by two keys, those of the second over all logs at once."""
        preprocessor, unordered = self.use_case.preprocessor(), Unordered()
        for events, result in over_all(preprocessor, by_log(self._waiting, self.use_case.event_time), unordered):
            of_sample = ~events.column(_BEFORE).to_numpy(zero_copy_only=False)
            number = np.cumsum(of_sample) - 1  # of each row among those of the sample
            kept, errors = of_sample[result.kept], result.errors
            bad = [i for i, row in enumerate(errors.rows.tolist()) if of_sample[row]]
            errors = RowErrors(
                number[errors.rows[bad]], [errors.reasons[i] for i in bad], [errors.errors[i] for i in bad]
            )
            filtered = int(of_sample.sum() - kept.sum()) - len(bad)
            rows = result.rows.filter(pa.array(kept))
            taken = Preprocessed(rows, number[result.kept[kept]], filtered, errors)
            self._take(events.filter(pa.array(of_sample)), taken)
        self._waiting = []
        return unordered.phrases()

    def _seen_elsewhere(self, keys: PartitionKeys, events: pa.RecordBatch) -> tuple[int, int] | None:
        known = events.filter(pc.is_valid(events.column(self.use_case.key)))
        partitions = known.column(_PARTITION).to_numpy()
        return keys.elsewhere(texts(known.column(self.use_case.key)).cast(pa.string()), partitions)

    def _take(self, events: pa.RecordBatch, result: Preprocessed) -> None:
        preprocessor = self.use_case.preprocessor()
        self._filtered += result.filtered
        self._refuse("preprocess", result.errors)
        if result.filtered and len(self._filtered_examples) < MAX_EXAMPLES:
            self._show_filtered(events, result, preprocessor)
        self._passed.append(result.rows)
        given = events.select(list(preprocessor.input_columns))
        self._given.append(given)
        room = FIRST_ROWS - sum(rows.num_rows for rows in self._first)
        if room and len(result.kept):
            self._first.append(given.take(pa.array(result.kept[:room])))

    def _show_filtered(self, events: pa.RecordBatch, result: Preprocessed, preprocessor: Preprocessor) -> None:
        wheres = [where for where in (*(stage.where for stage in preprocessor.stages), preprocessor.where) if where]
        read = frozenset().union(*(where.columns for where in wheres))
        fields = [field for field in preprocessor.inputs if field.name in read]
        out = np.ones(events.num_rows, np.bool_)
        out[result.kept] = False
        out[result.errors.rows] = False
        for row in np.flatnonzero(out)[: MAX_EXAMPLES - len(self._filtered_examples)].tolist():
            values = [(field, events.column(field.name)[row].as_py()) for field in fields]
            said = [f"{field.name} {_said(value, field)}" for field, value in values]
            self._filtered_examples.append(", ".join(said))

    def _refuse(self, stage: str, errors: RowErrors) -> None:
        for reason, sentence in zip(errors.reasons, errors.errors, strict=True):
            self._counts[stage, reason] += 1
            known = self._examples.setdefault((stage, reason), [])
            if len(known) < MAX_EXAMPLES and sentence not in known:
                known.append(sentence)

    def _columns(self, preprocessor: Preprocessor, rows: pa.Table) -> Iterator[Column]:
        """Key, event time, inputs, features, attributes."""

        def out(names: Iterable[str], role: Role) -> Iterator[Column]:
            for name in names:
                first = rows[name][:FIRST_ROWS].to_pylist()
                yield column_of(name, role, preprocessor.units.get(name), rows[name], first)

        yield from out([preprocessor.key], "key")
        yield from out([preprocessor.event_time], "event time")
        unchanged = {o.name for o in preprocessor.outputs if o.field is not None and o.field.name == o.name}
        yield from self._inputs([field for field in preprocessor.inputs if field.name not in unchanged])
        yield from out(preprocessor.features, "feature")
        yield from out([name for name in preprocessor.attributes if name in rows.column_names], "attribute")

    def _inputs(self, fields: Sequence[Field]) -> Iterator[Column]:
        """Those of the fields that the SQL reads."""
        if not self._given:
            return
        given = pa.Table.from_batches(self._given)
        first = pa.Table.from_batches(self._first, given.schema)
        for one in fields:
            values = first[one.name].to_pylist()
            yield column_of(one.name, "input", one.unit, given[one.name], values, one.pii is not None)


def _six_digits(number: float) -> str:
    return f"{number:.6g}"


def _said(value: object, field: Field) -> str:
    if value is None:
        return "null"
    return shown(value, field.pii, _six_digits if isinstance(value, float) else str) + (
        f" {field.unit}" if field.unit and not field.pii else ""
    )


def _by_log(rows: pa.RecordBatch) -> Iterator[tuple[tuple[str, int], pa.RecordBatch]]:
    """The rows of each partition, in their order. All are of one topic."""
    partitions: NDArray[np.int32] = rows.column(_PARTITION).to_numpy()
    topic = rows.column(_TOPIC)[0].as_py() if rows.num_rows else ""
    for p in np.unique(partitions).tolist():
        yield (topic, p), rows.filter(pa.array(partitions == p))


def _with_before(rows: pa.RecordBatch, before: bool) -> pa.RecordBatch:
    return rows.append_column(_BEFORE, pa.array(np.full(rows.num_rows, before)))
