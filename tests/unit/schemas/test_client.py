"""Schemas by id, from a registry that comes, goes, refuses and forgets."""

from __future__ import annotations

import json
import logging
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import schemas
from beam_jobs import stop
from beam_jobs.codec.schema import SchemaTooLargeError
from beam_jobs.errors import UnreachableError, UserError
from beam_jobs.sandbox.process import free_port
from schemas import client as client_module
from schemas import http
from schemas.client import RegistrySchemas
from schemas.registry.server import RegistryServer
from schemas.source import InterruptedWaitError, Registration, SchemaSource, id_of
from schemas.writers import for_registry
from tests.unit.schemas.fake_registry import Fake

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


def test_schemas_by_id(source: SchemaSource, requests: list[str]) -> None:
    source.check()
    first, second = source.register("cars-value", CAR), source.register("other-value", OTHER)
    requests.clear()
    assert source.writer_schema(first) == CAR
    assert source.writer_schema(second) == OTHER
    assert source.writer_schema(first) is source.writer_schema(first)
    assert len(requests) == 2
    assert source.register("cars-value", CAR) == first


def test_schemas_by_guid(registry: RegistryServer, source: SchemaSource, requests: list[str]) -> None:
    source.register("cars-value", CAR)
    guid = registry.store.schema(1).guid
    requests.clear()
    assert source.guid_schema(guid) is source.guid_schema(guid)
    assert source.guid_schema(guid) == CAR
    for _ in range(3):
        with pytest.raises(LookupError, match="no schema with GUID 00000000-0000-0000-0000-000000000001: register it"):
            source.guid_schema("00000000-0000-0000-0000-000000000001")
    assert [path.split("?")[0] for path in requests] == [
        f"GET /schemas/guids/{guid}",
        "GET /schemas/guids/00000000-0000-0000-0000-000000000001",
    ]


def test_ids_are_those_of_the_subjects_context(registry: RegistryServer, requests: list[str]) -> None:
    for_registry(registry.url, CAR).register("cars-value", CAR)
    for_registry(registry.url, CAR).register(":.team:bikes-value", OTHER)
    of = {name: for_registry(registry.url, CAR, subject=name) for name in ("cars-value", "bikes-value", "others-value")}
    requests.clear()
    assert {name: found.writer_schema(1)["name"] for name, found in of.items()} == {
        "cars-value": "CarSensor",
        "bikes-value": "Other",
        "others-value": "CarSensor",
    }
    assert "GET /schemas/ids/1?subject=bikes-value" in requests
    assert pickle.loads(pickle.dumps(of["bikes-value"])).writer_schema(1) == OTHER
    assert for_registry(f"{registry.url}/contexts/.team", CAR).writer_schema(1) == OTHER


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


def test_a_union_of_records_is_a_schema_of_events() -> None:
    union = ["null", CAR, OTHER]
    answer = json.dumps({"schema": json.dumps(union)}).encode()
    with Fake(lambda _: (200, answer)) as url:
        assert for_registry(url, CAR).writer_schema(5) == union


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
