"""Where the values of decoded columns stand in the machine's arenas, and how they become Arrow arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs.codec.avro.bytes import gather
from beam_jobs.codec.schema import AvroField, AvroType, arrow_type, selected_fields
from beam_jobs.codec.uuids import uuid_texts


@dataclass(eq=False)
class Column:
    """One column, or one part of a nested column: its cells and those of its parts."""

    avro: AvroType  # without the null branch
    arrow: pa.DataType
    nullable: bool
    path: str  # "headers[].key"
    level: int
    slot: int = -1  # first cell column of its level; -1: has none (record, null)
    valid: int = -1  # validity column of its level; -1: never null
    items_level: int = -1  # of a list's or map's items
    parts: list[Column] = field(default_factory=list)  # record: fields; list: [item]; map: [key, value]


class Layout:
    """The columns of a reader schema.

    Cell columns ("slots") and validity columns are numbered from 0 within their level; a level's arenas lie one
    column after the other, ``capacity[level]`` cells each.
    """

    def __init__(self, record: AvroType, columns: Sequence[str] | None) -> None:
        self.slots: list[int] = []  # cell columns per level
        self.valids: list[int] = []  # validity columns per level
        self.personal: set[str] = set()  # paths of values that no message may show
        self._new_level()
        self.fields: list[AvroField] = selected_fields(record, columns)
        self.columns: list[Column] = [self._column(entry.type, entry.name, 0, entry.personal) for entry in self.fields]
        wanted = AvroType("record", record.name, aliases=record.aliases, fields=self.fields)
        self.event = Column(wanted, pa.struct([]), False, "", 0, parts=self.columns)  # the rows themselves
        self.schema = pa.schema(
            [
                pa.field(entry.name, column.arrow, nullable=column.nullable)
                for entry, column in zip(self.fields, self.columns, strict=True)
            ]
        )

    def _new_level(self) -> int:
        self.slots.append(0)
        self.valids.append(0)
        return len(self.slots) - 1

    def _slot(self, level: int, cells: int = 1) -> int:
        first = self.slots[level]
        self.slots[level] += cells
        return first

    def _column(self, avro: AvroType, path: str, level: int, personal: bool) -> Column:
        arrow, nullable = arrow_type(avro, path)
        plain = avro.non_null()
        assert plain is not None
        value = plain[0]
        column = Column(value, arrow, nullable, path, level)
        if personal:
            self.personal.add(path)
        if nullable and value.kind != "null":
            column.valid = self.valids[level]
            self.valids[level] += 1
        if value.kind == "record":
            column.parts = [
                self._column(entry.type, f"{path}.{entry.name}", level, personal or entry.personal)
                for entry in value.fields
            ]
        elif value.kind in ("array", "map"):
            column.slot = self._slot(level)
            column.items_level = self._new_level()
            if value.kind == "map":
                column.parts.append(self._column(AvroType("string"), f"{path} key", column.items_level, personal))
            column.parts.append(self._column(value.item, f"{path}[]", column.items_level, personal))
        elif value.logical == "decimal":
            column.slot = self._slot(level, cells=2)
        elif value.kind != "null":
            column.slot = self._slot(level)
        return column


@dataclass(frozen=True)
class Arenas:
    """The machine's output for one block."""

    layout: Layout
    data: NDArray[np.uint8]  # what was decoded
    pool: NDArray[np.uint8]  # constants
    cells: NDArray[np.int64]
    valid: NDArray[np.uint8]
    cell_starts: Sequence[int]  # [levels + 1], where each level's columns begin in cells
    valid_starts: Sequence[int]  # the same in valid
    capacity: Sequence[int]  # [levels]
    counts: Sequence[int]  # [levels], rows decoded

    def record_batch(self) -> pa.RecordBatch:
        """The decoded rows."""
        n = self.counts[0]
        arrays = [self.array(column) for column in self.layout.columns]
        if not arrays:  # a projection on nothing still has a number of rows
            return pa.RecordBatch.from_struct_array(pa.array([{}] * n, pa.struct([])))
        return pa.RecordBatch.from_arrays(arrays, schema=self.layout.schema)

    def _cells(self, column: Column, extra: int = 0) -> NDArray[np.int64]:
        start = self.cell_starts[column.level] + (column.slot + extra) * self.capacity[column.level]
        return self.cells[start : start + self.counts[column.level]]

    def _validity(self, column: Column) -> tuple[pa.Buffer | None, int]:
        """(bitmap, nulls)."""
        if column.valid < 0:
            return None, 0
        n = self.counts[column.level]
        start = self.valid_starts[column.level] + column.valid * self.capacity[column.level]
        flags = self.valid[start : start + n]
        nulls = n - int(np.count_nonzero(flags))
        return (pa.py_buffer(np.packbits(flags, bitorder="little")), nulls) if nulls else (None, 0)

    def array(self, column: Column) -> pa.Array:
        """The Arrow array of a column, all rows of its level."""
        n = self.counts[column.level]
        kind, arrow = column.avro.kind, column.arrow
        bitmap, nulls = self._validity(column)
        if kind == "null":
            return pa.nulls(n)
        if kind == "record":
            return pa.Array.from_buffers(arrow, n, [bitmap], nulls, children=[self.array(p) for p in column.parts])
        cells = self._cells(column)
        if kind in ("array", "map"):
            if n and cells[-1] >= 1 << 31:
                raise OverflowError(f"column {column.path!r} has more than 2**31 items in one block")
            ends = np.zeros(n + 1, np.int32)
            ends[1:] = cells
            items = [self.array(part) for part in column.parts]
            if kind == "map":
                entries = pa.struct([arrow.key_field, arrow.item_field])
                items = [pa.Array.from_buffers(entries, len(items[0]), [None], 0, children=items)]
            return pa.Array.from_buffers(arrow, n, [bitmap, pa.py_buffer(ends)], nulls, children=items)
        if column.avro.logical == "decimal":
            pairs = np.stack([cells, self._cells(column, 1)], axis=1)  # Arrow's order: low half first
            return pa.Array.from_buffers(arrow, n, [bitmap, pa.py_buffer(pairs)], nulls)
        if kind == "enum":
            indices = pa.Array.from_buffers(pa.int32(), n, [bitmap, pa.py_buffer(cells.astype(np.int32))], nulls)
            return pa.DictionaryArray.from_arrays(indices, pa.array(column.avro.symbols, pa.string()))
        if kind in ("string", "bytes", "fixed"):
            offsets = np.empty(n + 1, np.int32)
            text = gather(cells, self.data, self.pool, offsets)
            if offsets[n] < 0:
                raise OverflowError(f"column {column.path!r} has more than 2 GiB in one block; use smaller blocks")
            if kind == "fixed":
                full = self._full(column, cells, text)
                if column.avro.logical == "uuid":
                    return uuid_texts(full, bitmap, nulls)
                return pa.Array.from_buffers(arrow, n, [bitmap, pa.py_buffer(full)], nulls)
            return pa.Array.from_buffers(arrow, n, [bitmap, pa.py_buffer(offsets), pa.py_buffer(text)], nulls)
        if kind == "boolean":
            bits = np.packbits(cells.astype(np.bool_), bitorder="little")
            return pa.Array.from_buffers(arrow, n, [bitmap, pa.py_buffer(bits)], nulls)
        if arrow.bit_width == 32:
            cells = cells.astype(np.int32)
        return pa.Array.from_buffers(arrow, n, [bitmap, pa.py_buffer(cells)], nulls)

    def _full(self, column: Column, cells: NDArray[np.int64], text: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The bytes of a fixed; a null, or what is inside one, takes its size in Arrow but none in the arena."""
        size, n = column.avro.size, len(cells)
        if len(text) == n * size:
            return text
        full = np.zeros((n, size), np.uint8)
        full[(cells & 0xFFFFFFFF) == size] = text.reshape(-1, size)
        return full.reshape(-1)
