"""Google's credentials as the login at Apache Kafka: with the properties of Google's documentation."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pytest

from beam_jobs.errors import UserError
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.client import KafkaTransport, check_topic, ensure_topic
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.oauth import GOOGLE_TOKENS
from beam_jobs.io.kafka.transforms import KafkaInput, ReadFromKafka, WriteToKafka
from beam_jobs.io.kafka.wire.fetcher import WireFetcher
from beam_jobs.io.position import OffsetSpec
from demo.broker import ApacheKafka, java_missing, kafka_jars
from tests.certificates import certificate
from tests.integration.test_kafka_tls import append_values
from tests.services.google import REFUSED, TokenServer

pytestmark = pytest.mark.integration

ACCESS_TOKEN = "ya29.the-access-token"
SESSION_S = 1.0  # how long a login counts at the broker

PROPERTIES = """\
security.protocol=SASL_SSL
sasl.mechanism=OAUTHBEARER
sasl.login.callback.handler.class=com.google.cloud.hosted.kafka.auth.GcpLoginCallbackHandler
sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;
"""


@pytest.fixture(scope="module")
def managed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[KafkaAddress, KafkaConfig]]:
    """A topic on a broker that takes Google's tokens as Managed Service for Apache Kafka does."""
    if reason := java_missing():
        pytest.skip(reason)
    if shutil.which("javac") is None:
        pytest.skip("javac, to compile the check of Google's tokens, is not installed")
    folder = tmp_path_factory.mktemp("managed")
    source = Path(__file__).parent / "java" / "GoogleTokenValidator.java"
    subprocess.run(["javac", "-cp", f"{kafka_jars()}/*", "-d", str(folder), str(source)], check=True, timeout=100)
    keystore, ca = certificate(folder)
    login = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule"
    settings = {
        "sasl.enabled.mechanisms": "OAUTHBEARER",
        "oauthbearer.sasl.server.callback.handler.class": "GoogleTokenValidator",
        "oauthbearer.sasl.jaas.config": f'{login} required access_token="{ACCESS_TOKEN}" '
        'unsecuredLoginStringClaim_sub="broker";',  # the broker's own login, of no use here
        "oauthbearer.connections.max.reauth.ms": f"{SESSION_S * 1000:.0f}",
    }
    settings = {f"listener.name.sasl.{name}": value for name, value in settings.items()}
    (folder / "client.properties").write_text(f"{PROPERTIES}ssl.ca.location={ca}\n")
    with ApacheKafka(settings, {"nobody": "nothing"}, tls_keystore=keystore, classes=folder) as broker:
        ensure_topic(KafkaAddress(broker.bootstrap_servers, "managed"), KafkaConfig())
        yield KafkaAddress(broker.sasl_servers, "managed"), KafkaConfig.from_file(folder / "client.properties")


def records(start: int) -> pa.RecordBatch:
    values = pa.array([b"v%d" % i for i in range(start, start + 10)])
    return pa.record_batch({"key": pa.array([b"k"] * 10), "value": values})


def write(address: KafkaAddress, config: KafkaConfig, block: pa.RecordBatch) -> None:
    with beam.Pipeline("FnApiRunner") as p:
        _ = p | beam.Create([block]) | WriteToKafka(address, config)


@pytest.mark.parametrize("fetch", ["wire", "client"])
def test_records_go_in_and_out(
    managed: tuple[KafkaAddress, KafkaConfig], tokens: TokenServer, tmp_path: Path, fetch: str
) -> None:
    tokens.issue(ACCESS_TOKEN)
    address, config = managed
    ensure_topic(address, config)
    check_topic(address, config, write=True)
    write(address, config, records(0))
    out = tmp_path / "out"
    with beam.Pipeline("FnApiRunner") as p:
        _ = (
            p
            | ReadFromKafka(KafkaInput(address, config, "readers", until=OffsetSpec.parse("latest"), fetch=fetch))  # type: ignore[arg-type]
            | beam.Map(append_values, str(out))
        )
    assert out.read_text().split()[-10:] == [f"v{i}" for i in range(10)]
    with KafkaTransport(address, config, "readers").control() as control:
        assert control.committed([0], 10.0)[0].offset % 10 == 0
    assert tokens.asked == 1  # one token does for all clients of the process


def test_auto_takes_the_wire_and_outlives_its_logins(
    managed: tuple[KafkaAddress, KafkaConfig], tokens: TokenServer
) -> None:
    tokens.issue(ACCESS_TOKEN)
    address, config = managed
    start = time.monotonic()
    transport = KafkaTransport(address, config)
    fetcher = transport.fetcher()
    assert isinstance(fetcher, WireFetcher)
    try:
        with transport.control() as control:
            offset = control.bounds([0], 10.0)[0][1]
        fetcher.assign({0: offset})
        found = 0
        for written in range(3):
            write(address, config, records(10 * written))
            deadline = time.monotonic() + 20
            while found < 10 * (written + 1):
                block = fetcher.fetch(1000, 0.1, 0.0).block
                found += 0 if block is None else block.num_rows
                assert time.monotonic() < deadline
            while time.monotonic() - start < (written + 1) * 1.5 * SESSION_S:  # no request in between but fetches
                assert fetcher.fetch(1000, 0.1, 0.0).block is None
        assert found == 30
    finally:
        fetcher.close()


def test_a_wrong_token_is_one_clear_line(managed: tuple[KafkaAddress, KafkaConfig], tokens: TokenServer) -> None:
    tokens.issue("ya29.of-somebody-else")
    with pytest.raises(UserError, match="authentication failed") as raised:
        check_topic(*managed)
    line = str(raised.value)
    assert "roles/managedkafka.client" in line
    assert "\n" not in line
    assert "ya29" not in line


def test_refused_credentials_are_one_clear_line(managed: tuple[KafkaAddress, KafkaConfig], tokens: TokenServer) -> None:
    tokens.answer = (400, REFUSED)
    with pytest.raises(UserError, match=r"Google refuses the credentials .*Invalid JWT") as raised:
        check_topic(*managed)
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("no_credentials")
def test_no_credentials_are_missed_at_once(managed: tuple[KafkaAddress, KafkaConfig]) -> None:
    start = time.monotonic()
    with pytest.raises(UserError, match="no Google credentials; run gcloud auth application-default login"):
        check_topic(*managed)
    assert time.monotonic() - start < 15  # google-auth alone would look around for 20 s
    GOOGLE_TOKENS.forget()
