"""Events of any encoding: a Pub/Sub attribute says which, or each value's first byte (``codecs.py``)."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from cachetools import LRUCache
from numpy.typing import NDArray

from beam_jobs.codec.avro.decoder import HEADER_BYTES, AvroDecoder, binary_buffers
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.codec.avro.writers import NamedSchema, OtherSchemaError, WriterSchema
from beam_jobs.codec.codecs import CODECS, Codec, Decoder, EventSchemas, by_first_byte
from beam_jobs.codec.decoded import Decoded
from beam_jobs.codec.json.avro_json import AvroJsonDecoder
from beam_jobs.codec.json.decoder import JsonDecoder, JsonEncoder
from beam_jobs.codec.schema import Schema, SchemaTooLargeError
from beam_jobs.errors import Reason, RowErrors, UserError

ENCODING, SCHEMA_NAME, REVISION = (  # attributes Pub/Sub adds to the messages of a topic with a schema
    "googclient_schemaencoding",
    "googclient_schemaname",
    "googclient_schemarevisionid",
)

VALUE_SCHEMA = "__value_schema_id"  # header of Confluent's producers: 1 and the schema's GUID, or 0 and its id
GUID_HEADER_BYTES = 17  # 1, then the GUID; in the header, or before the value

MAX_NAMES = 10_000  # of schemas, whose numbers are remembered

_FRAMED_AVRO = 0  # the first of CODECS; null and empty values go to it as well
_OTHER, _BARE_AVRO, _AVRO_JSON = -1, -2, -3  # no codec, and what the attribute says
_IN_HEADER, _GUID = -4, -5  # Avro whose schema the record's header names, or a GUID before the value


class EventDecoder:
    """Decodes blocks whose values are Confluent-framed Avro (first byte 0), JSON objects or of another codec, mixed.

    Where the header ``googclient_schemaencoding`` says BINARY or JSON, a value is Avro without a frame or Avro's JSON.
    Where ``__value_schema_id`` has a schema's GUID or id, a value is Avro without a frame, unless the schema is not, or
    nobody knows it and the value looks like JSON.

    Args:
      reader_schema, writer_schema, columns: as :class:`AvroDecoder`.
      revision_schema: Avro schemas of Pub/Sub's revisions, ``projects/P/schemas/S@R``; LookupError where there is none.
        None, or no revision in the headers: the reader's.
      guid_schema: writer schemas by GUID, as ``writer_schema``. None: the reader's for those in headers, and values
        that begin with a GUID (first byte 1) are not understood.
      json_strict: as ``strict`` of :class:`JsonDecoder`.
    """

    def __init__(
        self,
        reader_schema: Mapping[str, Any],
        writer_schema: WriterSchema,
        columns: Sequence[str] | None = None,
        revision_schema: NamedSchema | None = None,
        json_strict: bool = False,
        guid_schema: NamedSchema | None = None,
    ) -> None:
        self._reader_schema, self._columns, self._json_strict = reader_schema, columns, json_strict
        codecs = [CODECS.get(name) for name in CODECS.names()]
        self._codec_of = by_first_byte(codecs)
        self._expected = " or ".join(codec.about for codec in codecs)
        schemas = EventSchemas(reader_schema, writer_schema, columns, json_strict)
        self._decoders = [codec.decoder(schemas) for codec in codecs]
        self._revision_schema, self._writer_schema, self._guid_schema = revision_schema, writer_schema, guid_schema
        self._bare = _NamedAvro(reader_schema, columns, self._of_revision, lambda name: f"schema {name.decode()}")
        self._ids = _NamedAvro(reader_schema, columns, self._of_header, _called)
        self._avro_json: Decoder | None = None
        self.schema: pa.Schema = schemas.rows()

    def decode(self, values: pa.BinaryArray, headers: pa.ListArray | None = None) -> Decoded:
        """Decodes a block of n values; bad rows are reported, never raised.

        Args:
          headers: of each row (``block.HEADERS_TYPE``); None: there are none.
        """
        data, offsets, valid = binary_buffers(values)
        first = data[np.minimum(offsets[:-1], len(data) - 1)]
        encodings = None if headers is None else header_values(headers, ENCODING)
        ids = None if headers is None else header_values(headers, VALUE_SCHEMA)
        if encodings is None and ids is None and not first.any():
            return self._decoders[_FRAMED_AVRO].decode(values)  # it also knows what to say of null and empty values
        empty = offsets[1:] == offsets[:-1]
        if len(valid):
            empty |= ~valid
        kind = np.where(empty, _FRAMED_AVRO, self._codec_of[first])
        if encodings is not None:
            for text, code in ((b"BINARY", _BARE_AVRO), (b"JSON", _AVRO_JSON)):
                kind[pc.equal(encodings, text).fill_null(False).to_numpy(zero_copy_only=False) & ~empty] = code
        if ids is not None:
            named = self._named_in(ids) & ~empty
            if self._guid_schema is None:  # nobody says whether the schema is Avro's
                named &= ~_objects(data, offsets)
            kind[named] = _IN_HEADER
        if self._guid_schema is not None:
            kind[(kind == _OTHER) & (first == 1) & (np.diff(offsets) >= GUID_HEADER_BYTES)] = _GUID
        if not kind.any():
            return self._decoders[_FRAMED_AVRO].decode(values)
        parts: list[pa.RecordBatch] = []
        places = []
        bad: list[tuple[int, Reason, str]] = []
        for rows, decoded in self._parts(values, headers, ids, kind):
            parts.append(decoded.rows)
            places.append(rows[decoded.errors.good_rows(len(rows))])
            bad += zip(rows[decoded.errors.rows].tolist(), decoded.errors.reasons, decoded.errors.errors, strict=True)
        for row in np.flatnonzero(kind == _OTHER).tolist():
            found = f"the first byte is 0x{int(first[row]):02x}"
            guid = first[row] == 1 and offsets[row + 1] - offsets[row] >= GUID_HEADER_BYTES
            remedy = "; for a schema's GUID give --schema_registry" if guid else ""
            bad.append((row, "bad_magic_byte", f"{found}, expected {self._expected}{remedy}"))
        bad.sort()
        errors = RowErrors(np.array([b[0] for b in bad], np.int64), [b[1] for b in bad], [b[2] for b in bad])
        order = np.argsort(np.concatenate(places), kind="stable")
        return Decoded(pa.concat_batches(parts).take(pa.array(order)), errors)

    def _parts(
        self, values: pa.BinaryArray, headers: pa.ListArray | None, ids: pa.BinaryArray | None, kind: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], Decoded]]:
        """(rows, what happened to them) for each encoding; framed Avro even where no row has it."""
        for codec, decoder in enumerate(self._decoders):
            rows = np.flatnonzero(kind == codec)
            if len(rows) or codec == _FRAMED_AVRO:
                yield rows, decoder.decode(values.take(pa.array(rows)))
        rows = np.flatnonzero(kind == _BARE_AVRO)
        if len(rows) and headers is not None:
            taken = pa.array(rows)
            yield rows, self._bare.decode(values.take(taken), _revisions(headers.take(taken)))
        rows = np.flatnonzero(kind == _IN_HEADER)
        if len(rows) and ids is not None:
            yield rows, self._ids.decode(values.take(pa.array(rows)), ids.take(pa.array(rows)).dictionary_encode())
        rows = np.flatnonzero(kind == _GUID)
        if len(rows):
            taken = values.take(pa.array(rows))
            names = pc.binary_slice(taken, 0, GUID_HEADER_BYTES).dictionary_encode()
            yield rows, self._ids.decode(taken, names, GUID_HEADER_BYTES)
        rows = np.flatnonzero(kind == _AVRO_JSON)
        if len(rows):
            self._avro_json = self._avro_json or _avro_json(self._reader_schema, self._columns, self._json_strict)
            yield rows, self._avro_json.decode(values.take(pa.array(rows)))

    def _of_revision(self, name: bytes) -> Schema:
        if not name or self._revision_schema is None:
            return self._reader_schema
        return self._revision_schema(name.decode(errors="replace"))

    def _of_header(self, name: bytes) -> Schema:
        """The schema of the content of VALUE_SCHEMA."""
        if name[:1] == b"\x01" and len(name) == GUID_HEADER_BYTES:
            if self._guid_schema is None:
                return self._reader_schema
            return self._guid_schema(str(uuid.UUID(bytes=name[1:])))
        if name[:1] == b"\0" and len(name) == HEADER_BYTES:
            return self._writer_schema(int.from_bytes(name[1:], "big"))
        found = f"the header {VALUE_SCHEMA} has {len(name)} bytes"
        raise LookupError(f"{found}, expected 1 and a GUID of 16, or 0 and an id of 4")

    def _named_in(self, ids: pa.BinaryArray) -> NDArray[np.bool_]:
        """Rows whose schema is in their header, and is Avro's as far as it can be had, bool [n]."""
        encoded = ids.dictionary_encode()
        avro = np.array([*(self._is_avro(name) for name in encoded.dictionary.to_pylist()), False])
        valid = encoded.is_valid().to_numpy(zero_copy_only=False)
        return valid & avro[encoded.indices.fill_null(0).to_numpy()]

    def _is_avro(self, name: bytes) -> bool:
        try:
            self._of_header(name)
        except OtherSchemaError:
            return False
        except (LookupError, SchemaTooLargeError):
            return True  # which is said of each row
        return True


