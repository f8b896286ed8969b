"""A broker's certificate that will not do: librdkafka says that it could not be verified, and no more."""

from __future__ import annotations

import contextlib
import socketserver
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest

from beam_jobs.errors import UserError
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.client import check_topic
from beam_jobs.io.kafka.config import KafkaConfig
from tests.certificates import certificate


@pytest.mark.parametrize(
    ("made", "trusted", "said"),
    [
        ({"days": (-9, -1)}, True, r"certificate has expired\); renew the broker's certificate"),
        ({"days": (1, 9)}, True, r"certificate is not yet valid\); check the clock"),
        ({"host": "10.1.2.3"}, True, r"IP address mismatch.*; name the broker as its certificate does"),
        ({}, False, r"self-signed certificate\); check ssl.ca.location"),
    ],
)
def test_what_is_wrong_with_it_is_said(tmp_path: Path, made: dict[str, Any], trusted: bool, said: str) -> None:
    server, ca = certificate(tmp_path, **made)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server)

    class Handshake(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError), context.wrap_socket(self.request, server_side=True) as secure:
                secure.recv(1)

    settings = tmp_path / "client.properties"
    settings.write_text("security.protocol=SSL\n" + (f"ssl.ca.location={ca}\n" if trusted else ""))
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handshake) as broker:
        broker.daemon_threads = True
        threading.Thread(target=broker.serve_forever, daemon=True).start()
        address = KafkaAddress(f"127.0.0.1:{broker.server_address[1]}", "events")
        with pytest.raises(UserError, match=said):
            check_topic(address, KafkaConfig.from_file(settings))
        broker.shutdown()
