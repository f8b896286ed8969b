"""Recorded rows come log by log, or by event time."""

from __future__ import annotations

import pyarrow as pa

from beam_jobs.preprocessing.windows.order import by_log


def test_rows_of_no_log_come_by_event_time() -> None:
    times = [[5, 1, 3], [], [None, 3, 2]]
    names = iter("abcdef")
    blocks = [
        pa.record_batch({"at": pa.array(part, pa.timestamp("ms", "UTC")), "name": [next(names) for _ in part]})
        for part in times
    ]
    blocks[1] = blocks[0].slice(0, 0)
    (log,) = (list(blocks) for blocks in by_log(blocks, "at", rows=4))
    assert [block.num_rows for block in log] == [4, 2]
    assert [name for block in log for name in block["name"].to_pylist()] == ["b", "f", "c", "e", "a", "d"]
    assert list(by_log([], "at")) == []


def test_rows_of_a_log_come_in_its_order_whatever_their_time() -> None:
    def block(topic: str, partitions: list[int], offsets: list[int]) -> pa.RecordBatch:
        return pa.record_batch(
            {
                "_topic": pa.array([topic] * len(offsets), pa.string()),
                "_partition": pa.array(partitions, pa.int32()),
                "_offset": pa.array(offsets, pa.int64()),
                "at": pa.array([-offset for offset in offsets], pa.timestamp("ms", "UTC")),
            }
        )

    blocks = [block("a", [1, 0, 1], [7, 3, 2]), block("b", [1], [0]), block("a", [0, 1], [1, 4]), block("b", [], [])]
    logs = [pa.Table.from_batches(log).select(["_topic", "_partition", "_offset"]) for log in by_log(blocks, "at", 2)]
    assert [[tuple(row.values()) for row in log.to_pylist()] for log in logs] == [
        [("a", 0, 1), ("a", 0, 3)],
        [("a", 1, 2), ("a", 1, 4), ("a", 1, 7)],
        [("b", 1, 0)],
    ]
