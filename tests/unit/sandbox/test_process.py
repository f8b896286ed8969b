"""Ports for brokers: nobody else's, now or while the broker is away."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from beam_jobs.sandbox import process
from beam_jobs.sandbox.process import free_port, listens


def test_ports_differ_and_are_nobodys() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert not any(listens(port) for port in ports)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says which ports connections have")
def test_no_connection_is_given_the_port_of_a_broker() -> None:
    """A client that looks for its broker again and again would take the port, even from itself, and no broker start."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(free_port() for _ in range(50)) < first


def test_a_port_that_somebody_has_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(process, "_PORTS", range(port, port + 1))
        with pytest.raises(OSError, match="in use"):
            free_port()
