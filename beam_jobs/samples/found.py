"""What a new use case is made of: the rows of a file or a topic, or the schema of a registry's subject."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.json as arrow_json

from beam_jobs.archives.rows import PROPERTY
from beam_jobs.codec.avro.container import read_header
from beam_jobs.codec.avro.file import read_avro
from beam_jobs.codec.csv.cells import convert
from beam_jobs.codec.csv.dialect import Dialect, header_of, unreadable
from beam_jobs.codec.events import EventDecoder
from beam_jobs.codec.json.lines import numbered_lines
from beam_jobs.codec.parquet import open_parquet, readable
from beam_jobs.codec.schema import AvroType, arrow_schema, schema_of_text
from beam_jobs.errors import UserError, one_line
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.client import KafkaTransport, check_topic
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.samples.topic import newest, read_topic
from beam_jobs.storage.files import local_path
from schemas.settings import registry_settings
from schemas.source import SchemaSource
from schemas.writers import for_registry

MAX_ROWS = 200_000  # looked at
_FITS = 0.99  # of the cells: the others are wrong, not of another type
_MOSTLY = 0.5  # of the cells: such a column was meant to be one of numbers
_FRAME = 5
_JSON_BLOCK = 64 << 20
_MOMENT = r"^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d([.,]\d+)?)?([Zz]|[+-]\d\d(:?\d\d)?)$"
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")


@dataclass(frozen=True)
class Found:
    """Rows with the names they have there, and what is known of them."""

    what: str  # they are, in a sentence: "30,000 rows of readings.csv"
    rows: pa.Table | None  # None: a subject's schema alone
    schema: Mapping[str, Any] | None = None  # their Avro schema, where there is one
    is_json: bool = False  # objects: every name of theirs must be in the schema, as it is
    dialect: Dialect = field(default_factory=Dialect)  # of CSV
    wrong: Mapping[str, int] = field(default_factory=dict)  # column -> cells that are not of its type
    partly: Mapping[str, str] = field(
        default_factory=dict
    )  # column of texts -> how many are numbers, and one that is none


@dataclass(frozen=True)
class Options:
    """What the command line says of where to look."""

    schema_registry: str | None = None
    kafka_config: str | None = None
    delimiter: str | None = None
    times: str | None = None


def look(source: str, options: Options) -> Found:
    """Reads a sample.

    Args:
      source: a file, ``kafka://HOST:9092/TOPIC``, or ``http://REGISTRY/subjects/NAME``.

    Raises:
      UserError: there is nothing that can be read.
    """
    scheme = source.partition("://")[0].lower() if "://" in source else ""
    if scheme in ("http", "https"):
        return _subject(source, options)
    if scheme == "kafka":
        return _plain(_topic(KafkaAddress.parse(source), options))
    readers = {".csv": _csv, ".tsv": _csv, ".jsonl": _json, ".ndjson": _json, ".parquet": _parquet, ".avro": _avro}
    path = local_path(source) if scheme in ("", "file") else Path(source)
    if scheme not in ("", "file") or path.suffix not in readers:
        raise UserError(
            f"{source}: neither a file ({', '.join(readers)}), a topic (kafka://host:9092/topic) nor a subject "
            "(http://registry:8081/subjects/NAME)"
        )
    if not path.is_file():
        raise UserError(f"{source}: no such file; check the path")
    return _plain(readers[path.suffix](path, options))


def _plain(found: Found) -> Found:
    """The same with enums and categories (pandas, polars) as the values they stand for, which can be counted."""
    if found.rows is None:
        return found
    coded = [pa.types.is_dictionary(f.type) for f in found.rows.schema]
    columns = [c.cast(c.type.value_type) if is_ else c for c, is_ in zip(found.rows.columns, coded, strict=True)]
    return replace(found, rows=pa.table(columns, names=found.rows.column_names))


def _csv(path: Path, options: Options) -> Found:
    delimiter, header = header_of(path, str(path), options.delimiter)
    if twice := next((name for name in header if header.count(name) > 1), None):
        raise UserError(f"{path}: has the column {twice!r} more than once; rename one of them")
    try:
        reader = arrow_csv.open_csv(
            path,
            read_options=arrow_csv.ReadOptions(use_threads=False),
            parse_options=arrow_csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=lambda row: "skip"
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                null_values=[""],
            ),
        )
        texts = _up_to(reader, reader.schema)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(str(path), error) from error
    cells = [column.combine_chunks() for column in texts.columns]
    decimal = "," if delimiter != "," and any(_has_commas(array) for array in cells) else "."
    dialect = Dialect(delimiter, decimal, options.times)
    typed = {name: _typed(array, dialect) for name, array in zip(texts.column_names, cells, strict=True)}
    wrong = {name: n for name, (_, n) in typed.items() if n}
    rows = pa.table({name: array for name, (array, _) in typed.items()})
    partly = {name: _partly(array, dialect) for name, (array, _) in typed.items() if pa.types.is_string(array.type)}
    partly = {name: what for name, what in partly.items() if what}
    return Found(_rows_of(rows, path), rows, dialect=dialect, wrong=wrong, partly=partly)


def _partly(texts: pa.Array, dialect: Dialect) -> str:
    """What keeps a column from being one of numbers, where most of its cells are; "" where they are not."""
    values, bad = convert(texts, AvroType("double"), dialect)
    numbers = len(values) - values.null_count
    if numbers < _MOSTLY * (numbers + int(bad.sum())) or not bad.any():
        return ""
    example = texts.filter(pa.array(bad))[0].as_py()
    return f"{numbers / (numbers + int(bad.sum())):.0%} of the cells are numbers, but {one_line(example, 20)!r} is none"


def _has_commas(texts: pa.Array) -> bool:
    known = texts.drop_null().slice(0, 1_000).to_pylist()
    return (
        bool(known)
        and all(re.fullmatch(r"-?\d+(,\d+)?", text) for text in known)
        and any(map(_DECIMAL_COMMA.fullmatch, known))
    )


def _typed(texts: pa.Array, dialect: Dialect) -> tuple[pa.Array, int]:
    """A column as the first type that it fits, and how many of its cells do not."""
    for kind in (
        AvroType("long"),
        AvroType("double"),
        AvroType("boolean"),
        AvroType("long", logical="timestamp-millis"),
    ):
        if kind.logical and _all_numbers(texts):
            continue
        values, bad = convert(texts, kind, dialect)
        fitting = len(values) - values.null_count
        if int(bad.sum()) <= (1 - _FITS) * (fitting + int(bad.sum())) and (fitting or not bad.any()):
            return (values if fitting else pa.nulls(len(texts))), int(bad.sum())
    return texts, 0


def _all_numbers(texts: pa.Array) -> bool:
    return bool(pc.all(pc.match_substring_regex(texts.drop_null(), r"^\s*[+-]?[\d.,]+\s*$")).as_py())


def _json(path: Path, options: Options) -> Found:
    lines = list(islice((line for _, chunk in numbered_lines(path) for line in chunk), MAX_ROWS))
    rows = _of_objects(lines, str(path))
    return Found(_rows_of(rows, path), rows, is_json=True)


def _of_objects(lines: Sequence[bytes], where: str) -> pa.Table:
    """JSON objects; those that are none are left out."""
    objects = [line for line in lines if line.lstrip()[:1] == b"{" and _is_json(line)]
    if not objects:
        raise UserError(f"{where}: holds no JSON object; expected one a line, or a record")
    text = pa.py_buffer(b"\n".join(line.replace(b"\n", b" ") for line in objects))
    options = arrow_json.ReadOptions(block_size=_JSON_BLOCK)
    try:
        rows = arrow_json.read_json(pa.BufferReader(text), read_options=options)
        times = pa.schema([(field.name, pa.string()) for field in rows.schema if pa.types.is_timestamp(field.type)])
        as_text = arrow_json.ParseOptions(explicit_schema=times)  # whole seconds are times to Arrow, without their zone
        texts = arrow_json.read_json(pa.BufferReader(text), read_options=options, parse_options=as_text)
    except pa.ArrowException as error:
        raise UserError(
            f"{where}: its objects are not all alike ({one_line(error, 200)}); write an .avsc by hand"
        ) from error
    made = {name: _moments(texts.column(name)) for name in rows.column_names}
    return pa.table({n: rows.column(n) if n in times.names and _is_text(c) else c for n, c in made.items()})


def _is_text(column: pa.ChunkedArray) -> bool:
    return bool(pa.types.is_string(column.type))


def _moments(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts as times where all of them are ISO 8601 with a zone, as events have them."""
    if not pa.types.is_string(column.type) or column.null_count == len(column):
        return column
    if not pc.all(pc.match_substring_regex(column.drop_null(), _MOMENT)).as_py():
        return column
    values, bad = convert(column.combine_chunks(), AvroType("long", logical="timestamp-millis"), Dialect())
    return column if bad.any() else pa.chunked_array([values])


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _parquet(path: Path, options: Options) -> Found:
    with readable(f"{path}: can't be read", "write it again"), path.open("rb") as opened:
        file = open_parquet(opened)
        rows = _up_to(file.iter_batches(), file.schema_arrow)
        rows.validate(full=True)
    return Found(_rows_of(rows, path), rows)


