"""Schemas by id, from a registry that comes, goes, refuses and forgets."""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import schemas
from beam_jobs import stop
from beam_jobs.codec.schema import SchemaTooLargeError
from beam_jobs.errors import UnreachableError, UserError
from demo.broker import free_port
from schemas import client as client_module
from schemas import http
from schemas.client import RegistrySchemas
from schemas.registry.server import RegistryServer
from schemas.source import (
    InterruptedWaitError,
    Registration,
    SchemaSource,
    for_registry,
    id_of,
    registry_settings,
)

CAR = schemas.load("car_sensor")
OTHER = {"type": "record", "name": "Other", "fields": []}
CLOSED = "http://127.0.0.1:9"  # nothing listens on the discard port


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path / "registry") as server:
        yield server


@pytest.fixture
def source(registry: RegistryServer) -> SchemaSource:
    return for_registry(registry.url, CAR)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that the registry in this process is asked for, as they come."""
    paths: list[str] = []
    respond = schemas.registry.server.respond  # type: ignore[attr-defined]

    def record(store: Any, method: str, target: str, body: bytes) -> Any:
        paths.append(f"{method} {target}")
        return respond(store, method, target, body)

    monkeypatch.setattr("schemas.registry.server.respond", record)
    return paths


class Fake:
    """A server that answers as ``answer(headers)`` says: (status, body)."""

    def __init__(self, answer: Callable[[Any], tuple[int, bytes]], more: Mapping[str, str] | None = None) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.headers.path = self.path  # type: ignore[attr-defined]
                status, body = answer(self.headers)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                for name, value in (more or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # who has had enough closes
                    self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))

    def __enter__(self) -> str:
        self.thread.start()
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def __exit__(self, *_: Any) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def test_schemas_by_id(source: SchemaSource, requests: list[str]) -> None:
    source.check()
    first, second = source.register("cars-value", CAR), source.register("other-value", OTHER)
    requests.clear()
    assert source.writer_schema(first) == CAR
    assert source.writer_schema(second) == OTHER
    assert source.writer_schema(first) is source.writer_schema(first)
    assert len(requests) == 2
    assert source.register("cars-value", CAR) == first


def test_unknown_ids_are_asked_for_once_a_while(
    source: SchemaSource, requests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        with pytest.raises(LookupError, match="no schema with id 7"):
            source.writer_schema(7)
    assert len(requests) == 1
    monkeypatch.setattr(client_module.time, "monotonic", lambda: 1e12)
    with pytest.raises(LookupError):
        source.writer_schema(7)
    assert len(requests) == 2


@pytest.mark.parametrize("schema_id", [0, -1, 1 << 31, (1 << 32) - 1])
def test_impossible_ids_are_not_asked_for(source: SchemaSource, requests: list[str], schema_id: int) -> None:
    with pytest.raises(LookupError, match="cannot be"):
        source.writer_schema(schema_id)
    assert not requests


def test_a_flood_of_garbage_ids_spares_the_registry_and_hides_no_new_schema(
    source: SchemaSource, requests: list[str]
) -> None:
    source.writer_schema(source.register("cars-value", CAR))
    requests.clear()
    for i in range(2_000):
        with pytest.raises(LookupError):
            source.writer_schema(1_000_000 + 977 * i)
    assert len(requests) <= client_module.FLOOD + 2
    new = source.register("other-value", OTHER)
    assert source.writer_schema(new) == OTHER


def test_memory_of_unknown_ids_is_bounded(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_UNKNOWN", 10)
    for i in range(100, 150):
        with pytest.raises(LookupError):
            source.writer_schema(i)
    assert len(source._unknown) <= 10


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"schema": "syntax = 'proto3';", "schemaType": "PROTOBUF"}, "PROTOBUF"),
        ({"schema": '"string"'}, "not a record"),
        ({"schema": "{"}, "not a record"),
        ({"schema": "{}", "references": [{"name": "n", "subject": "s", "version": 1}]}, "refers to other"),
    ],
)
def test_schemas_that_cannot_be_used_are_unknown(answer: Any, message: str) -> None:
    with Fake(lambda _: (200, json.dumps(answer).encode())) as url, pytest.raises(LookupError, match=message):
        for_registry(url, CAR).writer_schema(5)


@pytest.mark.parametrize("packed", [False, True])
def test_an_answer_that_is_too_large_is_the_schemas_own_failure(packed: bool) -> None:
    large = b'{"schema": "' + b"x" * (http.MAX_ANSWER_BYTES + 1)

    def answer(headers: Any) -> tuple[int, bytes]:
        assert headers["Accept-Encoding"] == "identity"
        good = json.dumps({"schema": json.dumps(OTHER)}).encode()
        return 200, large if headers.path.partition("?")[0].endswith("/5") else good

    with Fake(answer, {"Content-Encoding": "gzip"} if packed else {}) as url:
        source = for_registry(url, CAR)
        for _ in range(2):
            with pytest.raises(SchemaTooLargeError, match="is packed" if packed else "has more than 8,388,608 bytes"):
                source.writer_schema(5)
        if not packed:
            assert source.writer_schema(6) == OTHER
    largest = {"type": "record", "name": "R", "fields": [], "doc": ""}
    largest["doc"] = "\u00e9" * ((1 << 20) - len(json.dumps(largest)))  # six bytes each in the answer
    text = json.dumps(largest, ensure_ascii=False)
    assert len(text) == 1 << 20
    with Fake(lambda _: (200, json.dumps({"schema": text}).encode())) as url:
        assert for_registry(url, CAR).writer_schema(5) == largest


def test_threads_share_one_request(source: SchemaSource, requests: list[str]) -> None:
    schema_id = source.register("cars-value", CAR)
    requests.clear()
    threads = [threading.Thread(target=source.writer_schema, args=(schema_id,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(requests) == 1


def test_a_registry_that_is_away_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RegistryServer(tmp_path) as server:
        port = server.port
        source = for_registry(server.url, CAR)
        schema_id = source.register("cars-value", CAR)
    caplog.set_level(logging.WARNING, "schemas.client")
    retried, found = threading.Event(), []
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 5:
            retried.set()
            back.wait(30)

    back = threading.Event()
    monkeypatch.setattr(client_module, "_pause", pause)
    waiter = threading.Thread(target=lambda: found.append(source.writer_schema(schema_id)))
    waiter.start()
    assert retried.wait(30)
    with RegistryServer(tmp_path, port=port):
        back.set()
        waiter.join(30)
    assert found == [CAR]
    assert pauses[-1] > pauses[0]
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert "cannot be reached" in lines[0]
    assert "The job waits" in lines[0]
    assert "answers again" in lines[1]


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 502, 503])
def test_errors_of_the_registry_do_not_make_a_schema_unknown(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([(status, b'{"error_code": 50001, "message": "m"}'), (status, b"<html>"), (200, b"<html>")])
    good = (200, json.dumps({"schema": json.dumps(OTHER)}).encode())
    monkeypatch.setattr(client_module, "_pause", lambda seconds: None)
    with Fake(lambda _: next(answers, good)) as url:
        assert for_registry(url, CAR).writer_schema(5) == OTHER


def test_a_wait_can_be_interrupted() -> None:
    errors: list[BaseException] = []
    source = for_registry(CLOSED, CAR)

    def work() -> None:
        try:
            source.writer_schema(1)
        except BaseException as e:
            errors.append(e)

    waiters = [threading.Thread(target=work) for _ in range(3)]
    try:
        for waiter in waiters:
            waiter.start()
        stop.request()
        for waiter in waiters:
            waiter.join(30)
    finally:
        stop.reset()
    assert [type(error) for error in errors] == [InterruptedWaitError] * 3
    assert not isinstance(errors[0], LookupError)  # or the records would be dead letters


def test_check_says_what_is_wrong_in_one_line() -> None:
    def message(url: str) -> str:
        with pytest.raises(UserError) as caught:
            for_registry(url, CAR).check()
        assert "\n" not in str(caught.value)
        assert url in str(caught.value)
        return str(caught.value)

    assert "cannot be reached" in message(CLOSED)
    assert "cannot be reached" in message("http://no-such-host.invalid:8081")
    assert "cannot be reached" in message("https://127.0.0.1:9")
    with Fake(lambda _: (401, b'{"error_code": 401, "message": "Unauthorized"}')) as url:
        assert "basic.auth.user.info" in message(url)
    with Fake(lambda _: (200, b"<html>")) as url:
        assert "not as a Schema Registry" in message(url)
    with Fake(lambda _: (404, b"<html>\n</html>")) as url:
        assert "HTTP 404" in message(url)


@pytest.mark.parametrize("url", ["127.0.0.1:8081", "localhost", "ftp://host", "http://", "mock://x"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(UserError, match="is no URL"):
        for_registry(url, CAR)


def test_an_id_is_waited_for_where_workers_start_before_the_registry(tmp_path: Path) -> None:
    port = free_port()
    given = Registration(for_registry(f"http://127.0.0.1:{port}", CAR), "s-value", OTHER)
    with pytest.raises(UnreachableError):
        given.writers.register(given.subject, given.schema)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(id_of, pickle.loads(pickle.dumps(given)))
        with RegistryServer(tmp_path / "registry", port=port) as server:
            assert found.result(30) == for_registry(server.url, CAR).register("s-value", OTHER)
    assert id_of(7) == 7


def test_a_worker_does_not_wait_for_a_registry_that_refuses_the_schema(source: SchemaSource) -> None:
    source.register("s-value", OTHER)
    changed = OTHER | {"fields": [{"name": "speed", "type": "int"}]}
    with pytest.raises(UserError, match=r"'s-value'.*field 'speed' was added without a default"):
        id_of(Registration(source, "s-value", changed))
    assert id_of(Registration(for_registry(None, CAR), "s-value", schemas.load("alert"))) == 2


def test_register_says_why_a_schema_is_refused(source: SchemaSource) -> None:
    source.register("s-value", OTHER)
    changed = OTHER | {"fields": [{"name": "speed", "type": "int"}]}
    with pytest.raises(UserError, match=r"'s-value'.*field 'speed' was added without a default"):
        source.register("s-value", changed)
    with pytest.raises(UserError, match="cannot be reached"):
        for_registry(CLOSED, CAR).register("s-value", OTHER)


def test_basic_and_bearer_auth_by_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def answer(headers: Any) -> tuple[int, bytes]:
        seen.append(headers["Authorization"])
        return 200, b'["AVRO"]'

    token = tmp_path / "token"
    token.write_text("t0ken\n")
    monkeypatch.setenv("REGISTRY_LOGIN", "user:pa:ss")
    monkeypatch.setenv("REGISTRY_PASSWORD", "pa:ss")
    with Fake(answer) as url:
        for config in (
            {"schema.registry.basic.auth.user.info": "env:REGISTRY_LOGIN"},
            {"basic.auth.user.info": "user:env:REGISTRY_PASSWORD", "basic.auth.credentials.source": "USER_INFO"},
            {"bearer.auth.token": f"file:{token}"},
        ):
            made = for_registry(url, CAR, config)
            made.check()
            travelled = pickle.dumps(made)
            assert b"pa:ss" not in travelled + repr(made).encode() + made.describe().encode()
            assert b"t0ken" not in travelled
            pickle.loads(travelled).check()
    assert seen == ["Basic dXNlcjpwYTpzcw=="] * 4 + ["Bearer t0ken"] * 2


def test_a_rotated_secret_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("user:old")

    def answer(headers: Any) -> tuple[int, bytes]:
        if headers["Authorization"] == "Basic dXNlcjpuZXc=":  # user:new
            return 200, json.dumps({"schema": json.dumps(OTHER)}).encode()
        return 401, b"{}"

    monkeypatch.setattr(client_module, "_pause", lambda seconds: secret.write_text("user:new"))
    with Fake(answer) as url:
        source = for_registry(url, CAR, {"basic.auth.user.info": f"file:{secret}"})
        assert source.writer_schema(3) == OTHER


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"basic.auth.user.info": "user:pass"}, "in clear"),
        ({"schema.registry.ssl.key.password": "pass"}, "in clear"),
        ({"bearer.auth.token": "abc"}, "in clear"),
        ({"basic.auth.credentials.source": "SASL_INHERIT"}, "USER_INFO"),
        ({"schema.registry.ssl.truststore.location": "x.jks"}, "PEM"),
        ({"schema.registry.sll.ca.location": "x"}, "not a property"),
    ],
)
def test_wrong_properties(config: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        for_registry(CLOSED, CAR, config)
    assert "pass" not in str(caught.value).replace("ssl.key.password", "")


def test_passwords_in_the_url_are_refused() -> None:
    with pytest.raises(UserError, match="password in its URL") as caught:
        for_registry("http://user:hunter2@host:8081", CAR)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"basic.auth.user.info": "env:NO_SUCH_VARIABLE"}, "NO_SUCH_VARIABLE is not set"),
        ({"basic.auth.user.info": "file:/no/such/file"}, "cannot read /no/such/file"),
        ({"schema.registry.ssl.ca.location": "/no/such/ca.pem"}, "mend the schema.registry"),
    ],
)
def test_what_is_missing_on_a_worker_is_said_there(config: dict[str, str], message: str) -> None:
    source = for_registry(CLOSED, CAR, config)  # the machine that launches a job need not have it
    with pytest.raises(UserError, match=message):
        source.check()
    with pytest.raises(UserError, match=message):
        source.writer_schema(1)


def test_kafkas_properties_are_left_alone() -> None:
    config = {
        "bootstrap.servers": "b:9092",
        "ssl.ca.location": "kafka.pem",
        "sasl.password": "x",
        "schema.registry.url": "http://r:8081",
        "schema.registry.ssl.ca.location": "registry.pem",
    }
    assert registry_settings(config) == {"url": "http://r:8081", "ssl.ca.location": "registry.pem"}
    assert for_registry(None, CAR, config).describe() == "schemas of http://r:8081"
    assert for_registry("http://other", CAR, config).describe() == "schemas of http://other"


def test_without_a_registry_the_shipped_schema_stands_for_every_id() -> None:
    source = for_registry(None, CAR)
    source.check()
    assert source.writer_schema(1) == source.writer_schema(0) == CAR
    assert "--schema_registry" in source.describe()
    assert "CarSensor" in source.describe()
    names = ("score", "alert", "dead_letter", "car_sensor")
    assert [source.register("any-value", schemas.load(name)) for name in names] == [1, 2, 3, 4]
    assert pickle.loads(pickle.dumps(source)).writer_schema(9) == CAR


def test_a_pickle_starts_anew(registry: RegistryServer, source: SchemaSource) -> None:
    schema_id = source.register("cars-value", CAR)
    assert source.writer_schema(schema_id) == CAR
    again = pickle.loads(pickle.dumps(source))
    assert isinstance(again, RegistrySchemas)
    assert again.writer_schema(schema_id) == CAR


GARBAGE: list[tuple[int, bytes]] = [
    (200, b"<html>"),
    (200, b"[]"),
    (200, b'"x"'),
    (200, b"null"),
    (200, b""),
    (204, b""),
    (200, b"[" * 100_000),
    (200, b"\xff\xfe"),
    (200, b'{"schema": "{}", "references": [1]}'),
    (403, b'{"error_code": 40301, "message": "not this one"}'),
    (404, b"{}"),
    (404, b'{"error_code": "x", "message": [1]}'),
    (500, b"x"),
    (500, b'{"error_code": 50001, "message": "backend"}'),
]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "BACKOFF_SECONDS", (0.001, 0.002))


@pytest.mark.parametrize("answer", GARBAGE, ids=range(len(GARBAGE)))
@pytest.mark.usefixtures("soon")
def test_one_id_that_fails_by_itself_holds_nobody_up(answer: tuple[int, bytes]) -> None:
    """The registry answers the other ids well."""
    good = json.dumps({"schema": json.dumps(CAR)}).encode()
    with Fake(lambda headers: answer if headers.path.endswith("/2") else (200, good)) as url:
        source = RegistrySchemas(url, {})
        assert source.writer_schema(1) == CAR
        for _ in range(2):
            with pytest.raises(LookupError, match=r"schema.* id 2|id 2 is"):
                source.writer_schema(2)
        assert source.writer_schema(3) == CAR


@pytest.mark.parametrize("answer", GARBAGE, ids=range(len(GARBAGE)))
@pytest.mark.usefixtures("soon")
def test_a_registry_that_answers_nothing_but_garbage_is_waited_for(
    answer: tuple[int, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    good = (200, json.dumps({"schema": json.dumps(CAR)}).encode())
    left = iter([answer] * 3)
    with Fake(lambda _: next(left, good)) as url:
        assert RegistrySchemas(url, {}).writer_schema(1) == CAR
    assert ["The job waits" in line for line in caplog.messages] == [True, False]


def test_an_answer_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(client_module, "BACKOFF_SECONDS", (0.001, 0.002))
    good = json.dumps({"schema": json.dumps(CAR)}).encode()
    released = threading.Event()

    def answer(headers: Any) -> tuple[int, bytes]:
        if headers.path.endswith("/2"):
            released.wait(20)
        return 200, good

    with Fake(answer) as url:
        source = RegistrySchemas(url, {})
        source.writer_schema(1)
        with pytest.raises(LookupError, match="gives no schema for id 2"):
            source.writer_schema(2)
        released.set()


def test_the_end_of_the_job_does_not_wait_for_an_answer() -> None:
    asked, released = threading.Event(), threading.Event()

    def answer(_: Any) -> tuple[int, bytes]:
        asked.set()
        released.wait(20)
        return 200, b"{}"

    def end() -> None:
        asked.wait(20)
        stop.request()

    with Fake(answer) as url:
        threading.Thread(target=end).start()
        try:
            with pytest.raises(InterruptedWaitError):
                RegistrySchemas(url, {}).writer_schema(1)
        finally:
            stop.reset()
            released.set()


def test_a_schema_of_megabytes_is_refused_and_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    big = json.dumps({**OTHER, "doc": "x" * (1 << 20)})
    with Fake(lambda _: (200, json.dumps({"schema": big}).encode())) as url, pytest.raises(SchemaTooLargeError):
        RegistrySchemas(url, {}).writer_schema(1)
    small = json.dumps({"schema": json.dumps(CAR)}).encode()
    monkeypatch.setattr(client_module, "MAX_KEPT", 10 * len(json.dumps(CAR)))
    with Fake(lambda _: (200, small)) as url:
        source = RegistrySchemas(url, {})
        for schema_id in range(1, 40):
            assert source.writer_schema(schema_id) == CAR
        assert len(source._schemas) == 10
