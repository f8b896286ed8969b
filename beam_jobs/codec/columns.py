"""Columns from elsewhere (a CSV or Parquet file, a dataframe) as the fields of a schema."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.codec.schema import UUID_BYTES, parse_record
from beam_jobs.codec.uuids import texts_of
from beam_jobs.errors import UserError, listed, one_line, shown

_LOGGER = logging.getLogger(__name__)

PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_SOONEST_S, _LATEST_S = 100_000_000, 253_402_300_800  # March 1973, the year 10000
_TOLD: set[tuple[str, str]] = set()  # columns whose times were rounded, said once in a process


def find_columns(where: str, there: Sequence[str], schema: Mapping[str, Any], wanted: pa.Schema) -> dict[str, str]:
    """Field to column, which may go by one of the field's aliases, or by what :func:`field_name` makes the name.

    Fields that are nullable or have a default may be missing.

    Args:
      where: the columns are, for errors.
      there: their names.
      schema: the Avro schema of the fields.
      wanted: the fields.

    Raises:
      UserError: a column that is missing, or is there more than once.
    """
    aliases = {field["name"]: [field["name"], *field.get("aliases", ())] for field in schema["fields"]}
    defaults = {field["name"] for field in schema["fields"] if "default" in field}
    called = _as_fields(there, schema)
    found: dict[str, str] = {}
    for wish in wanted:
        name = next((alias for alias in aliases[wish.name] if alias in called), None)
        if name is not None and called.count(name) > 1:
            raise UserError(f"{where}: has the column {name!r} more than once; write it once")
        if name is not None:
            found[wish.name] = there[called.index(name)]
        elif not wish.nullable and wish.name not in defaults:
            raise UserError(f"{where}: no column {wish.name!r}; it has {listed(there)}")
    return found


def field_name(column: str) -> str:
    """A column's name as Avro takes it, which is the name of its field: letters, digits and underscores."""
    name = re.sub(r"\W+", "_", column, flags=re.ASCII).strip("_") or "column"
    return f"c{name}" if name[0].isdigit() else name


def _as_fields(columns: Sequence[str], schema: Mapping[str, Any]) -> list[str]:
    """Columns, each called as the field it is, where its name has to be made one that Avro takes; others stay."""
    fields = {name for field in schema["fields"] for name in (field["name"], *field.get("aliases", ()))}
    lacking = fields - {*columns}
    return [field_name(name) if name not in fields and field_name(name) in lacking else name for name in columns]


def missing_column(field: pa.Field, default: Any, n: int) -> pa.Array:
    """n rows of a field that has no column: its default, or null."""
    return pa.nulls(n, field.type) if default is None else pa.array([default] * n).cast(field.type)


class Fit:
    """Columns of a table as the wanted fields of a schema; for arguments and errors see ``find_columns``."""

    def __init__(self, where: str, there: Sequence[str], schema: Mapping[str, Any], wanted: pa.Schema) -> None:
        self._where, self._wanted = where, wanted
        fields = parse_record(schema).fields
        self._personal = {field.name for field in fields if field.personal}
        self._uuids = {
            field.name for field in fields if (plain := field.type.non_null()) and plain[0].logical == "uuid"
        }
        self._defaults = {field["name"]: field.get("default") for field in schema["fields"]}
        self.columns = find_columns(where, there, schema, wanted)  # field to column

    def rows(self, columns: Mapping[str, pa.Array], count: int) -> pa.RecordBatch:
        """The wanted fields of ``count`` rows.

        Args:
          columns: by their own names.

        Raises:
          UserError: a value that does not fit; the message shows no personal data.
        """
        arrays = [
            self._column(columns[self.columns[field.name]], field)
            if field.name in self.columns
            else missing_column(field, self._defaults[field.name], count)
            for field in self._wanted
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=self._wanted)

    def _column(self, array: pa.Array, field: pa.Field) -> pa.Array:
        where = f"{self._where}: column {field.name!r}"
        if array.null_count and not field.nullable:
            raise UserError(f"{where} has nulls, which the schema forbids; drop those rows")
        if field.name in self._uuids and array.type == pa.binary(UUID_BYTES):
            array = texts_of(array)
        return fit(array, field.type, where, field.name in self._personal)


def fit(array: pa.Array, kind: pa.DataType, where: str, personal: bool = False) -> pa.Array:
    """A column in another type, its values the same; times finer than the type are rounded down, as Avro's are, and
    UUIDs are texts.

    Args:
      where: names it, for errors.
      personal: errors show none of its values.

    Raises:
      UserError: a value that does not fit, or is no text, or whole numbers that can be no times.
    """
    if pa.types.is_timestamp(kind) and pa.types.is_integer(array.type):
        _check_epoch(array, kind, where)
    array = _prepared(array, kind, where)
    try:
        fitted = array.cast(kind)
    except pa.ArrowException:
        bad = misfit(array, kind, personal)
        kinds = f"{one_line(array.type, 100)} and can't become {kind}"
        raise UserError(f"{where} is {kinds}{bad}; convert it before") from None
    texts = fitted.dictionary if pa.types.is_dictionary(kind) else fitted
    if pa.types.is_nested(texts.type) or (pa.types.is_string(texts.type) and not _is_ascii(texts)):
        try:
            texts.validate(full=True)  # Parquet's readers do not look whether texts are texts
        except pa.ArrowInvalid as error:
            raise UserError(f"{where} is damaged, or no UTF-8 ({one_line(error, 100)}); write it as UTF-8") from None
    return fitted


