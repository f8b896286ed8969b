"""Compiles (writer schema, reader schema, projection) into a program for ``vm.py``.

Resolution follows the Avro specification (``codec/resolution.py``): fields by name, then by the reader's aliases;
records, enums and fixeds by unqualified name or alias; defaults for fields the writer lacks; promotions int → long →
float → double and string ⇄ bytes; unions on either side. Beyond it, the outermost record may have any name, timestamps
of different units are converted, and a decimal of the same scale is read whatever its precision and its bytes. What can
only fail for some values (a union branch or an enum symbol the reader has no place for) fails for those rows alone.

What a program costs is bounded while it is made: a schema of a few hundred bytes may take forever without that.
"""

from __future__ import annotations

import struct
from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.codec.avro import ops as op
from beam_jobs.codec.avro.layout import Column, Layout
from beam_jobs.codec.resolution import misread, pair_fields, same_name
from beam_jobs.codec.schema import INTEGERS, MAX_WIDTH, NO_DEFAULT, AvroField, AvroType, SchemaTooLargeError
from beam_jobs.errors import UserError

RANGES = {"time-millis": (0, 86_400_000 - 1), "time-micros": (0, 86_400_000_000 - 1)}
PER_SECOND = {"millis": 10**3, "micros": 10**6, "nanos": 10**9}
MAX_INSTRUCTIONS = 100_000  # of a program: 5 MB; a union of null and T has six
MAX_STEPS = 400_000  # of compiling one, those in vain among them: about half a second


class UnresolvableError(Exception):
    """The writer's type has no place in the reader's; the message is a sentence naming both."""


@dataclass(frozen=True, eq=False)
class Program:
    """The instructions for one writer schema. Jumps count from the first of them."""

    ops: NDArray[np.int64]  # [k, op.WIDTH]
    names: tuple[str, ...]  # of fields, for errors
    sentences: tuple[str, ...]  # of what fails for some rows
    run_fields: dict[int, list[int]]  # of an instruction that reads several fields: their names
    personal: Set[str]  # of names: their values no error may show

    @property
    def content(self) -> bytes:
        """The same for programs that do the same and say the same."""
        return b"\0".join([self.ops.tobytes(), *(text.encode() for text in (*self.names, "", *self.sentences))])


class Constants:
    """Bytes that defaults are made of; complete once ``check_defaults`` was called."""

    def __init__(self) -> None:
        self.pool = bytearray()
        self._index: dict[bytes, int] = {}

    def position(self, raw: bytes) -> int:
        """A cell with the bytes, which are added if need be."""
        if raw not in self._index:
            self._index[raw] = len(self.pool)
            self.pool += raw
        return (self._index[raw] | op.POOL_BIT) << 32 | len(raw)


def compile_writer(layout: Layout, constants: Constants, writer: AvroType) -> Program:
    """The program that reads values of ``writer`` into ``layout``.

    Raises:
      UnresolvableError: no row of this writer can be read.
      SchemaTooLargeError: it would take more than ``MAX_INSTRUCTIONS``, or ``MAX_STEPS`` to find them.
    """
    return _Compiler(layout, constants).program(writer)


def check_defaults(layout: Layout, constants: Constants) -> None:
    """Compiles every default for nothing, so that a wrong one is found before the first row that needs it.

    Raises:
      UserError: a default does not fit its field.
    """
    _Compiler(layout, constants).check_defaults(layout.fields, layout.columns)


