"""A query with windows by two keys, cut where its rows go from the partitions of one key to those of the other.

Before the cut stand the check of the rows, the innermost WHERE and the windows by the use case's key; behind it the
windows by the second key and the result. Labels that come apart join the rows behind the cut, so windows that are made
of labels are there as well: by the second key, or by the only one there is. What of a row is needed behind the cut is a
record of its own (``Legs.schema``): the results that are known already, and what the rest is computed from. Personal
data is only in it as what may leave: a result, a pseudonym.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.codec.schema import arrow_schema
from beam_jobs.errors import UserError
from beam_jobs.preprocessing.fields import Field
from beam_jobs.preprocessing.query.compiler import Compiled, Compiler, roots, with_steps
from beam_jobs.preprocessing.query.types import BOOLEAN, FLOAT, TEXT
from beam_jobs.preprocessing.stages import KEY, Inputs, QueryHistory, Stage, plain, texts
from beam_jobs.preprocessing.windows.order import OFFSET, ORDER, PARTITION, RECORD_TIME

_PLACE = {PARTITION: "int", OFFSET: "long", RECORD_TIME: "long", ORDER: "long"}  # of a row in its topic


def second_key_last(compiler: Compiler, stages: Sequence[Stage]) -> list[Stage]:
    """The stages in an order in which all that are by the key come before those by the second one.

    Raises:
      UserError: there is none, for one of them needs the others.
    """
    before: list[Stage] = []
    behind: list[Stage] = []
    (second,) = compiler.second_keys
    for stage in stages:
        if stage.by is not None:
            behind.append(stage)
            continue
        known = {window.column for other in behind for window in other.windows}
        chosen = bool(behind) and any(each.where is not None for each in (*behind, stage))
        if chosen or any(known & roots(value) for value in stage.reads):
            compiler.fail(
                None,
                f"windows by {compiler.key} need what windows by {second} chose or computed, and rows go from one key "
                f"to the other once; put the windows by {second} into the outermost SELECT",
            )
        before.append(stage)
    if not before:
        compiler.fail(
            None,
            f"all windows are by {second}, and none by the key {compiler.key}; make {second} the key of a use case of "
            "its own, on a topic with that key",
        )
    return [*before, *behind]


@dataclass(frozen=True)
class Result:
    """A column of the result, or the last WHERE."""

    value: Compiled
    expr: pl.Expr  # it, ready to be brought to its type
    field: str | None  # that it is, unchanged; None: it is computed
    type: pa.DataType


@dataclass(frozen=True)
class Shipped:
    """A column that goes along."""

    column: str  # of the rows behind the cut
    avro: Any  # its type
    result: Result | None = None  # what it is; None: a column of the rows before the cut


class Legs:
    """The two parts of a query.

    Args:
      results: by name, the last WHERE as "".
      fields: of the events that the query reads.
      carry: Avro types of fields that go along as they are, columns ``carry:NAME``.
      apart: labels come apart from the events, and join the rows behind the cut.
      made_by: another one for another query, whose records may look the same.

    Attributes:
      second: the field that is the second key.
      windows: columns of the windows before the cut.
      known: names of ``results`` that are computed before the cut; behind it they are columns ``result:NAME``.
      fields: of the events that go along.
      schema: Avro record schema of what goes along.
      schema_id: tells records of this query from those of others.
      of_labels: names of the fields that labels come with, where they come apart.
      label_wheres: what chooses among them, as among their events.

    Raises:
      UserError: what is computed behind the cut reads personal data, or labels can't join there.
    """

    def __init__(
        self,
        results: Mapping[str, Result],
        stages: Sequence[Stage],
        fields: Sequence[Field],
        inputs: Inputs,
        source: str,
        carry: Mapping[str, Any],
        apart: bool = False,
        made_by: str = "",
    ) -> None:
        self._inputs = inputs
        self.second = by = next((stage.by for stage in stages if stage.by is not None), inputs.key)
        is_behind = [stage.by is not None or (apart and stage.labels) for stage in stages]
        self._before = tuple(stage for stage, behind in zip(stages, is_behind, strict=True) if not behind)
        self.windows = tuple(window.column for stage in self._before for window in stage.windows)
        self.behind = tuple(replace(stage, by=by) for stage, behind in zip(stages, is_behind, strict=True) if behind)
        self.label_wheres = _wheres(stages, is_behind, inputs, by, source) if apart else ()
        self.of_labels = frozenset[str]()
        if apart:
            values = [*self.label_wheres, *(value for stage in stages if stage.labels for value in stage.reads)]
            self.of_labels = _joining(values, inputs, source) | {by, inputs.key, inputs.event_time}
        late = {window.column for stage in self.behind for window in stage.windows}
        self.known = frozenset(name for name, result in results.items() if not roots(result.value) & late)
        rest = [(name or "the WHERE", result.value) for name, result in results.items() if name not in self.known]
        of_windows = [(f"a window by {by}", value) for stage in self.behind for value in stage.reads]
        needed: set[str] = {inputs.event_time}
        by_name = {field.name: field for field in fields}
        if inputs.event_time in by_name and by_name[inputs.event_time].pii:
            raise UserError(
                f"{source}: windows by {by} see rows by their {inputs.event_time}, personal data "
                f"(pii: {by_name[inputs.event_time].pii}), and it may not pass through their topic; leave them out"
            )
        for what, value in (*rest, *of_windows):
            wanted = roots(value) - late
            tagged = sorted(name for name in wanted & by_name.keys() if by_name[name].pii)
            if tagged:
                raise UserError(
                    f"{source}: {what} needs {tagged[0]}, personal data (pii: {by_name[tagged[0]].pii}), "
                    f"where windows by {by} are known, and it may not pass through their topic; use "
                    f"pseudonymize({tagged[0]}), or select it in a column of its own"
                )
            needed |= wanted
        self.fields = tuple(field for field in fields if field.name in needed)
        self.protected = tuple(each for each in inputs.protected if each.column in needed)
        shipped = [Shipped(field.name, _avro(field, apart)) for field in self.fields]
        shipped += [Shipped(each.column, ["null", "string"]) for each in self.protected]
        shipped += [Shipped(name, ["null", "double"]) for name in sorted(needed) if name.startswith("window:")]
        avro = {pa.float32(): "float", pa.string(): "string", pa.bool_(): "boolean"}
        shipped += [
            Shipped(f"result:{name}", ["null", avro[result.type]], result)
            for name, result in results.items()
            if name in self.known
        ]
        shipped += [Shipped(f"carry:{name}", _nullable(type_)) for name, type_ in carry.items()]
        self._shipped = shipped
        self.schema: dict[str, Any] = {
            "type": "record",
            "name": "Row",
            "namespace": "highbeam.repartition",
            "doc": made_by,
            "fields": [
                *({"name": name.strip("_:"), "type": type_} for name, type_ in _PLACE.items()),
                *({"name": f"x{i}", "type": each.avro, "doc": each.column} for i, each in enumerate(shipped)),
            ],
        }

        self.schema_id = zlib.crc32(json.dumps(self.schema, sort_keys=True).encode()) >> 1

    def writer_schema(self, schema_id: int) -> Mapping[str, Any]:
        """The schema of an id, as decoders ask for it."""
        if schema_id != self.schema_id:
            raise LookupError("of another SQL")
        return self.schema

    def before(self) -> QueryHistory:
        """What the windows by the key know of a partition, at the start."""
        return QueryHistory(self._before, self._inputs, "before")

    def ship(self, rows: pa.RecordBatch) -> tuple[pa.Array, pa.RecordBatch]:
        """The second key of each row, as a text, and what of it goes along (``schema``).

        Args:
          rows: of ``Preprocessor.prepare``, then of ``before().advance``, with their places in their topic, and what is
            carried, as far as it is known.
        """
        computed = [e.result.value for e in self._shipped if e.result is not None and e.result.field is None]
        rows = self._inputs.represented(rows)
        read = frozenset[str]().union(*map(roots, computed))
        frame = with_steps(self._inputs.frame(rows, read), computed)
        columns = [_plain_times(rows.column(name)) for name in _PLACE]
        types = arrow_schema(self.schema).types[len(_PLACE) :]
        for each, type_ in zip(self._shipped, types, strict=True):
            if each.result is None:
                known = each.column in rows.schema.names
                columns.append(texts(rows.column(each.column)) if known else pa.nulls(rows.num_rows, type_))
                continue
            if each.result.field is not None:
                array = plain(rows.column(each.result.field))
            else:
                array = frame.select(each.result.expr.alias("value")).get_column("value").rechunk().to_arrow()
            columns.append(pc.cast(array, each.result.type, safe=False))
        names = [field["name"] for field in self.schema["fields"]]
        return self._inputs.keys(rows, self.second), pa.RecordBatch.from_arrays(columns, names=names)

    def ship_labels(self, rows: pa.RecordBatch) -> tuple[pa.Array, pa.RecordBatch]:
        """As ``ship``, of labels: what they do not come with is null.

        Args:
          rows: of ``Preprocessor.labelled(...).prepare``, with their places in their topic.
        """
        types = arrow_schema(self.schema).types[len(_PLACE) :]
        columns = [_plain_times(rows.column(name)) for name in _PLACE]
        for each, type_ in zip(self._shipped, types, strict=True):
            known = each.column in rows.schema.names
            columns.append(texts(rows.column(each.column)) if known else pa.nulls(rows.num_rows, type_))
        names = [field["name"] for field in self.schema["fields"]]
        return self._inputs.keys(rows, self.second), pa.RecordBatch.from_arrays(columns, names=names)

    def received(self, keys: pa.Array, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The rows behind the cut, of what ``ship`` gave."""
        names = [*_PLACE, *(each.column for each in self._shipped), KEY]
        found = pa.RecordBatch.from_arrays([*rows.columns, keys.cast(pa.string())], names=names)
        i = found.schema.get_field_index(RECORD_TIME)
        times = found.column(i).cast(pa.timestamp("ms", "UTC"))
        return found.set_column(i, RECORD_TIME, times)

    def value(self, name: str, is_feature: bool) -> Compiled:
        """Behind the cut, a value that was ``known`` before it."""
        type_ = BOOLEAN if not name else FLOAT if is_feature else TEXT
        return Compiled(pl.col(f"result:{name}"), type_, f"(known {name})")


