"""The Kafka sink's DoFn: rows out through an idempotent producer, flushed with every bundle."""

from __future__ import annotations

from functools import partial
from itertools import repeat
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import KafkaError, KafkaException, Producer

from beam_jobs.block import HEADERS_TYPE, Block
from beam_jobs.errors import UserError
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.control import client_errors
from beam_jobs.io.kafka.delivery import TOO_LARGE, Waiting, delivery_error, trouble
from beam_jobs.io.kafka.fetch import DebugLog
from beam_jobs.io.sink import WriteSettings, Written

ROW_SCHEMA = pa.schema(
    [
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field("headers", HEADERS_TYPE),
    ]
)

_EXTRAS = ("partition", "timestamp", "headers")  # columns beside value and key, in the order they are handed on

PRODUCER_DEFAULTS = {
    "linger.ms": "5",
    "queue.buffering.max.messages": "500000",
    "message.max.bytes": "100000000",  # the topic's own limit decides, not the client's
    "message.timeout.ms": "0",  # a cluster that is unavailable is waited for: a timeout would only fail the bundle
    "reconnect.backoff.max.ms": "1000",
    "client.id": "highbeam",
}
_PRODUCER_RULES = {
    "enable.idempotence": "true",
    "delivery.report.only.error": True,  # no Python call a record; an empty queue means all are acknowledged
}