class _FramedAvro:
    about = "0x00 (Confluent-framed Avro)"
    first_bytes = b"\0"

    def decoder(self, schemas: EventSchemas) -> Decoder:
        return AvroDecoder(schemas.reader, schemas.writer, schemas.columns)


class _Json:
    about = "{ (JSON)"
    first_bytes = b"{ \t\r\n\xef"  # the last one begins a byte order mark

    def decoder(self, schemas: EventSchemas) -> Decoder:
        return JsonDecoder(schemas.reader, schemas.columns, schemas.json_strict)


AVRO: Codec = _FramedAvro()
JSON: Codec = _Json()


class _NamedAvro:
    """Avro without a frame, or with another; its schemas have names, which are numbered here for the decoder."""

    def __init__(
        self,
        reader_schema: Mapping[str, Any],
        columns: Sequence[str] | None,
        schema_of: Callable[[bytes], Schema],
        called: Callable[[bytes], str],
    ) -> None:
        self._numbers: LRUCache[bytes, int] = LRUCache(MAX_NAMES)
        self._next = itertools.count()
        self._names: dict[int, bytes] = {}  # of this block's numbers
        self._decoder = AvroDecoder(
            reader_schema,
            lambda number: schema_of(self._names[number]),
            columns,
            lambda number: called(self._names[number]),
        )

    def _number(self, name: bytes) -> int:
        if name not in self._numbers:
            self._numbers[name] = next(self._next)
        return self._numbers[name]

    def decode(self, values: pa.BinaryArray, names: pa.DictionaryArray, header: int = 0) -> Decoded:
        """Decodes n values with the schemas of n names, binary; ``header``: bytes before each body."""
        known = names.dictionary.to_pylist()
        numbers = [self._number(name) for name in known]
        self._names = dict(zip(numbers, known, strict=True))
        return self._decoder.decode_bare(values, np.array(numbers, np.int64)[names.indices.to_numpy()], header)