def _wheres(
    stages: Sequence[Stage], is_behind: Sequence[bool], inputs: Inputs, by: str, source: str
) -> tuple[Compiled, ...]:
    """What chooses the rows that windows of labels are made of.

    Raises:
      UserError: labels can't join these stages behind the cut.
    """
    numbers = [number for number, stage in enumerate(stages) if stage.labels]
    if not numbers:
        raise UserError(f"{source}: no window reads the label, so labels are of no use to it; leave out --label_topic")
    if any(stages[number].by is None for number in numbers) and by != inputs.key:
        raise UserError(
            f"{source}: --label_topic: labels come to one key, and windows by {inputs.key} and by {by} need a topic "
            f"for {by} alone; have the windows that read the label PARTITION BY {by}"
        )
    late, chosen = set[str](), False
    for stage, behind in zip(stages, is_behind, strict=True):
        if behind:
            late |= {window.column for window in stage.windows}
            chosen = chosen or stage.where is not None
            continue
        needs = chosen or stage.where is not None or any(late & roots(value) for value in stage.reads)
        if is_behind[0] or (late and needs):
            raise UserError(f"{source}: --label_topic: put the windows that read the label into the outermost SELECT")
    return tuple(stage.where for stage in stages[: numbers[-1] + 1] if stage.where is not None)


