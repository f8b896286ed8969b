"""Personal data: what counts as handled, and the keyed pseudonyms.

A field tagged ``pii`` leaves the preprocessing only through one of these functions of the SQL:

* ``pseudonymize(vin)``: HMAC-SHA256 of the text under a secret key, 64 hexadecimal digits. Equal values have equal
  pseudonyms, so events can still be joined; without the key nobody can recompute them from a list of candidates.
* ``generalize(latitude, 1)``: the number rounded to so many decimals (at most 2), or the first characters of a text
  (at most 3). For quasi-identifiers only: a shortened vehicle identification number still identifies.
* ``truncate(at, 'hour')``, ``truncate(latitude, '5 km')``: the time or the position cut down to the edge of the unit or
  cell it lies in (``grid.py``). For quasi-identifiers only.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa

from beam_jobs.credentials.references import FORMS, check_reference, is_reference, may_change, read_secret
from beam_jobs.errors import UserError

MAX_DECIMALS = 2  # of generalize and truncate: 0.01 degrees are 1.1 km
MAX_CHARACTERS = 3  # of generalize: the first three of a postal code name a region, not a street
MIN_METRES = 1000.0  # of a cell of truncate
MIN_KEY_BYTES = 16  # shorter keys can be guessed


@dataclass(frozen=True)
class PiiPolicy:
    """How personal data is handled; holds no secret, so it may be pickled and printed."""

    key: str | None = None  # reference to the HMAC key

    def __post_init__(self) -> None:
        if self.key is not None and not is_reference(self.key):
            # The value is not shown: it may be the secret itself.
            raise UserError(f"pii.key is not a reference; use {FORMS}, never the key itself")
        if self.key is not None:
            check_reference(self.key, "pii.key")
        if self.key is not None and may_change(self.key):
            raise UserError(
                "pii.key names no fixed version of its secret: with another key every pseudonym is another; end it in "
                "/versions/ and a number"
            )

    def secret(self) -> bytes:
        """The key, read now; at least MIN_KEY_BYTES bytes. UserError if it can't be had."""
        if self.key is None:
            raise UserError("pii.key is missing; pseudonymize() needs one, such as `pii: {key: env:HIGHBEAM_PII_KEY}`")
        return _read(self.key)


@lru_cache(maxsize=8)  # a worker reads a file once, not once a block
def _read(reference: str) -> bytes:
    secret = read_secret(reference, "pii.key").encode()
    if len(secret) < MIN_KEY_BYTES:
        raise UserError(
            f"pii.key {reference} has {len(secret)} bytes; use {MIN_KEY_BYTES} or more, such as `openssl rand -hex 32`"
        )
    return secret


def pseudonymize(values: pa.Array, secret: bytes) -> pa.Array:
    """Pseudonyms of a string array, string [n]; null stays null. Each distinct value is hashed once."""
    encoded = values if isinstance(values, pa.DictionaryArray) else values.dictionary_encode()
    digests = [
        None if value is None else hmac.digest(secret, value.encode(), "sha256").hex()
        for value in encoded.dictionary.to_pylist()
    ]
    return pa.array(digests, pa.string()).take(encoded.indices)
