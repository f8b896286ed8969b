"""Container files: every way they are packed, and how much they may unpack to."""

from __future__ import annotations

import bz2
import io
import json
import lzma
import resource
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from isal import isal_zlib

from beam_jobs.codec import read_avro
from beam_jobs.codec.avro import container
from beam_jobs.codec.avro.file import _long
from beam_jobs.errors import UserError

SCHEMA = {"type": "record", "name": "R", "fields": [{"name": "b", "type": "bytes"}]}
SYNC = bytes(range(16))


def deflated(data: bytes) -> bytes:
    stream = zlib.compressobj(9, wbits=-15)
    return stream.compress(data) + stream.flush()


def snappy(data: bytes) -> bytes:
    return pa.compress(data, "snappy", asbytes=True) + zlib.crc32(data).to_bytes(4, "big")


PACK: dict[str, Callable[[bytes], bytes]] = {
    "null": bytes,
    "deflate": deflated,
    "snappy": snappy,
    "zstandard": lambda data: pa.compress(data, "zstd", asbytes=True),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


def head(codec: str) -> bytes:
    entries = {"avro.schema": json.dumps(SCHEMA), "avro.codec": codec, "made.by": "\udcff"}
    parts = [container.MAGIC, _long(len(entries))]
    for name, value in entries.items():
        data = value.encode(errors="surrogateescape")
        parts += [_long(len(name)), name.encode(), _long(len(data)), data]
    return b"".join([*parts, _long(0), SYNC])


def block(packed: bytes, records: int = 1) -> bytes:
    return _long(records) + _long(len(packed)) + packed + SYNC


def body(size: int) -> bytes:
    return _long(size) + bytes(size)


def read(data: bytes) -> list[bytes]:
    return [row["b"] for rows in read_avro(io.BytesIO(data), SCHEMA) for row in rows.to_pylist()]


@pytest.mark.parametrize("codec", PACK)
def test_every_codec_is_read_and_damage_is_seen(codec: str) -> None:
    packed = PACK[codec](_long(3) + b"abc" + _long(2) + b"de")
    whole = head(codec) + block(packed, 2) + block(PACK[codec](body(5000)))
    assert read(whole) == [b"abc", b"de", bytes(5000)]
    assert set(PACK) == set(container.CODECS)
    ends = len(head(codec)), len(head(codec)) + len(block(packed, 2))
    for at in {*range(ends[0] + 1, ends[1]), *range(ends[1] + 1, len(whole), 401)}:
        with pytest.raises(UserError, match="is broken in block"):
            read(whole[:at])
    assert read(whole[: ends[1]]) == [b"abc", b"de"]
    if codec == "snappy":  # it has a checksum
        flipped = bytes([*packed[:-6], packed[-6] ^ 1, *packed[-5:]])
        with pytest.raises(UserError, match="snappy: its checksum is another one"):
            read(head(codec) + block(flipped, 2))


@pytest.mark.parametrize("codec", [codec for codec in PACK if codec != "null"])
def test_what_unpacks_to_too_much_is_refused(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "_SMALL_BYTES", 1 << 20)
    monkeypatch.setattr(container, "_MOST_TIMES", 8)
    assert read(head(codec) + block(PACK[codec](body((1 << 20) - 3)))) == [bytes((1 << 20) - 3)]  # exactly so much
    good, bomb = PACK[codec](_long(3) + b"abc"), PACK[codec](bytes(4 << 20))
    with pytest.raises(UserError, match=r"is broken in block 1 .*unpack to"):
        read(head(codec) + block(good) + block(bomb) + block(good))
    monkeypatch.setattr(container, "_MOST_TIMES", 100_000)
    assert len(read(head(codec) + block(PACK[codec](body(4 << 20))))) == 1


def test_a_bomb_takes_no_more_memory_than_the_bound(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    packer = isal_zlib.compressobj(3, wbits=-15)
    zeros = bytes(1 << 20)
    packed = b"".join(packer.compress(zeros) for _ in range(600)) + packer.flush()
    (tmp_path / "bomb.avro").write_bytes(head("deflate") + block(packed))
    with pytest.raises(UserError, match=r"bomb\.avro' is broken in block 0 \(its \d+ bytes unpack to more than \d+\)"):
        list(read_avro(tmp_path / "bomb.avro", SCHEMA))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10  # kB


def test_a_codec_nobody_reads_is_named() -> None:
    with pytest.raises(UserError, match="packed with 'lzo', not with one of null, deflate, snappy, zstandard"):
        read(head("lzo") + block(b"x"))


def test_sizes_that_are_none() -> None:
    for size in (1 << 40, (1 << 63) - 1):
        with pytest.raises(UserError, match="is said to have"):
            read(head("null") + _long(1) + _long(size) + b"x" + SYNC)
    with pytest.raises(UserError, match="-1 records"):
        read(head("null") + b"\x01" + _long(1) + b"\0" + SYNC)
    with pytest.raises(UserError, match="has no end"):
        read(head("null") + b"\xff" * 20)
    with pytest.raises(UserError, match="no readable header"):
        read(container.MAGIC + _long(1) + _long(1 << 40))
