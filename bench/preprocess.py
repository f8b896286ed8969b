"""Time to preprocess one block of car sensor events: `python -m bench.preprocess`.

Prints the median of many calls, one thread of Polars, for a clean block and for one with 1 % bad rows, and the parts.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("POLARS_MAX_THREADS", "1")

import numpy as np
import pyarrow as pa

from beam_jobs.preprocessing import checks
from beam_jobs.preprocessing.fields import Field, fields_of
from beam_jobs.use_case import load_use_case

ROWS = 8192
CALLS = 300


def block(fields: dict[str, Field], columns: tuple[str, ...], rows: int, bad: float = 0.0) -> pa.RecordBatch:
    """Random events inside the schema's limits, a share ``bad`` of them out of range in one field."""
    rng = np.random.default_rng(0)
    arrays = {}
    for name in columns:
        field = fields[name]
        if field.kind == "string":
            arrays[name] = pa.array([f"car-{i % 200}" for i in range(rows)])
        elif field.kind == "timestamp":
            arrays[name] = pa.array(np.arange(rows) * 100, pa.timestamp("ms", "UTC"))
        else:
            low, high = field.minimum or 0.0, field.maximum or 1.0
            values = rng.uniform(low + (high - low) * 0.1, high - (high - low) * 0.1, rows)
            if name == "speed":
                values[rng.random(rows) < bad] = high + 1
            arrays[name] = pa.array(values) if field.floating else pa.array(values.astype(np.int32))
    return pa.record_batch(arrays)


def milliseconds(call: Callable[[], object]) -> float:
    """Median duration of ``call``, in milliseconds."""
    for _ in range(20):
        call()
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000


def main() -> None:
    use_case = load_use_case("car_sensors")
    start = time.perf_counter()
    query = use_case.preprocessor()
    print(f"compile                          {(time.perf_counter() - start) * 1000:8.3f} ms")
    fields = fields_of(use_case.schema)
    clean = block(fields, query.input_columns, ROWS)
    ranged = [fields[name] for name in query.input_columns if fields[name].kind == "number"]
    print(
        f"apply, clean {ROWS} x {clean.num_columns:<3}             {milliseconds(lambda: query.apply(clean)):8.3f} ms"
    )
    print(f"  check of the ranges alone      {milliseconds(lambda: checks.check_ranges(clean, ranged)):8.3f} ms")
    dirty = block(fields, query.input_columns, ROWS, bad=0.01)
    print(f"apply, 1 % out of range          {milliseconds(lambda: query.apply(dirty)):8.3f} ms")
    empty = clean.slice(0, 0)
    print(f"apply, no row                    {milliseconds(lambda: query.apply(empty)):8.3f} ms")
    small = clean.slice(0, 100)
    print(f"apply, 100 rows                  {milliseconds(lambda: query.apply(small)):8.3f} ms")


if __name__ == "__main__":
    main()
