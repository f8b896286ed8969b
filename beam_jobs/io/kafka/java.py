"""Beam's own Kafka reader, which runs in Java, as a source of raw blocks.

The consumer's settings are part of the pipeline there, so no secret may be among them. What is left: Google's
credentials, which the Java client finds on its worker, and environment variables of that worker, which Kafka's own
``EnvVarConfigProvider`` reads in place of ``${env:NAME}``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.kafka import ReadFromKafka
from apache_beam.options.pipeline_options import CrossLanguageOptions
from apache_beam.transforms.window import GlobalWindow, TimestampedValue
from apache_beam.utils.subprocess_server import JavaJarServer
from apache_beam.utils.windowed_value import WindowedValue

from beam_jobs import metrics
from beam_jobs.block import MAX_BLOCK_ROWS, Block, min_timestamp, raw_block
from beam_jobs.errors import UserError
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.config import KafkaConfig, is_secret
from beam_jobs.io.kafka.fetch import MAX_BLOCK_BYTES
from beam_jobs.io.kafka.oauth import HANDLER
from beam_jobs.io.position import OffsetKind, OffsetSpec

DISCOVER_S = 10  # how often new partitions are looked for

_LOGIN = "org.apache.kafka.common.security"
_MODULES = {
    "PLAIN": f"{_LOGIN}.plain.PlainLoginModule",
    "SCRAM-SHA-256": f"{_LOGIN}.scram.ScramLoginModule",
    "SCRAM-SHA-512": f"{_LOGIN}.scram.ScramLoginModule",
    "OAUTHBEARER": f"{_LOGIN}.oauthbearer.OAuthBearerLoginModule",
}
_ENVIRONMENT = {
    "config.providers": "env",
    "config.providers.env.class": "org.apache.kafka.common.config.provider.EnvVarConfigProvider",
}
_SAME = frozenset(  # names and meanings that both clients share
    {
        *("client.id", "client.rack", "connections.max.idle.ms", "fetch.max.bytes", "fetch.min.bytes"),
        *("heartbeat.interval.ms", "isolation.level", "max.partition.fetch.bytes", "metadata.max.age.ms"),
        *("reconnect.backoff.max.ms", "reconnect.backoff.ms", "retry.backoff.ms", "session.timeout.ms"),
        *("ssl.key.password", "ssl.keystore.location", "ssl.keystore.password", HANDLER),
    }
)
_STORES = {  # librdkafka's name -> the Java client's for the same PEM
    "ssl.ca.location": ("truststore", "location"),
    "ssl.ca.pem": ("truststore", "certificates"),
    "ssl.certificate.pem": ("keystore", "certificate.chain"),
    "ssl.key.pem": ("keystore", "key"),
}


def java_settings(config: KafkaConfig) -> dict[str, str]:
    """The settings in the Java client's names, those of the Schema Registry left out; references as ``${env:NAME}``.

    Raises:
      UserError: a setting of librdkafka's own, or a secret that can't reach a Java worker.
    """
    given = {name: _value(name, value) for name, value in config.kafka_settings()}
    out = {name: given.pop(name) for name in _SAME & given.keys()}
    if "security.protocol" in given:
        out["security.protocol"] = given.pop("security.protocol").upper()
    if "ssl.endpoint.identification.algorithm" in given:
        wanted = given.pop("ssl.endpoint.identification.algorithm")
        out["ssl.endpoint.identification.algorithm"] = "" if wanted == "none" else wanted
    if "ssl.keystore.location" in out:
        out["ssl.keystore.type"] = "PKCS12"  # what librdkafka means by it
    out |= _login(given) | _stores(given)
    if given:
        raise UserError(f"--kafka_io java: the Java client has no setting {min(given)}; leave it or --kafka_io out")
    if any("${env:" in value for value in out.values()):
        out |= _ENVIRONMENT
    return dict(sorted(out.items()))


def _value(name: str, value: str) -> str:
    """A setting as Java takes it; nothing secret."""
    scheme, _, target = value.partition(":")
    if scheme == "env":
        return f"${{env:{target}}}"
    if is_secret(name) or scheme in ("file", "secret"):
        raise UserError(
            f"--kafka_io java: {name} would travel with the pipeline, for a Java worker can read env:NAME only; use a "
            "variable of that worker, Google's credentials (docs/kafka.md), or leave --kafka_io out"
        )
    return value


def _login(given: dict[str, str]) -> dict[str, str]:
    """Takes the login out of ``given``."""
    mechanism = given.pop("sasl.mechanisms", None)
    names = {name: given.pop(name) for name in ("sasl.username", "sasl.password") if name in given}
    if mechanism is None:
        return {}
    if mechanism not in _MODULES:
        raise UserError(f"--kafka_io java: sasl.mechanism={mechanism} is not known; use one of {', '.join(_MODULES)}")
    options = "".join(f' {name.removeprefix("sasl.")}="{_quoted(value)}"' for name, value in names.items())
    return {"sasl.mechanism": mechanism, "sasl.jaas.config": f"{_MODULES[mechanism]} required{options};"}


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


def _stores(given: dict[str, str]) -> dict[str, str]:
    """Takes the certificates out of ``given``."""
    out: dict[str, str] = {}
    for name, (store, part) in _STORES.items():
        if name in given:
            out |= {f"ssl.{store}.{part}": given.pop(name), f"ssl.{store}.type": "PEM"}
    chain, key = given.pop("ssl.certificate.location", None), given.pop("ssl.key.location", None)
    if chain != key:
        raise UserError("--kafka_io java: ssl.certificate.location and ssl.key.location must name one file with both")
    if chain is not None:
        out |= {"ssl.keystore.location": chain, "ssl.keystore.type": "PEM"}
    return out


class RowsToBlocks(beam.DoFn):
    """Rows of Beam's ``ReadFromKafka(with_metadata=True)`` to raw blocks, a bundle's rows in as few as fit.

    A row is a Python object here, as it comes over the wire from Java: what this source costs more than ours.
    """

    def __init__(self, topic: str, block_rows: int = MAX_BLOCK_ROWS) -> None:
        self._topic = topic
        self._block_rows = block_rows

    def start_bundle(self) -> None:
        self._rows: list[Any] = []
        self._bytes = 0

    def process(self, row: Any) -> Iterator[TimestampedValue]:
        size = len(row.value or b"") + len(row.key or b"")
        if self._rows and (len(self._rows) == self._block_rows or self._bytes + size > MAX_BLOCK_BYTES):
            block = self._block()
            yield TimestampedValue(block, min_timestamp(block))
        self._rows.append(row)
        self._bytes += size

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._rows:
            block = self._block()
            yield WindowedValue(block, min_timestamp(block), [GlobalWindow()])

    def _block(self) -> Block:
        rows, self._rows, self._bytes = self._rows, [], 0
        headers = [None if not row.headers else [(h.key, h.value) for h in row.headers] for row in rows]
        metrics.inc(metrics.RECORDS_READ, len(rows))
        return raw_block(
            self._topic,
            [row.partition for row in rows],
            [row.offset for row in rows],
            [row.timestamp for row in rows],
            [row.key for row in rows],
            [row.value for row in rows],
            headers if any(headers) else None,
        )


class ReadWithJava(beam.PTransform):
    """Raw blocks of one topic, without end, through Beam's ``ReadFromKafka``.

    Where the group has no offset, reading starts at ``start``; a time wins over the group's offsets.

    Raises:
      UserError: a start by offsets, or a setting that the Java client doesn't have or that would travel as a secret.
    """

    def __init__(
        self, address: KafkaAddress, config: KafkaConfig, group_id: str | None, start: OffsetSpec, block_rows: int
    ) -> None:
        super().__init__()
        if start.kind is OffsetKind.OFFSETS:
            raise UserError(
                f"--kafka_io java cannot start at {start}; give earliest, latest or a time, or leave it out"
            )
        consumer = {
            "isolation.level": "read_committed",
            **java_settings(config),
            "bootstrap.servers": address.bootstrap_servers,
            "auto.offset.reset": "latest" if start.kind is OffsetKind.LATEST else "earliest",
            "enable.auto.commit": "false",
        }
        if group_id is not None:
            consumer["group.id"] = group_id
        self._arguments = {
            "consumer_config": consumer,
            "topics": [address.topic],
            "start_read_time": start.timestamp_ms,
            "commit_offset_in_finalize": group_id is not None,
            "timestamp_policy": ReadFromKafka.create_time_policy,
            "with_metadata": True,
            "dynamic_read_poll_interval_seconds": DISCOVER_S,
        }
        self._to_blocks = RowsToBlocks(address.topic, block_rows)

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection[pa.RecordBatch]:
        # Beam heeds --beam_services for pipelines in a with statement only.
        services = pbegin.pipeline.options.view_as(CrossLanguageOptions).beam_services
        with JavaJarServer.beam_services(services):
            rows = pbegin | "Rows" >> ReadFromKafka(**self._arguments)
        return rows | "Blocks" >> beam.ParDo(self._to_blocks).with_output_types(pa.RecordBatch)