class _Compiler:
    """Makes one program."""

    def __init__(self, layout: Layout, constants: Constants) -> None:
        self._layout = layout
        self._constants = constants
        self.ops: list[list[int]] = []
        self.names: list[str] = [""]
        self.sentences: list[str] = []
        self.run_fields: dict[int, list[int]] = {}
        self._name_index: dict[str, int] = {"": 0}
        self._steps = 0
        self._field = 0
        self._run_from = 0  # instructions before this one may be jumped to or over: do not extend them
        self._skips: dict[AvroType, int] = {}
        self._calls: list[tuple[int, AvroType]] = []

    def program(self, writer: AvroType) -> Program:
        if writer.kind == "union" and writer.branches:  # several kinds of events in one topic
            self._union(writer, self._layout.event)
        elif writer.kind == "record":
            self._record(writer, self._layout.fields, self._layout.columns, "")
        else:
            what = "an empty union" if writer.kind == "union" else repr(writer.label)
            raise UnresolvableError(f"the writer's schema is {what}, expected a record")
        self._emit(op.END)
        self._skip_subroutines()
        ops = np.array(self.ops, np.int64).reshape(-1, op.WIDTH)
        return Program(ops, tuple(self.names), tuple(self.sentences), self.run_fields, self._layout.personal)

    def check_defaults(self, fields: list[AvroField], columns: list[Column]) -> None:
        for entry, column in zip(fields, columns, strict=True):
            if entry.default is not NO_DEFAULT:
                self._default(column, entry.default)
            inner = column
            while inner.items_level >= 0:
                inner = inner.parts[-1]
            if inner.avro.kind == "record":
                self.check_defaults(inner.avro.fields, inner.parts)

    # instructions

    def _spend(self, steps: int) -> None:
        """Counts work that may leave no instruction behind."""
        self._steps += steps
        if self._steps > MAX_STEPS or len(self.ops) >= MAX_INSTRUCTIONS:
            raise SchemaTooLargeError(
                f"resolving the writer's schema takes more than {MAX_INSTRUCTIONS:,} instructions or {MAX_STEPS:,} "
                "steps; write with a smaller one"
            )

    def _emit(self, code: int, slot: int = -1, level: int = 0, a: int = 0, b: int = 0) -> int:
        self._spend(1)
        self.ops.append([code, slot, level, a, b, self._field])
        return len(self.ops) - 1

    def _emit_run(self, code: int, column: Column) -> None:
        """A double, long or int; several into neighbouring columns are one instruction."""
        last = self.ops[-1] if len(self.ops) > self._run_from else None
        if (
            last is not None
            and last[op.OP] == code
            and last[op.LEVEL] == column.level
            and last[op.BASE] + last[op.A] == column.slot
        ):
            last[op.A] += 1
            self.run_fields[len(self.ops) - 1].append(self._field)
        else:
            self.run_fields[self._emit(code, column.slot, column.level, 1)] = [self._field]

    def _emit_skip(self, size: int) -> None:
        last = self.ops[-1] if len(self.ops) > self._run_from else None
        if last is not None and last[op.OP] == op.SKIP:
            last[op.A] = min(last[op.A] + size, MAX_WIDTH)
        elif size:
            self._emit(op.SKIP, a=size)

    def _here(self) -> int:
        """The next instruction, as the target of a jump."""
        self._run_from = len(self.ops)
        return self._run_from

    def _in_field(self, path: str) -> None:
        self._field = self._name_index.setdefault(path, len(self.names))
        if self._field == len(self.names):
            self.names.append(path)

    # resolution

    def _record(self, writer: AvroType, fields: list[AvroField], columns: list[Column], path: str) -> None:
        self._spend(len(writer.fields) + len(fields))
        pairs = pair_fields(fields, writer.fields)
        place = {source.name: i for i, (_, source) in enumerate(pairs) if source is not None}
        for source in writer.fields:
            where = f"{path}.{source.name}" if path else source.name
            if source.name in place:
                column = columns[place[source.name]]
                self._in_field(column.path)
                self._value(source.type, column)
            else:
                self._in_field(where)
                self._skip(source.type)
        found = set(place.values())
        for i, entry in enumerate(fields):
            if i not in found:
                if entry.default is NO_DEFAULT:
                    raise UnresolvableError(
                        f"field {columns[i].path!r} is not in the writer's schema {writer.name!r} and has no default; "
                        "give it a default or, if the writer calls it otherwise, an alias"
                    )
                self._in_field(columns[i].path)
                self._default(columns[i], entry.default)

    def _value(self, writer: AvroType, column: Column) -> None:
        if writer.kind == "union":
            self._union(writer, column)
        elif writer.kind == "null":
            if not column.nullable:
                raise self._mismatch(writer, column)
            self._null(column)
        else:
            self._valid(column, 1)
            self._non_null(writer, column)

    def _union(self, writer: AvroType, column: Column) -> None:
        table = self._emit(op.UNION, a=len(writer.branches))
        for branch in writer.branches:
            flag = column.valid if branch.kind != "null" else -1
            self._emit(op.BRANCH, flag, column.level, b=1)
        ends = []
        order = _null_first(writer.branches)
        for i in order:
            branch = writer.branches[i]
            start = self.ops[table + 1 + i][op.A] = self._here()
            field, calls = self._field, len(self._calls)
            try:
                if branch.kind == "null":
                    self._value(branch, column)
                else:
                    self._non_null(branch, column)
            except UnresolvableError as e:
                del self.ops[start:], self._calls[calls:]
                self._field = field
                self.ops[table + 1 + i][op.BASE] = -1
                self.sentences.append(str(e))
                self._emit(op.FAIL, a=len(self.sentences) - 1)
            else:
                if i != order[-1]:
                    ends.append(self._emit(op.JUMP))
            self._field = field
        for jump in ends:
            self.ops[jump][op.A] = self._here()
        self._here()

    def _non_null(self, writer: AvroType, column: Column) -> None:
        reader = column.avro
        if writer.kind in ("array", "map") and writer.kind == reader.kind:
            self._items(writer, column)
        elif writer.kind == "record" and reader.kind == "record" and same_name(reader, writer):
            self._record(writer, reader.fields, column.parts, column.path)
        elif writer.kind == "enum" and reader.kind == "enum" and same_name(reader, writer):
            self._enum(writer, column)
        elif reader.logical == "decimal":
            self._decimal(writer, column)
        elif writer.kind == "fixed" and reader.kind == "fixed" and same_name(reader, writer):
            if writer.size != reader.size or misread(reader, writer):
                raise self._mismatch(writer, column)
            self._emit(op.FIXED, column.slot, column.level, reader.size)
        elif writer.kind in ("string", "bytes") and reader.kind in ("string", "bytes"):
            if misread(reader, writer):
                raise self._mismatch(writer, column)
            self._emit(op.STRING if reader.kind == "string" else op.BYTES, column.slot, column.level)
        else:
            self._number(writer, column)

    def _number(self, writer: AvroType, column: Column) -> None:
        pair = (writer.kind, column.avro.kind)
        slot, level = column.slot, column.level
        factor = _unit_factor(writer, column.avro)
        if factor is None:
            raise self._mismatch(writer, column)
        if pair == ("boolean", "boolean"):
            self._emit(op.BOOLEAN, slot, level)
        elif pair == ("long", "long") and factor != 1:
            self._emit(op.LONG_TIMES if factor > 1 else op.LONG_OVER, slot, level, int(max(factor, 1 / factor)))
        elif pair in (("int", "int"), ("int", "long"), ("long", "long")):
            low, high = RANGES.get(column.avro.logical or "", INTEGERS[writer.kind])
            if (low, high) == INTEGERS["long"]:
                self._emit_run(op.LONG, column)
            elif (low, high) == INTEGERS["int"]:
                self._emit_run(op.INT, column)
            else:
                self._emit(op.RANGE, slot, level, low, high)
        elif writer.kind in ("int", "long") and column.avro.kind in ("float", "double"):
            code = op.INTEGER_TO_FLOAT if column.avro.kind == "float" else op.INTEGER_TO_DOUBLE
            self._emit(code, slot, level, int(writer.kind == "int"))
        elif pair == ("float", "float"):
            self._emit(op.FLOAT, slot, level)
        elif pair == ("float", "double"):
            self._emit(op.FLOAT_TO_DOUBLE, slot, level)
        elif pair == ("double", "double"):
            self._emit_run(op.DOUBLE, column)
        else:
            raise self._mismatch(writer, column)

    def _decimal(self, writer: AvroType, column: Column) -> None:
        reader = column.avro
        if writer.logical == "decimal":  # a number is a number, whatever holds it
            fits = writer.scale == reader.scale and (writer.kind != reader.kind or same_name(reader, writer))
        else:
            fits = writer.kind == reader.kind and same_name(reader, writer) and writer.size == reader.size
        if not fits:
            raise self._mismatch(writer, column)
        limit = 10**reader.precision
        self._emit(op.DECIMAL, column.slot, column.level, writer.size if writer.kind == "fixed" else -1)
        self._emit(op.LIMIT, a=limit >> 64, b=_signed(limit & (1 << 64) - 1))

    def _enum(self, writer: AvroType, column: Column) -> None:
        reader = column.avro
        default = -1 if reader.symbol_default is None else reader.symbols.index(reader.symbol_default)
        index = {symbol: i for i, symbol in enumerate(reader.symbols)}
        self._emit(op.ENUM, column.slot, column.level, len(writer.symbols))
        for symbol in writer.symbols:
            self._emit(op.SYMBOL, a=index.get(symbol, default))

    def _items(self, writer: AvroType, column: Column) -> None:
        inner = column.items_level
        self._emit(op.LIST)
        self._here()
        loop = self._emit(op.NEXT, level=inner)
        if writer.kind == "map":
            self._in_field(column.parts[0].path)
            self._value(AvroType("string"), column.parts[0])
        self._in_field(column.parts[-1].path)
        self._value(writer.item, column.parts[-1])
        self._in_field(column.path)
        self._emit(op.ITEM, level=inner, a=loop)
        self.ops[loop][op.A] = self._here()
        self._emit(op.LIST_END, column.slot, column.level, inner)

    def _mismatch(self, writer: AvroType, column: Column) -> UnresolvableError:
        remedy = "mend the writer, or widen the reader's type"
        if writer.kind == "null":
            remedy = "mend the writer, or let the reader's type be null"
        elif writer.kind == column.avro.kind and writer.name and not same_name(column.avro, writer):
            remedy = f"add the alias {writer.name!r} if they are the same"
        place = f"field {column.path!r}" if column.path else "the event"
        return UnresolvableError(
            f"{place}: the writer's {writer.label} has no place in the reader's {column.avro.label}; {remedy}"
        )

    # values the writer does not have

    def _valid(self, column: Column, flag: int) -> None:
        if column.valid >= 0:
            self._emit(op.VALID, column.valid, column.level, flag)

    def _null(self, column: Column) -> None:
        self._valid(column, 0)
        for part in column.parts if column.avro.kind == "record" else ():
            self._null(part)
        if column.items_level >= 0:
            self._emit(op.LIST_END, column.slot, column.level, column.items_level)
        elif column.slot >= 0:
            self._constant(column, 0)

    def _constant(self, column: Column, *values: int) -> None:
        cells = 2 if column.avro.logical == "decimal" else 1
        for i in range(cells):
            self._emit(op.CONST, column.slot + i, column.level, _signed(values[i] if i < len(values) else 0))

    def _default(self, column: Column, default: Any) -> None:
        """A default as the schema's JSON has it: bytes as ISO-8859-1 text, a union's in any of its branches."""
        if default is None:
            if not column.nullable:
                raise UserError(f"field {column.path!r} has the default null but is not nullable; change one of them")
            self._null(column)
            return
        self._valid(column, 1)
        kind = column.avro.kind
        try:
            if kind == "record":
                for entry, part in zip(column.avro.fields, column.parts, strict=True):
                    if entry.name not in default and entry.default is NO_DEFAULT:
                        raise ValueError(f"no {entry.name!r}")
                    self._default(part, default.get(entry.name, entry.default))
            elif kind in ("array", "map"):
                self._default_items(column, default)
            elif column.avro.logical == "decimal":
                number = int.from_bytes(default.encode("latin-1"), "big", signed=True)
                if abs(number) >= 10**column.avro.precision:
                    raise ValueError("too many digits")
                self._constant(column, number & (1 << 64) - 1, number >> 64)
            elif kind in ("string", "bytes", "fixed"):
                raw = default.encode("utf-8" if kind == "string" else "latin-1")
                if kind == "fixed" and len(raw) != column.avro.size:
                    raise ValueError(f"{len(raw)} bytes")
                self._constant(column, self._constants.position(raw))
            else:
                self._constant(column, _scalar_bits(column, default))
        except (ValueError, TypeError, AttributeError, OverflowError):
            raise UserError(
                f"field {column.path!r} has the default {default!r}, not a {column.avro.label}; correct the schema"
            ) from None

    def _default_items(self, column: Column, default: Any) -> None:
        is_map = column.avro.kind == "map"
        if not isinstance(default, dict if is_map else list):
            raise TypeError
        for item in default:
            self._emit(op.ITEM_ROOM, level=column.items_level)
            if is_map:
                self._constant(column.parts[0], self._constants.position(item.encode()))
            self._default(column.parts[-1], default[item] if is_map else item)
            self._emit(op.ITEM, level=column.items_level, a=len(self.ops) + 1)
        self._emit(op.LIST_END, column.slot, column.level, column.items_level)

    # values the reader does not want

    def _skip(self, writer: AvroType) -> None:
        self._spend(1)
        if writer.width is not None:
            self._emit_skip(writer.width)
        elif writer.kind in ("int", "long", "enum"):
            self._emit(op.SKIP_VARINT)
        elif writer.kind in ("string", "bytes"):
            self._emit(op.SKIP_BYTES)
        elif writer.kind == "record":  # a subroutine: the record may contain itself
            self._calls.append((self._emit(op.CALL), writer))
        elif writer.kind in ("array", "map"):
            self._emit(op.LIST)
            self._here()
            loop = self._emit(op.NEXT, level=-1, b=1)
            if writer.kind == "map":
                self._emit(op.SKIP_BYTES)
            self._skip(writer.item)
            self._emit(op.JUMP, a=loop)
            self.ops[loop][op.A] = self._here()
        else:
            table = self._emit(op.UNION, a=len(writer.branches))
            for _ in writer.branches:
                self._emit(op.BRANCH)
            ends, empty = [], []
            order = _null_first(writer.branches)
            for i in order:
                start = self.ops[table + 1 + i][op.A] = self._here()
                self._skip(writer.branches[i])
                if len(self.ops) == start:
                    empty.append(table + 1 + i)
                elif i != order[-1]:
                    ends.append(self._emit(op.JUMP))
            for jump in ends + empty:
                self.ops[jump][op.A] = self._here()
            self._here()

    def _skip_subroutines(self) -> None:
        while self._calls:
            call, record = self._calls.pop()
            if record not in self._skips:
                self._skips[record] = self._here()
                for entry in record.fields:
                    self._in_field(f"{record.name}.{entry.name}")
                    self._skip(entry.type)
                self._emit(op.RETURN)
            self.ops[call][op.A] = self._skips[record]


