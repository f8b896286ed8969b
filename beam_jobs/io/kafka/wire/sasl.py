"""SASL PLAIN, SCRAM and OAUTHBEARER over Kafka's own requests (RFC 4616, RFC 5802, RFC 7628)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import struct
from collections.abc import Callable, Mapping
from typing import Any

from beam_jobs.errors import one_line

HANDSHAKE, AUTHENTICATE = 17, 36  # api keys

_ROUNDS = 4096, 1_000_000  # RFC 7677 asks for the first; the second takes half a second
_SHOWN = 200  # characters of what a broker says
_SCRAM_MECHANISMS = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}

Ask = Callable[[int, int, bytes], Any]


class AuthenticationError(Exception):
    """The broker does not accept this user, or is not the one it claims to be."""


def authenticate(ask: Ask, properties: Mapping[str, Any]) -> None:
    """Logs in.

    Raises:
      AuthenticationError: with the broker's reason, or because it answers what the protocol does not know.
      OSError: what ``ask`` raises.
    """
    mechanism = properties.get("sasl.mechanisms", "PLAIN")
    name = mechanism.encode()
    response = bytes(ask(HANDSHAKE, 1, struct.pack(">h", len(name)) + name))
    if _number(">h", response, 4) != 0:
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
            raise AuthenticationError(_said(refusal) or "the broker says no reason")
    else:
        _scram(ask, user, password, _SCRAM_MECHANISMS[mechanism])


def _exchange(ask: Ask, message: bytes) -> bytes:
    response = bytes(ask(AUTHENTICATE, 0, struct.pack(">i", len(message)) + message))
    error, size = _number(">h", response, 4), _number(">h", response, 6)
    at = 8 + max(size, 0)
    if error:
        raise AuthenticationError(_said(response[8:at]) or f"error {error}")
    length = _number(">i", response, at)
    answer = response[at + 4 : at + 4 + max(length, 0)]
    if len(answer) < length:
        raise _malformed("its answer is cut short")
    return answer


def _scram(ask: Ask, user: str, password: str, digest: str) -> None:
    def keyed(key: bytes, text: bytes) -> bytes:
        return hmac.digest(key, text, digest)

    nonce = secrets.token_urlsafe(24)
    first = f"n={user.replace('=', '=3D').replace(',', '=2C')},r={nonce}"
    answer, fields = _fields(_exchange(ask, b"n,," + first.encode()))
    if "e" in fields or "m" in fields:  # what is wrong, or an extension without which it does not go on (RFC 5802)
        raise AuthenticationError(one_line(answer, _SHOWN))
    theirs = fields.get("r", "")
    if not theirs.startswith(nonce) or theirs == nonce:
        raise AuthenticationError("the broker answers with another nonce")
    rounds, salt = fields.get("i", ""), _decoded(fields.get("s", ""))
    if not (rounds.isascii() and rounds.isdecimal() and len(rounds) < 10):
        raise _malformed("it says no number of iterations")
    if not _ROUNDS[0] <= int(rounds) <= _ROUNDS[1]:
        raise AuthenticationError(
            f"the broker asks for {int(rounds)} iterations, {_ROUNDS[0]} to {_ROUNDS[1]} are accepted"
        )
    if not salt:
        raise _malformed("it says no salt")
    salted = hashlib.pbkdf2_hmac(digest, password.encode(), salt, int(rounds))
    final = f"c=biws,r={theirs}"
    signed = ",".join([first, answer, final]).encode()
    client = keyed(salted, b"Client Key")
    signature = keyed(hashlib.new(digest, client).digest(), signed)
    proof = base64.b64encode(bytes(a ^ b for a, b in zip(client, signature, strict=True))).decode()
    _, verdict = _fields(_exchange(ask, f"{final},p={proof}".encode()))
    expected = keyed(keyed(salted, b"Server Key"), signed)
    if not hmac.compare_digest(_decoded(verdict.get("v", "")), expected):
        raise AuthenticationError("the broker does not know the password either")


def _fields(message: bytes) -> tuple[str, dict[str, str]]:
    """A message of SCRAM, and its fields."""
    try:
        text = message.decode()
    except UnicodeDecodeError:
        raise _malformed("it answers no text") from None
    return text, dict(part.split("=", 1) for part in text.split(",") if "=" in part)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise _malformed("it answers no base64") from None


def _number(form: str, response: bytes, at: int) -> int:
    try:
        (number,) = struct.unpack_from(form, response, at)
    except struct.error:
        raise _malformed("its answer is cut short") from None
    return int(number)


def _malformed(why: str) -> AuthenticationError:
    return AuthenticationError(f"the broker does not log in as Kafka does: {why}")


def _said(text: bytes) -> str:
    return one_line(text.decode(errors="replace"), _SHOWN)
