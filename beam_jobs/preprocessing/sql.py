"""Preprocessing as one SQL query, compiled once, applied to block after block.

>>> import pyarrow as pa
>>> schema = {"type": "record", "name": "Car", "fields": [
...     {"name": "car_id", "type": "string"},
...     {"name": "event_time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
...     {"name": "speed", "type": "double", "unit": "m/s", "min": 0, "max": 100},
...     {"name": "vibration", "type": "double"}]}
>>> query = compile_sql('''SELECT car_id, event_time, speed, vibration / (speed + 1) AS vibration_per_speed
...                        FROM events WHERE speed > 1''', schema, key="car_id", event_time="event_time")
>>> query.features, query.units
(('speed', 'vibration_per_speed'), {'speed': 'm/s', 'vibration_per_speed': None})
>>> result = query.apply(pa.record_batch({
...     "car_id": ["a", "b", "c"],
...     "event_time": pa.array([0, 1, 2], pa.timestamp("ms", "UTC")),
...     "speed": [0.5, 9.0, 250.0],
...     "vibration": [1.0, 20.0, 3.0]}))
>>> result.rows.column("vibration_per_speed").to_pylist(), result.kept.tolist(), result.filtered
([2.0], [1], 1)
>>> result.errors.rows.tolist(), result.errors.errors
([2], ['speed is 250 m/s, expected 0 to 100'])

The SQL is one ``SELECT ... FROM events [WHERE ...] [WINDOW ...]`` over the fields of the event schema, or over a
sub-select of this form, in DuckDB's dialect: standard SQL in which ``/`` divides to a fraction and the whole data set
can be queried with the same file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlglot import exp

from beam_jobs.errors import UserError
from beam_jobs.preprocessing.fields import Field, fields_of
from beam_jobs.preprocessing.legs import second_key_last
from beam_jobs.preprocessing.pii import PiiPolicy, Protected
from beam_jobs.preprocessing.preprocessor import Output, Preprocessor
from beam_jobs.preprocessing.query.compiler import Compiled, Compiler, a_kind, join
from beam_jobs.preprocessing.query.expressions import HANDLERS, SEMANTICS_VERSION, float32_literal
from beam_jobs.preprocessing.query.parser import DIALECT, parse, with_room
from beam_jobs.preprocessing.query.personal import unit_of
from beam_jobs.preprocessing.query.types import BOOLEAN
from beam_jobs.preprocessing.stages import Stage
from beam_jobs.preprocessing.windows.frames import DEFAULT_LATENESS, Lateness

__all__ = ["compile_sql", "compile_condition", "parse_query", "Query", "Preprocessor"]

_FORM = "the SQL is one SELECT ... FROM events [WHERE ...] [WINDOW ...]"
_CONDITION_FORM = "it is what a WHERE may hold, such as speed = 0 AND current_draw < 1"
_NUMBER_FORM = "it is a number over the features, such as count_30d / 4320"


@dataclass(frozen=True)
class Query:
    """A query that was checked and can run, row by row."""

    outputs: tuple[Output, ...]  # in the order of the SELECT
    where: Compiled | None  # behind the windows
    stages: tuple[Stage, ...]  # with the windows, innermost first
    protected: frozenset[Protected]  # what it reads of fields under a key

    @property
    def wheres(self) -> list[Compiled]:
        """What chooses rows, innermost first."""
        return [where for where in (*(stage.where for stage in self.stages), self.where) if where is not None]

    @property
    def values(self) -> list[Compiled]:
        """Everything that is computed."""
        arguments = [value for stage in self.stages for value in stage.reads]
        return [*(output.value for output in self.outputs), *arguments, *self.wheres]


def compile_sql(
    sql: str,
    schema: Mapping[str, Any],
    pii: PiiPolicy | None = None,
    *,
    key: str,
    event_time: str,
    lateness: Lateness = DEFAULT_LATENESS,
    source: str = "SQL",
) -> Preprocessor:
    """Parses, checks and compiles the SQL of a use case.

    Args:
      sql: one SELECT over the table ``events``.
      schema: the reader's Avro record schema of an event.
      pii: how personal data is handled; None: no key, so nothing can be pseudonymised.
      key: field and output column that names the device, account or whatever the events are about.
      event_time: field and output column with the time of the event (timestamp-millis or -micros).
      lateness: how late rows may be that windows see, and are computed for.
      source: what errors call the SQL, such as its file name.

    Raises:
      UserError: one line with the place in the SQL, the reason and the remedy.
    """
    policy = pii or PiiPolicy()
    fields = fields_of(schema)
    for role, name in (("key", key), ("event_time", event_time)):
        if name not in fields:
            raise UserError(f"{role} is {name} but the schema has no such field; it has {', '.join(fields)}")
    if fields[event_time].kind != "timestamp":
        raise UserError(
            f"event_time is {event_time}, {a_kind(fields[event_time].kind)}; use a timestamp-millis or -micros field"
        )
    if fields[key].kind not in ("string", "number") or fields[key].floating:
        raise UserError(f"key is {key} of type {json.dumps(fields[key].type)}; use a string, int or long field")
    query = parse_query(sql, fields, key, event_time, source, lateness.label_ms * 1000)
    for each in sorted(query.protected, key=lambda each: each.text):
        _check_key(each, policy, source)
    read = frozenset({stage.by for stage in query.stages}).union(*(value.columns for value in query.values))
    inputs = tuple(field for name, field in fields.items() if name in read)
    compiled = Preprocessor(
        outputs=query.outputs,
        where=query.where,
        stages=query.stages,
        inputs=inputs,
        protected=query.protected,
        policy=policy,
        key=key,
        event_time=event_time,
        lateness=lateness,
        fingerprint=_fingerprint(query, inputs, key, event_time, lateness),
        # Compiled again where it is unpickled: expressions of one Polars version may not load in another.
        recipe=partial(
            compile_sql, sql, dict(schema), policy, key=key, event_time=event_time, lateness=lateness, source=source
        ),
        source=source,
    )
    if compiled.second_key is not None:
        compiled.legs()  # which refuses what may not leave
    return compiled


def _check_key(protected: Protected, policy: PiiPolicy, source: str) -> None:
    call, known = f"{protected.how}({protected.field})", policy.references()
    if protected.how == "encrypt" and not policy.keys:
        raise UserError(
            f"{source}: {call} needs a key with an id, which stands before what it encrypts; "
            "add `pii: {keys: {2026-11: env:HIGHBEAM_PII_KEY}}` to use_case.yaml"
        )
    if not known:
        raise UserError(f"{source}: {call} needs a key; add `pii: {{key: env:HIGHBEAM_PII_KEY}}` to use_case.yaml")
    if protected.key_id is not None and protected.key_id not in known:
        ids = ", ".join(repr(key_id) for key_id in known)
        raise UserError(f"{source}: {call} names the key {protected.key_id!r}; pii.keys in use_case.yaml has {ids}")


def compile_condition(sql: str, features: Sequence[str], source: str) -> Compiled:
    """Parses, checks and compiles what a WHERE may hold, over features: float32 columns, not null.

    Its numbers are rounded to float32, as the features are: ``ratio = 0.1`` holds for a feature that was 0.1.

    Raises:
      UserError: one line with the place in the SQL, the reason and the remedy.
    """
    fields = {name: Field(name, "number", "float", True, False, None, None, None, None, False) for name in features}
    compiler = Compiler({**HANDLERS, exp.Literal: float32_literal}, fields, sql, source, key="", event_time="")
    return with_room(lambda: _compile_condition(compiler), source)


def compile_number(sql: str, features: Sequence[str], source: str) -> Compiled:
    """The same of a number over features.

    Raises:
      UserError: as above.
    """
    fields = {name: Field(name, "number", "float", True, False, None, None, None, None, False) for name in features}
    compiler = Compiler(HANDLERS, fields, sql, source, key="", event_time="")
    return with_room(lambda: _compile_number(compiler), source)


def _compile_number(compiler: Compiler) -> Compiled:
    number = parse(compiler.sql, compiler.source, _NUMBER_FORM, exp.Condition)
    if number.find(exp.Window):
        compiler.fail(number, "it is told by the row's own features, so no window is known here; remove it")
    compiled = compiler.compile(number)
    if compiled.kind != "number":
        compiler.fail(number, f"it is {a_kind(compiled.kind)}; it needs a number")
    return compiled


def _compile_condition(compiler: Compiler) -> Compiled:
    condition = parse(compiler.sql, compiler.source, _CONDITION_FORM, exp.Condition)
    if condition.find(exp.Window):
        compiler.fail(condition, "a row is called normal by its own features, so no window is known here; remove it")
    compiled = compiler.compile(condition)
    if compiled.kind != "boolean":
        compiler.fail(condition, f"it is {a_kind(compiled.kind)}; it needs a comparison")
    if not compiled.columns:
        compiler.fail(condition, f"it is the same for every row; use one of {', '.join(compiler.fields)}")
    return compiled


def parse_query(
    sql: str, fields: Mapping[str, Field], key: str, event_time: str, source: str, label_us: int = 0
) -> Query:
    """The checked query; UserError as in compile_sql.

    Args:
      label_us: how long labels may take, in microseconds; 0: it is not said.
    """
    return with_room(lambda: _parse_query(Compiler(HANDLERS, fields, sql, source, key, event_time, label_us)), source)


def _parse_query(compiler: Compiler) -> Query:
    select = parse(compiler.sql, compiler.source, _FORM)
    stages: list[Stage] = []
    pending = _enter(compiler, select, stages)
    outputs = [_output(compiler, item) for item in select.expressions]
    pending = _leave(compiler, select, stages, pending)
    names: set[str] = set()
    for item, output in zip(select.expressions, outputs, strict=True):
        _new_name(compiler, item, output.name, names)
    for name in (compiler.key, compiler.event_time):
        if name not in {output.name for output in outputs}:
            compiler.fail(None, f"{name} is missing in the SELECT; add it, every row needs its key and its time")
    if not any(output.is_feature for output in outputs):
        compiler.fail(None, "the SELECT has no numeric column beside the key and the time; a model needs a feature")
    if compiler.second_keys:
        stages = second_key_last(compiler, stages)
    return Query(tuple(outputs), pending, tuple(stages), frozenset(compiler.protected))


def _enter(compiler: Compiler, select: Any, stages: list[Stage]) -> Compiled | None:
    """Compiles what a SELECT reads from, which its expressions may name then; adds the stages of the windows in there.

    Returns:
      What still chooses among the rows that come out of them.
    """
    _check_clauses(compiler, select)
    source = select.args.get("from_") or select.args.get("from")
    table = source.this if source is not None else None
    pending = None
    if isinstance(table, exp.Subquery):
        inner = table.this
        pending = _enter(compiler, inner, stages)
        columns = _columns(compiler, inner)
        pending = _leave(compiler, inner, stages, pending)
        compiler.names = columns
        compiler.tables = {table.alias.lower()}
    elif isinstance(table, exp.Table) and table.name.lower() == "events":
        compiler.tables = {(table.alias or "events").lower()}
    else:
        what = table.sql(dialect=DIALECT) if table else "nothing"
        compiler.fail(table, f"reads from {what}; the only table is events, and {_FORM}")
    for name, value in table.args.items():
        if value and name not in ("this", "alias"):
            compiler.fail(table, f"{name.upper()} on the table is not supported; {_FORM}")
    compiler.named_windows = {named.name.lower(): named for named in select.args.get("windows") or []}
    return pending


def _leave(compiler: Compiler, select: exp.Select, stages: list[Stage], pending: Compiled | None) -> Compiled | None:
    """Adds the stage of the SELECT's windows, if it has any; what is still to choose among the rows."""
    where = _where(compiler, select.args.get("where"))
    if pending is not None and where is not None:
        where = join("and", BOOLEAN, pending.expr & where.expr, pending, where)
    where = where if where is not None else pending
    if not compiler.windows:
        return where
    windows = list(compiler.windows.values())
    for by in (None, *compiler.second_keys):
        for labels in (False, True):
            of = tuple(window for window in windows if (window.by, window.labels) == (by, labels))
            if of:
                stages.append(Stage(where, of, by, labels))
                where = None
    compiler.stage, compiler.windows = compiler.stage + len({window.by for window in windows}), {}
    return None


