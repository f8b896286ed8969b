"""Training on an archive larger than memory should be: how much memory it takes, and how long each stage.

    python -m bench.training --rows 20000000
    python -m bench.training --rows 2000000 --memory_mb 2500

Writes an archive of car_sensors features (Parquet, a million rows an hour) and trains on it for one epoch. Memory is
the resident memory of the process, sampled ten times a second, TensorFlow included. With ``--memory_mb`` the process
may take no more data memory than that (RLIMIT_DATA).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from beam_jobs.archives.layout import Layout
from beam_jobs.archives.rows import PROPERTY, archive_schema
from beam_jobs.codec.schema import arrow_schema
from beam_jobs.sandbox.fleet import Fleet
from beam_jobs.use_case import load_use_case
from bench import processes

CARS = 2000
HOUR_ROWS = 1_000_000
HOUR_MS = 3_600_000
START = 472_222 * HOUR_MS


def write_archive(folder: Path, rows: int) -> None:
    """An archive as ``beam_jobs.archive`` writes it; cars send an event every 7.2 s."""
    use_case = load_use_case("car_sensors")
    preprocessor = use_case.preprocessor()
    schema = archive_schema(use_case, "features")
    arrow = arrow_schema(schema).with_metadata({PROPERTY: json.dumps(schema[PROPERTY])})
    steps = HOUR_ROWS // CARS
    fleet = Fleet(CARS, 1, 0.2, START, HOUR_MS / 1000 / steps, span=rows / HOUR_ROWS * 3600, label="kind")
    for hour in range(-(-rows // HOUR_ROWS)):
        path = folder / Layout().period_folder(START // HOUR_MS + hour) / "part-0.parquet"
        path.parent.mkdir(parents=True)
        with pq.ParquetWriter(path, arrow, compression="zstd") as writer:
            for _ in range(min(steps, rows // CARS - hour * steps) // 20):
                events = fleet.step(20)
                done = preprocessor.apply(events)
                n = done.rows.num_rows
                columns = {
                    "source_topic": pa.array(["sensor-data"] * n),
                    "source_partition": pa.nulls(n, pa.int32()).fill_null(0),
                    "source_offset": pa.array(range(n)),
                    "source_timestamp": done.rows["event_time"],
                    use_case.label: events[use_case.label].take(pa.array(done.kept)),
                    **{name: done.rows[name] for name in done.rows.schema.names},
                }
                writer.write_batch(pa.record_batch([columns[f.name].cast(f.type) for f in arrow], schema=arrow))


def main() -> None:
    """Prints one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.training", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--memory_mb", type=int, help="limit of data memory; default: none")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="highbeam-bench-") as name:
        folder = Path(name)
        write_archive(folder / "archive", args.rows)
        size = sum(path.stat().st_size for path in (folder / "archive").rglob("*.parquet"))
        command = [sys.executable, "-m", "model.train", "--use_case", "car_sensors", "--no-baseline"]
        command += ["--data", str(folder / "archive"), "--registry", str(folder / "models")]
        command += ["--epochs", str(args.epochs)]
        if args.memory_mb:
            limit = args.memory_mb * 1_000_000
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        started = time.monotonic()
        try:
            ran = processes.run(command)
        except subprocess.CalledProcessError as error:
            sys.exit(error.stderr)
        (path,) = (folder / "models").rglob("manifest.json")
        made = json.loads(path.read_text())
        features = len(made["features"])
        found = {
            "rows": made["data"]["rows"],
            "features_mb": round(made["data"]["rows"] * features * 4 / 1e6),
            "archive_mb": round(size / 1e6),
            "peak_mb": round(ran.peak_mb),
            "seconds": round(time.monotonic() - started),
            "roc_auc": made["metrics"]["autoencoder"]["roc_auc"],
            "judged": made["metrics"]["autoencoder"]["rows"],
        }
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
