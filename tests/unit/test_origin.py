"""Where an event was first recorded: by its own position or by the header a replay has set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.block import HEADERS_TYPE, Block, raw_block, with_source
from beam_jobs.io.pubsub.messages import to_block, to_messages
from beam_jobs.origin import ORIGIN_HEADER, origin, origin_headers

Headers = list[tuple[str, bytes | None]] | None


def block(headers: list[Headers] | None) -> Block:
    n = 1 if headers is None else len(headers)
    raw = raw_block("again", [1] * n, range(50, 50 + n), [0] * n, [None] * n, [None] * n, headers)
    return with_source(pa.record_batch({"x": pa.array(range(n))}), raw)


def ids(headers: list[Headers] | None) -> Any:
    return origin(block(headers)).ids().to_pylist()


def named(value: bytes | None) -> Headers:
    return [("trace", b"1"), (ORIGIN_HEADER, value)]


def test_without_the_header_it_is_the_records_own_position() -> None:
    assert ids(None) == ["again-1-50"]
    assert ids([None, [], [("trace", b"x-1-2")]]) == ["again-1-50", "again-1-51", "again-1-52"]


def test_no_header_costs_no_copy() -> None:
    made = block(None)
    assert origin(made).offset is made.column("_offset") or origin(made).offset.equals(made.column("_offset"))
    assert origin(made).topic.buffers()[1].address == made.column("_topic").buffers()[1].address


def test_rows_with_and_without_it() -> None:
    found = origin(block([named(b"sensor-data-2-48121"), None, named(b"other-0-0"), [("trace", None)]]))
    assert found.ids().to_pylist() == ["sensor-data-2-48121", "again-1-51", "other-0-0", "again-1-53"]
    assert found.partition.type == pa.int32()
    assert found.offset.type == pa.int64()
    assert found.topic.type == pa.dictionary(pa.int32(), pa.string())


@pytest.mark.parametrize(
    "value",
    [
        *(None, b"", b"t", b"t-1", b"-1-1", b"t-1-x", b"t-1-2 ", b"a b-1-2", b"\xff\xfe-1-2", b"t-1-2\n"),
        *(b"t-2147483648-0", b"t-0-9223372036854775808", b"t-0-" + b"9" * 40, b"t" * 300 + b"-1-2", b"t-\xd9\xa1-1"),
    ],
)
def test_a_header_that_names_no_position_is_passed_over(value: bytes | None) -> None:
    assert ids([named(value), named(b"t-7-8")]) == ["again-1-50", "t-7-8"]


def test_the_first_of_several_counts() -> None:
    assert ids([[(ORIGIN_HEADER, b"a-1-1"), (ORIGIN_HEADER, b"b-2-2")]]) == ["a-1-1"]


@pytest.mark.parametrize("partition", [999_999_999, 1_000_000_000, 2**31 - 1])
@pytest.mark.parametrize("offset", [0, 16 * 10**15, 9 * 10**18 - 1, 9 * 10**18, 2**63 - 1])
def test_the_largest_positions(partition: int, offset: int) -> None:
    text = f"t-{partition}-{offset}"
    assert ids([named(text.encode())]) == [text]


TOPICS = st.text(st.characters(min_codepoint=ord("!"), max_codepoint=ord("~")), min_size=1, max_size=255)
POSITIONS = st.tuples(TOPICS, st.integers(0, 2**31 - 1), st.integers(0, 2**63 - 1))


@given(positions=st.lists(POSITIONS, min_size=1, max_size=5), buses=st.lists(st.sampled_from(["kafka", "pubsub"])))
def test_it_survives_any_number_of_round_trips(positions: list[tuple[str, int, int]], buses: list[str]) -> None:
    """Replayed, archived, replayed again, over either bus."""
    headers: list[Any] = [named(b"%s-%d-%d" % (t.encode(), p, o)) for t, p, o in positions]
    for bus in buses:
        written = origin_headers(origin(block(headers)))
        n = len(written)
        if bus == "pubsub":
            values = raw_block("x", [0] * n, range(n), [0] * n, [None] * n, [b"v"] * n, written)
            written = to_block("x", list(to_messages(values, True)), np.arange(n), np.zeros(n, np.int64))["headers"]
        headers = [[(h["key"], h["value"]) for h in row] for row in written.to_pylist()]
    found = origin(block(headers))
    assert list(zip(*(column.to_pylist() for column in found), strict=True)) == positions


def test_slices() -> None:
    whole = block([named(b"a-0-1"), None, named(b"a-0-3"), named(b"a-0-4")])
    assert origin(whole.slice(1, 2)).ids().to_pylist() == ["again-1-51", "a-0-3"]
    assert origin(whole.slice(0, 0)).ids().to_pylist() == []


def test_written_headers_are_read_back() -> None:
    first = origin(block([named(b"a-0-1"), None]))
    headers = origin_headers(first)
    assert headers.type == HEADERS_TYPE
    assert ids([[(h["key"], h["value"]) for h in row] for row in headers.to_pylist()]) == ["a-0-1", "again-1-51"]
