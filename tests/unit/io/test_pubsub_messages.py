"""Messages to blocks and back, whatever is in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.block import raw_block
from beam_jobs.io import pubsub_messages as pm

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


@given(ROWS, st.booleans())
def test_records_come_back_as_they_were(rows: list[Any], ordered: bool) -> None:
    rows = [(k, v, None if h is None else [(n, x) for n, x in h if utf8(n)]) for k, v, h in rows]
    n = len(rows)
    keys, values, headers = zip(*rows, strict=True)
    sent = raw_block("t", [0] * n, range(n), [7] * n, list(keys), list(values), list(headers))
    messages = list(pm.to_messages(sent, ordered))
    for message in messages:
        assert message.data or message.attributes or message.ordering_key  # the service refuses nothing at all
        assert pm.message_bytes(message) <= pm.MAX_MESSAGE_BYTES
    found = block(messages)
    assert found.column("key").to_pylist() == list(keys)
    assert found.column("value").to_pylist() == list(values)
    got = [sorted((h["key"], h["value"] or b"") for h in row or []) for row in found.column("headers").to_pylist()]
    assert got == [sorted((k, v or b"") for k, v in row or []) for row in headers]


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