def _is_ascii(texts: pa.StringArray) -> bool:
    """Whether all its bytes are; a fiftieth of what a look at each text takes."""
    data = texts.buffers()[2]
    return data is None or not data.size or int(np.frombuffer(data, np.uint8).max()) < 128


def rounded_down(times: pa.Array, kind: pa.DataType) -> pa.Array:
    """Times in a coarser unit, those before 1970 rounded down as well; Arrow's cast goes towards 1970."""
    per = PER_SECOND[times.type.unit] // PER_SECOND[kind.unit]
    numbers = times.cast(pa.int64())
    rest = pa.array(np.mod(numbers.fill_null(0).to_numpy(), per))
    whole = pc.divide(pc.subtract(numbers, rest), per)
    return whole.cast(pa.int32() if pa.types.is_time32(kind) else pa.int64()).cast(kind)


def _prepared(array: pa.Array, kind: pa.DataType, where: str) -> pa.Array:
    """A column, and what is inside it, as far as Arrow's cast would go wrong.

    Times are no finer than those of ``kind``, UUIDs are texts where texts are wanted.
    """
    have = array.type
    if have == kind:
        return array
    if isinstance(have, pa.BaseExtensionType):
        text = have == pa.uuid() and pa.types.is_string(kind)
        return texts_of(array.storage) if text else array.storage
    if _is_finer(have, kind):
        return _rounded(array, kind, where)
    if pa.types.is_string(have) and pa.types.is_timestamp(kind):
        return _moments(array, kind, where)
    if pa.types.is_struct(have) and pa.types.is_struct(kind):
        wanted = {field.name: field.type for field in kind}
        parts = [_prepared(array.field(at), wanted.get(field.name, field.type), where) for at, field in enumerate(have)]
        return pa.StructArray.from_arrays(parts, [field.name for field in have], mask=array.is_null())
    if pa.types.is_list(have) and pa.types.is_list(kind):
        items = _prepared(array.values, kind.value_type, where)
        return _with_children(pa.list_(items.type), array, items)
    if pa.types.is_map(have) and pa.types.is_map(kind):
        keys, items = _prepared(array.keys, kind.key_type, where), _prepared(array.items, kind.item_type, where)
        made = pa.map_(keys.type, items.type)
        entries = pa.StructArray.from_arrays([keys, items], fields=[made.key_field, made.item_field])
        return _with_children(made, array, entries)
    return array


def _with_children(kind: pa.DataType, array: pa.Array, child: pa.Array) -> pa.Array:
    return pa.Array.from_buffers(kind, len(array), array.buffers()[:2], -1, array.offset, [child])


def _is_finer(kind: pa.DataType, than: pa.DataType) -> bool:
    alike = all(map(pa.types.is_timestamp, (kind, than))) or all(map(pa.types.is_time, (kind, than)))
    return alike and PER_SECOND[kind.unit] > PER_SECOND[than.unit]


def _rounded(times: pa.Array, kind: pa.DataType, where: str) -> pa.Array:
    try:
        return times.cast(kind)
    except pa.ArrowException:
        _tell_rounded(where, kind)
        return rounded_down(times, kind)


def _moments(texts: pa.Array, kind: pa.DataType, where: str) -> pa.Array:
    """Texts as times where they are times of a finer unit."""
    for unit in PER_SECOND:
        try:
            times = texts.cast(pa.timestamp(unit, kind.tz))
        except pa.ArrowException:
            continue
        return _rounded(times, kind, where) if _is_finer(times.type, kind) else times
    return texts


def _tell_rounded(where: str, kind: pa.DataType) -> None:
    column = where.rpartition(": ")[2]
    if (column, kind.unit) not in _TOLD:
        _TOLD.add((column, kind.unit))
        _LOGGER.warning("%s: times finer than the schema's %s are rounded down", where, _NAMES[kind.unit])


def _check_epoch(array: pa.Array, kind: pa.DataType, where: str) -> None:
    """Whole numbers do not say what they count: what would all be 1970, or all beyond the year 9999, is refused."""
    ends = pc.min_max(array.cast(pa.decimal128(20)))
    if ends["max"].as_py() is None:
        return
    low, high = int(ends["min"].as_py()), int(ends["max"].as_py())
    per = PER_SECOND[kind.unit]
    if 0 < high < _SOONEST_S * per or low >= _LATEST_S * per:
        other = "seconds" if high < _SOONEST_S * per else "a finer unit"
        raise UserError(
            f"{where} is {array.type}, which is read as {_NAMES[kind.unit]} since 1970, and looks like {other}: "
            "write timestamps, or multiply before"
        )


def misfit(array: pa.Array, kind: pa.DataType, personal: bool) -> str:
    """Of an array that can't be cast what its first value is that can't be; "": the types alone forbid it.

    Arrow's own sentence may quote a value of any length and content, and would show what is ``personal``.
    """
    if not _casts(array[:0], kind):
        return ""
    first, end = 0, len(array)
    while end - first > 1:
        middle = (first + end) // 2
        first, end = (middle, end) if _casts(array[first:middle], kind) else (first, middle)
    return f": it holds {shown(_value(array[first]), personal)}"


def _casts(array: pa.Array, kind: pa.DataType) -> bool:
    try:
        array.cast(kind)
    except pa.ArrowException:
        return False
    return True


def _value(scalar: pa.Scalar) -> Any:
    """As Python has it, or as bytes where it has none."""
    try:
        return scalar.as_py()
    except (ValueError, OverflowError):  # a text that is no UTF-8, a time beyond the year 9999
        return scalar.cast(pa.binary()).as_py() if pa.types.is_string(scalar.type) else scalar.value