def _columns(compiler: Compiler, select: exp.Select) -> dict[str, Field | Compiled]:
    """The columns of a sub-select, by name."""
    columns: dict[str, Field | Compiled] = {}
    names: set[str] = set()
    for item in select.expressions:
        node = item.this if isinstance(item, exp.Alias) else item
        if isinstance(node, exp.Column) and isinstance(node.this, exp.Star) and node.table.lower() in compiler.tables:
            node = node.this  # t.*
        if isinstance(node, exp.Star) and not any(node.args.values()):
            for name, column in compiler.names.items():
                _new_name(compiler, item, name, names)
                columns[name] = column
            continue
        if isinstance(node, exp.Column) and not isinstance(node.this, exp.Star):
            with compiler.seeing_labels(True):  # only handed on
                known, found = compiler.lookup(node)
        elif isinstance(item, exp.Alias):
            known, found = item.alias, compiler.once(compiler.compile(node))
        else:
            compiler.compile(node)  # what can't be used at all is said first
            compiler.fail(item, f"{item.sql(dialect=DIALECT)} has no name; name it with AS")
        name = item.alias if isinstance(item, exp.Alias) else known
        _new_name(compiler, item, name, names)
        columns[name] = found
    return columns


def _new_name(compiler: Compiler, item: Any, name: str, names: set[str]) -> None:
    if name.lower() in names:
        compiler.fail(item, f"two columns are named {name}; name one of them with AS")
    names.add(name.lower())


