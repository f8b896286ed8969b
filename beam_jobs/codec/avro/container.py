"""Avro container files taken apart: the header, then block after block, unpacked to no more than there is room for."""

from __future__ import annotations

import bz2
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
from isal import isal_zlib

MAGIC = b"Obj\x01"
SYNC_BYTES = 16
RAW_DEFLATE = -isal_zlib.MAX_WBITS  # no header and checksum, as the specification says
MAX_BLOCK_BYTES = (1 << 31) - 1  # a position in the machine has 31 bits
_SMALL_BYTES = 128 << 20  # what any block may unpack to
_MOST_TIMES = 64  # of its size in the file: what a larger one may unpack to
_CHUNK_BYTES = 1 << 20
_LZMA_MEMORY_BYTES = 256 << 20
_HEADER_BYTES = 64 << 20  # of one entry


class BadContainerError(Exception):
    """Bytes that are no Avro container file, or that there is no room for."""


@dataclass(frozen=True)
class Header:
    """What a container file says of itself."""

    schema: str  # of its rows; JSON
    codec: str
    sync: bytes  # stands behind each block


def read_header(file: IO[bytes]) -> Header:
    """Reads a file's header and no byte more.

    Raises:
      BadContainerError: as above.
    """
    if file.read(len(MAGIC)) != MAGIC:
        raise BadContainerError("it does not begin as one")
    entries: dict[str, bytes] = {}
    while count := _long(file):
        if count < 0:  # then its size in bytes follows
            count = -count
            _long(file)
        for _ in range(count):
            name = _bytes(file, _long(file), _HEADER_BYTES).decode(errors="replace")
            entries[name] = _bytes(file, _long(file), _HEADER_BYTES)
    sync = _bytes(file, SYNC_BYTES, SYNC_BYTES)
    try:
        schema = entries["avro.schema"].decode()
    except (KeyError, ValueError):
        raise BadContainerError("its header holds no schema") from None
    return Header(_named(schema), entries.get("avro.codec", b"null").decode(errors="replace"), sync)


def _named(schema: str) -> str:
    """The schema with a name for the outermost record: Polars writes none unless it is told one."""
    try:
        parsed = json.loads(schema)
    except (ValueError, RecursionError):  # what is wrong with it is said where it is parsed
        return schema
    if isinstance(parsed, dict) and parsed.get("type") == "record" and parsed.get("name") == "":
        return json.dumps({**parsed, "name": "Row"})
    return schema


def read_blocks(file: IO[bytes], header: Header) -> Iterator[tuple[int, bytes]]:
    """The blocks behind the header: how many records each holds, and their bytes.

    Raises:
      BadContainerError: from the first block on that is broken, or unpacks to more than ``MAX_BLOCK_BYTES``, or to more
        than 128 MiB and 64 times its own size: more than anybody's records, in little enough to be sent.
    """
    unpack = CODECS[header.codec]
    while (first := file.read(1)) != b"":
        records, size = _long(file, first), _long(file)
        packed = _bytes(file, size, MAX_BLOCK_BYTES)
        room = min(MAX_BLOCK_BYTES, max(_SMALL_BYTES, _MOST_TIMES * len(packed)))
        try:
            body = unpack(packed, room)
        except Exception as error:  # each codec has errors of its own
            raise BadContainerError(f"{header.codec}: {error}") from None
        if len(body) > room:
            raise BadContainerError(f"its {len(packed)} bytes unpack to more than {room}")
        if file.read(SYNC_BYTES) != header.sync:
            raise BadContainerError("what stands behind it is not the file's sync marker")
        yield records, body


def _long(file: IO[bytes], first: bytes = b"") -> int:
    number = 0
    for shift in range(0, 70, 7):
        byte = first or file.read(1)
        first = b""
        if not byte:
            raise BadContainerError("it ends in the middle")
        number |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return (number >> 1) ^ -(number & 1)
    raise BadContainerError("a number in it has no end")


def _bytes(file: IO[bytes], size: int, most: int) -> bytes:
    if not 0 <= size <= most:
        raise BadContainerError(f"something in it is said to have {size} bytes")
    found = file.read(size)
    if len(found) < size:
        raise BadContainerError("it ends in the middle")
    return found


# Each gives what is packed, or where that is more than ``room`` bytes, more than ``room`` of them.


def _null(packed: bytes, room: int) -> bytes:
    return packed


def _deflate(packed: bytes, room: int) -> bytes:
    return _whole(isal_zlib.decompressobj(RAW_DEFLATE), packed, room)


def _bzip2(packed: bytes, room: int) -> bytes:
    return _whole(bz2.BZ2Decompressor(), packed, room)


def _xz(packed: bytes, room: int) -> bytes:
    return _whole(lzma.LZMADecompressor(memlimit=_LZMA_MEMORY_BYTES), packed, room)


def _whole(stream: Any, packed: bytes, room: int) -> bytes:
    body: bytes = stream.decompress(packed, room + 1)
    if not stream.eof and len(body) <= room:
        raise EOFError("it ends in the middle")
    return body


def _zstandard(packed: bytes, room: int) -> bytes:
    parts, size = [], 0
    with pa.CompressedInputStream(pa.BufferReader(packed), "zstd") as stream:
        while size <= room and (part := stream.read(_CHUNK_BYTES)):
            parts.append(part)
            size += len(part)
    return b"".join(parts)


def _snappy(packed: bytes, room: int) -> bytes:
    block, checksum = packed[:-4], packed[-4:]
    size = 0
    for place, byte in enumerate(block[:5]):  # the block starts with its size
        size |= (byte & 127) << 7 * place
        if byte < 128:
            break
    if size > room:
        raise ValueError(f"it is said to unpack to {size} bytes")
    body: bytes = pa.decompress(block, decompressed_size=size, codec="snappy", asbytes=True)
    if zlib.crc32(body) != int.from_bytes(checksum, "big"):
        raise ValueError("its checksum is another one")
    return body


CODECS: dict[str, Callable[[bytes, int], bytes]] = {
    "null": _null,
    "deflate": _deflate,
    "snappy": _snappy,
    "zstandard": _zstandard,
    "bzip2": _bzip2,
    "xz": _xz,
}
