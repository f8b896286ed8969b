"""The quick way gives what the row by row machine gives: rows, nulls and errors."""

from __future__ import annotations

import io
import struct
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_jobs.codec.avro import decoder as avro
from beam_jobs.codec.avro.decoder import AvroDecoder
from beam_jobs.codec.avro.tile import TILE
from beam_jobs.codec.avro.vm import run
from beam_jobs.codec.decoded import Decoded

SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Event",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "a", "type": "double"},
        {"name": "b", "type": "double"},
        {"name": "n", "type": "int"},
        {"name": "big", "type": "long"},
        {"name": "maybe", "type": ["null", "double"]},
        {"name": "note", "type": ["null", "string", "long"], "default": None},
        {"name": "skipped", "type": ["null", "string"]},
        {"name": "raw", "type": "bytes"},
        {"name": "flag", "type": ["boolean", "null"]},
    ],
}
WANTED = ["id", "a", "b", "n", "big", "maybe", "raw"]
OLDER: dict[str, Any] = {**SCHEMA, "fields": [f for f in SCHEMA["fields"] if f["name"] != "maybe"]}
READER: dict[str, Any] = {
    **SCHEMA,
    "fields": [{**f, "default": None} if f["name"] == "maybe" else f for f in SCHEMA["fields"]],
}
WRITERS = {1: fastavro.parse_schema(SCHEMA), 2: fastavro.parse_schema(OLDER)}
EVENTS = st.fixed_dictionaries(
    {
        "id": st.text(max_size=80),
        "a": st.floats(allow_nan=False),
        "b": st.just(1.5),
        "n": st.integers(-(2**31), 2**31 - 1),
        "big": st.integers(-(2**63), 2**63 - 1),
        "maybe": st.none() | st.floats(allow_nan=False),
        "note": st.none() | st.text(max_size=5) | st.integers(0, 9),
        "skipped": st.none() | st.text(max_size=200),
        "raw": st.binary(max_size=5),
        "flag": st.none() | st.booleans(),
    }
)


def encoded(event: dict[str, Any], writer: int) -> bytes:
    out = io.BytesIO()
    out.write(struct.pack(">bI", 0, writer))
    fastavro.schemaless_writer(out, WRITERS[writer], event)
    return out.getvalue()


def decoder(columns: list[str]) -> AvroDecoder:
    return AvroDecoder(READER, {1: SCHEMA, 2: OLDER}.__getitem__, columns)


def both_ways(values: list[bytes], columns: list[str]) -> Decoded:
    """What the quick way says, which the slow way says too."""

    def row_by_row(ops: Any, data: Any, starts: Any, ends: Any, entries: Any, *arenas: Any) -> int:
        return int(run(ops, data, starts, ends, entries, False, *arenas))

    block = pa.array(values, pa.binary())
    quick = decoder(columns).decode(block)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(avro, "run_tiles", row_by_row)
        slow = decoder(columns).decode(block)
    assert quick.rows.equals(slow.rows)
    assert quick.errors.rows.tolist() == slow.errors.rows.tolist()
    assert (quick.errors.reasons, quick.errors.errors) == (slow.errors.reasons, slow.errors.errors)
    return quick


@settings(max_examples=60)
@given(
    st.lists(st.tuples(EVENTS, st.sampled_from([1, 1, 1, 2])), min_size=1, max_size=12),
    st.integers(1, 2 * TILE + 5),
    st.booleans(),
)
def test_rows_of_several_schemas_with_nulls(events: list[tuple[dict[str, Any], int]], rows: int, whole: bool) -> None:
    columns = [f["name"] for f in SCHEMA["fields"] if f["name"] not in ("note", "flag")] if whole else WANTED
    cycle = [events[i % len(events)] for i in range(rows)]
    decoded = both_ways([encoded(event, writer) for event, writer in cycle], columns)
    assert not len(decoded.errors)
    expected = [
        {name: None if name == "maybe" and writer == 2 else event[name] for name in columns} for event, writer in cycle
    ]
    assert decoded.rows.to_pylist() == expected


@settings(max_examples=60)
@given(EVENTS, st.data())
def test_one_bad_row_among_good_ones(event: dict[str, Any], data: st.DataObject) -> None:
    good = encoded(event, 1)
    bad = bytearray(good[: data.draw(st.integers(0, len(good)))])
    for _ in range(data.draw(st.integers(0, 2))):
        if bad:
            bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    values = [good] * (TILE + 20)
    place = data.draw(st.integers(0, len(values) - 1))
    values[place] = bytes(bad) + data.draw(st.binary(max_size=3))
    decoded = both_ways(values, WANTED)
    assert decoded.rows.num_rows + len(decoded.errors) == len(values)
    assert decoded.errors.rows.tolist() in ([], [place])


def test_a_negative_and_an_unknown_branch_are_errors() -> None:
    event = {"id": "", "a": 0.0, "b": 0.0, "n": 0, "big": 0, "maybe": None, "note": None, "skipped": None, "raw": b""}
    good = encoded({**event, "flag": None}, 1)
    at = 5 + 1 + 8 + 8 + 1 + 1  # the branch of "maybe"
    for branch in (1, 4, 0x81):
        bad = good[:at] + bytes([branch]) + good[at + 1 :]
        decoded = both_ways([good, bad, good], WANTED)
        assert decoded.errors.rows.tolist() == [1]
