"""The four requests of Kafka's protocol that reading needs: ApiVersions, Metadata, Fetch; and their responses.

Versions are the newest without tagged fields (Metadata 8, Fetch 11), which Kafka has spoken since 2.3 and still does:
https://kafka.apache.org/protocol. All functions are pure; responses that end early raise ``ShortResponseError``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FETCH, METADATA, API_VERSIONS, EPOCH_END = 1, 3, 18, 23  # api keys; the last is OffsetForLeaderEpoch
FETCH_VERSION, METADATA_VERSION, EPOCH_END_VERSION = 11, 8, 3


class ShortResponseError(ValueError):
    """A response that ends before its last field."""


@dataclass(frozen=True)
class Metadata:
    """Who leads what."""

    brokers: dict[int, tuple[str, int]]  # node id -> host, port
    leaders: dict[int, int]  # partition -> node id; partitions without a leader are left out
    error: int  # of the topic; 0: none


@dataclass(frozen=True)
class FetchedPartition:
    """One partition's part of a fetch response."""

    partition: int
    error: int
    end_offset: int  # of what may be read: the last stable offset, or the high watermark
    aborted: tuple[tuple[int, int], ...]  # producer id, first offset
    start: int  # [start, stop) are the record batches' bytes
    stop: int


def request(api: int, version: int, correlation: int, client_id: str, body: bytes) -> bytes:
    """A whole request: size, header version 1, body."""
    message = struct.pack(">hhi", api, version, correlation) + _string(client_id) + body
    return struct.pack(">i", len(message)) + message


def metadata_request(topic: str) -> bytes:
    """Body; the topic is not created by asking."""
    return struct.pack(">i", 1) + _string(topic) + struct.pack(">???", False, False, False)


def fetch_request(
    topic: str,
    positions: Mapping[int, int],
    *,
    max_wait_ms: int,
    max_bytes: int,
    max_partition_bytes: int,
    read_committed: bool,
) -> bytes:
    """Body; ``positions`` are partition -> offset."""
    head = struct.pack(">iiiibii", -1, max_wait_ms, 1, max_bytes, read_committed, 0, -1)  # no fetch session
    parts = [head, struct.pack(">i", 1), _string(topic), struct.pack(">i", len(positions))]
    parts += [struct.pack(">iiqqi", p, -1, offset, -1, max_partition_bytes) for p, offset in positions.items()]
    return b"".join([*parts, struct.pack(">i", 0), _string("")])


def epoch_end_request(topic: str, partition: int, epoch: int) -> bytes:
    """Body of an OffsetForLeaderEpoch request, of a consumer that does not say which leader it expects."""
    head = struct.pack(">ii", -1, 1) + _string(topic)
    return head + struct.pack(">iiii", 1, partition, -1, epoch)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">h", len(data)) + data


class _Reader:
    """Takes fields off a response."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self._view = memoryview(data)  # type: ignore[arg-type]
        self.at = 4  # behind the correlation id

    def skip(self, size: int) -> None:
        if size < 0 or self.at + size > len(self._view):
            raise ShortResponseError(
                f"the response ends at byte {len(self._view)}, a field is to end at {self.at + size}"
            )
        self.at += size

    def number(self, kind: str) -> int:
        start = self.at
        self.skip(struct.calcsize(kind))
        return int(struct.unpack_from(">" + kind, self._view, start)[0])

    def string(self) -> str:
        size = self.number("h")
        start = self.at
        self.skip(max(size, 0))
        return bytes(self._view[start : self.at]).decode(errors="replace")

    def repeat(self) -> Iterable[int]:
        return range(max(self.number("i"), 0))


def api_versions(data: NDArray[np.uint8]) -> dict[int, tuple[int, int]]:
    """Api key -> oldest and newest version, of an ApiVersions response version 0."""
    reader = _Reader(data)
    reader.skip(2)
    found = {}
    for _ in reader.repeat():
        key, low, high = (reader.number("h") for _ in range(3))
        found[key] = (low, high)
    return found


def metadata(data: NDArray[np.uint8]) -> Metadata:
    """Of a Metadata response for one topic."""
    reader = _Reader(data)
    reader.skip(4)  # throttle time
    brokers = {}
    for _ in reader.repeat():
        node, host, port = reader.number("i"), reader.string(), reader.number("i")
        reader.string()  # rack
        brokers[node] = (host, port)
    reader.string()  # cluster id
    reader.skip(4)  # controller
    error, leaders = 0, {}
    for _ in reader.repeat():
        error = reader.number("h")
        reader.string()
        reader.skip(1)  # is internal
        for _ in reader.repeat():
            reader.skip(2)  # error: the leader says it too
            partition, leader = reader.number("i"), reader.number("i")
            reader.skip(4)  # leader epoch
            for _ in range(3):  # replicas, in sync, offline
                reader.skip(4 * max(reader.number("i"), 0))
            if leader >= 0:
                leaders[partition] = leader
        reader.skip(4)  # authorized operations
    return Metadata(brokers, leaders, error)


def fetched(data: NDArray[np.uint8], read_committed: bool) -> tuple[int, list[FetchedPartition]]:
    """Error code and partitions of a Fetch response."""
    reader = _Reader(data)
    reader.skip(4)  # throttle time
    error = reader.number("h")
    reader.skip(4)  # session id
    partitions = []
    for _ in reader.repeat():
        reader.string()
        for _ in reader.repeat():
            partition, failure = reader.number("i"), reader.number("h")
            high, stable = reader.number("q"), reader.number("q")
            reader.skip(8)  # log start offset
            aborted = tuple((reader.number("q"), reader.number("q")) for _ in reader.repeat())
            reader.skip(4)  # preferred replica: asked for without a rack, it is the leader
            size = reader.number("i")
            start = reader.at
            reader.skip(max(size, 0))
            end = stable if read_committed and stable >= 0 else high
            partitions.append(FetchedPartition(partition, failure, end, aborted, start, reader.at))
    return error, partitions


def epoch_end(data: NDArray[np.uint8]) -> tuple[int, int]:
    """Of an OffsetForLeaderEpoch response for one partition: error code, offset where the epoch ends or -1: not known.

    Raises:
      ValueError: the partition is left out.
    """
    reader = _Reader(data)
    reader.skip(4)  # throttle time
    found = None
    for _ in reader.repeat():
        reader.string()
        for _ in reader.repeat():
            error = reader.number("h")
            reader.skip(8)  # partition, epoch
            found = error, reader.number("q")
    if found is None:
        raise ValueError("it leaves the partition out of its answer")
    return found
