"""Prints the alerts, scores or dead letters on a topic, a line of JSON each.

python -m demo.tail kafka://localhost:9092/alerts             # what is there, and what comes, until Ctrl-C
python -m demo.tail kafka://localhost:9092/alerts --count 5   # five of them
"""

from __future__ import annotations

import argparse
import base64
import json
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from io import BytesIO
from itertools import islice
from typing import Any

import fastavro
from confluent_kafka import Consumer, KafkaException, TopicPartition

import schemas
from beam_jobs.errors import UserError
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.terminal.cli import run
from beam_jobs.terminal.commands import DEMO
from schemas.source import SHIPPED_IDS, SchemaSource
from schemas.writers import for_registry

_FRAME = 5  # bytes before a value: 0 and the id of its schema
_FILES = {"highbeam.Score": "score", "highbeam.Alert": "alert", "highbeam.DeadLetter": "dead_letter"}
_LOOK_EVERY_S = 0.3


def records(address: KafkaAddress) -> Iterator[bytes]:
    """The values on a topic, from the first on; waits for the topic, and for what comes.

    Raises:
      UserError: no broker answers.
    """
    consumer = Consumer({"bootstrap.servers": address.bootstrap_servers, "group.id": "highbeam-tail", "log_level": 0})
    try:
        while not (partitions := _partitions(consumer, address)):
            time.sleep(_LOOK_EVERY_S)
        consumer.assign([TopicPartition(address.topic, partition, 0) for partition in partitions])
        while True:
            messages = consumer.consume(1000, _LOOK_EVERY_S)
            yield from (m.value() for m in messages if m.error() is None and m.value() is not None)
    finally:
        consumer.close()


def _partitions(consumer: Consumer, address: KafkaAddress) -> list[int]:
    try:
        topic = consumer.list_topics(address.topic, timeout=10).topics[address.topic]
    except KafkaException as error:
        raise UserError(f"{address}: no broker answers ({error.args[0].str()}); is it running?") from error
    return [] if topic.error is not None else list(topic.partitions)


def as_json(value: bytes, writers: SchemaSource | None) -> str:
    """A record as a line of JSON: times in ISO 8601, bytes as text where they are, else in base64.

    Args:
      writers: the registry; None: the ids that jobs write without one.

    Raises:
      UserError: the record is not one of a job of Highbeam.
    """
    schema_id = int.from_bytes(value[1:_FRAME], "big")
    names = {number: name for name, number in SHIPPED_IDS.items()}
    try:
        schema = writers.writer_schema(schema_id) if writers else schemas.load(_FILES[names[schema_id]])
    except LookupError as error:
        raise UserError(
            f"a record with the schema id {schema_id}, which no job writes; is a registry needed?"
        ) from error
    record = fastavro.schemaless_reader(BytesIO(value[_FRAME:]), schema, None)
    return json.dumps(record, ensure_ascii=False, default=_text)


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    try:
        return str(value.decode())
    except UnicodeDecodeError:
        return base64.b64encode(value).decode()


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command line's to a parser."""
    parser.description = (__doc__ or "").strip()
    parser.add_argument("topic", type=KafkaAddress.parse, metavar="URI", help="kafka://host:9092/topic")
    parser.add_argument("--count", type=int, metavar="N", help="end after so many; default: until Ctrl-C")
    parser.add_argument("--schema_registry", metavar="URL", help="the registry that the job was given")
    parser.add_argument("--verbose", action="store_true", help="show stack traces")


def main(argv: Sequence[str]) -> int:
    """Parses and prints."""
    args = DEMO["demo tail"].parser().parse_args(argv)
    writers = for_registry(args.schema_registry, {}) if args.schema_registry else None
    for value in islice(records(args.topic), args.count):
        print(as_json(value, writers), flush=True)
    return 0


if __name__ == "__main__":
    run(main)
