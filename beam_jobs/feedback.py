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
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from beam_jobs.codec.events import EventDecoder
from beam_jobs.codec.json.decoder import JsonEncoder
from beam_jobs.errors import MAX_SHOWN, UserError, one_line, shown
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.client import KafkaTransport, check_topic
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.control import NO_TOPIC, client_errors
from beam_jobs.io.position import LATEST, OffsetSpec
from beam_jobs.origin import ORIGIN_HEADER
from beam_jobs.preprocessing.fields import fields_of
from beam_jobs.samples.topic import read_topic
from beam_jobs.steps.alerting.verdicts import Labels, Verdict, position_of, verdicts
from beam_jobs.storage.files import create, make_folder, root_of, writing
from beam_jobs.terminal.cli import run, say
from beam_jobs.terminal.commands import BEGIN
from beam_jobs.use_case import UseCase, load_use_case
from model.known_labels import PLACE, SCHEMA, read_labels
from schemas.writers import for_registry

_TOLD = 20  # records that are told apart
_WAIT_S = 10.0  # for an event
_TOO_LARGE = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE)


class Event(NamedTuple):
    """A record that an alert was made of."""

    key: bytes | None
    value: bytes
    headers: Sequence[tuple[str, bytes]]


def events_of(found: Sequence[Verdict], address: KafkaAddress, config: KafkaConfig) -> Iterator[tuple[Verdict, Event]]:
    """The events that alerts were made of, as far as their topic still has them.

    Raises:
      UserError: the broker does not say whether it has one.
    """
    rules = {
        "group.id": "highbeam.feedback",
        "enable.auto.commit": False,
        "auto.offset.reset": "latest",
        "enable.partition.eof": True,
    }
    with client_errors(address):
        consumer = Consumer({**config.resolved(), **rules, "bootstrap.servers": address.bootstrap_servers})
    try:
        for verdict in found:
            position = position_of(verdict.id)
            if position is not None and position[0] == address.topic:
                event = _event(consumer, TopicPartition(*position), address)
                if event is not None:
                    yield verdict, event
    finally:
        consumer.close()


def _event(consumer: Consumer, where: TopicPartition, address: KafkaAddress) -> Event | None:
    """None: it is gone, or was never there."""
    why: object = f"no answer within {_WAIT_S:g} s"
    try:
        bounds = consumer.get_watermark_offsets(where, _WAIT_S)
        if bounds is not None:
            if not bounds[0] <= where.offset < bounds[1]:
                return None
            consumer.assign([where])
            deadline = time.monotonic() + _WAIT_S
            while (message := consumer.poll(max(0.0, deadline - time.monotonic()))) is not None:
                error = message.error()
                if error is None:
                    value = message.value() if message.offset() == where.offset else None
                    return None if value is None else Event(message.key(), value, message.headers() or ())
                if error.code() == KafkaError._PARTITION_EOF or error.code() in NO_TOPIC:
                    return None
                why = error.str()  # it may pass
    except KafkaException as raised:
        if raised.args[0].code() in NO_TOPIC:
            return None
        why = raised.args[0].str()
    raise UserError(f"--events {address}: partition {where.partition}, offset {where.offset}: {why}; run it again")


