"""A Schema Registry for laptops and tests: Confluent's REST API over one folder. ``python -m schemas.registry --help``.

No authentication and no TLS: it is not for production, where ``--schema_registry`` takes the URL of a real one. Pages
in a browser of this machine can't use it (``browsers.py``).
Not there: schema references, metadata and rules (refused, 422), changing modes, JSON Schema, Protobuf.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import socket
import tempfile
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from types import TracebackType
from typing import Any

from beam_jobs.errors import UserError
from beam_jobs.terminal.commands import SCHEMAS
from schemas.registry.browsers import check_headers
from schemas.registry.routes import respond
from schemas.registry.store import RegistryError, SchemaStore

CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"
MAX_BODY = 1 << 20  # bytes; the size of a Kafka message, where other registries keep a schema
MAX_DRAIN = 16 << 20  # bytes of a refused body read on, so that the client gets to see the answer
IDLE_SECONDS = 120  # a connection without a request for so long is closed

logger = logging.getLogger(__name__)


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
            check_headers(self.headers, self.server.host, bool(body) and self.command in ("POST", "PUT"))
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
        self.host = address[0]
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
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address or name to listen on, default 127.0.0.1; requests have to name it, this machine or an address",
    )
    parser.add_argument("--verbose", action="store_true", help="log each request; show stack traces")


def main(argv: Sequence[str]) -> int:
    args = SCHEMAS["schemas registry"].parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO if args.verbose else logging.WARNING, format="%(asctime)s %(message)s")
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT is ignored in what a script starts in the background
        signal.signal(number, signal.default_int_handler)
    try:
        with RegistryServer(args.dir, args.host, args.port) as server:
            print(f"Schema Registry on {server.url}, schemas in {args.dir} (Ctrl-C stops it)", flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        print(flush=True)  # after the terminal's ^C
    return 0
