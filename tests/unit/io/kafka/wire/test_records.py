"""Record batches as the protocol defines them, and what must never be read as one."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from beam_jobs.io.kafka.fetch import MAX_BLOCK_BYTES
from beam_jobs.io.kafka.wire.fetcher import blocks
from beam_jobs.io.kafka.wire.records import MILLIS, OFFSET, VALUE_SIZE, Records, read_batches
from beam_jobs.io.kafka.wire.unpack import BadBatchError, Room
from tests.unit.io.kafka.wire import record_batches as rb
from tests.unit.io.kafka.wire.record_batches import Rec, batch, marker

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
        found, _ = read_batches(3, np.frombuffer(raw, np.uint8), 0, len(raw), 0, check_crcs=False)
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


ONE = batch([Rec()])


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (batch([Rec()], magic=1), "message format 1"),
        (batch([Rec()], flags=5), "compression 5"),
        (batch([Rec()], flags=rb.GZIP), "gzip"),
        (batch([Rec()], flags=rb.SNAPPY), "snappy"),
        (batch([Rec()], flags=rb.LZ4), "lz4"),
        (batch([Rec()], flags=rb.ZSTD), "zstd"),
        (struct.pack(">qi", 0, 3) + b"\0" * 20, "starts no record batch"),
        (batch([Rec()], count=1 << 30), "more records than bytes"),
        (batch([Rec()], count=2), "more records than bytes"),
        (batch([Rec(b"v" * 9), Rec()], count=3), "damaged"),
        (batch([Rec(), Rec()], count=1), "damaged"),
        (batch([Rec()], count=-1), "more records than bytes"),
        (batch([Rec(offset=5), Rec(offset=3)], last=9), "damaged"),
        (batch([Rec(), Rec()], last=0), "damaged"),
        (batch([Rec()], crc=7), "does not have its checksum"),
    ],
)
def test_what_is_no_batch_is_refused_behind_what_is_one(data: bytes, text: str) -> None:
    with pytest.raises(BadBatchError, match=text):
        read(data)
    found, following = read(batch([Rec(b"good")]) + struct.pack(">q", 1) + data[8:])
    assert (found.values().to_pylist(), following) == ([b"good"], 1)  # then the next fetch begins with it


def test_a_batch_that_says_it_is_larger_than_what_came_is_refused() -> None:
    with pytest.raises(BadBatchError, match="starts no record batch"):
        read(ONE[:8] + struct.pack(">i", 1 << 30) + ONE[12:])


@given(RECORDS, st.sampled_from(CODECS), st.data())
def test_a_flipped_bit_is_seen(records: list[Rec], codec: int, data: st.DataObject) -> None:
    raw = bytearray(batch(records, codec=codec))
    at = data.draw(st.integers(17, len(raw) - 1))  # from the checksum on
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BadBatchError):
        read(bytes(raw))


@given(st.lists(st.tuples(RECORDS, st.sampled_from(CODECS)), min_size=1, max_size=4), st.integers(200, 3000))
def test_what_has_no_room_comes_with_the_next_fetch(batches: list[tuple[list[Rec], int]], limit: int) -> None:
    data, written, base = b"", [], 0
    for records, codec in batches:
        data += batch(records, base, codec=codec)
        written += [r.value for r in records]
        base += len(records)
    got, at = [], 0
    while at < base:
        room = Room(limit)
        try:
            found, following = read_batches(0, np.frombuffer(data, np.uint8), 0, len(data), at, room=room)
        except BadBatchError:
            assume(False)  # a batch that is too large alone
        assert room.used <= limit
        assert following > at
        got += found.values().to_pylist()
        at = following
    assert got == written


def test_more_records_than_an_index_has_room_for_come_with_the_next_fetch() -> None:
    data = batch([Rec(b"%d" % i) for i in range(50)]) + batch([Rec(b"%d" % i) for i in range(50, 70)], 50)
    got, at = [], 0
    while at < 70:
        room = Room()
        room.rows = 13
        found, at = read_batches(0, np.frombuffer(data, np.uint8), 0, len(data), at, room=room)
        assert len(found) <= 13
        got += found.values().to_pylist()
    assert got == [b"%d" % i for i in range(70)]


@pytest.mark.parametrize("codec", CODECS[1:])
def test_a_bomb_is_refused_in_little_memory(codec: int) -> None:
    data, limit = rb.bomb(codec, 300_000_000), 8 << 20
    room = Room(limit)
    with pytest.raises(BadBatchError, match=f"unpacks to more than {limit} bytes; raise receive.message.max.bytes"):
        read_batches(0, np.frombuffer(data, np.uint8), 0, len(data), 0, room=room)
    assert len(room.data) <= limit
    # Its neighbours are read: the partition's own before it, another one's after it.
    both = batch([Rec(b"before")]) + rb.bomb(codec, 300_000_000, base=1)
    found, following = read(both)
    assert (found.values().to_pylist(), following) == ([b"before"], 1)
    found, _ = read_batches(1, np.frombuffer(ONE, np.uint8), 0, len(ONE), 0, room=room)
    assert len(found) == 1


def test_headers_count() -> None:
    """They are part of what a record takes, so that no column of a block comes near the end of its int32 offsets."""
    found, _ = read(batch([Rec(b"v", b"k", headers=((b"name", b"x" * 100), (b"n", None))), Rec(b"v")]))
    assert found.sizes().tolist()[0] >= 2 + 4 + 100 + 1 + 2 * 32
    assert found.sizes().tolist()[1] == 1
    many = batch([Rec(b"before"), Rec(headers=tuple((b"", None) for _ in range(300)))])
    found, following = read_batches(0, np.frombuffer(many, np.uint8), 0, len(many), 0, room=Room(5000))
    assert (found.values().to_pylist(), following) == ([b"before"], 1)
    with pytest.raises(BadBatchError, match="with its 300 headers, more than 5000 bytes"):
        read_batches(0, np.frombuffer(many, np.uint8), 0, len(many), 1, room=Room(5000))


def test_no_column_wraps_around() -> None:
    """2,200 records that all show one megabyte: more bytes than a binary column counts."""
    data = np.zeros(1_000_000, np.uint8)
    index = np.zeros((8, 2200), np.int64)
    index[VALUE_SIZE] = len(data)
    with pytest.raises(OverflowError, match="2200000000 bytes"):
        Records(0, data, index).values()
    out = blocks("t", [Records(0, data, index[:, :200])], 32768)
    assert sum(block.num_rows for block in out) == 200
    assert max(block.nbytes for block in out) < 1.1 * MAX_BLOCK_BYTES


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3), st.booleans()), min_size=1, max_size=6), st.data())
def test_the_leader_epochs_of_the_batches_are_told(batches: list[tuple[int, int, bool]], data: st.DataObject) -> None:
    raw, base, expected = b"", 0, list[tuple[int, int]]()
    for epoch, count, control in batches:
        one = marker(base, 7, commit=True) if control else batch([Rec()] * count, base)
        raw += one[:12] + struct.pack(">i", epoch) + one[16:]
        base += 1 if control else count
        if expected and expected[-1][0] == epoch:
            expected.pop()
        expected.append((epoch, base))
    first = data.draw(st.integers(0, base - 1))
    found, following = read(raw, first)
    assert following == base
    assert found.epochs == expected  # a batch may begin before what was asked for