def label_records(
    found: Sequence[tuple[Verdict, Event]],
    use_case: UseCase,
    given: Namespace,
    settings: Mapping[str, str],
    bad: Counter[str],
) -> list[tuple[Verdict, Event, bytes]]:
    """Records for the topic that ``--label_topic`` of a job reads: of each event what its windows of labels need.

    Args:
      bad: counts what makes none, by the reason.

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
        if len(decoded.errors):  # it was no event when it was read first, either
            bad[f"{verdict.id} is no event: {decoded.errors.errors[0]}"] += 1
            continue
        rows, at = decoded.rows, columns.index(str(use_case.label))
        try:
            label = pa.array([verdict.label], pa.string()).cast(rows.schema.field(at).type)
            value = encoder.encode(rows.set_column(at, rows.schema.field(at), label))[0].as_py()
        except (pa.ArrowException, OverflowError) as error:
            bad[f"the label {shown(verdict.label)} of {verdict.id} does not fit its schema: {error}"] += 1
            continue
        made.append((verdict, event, value))
    return made


def send(
    records: Sequence[tuple[Verdict, Event, bytes]], address: KafkaAddress, config: KafkaConfig, bad: Counter[str]
) -> int:
    """Puts labels on their topic, under their events' keys; how many.

    Args:
      bad: counts what is too large for it, which no other run changes.

    Raises:
      UserError: it does not take one.
    """
    failed: list[str] = []
    large = 0

    def delivered(error: KafkaError | None, _: Message | None) -> None:
        nonlocal large
        if error is not None and error.code() in _TOO_LARGE:
            large += 1
            bad[f"a label is larger than {address} takes"] += 1
        elif error is not None:
            failed.append(error.str())

    with client_errors(address):
        rules = {"enable.idempotence": True, "bootstrap.servers": address.bootstrap_servers}
        producer = Producer({**config.resolved(), **rules})
    for verdict, event, value in records:
        headers: list[tuple[str, str | bytes | None]] = [(ORIGIN_HEADER, verdict.id.encode())]
        while True:
            try:
                producer.produce(address.topic, value, event.key, headers=headers, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(1.0)
            except KafkaException as error:
                delivered(error.args[0], None)
                break
        producer.poll(0)
    producer.flush()
    if failed:
        raise UserError(f"{address}: {failed[0]}; {len(failed):,} labels are not on it, run it again")
    return len(records) - large


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
    labels = Labels.of(fields_of(use_case.schema)[use_case.label])
    bad: Counter[str] = Counter()
    blocks = read_topic(KafkaTransport(address, config, fetch="client"), OffsetSpec.parse("earliest"), LATEST)
    said = verdicts(blocks, labels, bad)
    with writing(f"--output {given.output}", begun=False):
        make_folder(root)
        known = _known(root)
    new = [verdict for verdict in said if _is_new(verdict, known.get(verdict.id))]
    found: list[tuple[Verdict, Event]] = []
    sent = 0
    if outputs:
        found = list(events_of(new, outputs[0], config))
        sent = send(label_records(found, use_case, given, dict(config.settings), bad), outputs[1], config, bad)
    if new:
        with writing(f"--output {given.output}"):
            _write(new, root)
    for what, count in bad.most_common(_TOLD):
        say(f"left out: {what}" + (f" ({count:,} times)" if count > 1 else ""))
    left = f"; {bad.total():,} records left out" if bad else ""
    print(f"{len(said):,} alerts judged, {len(new):,} of them new: in {root}{left}")
    if outputs:
        print(f"{sent:,} labels put on {given.label_topic}{_without(new, found, outputs[0])}")
    return 0


def _known(root: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """What is written by now: the label of each id, and its place."""
    before = read_labels(root)
    places = zip(*(before.column(name).cast(pa.int64()).to_pylist() for name in PLACE), strict=True)
    ids, labels = before.column("id").to_pylist(), before.column("label").to_pylist()
    return {id_: (label, place) for id_, label, place in zip(ids, labels, places, strict=True)}


def _is_new(verdict: Verdict, known: tuple[str, tuple[int, ...]] | None) -> bool:
    return known is None or (verdict.label != known[0] and verdict.place > known[1])


def _without(new: Sequence[Verdict], found: Sequence[tuple[Verdict, Event]], events: KafkaAddress) -> str:
    """Where the events of other labels are."""
    topics = Counter(position[0] for verdict in new if (position := position_of(verdict.id)) is not None)
    gone = topics.pop(events.topic, 0) - len(found)
    text = f"; {gone:,} are of events that are not on {events} any more" if gone else ""
    for topic, count in topics.most_common(_TOLD):
        text += f"; {count:,} alerts are of topic {one_line(topic, MAX_SHOWN)}, not of {events.topic}"
    return text


def _write(new: Sequence[Verdict], root: str) -> None:
    columns: dict[str, list[Any]] = {
        "id": [verdict.id for verdict in new],
        "label": [verdict.label for verdict in new],
        "at": [verdict.at_ms for verdict in new],
        "partition": [verdict.partition for verdict in new],
        "offset": [verdict.offset for verdict in new],
    }
    sink = pa.BufferOutputStream()
    arrays = [pa.array(columns[f.name], pa.int64() if f.name == "at" else f.type).cast(f.type) for f in SCHEMA]
    pq.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), sink)
    name = f"labels-{int(time.time() * 1000)}-{uuid.uuid4().hex[:8]}.parquet"
    create(f"{root}/{name}", sink.getvalue().to_pybytes())


if __name__ == "__main__":
    run(main)
