"""What is done with late rows: a small stream, every result compared with SQL over all rows.

1,000 cars send 50 events each; of 100 rows two to nine minutes late are 4, half an hour late 1. Rows come in the order
of their arrival, which their records' timestamps say; what a row means is its event time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import polars.selectors as cs
import pyarrow as pa

from bench import processes
from bench.windows.contenders import CHECKED, KEYS, Input
from bench.windows.world import FUNCTIONS, MINUTES, VALUE, UseCases, events, send
from bench.world import topic

MINUTE_MS = 60_000
CARS, ROWS = 1000, 50_000
KINDS = ("in order", "2 to 9 minutes late", "30 minutes late")
_SAME = 1e-6  # relative: Highbeam's features are float32, and Flink's deviation is a difference of sums of squares


@dataclass(frozen=True)
class Stream:
    """Events in the order of their arrival."""

    table: pa.Table
    arrived: list[int]  # ms
    kinds: list[str]


def stream(late: bool) -> Stream:
    table = pa.Table.from_batches(events(ROWS, CARS))
    rng = np.random.default_rng(3)
    times = table.column("event_time").cast(pa.int64()).to_numpy()
    kind = rng.choice(3, len(times), p=[0.95, 0.04, 0.01]) if late else np.zeros(len(times), np.int64)
    some, long = rng.integers(2 * MINUTE_MS, 9 * MINUTE_MS, len(times)), np.full(len(times), 30 * MINUTE_MS)
    arrived = times + np.choose(kind, [np.zeros(len(times), np.int64), some, long])
    order = np.argsort(arrived, kind="stable")
    return Stream(table.take(pa.array(order)), arrived[order].tolist(), [KINDS[k] for k in kind[order]])


def expected(given: Stream) -> pl.DataFrame:
    """Of each row and frame what SQL says of all rows, and of those that had come by then (names end in _then)."""
    rows = pl.DataFrame(
        {
            "car_id": given.table.column("car_id").to_pylist(),
            "time_ms": given.table.column("event_time").cast(pa.int64()).to_numpy(),
            "value": given.table.column(VALUE).to_numpy(),
            "place": np.arange(given.table.num_rows),
            "kind": given.kinds,
        }
    ).to_arrow()
    calls = ", ".join(f"{function}(b.value) AS {function}" for function in FUNCTIONS)
    then = ", ".join(f"{function}(b.value) FILTER (b.place <= a.place) AS {function}_then" for function in FUNCTIONS)
    with duckdb.connect() as connection:
        connection.register("rows", rows)
        found = connection.execute(
            f"SELECT a.car_id, a.time_ms, minutes, a.kind, {calls}, {then} FROM rows a "
            f"CROSS JOIN (SELECT unnest({list(MINUTES.values())}) AS minutes) JOIN rows b ON b.car_id = a.car_id "
            f"AND b.time_ms BETWEEN a.time_ms - minutes * {MINUTE_MS} AND a.time_ms GROUP BY ALL"
        ).to_arrow_table()
    return pl.DataFrame(found).with_columns(cs.float().fill_null(0.0))


def compared(results: pl.DataFrame, wanted: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Kind of row -> how many there are, and what they got."""
    counted = results.group_by(KEYS, maintain_order=True).agg(
        pl.len().alias("results"),
        pl.col(FUNCTIONS).first().name.suffix("_first"),
        pl.col(FUNCTIONS).last().name.suffix("_last"),
    )
    both = wanted.join(counted, on=KEYS, how="left").with_columns(pl.col("results").fill_null(0))

    def same(of: str, as_: str) -> pl.Expr:
        return pl.all_horizontal(
            (pl.col(f"{name}{of}") - pl.col(f"{name}{as_}")).abs() <= _SAME * (1 + pl.col(f"{name}{as_}").abs())
            for name in FUNCTIONS
        ).fill_null(False)

    rows = (
        both.with_columns(then=same("_first", "_then"), sql_first=same("_first", ""), sql_last=same("_last", ""))
        .group_by("car_id", "time_ms", "kind")
        .agg(  # a row is right when all its frames are
            pl.col("results").min().alias("fewest"),
            pl.col("results").max(),
            pl.col("then", "sql_first", "sql_last").all(),
        )
    )
    figures = rows.group_by("kind").agg(
        pl.len().alias("rows"),
        (pl.col("fewest") == 0).sum().alias("without a result"),
        (pl.col("results") > 1).sum().alias("with several"),
        pl.col("then").sum().alias("of the rows that had come"),
        pl.col("sql_first").sum().alias("as SQL, at first"),
        pl.col("sql_last").sum().alias("as SQL, in the end"),
    )
    return {row.pop("kind"): row for row in figures.sort("rows", descending=True).to_dicts()}


def measured(servers: str, use_cases: UseCases, tell: Callable[[str], None]) -> dict[str, dict[str, dict[str, int]]]:
    """Name -> kind of row -> counts.

    Raises:
      RuntimeError: one computes something else where no row is late.
    """
    found: dict[str, dict[str, dict[str, int]]] = {}
    for late in (False, True):
        given = stream(late)
        source = topic(servers, "late" if late else "in-order", 4)
        send(source, given.table.to_batches(), given.arrived)
        wanted = expected(given)
        for checked in CHECKED.values():
            with tempfile.TemporaryDirectory() as folder:
                begin = Input(source, ROWS, Path(folder), use_cases)
                processes.run(checked.command(begin))
                counts = compared(checked.read(begin.folder), wanted)
            tell(f"{'late' if late else 'in order'}, {checked.name}: {counts}")
            if late:
                found[checked.name] = counts
            elif counts[KINDS[0]]["as SQL, at first"] != ROWS:
                raise RuntimeError(f"{checked.name} computes something else: {counts}")
    return found
