import pickle

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from apache_beam import coders
from apache_beam.utils.timestamp import Timestamp

from beam_jobs import block


def raw(n: int = 3) -> pa.RecordBatch:
    return block.raw_block(
        "events",
        [0] * n,
        list(range(10, 10 + n)),
        [1_700_000_000_000 + i for i in range(n)],
        [b"k"] * n,
        [None if i == 1 else b"v%d" % i for i in range(n)],
        [[("trace", b"1"), ("empty", None)], None, []][:n] + [None] * max(0, n - 3),
    )


def test_raw_block_keeps_tombstones_and_headers() -> None:
    rows = raw().to_pylist()
    assert [row["value"] for row in rows] == [b"v0", None, b"v2"]
    assert rows[0]["headers"] == [{"key": "trace", "value": b"1"}, {"key": "empty", "value": None}]
    assert rows[1]["headers"] is None
    assert rows[2]["headers"] == []
    assert {row["topic"] for row in rows} == {"events"}


def test_raw_block_without_headers_has_the_same_schema() -> None:
    made = block.raw_block("t", [0], [0], [0], [None], [None])
    assert made.schema == block.RAW_SCHEMA


def test_with_source_and_back() -> None:
    events = block.with_source(pa.record_batch({"speed": [1.0, 2.0]}), raw(), [0, 2])
    assert block.source_of(events).equals(block.take(raw(), [0, 2]))
    assert events.column("_offset").to_pylist() == [10, 12]


def test_split_and_concat_are_inverse() -> None:
    whole = raw(7)
    parts = list(block.split(whole, 3))
    assert [part.num_rows for part in parts] == [3, 3, 1]
    assert block.concat(parts).equals(whole)
    assert list(block.split(whole.slice(0, 0))) == []


def test_min_timestamp_of_both_shapes() -> None:
    expected = Timestamp(micros=1_700_000_000_000_000)
    assert block.min_timestamp(raw()) == expected
    assert block.min_timestamp(block.with_source(pa.record_batch({"x": [1, 2, 3]}), raw())) == expected


def test_coder_round_trip_and_registration() -> None:
    coder = coders.registry.get_coder(pa.RecordBatch)
    assert isinstance(coder, block.BlockCoder)
    assert coder.is_deterministic()
    assert coder.decode(coder.encode(raw())).equals(raw())
    assert pickle.loads(pickle.dumps(coder)) == coder


def test_coder_writes_a_slice_as_its_own_rows_only() -> None:
    big = block.raw_block("t", [0] * 1000, range(1000), [0] * 1000, [None] * 1000, [b"x" * 1000] * 1000)
    encoded = block.BlockCoder().encode(big.slice(10, 1))
    assert len(encoded) < 20_000  # of 1,000,000 bytes
    assert block.BlockCoder().decode(encoded).to_pylist() == big.slice(10, 1).to_pylist()


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_estimate_size_needs_no_encoding(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise AssertionError("encoded to measure")

    monkeypatch.setattr(block.BlockCoder, "encode", refuse)
    assert block.BlockCoder().estimate_size(raw(3).slice(0, rows)) == raw(3).slice(0, rows).nbytes


def test_a_block_says_of_which_stretch_it_is_wherever_it_goes() -> None:
    stretch = block.Stretch({0: (10, 14), 3: (7, 9)}, "an id")
    whole, coder = stretch.on(raw()), block.BlockCoder()
    events = block.with_source(pa.record_batch({"speed": [1.0, 2.0]}), whole, [0, 2])
    some = whole.filter(pc.is_valid(whole.column("value")))
    for moved in (whole, block.take(whole, [1]), some, whole.slice(2), events, block.concat([events, events])):
        assert block.stretch_of(coder.decode(coder.encode(moved))) == stretch
    assert block.stretch_of(raw()) is None