def _revisions(headers: pa.ListArray) -> pa.DictionaryArray:
    """Name and revision of Pub/Sub's schema of each row, b"" where it is not named."""
    names, revisions = header_values(headers, SCHEMA_NAME), header_values(headers, REVISION)
    if names is None or revisions is None:
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(headers), np.int32)), pa.array([b""]))
    return pc.binary_join_element_wise(names, revisions, b"@").fill_null(b"").dictionary_encode()


def _objects(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Values that begin and end as JSON objects do, bool [n]: of other bytes, one in 4 million might."""
    first, last = offsets[:-1], offsets[1:] - 1
    inside = last > first
    first, last = np.where(inside, first, 0), np.where(inside, last, 0)
    begins = (data[first] == ord("{")) & np.isin(data[np.minimum(first + 1, len(data) - 1)], list(b'" \t\r\n'))
    found: NDArray[np.bool_] = inside & begins & (data[last] == ord("}"))
    return found


def _called(name: bytes) -> str:
    """What a sentence calls the schema of a header."""
    if len(name) == GUID_HEADER_BYTES and name[0] == 1:
        return f"schema GUID {uuid.UUID(bytes=name[1:])}"
    return f"schema id {int.from_bytes(name[1:], 'big')}"


class _Refuse:
    """Stands in for a decoder that the schema does not allow."""

    def __init__(self, schema: pa.Schema, error: str) -> None:
        self._schema, self._error = schema, error

    def decode(self, values: pa.BinaryArray) -> Decoded:
        n = len(values)
        rows = pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in self._schema], schema=self._schema)
        return Decoded(rows, RowErrors(np.arange(n), ["unresolvable"] * n, [self._error] * n))


def _avro_json(reader_schema: Mapping[str, Any], columns: Sequence[str] | None, strict: bool) -> Decoder:
    try:
        return AvroJsonDecoder(reader_schema, columns, strict)
    except UserError as error:
        return _Refuse(JsonDecoder(reader_schema, columns).schema, str(error))


def header_values(headers: pa.ListArray, name: str) -> pa.Array | None:
    """The value of header ``name`` of each of n rows, binary [n], null where a row has none; None: no row has it."""
    if headers.null_count == len(headers):
        return None
    items = headers.flatten()
    found = pc.equal(items.field("key"), name).to_numpy(zero_copy_only=False)
    if not found.any():
        return None
    places = np.flatnonzero(found)
    at = np.full(len(headers), -1, np.int64)
    at[pc.list_parent_indices(headers).to_numpy()[places]] = places
    return items.field("value").take(pa.array(at, mask=at < 0))


def warm_up() -> None:
    """Compiles the machines, or loads them from numba's cache, so that the first block does not wait: 0.1 to 10 s."""
    schema = {"type": "record", "name": "WarmUp", "fields": [{"name": "text", "type": "string"}]}
    rows = pa.record_batch({"text": ["a"]})
    decoder = EventDecoder(schema, lambda _: schema)
    for encoder in (AvroEncoder(schema, 0), JsonEncoder(schema)):
        decoder.decode(encoder.encode(rows))
