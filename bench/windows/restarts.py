"""What is left of Kafka Streams' features after kill -9 and another start: a stream in order, compared with SQL.

Offsets are committed each 30 s, as they are by default, and the cache holds all rows until then: the kill finds nothing
committed. What Highbeam's features are after kills, its own tests say.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl

from bench import processes
from bench.windows.contenders import Input, of_streams, streams
from bench.windows.late import KINDS, ROWS, compared, expected, stream
from bench.windows.world import MINUTES, UseCases, send
from bench.world import topic

WAYS = {
    "memory": "Kafka Streams, processor, rows in memory",
    "rocksdb": "Kafka Streams, processor, rows in RocksDB",
}
_ENOUGH = 0.4  # of the results, when it is killed


def measured(servers: str, use_cases: UseCases, tell: Callable[[str], None]) -> dict[str, dict[str, int]]:
    """Way -> counts of :func:`bench.windows.late.compared`."""
    given, found = stream(late=False), {}
    source = topic(servers, "restarts", 4)
    send(source, given.table.to_batches())
    wanted = expected(given)
    for how, name in WAYS.items():
        with tempfile.TemporaryDirectory() as folder:
            begin = Input(source, ROWS, Path(folder), use_cases)
            application = f"restarts-{time.time_ns()}"
            _killed(streams(how, "before.csv", application)(begin), begin.folder / "before.csv")
            processes.run(streams(how, "after.csv", application)(begin))
            results = [of_streams(begin.folder, file) for file in ("before.csv", "after.csv")]
            found[name] = compared(pl.concat(results), wanted)[KINDS[0]]
        tell(f"{name}, killed: {found[name]}")
    return found


def _killed(command: list[str], output: Path) -> None:
    """Runs a command until much has been written, and what is whole of it is left."""
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lines: list[bytes] = []
    while len(lines) < _ENOUGH * ROWS * len(MINUTES) and job.poll() is None:
        time.sleep(0.1)
        lines = output.read_bytes().splitlines(keepends=True) if output.exists() else []
    job.kill()
    job.wait()
    output.write_bytes(b"".join(line for line in output.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")))
