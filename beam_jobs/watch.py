"""Shows the alerts, scores or dead letters on a topic as they come: ``highbeam watch``."""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from io import BytesIO
from math import isfinite
from typing import Any, Literal, NamedTuple

import fastavro

import schemas
from beam_jobs.errors import UserError, one_line
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.client import KafkaTransport, check_topic
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.position import OffsetKind, OffsetSpec
from beam_jobs.samples.topic import read_topic
from beam_jobs.steps.payload import key_id
from beam_jobs.terminal.cli import run, say
from beam_jobs.terminal.commands import BEGIN
from beam_jobs.terminal.report import time_text
from schemas.source import SHIPPED_IDS, SchemaSource
from schemas.writers import for_registry

Kind = Literal["alert", "score", "dead_letter", "other"]

_FRAME = 5  # bytes before a value: 0 and the id of its schema
_NAMES: dict[str, Kind] = {"highbeam.Score": "score", "highbeam.Alert": "alert", "highbeam.DeadLetter": "dead_letter"}
_BY_ID = {number: _NAMES[name] for name, number in SHIPPED_IDS.items()}
_LOOK_EVERY_S = 0.3
_TOLD = 20  # different reasons why records are left out
_LEAST_SHARE = 0.05  # of the error, for a feature to be named beside the first
_HEADS: Mapping[Kind, str] = {
    "alert": f"{'event time':19}  {'key':20}  {'score':>9}  made by",
    "score": f"{'event time':19}  {'key':20}  {'score':>9}  threshold",
    "dead_letter": f"{'failed at':19}  {'record':28}  {'reason':18}  error",
}


class Record(NamedTuple):
    """One record of a job."""

    kind: Kind
    fields: Mapping[str, Any]


def records(address: KafkaAddress, config: KafkaConfig, start: OffsetSpec, until: OffsetSpec | None) -> Iterator[bytes]:
    """The values on a topic; waits for the topic where there is no ``until``.

    Raises:
      UserError: no broker answers, it refuses us, or with ``until`` there is no such topic.
    """
    waits = until is None
    while True:
        try:
            check_topic(address, config)
            break
        except UserError as error:
            if until is not None or "does not exist" not in str(error):
                raise
            if waits:
                say(f"{address}: there is no such topic yet; waiting for it")
            waits = False
            time.sleep(_LOOK_EVERY_S)
    for block in read_topic(KafkaTransport(address, config, fetch="client"), start, until):
        if block is not None:
            yield from (value for value in block.column("value").to_pylist() if value is not None)


def as_record(value: bytes, writers: SchemaSource | None) -> Record:
    """What a record says: framed Avro, or JSON.

    Args:
      writers: the registry; None: the ids that jobs write without one.

    Raises:
      UserError: the record is not one of a job of Highbeam, and no registry says what it is.
    """
    if value[:1] == b"{":
        return _from_json(value)
    schema_id = int.from_bytes(value[1:_FRAME], "big")
    if value[:1] != b"\0" or len(value) < _FRAME:
        raise UserError(f"a record that begins with {value[:8].hex()}: neither framed Avro nor a JSON object")
    if writers is None and schema_id not in _BY_ID:
        raise UserError(f"a record with the schema id {schema_id}, which no job writes; is --schema_registry needed?")
    try:
        schema = schemas.load(_BY_ID[schema_id]) if writers is None else writers.writer_schema(schema_id)
    except LookupError as error:
        raise UserError(f"a record with the schema id {schema_id}: {error}") from error
    try:
        fields = fastavro.schemaless_reader(BytesIO(value[_FRAME:]), schema, None)
    except (EOFError, ValueError, IndexError, KeyError, TypeError) as error:
        raise UserError(f"a record with the schema id {schema_id} can't be decoded; is it a job's?") from error
    if not isinstance(fields, dict):
        fields = {"value": fields}
    name = f"{schema.get('namespace')}.{schema.get('name')}" if isinstance(schema, Mapping) else ""  # a union: no job's
    kind: Kind = _NAMES.get(name, "other")
    if kind == "dead_letter" and (key := key_id(fields)) is not None:
        fields["value"] = f"(encrypted with the key {key})"
    return Record(kind, fields)


def _from_json(value: bytes) -> Record:
    try:
        fields = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise UserError(f"a record that is not JSON, though it begins like it: {error}") from error
    named: tuple[tuple[str, Kind], ...] = (("features", "alert"), ("is_anomaly", "score"), ("reason", "dead_letter"))
    kind: Kind = next((kind for name, kind in named if name in fields), "other")
    for name in ("event_time", "timestamp", "failed_at") if kind != "other" else ():
        if isinstance(fields.get(name), int):
            fields[name] = time_text(fields[name])
    return Record(kind, fields)


