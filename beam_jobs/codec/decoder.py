"""Events of either encoding: each value's first byte says which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from beam_jobs.codec.avro import AvroDecoder, WriterSchema, binary_buffers
from beam_jobs.codec.avro_encoder import AvroEncoder
from beam_jobs.codec.decoded import Decoded
from beam_jobs.codec.json import JsonDecoder, JsonEncoder
from beam_jobs.errors import RowErrors

_JSON_STARTS = np.frombuffer(b"{ \t\r\n", np.uint8)
_NONE, _AVRO, _JSON, _OTHER = range(4)


class EventDecoder:
    """Decodes blocks whose values are Confluent-framed Avro (first byte 0) or JSON objects, mixed in any order.

    Args:
      reader_schema, writer_schema, columns: as :class:`AvroDecoder`.
    """

    def __init__(
        self,
        reader_schema: Mapping[str, Any],
        writer_schema: WriterSchema,
        columns: Sequence[str] | None = None,
    ) -> None:
        self._avro = AvroDecoder(reader_schema, writer_schema, columns)
        self._json = JsonDecoder(reader_schema, columns)
        self.schema: pa.Schema = self._avro.schema

    def decode(self, values: pa.BinaryArray) -> Decoded:
        """Decodes a block of n values; bad rows are reported, never raised."""
        data, offsets, valid = binary_buffers(values)
        first = data[np.minimum(offsets[:-1], len(data) - 1)]
        if not first.any():
            return self._avro.decode(values)  # it also knows what to say of null and empty values
        kind = np.where(first == 0, _AVRO, np.where(np.isin(first, _JSON_STARTS), _JSON, _OTHER))
        kind[offsets[1:] == offsets[:-1]] = _NONE
        if len(valid):
            kind[~valid] = _NONE
        if (kind != _JSON).all() and not (kind == _OTHER).any():
            return self._avro.decode(values)
        parts: list[pa.RecordBatch] = []
        places = []
        bad: list[tuple[int, str, str]] = []
        for codes, decoder in (((_NONE, _AVRO), self._avro), ((_JSON,), self._json)):
            rows = np.flatnonzero(np.isin(kind, codes))
            decoded = decoder.decode(values.take(pa.array(rows)))
            parts.append(decoded.rows)
            places.append(rows[decoded.errors.good_rows(len(rows))])
            bad += zip(rows[decoded.errors.rows].tolist(), decoded.errors.reasons, decoded.errors.errors, strict=True)
        for row in np.flatnonzero(kind == _OTHER).tolist():
            found = f"the first byte is 0x{int(first[row]):02x}"
            bad.append((row, "bad_magic_byte", f"{found}, expected 0x00 (Confluent-framed Avro) or {{ (JSON)"))
        bad.sort()
        errors = RowErrors(np.array([b[0] for b in bad], np.int64), [b[1] for b in bad], [b[2] for b in bad])
        order = np.argsort(np.concatenate(places), kind="stable")
        return Decoded(pa.concat_batches(parts).take(pa.array(order)), errors)


def warm_up() -> None:
    """Compiles the machines, or loads them from numba's cache, so that the first block does not wait: 0.1 to 10 s."""
    schema = {"type": "record", "name": "WarmUp", "fields": [{"name": "text", "type": "string"}]}
    rows = pa.record_batch({"text": ["a"]})
    decoder = EventDecoder(schema, lambda _: schema)
    for encoder in (AvroEncoder(schema, 0), JsonEncoder(schema)):
        decoder.decode(encoder.encode(rows))
