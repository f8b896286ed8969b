"""Requests that a page in a browser made, for whom this machine's registry is not.

A page from anywhere may send requests to 127.0.0.1, or name it by a name of its own that it has point there later (DNS
rebinding). So a request has to name this machine, come from no other page, and say that its body is JSON, which a page
can't without asking first.
"""

from __future__ import annotations

import ipaddress
import socket
from email.message import Message
from urllib.parse import urlsplit

from schemas.registry.store import RegistryError

_JSON = frozenset(
    {
        "application/vnd.schemaregistry.v1+json",
        "application/vnd.schemaregistry+json",
        "application/json",
        "application/octet-stream",
    }
)


def check_headers(headers: Message, host: str, has_body: bool) -> None:
    """Refuses a request that is not meant for us.

    Args:
      host: the name or address that the server listens on.

    Raises:
      RegistryError: another host (421) or origin (403), or a body that is not called JSON (415).
    """
    hosts = headers.get_all("Host", [])
    if len(hosts) > 1 or (hosts and not _is_here(_name(f"//{hosts[0]}"), host)):  # browsers always send one
        raise RegistryError(421, 421, "The Host header names another machine: use an address, or name it with --host")
    origins = headers.get_all("Origin", [])
    if origins and origins != [f"http://{each}" for each in hosts]:
        raise RegistryError(403, 403, "Pages of other origins may not use this registry")
    kind = headers.get_content_type() if "Content-Type" in headers else "none"
    if has_body and kind not in _JSON:
        raise RegistryError(415, 415, f"Content-Type is {kind[:40]!r}: send application/vnd.schemaregistry.v1+json")


def _name(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:  # brackets that hold no address
        return ""


def _is_here(name: str, host: str) -> bool:
    """Whether a name can't be one that somebody else has made to point here; an address is no name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in ("localhost", host.lower(), socket.gethostname().lower())
    return True
