"""A compiled query at work: event blocks in; features, the count of filtered rows and row errors out."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from beam_jobs.codec.columns import rounded_down
from beam_jobs.errors import RowErrors
from beam_jobs.jit import stamp
from beam_jobs.preprocessing import checks
from beam_jobs.preprocessing import windows as loops
from beam_jobs.preprocessing.fields import Field
from beam_jobs.preprocessing.legs import Legs, Result
from beam_jobs.preprocessing.pii import PiiPolicy, Protected
from beam_jobs.preprocessing.query.compiler import Compiled, join, roots, with_steps
from beam_jobs.preprocessing.query.personal import unit_of
from beam_jobs.preprocessing.query.types import BOOLEAN, DOUBLE, TIMESTAMP, converted
from beam_jobs.preprocessing.query.windows import hashes_stamp
from beam_jobs.preprocessing.stages import Inputs, Part, QueryHistory, Stage, plain
from beam_jobs.preprocessing.windows.frames import Lateness

_EVENT_TIME_TYPE = pa.timestamp("ms", "UTC")
_WHERE = "where:"  # beside the output columns in one frame; their names have no colon


@dataclass(frozen=True)
class Output:
    """One column of the result."""

    name: str
    value: Compiled
    field: Field | None  # the field it is, unchanged; None: computed
    is_feature: bool  # a number for the model; else the key, the event time or an attribute


@dataclass(frozen=True)
class Prepared:
    """What happened to the n rows of a block on the way to the windows; ``len(kept) + filtered + len(errors) == n``."""

    rows: pa.RecordBatch  # columns of the events, and what windows aggregate
    kept: NDArray[np.int64]  # input row of each of these rows, ascending, int64 [rows.num_rows]
    filtered: int  # rows the WHERE removed
    errors: RowErrors  # reasons: out_of_range, not_finite, null_key, null_event_time


@dataclass(frozen=True)
class Preprocessed:
    """What happened to the n rows of a block; ``len(kept) + filtered + len(errors) == n``."""

    rows: pa.RecordBatch  # Preprocessor.output_schema
    kept: NDArray[np.int64]  # input row of each output row, ascending, int64 [rows.num_rows]
    filtered: int  # rows the WHERE removed
    errors: RowErrors  # reasons: out_of_range, not_finite, null_feature, null_key, null_event_time


class Preprocessor:
    """The preprocessing of a use case; made by compile_sql.

    Attributes:
      input_columns: fields the query reads; nothing else needs to be decoded.
      output_schema: key (string), event time (timestamp ms UTC), features (float32), attributes (string, nullable),
        in the order of the SELECT.
      features: the numeric columns, in order; the input of the model.
      attributes: text columns beside the key: carried along, never a model's input.
      inputs: the fields themselves.
      protected: what it reads of them under a key.
      stages, windows: what of rows before the columns are computed from; with any, rows need the history of their
        partition.
      where: chooses among the rows behind the windows; None: all.
      outputs: the columns of the result, in order.
      second_key: the field that windows are by beside the key; None: there are none. See ``legs``.
      lateness: which late rows windows see.
      time_unit: what event times are cut to, for they are personal: "hour"; None: they are as they came.
      units: unit of each feature that is a field unchanged, else None.
      fingerprint: sha256 (hexadecimal) of all that decides which values come out; no secret goes into it.
    """

    def __init__(
        self,
        *,
        outputs: Sequence[Output],
        where: Compiled | None,
        stages: Sequence[Stage] = (),
        inputs: Sequence[Field],
        protected: frozenset[Protected],
        policy: PiiPolicy,
        key: str,
        event_time: str,
        lateness: Lateness,
        fingerprint: str,
        recipe: Callable[[], Preprocessor],
        part: Part = "whole",
        source: str = "SQL",
    ) -> None:
        self.key = key
        self.event_time = event_time
        self.lateness = lateness
        self.fingerprint = fingerprint
        self.input_columns = tuple(field.name for field in inputs)
        self.personal = any(field.pii for field in inputs)  # it reads values that no message may show
        self.features = tuple(output.name for output in outputs if output.is_feature)
        self.attributes = tuple(
            output.name for output in outputs if not output.is_feature and output.name not in (key, event_time)
        )
        self.time_unit = next(unit_of(o.value.text, event_time) for o in outputs if o.name == event_time)
        self.units = {o.name: o.field.unit if o.field else None for o in outputs if o.is_feature}
        self.output_schema = pa.schema([self._arrow_field(output) for output in outputs])
        self.inputs, self.where = tuple(inputs), where
        self._no_rows = pa.RecordBatch.from_pylist([], self.output_schema)
        self.outputs = tuple(outputs)
        self._policy = policy
        self.protected = tuple(sorted(protected, key=lambda each: each.text))
        self._recipe = recipe
        self.stages = tuple(stages)
        self.windows = tuple(window for stage in stages for window in stage.windows)
        self.second_key = next((stage.by for stage in stages if stage.by is not None), None)
        self._part: Part = part
        self._source = source
        self._computed = [o.value for o in outputs if not o.field]
        self._exprs = [_output_expr(o.value, self._dtype(o)).alias(o.name) for o in outputs if not o.field]
        if where is not None:
            self._computed.append(where)
            self._exprs.append(where.expr.fill_null(False).alias(_WHERE))
        self._read = frozenset[str]().union(*map(roots, self._computed))
        read = [*self._computed, *(value for stage in stages for value in stage.reads)]
        frame_fields = [f for f in inputs if any(f.name in value.columns for value in read)]
        self._inputs = Inputs(frame_fields, self.protected, policy, key, event_time, lateness)
        self._ranged = [f for f in inputs if f.kind == "timestamp" or f.floating or _has_limit(f)]
        # A field that is never null and stays inside float32 by its limits was checked before the query.
        self._checked_features = [o.name for o in outputs if o.is_feature and not (o.field and _always_finite(o.field))]
        self._may_lack_key = any(f.nullable for f in inputs if f.name in (key, event_time))

    def __reduce__(self) -> tuple[Any, ...]:
        return self._recipe, ()

    def _arrow_field(self, output: Output) -> pa.Field:
        if output.name == self.event_time:
            return pa.field(output.name, _EVENT_TIME_TYPE, nullable=False)
        if output.is_feature:
            return pa.field(output.name, pa.float32(), nullable=False)
        return pa.field(output.name, pa.string(), nullable=output.name != self.key)

    def _dtype(self, output: Output) -> Any:
        if output.name == self.event_time:
            return TIMESTAMP.dtype  # cut to a unit
        return pl.Float32 if output.is_feature else pl.String

    @property
    def secret_references(self) -> Sequence[str]:
        """Where the keys are that the query uses."""
        known = self._policy.references()
        return sorted({known[key_id] for key_id in self._key_ids()})

    def check_secrets(self) -> None:
        """UserError if a key that the query uses can't be read here; for the start of a job."""
        for key_id in self._key_ids():
            self._policy.secret(key_id)

    def _key_ids(self) -> Sequence[str]:
        used = {self._policy.current if each.key_id is None else each.key_id for each in self.protected}
        return sorted(used)

    def state_key(self) -> str:
        """Names what windows know, a function of the log and of this: the query, the code, the keys it uses."""
        parts = [self.fingerprint.encode(), stamp(Path(loops.__file__).parent), hashes_stamp()]
        parts += [hmac.digest(self._policy.secret(key_id), b"windows", "sha256") for key_id in self._key_ids()]
        return hashlib.sha256(b" ".join(parts)).hexdigest()[:16]

    def warm_up(self) -> None:
        """Starts Polars' engine, 5 ms, and compiles the loops of windows, so that the first block waits for neither."""
        pl.DataFrame({"a": [0.0]}).select(pl.col("a") + 1.0)
        history = self.history()
        if history is not None:
            history.warm_up()

    def history(self) -> QueryHistory | None:
        """What the windows know of the rows of one partition, at the start: of none. None: the query has no windows."""
        return QueryHistory(self.stages, self._inputs, self._part) if self.stages else None

    def legs(self, carry: Mapping[str, Any] = MappingProxyType({}), apart: bool = False) -> Legs:
        """The parts before and behind the second key, of a query that has one.

        Args:
          carry: Avro types of fields of the events that go along beside, by name.
          apart: labels come apart from the events, and join the rows behind the cut.

        Raises:
          UserError: what is computed behind it reads personal data.
        """
        results = {}
        for o in self.outputs:
            if o.name != self.event_time:
                expr = _output_expr(o.value, self._dtype(o))
                field = None if o.field is None else o.field.name
                results[o.name] = Result(o.value, expr, field, pa.float32() if o.is_feature else pa.string())
        if self.where is not None:
            results[""] = Result(self.where, self.where.expr, None, pa.bool_())
        return Legs(results, self.stages, self.inputs, self._inputs, self._source, carry, apart, self.fingerprint)

    def labelled(self, legs: Legs) -> Preprocessor:
        """What labels that come apart pass through on their way to ``legs``: its ``prepare``."""
        where: Compiled | None = None
        for other in legs.label_wheres:
            where = other if where is None else join("and", BOOLEAN, where.expr & other.expr, where, other)
        return Preprocessor(
            outputs=[output for output in self.outputs if output.name == self.event_time],
            where=None,
            stages=[Stage(where, ())],
            inputs=[field for field in self.inputs if field.name in legs.of_labels],
            protected=frozenset(each for each in self.protected if each.field in legs.of_labels),
            policy=self._policy,
            key=self.key,
            event_time=self.event_time,
            lateness=self.lateness,
            fingerprint=self.fingerprint,
            recipe=self._recipe,
        )

    def behind(self, legs: Legs) -> Preprocessor:
        """What takes the rows of the part before the second key on: its ``history`` and ``finish``."""
        outputs = [
            replace(o, value=legs.value(o.name, o.is_feature), field=None) if o.name in legs.known else o
            for o in self.outputs
        ]
        return Preprocessor(
            outputs=outputs,
            where=legs.value("", False) if "" in legs.known else self.where,
            stages=legs.behind,
            inputs=legs.fields,
            protected=frozenset(legs.protected),
            policy=self._policy,
            key=self.key,
            event_time=self.event_time,
            lateness=self.lateness,
            fingerprint=self.fingerprint,
            recipe=self._recipe,
            part="behind",
        )

    def apply(self, events: pa.RecordBatch, history: QueryHistory | None = None) -> Preprocessed:
        """Checks the rows, filters them and computes their features: ``prepare``, the history, ``finish``.

        Args:
          events: at least ``input_columns``, of the Arrow types the codec gives their Avro types, any number of rows;
            ``_timestamp``, where it is, has the time of each record.
          history: of the rows before, in the same order; takes these rows in. Needed where the query has windows.
        """
        if self.stages and history is None:
            raise ValueError("the query has windows: apply needs a history (Preprocessor.history())")
        prepared = self.prepare(events)
        rows, kept = prepared.rows, prepared.kept
        if history is not None and self.stages:
            rows, chosen = history.advance(rows)
            kept = kept[chosen]
        done = self.finish(rows)
        if len(kept) == events.num_rows:
            return done  # no row was left out before, so its rows are counted as those of the events are
        errors = done.errors
        if len(errors):
            errors = RowErrors(kept[errors.rows], errors.reasons, errors.errors)
        errors = checks.merge(prepared.errors, errors)
        kept = kept[done.kept]
        return Preprocessed(done.rows, kept, events.num_rows - len(errors) - len(kept), errors)

    def prepare(self, events: pa.RecordBatch) -> Prepared:
        """Checks the rows and chooses those that the windows are about; a function of the rows alone.

        A row is checked before the WHERE sees it: a broken record is an error, never silently filtered. The rows that
        the WHERE lets through are those that windows are made of.

        Args:
          events: as ``apply`` takes them; other columns are carried along.
        """
        n = events.num_rows
        kept = _rows(n)
        errors = checks.check_ranges(events, self._ranged) if n else RowErrors.none()
        if self._may_lack_key:
            errors = checks.merge(errors, checks.check_present(events, self.key, self.event_time))
        if len(errors):
            kept = errors.good_rows(n)
            events = events.take(pa.array(kept))  # the query never meets a value outside the limits
        if self.stages:
            events, chosen = self.stages[0].ready(events, self._inputs)
            kept = kept[chosen]
        return Prepared(events, kept, n - len(errors) - len(kept), errors)

    def finish(self, rows: pa.RecordBatch) -> Preprocessed:
        """Computes the columns of the result; a function of the rows alone.

        Args:
          rows: of ``prepare``, then, where the query has windows, of ``QueryHistory.advance``. Any of them, in their
            order.

        Returns:
          ``kept`` and the rows of ``errors`` (not_finite, null_feature) count in ``rows``.
        """
        n = rows.num_rows
        if n == 0:
            return Preprocessed(self._no_rows, _rows(0), 0, RowErrors.none())
        kept = _rows(n)
        computed, where = self._evaluate(rows)
        columns = [computed[o.name] if o.field is None else plain(rows.column(o.field.name)) for o in self.outputs]
        done = pa.RecordBatch.from_arrays(self._converted(columns), schema=self.output_schema)
        if where is not None and not where.all():
            done, kept = done.filter(pa.array(where)), kept[where]
        filtered = n - len(kept)
        late = checks.check_features(done, self._checked_features) if len(kept) else RowErrors.none()
        if len(late):
            good = late.good_rows(len(kept))
            late = RowErrors(kept[late.rows], late.reasons, late.errors)
            done, kept = done.take(pa.array(good)), kept[good]
        return Preprocessed(done, kept, filtered, late)

    def _converted(self, columns: Sequence[pa.Array]) -> list[pa.Array]:
        """The columns in the output types; what float32 can't hold becomes infinite, times are rounded down.

        The features lie one behind the other in one buffer, where the model takes them from without a copy.
        """
        n = len(columns[0])
        matrix = np.empty((len(self.features), n), np.float32)
        flat, place, converted = pa.array(matrix.reshape(-1)), iter(range(len(matrix))), []
        for output, array, type_ in zip(self.outputs, columns, self.output_schema.types, strict=True):
            at = next(place) if output.is_feature else -1
            if at >= 0 and not array.null_count and not pa.types.is_boolean(array.type):
                with np.errstate(over="ignore"):
                    matrix[at] = array.to_numpy()  # a third of the time of Arrow's cast
                converted.append(flat.slice(at * n, n))
            elif pa.types.is_timestamp(type_):
                converted.append(array if array.type == type_ else rounded_down(array, type_))
            else:
                converted.append(array if array.type == type_ else pc.cast(array, type_, safe=False))
        return converted

    def _evaluate(self, rows: pa.RecordBatch) -> tuple[dict[str, pa.Array], NDArray[np.bool_] | None]:
        """The computed columns by name, and the rows the WHERE lets through (None: all that are left)."""
        if not self._exprs:
            return {}, None
        frame = self._inputs.frame(self._inputs.represented(rows), self._read)
        result = with_steps(frame, self._computed).select(self._exprs)
        columns = {o.name: result.get_column(o.name).to_arrow() for o in self.outputs if o.field is None}
        return columns, result.get_column(_WHERE).to_numpy() if _WHERE in result.columns else None


def _rows(n: int) -> NDArray[np.int64]:
    return np.arange(n, dtype=np.int64)


def _has_limit(field: Field) -> bool:
    return field.minimum is not None or field.maximum is not None


def _always_finite(field: Field) -> bool:
    """Whether a value that passed the check of its range is a finite float32."""
    if field.nullable or field.kind == "boolean":
        return not field.nullable
    if not field.floating:
        return isinstance(field.type, str)  # int and long; a decimal may be larger
    largest = float(np.finfo(np.float32).max)
    return (
        field.minimum is not None and field.maximum is not None and -largest < field.minimum <= field.maximum < largest
    )


def _output_expr(value: Compiled, dtype: Any) -> pl.Expr:
    """The value in the type of its column; what float32 can't hold becomes infinite."""
    return (converted(value.expr, value.type, DOUBLE) if value.type.exact else value.expr).cast(dtype)
