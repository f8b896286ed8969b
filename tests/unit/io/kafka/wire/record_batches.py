"""Kafka record batches made by hand, for the tests of the code that reads them."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import google_crc32c
import pyarrow as pa

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
_STREAMS = {LZ4: "lz4", ZSTD: "zstd"}
_XERIAL = b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1)
LOG_APPEND_TIME, TRANSACTIONAL, CONTROL = 8, 16, 32


@dataclass(frozen=True)
class Rec:
    """One record; offset and time relative to its batch."""

    value: bytes | None = b"v"
    key: bytes | None = None
    headers: Sequence[tuple[bytes, bytes | None]] = field(default_factory=tuple)
    offset: int | None = None  # None: one after the last
    millis: int = 0


def varint(number: int) -> bytes:
    """Zigzag."""
    left, out = (number << 1) ^ (number >> 63), bytearray()
    left &= (1 << 64) - 1
    while left > 127:
        out.append(left & 127 | 128)
        left >>= 7
    out.append(left)
    return bytes(out)


def _sized(data: bytes | None) -> bytes:
    return varint(-1) if data is None else varint(len(data)) + data


def _record(rec: Rec, delta: int) -> bytes:
    headers = b"".join(_sized(name) + _sized(value) for name, value in rec.headers)
    body = (
        b"\0" + varint(rec.millis) + varint(delta) + _sized(rec.key) + _sized(rec.value) + varint(len(rec.headers))
    ) + headers
    return varint(len(body)) + body


def _compressed(codec: int, data: bytes) -> bytes:
    if codec == GZIP:
        return gzip.compress(data)
    if codec == SNAPPY:  # the framing of the Java client, two blocks
        half = len(data) // 2
        blocks = [pa.compress(part, "snappy", asbytes=True) for part in (data[:half], data[half:])]
        return _XERIAL + b"".join(struct.pack(">i", len(b)) + b for b in blocks)
    if codec:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, _STREAMS[codec]) as stream:
            stream.write(data)
        return sink.getvalue().to_pybytes()
    return data


def batch(
    records: Sequence[Rec],
    base: int = 0,
    *,
    timestamp: int = 1_700_000_000_000,
    codec: int = NONE,
    flags: int = 0,
    producer: int = -1,
    magic: int = 2,
    last: int | None = None,
    crc: int | None = None,
    count: int | None = None,
) -> bytes:
    """A record batch; ``last`` is the last offset where compaction removed the records at the end."""
    parts, offset = [], -1
    for rec in records:
        offset = offset + 1 if rec.offset is None else rec.offset
        parts.append(_record(rec, offset))
    body = _compressed(codec, b"".join(parts))
    newest = timestamp + max((rec.millis for rec in records), default=0)
    return framed(
        body,
        base,
        codec | flags,
        last=(offset if last is None else last - base),
        count=len(records) if count is None else count,
        times=(timestamp, newest),
        producer=producer,
        magic=magic,
        crc=crc,
    )


def framed(
    body: bytes,
    base: int = 0,
    attributes: int = 0,
    *,
    last: int = 0,
    count: int = 1,
    times: tuple[int, int] = (0, 0),
    producer: int = -1,
    magic: int = 2,
    crc: int | None = None,
) -> bytes:
    """A batch around records that are packed already."""
    head = struct.pack(">hiqqqhii", attributes, last, *times, producer, 0, -1, count)
    checksum = google_crc32c.value(head + body) if crc is None else crc
    rest = struct.pack(">ibI", 0, magic, checksum) + head + body
    return struct.pack(">qi", base, len(rest)) + rest


def bomb(codec: int, size: int, base: int = 0) -> bytes:
    """A batch of one record of ``size`` zeros (millions), which are never in memory."""
    start = b"\0" + varint(0) + varint(0) + varint(-1) + varint(size)
    parts = [varint(len(start) + size + 1) + start, b"\0" * 1_000_000, b"\0"]
    times = [1, size // 1_000_000, 1]
    if codec == GZIP:  # its members may follow each other
        body = b"".join(gzip.compress(part) * n for part, n in zip(parts, times, strict=True))
    elif codec == SNAPPY:
        packed = [pa.compress(part, "snappy", asbytes=True) for part in parts]
        blocks = [struct.pack(">i", len(part)) + part for part in packed]
        body = _XERIAL + b"".join(block * n for block, n in zip(blocks, times, strict=True))
    else:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, _STREAMS[codec]) as stream:
            for part, n in zip(parts, times, strict=True):
                for _ in range(n):
                    stream.write(part)
        body = sink.getvalue().to_pybytes()
    return framed(body, base, codec)


def marker(base: int, producer: int, commit: bool) -> bytes:
    """The control batch at the end of a transaction."""
    rec = Rec(key=struct.pack(">hh", 0, int(commit)), value=b"\0" * 6)
    return batch([rec], base, flags=TRANSACTIONAL | CONTROL, producer=producer)
