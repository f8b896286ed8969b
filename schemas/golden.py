"""Golden data: files of earlier versions of a schema, kept so that today's schema is tried on what was really written.

Beside a schema ``NAME.avsc`` stand, in the folder ``golden/NAME/``,

* ``1.avro``, ``2.avro``, ...: a few rows each, written by fastavro with a version of the schema itself;
* ``ksql.avro`` or any other name: likewise, with a schema of somebody else that must stay readable;
* a ``.json`` for each: the same rows, one JSON object a line, as JSON producers of that version write them.

What the rows must read as is worked out from the ``.json`` here (:func:`resolved`), without the decoder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa

import schemas
from beam_jobs.codec import JsonDecoder, JsonEncoder, read_avro
from beam_jobs.codec.resolution import pair_fields
from beam_jobs.codec.schema import NO_DEFAULT, AvroType, parse_record
from beam_jobs.errors import UserError

FOLDER = "golden"
ROWS = 8
_INTEGERS = {"int": (-(1 << 31), (1 << 31) - 1), "long": (-(1 << 53), 1 << 53)}
_TODAY = 20_000  # days; some in 2024
_NOW = 1_763_800_000_000  # milliseconds; in November 2025
_SYNC_MARKER = b"highbeam golden!"  # the same file whenever it is recorded


def files(folder: Path, name: str) -> list[Path]:
    """The golden files of the schema ``name`` in a folder of schemas: numbered ones ascending, then the others."""
    return sorted(
        (folder / FOLDER / name).glob("*.avro"), key=lambda path: (not is_version(path), len(path.stem), path.stem)
    )


def is_version(path: Path) -> bool:
    """Whether a golden file is a version of the schema itself, not somebody else's."""
    return path.stem.isascii() and path.stem.isdigit()


def writer_schema(path: Path) -> dict[str, Any]:
    """The schema a golden file was written with.

    Raises:
      UserError: it is no Avro file.
    """
    try:
        with path.open("rb") as file:
            schema: dict[str, Any] = json.loads(fastavro.block_reader(file).metadata["avro.schema"])
    except Exception as e:  # fastavro raises whatever its parsing stumbles on
        raise UserError(f"golden file {path} is no Avro file ({type(e).__name__}: {e}); restore it from git") from e
    return schema


def record(folder: Path, name: str, schema: Mapping[str, Any], stem: str, nulls: bool = True) -> Path:
    """Writes ``golden/NAME/STEM.avro`` and ``.json`` with sample rows of ``schema``; returns the first.

    Args:
      nulls: False for somebody else's schema, which is nullable where ours is not: its nulls are dead letters.
    """
    path = folder / FOLDER / name / f"{stem}.avro"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = sample_rows(schema, nulls)
    path.with_suffix(".json").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    avro = parse_record(schema)
    with path.open("wb") as file:
        fastavro.writer(file, {**schema}, [_for_avro(row, avro) for row in rows], sync_marker=_SYNC_MARKER)
    return path


def problems(path: Path, schema: Mapping[str, Any]) -> list[str]:
    """What today's ``schema`` makes of a golden file that it should not, a sentence each; empty if all is well."""
    expected = _expected(path, schema)
    found: list[str] = []
    try:
        rows = [row for batch in read_avro(path, schema) for row in _as_json(batch, schema)]
        found += _differences(rows, expected)
    except UserError as e:
        found.append(str(e))
    lines = path.with_suffix(".json").read_bytes().splitlines()
    decoded = JsonDecoder(schema).decode(pa.array(lines, pa.binary()))
    if len(decoded.errors):  # the first says what the others would
        found.append(f"as JSON, row {decoded.errors.rows[0]}: {decoded.errors.errors[0]}")
    else:
        found += [f"as JSON, {text}" for text in _differences(_as_json(decoded.rows, schema), expected)]
    return found


