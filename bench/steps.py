"""Each step of the main path alone, against its usual alternative: ratios taken turn by turn in one run.

    python -m bench.steps --rounds 15
    python -m bench.steps --group windows

Decoding and preprocessing have benches of their own too (bench.decode, bench.preprocess). One thread each. Writes
``bench/results/steps.json``.
"""

from __future__ import annotations

import os

os.environ.setdefault("POLARS_MAX_THREADS", "1")

import argparse
import io
import json
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import fastavro
import numpy as np
import pandas as pd
import pyarrow as pa

import schemas
from beam_jobs.block import BlockCoder, raw_block
from beam_jobs.codec import AvroDecoder, AvroEncoder
from beam_jobs.preprocessing.windows.frames import Frame, Window
from beam_jobs.preprocessing.windows.history import History
from beam_jobs.sandbox.fleet import Fleet
from beam_jobs.use_case import load_use_case
from bench.world import CARS, train
from model.loaded import LoadedModel
from model.registry import resolve

RESULTS = Path(__file__).parent / "results" / "steps.json"
ROWS = 8192
BATCHES = (1, 16, 256, 1024, 8192, 32_768)

Work = Callable[[], object]


def codec() -> dict[str, tuple[int, Work, Work]]:
    """Name -> rows, our way, the usual way."""
    schema = schemas.load("car_sensor")
    parsed = fastavro.parse_schema(schema)
    preprocessor = load_use_case("car_sensors").preprocessor()
    block = Fleet(CARS, seed=1, prevalence=0.05, interval=1.0, span=20.0).step(ROWS // CARS + 1).slice(0, ROWS)
    encoder = AvroEncoder(schema, 1)
    values = encoder.encode(block)
    decoder = AvroDecoder(schema, lambda _: schema, preprocessor.input_columns)
    bodies, rows = [value[5:] for value in values.to_pylist()], block.to_pylist()
    events = decoder.decode(values).rows
    coder = BlockCoder()
    raw = raw_block(
        "topic",
        np.zeros(ROWS, np.int32),
        np.arange(ROWS, dtype=np.int64),
        np.zeros(ROWS, np.int64),
        block.column("car_id").cast(pa.binary()),
        values,
        None,
    )

    def encode_rows() -> None:
        for row in rows:
            fastavro.schemaless_writer(io.BytesIO(), parsed, row)

    def ratio_by_row() -> list[dict[str, float]]:
        names = preprocessor.features
        return [
            {n: r["engine_vibration_amplitude"] / (r["speed"] + 1) if n not in r else r[n] for n in names} for r in rows
        ]

    return {
        "decode (fastavro)": (
            ROWS,
            lambda: decoder.decode(values),
            lambda: [fastavro.schemaless_reader(io.BytesIO(body), parsed, None) for body in bodies],
        ),
        "encode (fastavro)": (ROWS, lambda: encoder.encode(block), encode_rows),
        "preprocess (a dict a row, no checks)": (ROWS, lambda: preprocessor.apply(events), ratio_by_row),
        "coder, there and back (pickle)": (
            ROWS,
            lambda: coder.decode(coder.encode(raw)),
            lambda: pickle.loads(pickle.dumps(raw.to_pylist())),
        ),
    }


def windows() -> dict[str, tuple[int, Work, Work]]:
    """A block of a fleet that sends an event a second and car, its 5-minute windows full: avg, min, max.

    Ours takes the next block each time. The usual ways have no state: they are given the block with its history,
    and compute all of it.
    """
    minutes, blocks = 5, 300
    rng = np.random.default_rng(5)
    warm = CARS * minutes * 60
    events = warm + ROWS * blocks
    car = np.concatenate([rng.permutation(CARS) for _ in range(events // CARS + 1)])[:events]
    times = np.arange(events, dtype=np.int64) // CARS * 1_000_000 + rng.integers(0, 1_000_000, events)
    times = np.sort(times)
    values = rng.normal(20, 5, events)
    names = pa.array([f"car-{i:06d}" for i in range(CARS)])
    keys = pa.DictionaryArray.from_arrays(pa.array(car), names)
    valid = np.ones((1, events), np.bool_)
    history = History([Window(function, 0, Frame(minutes * 60_000_000)) for function in ("avg", "min", "max")])
    place = 0

    def advance(rows: int = ROWS) -> object:
        nonlocal place
        start, place = place, place + rows
        assert place <= events, "more blocks are needed"
        block = keys.slice(start, rows).cast(pa.string())
        return history.advance(
            block, times[start:place], times[start:place], values[None, start:place], valid[:, start:place]
        )

    while place < warm:
        advance(min(ROWS, warm - place))
    known = slice(0, warm + ROWS)
    frame = pd.DataFrame(
        {"car": keys.slice(0, warm + ROWS).cast(pa.string()).to_pylist(), "x": values[known]},
        index=pd.to_datetime(times[known], unit="us"),
    )
    table = pa.table({"car": keys.slice(0, warm + ROWS).cast(pa.string()), "x": values[known], "moment": times[known]})
    connection = duckdb.connect(config={"threads": 1})
    connection.register("events", table.set_column(2, "moment", table["moment"].cast(pa.timestamp("us"))))
    sql = f"""SELECT avg(x) OVER w, min(x) OVER w, max(x) OVER w FROM events WINDOW w AS (
        PARTITION BY car ORDER BY moment RANGE BETWEEN INTERVAL {minutes} MINUTES PRECEDING AND CURRENT ROW)"""
    return {
        "window features (pandas' rolling, with history)": (
            ROWS,
            advance,
            lambda: frame.groupby("car")["x"].rolling(f"{minutes * 60}s", closed="both").agg(["mean", "min", "max"]),
        ),
        "window features (DuckDB, with history)": (ROWS, advance, lambda: connection.execute(sql).fetchnumpy()),
    }


def inference(folder: Path) -> dict[str, tuple[int, Work, Work]]:
    """Batches of several sizes through the compiled network and through TensorFlow's SavedModel."""
    version = resolve(str(train(folder)), "car_sensors")
    compiled = LoadedModel.load(version.path)
    from model.kinds import tf

    tf.keras(threads=1)
    import tensorflow

    saved = tensorflow.saved_model.load(str(version.path / "saved_model"))
    rng = np.random.default_rng(3)
    found: dict[str, tuple[int, Work, Work]] = {}
    for size in BATCHES:
        x = np.asfortranarray(rng.normal(50, 20, (size, len(version.manifest.features))).astype(np.float32))
        tensor = tensorflow.constant(np.ascontiguousarray(x))
        found[f"inference, batch of {size} (SavedModel)"] = (
            size,
            lambda x=x: compiled.score(x),  # type: ignore[misc]
            lambda tensor=tensor: saved.serve(tensor),  # type: ignore[misc]
        )
    return found


def seconds(work: Work, least: float = 0.01) -> float:
    """Of one call; short ones are repeated."""
    calls, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < least:
        work()
        calls += 1
    return spent / calls


def measure(steps: dict[str, tuple[int, Work, Work]], rounds: int) -> dict[str, dict[str, Any]]:
    """Step -> rows a second, and the median of the rounds' ratios over the usual way."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for round_ in range(rounds + 1):
        for name, (_, ours, usual) in steps.items():
            pair = seconds(ours), seconds(usual)
            if round_:  # the first one warms up
                taken[name].append(pair)
    result = {}
    for name, pairs in taken.items():
        ratios = [usual / ours for ours, usual in pairs]
        result[name] = {
            "rows_per_second": round(steps[name][0] / statistics.median(ours for ours, _ in pairs)),
            "over_usual": round(statistics.median(ratios), 1),
            "spread": [round(min(ratios), 1), round(max(ratios), 1)],
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.steps", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--group", choices=("codec", "windows", "inference"), help="only these steps; others stay recorded"
    )
    args = parser.parse_args()
    pa.set_cpu_count(1)
    with tempfile.TemporaryDirectory() as folder:
        groups: dict[str, Callable[[], dict[str, tuple[int, Work, Work]]]] = {
            "codec": codec,
            "windows": windows,
            "inference": partial(inference, Path(folder)),
        }
        chosen = [args.group] if args.group else list(groups)
        found = measure({name: step for group in chosen for name, step in groups[group]().items()}, args.rounds)
    for name, figures in found.items():
        print(f"{name:40s} {figures['rows_per_second']:12,} rows/s {figures['over_usual']:8.1f} x {figures['spread']}")
    RESULTS.parent.mkdir(exist_ok=True)
    known = json.loads(RESULTS.read_text()) if args.group else {}
    RESULTS.write_text(json.dumps(known | found, indent=2) + "\n")


if __name__ == "__main__":
    main()
