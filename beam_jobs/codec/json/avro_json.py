"""Avro's own JSON encoding, as Pub/Sub topics with a schema have it: values of unions carry the name of their type.

``{"vin": {"string": "W0L…"}, "speed": 12.5}``: a union of null and T is read as a record with the one field T, by
:class:`JsonDecoder`, and then unwrapped, so that whole blocks stay columns.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa

from beam_jobs.codec.decoded import Decoded
from beam_jobs.codec.json.decoder import JsonDecoder
from beam_jobs.codec.schema import AvroType, arrow_schema, parse_record, selected_fields
from beam_jobs.errors import UserError


class AvroJsonDecoder:
    """Decodes blocks of Avro JSON into columns of the reader schema.

    Args:
      reader_schema, columns, strict: as :class:`JsonDecoder`.

    Raises:
      UserError: as there, and a union of null and a named type in a namespace.
    """

    def __init__(
        self, reader_schema: Mapping[str, Any], columns: Sequence[str] | None = None, strict: bool = False
    ) -> None:
        self.schema: pa.Schema = arrow_schema(reader_schema, columns)
        self._json = JsonDecoder(tagged(reader_schema), columns, strict)
        self._wanted = selected_fields(parse_record(reader_schema), columns)

    def decode(self, values: pa.BinaryArray) -> Decoded:
        """Decodes a block of n values; bad rows are reported, never raised."""
        decoded = self._json.decode(values)
        columns = [
            _untagged(column, entry.type).cast(target.type)
            for column, entry, target in zip(decoded.rows.columns, self._wanted, self.schema, strict=True)
        ]
        if not columns:
            return decoded
        return Decoded(pa.RecordBatch.from_arrays(columns, schema=self.schema), decoded.errors)


def tagged(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The record schema whose plain JSON is the Avro JSON of ``schema``."""
    return dict(_Tagger().record(schema))


class _Tagger:
    def __init__(self) -> None:
        self._count = 0

    def record(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        return {**schema, "fields": [self._field(entry) for entry in schema["fields"]]}

    def _field(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        out = {**entry, "type": self._type(entry["type"])}
        if isinstance(entry["type"], list) and entry.get("default") is not None:
            out["default"] = {_branch(entry["type"][0]): entry["default"]}
        return out

    def _type(self, kind: Any) -> Any:
        if isinstance(kind, list):
            return [branch if branch == "null" else self._wrapped(branch) for branch in kind]
        if not isinstance(kind, Mapping):
            return kind
        if kind.get("logicalType") == "decimal" or (kind.get("logicalType"), kind["type"]) == ("uuid", "fixed"):
            return {key: value for key, value in kind.items() if key not in ("logicalType", "precision", "scale")}
        inner = kind["type"]
        if inner in ("record", "error"):
            return self.record(kind)
        if inner == "array":
            return {**kind, "items": self._type(kind["items"])}
        if inner == "map":
            return {**kind, "values": self._type(kind["values"])}
        return {**kind, "type": self._type(inner)} if isinstance(inner, (Mapping, list)) else kind

    def _wrapped(self, branch: Any) -> dict[str, Any]:
        self._count += 1
        field = {"name": _branch(branch), "type": self._type(branch)}
        return {"type": "record", "name": f"highbeam_union_{self._count}", "fields": [field]}


def _branch(kind: Any) -> str:
    """What Avro JSON calls a branch of a union."""
    if isinstance(kind, Mapping):
        name = f"{kind['namespace']}.{kind['name']}" if kind.get("namespace") else kind.get("name", kind["type"])
    else:
        name = kind
    if not isinstance(name, str) or "." in name:
        raise UserError(
            f"Avro JSON: a union with the named type {name!r} in a namespace can't be read; use Avro binary"
        )
    return name


def _untagged(array: pa.Array, avro: AvroType) -> pa.Array:
    plain = avro.non_null()
    assert plain is not None
    value = plain[0]
    if avro.kind == "union" and pa.types.is_struct(array.type):
        array = array.flatten()[0]
    if value.logical == "decimal":
        kind = pa.decimal128(value.precision, value.scale)
        texts = [None if raw is None else _decimal(raw, value.scale) for raw in array.to_pylist()]
        return pa.array(texts, kind)
    if value.logical == "uuid" and value.kind == "fixed":
        return pa.array([None if raw is None else str(uuid.UUID(bytes=raw)) for raw in array.to_pylist()], pa.string())
    mask = array.is_null() if array.null_count else None
    if value.kind == "record":
        parts = [_untagged(part, entry.type) for part, entry in zip(array.flatten(), value.fields, strict=True)]
        return pa.StructArray.from_arrays(parts, [entry.name for entry in value.fields], mask=mask)
    if value.kind == "array":
        first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()
        items = _untagged(array.values.slice(first, last - first), value.item)
        offsets = pa.array(array.offsets.to_numpy() - first, pa.int32())
        return pa.ListArray.from_arrays(offsets, items, mask=mask)
    if value.kind == "map" and value.item.kind == "union":
        rows = [
            None if row is None else [(k, v and next(iter(v.values()))) for k, v in row] for row in array.to_pylist()
        ]
        return pa.array(rows, pa.map_(pa.string(), array.type.item_type.field(0).type))
    return array


def _decimal(raw: bytes, scale: int) -> Decimal:
    return Decimal(int.from_bytes(raw, "big", signed=True)).scaleb(-scale)
