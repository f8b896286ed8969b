"""UUIDs of 16 bytes ⇄ their 36 characters, whole columns at a time."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from beam_jobs.codec.schema import UUID_BYTES
from beam_jobs.errors import UserError

CHARACTERS = 36
PATTERN = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"  # of the text
_NIL = "00000000-0000-0000-0000-000000000000"
_HEX_AT = np.array([i for i, char in enumerate(_NIL) if char != "-"])
_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
_VALUES = np.zeros(256, np.uint8)
for _digits in (b"0123456789abcdef", b"0123456789ABCDEF"):
    _VALUES[np.frombuffer(_digits, np.uint8)] = np.arange(16)


def uuid_texts(raw: NDArray[np.uint8], bitmap: pa.Buffer | None, nulls: int) -> pa.StringArray:
    """The texts of n UUIDs.

    Args:
      raw: their bytes, uint8 [n * 16].
      bitmap, nulls: which of them are null, as Arrow has it.
    """
    raw = raw.reshape(-1, UUID_BYTES)
    out = np.full((len(raw), CHARACTERS), ord("-"), np.uint8)
    out[:, _HEX_AT[0::2]] = _DIGITS[raw >> 4]
    out[:, _HEX_AT[1::2]] = _DIGITS[raw & 15]
    offsets = np.arange(len(raw) + 1, dtype=np.int32) * CHARACTERS
    buffers = [bitmap, pa.py_buffer(offsets), pa.py_buffer(out)]
    return pa.Array.from_buffers(pa.string(), len(raw), buffers, nulls)


def texts_of(column: pa.FixedSizeBinaryArray) -> pa.StringArray:
    """The texts of a column of n UUIDs."""
    n, data = len(column), column.buffers()[1]
    raw = np.frombuffer(data, np.uint8, n * UUID_BYTES, column.offset * UUID_BYTES) if n else np.empty(0, np.uint8)
    bitmap = column.is_valid().buffers()[1] if column.null_count else None
    return uuid_texts(raw, bitmap, column.null_count)


def uuid_bytes(column: pa.StringArray, path: str) -> NDArray[np.uint8]:
    """The bytes of n texts, uint8 [n * 16], zeros for nulls; UserError, which names ``path``, if one is no UUID."""
    filled = column.fill_null(_NIL)
    if not pc.all(pc.match_substring_regex(filled, PATTERN), min_count=0).as_py():
        raise UserError(f"field {path!r} has a text that is no UUID; write it as {_NIL}")
    n = len(filled)
    _, offsets, data = filled.buffers()
    first = int(np.frombuffer(offsets, np.int32, 1, 4 * filled.offset)[0]) if n else 0
    characters = np.frombuffer(data, np.uint8, n * CHARACTERS, first) if n else np.empty(0, np.uint8)
    values = _VALUES[characters.reshape(n, CHARACTERS)[:, _HEX_AT]]
    found: NDArray[np.uint8] = (values[:, 0::2] << 4 | values[:, 1::2]).astype(np.uint8).reshape(-1)
    return found