def _expected(path: Path, schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    try:
        lines = path.with_suffix(".json").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
    except (OSError, ValueError) as e:
        raise UserError(f"golden rows {path.with_suffix('.json')} cannot be read ({e}); restore them from git") from e
    reader, writer = parse_record(schema), parse_record(writer_schema(path))
    return [resolved(row, reader, writer) for row in rows]


def _as_json(rows: pa.RecordBatch, schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(text) for text in JsonEncoder(schema).encode(rows).to_pylist()]


def _differences(found: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if len(found) != len(expected):
        yield f"{len(found)} rows were read where {len(expected)} were written"
    for i, (row, wanted) in enumerate(zip(found, expected, strict=False)):
        wrong = [name for name in wanted if row[name] != wanted[name]]
        if wrong:
            name = wrong[0]
            yield f"row {i}: field {name!r} reads as {row[name]!r}, {wanted[name]!r} was written"
            return  # the others say the same


def resolved(value: Any, reader: AvroType, writer: AvroType) -> Any:
    """What a JSON value of the writer's type must read as, by the specification's rules; None where nothing fits."""
    if reader.kind == "union":
        plain = reader.non_null()
        return None if value is None or plain is None else resolved(value, plain[0], writer)
    if writer.kind == "union":
        plain = writer.non_null()
        return value if plain is None else resolved(value, reader, plain[0])
    if reader.kind == "record" and writer.kind == "record":
        out = {}
        for entry, source in pair_fields(reader.fields, writer.fields):
            if source is not None:
                out[entry.name] = resolved(value.get(source.name), entry.type, source.type)
            else:
                out[entry.name] = None if entry.default is NO_DEFAULT else entry.default
        return out
    if reader.kind == "array" and writer.kind == "array":
        return [resolved(item, reader.item, writer.item) for item in value]
    if reader.kind == "map" and writer.kind == "map":
        return {key: resolved(item, reader.item, writer.item) for key, item in value.items()}
    return value


def sample_rows(schema: Mapping[str, Any], nulls: bool = True) -> list[dict[str, Any]]:
    """Rows of a record schema as JSON has them, within the tagged limits: the smallest, the largest, some between."""
    avro = parse_record(schema)
    limits = {field["name"]: schemas.tags(field) for field in schema["fields"]}
    return [
        {entry.name: _sample(entry.type, limits[entry.name], i, entry.name, nulls) for entry in avro.fields}
        for i in range(ROWS)
    ]


def _for_avro(value: Any, avro: AvroType) -> Any:
    """A JSON value as fastavro takes it; times and dates stay the numbers they are."""
    if avro.kind == "union":
        plain = avro.non_null()
        return None if value is None or plain is None else _for_avro(value, plain[0])
    if avro.kind == "record":
        return {entry.name: _for_avro(value[entry.name], entry.type) for entry in avro.fields}
    if avro.kind == "array":
        return [_for_avro(item, avro.item) for item in value]
    if avro.kind == "map":
        return {key: _for_avro(item, avro.item) for key, item in value.items()}
    if avro.logical == "decimal":
        return Decimal(value)
    return value.encode("latin-1") if avro.kind in ("bytes", "fixed") else value


def _sample(avro: AvroType, limits: Mapping[str, Any], i: int, name: str, nulls: bool) -> Any:
    kind = avro.kind
    if kind == "union":
        plain = avro.non_null()
        if plain is None:
            raise UserError(f"field {name!r} is a union of several types, which no column holds: leave it out")
        return None if plain[1] and nulls and i % 2 else _sample(plain[0], limits, i, name, nulls)
    if kind == "record":
        return {entry.name: _sample(entry.type, entry.properties, i, entry.name, nulls) for entry in avro.fields}
    if kind == "array":
        return [_sample(avro.item, {}, i + j, name, nulls) for j in range(i % 3)]
    if kind == "map":
        return {f"key {j}": _sample(avro.item, {}, i + j, name, nulls) for j in range(i % 3)}
    if kind == "enum":
        return avro.symbols[i % len(avro.symbols)]
    if kind == "boolean":
        return i % 2 == 0
    if kind == "string":
        return f"{name} {i} é✓"
    if avro.logical == "decimal":
        return format(i - 2, f".{avro.scale}f")
    if kind == "bytes":
        return bytes(range(250, 250 + i % 6)).decode("latin-1")
    if kind == "fixed":
        return bytes((i + j) % 256 for j in range(avro.size)).decode("latin-1")
    return _number(avro, limits, i)


def _number(avro: AvroType, limits: Mapping[str, Any], i: int) -> int | float | None:
    low, high = limits.get("min"), limits.get("max")
    if avro.kind == "null":
        return None
    if avro.logical:
        start = {"date": _TODAY, "time-millis": 0, "time-micros": 0}.get(avro.logical, _NOW)
        return start + i
    if avro.kind in _INTEGERS:
        least, most = _INTEGERS[avro.kind]
        low, high = least if low is None else int(low), most if high is None else int(high)
        return [low, high, *range(low + 1, low + ROWS)][i] if high - low >= ROWS else low + i % (high - low + 1)
    low, high = (-1024.0 if low is None else low), (1024.0 if high is None else high)
    number = float([low, high][i]) if i < 2 else low + (high - low) * i / 16
    return float(np.float32(number)) if avro.kind == "float" else number
