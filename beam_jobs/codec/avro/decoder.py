"""Whole blocks of Confluent-framed Avro values to Arrow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs.codec.avro import ops as op
from beam_jobs.codec.avro.bytes import read_headers
from beam_jobs.codec.avro.code import Code
from beam_jobs.codec.avro.errors import row_errors
from beam_jobs.codec.avro.layout import Arenas, Layout
from beam_jobs.codec.avro.program import Constants, Program, check_defaults, compile_writer
from beam_jobs.codec.avro.tile import run_tiles
from beam_jobs.codec.avro.vm import run
from beam_jobs.codec.avro.writers import Writers, WriterSchema
from beam_jobs.codec.decoded import Decoded
from beam_jobs.codec.schema import AvroType, parse_record
from beam_jobs.errors import RowErrors

HEADER_BYTES = 5  # 0, then the schema id
COLUMN_GAP = 8  # cells; columns a power of two apart would share cache lines, 10 % slower
ITEMS_PER_ROW = 4  # first guess of a list's length; doubled until it fits
_NO_FLAGS = np.empty(0, np.bool_)


class AvroDecoder:
    """Decodes blocks of Avro values, each with Confluent's header, into columns of the reader schema.

    Args:
      reader_schema: a record schema.
      writer_schema: gives the schema of an id; LookupError for an id it does not know, SchemaTooLargeError for a
        schema that nobody should read. Called once per id while the schema is in use, and once per block for each id
        that is not found.
      columns: the fields wanted, in that order (None: all). Others are stepped over, not decoded.
      called: what a sentence calls the schema of an id.

    Raises:
      UserError: no column can hold a wanted field (see ``arrow_schema``), or ``columns`` names an unknown field.
    """

    def __init__(
        self,
        reader_schema: Mapping[str, Any],
        writer_schema: WriterSchema,
        columns: Sequence[str] | None = None,
        called: Callable[[int], str] = "schema id {}".format,
    ) -> None:
        self._machine = Machine(parse_record(reader_schema), columns)
        self._writers = Writers(self._machine.compiled, writer_schema, called)
        self.schema: pa.Schema = self._machine.layout.schema

    def decode(self, values: pa.BinaryArray) -> Decoded:
        """Decodes a block; bad rows are reported, never raised.

        Args:
          values: n values; null is a tombstone and an error here.
        """
        n = len(values)
        data, offsets, valid = binary_buffers(values)
        ids = np.empty(n, np.int64)
        status = np.zeros(n, np.int32)
        detail = np.zeros((n, 4), np.int64)
        read_headers(data, offsets, valid, ids, status, detail)
        return self._decode(data, offsets, ids, HEADER_BYTES, status, detail)

    def decode_bare(self, values: pa.BinaryArray, ids: NDArray[np.int64], header: int = 0) -> Decoded:
        """Decodes a block of values without Confluent's header.

        Args:
          values: n values; null is an error.
          ids: the schema id of each, int64 [n], for ``writer_schema``.
          header: bytes before each body, none shorter.
        """
        n = len(values)
        data, offsets, valid = binary_buffers(values)
        status = np.zeros(n, np.int32)
        ids = ids.copy()
        if len(valid):
            status[~valid] = op.NULL_VALUE
            ids[~valid] = -1
        return self._decode(data, offsets, ids, header, status, np.zeros((n, 4), np.int64))

    def _decode(
        self,
        data: NDArray[np.uint8],
        offsets: NDArray[np.int64],
        ids: NDArray[np.int64],
        header: int,
        status: NDArray[np.int32],
        detail: NDArray[np.int64],
    ) -> Decoded:
        parts: list[Decoded] = []
        at = 0
        while at < len(ids) or not parts:
            joined = self._writers.joined(ids[at:])
            here = slice(at, at + joined.rows)
            if joined.sentences:
                bad = at + np.flatnonzero(joined.refused)
                status[bad], detail[bad, 2] = joined.refused[bad - at], ids[bad]
            starts, ends = offsets[:-1][here] + header, offsets[1:][here]
            rows = self._machine.run(joined.code, data, starts, ends, joined.entries, status[here], detail[here])
            parts.append(Decoded(rows, row_errors(joined.code, status[here], detail[here], joined.sentences, header)))
            at += joined.rows
        return parts[0] if len(parts) == 1 else _concatenated(parts)


def _concatenated(parts: Sequence[Decoded]) -> Decoded:
    sizes = [part.rows.num_rows + len(part.errors) for part in parts]
    places = np.cumsum([0, *sizes[:-1]])
    errors = RowErrors(
        np.concatenate([part.errors.rows + place for part, place in zip(parts, places, strict=True)]),
        [reason for part in parts for reason in part.errors.reasons],
        [error for part in parts for error in part.errors.errors],
    )
    return Decoded(pa.concat_batches([part.rows for part in parts]), errors)


class Machine:
    """The columns of one reader schema and the arenas that programs fill."""

    def __init__(self, record: AvroType, columns: Sequence[str] | None) -> None:
        self.layout = Layout(record, columns)
        self._constants = Constants()
        check_defaults(self.layout, self._constants)
        self._pool = np.frombuffer(bytes(self._constants.pool) or b"\0", np.uint8)
        self._items_per_row = np.full(len(self.layout.slots), ITEMS_PER_ROW, np.int64)

    def compiled(self, writer: AvroType) -> Program:
        """The program of a writer's schema; for what it raises see ``compile_writer``."""
        return compile_writer(self.layout, self._constants, writer)

    def run(
        self,
        code: Code,
        data: NDArray[np.uint8],
        starts: NDArray[np.int64],
        ends: NDArray[np.int64],
        entries: NDArray[np.int64],
        status: NDArray[np.int32],
        detail: NDArray[np.int64],
        contiguous: bool = False,
    ) -> pa.RecordBatch:
        """The rows that decode; for the arguments see ``vm.run``."""
        n = len(starts)
        capacity = self._items_per_row * n + 16
        if len(capacity) > 1:  # never more than the machine lets all lists of the rows hold together
            most = (len(data) if contiguous else int((ends - starts).sum())) + op.MAX_EMPTY_ITEMS * n
            capacity = np.minimum(capacity, most + 16)
        capacity[0] = n + COLUMN_GAP - n % COLUMN_GAP
        before = status.copy()
        while True:
            counts = np.zeros(len(capacity), np.int64)
            cell_starts = _starts(self.layout.slots, capacity)
            valid_starts = _starts(self.layout.valids, capacity)
            cells = np.empty(cell_starts[-1], np.int64)
            valid = np.empty(valid_starts[-1], np.uint8)
            ops = code.patched(capacity, cell_starts, valid_starts)
            arenas = (cells, valid, capacity, counts, status, detail)
            if contiguous:
                full = run(ops, data, starts, ends, entries, True, *arenas)
            else:
                full = run_tiles(ops, data, starts, ends, entries, *arenas)
            if full < 0:
                break
            capacity[full] *= 2
            status[:] = before
        if n and len(counts) > 1:  # the next block is likely like this one
            self._items_per_row = np.maximum(counts * 5 // (n * 4) + 1, ITEMS_PER_ROW)
        starts_of = (cell_starts.tolist(), valid_starts.tolist())
        filled = Arenas(self.layout, data, self._pool, cells, valid, *starts_of, capacity.tolist(), counts.tolist())
        return filled.record_batch()


def _starts(columns: Sequence[int], capacity: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each level's columns begin in an arena, int64 [levels + 1]."""
    return np.concatenate(([0], np.cumsum(np.asarray(columns, np.int64) * capacity)))


def binary_buffers(values: pa.BinaryArray) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
    """(bytes, offsets int64 [n + 1], validity bool [n] or empty when nothing is null) of an array, without a copy."""
    n = len(values)
    if not pa.types.is_binary(values.type) and not pa.types.is_string(values.type):
        values = values.cast(pa.binary())
    _, offset_buffer, data_buffer = values.buffers()
    data = np.frombuffer(data_buffer if data_buffer is not None and data_buffer.size else b"\0", np.uint8)
    data.flags.writeable = False  # one numba signature whatever owns the memory
    if offset_buffer is None or not offset_buffer.size:
        return data, np.zeros(n + 1, np.int64), _NO_FLAGS
    offsets = np.frombuffer(offset_buffer, np.int32, n + 1, values.offset * 4).astype(np.int64)
    valid = values.is_valid().to_numpy(zero_copy_only=False) if values.null_count else _NO_FLAGS
    return data, offsets, valid
