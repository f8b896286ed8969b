"""Beam's Java reader: what is handed to it, what becomes of its rows, and where it is refused.

Its expansion service is a mock, for Beam's own is a Java archive that cannot always be had: it speaks the same protocol
and expands the same URN, to rows that Python makes.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apache_beam as beam
import grpc
import pyarrow as pa
import pytest
from apache_beam.coders import RowCoder
from apache_beam.io.kafka import ReadFromKafka as JavaReadFromKafka
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_artifact_api_pb2_grpc, beam_expansion_api_pb2_grpc
from apache_beam.portability.api.org.apache.beam.model.pipeline.v1.external_transforms_pb2 import (
    ExternalConfigurationPayload,
)
from apache_beam.runners.portability.expansion_service import ExpansionServiceServicer
from apache_beam.transforms.window import TimestampedValue

from beam_jobs import metrics
from beam_jobs.block import RAW_SCHEMA, concat
from beam_jobs.errors import UserError
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.java import RowsToBlocks, java_settings
from beam_jobs.io.kafka.transforms import KafkaInput, ReadFromKafka
from beam_jobs.io.position import LATEST, OffsetSpec
from beam_jobs.preflight.java import check_java

ADDRESS = KafkaAddress("broker:9092", "events")
JAVA = ("--kafka_io=java", f"--input={ADDRESS}")
TIME_MS = 1_700_000_000_000


class Header(typing.NamedTuple):
    key: str
    value: bytes | None


class Row(typing.NamedTuple):  # the fields of Beam's Java class, by name as there
    headers: Sequence[Header] | None
    key: bytes | None
    offset: int
    partition: int
    timestamp: int
    timestampTypeId: int  # noqa: N815
    timestampTypeName: str  # noqa: N815
    topic: str
    value: bytes | None


def row(offset: int, value: bytes | None = b"v", key: bytes | None = None, headers: Any = None, ms: int = 0) -> Row:
    return Row(headers, key, offset, offset % 2, TIME_MS + ms, 0, "CREATE_TIME", "events", value)


ROWS = [row(0, b"a", b"k", [Header("h", b"1"), Header("h", None)], 5), row(1, None, ms=3), row(2, b"c", headers=[])]


class RowsOfJava(beam.PTransform):
    """What the mock expands Beam's URN to."""

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection[Row]:
        rows = pbegin | beam.Create(ROWS).with_output_types(Row)
        timed = beam.Map(lambda r: TimestampedValue(r, r.timestamp / 1000))
        return rows | timed.with_output_types(Row)