class WriteBlocks(beam.DoFn):
    """See ``kafka.WriteToKafka``. Each instance has its own producer, so that its flush waits for its own rows only."""

    def __init__(self, address: KafkaAddress, config: KafkaConfig, settings: WriteSettings = WriteSettings()) -> None:
        self._address = address
        self._config = config
        self._settings = settings
        self._producer: Producer | None = None

    def setup(self) -> None:
        self._producer = self._connect()

    def _connect(self) -> Producer:
        with client_errors(self._address):
            return Producer(
                {
                    **PRODUCER_DEFAULTS,
                    **self._config.resolved(),
                    **_PRODUCER_RULES,
                    "bootstrap.servers": self._address.bootstrap_servers,
                    "error_cb": self._on_error,
                    "on_delivery": self._on_delivery,
                    "logger": DebugLog(),
                }
            )

    def start_bundle(self) -> None:
        if self._producer is None:  # the last bundle failed and took its producer along
            self._producer = self._connect()
        self._failed: list[tuple[KafkaError, dict[str, Any]]] = []
        self._refused: list[tuple[KafkaError, dict[str, list[Any]], tuple[bytes, bytes]]] = []
        self._last_error = ""
        self._waiting = Waiting(self._address, self._trouble)
        self._written = Written(self._address.topic)

    def process(self, block: pa.RecordBatch, timestamp: Any = beam.DoFn.TimestampParam) -> None:
        if self._settings.record_latency:
            self._written.element(timestamp)
        if block.num_rows:
            self._produce(block)
            self._written.rows += block.num_rows
            if self._settings.at_once:
                self._settle()

    def finish_bundle(self) -> None:
        self._settle()
        self._written.count()

    def teardown(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()
            producer.flush(0)

    def _trouble(self) -> tuple[str, bool]:
        return trouble(self._producer, self._address.topic, self._last_error)

    def _on_error(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN or not self._last_error:  # that one only counts them
            self._last_error = error.str().split(" (after ")[0]

    def _on_delivery(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self._failed.append((error, {"value": message.value(), "key": message.key()}))

    def _on_row(self, row: dict[str, Any], error: KafkaError | None, _: Any) -> None:
        if error is not None:
            self._failed.append((error, row))

    def _on_refused(self, columns: dict[str, list[Any]], error: KafkaError | None, message: Any) -> None:
        """As ``_on_delivery`` where there are headers or timestamps, which the client does not give back."""
        if error is not None:
            self._refused.append((error, columns, _pair(message.key(), message.value())))

    def _produce(self, block: Block) -> None:
        assert self._producer is not None
        produce, topic = self._producer.produce, self._address.topic
        columns = _columns(block)
        if len(columns) == 2:
            for value, key in zip(columns["value"], columns["key"], strict=True):
                try:
                    produce(topic, value, key)
                except (BufferError, KafkaException) as error:
                    self._produce_one(error, {"value": value, "key": key}, self._on_delivery)
        else:
            every = {"partition": -1, "timestamp": 0, "headers": None} | columns  # the client's defaults
            extras = (v if isinstance(v, list) else repeat(v, block.num_rows) for k, v in every.items() if k in _EXTRAS)
            report = partial(self._on_refused, columns)  # one for all rows: one a row would double what it costs
            for value, key, *more in zip(columns["value"], columns["key"], *extras, strict=True):
                partition, timestamp, headers = more
                try:
                    produce(topic, value, key, partition, report, timestamp=timestamp, headers=headers)
                except (BufferError, KafkaException) as error:
                    row = dict(zip(_EXTRAS, more, strict=True))
                    self._produce_one(error, {"value": value, "key": key, **row}, report)
        self._producer.poll(0)

    def _produce_one(self, error: BufferError | KafkaException, row: dict[str, Any], report: Any) -> None:
        """A row the producer did not take at once: its queue is full, or it refuses the row."""
        assert self._producer is not None
        while isinstance(error, BufferError):
            self._producer.poll(0.1)
            self._waiting.see(len(self._producer))
            try:
                self._producer.produce(self._address.topic, **row, on_delivery=report)
                self._waiting.over()
                return
            except (BufferError, KafkaException) as again:
                error = again
        self._failed.append((error.args[0], row))

    def _settle(self) -> None:
        """Waits until every row is acknowledged, or something in its place."""
        try:
            self._flush()
            if self._failed or self._refused:
                self._mend()
        except BaseException:
            self.teardown()  # what is still queued belongs to a bundle that will come again
            raise

    def _flush(self) -> None:
        assert self._producer is not None
        while left := self._producer.flush(0.2):
            self._waiting.see(left)
        self._waiting.over()

    def _mend(self) -> None:
        """Deals with refused rows: too large ones go through ``on_too_large``, any other failure is raised."""
        # A whole batch is refused for one large row: each row gets its own chance.
        too_large = [row for row in self._take_failed() if self._too_large_alone(row)]
        if not too_large:
            return
        if self._settings.on_too_large is None:
            raise UserError(
                f"{self._address}: a record of {max(map(_size, too_large))} bytes is larger than the topic takes; "
                "raise its max.message.bytes"
            )
        rows = [{**row, "headers": [{"key": k, "value": v} for k, v in row.get("headers") or ()]} for row in too_large]
        replacement = self._settings.on_too_large(pa.RecordBatch.from_pylist(rows, schema=ROW_SCHEMA))
        self._written.rows -= len(too_large)
        if replacement is None or replacement.num_rows == 0:
            return
        self._written.rows += replacement.num_rows
        self._produce(replacement)
        self._flush()
        for row in self._take_failed():
            if self._too_large_alone(row):
                raise UserError(
                    f"{self._address}: even the {_size(row)} bytes that stand in for a larger record are "
                    "more than the topic takes; raise its max.message.bytes"
                )

    def _take_failed(self) -> list[dict[str, Any]]:
        """The rows refused as too large so far; raises for any other failure."""
        failed, self._failed = self._failed, []
        refused, self._refused = self._refused, []
        errors = [*(each[0] for each in failed), *(each[0] for each in refused)]
        # The neighbours of a record that is refused say only that there is one.
        for error in sorted(errors, key=lambda each: each.code() == KafkaError._INVALID_DIFFERENT_RECORD):
            if error.code() not in TOO_LARGE:
                raise delivery_error(self._address, error)
        return [*(row for _, row in failed), *_found_again([each[1:] for each in refused])]

    def _too_large_alone(self, row: dict[str, Any]) -> bool:
        """Writes the row by itself; whether the topic refuses it even so."""
        assert self._producer is not None
        given = {k: v for k, v in row.items() if v is not None}
        try:
            self._producer.produce(self._address.topic, **given, on_delivery=partial(self._on_row, row))
        except KafkaException as refused:
            self._failed.append((refused.args[0], row))
        self._flush()
        return bool(self._take_failed())


def _pair(key: bytes | None, value: bytes | None) -> tuple[bytes, bytes]:
    return key or b"", value or b""


def _found_again(refused: list[tuple[dict[str, list[Any]], tuple[bytes, bytes]]]) -> list[dict[str, Any]]:
    """The rows with key and value of refused ones; where several have the same, all: better twice than not at all."""
    blocks = {id(columns): columns for columns, _ in refused}
    wanted: dict[int, set[tuple[bytes, bytes]]] = {}
    for columns, pair in refused:
        wanted.setdefault(id(columns), set()).add(pair)
    return [
        {name: values[place] for name, values in columns.items()}
        for number, columns in blocks.items()
        for place, row in enumerate(zip(columns["key"], columns["value"], strict=True))
        if _pair(*row) in wanted[number]
    ]


def _size(row: dict[str, Any]) -> int:
    """Bytes of value, key and headers."""
    headers = sum(len(key) + len(value or b"") for key, value in row.get("headers") or ())
    return len(row["value"] or b"") + len(row["key"] or b"") + headers


def _columns(block: Block) -> dict[str, list[Any]]:
    """The arguments of ``Producer.produce`` as lists, one entry a row; value and key first."""
    columns = {"value": block.column("value").to_pylist(), "key": block.column("key").to_pylist()}
    names = block.schema.names
    if "headers" in names and block.column("headers").null_count < block.num_rows:
        columns["headers"] = _pairs(block.column("headers"))
    if "timestamp" in names:
        columns["timestamp"] = block.column("timestamp").cast(pa.timestamp("ms", "UTC")).view(pa.int64()).to_pylist()
    if "partition" in names:
        columns["partition"] = block.column("partition").to_pylist()
    return columns


def _pairs(headers: pa.Array) -> list[list[tuple[str, bytes | None]]]:
    """HEADERS_TYPE as the client takes it."""
    flat = headers.flatten()
    pairs = list(zip(flat.field("key").to_pylist(), flat.field("value").to_pylist(), strict=True))
    ends = np.cumsum(pc.fill_null(pc.list_value_length(headers), 0).to_numpy()).tolist()
    return [pairs[start:end] for start, end in zip([0, *ends], ends, strict=False)]
