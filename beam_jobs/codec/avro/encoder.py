"""Blocks of Arrow rows to Avro values."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from beam_jobs.codec.avro import encode_vm as vm
from beam_jobs.codec.columns import misfit
from beam_jobs.codec.schema import AvroType, arrow_schema, arrow_type, parse_record
from beam_jobs.codec.uuids import uuid_bytes
from beam_jobs.errors import UserError, listed, shown

MAX_BYTES = {vm.VARINT: 10, vm.DOUBLE: 8, vm.FLOAT: 4, vm.BOOLEAN: 1, vm.TEXT: 10, vm.NULLABLE: 1, vm.LIST: 11}
"""The most an instruction writes, beside bytes of the pool. DECIMAL: see ``_max_bytes``."""


class AvroEncoder:
    """Encodes blocks of rows, one Avro value a row.

    Args:
      schema: a record schema; unions are of null and one type.
      schema_id: goes into Confluent's header (0, then the id in four bytes); None: no header.

    Raises:
      UserError: the schema is invalid, or a field's type has no Arrow form.
    """

    def __init__(self, schema: Mapping[str, Any], schema_id: int | None) -> None:
        self._record = parse_record(schema)
        self._program = _Program()
        self.schema: pa.Schema = arrow_schema(schema)
        for entry in self._record.fields:
            self._program.add(entry.type, entry.name, 0)
        self._program.emit(vm.END)
        header = b"" if schema_id is None else struct.pack(">BI", 0, schema_id)
        self._header = np.frombuffer(header, np.uint8)

    def encode(self, rows: pa.RecordBatch) -> pa.BinaryArray:
        """The values of n rows, n long, none null.

        Columns are found by name and cast to the schema's types where that loses nothing; other columns are ignored;
        a nullable field without a column is null.

        Raises:
          UserError: a field that is not nullable has no column or a null, or a value does not fit its type.
        """
        out, ends = self.encode_buffer(rows)
        if len(out) > 0x7FFFFFFF:
            raise UserError(f"{rows.num_rows} rows encode to {len(out)} bytes; encode blocks of less than 2 GiB")
        offsets = np.zeros(len(ends) + 1, np.int32)
        offsets[1:] = ends
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(out.copy())]  # without the unused end
        return pa.Array.from_buffers(pa.binary(), len(ends), buffers, 0)

    def encode_buffer(self, rows: pa.RecordBatch) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """(bytes of all values end to end, int64 [n] where each ends); errors as in :meth:`encode`.

        The bytes are the front of a larger buffer: to be used and let go.
        """
        n = rows.num_rows
        columns = _Columns(levels=self._program.levels)
        columns.level_rows[0] = n
        for entry in self._record.fields:
            index = rows.schema.get_field_index(entry.name)
            array = rows.column(index) if index >= 0 else None
            columns.add(entry.type, entry.name, array, n, 0, entry.personal)
        ops = self._program.patched(columns)
        pool, cells = columns.pool(), columns.joined_cells()
        bound = len(self._header) * n + len(pool)
        bound += sum(_max_bytes(o) * columns.level_rows[o[vm.LEVEL]] for o in ops.tolist())
        out = np.empty(bound, np.uint8)
        ends = np.empty(n, np.int64)
        refused = vm.encode(ops, n, self._header, cells, columns.joined_flags(), pool, self._program.levels, out, ends)
        if refused >= 0:
            name = self._program.names[int(ops[refused, vm.FIELD])]
            raise UserError(f"field {name!r} has no value in some row and is not nullable; give it one, or allow null")
        return out[: ends[-1] if n else 0], ends


def _max_bytes(instruction: list[int]) -> int:
    if instruction[vm.OP] == vm.DECIMAL:
        return max(instruction[vm.A], 17)
    return MAX_BYTES.get(instruction[vm.OP], 0)


class _Program:
    """The instructions for one schema. Cell and flag columns are numbered in the order ``_Columns`` fills them."""

    def __init__(self) -> None:
        self.ops: list[list[int]] = []
        self.names: list[str] = []
        self.levels = 1
        self._cells = 0
        self._flags = 0

    def emit(self, code: int, cell: int = 0, flag: int = -1, level: int = 0, a: int = 0) -> int:
        self.ops.append([code, cell, flag, level, a, len(self.names) - 1])
        return len(self.ops) - 1

    def patched(self, columns: _Columns) -> NDArray[np.int64]:
        """The instructions with positions in the given columns, int64 [k, WIDTH]."""
        ops = np.array(self.ops, np.int64)
        starts = np.cumsum([0, *(len(part) for part in columns.cells)])
        ops[:, vm.CELL] = starts[ops[:, vm.CELL]]
        with_flag = ops[:, vm.VALID] >= 0
        ops[with_flag, vm.VALID] = np.array([*columns.flag_starts(), -1])[ops[with_flag, vm.VALID]]
        return ops

    def add(self, avro: AvroType, path: str, level: int) -> None:
        plain = avro.non_null()
        assert plain is not None
        value, nullable = plain
        self.names.append(path)
        if value.kind == "null":
            if avro.kind == "union":
                self.emit(vm.NULLABLE, level=level, a=1)  # branch 0 of ["null"]
                self.emit(vm.ELSE)
            return
        flag = self._flags
        self._flags += 1
        exits = -1
        if nullable:
            null_branch = [branch.kind for branch in avro.branches].index("null")
            self.emit(vm.NULLABLE, flag=flag, level=level, a=null_branch)
            exits = self.emit(vm.ELSE)
        else:
            self.emit(vm.REQUIRE, flag=flag, level=level)
            if avro.kind == "union":
                self.emit(vm.NULLABLE, level=level, a=1)
                self.emit(vm.ELSE)
        self._value(value, path, level)
        if nullable:
            self.ops[exits][vm.A] = len(self.ops)

    def _value(self, value: AvroType, path: str, level: int) -> None:
        if value.kind == "record":
            for entry in value.fields:
                self.add(entry.type, f"{path}.{entry.name}", level)
            return
        cell = self._cells
        self._cells += 1
        if value.kind in ("array", "map"):
            inner = self.levels
            self.levels += 1
            self.emit(vm.LIST, cell, level=level, a=inner)
            loop = self.emit(vm.NEXT, level=inner)
            if value.kind == "map":
                self.add(AvroType("string"), f"{path} key", inner)
            self.add(value.item, f"{path}[]", inner)
            self.emit(vm.JUMP, a=loop)
            self.ops[loop][vm.A] = len(self.ops)
            return
        codes = {"boolean": vm.BOOLEAN, "float": vm.FLOAT, "double": vm.DOUBLE, "string": vm.TEXT, "bytes": vm.TEXT}
        size = value.size if value.kind == "fixed" else -1
        if value.logical == "decimal":
            self.emit(vm.DECIMAL, cell, level=level, a=size)
        elif value.kind == "fixed":
            self.emit(vm.FIXED, cell, level=level, a=size)
        else:
            self.emit(codes.get(value.kind, vm.VARINT), cell, level=level)


@dataclass
class _Columns:
    """The values of one block, in the order of the program's columns."""

    levels: int
    cells: list[NDArray[np.int64]] = field(default_factory=list)
    flags: list[NDArray[np.uint8] | None] = field(default_factory=list)  # None: no null
    texts: list[NDArray[np.uint8]] = field(default_factory=list)
    text_bytes: int = 0
    next_level: int = 1
    level_rows: dict[int, int] = field(default_factory=dict)

    def pool(self) -> NDArray[np.uint8]:
        return np.concatenate([np.empty(0, np.uint8), *self.texts])

    def joined_cells(self) -> NDArray[np.int64]:
        return np.concatenate([np.empty(0, np.int64), *self.cells])

    def joined_flags(self) -> NDArray[np.uint8]:
        return np.concatenate([np.empty(0, np.uint8), *(part for part in self.flags if part is not None)])

    def flag_starts(self) -> list[int]:
        starts, at = [], 0
        for part in self.flags:
            starts.append(-1 if part is None else at)
            at += 0 if part is None else len(part)
        return starts

    def add(self, avro: AvroType, path: str, array: pa.Array | None, n: int, level: int, personal: bool) -> None:
        """Appends the n values of a field; None: the column is missing."""
        arrow, nullable = arrow_type(avro, path)
        plain = avro.non_null()
        assert plain is not None
        value = plain[0]
        if array is None:
            if not nullable and n:
                raise UserError(f"field {path!r} has no column and is not nullable; add the column, or allow null")
            array = pa.nulls(n, arrow)
        if value.kind == "null":
            return
        array = _cast(array, arrow, path, personal)
        self.flags.append(array.is_valid().to_numpy(zero_copy_only=False).view(np.uint8) if array.null_count else None)
        if value.kind == "record":
            for entry in value.fields:
                index = array.type.get_field_index(entry.name)
                part = array.field(index) if index >= 0 else None
                self.add(entry.type, f"{path}.{entry.name}", part, n, level, personal or entry.personal)
        elif value.kind in ("array", "map"):
            self._list(value, path, array, personal)
        else:
            self.cells.append(self._cells(value, path, array, personal))

    def _list(self, value: AvroType, path: str, array: pa.Array, personal: bool) -> None:
        inner, self.next_level = self.next_level, self.next_level + 1
        offsets = np.zeros(1, np.int64)
        if len(array):
            offsets = np.frombuffer(array.buffers()[1], np.int32, len(array) + 1, array.offset * 4).astype(np.int64)
        first, n = int(offsets[0]), int(offsets[-1] - offsets[0])
        self.cells.append(offsets - first)
        self.level_rows[inner] = n
        if value.kind == "map":
            self.add(AvroType("string"), f"{path} key", array.keys.slice(first, n), n, inner, personal)
            self.add(value.item, f"{path}[]", array.items.slice(first, n), n, inner, personal)
        else:
            self.add(value.item, f"{path}[]", array.values.slice(first, n), n, inner, personal)

    def _text(self, text: NDArray[np.uint8], ends: NDArray[np.int64]) -> NDArray[np.int64]:
        start = self.text_bytes
        self.texts.append(text)
        self.text_bytes += len(text)
        return ends + start

    def _cells(self, value: AvroType, path: str, array: pa.Array, personal: bool) -> NDArray[np.int64]:
        n, kind, at = len(array), value.kind, array.offset
        if kind == "boolean":
            return array.cast(pa.int8()).fill_null(0).to_numpy().astype(np.int64)
        if kind == "enum":
            return _symbols(value, path, array, personal)
        data = array.buffers()[-1]
        if value.logical == "decimal":
            pairs = np.frombuffer(data, np.int64, 2 * n, 16 * at) if n else np.empty(0, np.int64)
            _check_fixed_decimal(value, path, array, pairs)
            return pairs
        if value.logical == "uuid" and kind == "fixed":
            return self._text(uuid_bytes(array, path), np.arange(n + 1, dtype=np.int64) * value.size)
        if kind == "fixed":
            text = np.frombuffer(data, np.uint8, n * value.size, at * value.size) if n and value.size else _NO_TEXT
            return self._text(text, np.arange(n + 1, dtype=np.int64) * value.size)
        if kind in ("string", "bytes"):
            if not n:
                return np.zeros(1, np.int64)
            offsets = np.frombuffer(array.buffers()[1], np.int32, n + 1, at * 4).astype(np.int64)
            text = np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]] if offsets[-1] else _NO_TEXT
            return self._text(text, offsets - offsets[0])
        dtype = np.int32 if array.type.bit_width == 32 else np.int64
        return np.frombuffer(data, dtype, n, at * array.type.bit_width // 8).astype(np.int64) if n else _NO_CELLS


_NO_TEXT = np.empty(0, np.uint8)
_NO_CELLS = np.empty(0, np.int64)


def _cast(array: pa.Array, arrow: pa.DataType, path: str, personal: bool) -> pa.Array:
    """The array in the schema's type. Structs, lists and maps are cast part by part, later."""
    kind = array.type
    for nested in (pa.types.is_struct, pa.types.is_list, pa.types.is_map):
        if nested(arrow) and nested(kind):
            return array
    if kind == arrow or kind.equals(arrow):
        return array
    wanted = pa.string() if pa.types.is_dictionary(arrow) else arrow
    try:
        fitting = array.cast(wanted)
    except pa.ArrowException:
        bad = misfit(array, wanted, personal)
        raise UserError(f"field {path!r}: a column of {kind} does not fit {arrow}{bad}; convert it before") from None
    return fitting.dictionary_encode() if wanted != arrow else fitting


def _symbols(value: AvroType, path: str, array: pa.DictionaryArray, personal: bool) -> NDArray[np.int64]:
    symbols = pc.index_in(array.dictionary.cast(pa.string()), pa.array(value.symbols, pa.string()))
    indices = symbols.take(array.indices)
    if indices.null_count > array.null_count:
        missing = array.cast(pa.string()).filter(pc.and_(indices.is_null(), array.is_valid()))[0].as_py()
        raise UserError(f"field {path!r} has the value {shown(missing, personal)}; use one of {listed(value.symbols)}")
    return indices.fill_null(0).to_numpy().astype(np.int64)


def _check_fixed_decimal(value: AvroType, path: str, array: pa.Array, pairs: NDArray[np.int64]) -> None:
    if value.kind != "fixed" or value.size >= 16:
        return
    bits = 8 * value.size - 1
    low, high = pairs[0::2], pairs[1::2]
    if bits >= 64:
        fits = (high >> (bits - 64)) == (high >> 63)
    else:
        fits = ((low >> max(bits, 0)) == high) & ((high == 0) | (high == -1))
    if array.null_count:
        fits = fits | ~array.is_valid().to_numpy(zero_copy_only=False)
    if not fits.all():
        raise UserError(f"field {path!r} has a decimal that does not fit {value.size} bytes; use a larger fixed")
