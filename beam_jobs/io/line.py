"""Posts to one URL over a connection that stays open, each within a time in all, however slowly an answer drips."""

from __future__ import annotations

import os
import queue
import socket
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from beam_jobs.errors import one_line


@dataclass(frozen=True)
class Answer:
    """What came back; the rest of an answer nobody reads."""

    code: int
    retry_after: str  # the header, or ""


class NoAnswerError(Exception):
    """None came; says why, without the URL."""


class Line:
    """The connection.

    The timeouts of requests are those of a single read. So each post runs in a thread of its own, and once its time is
    over the socket is shut down, whatever the thread waits for: a handshake, a proxy, a header.

    Args:
      direct: never through a proxy.
    """

    def __init__(self, url: str, timeout_s: float, direct: bool) -> None:
        self._url, self._timeout_s, self._direct = url, timeout_s, direct
        self._adapter, self._session = self._open()

    def post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """The answer of the server.

        Raises:
          NoAnswerError: there is none, or none in time.
        """
        found: queue.SimpleQueue[Answer | str] = queue.SimpleQueue()
        work = (self._session, body, headers, found)
        threading.Thread(target=self._post, args=work, name="webhook-post", daemon=True).start()
        try:
            answer = found.get(timeout=self._timeout_s)
        except queue.Empty:
            self._adapter.cut()
            self._adapter, self._session = self._open()
            raise NoAnswerError(f"no answer in {self._timeout_s:g} s") from None
        if isinstance(answer, str):
            raise NoAnswerError(answer)
        return answer

    def close(self) -> None:
        """Ends the connection."""
        self._session.close()

    def _open(self) -> tuple[_Adapter, requests.Session]:
        session, adapter = requests.Session(), _Adapter()
        session.headers.update({"content-type": "application/json", "user-agent": "highbeam"})
        session.trust_env = False  # ~/.netrc would add a password, and a proxy may stand before this very machine
        session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
        if not self._direct:
            session.proxies = requests.utils.get_environ_proxies(self._url)
        session.mount(f"{urlsplit(self._url).scheme}://", adapter)
        return adapter, session

    def _post(
        self,
        session: requests.Session,
        body: bytes,
        headers: Mapping[str, str],
        found: queue.SimpleQueue[Answer | str],
    ) -> None:
        answer: Answer | str = ""
        try:
            longer = 2 * self._timeout_s
            with session.post(
                self._url, body, headers=headers, timeout=longer, allow_redirects=False, stream=True
            ) as got:
                answer = Answer(got.status_code, got.headers.get("retry-after", ""))
                if got.headers.get("content-length") == "0" or got.status_code == requests.codes.no_content:
                    got.raw.read()  # nothing: the connection may be kept. Of any other answer it is closed unread
        except Exception as error:  # whatever a server may cause; the text would show the URL
            answer = answer or one_line(type(error).__name__)
        found.put(answer)


class _Adapter(HTTPAdapter):
    """Makes connections that another thread can end."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._over = False
        self._twins: weakref.WeakKeyDictionary[Any, socket.socket] = weakref.WeakKeyDictionary()

    def get_connection_with_tls_context(self, *args: Any, **settings: Any) -> Any:
        """The pool, of connections that are known here."""
        pool: Any = super().get_connection_with_tls_context(*args, **settings)
        if "ConnectionCls" not in vars(pool):
            pool.ConnectionCls = self._known(pool.ConnectionCls)
        return pool

    def cut(self) -> None:
        """Ends all connections, also those that are yet to be made."""
        with self._lock:
            self._over = True
            for twin in self._twins.values():
                with suppress(OSError):
                    twin.shutdown(socket.SHUT_RDWR)

    def _known(self, kind: Any) -> Any:
        adapter = self

        class Known(kind):  # one class for HTTP and one for HTTPS
            def _new_conn(self) -> socket.socket:
                made: socket.socket = super()._new_conn()
                with adapter._lock:
                    adapter._forget(self)
                    if adapter._over:
                        made.close()
                        raise TimeoutError
                    # TLS takes the socket away and puts another on the same connection, as this one is
                    adapter._twins[self] = made.dup()
                return made

            def close(self) -> None:
                super().close()
                with adapter._lock:
                    adapter._forget(self)

        return Known

    def _forget(self, connection: Any) -> None:
        twin = self._twins.pop(connection, None)
        if twin is not None:
            twin.close()
