"""Mocks of two of Google's services, which can't be had here: the one that issues tokens, and Secret Manager."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.cloud.secretmanager_v1 import AccessSecretVersionRequest, AccessSecretVersionResponse
from google.cloud.secretmanager_v1 import SecretManagerServiceClient as Client
from google.cloud.secretmanager_v1.services.secret_manager_service.transports import (
    SecretManagerServiceGrpcTransport as Transport,
)
from google_crc32c import value as crc32c

from beam_jobs.credentials import secret_manager
from beam_jobs.io.kafka.oauth import GOOGLE_TOKENS
from beam_jobs.preprocessing import pii

ACCOUNT = "highbeam@my-project.iam.gserviceaccount.com"
REFUSED = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}


class TokenServer:
    """Answers each request for a token with ``answer`` (status, JSON)."""

    def __init__(self) -> None:
        self.answer: tuple[int, dict[str, Any]] = (200, {})
        self.asked = 0
        mock = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                mock.asked += 1
                status, body = mock.answer
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/token"

    def issue(self, token: str, life_s: int = 3600) -> None:
        self.answer = (200, {"access_token": token, "expires_in": life_s, "token_type": "Bearer"})

    def __enter__(self) -> TokenServer:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def key_file(folder: Path, token_uri: str) -> Path:
    """A service account's key file, as Google hands them out, whose tokens come from ``token_uri``."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    account = {"type": "service_account", "client_email": ACCOUNT, "private_key": pem, "token_uri": token_uri}
    path = folder / "key.json"
    path.write_text(json.dumps(account))
    return path


@pytest.fixture
def tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TokenServer]:
    """Application Default Credentials of ACCOUNT, with tokens as the test says."""
    with TokenServer() as server:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key_file(tmp_path, server.url)))
        GOOGLE_TOKENS.forget()
        yield server
        GOOGLE_TOKENS.forget()


@pytest.fixture
def no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without Google credentials that is none of Google's."""
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:1")  # nobody listens there
    GOOGLE_TOKENS.forget()
    yield
    GOOGLE_TOKENS.forget()


Answer = bytes | tuple[grpc.StatusCode, str]


class SecretManager:
    """Secret Manager's protocol for what is in ``secrets``; any other version does not exist."""

    def __init__(self) -> None:
        self.secrets: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.damage: Callable[[bytes], bytes] = lambda data: data
        handler = grpc.unary_unary_rpc_method_handler(
            self._access, AccessSecretVersionRequest.deserialize, AccessSecretVersionResponse.serialize
        )
        service = "google.cloud.secretmanager.v1.SecretManagerService"
        self._server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(service, {"AccessSecretVersion": handler})]
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def _access(
        self, request: AccessSecretVersionRequest, context: grpc.ServicerContext
    ) -> AccessSecretVersionResponse:
        self.asked.append(request.name)
        answer = self.secrets.get(request.name, (grpc.StatusCode.NOT_FOUND, f"Secret [{request.name}] not found"))
        if isinstance(answer, tuple):
            context.abort(*answer)
            raise AssertionError("abort raises")
        payload = {"data": self.damage(answer), "data_crc32c": crc32c(answer)}
        return AccessSecretVersionResponse(name=request.name, payload=payload)

    def client(self, what: str) -> Client:
        """What ``secret_manager._client`` is to return: the library's client, connected to here without TLS."""
        return Client(transport=Transport(channel=grpc.insecure_channel(self.address)))

    def stop(self) -> None:
        self._server.stop(None).wait()

    @contextmanager
    def running(self) -> Iterator[SecretManager]:
        self._server.start()
        try:
            yield self
        finally:
            self.stop()


@pytest.fixture
def secret_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[SecretManager]:
    """Where ``secret://`` leads in this process; nothing is remembered from other tests."""
    with SecretManager().running() as server:
        monkeypatch.setattr(secret_manager, "_client", server.client)
        monkeypatch.setattr(secret_manager, "_cache", {})
        pii._read.cache_clear()
        yield server
