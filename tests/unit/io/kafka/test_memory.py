"""What a reader takes of memory has a bound that is stated (docs/operations.md), whatever a producer has written."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np

from beam_jobs.io.kafka.wire import records
from beam_jobs.io.kafka.wire.fetcher import blocks
from beam_jobs.io.kafka.wire.unpack import BadBatchError, Room
from tests.unit.io.kafka.wire import record_batches as rb
from tests.unit.io.kafka.wire.record_batches import Rec, batch

MB = 1 << 20
LIMIT = 4 * MB  # receive.message.max.bytes
# Of docs/operations.md: response, room (twice while it grows), blocks with 40 bytes a row, index.
STATED = 4 * LIMIT + (40 + 64) * (2 << 20)
SLACK = 64 * MB  # the allocators' own, and Python's


def limit_memory(more: int) -> None:
    """From here on the process can't have more than it has now, and ``more`` bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = pages * os.sysconf("SC_PAGESIZE") + more
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))


def hostile() -> dict[str, bytes]:
    """Responses by what is bad about them."""
    three = batch([Rec(bytes(3 * MB))], codec=rb.ZSTD)
    return {
        **{f"bomb {codec}": rb.bomb(codec, 400_000_000) for codec in (rb.GZIP, rb.SNAPPY, rb.LZ4, rb.ZSTD)},
        "headers": batch([Rec(headers=[(b"", bytes(1_000_000))] * 40)], codec=rb.ZSTD),
        "many headers": batch([Rec(headers=[(b"", b"")] * 200_000)], codec=rb.GZIP),
        "tiny records": batch([Rec(None)] * 100_000, codec=rb.SNAPPY),
        "many batches": b"".join(struct.pack(">q", i) + three[8:] for i in range(150)),
    }


def read(data: bytes) -> tuple[int, str]:
    """Rows that were read as the fetcher does it, and why it went no further."""
    response = np.frombuffer(data, np.uint8).copy()
    room, rows, at = Room(LIMIT), 0, 0
    while True:
        room.clear()
        try:
            found, after = records.read_batches(0, response, 0, len(response), at, room=room)
        except BadBatchError as error:
            return rows, str(error)
        made = blocks("t", [found], 32768)
        rows += sum(block.num_rows for block in made)
        if after == at or not len(found):
            return rows, ""
        at = after


def main() -> None:
    responses = hostile()
    records.warm_up()
    read(batch([Rec()], codec=rb.ZSTD))
    limit_memory(STATED + SLACK)
    for name, data in responses.items():
        print(name, *read(data), sep="|")


def test_what_a_reader_takes_is_bounded() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from tests.unit.io.kafka.test_memory import main; main()"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[4],
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = {name: (int(rows), why) for name, rows, why in (line.split("|") for line in done.stdout.splitlines())}
    too_much = f"more than {LIMIT} bytes"
    for codec in (rb.GZIP, rb.SNAPPY, rb.LZ4, rb.ZSTD):
        assert found[f"bomb {codec}"][0] == 0
        assert too_much in found[f"bomb {codec}"][1]
    assert too_much in found["headers"][1]
    assert "with its 200000 headers" in found["many headers"][1]
    assert found["tiny records"] == (100_000, "")
    assert found["many batches"] == (150, "")