def _check_clauses(compiler: Compiler, select: Any) -> None:
    if not isinstance(select, exp.Select):
        compiler.fail(select, f"{select.key.upper()} is not supported; {_FORM}")
    for name, value in select.args.items():
        clause = name.rstrip("_")
        if value and clause not in ("expressions", "from", "where", "windows", "kind"):
            part = value[0] if isinstance(value, list) else value
            node = part if isinstance(part, exp.Expression) else None
            compiler.fail(node, _CLAUSES.get(clause, f"{clause.upper()} is not supported") + f"; {_FORM}")
    if select.args.get("kind"):
        compiler.fail(select, f"SELECT AS {select.args['kind']} is not supported; {_FORM}")


_CLAUSES = {
    "with": "WITH is not supported",
    "group": "GROUP BY depends on how rows were cut into blocks",
    "having": "HAVING depends on how rows were cut into blocks",
    "distinct": "DISTINCT depends on how rows were cut into blocks",
    "limit": "LIMIT depends on how rows were cut into blocks; a stream has no first row",
    "offset": "OFFSET depends on how rows were cut into blocks; a stream has no first row",
    "order": "ORDER BY depends on how rows were cut into blocks; a stream has no end to sort up to",
    "qualify": "QUALIFY depends on how rows were cut into blocks; say it in a WHERE around a sub-select",
    "sample": "a sample is another one on each replay",
    "joins": "a join is not supported",
    "laterals": "a join is not supported",
}


