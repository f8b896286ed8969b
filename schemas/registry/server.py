"""A Schema Registry for laptops and tests: Confluent's REST API over one folder. ``python -m schemas.registry --help``.

No authentication and no TLS: it is not for production, where ``--schema_registry`` takes the URL of a real one.
Not there: schema references, metadata and rules (refused, 422), changing modes, contexts, JSON Schema, Protobuf.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from beam_jobs.errors import UserError
from beam_jobs.terminal.commands import SCHEMAS
from schemas.registry.store import RegistryError, SchemaStore, Version

CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"
MAX_BODY = 1 << 20  # bytes; the size of a Kafka message, where other registries keep a schema
MAX_DRAIN = 16 << 20  # bytes of a refused body read on, so that the client gets to see the answer
IDLE_SECONDS = 120  # a connection without a request for so long is closed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """One request, as the functions below see it."""

    path: tuple[str, ...]  # what the stars of the route stand for
    query: dict[str, str]
    body: dict[str, Any]

    def flag(self, *names: str) -> bool:
        return any(self.query.get(name, "").lower() == "true" for name in names)

    @property
    def subject(self) -> str:
        subject = self.path[0]
        if not subject or not subject.isprintable() or subject in ("__GLOBAL", "__EMPTY"):
            raise RegistryError(422, 42208, f"The specified subject {subject!r} is not a valid subject.")
        return subject

    @property
    def number(self) -> int | None:
        """The version of the path; None is the latest."""
        text = self.path[1]
        if text in ("latest", "-1"):
            return None
        if text.isascii() and text.isdigit() and 1 <= int(text[:12]) < 1 << 31:
            return int(text)
        raise RegistryError(
            422,
            42202,
            f"The specified version {text!r} is not a valid version id. "
            'Allowed values are between [1, 2^31-1] and the string "latest"',
        )

    @property
    def schema_id(self) -> int:
        text = self.path[0]
        if text.isascii() and text.isdigit() and len(text) < 12:
            return int(text)
        raise RegistryError(404, 404, f"Schema id {text!r} is not a number")

    @property
    def schema(self) -> str:
        """The text of the schema in the body."""
        kind = self.body.get("schemaType") or "AVRO"
        if kind != "AVRO":
            raise RegistryError(422, 42201, f"Schema type {kind!r} is not supported by this registry: use AVRO")
        for name in ("references", "metadata", "ruleSet"):
            if self.body.get(name):
                raise RegistryError(422, 42201, f"{name!r} are not supported by this registry: send a schema without")
        for name in ("id", "version"):
            if self.body.get(name, -1) not in (-1, 0, None):
                raise RegistryError(422, 42205, f"{name!r} can be given in IMPORT mode only: leave it out")
        text = self.body.get("schema")
        if not isinstance(text, str) or not text:
            raise RegistryError(422, 42201, 'Empty schema: the body is {"schema": "..."} with the schema as a string')
        return text

    def page(self, items: list[Any]) -> list[Any]:
        """The slice that ``offset`` and ``limit`` ask for."""
        try:
            offset, limit = max(0, int(self.query.get("offset", 0))), int(self.query.get("limit", -1))
        except ValueError:
            raise RegistryError(400, 400, "'offset' and 'limit' are numbers") from None
        return items[offset : offset + limit if limit > 0 else None]


def _described(store: SchemaStore, version: Version) -> dict[str, Any]:
    return {
        "subject": version.subject,
        "version": version.version,
        "id": version.id,
        "schema": store.schema_text(version.id),
    }


def _subjects(store: SchemaStore, r: Request) -> Any:
    deleted_only = r.flag("deletedOnly", "deleted_only")
    return r.page(store.subjects(r.query.get("subjectPrefix", ""), r.flag("deleted"), deleted_only))


def _versions(store: SchemaStore, r: Request) -> Any:
    found = store.versions(r.subject, r.flag("deleted"), r.flag("deletedOnly", "deleted_only"))
    return r.page([version.version for version in found])


def _version(store: SchemaStore, r: Request) -> Any:
    return _described(store, store.version(r.subject, r.number, r.flag("deleted")))


def _version_schema(store: SchemaStore, r: Request) -> Any:
    return json.loads(_version(store, r)["schema"])


def _referenced_by(store: SchemaStore, r: Request) -> Any:
    store.version(r.subject, r.number)
    return []


def _schemas(store: SchemaStore, r: Request) -> Any:
    prefix = r.query.get("subjectPrefix", "")
    found = [version for version in store.all_versions(r.flag("deleted")) if version.subject.startswith(prefix)]
    if r.flag("latestOnly"):
        found = list({version.subject: version for version in found}.values())
    return r.page([_described(store, version) for version in found])


def _schema(store: SchemaStore, r: Request) -> Any:
    answer: dict[str, Any] = {"schema": store.schema_text(r.schema_id)}
    if r.flag("fetchMaxId"):
        answer["maxId"] = store.max_id()
    return answer


def _schema_text(store: SchemaStore, r: Request) -> Any:
    return json.loads(store.schema_text(r.schema_id))


def _uses(store: SchemaStore, r: Request) -> list[Version]:
    store.schema_text(r.schema_id)
    wanted = r.query.get("subject")
    return [
        version
        for version in store.all_versions(r.flag("deleted"))
        if version.id == r.schema_id and wanted in (None, version.subject)
    ]


def _schema_subjects(store: SchemaStore, r: Request) -> Any:
    return r.page(list(dict.fromkeys(version.subject for version in _uses(store, r))))


def _schema_versions(store: SchemaStore, r: Request) -> Any:
    return r.page([{"subject": version.subject, "version": version.version} for version in _uses(store, r)])


def _test(store: SchemaStore, r: Request) -> Any:
    if len(r.path) > 1:
        problems = store.test_version(r.subject, r.schema, r.number)
    else:
        problems = store.test_versions(r.subject, r.schema)
    answer: dict[str, Any] = {"is_compatible": not problems}
    if r.flag("verbose"):
        answer["messages"] = problems
    return answer


def _get_level(store: SchemaStore, r: Request) -> Any:
    level = store.level(r.subject if r.path else None)
    if level is None and r.flag("defaultToGlobal"):
        level = store.level(None)
    if level is None:
        raise RegistryError(404, 40408, f"Subject {r.subject!r} does not have subject-level compatibility configured")
    return {"compatibilityLevel": level}


def _put_level(store: SchemaStore, r: Request) -> Any:
    level = r.body.get("compatibility")
    if not isinstance(level, str):
        raise RegistryError(422, 42203, 'Invalid compatibility level: the body is {"compatibility": "BACKWARD"}')
    store.set_level(r.subject if r.path else None, level.upper())
    return {"compatibility": level.upper()}


def _delete_level(store: SchemaStore, r: Request) -> Any:
    before = _get_level(store, r)
    store.set_level(r.subject if r.path else None, None)
    return before


def _subject_mode(store: SchemaStore, r: Request) -> Any:
    if r.flag("defaultToGlobal"):
        return {"mode": "READWRITE"}
    raise RegistryError(404, 40409, f"Subject {r.subject!r} does not have subject-level mode configured")


def _refuse_mode(store: SchemaStore, r: Request) -> Any:
    raise RegistryError(422, 42205, "This registry has one mode, READWRITE: it cannot be changed")


Answer = Callable[[SchemaStore, Request], Any]

ROUTES: dict[tuple[str, str], Answer] = {
    ("GET", ""): lambda store, r: {},
    ("GET", "subjects"): _subjects,
    ("POST", "subjects/*"): lambda store, r: _described(store, store.lookup(r.subject, r.schema, r.flag("deleted"))),
    ("DELETE", "subjects/*"): lambda store, r: store.delete_subject(r.subject, r.flag("permanent")),
    ("GET", "subjects/*/versions"): _versions,
    ("POST", "subjects/*/versions"): lambda store, r: {"id": store.register(r.subject, r.schema)},
    ("GET", "subjects/*/versions/*"): _version,
    ("DELETE", "subjects/*/versions/*"): lambda store, r: store.delete_version(
        r.subject, r.number, r.flag("permanent")
    ),
    ("GET", "subjects/*/versions/*/schema"): _version_schema,
    ("GET", "subjects/*/versions/*/referencedby"): _referenced_by,
    ("GET", "schemas"): _schemas,
    ("GET", "schemas/types"): lambda store, r: ["AVRO"],
    ("GET", "schemas/ids/*"): _schema,
    ("GET", "schemas/ids/*/schema"): _schema_text,
    ("GET", "schemas/ids/*/subjects"): _schema_subjects,
    ("GET", "schemas/ids/*/versions"): _schema_versions,
    ("POST", "compatibility/subjects/*/versions"): _test,
    ("POST", "compatibility/subjects/*/versions/*"): _test,
    ("GET", "config"): _get_level,
    ("PUT", "config"): _put_level,
    ("DELETE", "config"): _delete_level,
    ("GET", "config/*"): _get_level,
    ("PUT", "config/*"): _put_level,
    ("DELETE", "config/*"): _delete_level,
    ("GET", "mode"): lambda store, r: {"mode": "READWRITE"},
    ("GET", "mode/*"): _subject_mode,
    ("PUT", "mode"): _refuse_mode,
    ("PUT", "mode/*"): _refuse_mode,
    ("DELETE", "mode/*"): _refuse_mode,
    ("GET", "contexts"): lambda store, r: ["."],
}


def respond(store: SchemaStore, method: str, target: str, body: bytes) -> Any:
    """The answer to a request, JSON.

    Raises:
      RegistryError: the request is refused.
    """
    try:
        url = urlsplit(target)
        parts = [unquote(part, errors="strict") for part in url.path.strip("/").split("/")]
        query = dict(parse_qsl(url.query, errors="strict"))
    except ValueError:
        raise RegistryError(400, 400, "The URL is not valid: names in it are percent-encoded UTF-8") from None
    found = False
    for (allowed, route), answer in ROUTES.items():
        names = route.split("/")
        if len(names) == len(parts) and all(name in ("*", part) for name, part in zip(names, parts, strict=True)):
            found = True
            if allowed == method:
                path = tuple(part for name, part in zip(names, parts, strict=True) if name == "*")
                return answer(store, Request(path, query, _json_object(body) if method in ("POST", "PUT") else {}))
    if found:
        raise RegistryError(405, 405, "HTTP 405 Method Not Allowed")
    raise RegistryError(404, 404, "HTTP 404 Not Found")


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as e:
        raise RegistryError(400, 400, f"The body is not JSON: {e}") from None
    if not isinstance(value, dict):
        raise RegistryError(400, 400, "The body is not a JSON object")
    return value


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "highbeam-registry"
    sys_version = ""
    timeout = IDLE_SECONDS
    wbufsize = -1  # headers and body leave in one packet
    disable_nagle_algorithm = True
    server: _HttpServer

    def do_GET(self) -> None:
        try:
            body = self.read_body()
            if body is None:
                return
            self.answer(200, respond(self.server.store, self.command, self.path, body))
        except RegistryError as e:
            self.answer(e.status, {"error_code": e.code, "message": str(e)})
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception:
            logger.exception("%s %s failed", self.command, self.path)
            self.answer(500, {"error_code": 50001, "message": "Error in the registry: its log says more"})

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - likewise

    def read_body(self) -> bytes | None:
        """The body; None if the client went away. Read whatever the method, or the next request would start in it."""
        if "Transfer-Encoding" in self.headers:
            self.close_connection = True
            raise RegistryError(411, 411, "Chunked bodies are not supported: send Content-Length")
        text = self.headers.get("Content-Length", "0").strip()
        if not (text.isascii() and text.isdigit()):
            self.close_connection = True
            raise RegistryError(400, 400, f"Content-Length {text[:20]!r} is not a number")
        length = int(text[:20])
        if length > MAX_BODY:
            self.close_connection = True
            left = min(length, MAX_DRAIN)
            while left > 0 and (chunk := self.rfile.read(min(left, 1 << 16))):
                left -= len(chunk)
            raise RegistryError(413, 413, f"The body has {length} bytes: at most {MAX_BODY} are accepted")
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True
            return None
        return body

    def answer(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        self.close_connection = True
        self.answer(int(code), {"error_code": int(code), "message": message or f"HTTP {int(code)}"})

    def log_message(self, format: str, *args: Any) -> None:
        logger.info("%s %s", self.client_address[0], format % args)


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = False  # joined by server_close, once their connections are shut
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], store: SchemaStore) -> None:
        self.store = store
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's would ask the name server for our own name

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        with self._open_lock:
            self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("connection of %s ended in an error", client_address, exc_info=True)

    def server_close(self) -> None:
        with self._open_lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for the next request
                except OSError:
                    logger.debug("connection was closed by the client", exc_info=True)
        super().server_close()


class RegistryServer:
    """A running registry: ``with RegistryServer() as registry: ... registry.url``.

    Args:
      folder: where it keeps its schemas; None: a temporary folder, removed at the end.
      port: 0 takes a free one.

    Raises:
      UserError: the port is taken, or the folder cannot be used.
    """

    def __init__(self, folder: Path | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="highbeam-registry-") if folder is None else None
        self._host = host
        try:
            self.store = SchemaStore(folder or Path(self._temporary.name if self._temporary else ""))
            try:
                self._server = _HttpServer((host, port), self.store)
            except OSError as e:
                self.store.close()
                raise UserError(
                    f"registry cannot listen on {host}:{port} ({e.strerror or e}); "
                    "stop what uses it or choose another --port"
                ) from e
        except UserError:
            self._clean_up()
            raise
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="schema-registry")

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Address for clients on this machine, such as http://127.0.0.1:8081."""
        return f"http://{'127.0.0.1' if self._host in ('', '0.0.0.0') else self._host}:{self.port}"  # noqa: S104

    def __enter__(self) -> RegistryServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.store.close()
        self._clean_up()

    def _clean_up(self) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()


def _port(text: str) -> int:
    if text.isdecimal() and int(text) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r}: expected 0 to 65535")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command line's to a parser."""
    parser.description = (
        "A Schema Registry for laptops and tests (Confluent's REST API, Avro). No authentication: keep it on this "
        "machine. Ctrl-C stops it."
    )
    parser.add_argument("--port", type=_port, default=8081, help="default 8081; 0 takes a free one")
    parser.add_argument("--dir", type=Path, required=True, help="folder that keeps the schemas; made if missing")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on, default 127.0.0.1")
    parser.add_argument("--verbose", action="store_true", help="log each request; show stack traces")


def main(argv: Sequence[str]) -> int:
    args = SCHEMAS["schemas registry"].parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO if args.verbose else logging.WARNING, format="%(asctime)s %(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with RegistryServer(args.dir, args.host, args.port) as server:
            print(f"Schema Registry on {server.url}, schemas in {args.dir} (Ctrl-C stops it)", flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        print(flush=True)  # after the terminal's ^C
    return 0