def _joining(values: Sequence[Compiled], inputs: Inputs, source: str) -> frozenset[str]:
    """The fields that a label must come with to be a row of the windows that are made of labels.

    Args:
      values: what these compute, and what chooses rows for them.

    Raises:
      UserError: they need more.
    """
    wanted = set[str]().union(*(roots(value) for value in values))
    if any(name.startswith("window:") for name in wanted):
        raise UserError(
            f"{source}: --label_topic: a label comes with fields of its event alone, and a window that reads it needs "
            "what other windows computed or chose; leave that out of its argument, and of the WHERE before it"
        )
    stand_for = {each.column: each.field for each in inputs.protected}
    return frozenset(stand_for.get(name, name) for name in wanted)


def _avro(field: Field, nullable: bool) -> Any:
    """Avro type of a field behind the cut: texts of any kind are texts."""
    type_ = field.type if field.kind != "string" else ["null", "string"] if field.nullable else "string"
    return _nullable(type_) if nullable else type_


def _nullable(type_: Any) -> Any:
    branches = type_ if isinstance(type_, list) else [type_]
    return branches if "null" in branches else ["null", *branches]


def _plain_times(array: pa.Array) -> pa.Array:
    return array.view(pa.int64()) if pa.types.is_timestamp(array.type) else array
