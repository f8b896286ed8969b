"""Messages to blocks and back, whatever is in them."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_jobs.block import raw_block
from beam_jobs.io.pubsub import messages as pm

NAMES = st.one_of(st.sampled_from(["a", "b", "goog_x", "highbeam.key", "highbeam.value"]), st.text(max_size=5))
VALUES = st.one_of(st.none(), st.binary(max_size=20), st.text(max_size=10).map(str.encode))
HEADERS = st.one_of(st.none(), st.lists(st.tuples(NAMES, VALUES), min_size=1, max_size=5))
ROWS = st.lists(st.tuples(VALUES, VALUES, HEADERS), min_size=1, max_size=5)


def block(messages: list[Any], **more: Any) -> pa.RecordBatch:
    return pm.to_block("t", messages, np.arange(len(messages)), np.full(len(messages), 5), **more)


def utf8(name: str) -> bool:
    try:
        return bool(name.encode()) or True
    except UnicodeEncodeError:
        return False


Row = tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]] | None]


def there_and_back(rows: list[Row], ordered: bool) -> None:
    """What is sent is within the limits of the service, and what is read is what was sent."""
    n = len(rows)
    keys, values, headers = zip(*rows, strict=True)
    sent = raw_block("t", [0] * n, range(n), [7] * n, list(keys), list(values), list(headers))
    messages = list(pm.to_messages(sent, ordered))
    for message in messages:
        assert message.data or message.attributes  # the service refuses nothing at all
        assert len(message.ordering_key.encode()) <= 1024
        assert len(message.attributes) <= 100
        for name, value in message.attributes.items():
            assert 0 < len(name.encode()) <= 256
            assert len(value.encode()) <= 1024
            assert not name.startswith("goog")
    found = block(messages)
    assert found.column("key").to_pylist() == list(keys)
    assert found.column("value").to_pylist() == list(values)
    for row, sent_headers in zip(found.column("headers").to_pylist(), headers, strict=True):
        got = [(h["key"], h["value"]) for h in row or []]
        assert sorted(got, key=repr) == sorted(sent_headers or [], key=repr)
        for name in {k for k, _ in sent_headers or []}:  # and those of one name in their order
            assert [v for k, v in got if k == name] == [v for k, v in sent_headers or [] if k == name]


@given(ROWS, st.booleans())
def test_records_come_back_as_they_were(rows: list[Any], ordered: bool) -> None:
    there_and_back([(k, v, None if h is None else [(n, x) for n, x in h if utf8(n)]) for k, v, h in rows], ordered)


SIZES = [0, 1, 255, 256, 257, 767, 768, 769, 1023, 1024, 1025, 1500, 30_000, 45_000, 76_000, 80_000, 1_000_000]
EDGES = st.one_of(st.sampled_from(SIZES), st.integers(0, 3000), st.integers(0, 120_000))
FILLS = st.sampled_from([b"k", b"\xff", "\u044f".encode()])
COUNTS = st.one_of(st.sampled_from([0, 1, 48, 50, 51, 97, 98, 99, 100, 101, 150]), st.integers(0, 300))


def of_size(size: int, fill: bytes) -> bytes:
    return (fill * size)[:size]


@settings(max_examples=150, deadline=None)
@given(
    key=st.one_of(st.none(), st.builds(of_size, EDGES, FILLS)),
    value=st.one_of(st.none(), st.builds(of_size, EDGES, FILLS)),
    count=COUNTS,
    header=st.one_of(st.none(), st.builds(of_size, st.integers(0, 1100), FILLS)),
    long=st.builds(of_size, EDGES, FILLS),
    name=st.sampled_from(["trace", "", "n" * 256, "n" * 257, "h-0", "highbeam.origin", "highbeam.packed", "goog-1"]),
    ordered=st.booleans(),
)
def test_any_size_comes_back_as_it_was(
    key: bytes | None,
    value: bytes | None,
    count: int,
    header: bytes | None,
    long: bytes,
    name: str,
    ordered: bool,
) -> None:
    headers = [*((f"h-{i}", header) for i in range(count)), (name, long)]
    there_and_back([(key, value, None if count == 0 else headers)], ordered)


@pytest.mark.parametrize("ordered", [True, False])
def test_the_largest_of_each(ordered: bool) -> None:
    for size in (9_000_000, 9_990_000):
        for fill in (b"k", b"\xff"):
            large = of_size(size, fill)
            there_and_back(
                [(large, b"", None), (b"", large, None), (b"k", None, [("", large), ("n" * 3000, large)])], ordered
            )


@pytest.mark.parametrize("size", [1, 500, 600, 1024])
def test_a_message_with_all_attributes_is_put_back_with_all_of_them(size: int) -> None:
    """As a redrive does it, with its count and the record's time: what a message has no room for is left out."""
    for count in (97, 98, 99, 100):
        attributes = {f"name-{i:03}": "v" * size for i in range(count)}
        read = block([pm.Message(data=b"x", attributes=attributes)])
        (headers,) = read.column("headers").to_pylist()
        headers = [*((h["key"], h["value"]) for h in headers), ("highbeam.redrives", b"1")]
        (back,) = pm.to_messages(raw_block("t", [0], [0], [5], [None], read.column("value"), [headers]), True)
        assert back.data == b"x"
        assert {k: v for k, v in back.attributes.items() if k in attributes} == attributes
        assert (
            sorted(set(back.attributes) - set(attributes)) == ["highbeam.redrives", "highbeam.timestamp"][: 100 - count]
        )


