"""A registry that answers garbage, drips, or sends megabytes."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

import schemas
from beam_jobs import stop
from beam_jobs.codec.schema import SchemaTooLargeError
from schemas import client as client_module
from schemas.client import RegistrySchemas
from schemas.source import (
    InterruptedWaitError,
)
from tests.unit.schemas.fake_registry import Fake

CAR = schemas.load("car_sensor")
OTHER = {"type": "record", "name": "Other", "fields": []}
CLOSED = "http://127.0.0.1:9"  # nothing listens on the discard port


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