def _avro(path: Path, options: Options) -> Found:
    with readable(f"{path}: can't be read", "write it again"), path.open("rb") as file:
        schema = json.loads(read_header(file).schema)
    _record(schema, str(path))
    schema.pop(PROPERTY, None)
    rows = _up_to(read_avro(path, schema), arrow_schema(schema))
    return Found(_rows_of(rows, path), rows, schema)


def _topic(address: KafkaAddress, options: Options) -> Found:
    config = KafkaConfig.from_file(options.kafka_config)
    check_topic(address, config)
    transport = KafkaTransport(address, config, fetch="client")
    blocks = [b for b in read_topic(transport, newest(transport, MAX_ROWS // 20)) if b is not None]
    values = [v for b in blocks for v in b.column("value").to_pylist() if v]
    if not values:
        raise UserError(f"{address}: holds no record to look at; send some, or name a file")
    what = f"the newest {len(values):,} records of {address.topic}"
    if values[-1][0] != 0:
        rows = _of_objects(values, str(address))
        return Found(what, rows, is_json=True)
    writers = for_registry(options.schema_registry, {}, dict(config.settings))
    if writers.url is None:
        raise UserError(f"{address}: holds records with schema ids; --schema_registry says where their schemas are")
    schema = _writer_schema(writers, values[-1], str(address))
    decoder = EventDecoder(schema, writers.writer_schema)
    decoded = [decoder.decode(b.column("value"), b.column("headers")).rows for b in blocks]
    return Found(what, pa.Table.from_batches(decoded, decoder.schema), schema)


def _writer_schema(writers: SchemaSource, value: bytes, where: str) -> Mapping[str, Any]:
    try:
        schema = writers.writer_schema(int.from_bytes(value[1:_FRAME], "big"))
    except LookupError as error:
        raise UserError(f"{where}: {error}; is it the right --schema_registry?") from error
    return _record(schema, where)


def _subject(url: str, options: Options) -> Found:
    parts = urlsplit(url)
    match = re.fullmatch(r"(.*)/subjects/([^/]+)(?:/versions/(\d+|latest))?/?", parts.path)
    if match is None:
        raise UserError(f"{url}: expected a subject, http://registry:8081/subjects/NAME")
    from schemas.client import FAILURES, RegistrySchemas  # confluent's client takes a quarter of a second to import

    settings = registry_settings(dict(KafkaConfig.from_file(options.kafka_config).settings))
    settings.pop("url", None)
    base = parts._replace(path=match[1], query="", fragment="").geturl()
    registry, subject, version = RegistrySchemas(base, settings), unquote(match[2]), match[3] or "latest"
    try:
        with registry.connect() as client:
            found = client.get_version(subject, version if version == "latest" else int(version)).schema
    except FAILURES as error:
        if getattr(error, "http_status_code", None) == 404:
            raise UserError(f"{url}: the registry has no such subject or version; check its name") from error
        raise registry.unusable(error) from error
    if found.schema_type not in (None, "AVRO"):
        raise UserError(f"{url}: is a schema of {found.schema_type}; a use case has one of Avro")
    schema = schema_of_text(str(found.schema_str))
    return Found(f"the schema of {subject}", None, _record(schema, url))


def _record(schema: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(schema, dict) or schema.get("type") != "record":
        raise UserError(f"{where}: its schema is no record; events are records")
    return schema


def _up_to(batches: Any, schema: pa.Schema) -> pa.Table:
    """The first MAX_ROWS rows."""
    taken, n = [], 0
    for batch in batches:
        taken.append(batch)
        n += batch.num_rows
        if n >= MAX_ROWS:
            break
    return pa.Table.from_batches(taken, schema).slice(0, MAX_ROWS)


def _rows_of(rows: pa.Table, path: Path) -> str:
    if not rows.num_rows:
        raise UserError(f"{path}: has no rows; a use case is made of what is there")
    return f"{'the first ' if rows.num_rows == MAX_ROWS else ''}{rows.num_rows:,} rows of {path.name}"
