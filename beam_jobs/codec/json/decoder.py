"""Whole blocks of JSON objects ⇄ Arrow, with the Avro schema that also describes the topic's Avro values.

Field names and their aliases are accepted, names outside the schema are refused. Values are plain JSON: a nullable
field is null, missing, or its value; dates, times and timestamps are integers as in Avro, or ISO 8601 texts
(``iso.py``); an integer may be written 1.0 or 1e3; bytes are strings of characters up to U+00FF; decimals are numbers,
or strings such as "12.50". A byte order mark is skipped. NaN and infinities are not JSON. ``strict`` takes integers
for times and ``-?[0-9]+`` for integers only, decimals in strings, and no byte order mark.

Most blocks are read by pyarrow's JSON reader at once. When it refuses one, the values it does not take are rewritten
(``loose.py``), then halves of the block are tried, down to a few rows, and those are read one by one (``rows.py``),
which also says what is wrong. Bytes, fixed and maps have no fast path.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as arrow_json
from numpy.typing import NDArray

from beam_jobs.codec.avro.decoder import binary_buffers
from beam_jobs.codec.avro.program import RANGES
from beam_jobs.codec.decoded import Decoded
from beam_jobs.codec.json.loose import GROWTH, Plan, rewrite
from beam_jobs.codec.json.rows import RowError, decimal_pattern, parse_row
from beam_jobs.codec.json.scan import join_objects
from beam_jobs.codec.schema import (
    NO_DEFAULT,
    PLAIN_ARROW,
    AvroField,
    AvroType,
    arrow_schema,
    arrow_type,
    parse_record,
    selected_fields,
    walk_names,
)
from beam_jobs.codec.uuids import PATTERN as UUID_TEXT
from beam_jobs.errors import RowErrors

ROWS_ONE_BY_ONE = 32  # below this, splitting further costs more than reading each row
MAX_TEXT = (1 << 31) - 2  # bytes the reader takes at once


class JsonDecoder:
    """Decodes blocks of JSON objects into columns of the reader schema.

    Args:
      reader_schema: a record schema.
      columns: the fields wanted, in that order (None: all). The types of the others are not checked.
      strict: see above.

    Raises:
      UserError: as ``arrow_schema``.
    """

    def __init__(
        self, reader_schema: Mapping[str, Any], columns: Sequence[str] | None = None, strict: bool = False
    ) -> None:
        self._strict = strict
        self.schema: pa.Schema = arrow_schema(reader_schema, columns)
        self._record = parse_record(reader_schema)
        self._wanted = selected_fields(self._record, columns)
        self._fast = all(_has_fast_path(entry.type, ()) for entry in self._record.fields)
        self._forms: list[pa.Schema] = []  # what to ask the reader for: the schema's own names, then aliases as well
        if self._fast:
            forms = [pa.schema(list(_json_fields(self._record.fields, aliases))) for aliases in (False, True)]
            self._forms = forms if forms[0] != forms[1] else forms[:1]
        self._plan = Plan.of(self._record) if self._fast and not strict else None
        self._rewrites = False  # whether the last block had something to rewrite: the next one likely has
        self._row_type = pa.struct([pa.field(e.name, _row_type(e.type)) for e in self._wanted])

    def decode(self, values: pa.BinaryArray) -> Decoded:
        """Decodes a block of n values; bad rows are reported, never raised."""
        n = len(values)
        data, offsets, valid = binary_buffers(values)
        plain = np.zeros(n, np.bool_)
        ends = np.zeros(n, np.int64)
        parts: list[pa.RecordBatch] = []
        places: list[NDArray[np.int64]] = []
        if self._fast:
            out = np.empty(int(offsets[-1] - offsets[0]) + n if n else 0, np.uint8)
            size = join_objects(data, offsets, out, ends, plain, not self._strict)
            if len(valid):
                plain &= valid
            for rows, batch in self._read_lines(out[:size], ends, np.flatnonzero(plain)):
                parts.append(batch)
                places.append(rows)
        slow = np.ones(n, np.bool_)
        slow[np.concatenate([np.empty(0, np.int64), *places])] = False
        errors = self._one_by_one(values, np.flatnonzero(slow), parts, places)
        return Decoded(self._merge(parts, places), errors)

    def _merge(self, parts: list[pa.RecordBatch], places: list[NDArray[np.int64]]) -> pa.RecordBatch:
        if not parts:
            return _no_rows(self.schema)
        if len(parts) == 1:
            return parts[0]
        order = np.argsort(np.concatenate(places), kind="stable")
        return pa.concat_batches(parts).take(pa.array(order))

    def _read_lines(
        self, text: NDArray[np.uint8], ends: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], pa.RecordBatch]]:
        """The rows the block reader can read, as they are or rewritten; what it cannot read is left out."""
        if not len(rows):
            return
        if not self._rewrites:
            whole = self._read_piece(pa.py_buffer(text), rows)
            if whole is not None:
                yield from whole
                return
        if self._plan is not None:
            out, out_ends = np.empty(GROWTH * len(text), np.uint8), np.empty_like(ends)
            size, changed = rewrite(text, ends, self._plan.nodes, self._plan.keys, self._plan.names, out, out_ends)
            self._rewrites = changed > 0
            if changed:
                text, ends = out[:size], out_ends
        yield from self._read(pa.py_buffer(text), np.concatenate(([0], ends[:-1])), ends, rows)

    def _read(
        self, text: pa.Buffer, starts: NDArray[np.int64], ends: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], pa.RecordBatch]]:
        """The rows the block reader can read, in pieces; what it cannot read is left out."""
        first, last = int(starts[rows[0]]), int(ends[rows[-1]])
        piece = self._read_piece(text.slice(first, last - first), rows)
        if piece is not None:
            yield from piece
        elif len(rows) > ROWS_ONE_BY_ONE:
            yield from self._read(text, starts, ends, rows[: len(rows) // 2])
            yield from self._read(text, starts, ends, rows[len(rows) // 2 :])

    def _read_piece(
        self, text: pa.Buffer, rows: NDArray[np.int64]
    ) -> list[tuple[NDArray[np.int64], pa.RecordBatch]] | None:
        """The good rows of a piece (one entry, or none), None if the block reader refuses it."""
        table = self._read_text(text, len(rows)) if text.size <= MAX_TEXT else None
        if table is None:
            return None
        columns, bad = _finish_fields(table.to_struct_array(), self._wanted, self._strict)
        batch = _batch(columns, self.schema, len(rows))
        if bad.any():
            batch = batch.filter(pa.array(~bad))
            rows = rows[~bad]
        return [(rows, batch)] if len(rows) else []

    def _read_text(self, text: pa.Buffer, rows: int) -> pa.RecordBatch | None:
        for form in self._forms:
            try:
                table = arrow_json.read_json(
                    pa.BufferReader(text),
                    read_options=arrow_json.ReadOptions(use_threads=False, block_size=max(text.size, 1)),
                    parse_options=arrow_json.ParseOptions(explicit_schema=form, unexpected_field_behavior="error"),
                )
            except (pa.ArrowInvalid, UnicodeDecodeError):
                continue
            if table.num_rows == rows:
                self._forms = [form, *(other for other in self._forms if other is not form)]  # likely the next too
                return table.combine_chunks().to_batches()[0]
        return None

    def _one_by_one(
        self,
        values: pa.BinaryArray,
        rows: NDArray[np.int64],
        parts: list[pa.RecordBatch],
        places: list[NDArray[np.int64]],
    ) -> RowErrors:
        """Reads the given rows; the good ones are appended to parts and places."""
        if not len(rows):
            return RowErrors.none()
        good: list[dict[str, Any]] = []
        good_rows, bad_rows, reasons, errors = [], [], [], []
        for row, value in zip(rows.tolist(), values.take(pa.array(rows)).to_pylist(), strict=True):
            try:
                if value is None:
                    raise RowError("null_value", "the value is null (a tombstone)")
                if not value:
                    raise RowError("empty_value", "the value is empty")
                good.append(parse_row(value, self._record, self._wanted, self._strict))
                good_rows.append(row)
            except RowError as e:
                bad_rows.append(row)
                reasons.append(e.reason)
                errors.append(str(e))
        if good:
            columns, _ = _finish_fields(pa.array(good, self._row_type), self._wanted, self._strict)
            parts.append(_batch(columns, self.schema, len(good)))
            places.append(np.array(good_rows, np.int64))
        return RowErrors(np.array(bad_rows, np.int64), reasons, errors)


def _batch(columns: list[pa.Array], schema: pa.Schema, n: int) -> pa.RecordBatch:
    if not columns:
        return pa.RecordBatch.from_struct_array(pa.array([{}] * n, pa.struct([])))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _no_rows(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)


def _has_fast_path(avro: AvroType, inside: tuple[AvroType, ...]) -> bool:
    plain = avro.non_null()
    if plain is None or plain[0] in inside:  # a field nobody wants may have a type no column can hold
        return False
    value = plain[0]
    if value.kind == "record":
        return bool(value.fields) and all(_has_fast_path(entry.type, (*inside, value)) for entry in value.fields)
    if value.kind == "array":
        return _has_fast_path(value.item, inside)
    return value.logical in ("decimal", "uuid") or value.kind not in ("bytes", "fixed", "map")


def _json_type(avro: AvroType, aliases: bool) -> pa.DataType:
    """What to ask the reader for: enums and decimals as strings, dates and times as integers."""
    plain = avro.non_null()
    assert plain is not None
    value = plain[0]
    if value.kind == "record":
        return pa.struct(list(_json_fields(value.fields, aliases)))
    if value.kind == "array":
        return pa.list_(_json_type(value.item, aliases))
    return pa.string() if value.kind == "enum" or value.logical in ("decimal", "uuid") else PLAIN_ARROW[value.kind]


def _json_fields(fields: Sequence[AvroField], aliases: bool) -> Iterator[pa.Field]:
    taken = {entry.name for entry in fields}
    for entry in fields:
        yield pa.field(entry.name, _json_type(entry.type, aliases))
        for alias in entry.aliases if aliases else ():
            if alias not in taken:
                taken.add(alias)
                yield pa.field(alias, _json_type(entry.type, aliases))


def _row_type(avro: AvroType) -> pa.DataType:
    """What ``rows.convert`` gives: as :func:`_json_type`, and the types without a fast path."""
    plain = avro.non_null()
    assert plain is not None
    value = plain[0]
    if value.kind == "record":
        return pa.struct([pa.field(entry.name, _row_type(entry.type)) for entry in value.fields])
    if value.kind == "array":
        return pa.list_(_row_type(value.item))
    if value.kind == "map":
        return pa.map_(pa.string(), _row_type(value.item))
    if value.logical == "decimal":
        return pa.decimal128(value.precision, value.scale)
    if value.kind == "fixed" and value.logical != "uuid":
        return pa.binary(value.size)
    return pa.string() if value.kind in ("enum", "fixed") else PLAIN_ARROW[value.kind]


Finished = tuple[pa.Array, NDArray[np.bool_]]


def _finish_fields(
    rows: pa.StructArray, fields: Sequence[AvroField], strict: bool
) -> tuple[list[pa.Array], NDArray[np.bool_]]:
    """(the fields' columns in the schema's types, bool [n]: rows that need a closer look)."""
    columns: list[pa.Array] = []
    bad = np.zeros(len(rows), np.bool_)
    for entry in fields:
        found = [rows.field(name) for name in walk_names(entry) if rows.type.get_field_index(name) >= 0]
        given = [array for array in found if array.null_count < len(array)] or found[:1]
        array, bad_here = _finish(pc.coalesce(*given) if len(given) > 1 else given[0], entry.type, strict)
        if entry.default is not NO_DEFAULT and entry.default is not None and given[0].null_count:
            bad_here = bad_here | pc.is_null(given[0]).to_numpy(zero_copy_only=False)  # null, or the default?
        columns.append(array)
        bad |= bad_here
    return columns, bad


def _finish(array: pa.Array, avro: AvroType, strict: bool) -> Finished:
    plain = avro.non_null()
    assert plain is not None
    value, nullable = plain
    n = len(array)
    missing = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else np.zeros(n, np.bool_)
    bad = np.zeros(n, np.bool_) if nullable else missing
    bitmap = pc.invert(pa.array(missing)).buffers()[1] if array.null_count else None
    if value.kind == "record":
        parts, inner = _finish_fields(array, value.fields, strict)
        fields = [pa.field(e.name, p.type, e.type.non_null()[1]) for e, p in zip(value.fields, parts, strict=True)]  # type: ignore[index]
        struct = pa.Array.from_buffers(pa.struct(fields), n, [bitmap], -1, children=parts)
        return struct, bad | (inner & ~missing)
    if value.kind in ("array", "map"):
        return _finish_items(array, value, bad, bitmap, strict)
    if value.kind == "enum":
        indices = pc.index_in(array, pa.array(value.symbols, pa.string()))
        if indices.null_count > array.null_count:
            bad = bad | (indices.is_null().to_numpy(zero_copy_only=False) & ~missing)
        return pa.DictionaryArray.from_arrays(indices, pa.array(value.symbols, pa.string())), bad
    if value.logical == "uuid" and value.kind == "fixed":
        fits = pc.match_substring_regex(array, UUID_TEXT).fill_null(False).to_numpy(zero_copy_only=False)
        return pc.utf8_lower(array), bad | ~(fits | missing) | strict
    if value.logical == "decimal" and pa.types.is_string(array.type):
        fits = pc.match_substring_regex(array, decimal_pattern(value, strict)).fill_null(False)
        decimals = pc.if_else(fits, array, pa.scalar(None, pa.string())).cast(arrow_type(value, "")[0])
        return decimals, bad | ~(fits.to_numpy(zero_copy_only=False) | missing)
    if value.kind in ("float", "double"):
        infinite = np.isinf(array.to_numpy(zero_copy_only=False))
        return array, bad | (infinite & ~missing)
    if value.logical in RANGES:
        low, high = RANGES[value.logical]
        numbers = array.fill_null(0).to_numpy(zero_copy_only=False)
        bad = bad | (numbers < low) | (numbers > high)
    if value.kind in ("int", "long") and value.logical:
        return array.view(arrow_type(value, "")[0]), bad
    return array, bad


def _finish_items(
    array: pa.Array, value: AvroType, bad: NDArray[np.bool_], bitmap: pa.Buffer | None, strict: bool
) -> Finished:
    n = len(array)
    offsets = np.asarray(array.offsets).astype(np.int64)
    first, last = int(offsets[0]), int(offsets[-1])
    items = (array.items if value.kind == "map" else array.values).slice(first, last - first)
    finished, bad_items = _finish(items, value.item, strict)
    before = np.concatenate(([0], np.cumsum(bad_items)))
    bad = bad | (before[offsets[1:] - first] > before[offsets[:-1] - first])
    item = value.item.non_null()
    assert item is not None
    buffers = [bitmap, pa.py_buffer((offsets - first).astype(np.int32))]
    if value.kind == "map":
        kind = pa.map_(pa.string(), pa.field("value", finished.type, item[1]))
        entries = pa.struct([kind.key_field, kind.item_field])
        keys = array.keys.slice(first, last - first)
        finished = pa.Array.from_buffers(entries, last - first, [None], 0, children=[keys, finished])
    else:
        kind = pa.list_(pa.field("item", finished.type, item[1]))
    return pa.Array.from_buffers(kind, n, buffers, -1, children=[finished]), bad


class JsonEncoder:
    """Encodes blocks of rows, one JSON object a row, as :class:`JsonDecoder` reads them.

    NaN and infinities are written as null. For people and webhooks: rows become Python objects here.

    Args:
      schema: a record schema.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema: pa.Schema = arrow_schema(schema)
        self._record = parse_record(schema)

    def encode(self, rows: pa.RecordBatch) -> pa.BinaryArray:
        """The JSON texts of n rows, UTF-8, n long."""
        columns = []
        for entry in self._record.fields:
            values = rows.column(entry.name).cast(_row_type(entry.type)).to_pylist()
            columns.append([_plain(value, entry.type) for value in values])
        names = [entry.name for entry in self._record.fields]
        texts = [
            json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False, separators=(",", ":")).encode()
            for row in (zip(*columns, strict=True) if columns else [()] * rows.num_rows)
        ]
        return pa.array(texts, pa.binary())


def _plain(value: Any, avro: AvroType) -> Any:
    """A Python value as ``json.dumps`` takes it."""
    plain = avro.non_null()
    assert plain is not None
    target, kind = plain[0], plain[0].kind
    if value is None:
        return None
    if kind == "record":
        return {entry.name: _plain(value[entry.name], entry.type) for entry in target.fields}
    if kind == "array":
        return [_plain(item, target.item) for item in value]
    if kind == "map":
        return {key: _plain(item, target.item) for key, item in value}
    if kind in ("float", "double"):
        return value if value - value == 0 else None
    if target.logical == "decimal":
        return format(value, "f")
    return value.decode("latin-1") if isinstance(value, bytes) else value
