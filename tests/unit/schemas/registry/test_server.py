"""The registry over HTTP: with Confluent's own client, with hostile requests, and as a process."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from confluent_kafka.schema_registry import ConfigCompatibilityLevel, Schema, SchemaRegistryClient, ServerConfig
from confluent_kafka.schema_registry.error import SchemaRegistryError

import schemas
from beam_jobs.errors import UserError
from schemas.registry.server import MAX_BODY, RegistryServer

ROOT = Path(schemas.__file__).parents[1]
NASTY = "../../etc/passwd %2F ü:#?&=\\ "


@pytest.fixture(scope="module")
def shared() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        yield server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path / "registry") as running:
        yield running


@pytest.fixture
def client(server: RegistryServer) -> Iterator[SchemaRegistryClient]:
    with SchemaRegistryClient({"url": server.url, "max.retries": 0}) as made:
        yield made


def avro(*fields: str, **more: Any) -> str:
    """A record of int fields; "name=1" gives one a default."""
    made = []
    for entry in fields:
        name, _, default = entry.partition("=")
        made.append({"name": name, "type": "int"} | ({"default": int(default)} if default else {}))
    return json.dumps({"type": "record", "name": "R", "fields": made, **more})


def call(server: RegistryServer, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.headers["Content-Type"] == "application/vnd.schemaregistry.v1+json"
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def raw(server: RegistryServer, data: bytes) -> bytes:
    """What the server says to bytes that are not quite HTTP."""
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def fails(status: int, code: int, function: Any, *args: Any, **more: Any) -> str:
    with pytest.raises(SchemaRegistryError) as caught:
        function(*args, **more)
    assert (caught.value.http_status_code, caught.value.error_code) == (status, code)
    return str(caught.value.error_message)


class TestConfluentClient:
    def test_register_and_read_back(self, client: SchemaRegistryClient) -> None:
        schema = Schema(json.dumps(schemas.load("car_sensor")), "AVRO")
        schema_id = client.register_schema("cars-value", schema)
        assert schema_id == 1
        client.clear_caches()
        assert client.register_schema("cars-value", schema) == 1  # again: the same
        assert client.register_schema("other-value", schema) == 1  # one id for one schema
        found = client.get_schema(1)
        assert found.schema_type == "AVRO"
        assert json.loads(found.schema_str) == schemas.load("car_sensor")
        latest = client.get_latest_version("cars-value")
        assert (latest.subject, latest.version, latest.schema_id) == ("cars-value", 1, 1)
        looked_up = client.lookup_schema("cars-value", schema)
        assert (looked_up.version, looked_up.schema_id) == (1, 1)
        assert client.get_subjects() == ["cars-value", "other-value"]
        assert client.get_subjects(subject_prefix="oth") == ["other-value"]
        assert client.get_versions("cars-value") == [1]
        assert client.get_version("cars-value", 1).schema_id == 1
        assert client.get_subjects_by_schema_id(1) == ["cars-value", "other-value"]
        assert [(v.subject, v.version) for v in client.get_schema_versions(1)] == [
            ("cars-value", 1),
            ("other-value", 1),
        ]
        assert client.get_schema_types() == ["AVRO"]
        assert client.get_referenced_by("cars-value", 1) == []
        assert client.get_contexts() == ["."]

    def test_a_schema_has_a_guid(self, client: SchemaRegistryClient, server: RegistryServer) -> None:
        client.register_schema("s", Schema(avro("a"), "AVRO"))
        client.register_schema(":.team:s", Schema(avro("a"), "AVRO"))
        guid = client.get_latest_version("s").guid
        assert client.register_schema_full_response("s2", Schema(avro("a"), "AVRO")).guid == guid  # producers ask so
        assert client.get_latest_version(":.team:s").guid == guid
        assert json.loads(client.get_schema_by_guid(guid).schema_str) == json.loads(avro("a"))
        assert call(server, "GET", f"/schemas/guids/{guid}/ids") == (
            200,
            [{"context": ".", "id": 1}, {"context": ".team", "id": 1}],
        )
        fails(404, 40403, client.get_schema_by_guid, guid.replace(guid[:4], "0000"))

    def test_each_context_counts_its_own_ids(self, client: SchemaRegistryClient, server: RegistryServer) -> None:
        client.register_schema("cars-value", Schema(avro("a"), "AVRO"))
        assert client.register_schema(":.team:bikes-value", Schema(avro("b"), "AVRO")) == 1
        assert client.get_contexts() == [".", ".team"]
        assert json.loads(client.get_schema(1).schema_str) == json.loads(avro("a"))
        for subject in (":.team:bikes-value", "bikes-value"):  # with its context, or with what is only there
            assert json.loads(client.get_schema(1, subject).schema_str) == json.loads(avro("b"))
        assert client.get_subjects() == ["cars-value"]
        assert client.get_subjects(subject_prefix=":*:") == [":.team:bikes-value", "cars-value"]
        with SchemaRegistryClient({"url": f"{server.url}/contexts/.team", "max.retries": 0}) as theirs:
            assert json.loads(theirs.get_schema(1).schema_str) == json.loads(avro("b"))
            assert theirs.get_subjects() == [":.team:bikes-value"]
            assert theirs.register_schema("bikes-value", Schema(avro("b", "c=1"), "AVRO")) == 2
        assert client.get_versions(":.team:bikes-value") == [1, 2]
        fails(404, 40403, client.get_schema, 2)
        assert call(server, "GET", "/contexts/team/subjects")[0] == 422

    def test_the_text_is_compared_by_meaning(self, client: SchemaRegistryClient) -> None:
        one = '{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}'
        same = '{ "name": "R", "fields": [{"type": {"type": "int"}, "name": "a"}], "type": "record" }'
        documented = one.replace('"name":"R"', '"name":"R","doc":"d"')
        assert client.register_schema("s", Schema(one, "AVRO")) == 1
        assert client.register_schema("s", Schema(same, "AVRO")) == 1
        assert client.register_schema("s", Schema(documented, "AVRO")) == 2

    def test_incompatible(self, client: SchemaRegistryClient) -> None:
        client.register_schema("s", Schema(avro("a"), "AVRO"))
        message = fails(409, 409, client.register_schema, "s", Schema(avro("a", "speed"), "AVRO"))
        assert "field 'speed' was added without a default: give it a default" in message
        assert not client.test_compatibility("s", Schema(avro("a", "speed"), "AVRO"))
        assert not client.test_compatibility_all_versions("s", Schema(avro("a", "speed"), "AVRO"))
        assert client.test_compatibility("s", Schema(avro("a", "speed=1"), "AVRO"))
        assert client.test_compatibility("new", Schema(avro("a"), "AVRO"))
        fails(404, 40402, client.test_compatibility, "s", Schema(avro("a"), "AVRO"), version=7)
        assert client.register_schema("s", Schema(avro("a", "speed=1"), "AVRO")) == 2
        assert client.get_versions("s") == [1, 2]

    def test_levels(self, client: SchemaRegistryClient) -> None:
        assert client.get_config().compatibility_level == "BACKWARD"
        fails(404, 40408, client.get_config, "s")
        client.set_config("s", ServerConfig(compatibility=ConfigCompatibilityLevel.NONE))
        assert client.get_config("s").compatibility_level == "NONE"
        client.register_schema("s", Schema(avro("a"), "AVRO"))
        client.register_schema("s", Schema('"string"', "AVRO"))
        client.set_config(config=ServerConfig(compatibility=ConfigCompatibilityLevel.FULL_TRANSITIVE))
        assert client.get_config().compatibility_level == "FULL_TRANSITIVE"
        client.delete_config("s")
        fails(404, 40408, client.get_config, "s")
        fails(409, 409, client.register_schema, "s", Schema(avro("b"), "AVRO"))
        client.delete_config()
        assert client.get_config().compatibility_level == "BACKWARD"
        fails(422, 42203, client.set_compatibility, "s", "BACKWRD")
        assert client.set_compatibility("s", "forward") == {"compatibility": "FORWARD"}
        assert client.get_compatibility("s") == "FORWARD"

    def test_transitive(self, client: SchemaRegistryClient) -> None:
        client.register_schema("s", Schema(avro("a"), "AVRO"))
        client.register_schema("s", Schema(avro("a", "b=0"), "AVRO"))
        client.set_compatibility("s", "BACKWARD_TRANSITIVE")
        assert "(version 1, " in fails(409, 409, client.register_schema, "s", Schema(avro("a", "b"), "AVRO"))
        client.set_compatibility("s", "BACKWARD")
        assert client.register_schema("s", Schema(avro("a", "b"), "AVRO")) == 3

    def test_deletes(self, client: SchemaRegistryClient) -> None:
        one, two = Schema(avro("a"), "AVRO"), Schema(avro("a", "b=0"), "AVRO")
        client.register_schema("s", one)
        client.register_schema("s", two)
        fails(404, 40407, client.delete_version, "s", 1, permanent=True)
        assert client.delete_version("s", 1) == 1
        fails(404, 40406, client.delete_version, "s", 1)
        assert client.get_versions("s") == [2]
        assert client.get_versions("s", deleted=True) == [1, 2]
        assert client.get_versions("s", deleted_only=True) == [1]
        fails(404, 40402, client.get_version, "s", 1)
        assert client.get_version("s", 1, deleted=True).schema_id == 1
        fails(404, 40405, client.delete_subject, "s", permanent=True)
        assert client.delete_subject("s") == [2]
        fails(404, 40404, client.delete_subject, "s")
        fails(404, 40401, client.get_versions, "s")
        assert client.get_subjects() == []
        assert client.get_subjects(deleted=True) == ["s"]
        client.clear_caches()
        assert client.get_schema(1).schema_str  # records written with it are still readable
        assert client.register_schema("s", one) == 1  # the same id comes back
        assert client.get_versions("s") == [3]
        client.delete_subject("s")
        assert client.delete_subject("s", permanent=True) == [1, 2, 3]
        client.clear_caches()
        fails(404, 40403, client.get_schema, 1)
        fails(404, 40401, client.delete_subject, "s")

    def test_not_found(self, client: SchemaRegistryClient) -> None:
        fails(404, 40401, client.get_latest_version, "nobody")
        fails(404, 40403, client.get_schema, 99)
        fails(404, 40403, client.get_schema_versions, 99)
        fails(404, 40401, client.lookup_schema, "nobody", Schema(avro("a"), "AVRO"))
        client.register_schema("s", Schema(avro("a"), "AVRO"))
        fails(404, 40403, client.lookup_schema, "s", Schema(avro("b"), "AVRO"))
        fails(404, 40402, client.get_version, "s", 2)
        fails(422, 42202, client.get_version, "s", "first")

    def test_modes_are_fixed(self, client: SchemaRegistryClient) -> None:
        assert client.get_global_mode() == "READWRITE"
        fails(404, 40409, client.get_mode, "s")
        fails(422, 42205, client.update_mode, "s", "READONLY")

    def test_nasty_subjects(self, client: SchemaRegistryClient, tmp_path: Path) -> None:
        assert client.register_schema(NASTY, Schema(avro("a"), "AVRO")) == 1
        assert client.get_subjects() == [NASTY]
        assert client.get_latest_version(NASTY).subject == NASTY
        assert client.delete_subject(NASTY) == [1]
        assert {path.name for path in tmp_path.rglob("*")} == {"registry", "registry.log"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Empty schema"),
        ("{", "not a valid Avro schema"),
        ('{"type": "record"}', "without a name"),
        ('"integer"', "'integer'"),
        ("5", "expected a type name"),
        ("null", "expected a type name"),
        (avro("a", "a"), "a field twice"),
        (avro("a-b"), "field 'a-b'"),
        (avro("a", name="1R"), "1R"),
        (avro("a").replace('"int"', '"int", "default": "x"'), 'default "x"'),
        (avro("a").replace('"int"', '"int", "default": 2147483648'), "2147483648"),
        (avro("a").replace('"int"', '["null", "int"], "default": "x"'), 'default "x"'),
        (avro("a").replace('"int"', '"double", "default": NaN'), "NaN"),
        ('{"type": "enum", "name": "E", "symbols": ["A", "A"]}', "twice"),
        ('{"type": "enum", "name": "E", "symbols": [1]}', "symbol 1"),
        ('{"type": "enum", "name": "E", "symbols": 5}', "malformed"),
        ('{"type": "fixed", "name": "F", "size": -1}', "size"),
        ('["int", "int"]', "int"),
        ('{"name": "v", "type": ["null", "string"]}', "'v' is a type around another one"),
        ('{"type": "record", "name": "string", "fields": []}', "a primitive type"),
        ('{"type": "enum", "name": "A"}', "symbols"),
        ('{"type": "record", "name": "", "fields": []}', "without a name"),
        ('{"type": "fixed", "name": "F", "aliases": "G", "size": 4}', "aliases"),
        ("[" * 50_000, "deep"),
        ('{"type": "array", "items": ' * 80 + '"int"' + "}" * 80, "deep"),
        (avro("a", doc="\ud800"), "surrogates"),
        (avro("a").replace('"int"', '"double", "max": 1e999'), "Out of range"),
    ],
)
def test_invalid_schemas(shared: RegistryServer, text: str, message: str) -> None:
    status, answer = call(shared, "POST", "/subjects/invalid/versions", {"schema": text})
    assert (status, answer["error_code"]) == (422, 42201)
    assert message in answer["message"]


@pytest.mark.parametrize(
    "text",
    [
        '"string"',
        '["null", "string"]',
        '{"type": "array", "items": "int"}',
        avro("a").replace('"int"', '["int", "null"], "default": null'),
        avro("a").replace('"int"', '"bytes", "default": "\\u00ff"'),
        avro("a").replace('"int"', '{"type": "map", "values": "long"}, "default": {"x": 1}'),
        avro("a").replace('"int"', '{"type": "record", "name": "S", "fields": []}, "default": {}'),
        avro("a", doc="größer"),
    ],
)
def test_valid_schemas(shared: RegistryServer, text: str) -> None:
    subject = quote(text, safe="")
    status, answer = call(shared, "POST", f"/subjects/{subject}/versions", {"schema": text})
    assert status == 200
    assert json.loads(call(shared, "GET", f"/schemas/ids/{answer['id']}")[1]["schema"]) == json.loads(text)
    assert call(shared, "GET", f"/schemas/ids/{answer['id']}/schema") == (200, json.loads(text))
    assert call(shared, "GET", f"/subjects/{subject}/versions/latest/schema") == (200, json.loads(text))


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/nothing", None, 404, 404),
        ("DELETE", "/subjects", None, 405, 405),
        ("POST", "/subjects/s/versions", b"{", 400, 400),
        ("POST", "/subjects/s/versions", b"[" * 100_000, 400, 400),
        ("POST", "/subjects/s/versions", b"[]", 400, 400),
        ("POST", "/subjects/s/versions", b"\xff\xfe", 400, 400),
        ("POST", "/subjects/s/versions", {}, 422, 42201),
        ("POST", "/subjects/s/versions", {"schema": {"type": "int"}}, 422, 42201),
        ("POST", "/subjects/s/versions", {"schema": "x", "schemaType": "PROTOBUF"}, 422, 42201),
        ("POST", "/subjects/s/versions", {"schema": '"int"', "references": [{"name": "n"}]}, 422, 42201),
        ("POST", "/subjects/s/versions", {"schema": '"int"', "ruleSet": {"x": 1}}, 422, 42201),
        ("POST", "/subjects/s/versions", {"schema": '"int"', "id": 5}, 422, 42205),
        ("POST", "/subjects//versions", {"schema": '"int"'}, 422, 42208),
        ("POST", "/subjects/%00/versions", {"schema": '"int"'}, 422, 42208),
        ("GET", "/subjects/%ff/versions", None, 400, 400),
        ("GET", "/subjects?limit=x", None, 400, 400),
        ("GET", "/subjects/s/versions/0", None, 422, 42202),
        ("GET", "/subjects/s/versions/99999999999999999999", None, 422, 42202),
        ("GET", "/schemas/ids/x", None, 404, 404),
        ("GET", "/schemas/ids/0", None, 404, 40403),
        ("PUT", "/config", {"compatibility": 5}, 422, 42203),
        ("PUT", "/config", {}, 422, 42203),
    ],
)
def test_bad_requests(shared: RegistryServer, method: str, path: str, body: Any, status: int, code: int) -> None:
    found, answer = call(shared, method, path, body)
    assert (found, answer["error_code"]) == (status, code)
    assert answer["message"]


def test_a_body_too_large_is_refused_and_the_server_lives(shared: RegistryServer) -> None:
    status, answer = call(shared, "POST", "/subjects/s/versions", b"x" * (MAX_BODY * 5))
    assert (status, answer["error_code"]) == (413, 413)
    assert call(shared, "GET", "/") == (200, {})


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"POST /subjects/s/versions HTTP/1.1\r\nContent-Length: -5\r\n\r\n", b"400"),
        (b"POST /subjects/s/versions HTTP/1.1\r\nContent-Length: 999999999999999999999999\r\n\r\n", b"413"),
        (b"POST /subjects/s/versions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"411"),
        (b"POST /subjects/s/versions HTTP/1.1\r\nContent-Length: 10\r\n\r\n{", b""),  # it goes away in the middle
        (b"PATCH / HTTP/1.1\r\n\r\n", b"501"),
        (b"GET //[ HTTP/1.1\r\n\r\n", b"404"),
        (b"GET http://[ HTTP/1.1\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),  # TLS to a plain port
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", b"431"),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b"414"),
    ],
)
def test_not_quite_http(shared: RegistryServer, data: bytes, status: bytes) -> None:
    answer = raw(shared, data)
    assert answer.partition(b" ")[2][:3] == status
    assert call(shared, "GET", "/") == (200, {})


def test_a_body_sent_with_get_is_not_the_next_request(shared: RegistryServer) -> None:
    data = (
        b"GET / HTTP/1.1\r\nContent-Length: 14\r\n\r\nGET /x HTTP/1." + b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"
    )
    assert raw(shared, data).count(b" 200 OK") == 2


def test_threads_register_the_same_and_different_schemas(server: RegistryServer) -> None:
    def work(number: int) -> list[int]:
        ids = []
        for i in range(10):
            _, answer = call(server, "POST", f"/subjects/s{number}/versions", {"schema": avro("a", f"b{i}=0")})
            ids.append(answer["id"])
        return ids

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    assert all(result == results[0] for result in results)
    assert sorted(results[0]) == list(range(1, 11))


def test_a_stopped_server_is_gone_even_for_open_connections(tmp_path: Path) -> None:
    with RegistryServer(tmp_path) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("GET", "/")
        connection.getresponse().read()
    assert connection.sock.recv(1) == b""
    connection.close()


def test_port_in_use(server: RegistryServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"127.0.0.1:{server.port} .*--port"):
        RegistryServer(tmp_path / "other", port=server.port)
    with RegistryServer(tmp_path / "other"):  # the folder was let go
        pass


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "schemas.registry", "--port", "0", "--dir", str(folder), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def test_killed_while_registering_nothing_answered_is_lost(tmp_path: Path) -> None:
    answered: dict[int, str] = {}
    for round_ in range(3):
        process = start(tmp_path)
        assert process.stdout is not None
        url = process.stdout.readline().split()[3].rstrip(",")
        with SchemaRegistryClient({"url": url, "max.retries": 0, "timeout": 10}) as client:
            stop_after = random.Random(round_).randrange(5, 15)
            for i in range(100):
                if i == stop_after:
                    process.send_signal(signal.SIGKILL)
                try:
                    text = avro(f"r{round_}_{i}")
                    answered[client.register_schema(f"s{round_}_{i}", Schema(text, "AVRO"))] = text
                except Exception:
                    break
        process.communicate(timeout=30)
    with open(tmp_path / "registry.log", "ab") as log:
        log.write(b'{"event":"regis')  # a line cut short
    with RegistryServer(tmp_path) as server:
        assert len(answered) >= 15
        for schema_id, text in answered.items():
            assert json.loads(call(server, "GET", f"/schemas/ids/{schema_id}")[1]["schema"]) == json.loads(text)
        status, answer = call(server, "POST", "/subjects/more/versions", {"schema": avro("more")})
        assert (status, answer["id"]) == (
            200,
            max(call(server, "GET", "/schemas/ids/1?fetchMaxId=true")[1]["maxId"], 0),
        )


def test_command_stops_cleanly(tmp_path: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        process = start(tmp_path)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Schema Registry on http://127.0.0.1:")
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out.strip(), err) == (0, "", "")


def test_command_errors_are_one_line(tmp_path: Path, server: RegistryServer) -> None:
    (tmp_path / "file").write_text("")
    cases: list[tuple[str, list[str], str]] = [
        ("registry", [], "in use by another registry"),
        ("new", ["--port", str(server.port)], "choose another --port"),
        ("file", [], "cannot be written"),
    ]
    for folder, more, message in cases:
        process = start(tmp_path / folder, *more)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (2, "")
        assert message in err
        assert len(err.splitlines()) == 1


def test_a_damaged_log_is_named(tmp_path: Path) -> None:
    (tmp_path / "registry.log").write_bytes(b'{"event":"level","subject":null,"level":"FULL"}\nnonsense\n')
    with pytest.raises(UserError, match=r"registry\.log is damaged in line 2"):
        RegistryServer(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written"):
        RegistryServer(tmp_path / "registry")
