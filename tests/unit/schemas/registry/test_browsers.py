"""The registry of this machine is not for pages in its browsers; clients of all kinds go on as they did."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator

import pytest

from schemas.registry.server import RegistryServer

JSON = {"Content-Type": "application/vnd.schemaregistry.v1+json"}


@pytest.fixture(scope="module")
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as running:
        yield running


def ask(server: RegistryServer, method: str, body: bytes | None, headers: dict[str, str]) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.putrequest(method, "/config", skip_host="Host" in headers)
        for name, value in (headers | ({} if body is None else {"Content-Length": str(len(body))})).items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        told = json.loads(answer.read())
        assert answer.status == told.get("error_code", answer.status)
        return answer.status
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("localhost:{port}", 200),
        ("LOCALHOST:{port}", 200),
        ("[::1]:{port}", 200),
        ("192.168.1.7:8081", 200),
        (socket.gethostname(), 200),
        ("evil.example:{port}", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:{port}", 421),
        ("localhost@evil.example", 421),
        ("", 421),
        ("[", 421),
    ],
)
@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
def test_a_name_that_was_made_to_point_here(server: RegistryServer, method: str, host: str, status: int) -> None:
    body = b'{"compatibility": "BACKWARD"}' if method == "PUT" else None
    assert ask(server, method, body, {"Host": host.format(port=server.port), **(JSON if body else {})}) == status


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost", ""])
def test_a_page_of_another_origin(server: RegistryServer, origin: str) -> None:
    assert ask(server, "PUT", b'{"compatibility": "NONE"}', {"Origin": origin, **JSON}) == 403
    assert ask(server, "GET", None, {"Origin": origin}) == 403
    assert ask(server, "GET", None, {"Origin": f"http://127.0.0.1:{server.port}"}) == 200


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/vnd.schemaregistry.v1+json", 200),
        ("application/vnd.schemaregistry+json; q=0.9", 200),
        ("application/json; charset=utf-8", 200),
        ("APPLICATION/JSON", 200),
        ("application/octet-stream", 200),
        ("text/plain", 415),
        ("text/plain; application/json", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("\x7f", 415),
        ("", 415),
        (None, 415),
    ],
)
def test_a_body_has_to_be_called_json(server: RegistryServer, kind: str | None, status: int) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    assert ask(server, "PUT", b'{"compatibility": "BACKWARD"}', headers) == status


def test_a_server_has_the_name_it_listens_on() -> None:
    with RegistryServer(host="localhost") as named:
        assert ask(named, "GET", None, {"Host": "localhost"}) == 200