def _output(compiler: Compiler, item: Any) -> Output:
    node = item.this if isinstance(item, exp.Alias) else item
    if not isinstance(item, exp.Alias | exp.Column) and not isinstance(node, exp.Star):
        compiler.compile(node)  # what can't be used at all is said first
        compiler.fail(item, f"{item.sql(dialect=DIALECT)} has no name; name it with AS")
    if isinstance(node, exp.Column) and isinstance(node.this, exp.Star):
        compiler.fail(node, "* is not supported: name each feature, their order is the model's contract")
    value = compiler.compile(node)
    known, found = compiler.lookup(node) if isinstance(node, exp.Column) else ("", None)
    plain = found if isinstance(found, Field) else None
    name = item.alias if isinstance(item, exp.Alias) else (known or item.name)
    fields = compiler.fields
    if name.startswith("_"):
        compiler.fail(item, f"column {name}: a leading underscore is kept for the source position; choose another name")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        compiler.fail(item, f"column {name!r}: use letters, digits and underscores, so that Avro can name it too")
    if value.raw_pii:
        field = fields[min(value.raw_pii)]
        remedies = {"string": f"pseudonymize({field.name})", "timestamp": f"truncate({field.name}, 'hour')"}
        remedy = remedies.get(field.kind, f"generalize({field.name}, 1)")
        compiler.fail(item, f"{name} shows {field.name}, personal data (pii: {field.pii}); use {remedy}, or drop it")
    if not value.columns:
        compiler.fail(item, f"{name} is the same in every row; a feature must use a field")
    whole = plain is not None and plain.name == name
    if name == compiler.event_time and not (whole or unit_of(value.text, name)):
        compiler.fail(item, f"{name} is the event time; select the field itself, or truncate({name}, 'hour')")
    stands_for_key = [Protected(compiler.key).text, Protected(compiler.key, "encrypt").text]
    if name == compiler.key and not (value.columns == {name} and (plain or value.text in stands_for_key)):
        compiler.fail(item, f"{name} is the key; select the field itself, pseudonymize({name}) or encrypt({name})")
    if value.kind not in ("number", "boolean", "string") and name != compiler.event_time:
        remedies = {"timestamp": "use EXTRACT", "interval": "use EXTRACT(epoch FROM ...), its seconds"}
        remedy = remedies.get(value.kind, "drop it or bring it to a number")
        compiler.fail(item, f"{name} is {a_kind(value.kind)}, which is no feature; {remedy}")
    feature = value.kind in ("number", "boolean") and name != compiler.key
    return Output(name, value, plain, feature)


