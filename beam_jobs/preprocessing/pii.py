"""Personal data: what counts as handled, and the keys of pseudonyms and encryption.

A field tagged ``pii`` leaves the preprocessing only through one of these functions of the SQL:

* ``pseudonymize(vin)``: HMAC-SHA256 of the text under a secret key, 64 hexadecimal digits. Equal values have equal
  pseudonyms, so events can still be joined; without the key nobody can recompute them from a list of candidates.
* ``encrypt(vin)``: AES-SIV of the text, in Base64. Equal values of a field are equal, as with pseudonyms; who has the
  key may have the text back (``highbeam privacy decrypt``).
* ``generalize(latitude, 1)``: the number rounded to so many decimals (at most 2), or the first characters of a text
  (at most 3). For quasi-identifiers only: a shortened vehicle identification number still identifies.
* ``truncate(at, 'hour')``, ``truncate(latitude, '5 km')``: the time or the position cut down to the edge of the unit or
  cell it lies in (``grid.py``). For quasi-identifiers only.

A key may have an id, which stands before what is made with it: ``2026-11:9f86d0…``. So keys can be changed: the first
one is used, the others still count.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
from collections.abc import Callable, Container
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import pyarrow as pa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from beam_jobs.credentials.references import FORMS, check_reference, is_reference, may_change, read_secret
from beam_jobs.errors import UserError

MAX_DECIMALS = 2  # of generalize and truncate: 0.01 degrees are 1.1 km
MAX_CHARACTERS = 3  # of generalize: the first three of a postal code name a region, not a street
MIN_METRES = 1000.0  # of a cell of truncate
MIN_KEY_BYTES = 16  # shorter keys can be guessed
KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,32}")


@dataclass(frozen=True, order=True)
class Protected:
    """A field as it may leave, under a key."""

    field: str
    how: Literal["pseudonymize", "encrypt"] = "pseudonymize"
    key_id: str | None = None  # None: the key that is used; "": the one without an id

    @property
    def column(self) -> str:
        """Of the frame that holds it; no Avro name has a colon."""
        if self == Protected(self.field):
            return f"pseudonym:{self.field}"
        return f"{self.how}:{self.field}:{self.key_id or ''}"

    @property
    def text(self) -> str:
        """The canonical text of the expression."""
        named = "" if self.key_id is None else f":{json.dumps(self.key_id)}"
        return f"({self.how}{named} {json.dumps(self.field)})"

    def of(self, values: pa.Array, policy: PiiPolicy) -> pa.Array:
        """What stands for the values, a string array, string [n]; null stays null. Each distinct value is made once.

        Raises:
          UserError: the key can't be had.
        """
        key_id = policy.current if self.key_id is None else self.key_id
        if self.how == "encrypt":
            return encrypt(values, policy.secret(key_id), self.field, key_id)
        return pseudonymize(values, policy.secret(key_id), key_id)


def stands_for(field: str, protected: Container[Protected]) -> Protected | None:
    """What tells the values of a field apart in its place; None: nothing of it is ``protected``."""
    forms = (Protected(field), Protected(field, "encrypt"))
    return next((form for form in forms if form in protected), None)


@dataclass(frozen=True)
class PiiPolicy:
    """How personal data is handled; holds no secret, so it may be pickled and printed."""

    key: str | None = None  # reference to a key without an id
    keys: tuple[tuple[str, str], ...] = ()  # ids and references; the first is used, the others and ``key`` count

    def __post_init__(self) -> None:
        for key_id, reference in self.references().items():
            _check(reference, _setting(key_id))
        for key_id, _ in self.keys:
            if not KEY_ID.fullmatch(key_id):
                raise UserError(f"pii.keys: {key_id!r} is no id of a key; use up to 32 of A-Z a-z 0-9 . _ -")

    def references(self) -> dict[str, str]:
        """The references by the ids of their keys, "" for the one without."""
        return dict(self.keys) | ({} if self.key is None else {"": self.key})

    @property
    def current(self) -> str:
        """Id of the key that is used; "": it has none."""
        return self.keys[0][0] if self.keys else ""

    def secret(self, key_id: str | None = None) -> bytes:
        """A key, read now, by default the one that is used; at least MIN_KEY_BYTES bytes.

        Raises:
          UserError: there is none of that id, or it can't be had.
        """
        wanted = self.current if key_id is None else key_id
        reference = self.references().get(wanted)
        if reference is None and wanted:
            raise UserError(
                f"pii.keys has no {wanted!r}; it has {', '.join(known for known, _ in self.keys) or 'none'}"
            )
        if reference is None:
            raise UserError("pii.key is missing; pseudonymize() needs one, such as `pii: {key: env:HIGHBEAM_PII_KEY}`")
        return _read(reference, _setting(wanted))


def _setting(key_id: str) -> str:
    return f"pii.keys.{key_id}" if key_id else "pii.key"


def _check(reference: str, what: str) -> None:
    if not is_reference(reference):
        # The value is not shown: it may be the secret itself.
        raise UserError(f"{what} is not a reference; use {FORMS}, never the key itself")
    check_reference(reference, what)
    if may_change(reference):
        raise UserError(
            f"{what} names no fixed version of its secret: with another key every pseudonym is another; end it in "
            "/versions/ and a number"
        )


@lru_cache(maxsize=32)  # a worker reads a file once, not once a block
def _read(reference: str, what: str) -> bytes:
    secret = read_secret(reference, what).encode()
    if len(secret) < MIN_KEY_BYTES:
        raise UserError(
            f"{what} {reference} has {len(secret)} bytes; use {MIN_KEY_BYTES} or more, such as `openssl rand -hex 32`"
        )
    return secret


def pseudonymize(values: pa.Array, secret: bytes, key_id: str = "") -> pa.Array:
    """Pseudonyms of a string array, string [n]; null stays null. Each distinct value is hashed once."""
    prefix = f"{key_id}:" if key_id else ""
    return _each(values, lambda value: prefix + hmac.digest(secret, value.encode(), "sha256").hex())


def encrypt(values: pa.Array, secret: bytes, field: str, key_id: str) -> pa.Array:
    """A string array encrypted, string [n]; null stays null. Each distinct value is encrypted once.

    Args:
      field: equal values of two fields are two; to decrypt one, its field must be known.
    """
    cipher, about = _cipher(secret), [field.encode()]
    # The byte in front: an empty text is nothing that every release of the library encrypts.
    return _each(values, lambda value: f"{key_id}:{_base64(cipher.encrypt(b'.' + value.encode(), about))}")


def decrypt(text: str, policy: PiiPolicy, field: str) -> str | None:
    """What ``encrypt`` made the text of; None: it was not made of this field under one of the policy's keys.

    Raises:
      UserError: the key that it names can't be had.
    """
    key_id, colon, sealed = text.partition(":")
    if not colon or key_id not in dict(policy.keys):
        return None
    try:
        found = base64.b64decode(sealed + "=" * (-len(sealed) % 4), b"-_", validate=True)
        return _cipher(policy.secret(key_id)).decrypt(found, [field.encode()])[1:].decode()
    except (InvalidTag, ValueError):  # ValueError: no Base64, or too short
        return None


@lru_cache(maxsize=32)
def _cipher(secret: bytes) -> AESSIV:
    """Its key is derived: that of pseudonyms is another."""
    return AESSIV(HKDF(SHA256(), 64, None, b"highbeam encrypt").derive(secret))


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _each(values: pa.Array, function: Callable[[str], str]) -> pa.Array:
    encoded = values if isinstance(values, pa.DictionaryArray) else values.dictionary_encode()
    made = [None if value is None else function(value) for value in encoded.dictionary.to_pylist()]
    return pa.array(made, pa.string()).take(encoded.indices)
