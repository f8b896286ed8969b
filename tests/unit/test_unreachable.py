"""Who does not answer is told from who refuses, by the type of the error, whoever it is."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from beam_jobs.credentials.google_credentials import GoogleAwayError
from beam_jobs.credentials.references import read_secret
from beam_jobs.errors import UnreachableError, UserError
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.client import check_topic
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.pubsub import client as pubsub_client
from beam_jobs.io.pubsub.address import PubSubAddress
from beam_jobs.storage import files
from schemas.writers import for_registry
from tests.certificates import certificate

NOBODY = "127.0.0.1:9"  # nothing listens on the discard port
TOPIC = PubSubAddress("my-project", "events")


def kind_of(check: Callable[[], object]) -> type[Exception]:
    with pytest.raises(UserError) as caught:
        check()
    assert "\n" not in str(caught.value)
    return caught.type


class Answers(BaseHTTPRequestHandler):
    """The status that the path begins with."""

    def do_GET(self) -> None:
        self.send_response(int(self.path.split("/")[1]))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(params=["http", "https"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        if request.param == "https":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate(tmp_path)[0])
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"{request.param}://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_registry_that_answers_refuses_and_one_behind_a_dead_gateway_is_away(registry: str) -> None:
    for status in (401, 403, 404, 500, 502, 503, 504):
        away = registry.startswith("http:") and status > 500  # the certificate of the other is nobody's
        found = kind_of(for_registry(f"{registry}/{status}", {}).check)
        assert found is (UnreachableError if away else UserError), status


@pytest.mark.parametrize("url", [f"http://{NOBODY}", "https://no-such-host.invalid"])
def test_a_registry_without_a_listener_or_a_name(url: str) -> None:
    assert kind_of(for_registry(url, {}).check) is UnreachableError
    assert kind_of(lambda: for_registry(url, {}).register("s", {})) is UnreachableError


@pytest.mark.parametrize("servers", [NOBODY, "no-such-host.invalid:9092"])
def test_a_broker(servers: str) -> None:
    address = KafkaAddress(servers, "events")
    assert kind_of(lambda: check_topic(address, KafkaConfig(), timeout_s=2)) is UnreachableError
    wrong = KafkaConfig.from_mapping({"no.such.setting": "1"})
    assert kind_of(lambda: check_topic(address, wrong)) is UserError


def test_pubsub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(pubsub_client.EMULATOR, NOBODY)
    monkeypatch.setattr(pubsub_client, "_ONCE", {"retry": None, "timeout": 1.0})
    for ask in (pubsub_client.check_topic, pubsub_client.find_subscription, pubsub_client.topic_exists):
        assert kind_of(lambda ask=ask: ask(TOPIC)) is UnreachableError


def test_secrets_that_only_another_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_SECRET", raising=False)
    for reference in ("env:NO_SUCH_SECRET", "file:/no/such/secret"):
        assert kind_of(lambda reference=reference: read_secret(reference, "x")) is UnreachableError
    assert kind_of(lambda: read_secret("secret://wrong", "x")) is UserError


def test_storage_and_google() -> None:
    assert issubclass(files.StorageAwayError, UnreachableError)
    assert issubclass(GoogleAwayError, UnreachableError)