def _where(compiler: Compiler, node: exp.Where | None) -> Compiled | None:
    if node is None:
        return None
    if node.find(exp.Window):
        compiler.fail(
            node.this,
            "the WHERE chooses the rows that windows are made of, so it can't use one; put it around a sub-select: "
            "SELECT ... FROM (SELECT *, avg(x) OVER (...) AS mean FROM events) WHERE x > mean",
        )
    where = compiler.compile(node.this)
    text = node.this.sql(dialect=DIALECT)
    if where.kind != "boolean":
        compiler.fail(node.this, f"WHERE {text} is {a_kind(where.kind)}; it needs a comparison")
    if not where.columns:
        compiler.fail(node.this, f"WHERE {text} is the same for every row; use a field, or remove it")
    direct = [name for name in sorted(where.raw_pii) if compiler.fields[name].pii == "direct"]
    if direct:
        # Filtering by one person's name singles the person out; a region or an age does not.
        compiler.fail(
            node.this,
            f"WHERE uses {direct[0]}, personal data (pii: direct); use pseudonymize({direct[0]}), or remove it",
        )
    return where


def _fingerprint(
    query: Query, inputs: tuple[Field, ...], key: str, event_time: str, lateness: Lateness = DEFAULT_LATENESS
) -> str:
    wheres = [where.text if where is not None else None for where in (*(s.where for s in query.stages), query.where)]
    content: dict[str, Any] = {
        "semantics": SEMANTICS_VERSION,
        "key": key,
        "event_time": event_time,
        "outputs": [[output.name, output.value.text, output.is_feature] for output in query.outputs],
        "where": wheres if query.stages else wheres[0],
        "fields": [field.fingerprint() for field in inputs],
    }
    if query.stages:
        content["windows"] = [lateness.late_ms, lateness.delay_ms, lateness.clock_skew_ms]
        if any(stage.labels for stage in query.stages):
            content["labels"] = lateness.label_ms
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
