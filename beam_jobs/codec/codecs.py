"""The codecs of events, told apart by a value's first byte; a new one is a file, and a line here or elsewhere.

A distribution's ``pyproject.toml`` adds one:

    [project.entry-points."highbeam.codecs"]
    cbor = "acme_cbor:CODEC"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs.codec.avro.writers import WriterSchema
from beam_jobs.codec.decoded import Decoded
from beam_jobs.codec.schema import arrow_schema
from beam_jobs.errors import UserError
from beam_jobs.plugins import Plugins


@dataclass(frozen=True)
class EventSchemas:
    """What events are decoded to, and what they were written with."""

    reader: Mapping[str, Any]  # an Avro schema
    writer: WriterSchema  # the Avro schema of an id
    columns: Sequence[str] | None  # of the reader's fields, the ones that are wanted; None: all
    json_strict: bool = False  # of JSON, only Avro's own forms: integers for times, strings for decimals

    def rows(self) -> pa.Schema:
        """Of the rows that a decoder gives."""
        return arrow_schema(self.reader, self.columns)


class Decoder(Protocol):
    """Decodes the values of blocks."""

    def decode(self, values: pa.BinaryArray) -> Decoded:
        """Rows of the schema ``EventSchemas.rows``, in order; a bad value is reported, never raised. n may be 0."""


class Codec(Protocol):
    """An encoding of events."""

    @property
    def about(self) -> str:
        """How its values begin, for errors: "{ (JSON)"."""

    @property
    def first_bytes(self) -> bytes:
        """Values that begin with one of these bytes are its."""

    def decoder(self, schemas: EventSchemas) -> Decoder:
        """Raises UserError where values can't be decoded to such a schema at all."""


CODECS = Plugins[Codec](
    "codec", "highbeam.codecs", {"avro": "beam_jobs.codec.events:AVRO", "json": "beam_jobs.codec.events:JSON"}
)


def by_first_byte(codecs: Sequence[Codec]) -> NDArray[np.int64]:
    """The place of the codec whose values begin with a byte, [256]; -1: none.

    Raises:
      UserError: two want the same byte.
    """
    found = np.full(256, -1)
    for place, codec in enumerate(codecs):
        for byte in codec.first_bytes:
            if found[byte] >= 0:
                both = f"{codecs[found[byte]].about} and {codec.about}"
                raise UserError(f"two codecs take values that begin with 0x{byte:02x}: {both}; uninstall one of them")
            found[byte] = place
    return found
