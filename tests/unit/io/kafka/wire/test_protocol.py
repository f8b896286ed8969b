"""Requests and responses, byte by byte as https://kafka.apache.org/protocol lays them out."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from beam_jobs.io.kafka.wire import protocol


def text(value: str) -> bytes:
    return struct.pack(">h", len(value)) + value.encode()


def array(*items: bytes) -> bytes:
    return struct.pack(">i", len(items)) + b"".join(items)


def response(*parts: bytes) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.frombuffer(struct.pack(">i", 7) + b"".join(parts), np.uint8)  # the correlation id


def partition(number: int, leader: int) -> bytes:
    ids = array(*[struct.pack(">i", leader)] * 2)
    return struct.pack(">hiii", 0, number, leader, 5) + ids + ids + array()


METADATA = response(
    struct.pack(">i", 0),
    array(
        struct.pack(">i", 1) + text("a.example") + struct.pack(">i", 9092) + text("rack-1"),
        struct.pack(">i", 2) + text("b.example") + struct.pack(">i", 9093) + struct.pack(">h", -1),
    ),
    text("cluster"),
    struct.pack(">i", 1),
    array(
        struct.pack(">h", 0) + text("t") + b"\0" + array(partition(0, 1), partition(1, -1), partition(2, 2)) + b"\0" * 4
    ),
)
RECORDS = b"some bytes"
FETCHED = response(
    struct.pack(">ihi", 0, 0, 0),
    array(
        text("t")
        + array(
            struct.pack(">ihqqq", 4, 0, 100, 90, 0)
            + array(struct.pack(">qq", 9, 50))
            + struct.pack(">ii", -1, len(RECORDS))
            + RECORDS,
            struct.pack(">ihqqq", 5, 1, -1, -1, -1) + struct.pack(">i", -1) + struct.pack(">ii", -1, -1),
        )
    ),
)


def test_metadata_names_brokers_and_the_leaders_there_are() -> None:
    found = protocol.metadata(METADATA)
    assert found.brokers == {1: ("a.example", 9092), 2: ("b.example", 9093)}
    assert found.leaders == {0: 1, 2: 2}
    assert found.error == 0


@pytest.mark.parametrize(("committed", "end"), [(True, 90), (False, 100)])
def test_fetched_partitions_name_their_bytes_and_their_end(committed: bool, end: int) -> None:
    error, (full, refused) = protocol.fetched(FETCHED, committed)
    assert error == 0
    assert (full.partition, full.error, full.end_offset, full.aborted) == (4, 0, end, ((9, 50),))
    assert FETCHED[full.start : full.stop].tobytes() == RECORDS
    assert (refused.partition, refused.error, refused.start == refused.stop) == (5, 1, True)


@pytest.mark.parametrize("size", range(4, len(METADATA)))
def test_metadata_cut_short_anywhere_is_refused(size: int) -> None:
    with pytest.raises(protocol.ShortResponseError):
        protocol.metadata(METADATA[:size])


@pytest.mark.parametrize("size", range(4, len(FETCHED)))
def test_a_fetch_response_cut_short_anywhere_is_refused(size: int) -> None:
    with pytest.raises(protocol.ShortResponseError):
        protocol.fetched(FETCHED[:size], True)


def test_a_request_announces_its_size() -> None:
    body = protocol.metadata_request("t")
    data = protocol.request(protocol.METADATA, protocol.METADATA_VERSION, 42, "me", body)
    assert struct.unpack_from(">ihhi", data) == (len(data) - 4, 3, protocol.METADATA_VERSION, 42)
    assert data.endswith(text("me") + body)


def test_a_fetch_request_asks_for_each_partition_at_its_offset() -> None:
    body = protocol.fetch_request(
        "t", {3: 70, 1: 5}, max_wait_ms=100, max_bytes=999, max_partition_bytes=55, read_committed=True
    )
    assert struct.unpack_from(">iiii?", body) == (-1, 100, 1, 999, True)
    asked = [struct.unpack_from(">iiqqi", body, at) for at in (36, 64)]
    assert [(p, offset, size) for p, _, offset, _, size in asked] == [(3, 70, 55), (1, 5, 55)]
