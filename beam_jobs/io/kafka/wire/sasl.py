"""SASL PLAIN, SCRAM and OAUTHBEARER over Kafka's own requests (RFC 4616, RFC 5802, RFC 7628)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import struct
from collections.abc import Callable, Mapping
from typing import Any

HANDSHAKE, AUTHENTICATE = 17, 36  # api keys

Ask = Callable[[int, int, bytes], Any]


class AuthenticationError(Exception):
    """The broker does not accept this user, or is not the one it claims to be."""


def authenticate(ask: Ask, properties: Mapping[str, Any]) -> None:
    """Logs in; raises ``AuthenticationError`` with the broker's reason."""
    mechanism = properties.get("sasl.mechanisms", "PLAIN")
    name = mechanism.encode()
    response = bytes(ask(HANDSHAKE, 1, struct.pack(">h", len(name)) + name))
    if struct.unpack_from(">h", response, 4)[0] != 0:
        raise AuthenticationError(f"the broker does not offer {mechanism}")
    user, password = properties.get("sasl.username", ""), properties.get("sasl.password", "")
    if mechanism == "PLAIN":
        _exchange(ask, b"\0".join([b"", user.encode(), password.encode()]))
    elif mechanism == "OAUTHBEARER":
        token, _ = properties["oauth_cb"]("")
        if not token:
            raise AuthenticationError("there is no token to log in with")
        refusal = _exchange(ask, b"n,,\1auth=Bearer " + token.encode() + b"\1\1")
        if refusal:  # an error is said first, and counts once the client has answered it
            _exchange(ask, b"\1")
            raise AuthenticationError(refusal.decode(errors="replace"))
    else:
        _scram(ask, user, password, mechanism.removeprefix("SCRAM-").replace("-", "").lower())


def _exchange(ask: Ask, message: bytes) -> bytes:
    response = bytes(ask(AUTHENTICATE, 0, struct.pack(">i", len(message)) + message))
    error, size = struct.unpack_from(">hh", response, 4)
    at = 8
    reason = response[at : at + max(size, 0)].decode(errors="replace")
    if error:
        raise AuthenticationError(reason or f"error {error}")
    at += max(size, 0)
    (length,) = struct.unpack_from(">i", response, at)
    return response[at + 4 : at + 4 + max(length, 0)]


def _scram(ask: Ask, user: str, password: str, digest: str) -> None:
    def keyed(key: bytes, text: bytes) -> bytes:
        return hmac.digest(key, text, digest)

    nonce = secrets.token_urlsafe(24)
    first = f"n={user.replace('=', '=3D').replace(',', '=2C')},r={nonce}"
    answer = _exchange(ask, b"n,," + first.encode()).decode()
    fields = _fields(answer)
    if not fields.get("r", "").startswith(nonce):
        raise AuthenticationError("the broker answers with another nonce")
    rounds = int(fields["i"])
    if not 4096 <= rounds <= 1_000_000:
        raise AuthenticationError(f"the broker asks for {rounds} iterations, 4096 to 1000000 are accepted")
    salted = hashlib.pbkdf2_hmac(digest, password.encode(), base64.b64decode(fields["s"]), rounds)
    final = f"c=biws,r={fields['r']}"
    signed = ",".join([first, answer, final]).encode()
    client = keyed(salted, b"Client Key")
    signature = keyed(hashlib.new(digest, client).digest(), signed)
    proof = base64.b64encode(bytes(a ^ b for a, b in zip(client, signature, strict=True))).decode()
    verdict = _fields(_exchange(ask, f"{final},p={proof}".encode()).decode())
    expected = keyed(keyed(salted, b"Server Key"), signed)
    if not hmac.compare_digest(base64.b64decode(verdict.get("v", "")), expected):
        raise AuthenticationError("the broker does not know the password either")


def _fields(message: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in message.split(",") if "=" in part)
