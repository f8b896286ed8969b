"""Avro container files ⇄ blocks, through the same machines as Kafka's values."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from isal import isal_zlib

from beam_jobs.codec.avro.code import Code
from beam_jobs.codec.avro.container import CODECS as READ_CODECS
from beam_jobs.codec.avro.container import MAGIC, RAW_DEFLATE, SYNC_BYTES, BadContainerError, read_blocks, read_header
from beam_jobs.codec.avro.decoder import Machine
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.codec.avro.errors import row_errors
from beam_jobs.codec.avro.program import UnresolvableError
from beam_jobs.codec.schema import parse_record, parse_schema
from beam_jobs.errors import UserError, one_line, shown

CODECS = ("deflate", "null")
MAX_EMPTY_RECORDS = 1 << 20  # records of no bytes a block may have; more is a broken count

Source = str | os.PathLike[str] | IO[bytes]


def read_avro(
    source: Source, reader_schema: Mapping[str, Any], columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of a container file, a batch a block of the file.

    Args:
      source: a path, or a binary file open for reading.
      reader_schema: a record schema; the file's own is resolved into it.
      columns: the fields wanted, in that order (None: all).

    Raises:
      UserError: the file cannot be read, is broken, or its schema does not resolve; the message names the file.
    """
    machine = Machine(parse_record(reader_schema), columns)
    if not isinstance(source, str | os.PathLike):
        yield from _read(source, str(getattr(source, "name", "the stream")), machine)
        return
    try:
        file = Path(source).open("rb")  # noqa: SIM115
    except OSError as e:
        raise UserError(f"Avro file {os.fspath(source)!r} cannot be opened: {e.strerror}; check the path") from None
    with file:
        yield from _read(file, os.fspath(source), machine)


def _read(file: IO[bytes], name: str, machine: Machine) -> Iterator[pa.RecordBatch]:
    try:
        header = read_header(file)
        code = Code([machine.compiled(parse_schema(header.schema))])
    except UnresolvableError as e:
        raise UserError(f"Avro file {name!r} does not fit the reader schema: {e}") from None
    except (BadContainerError, UserError, OSError) as e:
        raise UserError(
            f"Avro file {name!r} has no readable header ({one_line(e, 300)}); is it an Avro file?"
        ) from None
    if header.codec not in READ_CODECS:
        known = f"not with one of {', '.join(READ_CODECS)}; write it with one of them"
        raise UserError(f"Avro file {name!r} is packed with {shown(header.codec)}, {known}")
    number, blocks = 0, read_blocks(file, header)
    while True:
        try:
            records, body = next(blocks, (0, None))
        except (BadContainerError, OSError) as e:
            raise UserError(f"Avro file {name!r} is broken in block {number} ({e}); fetch it again") from None
        if body is None:
            return
        if records:
            yield _block(body, records, code, machine, f"Avro file {name!r}, block {number}")
        number += 1


def _block(body: bytes, records: int, code: Code, machine: Machine, where: str) -> pa.RecordBatch:
    if not 0 <= records <= len(body) + MAX_EMPTY_RECORDS:
        raise UserError(f"{where}: {records} records in {len(body)} bytes; the file is broken, fetch it again")
    data = np.frombuffer(body or b"\0", np.uint8)
    starts = np.zeros(records, np.int64)
    ends = np.full(records, len(body), np.int64)
    status = np.zeros(records, np.int32)
    detail = np.zeros((records, 4), np.int64)
    rows = machine.run(code, data, starts, ends, np.zeros(records, np.int64), status, detail, contiguous=True)
    errors = row_errors(code, status, detail, {}, 0)
    if len(errors):
        remedy = "" if errors.reasons[0] == "unresolvable" else "; the file is broken, fetch it again"
        raise UserError(f"{where}, record {errors.rows[0]}: {errors.errors[0]}{remedy}")
    return rows


def write_avro(
    target: Source, schema: Mapping[str, Any], batches: Iterable[pa.RecordBatch], codec: str = "deflate"
) -> int:
    """Writes a container file, a block a batch; returns the number of rows.

    Args:
      target: a path (written beside it, then renamed: a reader never sees half a file), or a binary file.
      schema: a record schema.
      codec: "deflate" or "null".

    Raises:
      UserError: the file cannot be written, or a row does not fit the schema.
    """
    if not isinstance(target, str | os.PathLike):
        return _write(AvroWriter(target, schema, codec), batches)
    path = Path(target)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            rows = _write(AvroWriter(file, schema, codec), batches)
        part.replace(path)
    except OSError as e:
        raise UserError(
            f"Avro file {os.fspath(target)!r} cannot be written: {e.strerror}; check folder and rights"
        ) from e
    finally:
        part.unlink(missing_ok=True)
    return rows


def _write(writer: AvroWriter, batches: Iterable[pa.RecordBatch]) -> int:
    for batch in batches:
        writer.write(batch)
    return writer.rows


class AvroWriter:
    """A container file, a block a batch; what was written is complete after each of them.

    Args:
      file: open for writing, binary.
      schema: a record schema.
      codec: "deflate" or "null".
      encoder: of the schema, shared by many files; None: one of its own.
    """

    def __init__(
        self, file: IO[bytes], schema: Mapping[str, Any], codec: str = "deflate", encoder: AvroEncoder | None = None
    ) -> None:
        if codec not in CODECS:
            raise UserError(f"Avro codec {codec!r} is not supported for writing; use 'deflate' or 'null'")
        self._file = file
        self._encoder = encoder or AvroEncoder(schema, None)
        self._codec = codec
        self._sync = os.urandom(SYNC_BYTES)
        header = {"avro.schema": json.dumps(schema).encode(), "avro.codec": codec.encode()}
        self._file.write(MAGIC + _long(len(header)))
        for key, value in header.items():
            self._file.write(_long(len(key)) + key.encode() + _long(len(value)) + value)
        self._file.write(_long(0) + self._sync)
        self.rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Appends the rows of a batch; UserError if one does not fit the schema."""
        if not batch.num_rows:
            return
        body: Any = self._encoder.encode_buffer(batch)[0]
        if self._codec == "deflate":
            # Level 1 of ISA-L: what zlib's level 1 saves in a seventh to a tenth of its time (docs/decisions.md).
            body = isal_zlib.compress(body, 1, RAW_DEFLATE)
        self._file.write(_long(batch.num_rows) + _long(len(body)))
        self._file.write(body)
        self._file.write(self._sync)
        self.rows += batch.num_rows


def _long(value: int) -> bytes:
    """A non-negative number as Avro writes it."""
    rest, out = value << 1, bytearray()
    while rest >= 0x80:
        out.append((rest & 0x7F) | 0x80)
        rest >>= 7
    return bytes([*out, rest])
