"""What got slower: ratios taken in pairs, compared with the recorded ones. Under three minutes.

    python -m bench.quick            # compares with bench/results/quick.json, exit 1 if something got slower
    python -m bench.quick --record   # makes this run the new record

A ratio is our way over the usual way (fastavro, pickle, TensorFlow, a hand-written loop), both in turns in this run:
the machine's speed cancels out. What is below ``--tolerance`` of its record is named. Not part of ``make test``.
"""

from __future__ import annotations

import os

os.environ.setdefault("POLARS_MAX_THREADS", "1")

import argparse
import json
import sys
import tempfile
from pathlib import Path

import pyarrow as pa

from bench import score, steps

RECORD = Path(__file__).parent / "results" / "quick.json"
RECORDS, ROUNDS = 300_000, 2  # of the whole job


def measured() -> dict[str, float]:
    """Name -> ratio."""
    pa.set_cpu_count(1)
    with tempfile.TemporaryDirectory() as folder:
        found = steps.measure({**steps.codec(), **steps.inference(Path(folder))}, rounds=7)
    ratios = {name: float(figures["over_usual"]) for name, figures in found.items()}
    runs = score.compare(RECORDS, ROUNDS, ["highbeam_fn", "script"])
    for peer, each in score.ratios(runs).items():
        ratios[f"whole job ({peer})"] = round(max(each), 2)  # the better round: a disturbance only ever slows down
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.quick", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--record", action="store_true", help="take this run as the new record")
    parser.add_argument("--tolerance", type=float, default=0.7, help="share of the recorded ratio that is still fine")
    args = parser.parse_args()
    now = measured()
    if args.record:
        RECORD.write_text(json.dumps(now, indent=2) + "\n")
        print(f"recorded in {RECORD}")
        return
    known = json.loads(RECORD.read_text())
    slower = [name for name in known if now.get(name, 0.0) < args.tolerance * known[name]]
    for name, ratio in now.items():
        mark = "  SLOWER" if name in slower else ""
        print(f"{name:44s} {ratio:8.2f} x, recorded {known.get(name, float('nan')):8.2f}{mark}")
    if slower:
        sys.exit(f"slower than recorded: {', '.join(slower)}")


if __name__ == "__main__":
    main()
