"""What the records of a batch unpack to, and never more than there is room for."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs.io.kafka.fetch import DEFAULT_LIMIT

Bytes = NDArray[np.uint8]

_KEPT_BYTES = 64 << 20  # from one response to the next: memory that is touched already costs nothing
_MAX_ROWS = 2 << 20  # of one response: their index takes 64 bytes a record, the smallest record seven

_STREAMS = {1: "gzip", 3: "lz4", 4: "zstd"}
_SNAPPY = 2
_XERIAL = b"\x82SNAPPY\x00"  # the framing the Java client puts around snappy blocks


class BadBatchError(ValueError):
    """Bytes that are no record batch of format 2, or one that there can't be room for."""


class NoRoomError(Exception):
    """What is left of the room is too small; all of it might do."""


class Room:
    """Memory for what the batches of a response unpack to.

    ``full``: something had to be left for the next response.

    Args:
      limit: bytes that may be used.
    """

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self.limit = limit
        self.clear()
        self.data = np.empty(min(1 << 20, limit), np.uint8)

    def clear(self) -> None:
        """For the next response; nothing of the last one is looked at any more."""
        self.used, self.rows, self.full = 0, _MAX_ROWS, False
        if hasattr(self, "data") and len(self.data) > _KEPT_BYTES:
            self.data = np.empty(_KEPT_BYTES, np.uint8)

    def add(self, codec: int, records: Bytes) -> None:
        """Puts what ``records`` unpack to behind what is there, in ``data[used before : used]``.

        ``data`` may be another array after it; the old one keeps what it had.

        Raises:
          NoRoomError: it is more than is left.
          BadBatchError: an unknown compression, or damaged.
        """
        try:
            if not codec:
                self._put(records)
            elif codec == _SNAPPY:
                self._unsnappy(memoryview(records))  # type: ignore[arg-type]
            elif codec in _STREAMS:
                self._stream(_STREAMS[codec], records)
            else:
                raise BadBatchError(f"compression {codec} is not known")
        except (OSError, EOFError, pa.ArrowException) as error:
            raise BadBatchError(f"{_STREAMS.get(codec, 'snappy')}: {error}") from error

    def _put(self, part: Bytes) -> None:
        end = self.used + len(part)
        if end > len(self.data):
            self._grow(end)
        self.data[self.used : end] = part
        self.used = end

    def _grow(self, size: int) -> None:
        if size > self.limit:
            self.full = True
            raise NoRoomError
        larger = np.empty(min(max(size, 2 * len(self.data)), self.limit), np.uint8)
        larger[: self.used] = self.data[: self.used]
        self.data = larger

    def _stream(self, name: str, records: Bytes) -> None:
        before = self.used
        try:
            with pa.CompressedInputStream(pa.BufferReader(pa.py_buffer(records)), name) as stream:
                while True:
                    read = stream.readinto(memoryview(self.data)[self.used :])  # type: ignore[arg-type]
                    self.used += read
                    if self.used == len(self.data):
                        more = stream.read(1)
                        self._put(np.frombuffer(more, np.uint8))
                        read += len(more)
                    if not read:
                        return
        except BaseException:
            self.used = before
            raise

    def _unsnappy(self, records: memoryview) -> None:
        before = self.used
        try:
            if bytes(records[:8]) != _XERIAL:
                self._snappy_block(records)
                return
            at = 16  # the magic, a version and a compatible version
            while at < len(records):
                size = int.from_bytes(records[at : at + 4], "big")
                if not 0 < size <= len(records) - at - 4:
                    raise BadBatchError(f"snappy: a block of {size} bytes where {max(0, len(records) - at - 4)} follow")
                self._snappy_block(records[at + 4 : at + 4 + size])
                at += 4 + size
        except BaseException:
            self.used = before
            raise

    def _snappy_block(self, block: memoryview) -> None:
        size, shift = 0, 0
        for byte in block[:5]:  # the block starts with its size as a varint
            size |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        if size > 255 * max(len(block), 64):
            raise BadBatchError(f"a snappy block of {len(block)} bytes says it holds {size}")
        if self.used + size > self.limit:
            self.full = True
            raise NoRoomError
        self._put(np.frombuffer(pa.decompress(block, decompressed_size=size, codec="snappy"), np.uint8))