def _null_first(branches: list[AvroType]) -> list[int]:
    """The order to lay out a union's bodies in: the last one needs no jump, and a value is likelier than null."""
    return sorted(range(len(branches)), key=lambda i: branches[i].kind != "null")


def _unit_factor(writer: AvroType, reader: AvroType) -> float | None:
    """What to multiply by: timestamps of another unit are converted; None when the logical types contradict."""
    if writer.logical is None or reader.logical is None or writer.logical == reader.logical:
        return 1
    kinds, units = zip(*(name.rpartition("-")[::2] for name in (writer.logical, reader.logical)), strict=True)
    if kinds[0] != kinds[1] or "timestamp" not in kinds[0]:
        return None
    return PER_SECOND[units[1]] / PER_SECOND[units[0]]


def _scalar_bits(column: Column, default: Any) -> int:
    kind = column.avro.kind
    if kind == "boolean":
        if not isinstance(default, bool):
            raise TypeError
        return int(default)
    if kind == "enum":
        return column.avro.symbols.index(default)
    if isinstance(default, bool) or not isinstance(default, int | float):
        raise TypeError
    if kind in ("float", "double"):
        packed = struct.pack("<f" if kind == "float" else "<d", default)
        return int.from_bytes(packed, "little", signed=True)
    low, high = RANGES.get(column.avro.logical or "", INTEGERS[kind])
    if not isinstance(default, int) or not low <= default <= high:
        raise ValueError
    return default


def _signed(value: int) -> int:
    """The int64 with the same 64 bits."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