def test_keys_that_can_be_no_ordering_keys_keep_their_order() -> None:
    keys = [b"\x00\xff", b"k" * 1025, b"", b"\x00\xff", "\u044f".encode() * 512]
    messages = list(pm.to_messages(raw_block("t", [0] * 5, range(5), [0] * 5, keys, [b"v"] * 5), True))
    given = [message.ordering_key for message in messages]
    assert given[0] == given[3]
    assert given[4] == keys[4].decode()
    assert len(set(given)) == 4
    assert all(given)


def test_headers_of_earlier_versions_are_read() -> None:
    pairs = [["a", None], ["b", base64.b64encode(b"x" * 900).decode()]]
    text = base64.b64encode(json.dumps(pairs).encode()).decode()
    attributes = {f"{pm.HEADERS}{i}": text[i * 1024 : (i + 1) * 1024] for i in range(2)}
    (row,) = block([pm.Message(data=b"x", attributes=attributes)]).column("headers").to_pylist()
    assert row == [{"key": "a", "value": None}, {"key": "b", "value": b"x" * 900}]


@given(
    data=st.binary(max_size=40),
    packed=st.one_of(st.none(), st.integers(-5, 50).map(str), st.text(max_size=5)),
    parts=st.lists(st.one_of(st.binary(max_size=30).map(lambda b: base64.b64encode(b).decode()), st.text(max_size=4))),
)
def test_whatever_others_call_packed_is_read(data: bytes, packed: str | None, parts: list[str]) -> None:
    attributes = {f"{pm.PACKED}.{i}": part for i, part in enumerate(parts)} | (
        {} if packed is None else {pm.PACKED: packed}
    )
    (row,) = block([pm.Message(data=data, attributes=attributes)]).to_pylist()
    kept = {h["key"] for h in row["headers"] or []}
    assert row["value"] == data or pm.PACKED not in kept


def test_a_time_from_an_attribute() -> None:
    texts = ["1700000000123", "2023-11-14T22:13:20.123Z", "2023-11-14T23:13:20.123+01:00", "soon", "9" * 30]
    messages = [pm.Message(data=b"x", attributes={"at": text}) for text in texts] + [pm.Message(data=b"x")]
    millis = block(messages, timestamp_attribute="at").column("timestamp").view(pa.int64()).to_pylist()
    assert millis == [1700000000123] * 3 + [5, 5, 5]


def test_ids_are_numbers_and_always_the_same() -> None:
    assert pm.message_numbers(["7", "17"]).tolist() == [7, 17]
    mixed = pm.message_numbers(["m12", "17", "9" * 30])
    assert mixed[1] == 17
    assert mixed.tolist() == pm.message_numbers(["m12", "17", "9" * 30]).tolist()
    assert (mixed >= 0).all()


def test_a_key_is_a_chain_of_requests() -> None:
    messages = [pm.Message(data=b"x" * 5_000_000, ordering_key=key) for key in ("a", "b", "a", "")]
    messages += [pm.Message(data=b"y") for _ in range(2500)]
    chains = pm.requests("projects/p/topics/t", messages)
    sizes = [[len(request.messages) for request in chain] for chain in chains]
    assert sorted(sizes) == [[1], [1, 1], [501], [1000], [1000]]
    assert all(len({m.ordering_key for request in chain for m in request.messages}) == 1 for chain in chains)


def test_hostile_attributes_are_headers_not_errors() -> None:
    attributes = {pm.KEY_BASE64: "%%%", f"{pm.HEADERS}0": "bm8ganNvbg==", pm.TIMESTAMP: "x"}
    (row,) = block([pm.Message(data=b"x", attributes=attributes)]).to_pylist()
    assert {h["key"] for h in row["headers"]} == {pm.KEY_BASE64, f"{pm.HEADERS}0"}
    assert row["value"] == b"x"