@pytest.fixture
def expansion(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The mock: ``options`` lead to it, ``asked`` are the configurations it was asked to expand."""
    asked: list[Any] = []

    def made(transform: Any, payload: ExternalConfigurationPayload, context: Any) -> beam.PTransform:
        asked.append(RowCoder(payload.schema).decode(payload.payload))
        return RowsOfJava()

    urn = JavaReadFromKafka.URN_WITH_METADATA
    monkeypatch.setitem(beam.PTransform._known_urns, urn, (ExternalConfigurationPayload, made))
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    servicer = ExpansionServiceServicer()
    beam_expansion_api_pb2_grpc.add_ExpansionServiceServicer_to_server(servicer, server)
    beam_artifact_api_pb2_grpc.add_ArtifactRetrievalServiceServicer_to_server(servicer.artifact_service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    services = f'{{"sdks:java:io:expansion-service:shadowJar": "127.0.0.1:{port}"}}'
    try:
        yield SimpleNamespace(asked=asked, options=PipelineOptions([f"--beam_services={services}"]))
    finally:
        server.stop(None).wait()


def config(folder: Path, text: str) -> KafkaConfig:
    (folder / "client.properties").write_text(text)
    return KafkaConfig.from_file(folder / "client.properties")


def test_the_graph_hands_the_settings_to_java_and_makes_blocks_of_its_rows(
    expansion: SimpleNamespace, tmp_path: Path
) -> None:
    settings = config(tmp_path, "security.protocol=ssl\nssl.ca.location=/etc/ca.pem\nschema.registry.url=http://r\n")
    out = tmp_path / "out"
    metrics.STATE.reset()
    # As the jobs do it: not in a with statement.
    pipeline = beam.Pipeline("FnApiRunner", options=expansion.options)
    _ = (
        pipeline
        | "Read" >> ReadFromKafka(KafkaInput(ADDRESS, settings, "group", LATEST, io="java"))
        | beam.Map(save, str(out))
    )
    labels = [node.full_label for node in pipeline.transforms_stack[0].parts[0].parts]
    assert labels == ["Read/Java"]
    pipeline.run().wait_until_finish()
    [asked] = expansion.asked
    assert asked.topics == ["events"]
    assert dict(asked.consumer_config) == {
        "auto.offset.reset": "latest",
        "bootstrap.servers": "broker:9092",
        "enable.auto.commit": "false",
        "group.id": "group",
        "isolation.level": "read_committed",
        "security.protocol": "SSL",
        "ssl.truststore.location": "/etc/ca.pem",
        "ssl.truststore.type": "PEM",
    }
    assert asked.commit_offset_in_finalize
    assert asked.timestamp_policy == "CreateTime"
    assert asked.start_read_time is None
    with pa.ipc.open_file(out) as file:
        found = file.read_all()
    assert found.schema == RAW_SCHEMA
    by_offset = {r["offset"]: r for r in found.to_pylist()}
    assert [by_offset[i]["value"] for i in range(3)] == [b"a", None, b"c"]
    assert by_offset[0]["headers"] == [{"key": "h", "value": b"1"}, {"key": "h", "value": None}]
    assert by_offset[2]["headers"] is None
    assert metrics.STATE.snapshot()[metrics.RECORDS_READ] == 3


def save(block: pa.RecordBatch, path: str) -> None:
    assert block.num_rows == 3  # one bundle, one block
    with pa.ipc.new_file(path, block.schema) as file:
        file.write_batch(block)


def test_a_start_by_time_and_no_group(expansion: SimpleNamespace) -> None:
    pipeline = beam.Pipeline("FnApiRunner", options=expansion.options)
    _ = pipeline | ReadFromKafka(KafkaInput(ADDRESS, start=OffsetSpec.parse(str(TIME_MS)), io="java"))
    [asked] = expansion.asked
    assert asked.start_read_time == TIME_MS
    assert not asked.commit_offset_in_finalize
    assert "group.id" not in asked.consumer_config


@pytest.mark.parametrize("rows", [1, 2, 3, 100])
def test_rows_become_the_same_records_however_they_are_cut(rows: int) -> None:
    to_blocks = RowsToBlocks("events", rows)
    made = [row(i, b"%d" % i, ms=-i) for i in range(7)]
    to_blocks.start_bundle()
    out = [timed for one in made for timed in to_blocks.process(one)]
    out += list(to_blocks.finish_bundle())
    blocks = [timed.value for timed in out]
    assert [block.num_rows for block in blocks] == [rows] * (7 // rows) + ([7 % rows] if 7 % rows else [])
    assert concat(blocks).column("offset").to_pylist() == list(range(7))
    assert [timed.timestamp.micros // 1000 for timed in out] == [
        min(block.column("timestamp").view(pa.int64()).to_pylist()) for block in blocks
    ]


def test_large_rows_stay_below_the_size_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beam_jobs.io.kafka.java.MAX_BLOCK_BYTES", 10)
    to_blocks = RowsToBlocks("events")
    to_blocks.start_bundle()
    out = [timed.value for i in range(4) for timed in to_blocks.process(row(i, b"12345678901" if i == 3 else b"1234"))]
    out += [timed.value for timed in to_blocks.finish_bundle()]
    assert [block.num_rows for block in out] == [2, 1, 1]


def test_a_bundle_without_rows() -> None:
    to_blocks = RowsToBlocks("events")
    to_blocks.start_bundle()
    assert list(to_blocks.finish_bundle()) == []


def test_a_login_by_password_is_a_variable_of_the_worker(tmp_path: Path) -> None:
    text = 'security.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\nsasl.username=us"er\nsasl.password=env:PASSWORD\n'
    assert java_settings(config(tmp_path, text)) == {
        "config.providers": "env",
        "config.providers.env.class": "org.apache.kafka.common.config.provider.EnvVarConfigProvider",
        "sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required "
        'username="us\\"er" password="${env:PASSWORD}";',
        "sasl.mechanism": "SCRAM-SHA-512",
        "security.protocol": "SASL_SSL",
    }


def test_googles_credentials_and_a_client_certificate(tmp_path: Path) -> None:
    text = """
security.protocol=SASL_SSL
sasl.mechanism=OAUTHBEARER
sasl.login.callback.handler.class=com.google.cloud.hosted.kafka.auth.GcpLoginCallbackHandler
sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;
ssl.keystore.type=PEM
ssl.keystore.location=/etc/me.pem
ssl.endpoint.identification.algorithm=
fetch.min.bytes=1000
"""
    assert java_settings(config(tmp_path, text)) == {
        "fetch.min.bytes": "1000",
        "sasl.jaas.config": "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;",
        "sasl.login.callback.handler.class": "com.google.cloud.hosted.kafka.auth.GcpLoginCallbackHandler",
        "sasl.mechanism": "OAUTHBEARER",
        "security.protocol": "SASL_SSL",
        "ssl.endpoint.identification.algorithm": "",
        "ssl.keystore.location": "/etc/me.pem",
        "ssl.keystore.type": "PEM",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sasl.password=hunter2", "sasl.password would travel with the pipeline"),
        ("sasl.password=file:/hunter2", "sasl.password would travel with the pipeline"),
        ("sasl.password=secret://projects/p/secrets/hunter2/versions/1", "sasl.password would travel"),
        ("ssl.key.password=hunter2", "ssl.key.password would travel"),
        ("sasl.mechanism=GSSAPI", "GSSAPI is not known"),
        ("queued.min.messages=5", "no setting queued.min.messages"),
        ("ssl.certificate.location=/a\nssl.key.location=/b", "must name one file"),
    ],
)
def test_what_cannot_go_to_java(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        java_settings(config(tmp_path, text))
    assert "hunter2" not in str(raised.value)


def test_a_start_or_an_end_that_java_has_not() -> None:
    with pytest.raises(UserError, match="cannot start at 0:5"):
        ReadFromKafka(KafkaInput(ADDRESS, start=OffsetSpec.parse("0:5"), io="java"))
    with pytest.raises(UserError, match="without an end"):
        ReadFromKafka(KafkaInput(ADDRESS, until=LATEST, io="java"))


@pytest.mark.parametrize(
    ("name", "flags", "said"),
    [
        ("archive/cars", ["--runner=DataflowRunner"], "cannot be used for archive"),
        ("score/cars", [], "DirectRunner is not"),
        ("score/cars", ["--runner=PrismRunner"], "PrismRunner is not"),
        ("score/cars", ["--runner=DataflowRunner", "--until=latest"], "leave out --until"),
        ("score/cars", ["--runner=DataflowRunner", "--fetch=wire"], "--fetch wire is of the native source"),
        ("score/cars", ["--runner=DataflowRunner"], "needs Java here as well"),
    ],
)
def test_where_java_is_refused(
    name: str, flags: list[str], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=said) as raised:
        check_java(PipelineOptions([*JAVA, *flags]), name)
    assert "\n" not in str(raised.value)


def test_where_java_is_let_through(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    check_java(PipelineOptions([*JAVA, "--runner=DataflowRunner", '--beam_services={"a": "b:1"}']), "score/cars")
    (tmp_path / "java").touch(mode=0o755)
    check_java(PipelineOptions([*JAVA, "--runner=DataflowRunner"]), "score/cars")
