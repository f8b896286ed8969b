"""What people say of alerts becomes labels: ``highbeam feedback``, for the next training and for windows of a job."""

from __future__ import annotations

import time
import uuid
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from confluent_kafka import Consumer, Producer, TopicPartition

from beam_jobs.codec.events import EventDecoder
from beam_jobs.codec.json.decoder import JsonEncoder
from beam_jobs.errors import UserError
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.client import KafkaTransport, check_topic
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.control import client_errors
from beam_jobs.io.position import LATEST, OffsetSpec
from beam_jobs.origin import ORIGIN_HEADER
from beam_jobs.preprocessing.fields import fields_of
from beam_jobs.samples.topic import read_topic
from beam_jobs.steps.alerting.verdicts import Verdict, position_of, verdicts
from beam_jobs.storage.files import create, make_folder, root_of, writing
from beam_jobs.terminal.cli import run, say
from beam_jobs.terminal.commands import BEGIN
from beam_jobs.use_case import UseCase, load_use_case
from model.known_labels import SCHEMA, read_labels
from schemas.writers import for_registry

_LABELS = {"boolean": ("true", "false"), "string": ("confirmed", "none"), "number": ("1", "0")}  # by the label's kind
_TOLD = 20  # records that are told apart
_WAIT_S = 10.0  # for an event


class Event(NamedTuple):
    """A record that an alert was made of."""

    key: bytes | None
    value: bytes
    headers: Sequence[tuple[str, bytes]]


def events_of(found: Sequence[Verdict], address: KafkaAddress, config: KafkaConfig) -> Iterator[tuple[Verdict, Event]]:
    """The events that alerts were made of, as far as their topic still has them."""
    rules = {"group.id": "highbeam.feedback", "enable.auto.commit": False, "auto.offset.reset": "latest"}
    with client_errors(address):
        consumer = Consumer({**config.resolved(), **rules, "bootstrap.servers": address.bootstrap_servers})
    try:
        for verdict in found:
            position = position_of(verdict.id)
            if position is None or position[0] != address.topic:
                continue
            consumer.assign([TopicPartition(*position)])
            low, high = consumer.get_watermark_offsets(TopicPartition(*position[:2]), _WAIT_S)
            if not low <= position[2] < high:
                continue
            message = consumer.poll(_WAIT_S)
            if message is None or message.error() or message.offset() != position[2] or message.value() is None:
                continue
            yield verdict, Event(message.key(), message.value(), message.headers() or ())
    finally:
        consumer.close()


def label_records(
    found: Sequence[tuple[Verdict, Event]], use_case: UseCase, given: Namespace, settings: Mapping[str, str]
) -> list[tuple[Verdict, Event, bytes]]:
    """Records for the topic that ``--label_topic`` of a job reads: of each event what its windows of labels need.

    Raises:
      UserError: no window of the SQL reads the label, or ``label_schema`` lacks what they need.
    """
    needed = use_case.preprocessor().legs(apart=True).of_labels
    schema = use_case.schema_of_labels(needed)
    schema = {**schema, "fields": [field for field in schema["fields"] if field["name"] in needed]}
    columns = [field["name"] for field in schema["fields"]]
    writers = for_registry(given.schema_registry, use_case.schema, dict(settings))
    guids = writers.guid_schema if writers.url else None
    decoder = EventDecoder(use_case.schema, writers.writer_schema, columns, guid_schema=guids)
    encoder, made = JsonEncoder(schema), []
    for verdict, event in found:
        decoded = decoder.decode(pa.array([event.value], pa.binary()))
        if len(decoded.errors):
            continue  # it was no event when it was read first, either
        rows, at = decoded.rows, columns.index(str(use_case.label))
        label = pa.array([verdict.label], pa.string()).cast(rows.schema.field(at).type)
        rows = rows.set_column(at, rows.schema.field(at), label)
        made.append((verdict, event, encoder.encode(rows)[0].as_py()))
    return made


def send(records: Sequence[tuple[Verdict, Event, bytes]], address: KafkaAddress, config: KafkaConfig) -> None:
    """Puts labels on their topic, under their events' keys.

    Raises:
      UserError: it does not take one.
    """
    failed: list[str] = []
    with client_errors(address):
        rules = {"enable.idempotence": True, "bootstrap.servers": address.bootstrap_servers}
        producer = Producer({**config.resolved(), **rules})
    for verdict, event, value in records:
        producer.produce(
            address.topic,
            value,
            event.key,
            headers=[(ORIGIN_HEADER, verdict.id.encode())],
            on_delivery=lambda error, _: failed.append(error.str()) if error else None,
        )
        producer.poll(0)
    producer.flush()
    if failed:
        raise UserError(f"{address}: {failed[0]}; {len(failed):,} labels are not on it, run it again")


def main(argv: Sequence[str]) -> int:
    """Reads what was said up to now, and writes the labels that are new."""
    given = BEGIN["feedback"].parser().parse_args(argv)
    use_case = load_use_case(given.use_case)
    if use_case.label is None:
        raise UserError(f"use case {use_case.name}: its schema has no field tagged label, which feedback would tell")
    if (given.events is None) != (given.label_topic is None):
        raise UserError("--events and --label_topic go together: labels for windows hold fields of their events")
    address, config = KafkaAddress.parse(given.topic), KafkaConfig.from_file(given.kafka_config)
    outputs = [KafkaAddress.parse(uri) for uri in (given.events, given.label_topic) if uri]
    for each in (address, *outputs):
        check_topic(each, config)
    root = root_of(given.output)
    labels = _LABELS[fields_of(use_case.schema)[use_case.label].kind]
    bad: Counter[str] = Counter()
    blocks = read_topic(KafkaTransport(address, config, fetch="client"), OffsetSpec.parse("earliest"), LATEST)
    said = verdicts(blocks, labels, bad)
    with writing(f"--output {given.output}"):
        make_folder(root)
        before = read_labels(root)
    known = dict(zip(before.column("id").to_pylist(), before.column("label").to_pylist(), strict=True))
    new = [verdict for verdict in said if known.get(verdict.id) != verdict.label]
    sent = 0
    if outputs:
        records = label_records(list(events_of(new, outputs[0], config)), use_case, given, dict(config.settings))
        send(records, outputs[1], config)
        sent = len(records)
    if new:
        _write(new, root)
    for what, count in bad.most_common(_TOLD):
        say(f"left out: {what}" + (f" ({count:,} times)" if count > 1 else ""))
    print(f"{len(said):,} alerts judged, {len(new):,} of them new: in {root}")
    if outputs:
        gone = f"; {len(new) - sent:,} are of events that are not on {given.events} any more" if sent < len(new) else ""
        print(f"{sent:,} labels put on {given.label_topic}{gone}")
    return 0


def _write(new: Sequence[Verdict], root: str) -> None:
    columns: dict[str, list[Any]] = {
        "id": [verdict.id for verdict in new],
        "label": [verdict.label for verdict in new],
        "at": [verdict.at_ms for verdict in new],
    }
    sink = pa.BufferOutputStream()
    arrays = [pa.array(columns[f.name], pa.int64() if f.name == "at" else f.type).cast(f.type) for f in SCHEMA]
    pq.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), sink)
    name = f"labels-{int(time.time() * 1000)}-{uuid.uuid4().hex[:8]}.parquet"
    create(f"{root}/{name}", sink.getvalue().to_pybytes())


if __name__ == "__main__":
    run(main)
