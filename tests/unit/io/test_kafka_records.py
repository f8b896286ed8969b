"""Record batches as the protocol defines them, and what must never be read as one."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.io.kafka_records import MILLIS, OFFSET, BadBatchError, Records, read_batches
from tests.unit.io import record_batches as rb
from tests.unit.io.record_batches import Rec, batch, marker

CODECS = [rb.NONE, rb.GZIP, rb.SNAPPY, rb.LZ4, rb.ZSTD]
RECORDS = st.lists(
    st.builds(
        Rec,
        value=st.none() | st.binary(max_size=300),
        key=st.none() | st.binary(max_size=20),
        headers=st.lists(
            st.tuples(st.text(max_size=5).map(str.encode), st.none() | st.binary(max_size=9)), max_size=3
        ).map(tuple),
        millis=st.integers(-1000, 10**6),
    ),
    min_size=1,
    max_size=20,
)


def read(data: bytes, first: int = 0, aborted: tuple[tuple[int, int], ...] = ()) -> tuple[Records, int]:
    return read_batches(3, np.frombuffer(data, np.uint8), 0, len(data), first, aborted)


def offsets(records: Records) -> list[int]:
    return list(records.index[OFFSET])


@given(st.lists(st.tuples(RECORDS, st.sampled_from(CODECS)), min_size=1, max_size=3))
def test_what_was_written_is_read(batches: list[tuple[list[Rec], int]]) -> None:
    data, written, base = b"", [], 100
    for records, codec in batches:
        data += batch(records, base, timestamp=5000, codec=codec)
        written += records
        base += len(records)
    found, following = read(data, 100)
    assert following == base
    assert offsets(found) == list(range(100, base))
    assert list(found.index[MILLIS]) == [5000 + r.millis for r in written]
    assert found.keys().to_pylist() == [r.key for r in written]
    assert found.values().to_pylist() == [r.value for r in written]
    expected = [[{"key": n.decode(), "value": v} for n, v in r.headers] or None for r in written]
    assert found.headers().to_pylist() == expected


@given(RECORDS, st.integers(0, 25))
def test_records_before_the_offset_asked_for_are_left_out(records: list[Rec], first: int) -> None:
    found, following = read(batch(records), first)
    assert offsets(found) == list(range(first, len(records)))
    assert following == max(first, len(records))


@given(RECORDS, st.data())
def test_damaged_bytes_are_refused_or_read_within_bounds(records: list[Rec], data: st.DataObject) -> None:
    raw = bytearray(batch(records) + batch(records, len(records)))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))]
    try:
        found, _ = read(bytes(raw))
    except BadBatchError:
        return
    for column in (found.keys(), found.values(), found.headers()):
        column.validate(full=True)


def test_a_batch_cut_short_by_the_broker_is_left_for_the_next_fetch() -> None:
    whole, cut = batch([Rec(b"a"), Rec(b"b")]), batch([Rec(b"c")], 2)
    found, following = read(whole + cut[:-1])
    assert (offsets(found), following) == ([0, 1], 2)
    found, following = read(cut[:10], 2)
    assert (len(found), following) == (0, 2)


def test_compacted_offsets_are_stepped_over() -> None:
    found, following = read(batch([Rec(offset=2), Rec(offset=5)], 10, last=19))
    assert (offsets(found), following) == ([12, 15], 20)


def test_log_append_time_is_the_time_of_the_batch() -> None:
    found, _ = read(batch([Rec(millis=3), Rec(millis=9)], timestamp=1000, flags=rb.LOG_APPEND_TIME))
    assert list(found.index[MILLIS]) == [1009, 1009]


def test_aborted_transactions_and_markers_are_not_seen() -> None:
    data = (
        batch([Rec(b"kept"), Rec(b"kept")], 0, flags=rb.TRANSACTIONAL, producer=7)
        + batch([Rec(b"gone")], 2, flags=rb.TRANSACTIONAL, producer=9)
        + marker(3, 7, commit=True)
        + marker(4, 9, commit=False)
        + batch([Rec(b"later")], 5, flags=rb.TRANSACTIONAL, producer=9)
        + batch([Rec(b"plain")], 6)
    )
    found, following = read(data, aborted=((9, 2),))
    assert found.values().to_pylist() == [b"kept", b"kept", b"later", b"plain"]
    assert following == 7
    seen, _ = read(data)  # read_uncommitted: the broker names no aborted transaction
    assert seen.values().to_pylist() == [b"kept", b"kept", b"gone", b"later", b"plain"]


def test_names_that_are_not_utf8_do_not_lose_the_record() -> None:
    found, _ = read(batch([Rec(headers=[(b"\xff", b"x")])]))
    assert found.headers().to_pylist() == [[{"key": "\ufffd", "value": b"x"}]]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (batch([Rec()], magic=1), "message format 1"),
        (batch([Rec()], flags=5), "compression 5"),
        (batch([Rec()], flags=rb.GZIP), "gzip"),
        (batch([Rec()], flags=rb.ZSTD), "zstd"),
        (struct.pack(">qi", 0, 3) + b"\0" * 20, "starts no record batch"),
        (batch([Rec()])[:57] + struct.pack(">i", 1 << 30) + batch([Rec()])[61:], "more records than bytes"),
        (batch([Rec()])[:57] + struct.pack(">i", 2) + batch([Rec()])[61:], "damaged"),
    ],
)
def test_what_is_no_batch_is_refused(data: bytes, text: str) -> None:
    with pytest.raises(BadBatchError, match=text):
        read(data)
