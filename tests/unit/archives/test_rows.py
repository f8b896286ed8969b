"""The rows of an archive, and their schema."""

from __future__ import annotations

import pyarrow as pa

from beam_jobs.archives.rows import archive_rows, archive_schema
from beam_jobs.block import raw_block, with_source
from beam_jobs.use_case import UseCase

SCHEMA = {
    "type": "record",
    "name": "E",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}, "pii": "quasi"},
        {"name": "x", "type": "double"},
    ],
}


def test_a_time_that_was_cut_is_nowhere_as_it_was() -> None:
    use_case = UseCase("case", SCHEMA, "SELECT id, truncate(at, 'hour') AS at, x FROM events", "id", "at", None)
    schema = archive_schema(use_case, "features")
    assert [f.get("truncated") for f in schema["fields"] if f["name"] == "at"] == ["hour"]
    at = 1_764_000_123_456
    events = pa.record_batch({"id": ["a"], "at": pa.array([at], pa.timestamp("ms", "UTC")), "x": [1.0]})
    block = with_source(use_case.preprocessor().apply(events).rows, raw_block("t", [0], [7], [at], [b"a"], [b"v"]))
    (row,) = archive_rows(block, schema).to_pylist()
    assert row["source_offset"] == 7
    assert row["at"] == row["source_timestamp"]
    assert row["at"].timestamp() == at // 3_600_000 * 3600
