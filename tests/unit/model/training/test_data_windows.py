"""Training on window features: rows by event time across files, the features DuckDB computes over all of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from beam_jobs.sandbox.fleet import history
from beam_jobs.use_case import load_use_case
from model.training.data import Counts, read, source

SQL = """
SELECT car_id, event_time, current_draw - avg(current_draw) OVER w AS draw_above_mean, max(speed) OVER w AS top_speed
FROM events
WHERE battery_voltage > 0
WINDOW w AS (PARTITION BY car_id ORDER BY event_time RANGE BETWEEN INTERVAL '5' SECOND PRECEDING AND CURRENT ROW)
"""
CARS = replace(load_use_case("car_sensors"), sql=SQL)


def test_features_of_shuffled_files_are_those_of_the_whole(tmp_path: Path) -> None:
    events = pl.DataFrame(pl.from_arrow(pa.Table.from_batches(list(history(4000, seed=2, cars=40)))))
    events = events.sample(fraction=1.0, shuffle=True, seed=3)
    for number in range(4):
        pq.write_table(events.slice(number * 1000, 1000).to_arrow(), tmp_path / f"{number}.parquet")
    counts = Counts()
    parts = list(read(CARS, source(str(tmp_path)), counts, tmp_path))
    x, times = np.concatenate([part.x for part in parts]), np.concatenate([part.times for part in parts])
    keys = [key for part in parts for key in part.keys.to_pylist()]
    assert counts.read == len(x) == 4000
    assert (np.diff(times) >= 0).all()
    # DuckDB's type with a time zone needs an extension, and that of milliseconds has no epoch_ms.
    naive = events.with_columns(pl.col("event_time").dt.replace_time_zone(None).dt.cast_time_unit("us"))
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.register("events", naive.to_arrow())
        whole = f"SELECT *, epoch_ms(event_time) AS ms FROM ({SQL}) ORDER BY ms, car_id"
        expected = connection.execute(whole).fetchnumpy()
    order = np.lexsort((np.array(keys), times))
    np.testing.assert_array_equal(times[order], expected["ms"])
    for column, name in enumerate(("draw_above_mean", "top_speed")):
        np.testing.assert_allclose(x[order, column], expected[name], rtol=1e-5, atol=1e-4)
