"""A webhook on this machine: takes posts over HTTP or HTTPS, and answers as it is told."""

from __future__ import annotations

import contextlib
import itertools
import socketserver
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

from tests.certificates import certificate

Answer = Callable[[int], tuple[int, Mapping[str, str]]]  # to the n-th post, from 0 on: status and headers


@dataclass(frozen=True)
class Post:
    """What came."""

    path: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    answer: int


class Hook:
    """A server that is there as long as the context is.

    Args:
      answer: 204 to each post, where nothing else is said.
      certificates: a folder to put a certificate into; None: HTTP.
    """

    def __init__(self, answer: Answer = lambda _: (204, {}), certificates: Path | None = None) -> None:
        self.posts: list[Post] = []
        self.connections = 0
        self.changed = threading.Condition()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                hook.connections += 1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                with hook.changed:
                    status, headers = answer(len(hook.posts))
                    names = {name.lower(): value for name, value in self.headers.items()}
                    hook.posts.append(Post(self.path, names, body, status))
                    hook.changed.notify_all()
                self.send_response(status)
                for name, value in {"content-length": "0", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        scheme, self.certificate = "http", None
        if certificates is not None:
            chain, self.certificate = certificate(certificates)
            scheme, context = "https", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(chain)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}/alerts"

    def __enter__(self) -> Hook:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait_for(self, posts: int) -> None:
        """Until so many have come."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.posts) >= posts, 60)


class Raw:
    """A server that sends the same bytes to whoever comes, one after the other, and reads nothing but their post.

    Args:
      drips: seconds between two bytes, without end once the answer is out; None: all at once, and then it closes.
    """

    def __init__(self, answer: bytes, drips: float | None = None) -> None:
        self.came, self.left, self._over = 0, threading.Semaphore(0), threading.Event()
        raw = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                raw.came += 1
                with contextlib.suppress(OSError):
                    self.request.recv(65536)
                    if drips is None:
                        self.request.sendall(answer)
                    for byte in itertools.chain(answer, itertools.repeat(ord("x"))) if drips else ():
                        self.request.sendall(bytes([byte]))
                        if raw._over.wait(drips):
                            break
                raw.left.release()

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/alerts"

    def __enter__(self) -> Raw:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
