"""A use case drafted from what was found: which column is what, its schema, its SQL, its settings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml
from sqlglot import exp

from beam_jobs.codec.columns import field_name
from beam_jobs.codec.csv.dialect import Dialect
from beam_jobs.codec.schema import arrow_schema
from beam_jobs.errors import UserError, listed
from beam_jobs.preprocessing.fields import Field, fields_of
from beam_jobs.samples.found import Found
from beam_jobs.samples.personal import Tag, looks_personal

NONE = "none"  # said of --key or --label: there is none
PII_KEY = "env:HIGHBEAM_PII_KEY"

_MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
_MICROS = {"type": "long", "logicalType": "timestamp-micros"}
_LOCAL = {"type": "long", "logicalType": "local-timestamp-millis"}
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)  # in Avro
_TEXT = "a text comes along into alerts, and is no feature"
_DATE_PARTS = re.compile("year|month|day|week|quarter|day_of_(week|month|year)|week_of_year", re.IGNORECASE)
_TIME_WORDS = re.compile(r"time|timestamp|ts|date|datetime|day|at|when|created|occurred|ds", re.IGNORECASE)
_KEY_WORDS = re.compile(
    r"id|key|device|machine|unit|sensor|car|vehicle|account|acct|station|room|pump|engine|customer|user|card|cc|host|"
    r"server|serial|asset|meter|site|line|tailnum",
    re.IGNORECASE,
)
_LABEL_WORDS = re.compile(
    r"label|failure|failed|fault|faulty|is_?fraud|fraud|anomaly|is_?anomaly|outlier|failure_occurred|broken",
    re.IGNORECASE,
)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# Names that end so, of texts or of numbers: first and last names, places.
_PAIRS: tuple[tuple[str, str, Tag], ...] = (("first", "last", "direct"), ("lat", "long", "quasi"))
_UNITS = {"seconds": (3e8, 4.2e9), "milliseconds": (3e11, 4.2e12), "microseconds": (3e14, 4.2e15)}  # 1979 to 2103
_MOSTLY_EMPTY = 0.2  # of the rows: such a column is offered, not taken
_FEW_EMPTY = 0.01  # of the rows: they are refused where the column is the key
_MANY = 100  # rows: fewer may grow by chance
_REPEATS = 2  # rows a key, on average, at least


@dataclass(frozen=True)
class Wishes:
    """What the command line says of the columns; None: to be guessed."""

    key: str | None = None
    event_time: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Draft:
    """The texts of a use case, and what to say of them."""

    name: str
    schema: Mapping[str, Any]
    sql: str
    settings: str
    said: Sequence[tuple[str, str]]  # what, and how it was decided


@dataclass
class _Columns:
    """The columns by the names of their fields."""

    fields: dict[str, dict[str, Any]]  # Avro fields, without nulls and tags
    rows: dict[str, pa.ChunkedArray]  # of a schema alone: none
    origin: dict[str, str]  # field -> column
    left_out: list[str] = field(default_factory=list)  # columns of no use


def draft(name: str, found: Found, wishes: Wishes) -> Draft:
    """Drafts a use case.

    Args:
      name: of the use case, as Avro takes it.

    Raises:
      UserError: a column that is named is not there, no column is the time, or nothing is left to learn from.
    """
    columns = _of_schema(found) if found.schema is not None else _of_rows(found)
    wanted = Wishes(*(_field_of(wish, columns, flag) for flag, wish in vars(wishes).items()))
    at, how_at, dialect = _event_time(columns, wanted.event_time, found.dialect)
    columns.fields[at]["type"] = _timestamp(columns.fields[at]["type"], columns.rows.get(at))
    label, how_label = _label(columns, wanted.label)
    key, how_key = _key(columns, wanted.key, {at, label})
    if key is None:
        key = _one_device(columns, name)
    personal = _tags(columns, found, {at, label})
    shown = {name: why for name, why in found.partly.items() if not {field_name(name), name} & {*personal, key}}
    schema = _schema(name, columns, found, at, key, label, personal)
    fields = fields_of(schema)
    sql, features, offered = _sql(fields, columns, found, key, at, label)
    if not features:
        spoilt = "; ".join(f"of {name} {why}" for name, why in shown.items())
        raise UserError(
            f"{found.what}: no column of changing numbers beside key and time; "
            + (f"{spoilt}: leave such cells empty" if spoilt else "there is nothing to learn from")
        )
    said = [("key", f"{key}: {how_key}"), ("event time", f"{at}: {how_at}")]
    said += [("label", f"{label}: {how_label}")] if label else []
    said.append(("features", f"{len(features)}: {', '.join(features)}"))
    said += [("offered", f"{', '.join(offered)}: commented out in preprocess.sql, with the reason")] if offered else []
    if tagged := [name for name, f in fields.items() if f.pii]:
        said.append(
            ("personal", f"{', '.join(tagged)}: tagged in the schema, and only selected as pseudonyms; check them")
        )
    said += [("text", f"{column}: {why}: leave such cells empty") for column, why in shown.items()]
    said += [
        ("wrong", f"{column}: {n:,} cells are not like the others; their rows will be refused")
        for column, n in found.wrong.items()
    ]
    said += (
        [("left out", f"{listed(columns.left_out)}: without a value, or of no type that events have")]
        if columns.left_out
        else []
    )
    return Draft(name, schema, sql, _settings(name, key, at, dialect, len(features), fields[key]), said)


def _of_schema(found: Found) -> _Columns:
    assert found.schema is not None
    fields = {f["name"]: dict(f) for f in found.schema["fields"]}
    rows = {} if found.rows is None else {name: found.rows.column(name) for name in fields}
    return _Columns(fields, rows, {name: name for name in fields})


def _of_rows(found: Found) -> _Columns:
    assert found.rows is not None
    columns = _Columns({}, {}, {})
    for column in found.rows.column_names:
        values = found.rows.column(column)
        name = column if found.is_json else field_name(column)
        if found.is_json and not _NAME.fullmatch(column):
            raise UserError(
                f"the objects have a field {column!r}, which is no name in Avro; rename it where it is made"
            )
        if name in columns.fields:
            raise UserError(f"two columns are called {name}, the second one {column!r}; rename one of them")
        kind = _avro(values.type, name)
        if kind is None and found.is_json:
            raise UserError(f"the objects have a field {column!r} with a name inside that is none in Avro; rename that")
        if kind is None or (values.null_count == len(values) and not found.is_json):
            columns.left_out.append(column)
            continue
        if found.is_json and pa.types.is_timestamp(values.type) and values.type.tz is None:
            kind = _LOCAL  # without a zone it is no moment
        columns.fields[name] = {"name": name, "type": kind}
        columns.rows[name] = values
        columns.origin[name] = column
    return columns


def _avro(kind: pa.DataType, name: str) -> Any:
    """The Avro type of an Arrow type; None: events have none."""
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_integer(kind):
        return "long"
    if pa.types.is_floating(kind):
        return "double"
    if pa.types.is_timestamp(kind):
        return _MILLIS if kind.unit in ("s", "ms") else _MICROS
    if pa.types.is_date(kind):
        return _MILLIS
    if pa.types.is_decimal128(kind):
        return {"type": "bytes", "logicalType": "decimal", "precision": kind.precision, "scale": kind.scale}
    if pa.types.is_dictionary(kind):
        return _avro(kind.value_type, name)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind) or kind == pa.uuid():
        return "string"
    if pa.types.is_struct(kind):
        fields = [(f.name, _avro(f.type, f"{name}_{f.name}")) for f in kind if _NAME.fullmatch(f.name)]
        inner = [{"name": own, "type": ["null", avro], "default": None} for own, avro in fields if avro is not None]
        return {"type": "record", "name": f"{name}_record", "fields": inner} if len(inner) == len(kind) else None
    if pa.types.is_list(kind):
        item = _avro(kind.value_type, f"{name}_item")
        return None if item is None else {"type": "array", "items": ["null", item]}
    return None


def _field_of(wish: str | None, columns: _Columns, flag: str) -> str | None:
    """The field of a column that the command line names."""
    if wish is None or (wish == NONE and flag != "event_time"):
        return wish
    names = {column: name for name, column in columns.origin.items()}
    if wish not in names and wish not in columns.fields:
        raise UserError(f"--{flag} {wish}: there is no such column; there are {listed(names)}")
    return names.get(wish, wish)


def _value(kind: Any) -> Any:
    """An Avro type without null."""
    if not isinstance(kind, list):
        return kind
    inner = [branch for branch in kind if branch != "null"]
    return inner[0] if len(inner) == 1 else None


def _is_time(kind: Any) -> bool:
    value = _value(kind)
    return isinstance(value, dict) and str(value.get("logicalType")).startswith("timestamp-")


def _named_like(name: str, words: re.Pattern[str]) -> bool:
    return bool(words.fullmatch(name)) or any(map(words.fullmatch, _WORDS.findall(name)))


def _event_time(columns: _Columns, wish: str | None, dialect: Dialect) -> tuple[str, str, Dialect]:
    """The field, how it was decided, and the dialect with what its numbers mean."""
    local = [name for name, f in columns.fields.items() if f["type"] == _LOCAL]
    if wish is not None and wish not in local:
        return wish, "as --event_time says", _dialect_of(wish, columns, dialect)
    times = [name for name, f in columns.fields.items() if _is_time(f["type"])]
    numbers = [
        name
        for name, values in columns.rows.items()
        if _named_like(name, _TIME_WORDS) and _unit_of(values) and name not in times
    ]
    named = [name for name in times if _named_like(name, _TIME_WORDS)]
    best = next(iter([*named, *times, *numbers]), None)
    if wish is not None or (best is None and local):
        raise UserError(f"{wish or local[0]} is written without a zone, which is no moment; write 2026-11-22T07:00:00Z")
    if best is None:
        raise UserError(
            "no column looks like the time of the event; --event_time names it, and --time_format '%d.%m.%Y %H:%M' how "
            "it is written"
        )
    others = [name for name in [*times, *numbers] if name != best]
    how = "times" if best in times else f"{_unit_of(columns.rows[best])} since 1970"
    more = f" (so are {', '.join(others)})" if others else ""
    return best, f"guessed, it holds {how}{more}; --event_time names another", _dialect_of(best, columns, dialect)


def _unit_of(values: pa.ChunkedArray) -> str | None:
    """What numbers that may be times count, since 1970; None: they are none."""
    if not _is_number(values.type) or values.null_count == len(values):
        return None
    low, high = pc.min_max(values).as_py().values()
    return next((unit for unit, (least, most) in _UNITS.items() if least <= low and high <= most), None)


def _dialect_of(at: str, columns: _Columns, dialect: Dialect) -> Dialect:
    values = columns.rows.get(at)
    if values is None or dialect.times is not None or not _is_number(values.type):
        return dialect
    if (pc.max(pc.abs(values)).as_py() or 0) >= _UNITS["milliseconds"][0]:
        return dialect
    if dialect.delimiter is None:  # no CSV
        raise UserError(f"{at} counts seconds; the times of events are milliseconds since 1970: write those")
    return Dialect(dialect.delimiter, dialect.decimal, "seconds")


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _timestamp(kind: Any, values: pa.ChunkedArray | None) -> Any:
    """The type of an event time: as it is, or what its numbers count; milliseconds, if nothing speaks for another."""
    if _is_time(kind):
        return kind
    time = _MICROS if values is not None and _unit_of(values) == "microseconds" else _MILLIS
    return ["null", time] if isinstance(kind, list) else time


def _label(columns: _Columns, wish: str | None) -> tuple[str | None, str]:
    if wish == NONE:
        return None, ""
    if wish is not None:
        return wish, "as --label says"
    declared = next((name for name, f in columns.fields.items() if f.get("label")), None)
    if declared is not None:
        return declared, "as its schema says"
    for name, values in columns.rows.items():
        if not _LABEL_WORDS.fullmatch(name) or pa.types.is_nested(values.type) or values.null_count == len(values):
            continue
        if pc.count_distinct(values.drop_null()).as_py() <= 2:
            return name, "guessed by its name, never a feature; --label names another, or none"
    return None, ""


def _key(columns: _Columns, wish: str | None, taken: set[str | None]) -> tuple[str | None, str]:
    if wish == NONE:
        return None, "all rows are of one; --key names a column that tells them apart"
    if wish is not None:
        return wish, "as --key says"
    if not columns.rows:
        texts = [n for n, f in columns.fields.items() if _value(f["type"]) == "string" and n not in taken]
        named = [n for n in texts if _named_like(n, _KEY_WORDS)] or texts
        if named:
            return named[0], "guessed by its name; --key names another"
        return None, "all events are of one; --key names a field that tells them apart"
    best: tuple[bool, bool, int] | None = None
    chosen = None
    for name, values in columns.rows.items():
        is_text = _is_text(values.type)
        if name in taken or not (is_text or pa.types.is_integer(values.type)):
            continue
        if values.null_count > _FEW_EMPTY * len(values):
            continue
        if not is_text and not _named_like(name, _KEY_WORDS):
            continue
        distinct = pc.count_distinct(values).as_py()
        if distinct < 2 or distinct * _REPEATS > len(values):
            continue
        rank = (_named_like(name, _KEY_WORDS), looks_personal(name, values) is None, distinct)
        if best is None or rank > best:
            best, chosen = rank, name
    if chosen is None or best is None:
        return None, "all rows are of one, for no column tells them apart; --key names one"
    return chosen, f"guessed, {best[2]:,} values; --key names another, or none"


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)


def _one_device(columns: _Columns, name: str) -> str:
    """A field that names the one device of all rows, by its default: no column has it."""
    key = next(n for n in ("device", "the_device", f"{name}_device") if n not in columns.fields)
    columns.fields[key] = {"name": key, "type": "string", "default": name, "doc": "The one device of all events."}
    return key


def _tags(columns: _Columns, found: Found, kept: set[str | None]) -> dict[str, str]:
    """What looks personal; where a schema has tags, it is believed."""
    if any("pii" in f for f in columns.fields.values()):
        return {}
    tags = {name: looks_personal(name, columns.rows.get(name)) for name in columns.fields if name not in kept}
    ends = {name: (_WORDS.findall(name) or [name])[-1].lower() for name in tags}
    texts = {name for name in tags if _value(columns.fields[name]["type"]) == "string"}
    for one, other, tag in _PAIRS:  # neither word says it alone
        pair = {name for name, end in ends.items() if end in (one, other) and (name in texts) == (tag == "direct")}
        if {one, other} <= {ends[name] for name in pair}:
            tags |= {name: tag for name in pair if not tags[name]}
    return {name: tag for name, tag in tags.items() if tag}


def _schema(
    name: str,
    columns: _Columns,
    found: Found,
    at: str,
    key: str,
    label: str | None,
    personal: Mapping[str, str],
) -> dict[str, Any]:
    fields = []
    for entry in columns.fields.values():
        values = columns.rows.get(entry["name"])
        made = dict(entry)
        if entry["name"] == key and found.schema is None and not found.is_json:
            made["type"] = "string"
        # An archive of events leaves personal fields out, and replays them as NULL.
        may_lack = entry["name"] in personal or (values is not None and values.null_count > 0)
        if found.schema is None and may_lack and entry["name"] not in (at, key):
            made |= {"type": ["null", made["type"]], "default": None}
        if label is not None:
            made.pop("label", None)
        if entry["name"] == label:
            made["label"] = True
        if entry["name"] in personal:
            made["pii"] = personal[entry["name"]]
        if columns.origin.get(entry["name"], entry["name"]) != entry["name"]:
            made["doc"] = f"Column {columns.origin[entry['name']]!r}."
        fields.append(made)
    whole = {"type": "record", "name": name} if found.schema is None else dict(found.schema)
    schema = whole | {"fields": fields}
    arrow_schema(schema)  # what no column can hold is said now
    return schema


def _sql(
    fields: Mapping[str, Field], columns: _Columns, found: Found, key: str, at: str, label: str | None
) -> tuple[str, list[str], list[str]]:
    """The text, the features, and the columns that are offered as comments."""
    chosen: list[str] = []
    offered: list[tuple[str, str]] = []  # name, reason
    filters: list[tuple[str, str]] = []
    for name, known in fields.items():
        if name in (key, at, label) or known.pii:
            continue
        values = columns.rows.get(name)
        if known.kind in ("number", "boolean"):
            reason = _no_feature(values, known.kind) or _calendar(name, values)
            if reason:
                offered.append((name, reason))
                continue
            chosen.append(name)
            if values is not None and values.null_count:
                filters.append((name, f"empty in {values.null_count:,} rows"))
            elif known.nullable:
                filters.append((name, "may be empty"))
        elif known.kind == "string":
            spoilt = found.partly.get(columns.origin.get(name, name))
            offered.append((name, f"{spoilt}: leave such cells empty" if spoilt else _TEXT))
    lines = ["-- What the model sees: numbers are features. Expressions and a WHERE are welcome.", "SELECT"]
    names = [_selected(key, fields[key]), _quoted(at), *map(_quoted, chosen)]
    lines += [f"  {name}{',' if number < len(names) else ''}" for number, name in enumerate(names, 1)]
    lines += [f"  -- , {_quoted(name)}  -- {reason}" for name, reason in offered]
    lines.append("FROM events")
    if filters:
        lines.append("-- A row without a value can't be scored; COALESCE(name, 0) instead says what an empty one is.")
        lines += [
            f"{'WHERE' if i == 0 else '  AND'} {_quoted(name)} IS NOT NULL  -- {reason}"
            for i, (name, reason) in enumerate(filters)
        ]
    return "\n".join([*lines, ""]), chosen, [name for name, _ in offered]


def _no_feature(values: pa.ChunkedArray | None, kind: str) -> str | None:
    """Why a column of numbers is no feature as it is; None: it is one."""
    if values is None:
        return None if kind == "number" else "a switch: a feature should have more than two values"
    if values.null_count > _MOSTLY_EMPTY * len(values):
        return f"empty in {values.null_count:,} of {len(values):,} rows"
    distinct = pc.count_distinct(values.drop_null()).as_py()
    if distinct <= 2:
        return "a feature should have more than two values"
    if pa.types.is_integer(values.type) and distinct == len(values):
        step = pc.pairwise_diff(values.combine_chunks())
        if pc.count_distinct(step.drop_null()).as_py() == 1:
            return "counts the rows"
        if len(values) >= _MANY and pc.min(step).as_py() > 0:
            return "only grows: what it will be was never trained on"
    return None


def _calendar(name: str, values: pa.ChunkedArray | None) -> str | None:
    """A month that was not trained on is strange, whatever is measured in it; so is every time to come."""
    if values is not None and _named_like(name, _TIME_WORDS) and _unit_of(values):
        return "a time: what it will be was never trained on"
    return "a part of the date, not of what happens" if _DATE_PARTS.fullmatch(name) else None


def _selected(key: str, known: Field) -> str:
    name = _quoted(key)
    return f"pseudonymize({name}) AS {name}" if known.pii else name


def _quoted(name: str) -> str:
    return exp.to_identifier(name).sql("duckdb")


def _settings(name: str, key: str, at: str, dialect: Dialect, features: int, known: Field) -> str:
    wide, narrow = max(4, features * 4 // 3), max(1, features // 2)
    unusual = {
        "delimiter": None if dialect.delimiter in (None, ",") else dialect.delimiter,
        "decimal": None if dialect.decimal == "." else dialect.decimal,
        "times": dialect.times,
    }
    written = {setting: value for setting, value in unusual.items() if value is not None}
    csv = "csv:\n" + "".join(f"  {setting}: {json.dumps(value)}\n" for setting, value in written.items())
    pii = f"pii:\n  key: {PII_KEY}  # of the pseudonyms: 32 random bytes or more in this variable\n"
    text = (
        f"schema: {name}.avsc\nkey: {json.dumps(key)}\nevent_time: {json.dumps(at)}\n"
        f"{csv if written else ''}{pii if known.pii else ''}"
        "model:\n"
        f"  hidden: [{wide}, {narrow}, {wide}]  # units of the hidden layers\n"
        "  alert_budget: 0.001  # share of normal events that may raise an alert\n"
    )
    assert yaml.safe_load(text)
    return text
