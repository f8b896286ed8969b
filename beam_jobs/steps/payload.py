"""What a dead letter holds of its record: all of it, all of it encrypted, or nothing.

Key, value and headers of the record and the sentence about what was wrong with it may be personal data; topic,
partition, offset, times, step and reason are not. Encrypted, these four are one Avro record in the place of the value,
sealed with AES-256-GCM for the letter's id; a header says with which key. Letters of one key keep their order: the
record's key on the topic is a keyed hash of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal, get_args

import fastavro
import numpy as np
import pyarrow as pa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

import schemas
from beam_jobs.block import Block
from beam_jobs.credentials.references import FORMS, check_reference, read_secret
from beam_jobs.errors import UserError

Policy = Literal["keep", "encrypt", "drop"]
POLICIES: tuple[Policy, ...] = get_args(Policy)

OPTION, KEY_OPTION = "--dead_letter_payload", "--dead_letter_key"
KEY_HEADER = "highbeam.dead_letter_key"  # of an encrypted letter: the id of the key
DROPPED = "the record and what was wrong with it are not kept"
ALERT_DROPPED = "(the alert is not kept)"  # behind why a webhook did not take it
ENCRYPTED = "the record and what was wrong with it are encrypted"  # no producer decides the whole of an error

_KEY = re.compile(r"[0-9a-fA-F]{64}")
_NONCE_BYTES = 12
_FIELDS = ("key", "value", "headers", "error")


@dataclass(frozen=True)
class Payload:
    """What dead letters hold; holds no secret, so it may be pickled and printed."""

    policy: Policy = "keep"
    key: str | None = None  # reference to the keys, to encrypt or to decrypt with

    def __post_init__(self) -> None:
        if self.policy == "encrypt" and self.key is None:
            raise UserError(f"{OPTION} encrypt needs a key; name it with {KEY_OPTION} ({FORMS})")
        if self.key is not None:
            check_reference(self.key, KEY_OPTION)

    def keys(self) -> Sequence[Key]:
        """The keys, read now; the first one encrypts. None without a reference.

        Raises:
          UserError: they can't be read, or are none.
        """
        if self.key is None:
            return ()
        lines = read_secret(self.key, KEY_OPTION).split()
        if not lines or not all(_KEY.fullmatch(line) for line in lines):
            raise UserError(f"{KEY_OPTION}: not 64 hexadecimal digits a line; make a key with openssl rand -hex 32")
        return [Key(bytes.fromhex(line)) for line in lines]


class Key:
    """One key, and those that are derived from it."""

    def __init__(self, secret: bytes) -> None:
        def derived(purpose: bytes, size: int) -> bytes:
            return HKDF(SHA256(), size, None, b"highbeam dead letter " + purpose).derive(secret)

        self.id = derived(b"id", 8).hex()
        self._seal = AESGCM(derived(b"payload", 32))
        self._pseudonyms = derived(b"key", 32)

    def pseudonym(self, key: bytes | None) -> bytes | None:
        """What stands for a record's key on the topic: the same for the same key."""
        if key is None:
            return None
        hashed = HMAC(self._pseudonyms, SHA256())
        hashed.update(key)
        return hashed.finalize().hex()[:32].encode()

    def encrypt(self, letter: Mapping[str, Any]) -> bytes:
        """The four fields of a letter, sealed."""
        plain, nonce = BytesIO(), os.urandom(_NONCE_BYTES)
        fastavro.schemaless_writer(plain, _SCHEMA, {name: letter[name] for name in _FIELDS})
        return nonce + self._seal.encrypt(nonce, plain.getvalue(), letter["id"].encode())

    def decrypt(self, letter: Mapping[str, Any]) -> dict[str, Any] | None:
        """The four fields; None: they have been changed, or moved to another letter."""
        sealed: bytes = letter["value"]
        try:
            plain = self._seal.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], letter["id"].encode())
        except (InvalidTag, ValueError):  # ValueError: too short for a nonce
            return None
        found: Any = fastavro.schemaless_reader(BytesIO(plain), _SCHEMA, None)
        return dict(found)


def _schema() -> Any:
    whole = schemas.load("dead_letter")
    fields = [field for field in whole["fields"] if field["name"] in _FIELDS]
    return fastavro.parse_schema({"type": "record", "name": "Payload", "namespace": "highbeam", "fields": fields})


_SCHEMA = _schema()


def protect(letters: Block, policy: Policy, keys: Sequence[Key], quotes: bool = True) -> tuple[pa.Array, Block]:
    """Dead letters as they may be written.

    Args:
      letters: a block of ``dead_letter.avsc`` rows, [n].
      keys: of ``encrypt``, the first of which is taken.
      quotes: the sentences may quote a record; False: ``drop`` keeps them.

    Returns:
      the records' keys on the topic, binary [n], and the letters.
    """
    if policy == "keep":
        return letters.column("key"), letters
    n = letters.num_rows
    changed: dict[str, Any] = {"key": [None] * n, "value": [None] * n, "headers": [None] * n, "error": [DROPPED] * n}
    if policy == "drop" and not quotes:
        changed["error"] = [f"{error} {ALERT_DROPPED}" for error in letters.column("error").to_pylist()]
    names: list[bytes | None] = [None] * n
    if policy == "encrypt":
        rows = letters.select(["id", *_FIELDS]).to_pylist()
        names = [keys[0].pseudonym(row["key"]) for row in rows]
        changed["value"] = [keys[0].encrypt(row) for row in rows]
        changed["headers"] = [[{"key": KEY_HEADER, "value": keys[0].id.encode()}]] * n
        changed["error"] = [ENCRYPTED] * n
    return pa.array(names, pa.binary()), _with(letters, changed)


def key_id(letter: Mapping[str, Any]) -> str | None:
    """The id of the key that a letter is encrypted with; None: it is not, or what was encrypted is not there."""
    if letter["error"] != ENCRYPTED or letter["value"] is None:
        return None
    named = [header["value"] for header in letter["headers"] or [] if header["key"] == KEY_HEADER]
    return (named[0] or b"").decode(errors="replace") if named else ""


def restore(letters: Block, keys: Sequence[Key]) -> tuple[Block, NDArray[np.bool_]]:
    """Encrypted letters as they were before.

    Returns:
      the letters, [n], and which of them can't be had any more, bool [n]: they have been changed.

    Raises:
      UserError: one is encrypted with a key that is not among these.
    """
    rows = letters.select(["id", *_FIELDS]).to_pylist()
    ids = [key_id(row) for row in rows]
    damaged = np.zeros(len(rows), np.bool_)
    if not any(each is not None for each in ids):
        return letters, damaged
    by_id = {key.id: key for key in keys}
    for i, (row, named) in enumerate(zip(rows, ids, strict=True)):
        if named is None:
            continue
        if named not in by_id:
            given = f"{KEY_OPTION} has {', '.join(by_id)}" if by_id else f"name it with {KEY_OPTION}"
            raise UserError(f"dead letter {row['id']} is encrypted with the key {named}; {given}")
        found = by_id[named].decrypt(row)
        if found is None:
            damaged[i] = True
        else:
            row.update(found)
    return _with(letters, {name: [row[name] for row in rows] for name in _FIELDS}), damaged


def _with(letters: Block, changed: Mapping[str, Sequence[Any]]) -> Block:
    columns = [
        pa.array(changed[field.name], field.type) if field.name in changed else letters.column(field.name)
        for field in letters.schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=letters.schema)