def as_json(record: Record) -> str:
    """A line of JSON: times in ISO 8601, bytes as text where they are, else in base64."""
    return json.dumps(_without_nan(record.fields), ensure_ascii=False, default=_text)


def as_row(record: Record) -> str:
    """A line of a table, as the heads have its columns; of other records, and of what only looks like a job's, JSON."""
    try:
        return _row(record)
    except (KeyError, TypeError, ValueError, AttributeError):  # JSON has no schema to say that all of it is there
        return as_json(record)


def _row(record: Record) -> str:
    fields = record.fields
    if record.kind == "dead_letter":
        place = f"{fields['topic']}/{fields['partition']}/{fields['offset']}"
        return f"{_time(fields['failed_at'])}  {place:28}  {fields['reason']:18}  {fields['error']}"
    if record.kind == "other":
        return as_json(record)
    last = f"{fields['threshold']:.4g}" if record.kind == "score" else severe(fields) + made_by(fields)
    carried = [f"  {name}={value}" for name, value in (fields.get("attributes") or {}).items() if value is not None]
    return f"{_time(fields['event_time'])}  {fields['key']:20}  {fields['score']:9.4g}  {last}{''.join(carried)}"


def severe(alert: Mapping[str, Any]) -> str:
    """How severe an alert is, where that is more than most are."""
    severity = alert.get("severity")
    return "" if severity in (None, "low") else f"{severity}: "


def made_by(alert: Mapping[str, Any]) -> str:
    """What an alert tells in words, else the features that made its score, two at most."""
    if alert.get("story"):
        return str(alert["story"])
    said: list[str] = []
    for feature in alert["features"][:2]:
        share, expected = feature["share"], feature["expected"]
        if said and share < _LEAST_SHARE:
            break
        unit = f" {feature['unit']}" if feature["unit"] else ""
        normal = "" if expected is None or not isfinite(expected) else f"expected {expected:.4g}, "
        rarity = feature.get("rarity")
        rare = "" if not rarity else f"{one_in(rarity)}, "
        said.append(f"{feature['name']} {feature['observed']:.4g}{unit} ({normal}{rare}{share:.0%})")
    return "; ".join(said)


def one_in(share: float) -> str:
    """A share as people say it, to two digits; of one row in a million millions there is nothing more to say."""
    rows = 1 / max(share, 1e-12)
    return f"1 in {rows:,.2g}" if rows < 10 else f"1 in {float(f'{rows:.2g}'):,.0f}"


def _time(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, int):  # JSON has milliseconds
        return f"{datetime.fromtimestamp(value / 1000, UTC):%Y-%m-%d %H:%M:%S}"
    return str(value)[:19].replace("T", " ")


def _without_nan(value: Any) -> Any:
    """With null for what JSON has no number for."""
    if isinstance(value, Mapping):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    return str(value)


def show(values: Iterator[bytes], writers: SchemaSource | None, given: Namespace) -> None:
    """Prints records as the command line asks for them; of those that can't be shown it says so, and goes on."""
    table = given.format == "table" or (given.format == "auto" and sys.stdout.isatty())
    shown: Kind = "other"
    number = 0
    said: set[str] = set()
    for value in values:
        try:
            record = as_record(value, writers)
        except UserError as error:
            if str(error) not in said and len(said) < _TOLD:
                say(f"left out: {error}")
                said.add(str(error))
            continue
        number += 1
        if table and record.kind not in (shown, "other"):
            print(_HEADS[record.kind])
            shown = record.kind
        print(one_line(as_row(record)) if table else as_json(record), flush=True)
        if number == given.count:
            return


def main(argv: Sequence[str]) -> int:
    """Parses and shows; Ctrl-C is the usual end."""
    given = BEGIN["watch"].parser().parse_args(argv)
    if given.count is not None and given.count < 1:
        raise UserError(f"--count {given.count}: expected a number from 1 on")
    address, config = KafkaAddress.parse(given.topic), KafkaConfig.from_file(given.kafka_config)
    start = OffsetSpec.parse(given.start_from)
    until = None if given.until is None else OffsetSpec.parse(given.until)
    if OffsetKind.OFFSETS in (start.kind, until.kind if until else None):
        raise UserError("--from and --until: earliest, latest or a time here, no offsets")
    found = for_registry(given.schema_registry, {}, dict(config.settings))
    try:
        show(records(address, config, start, until), None if found.url is None else found, given)
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:  # whoever read on, such as head, has enough; nothing more is to be flushed into it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    run(main)
