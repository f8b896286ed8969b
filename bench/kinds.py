"""How many rows a second each kind of model scores, all in one run: the table of docs/kinds.md.

    python -m bench.kinds
    python -m bench.kinds --rows 65536 --rounds 9

Each kind learns from the same simulated rows of 19 features, failures among them for those that learn from labels, and
scores the same block on one thread; the kinds take turns, and of each the best round counts. Times are the processor's,
so that others on the machine count little.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from beam_jobs.use_case import load_use_case
from model.kinds import KINDS
from model.kinds.protocol import Scorer, Training, learns_from_labels
from model.rows import Part

FEATURES = 19
TRAINING_ROWS = 20_000
SETTINGS: dict[str, dict[str, Any]] = {"autoencoder": {"epochs": 1}}


def part(n: int, seed: int) -> Part:
    """Rows as wide as those of the cars, and which of them fail."""
    random = np.random.default_rng(seed)
    failed = random.random(n) < 0.02
    x = random.normal(30, 3, (n, FEATURES)) + 9 * failed[:, None] * (np.arange(FEATURES) < 3)
    return Part(x.astype(np.float32), np.arange(n, dtype=np.uint64) % 100, np.zeros(n, np.int64), failed)


def made(name: str, folder: Path) -> tuple[Scorer, float, float]:
    """A kind's model as jobs load it, and the CPU seconds of training, and the seconds that loading took."""
    kind, features = KINDS.get(name), load_use_case("car_sensors").preprocessor().features
    own = kind.settings(**SETTINGS.get(name, {}))
    parts = [part(TRAINING_ROWS, 1), part(TRAINING_ROWS // 4, 2)]
    train, validation = parts if learns_from_labels(own) else [each.without_failures() for each in parts]
    started = time.process_time()
    fitted = kind.fit(Training(train, validation, features, own, 1, None, folder / "logs", lambda *_: None))
    trained = time.process_time() - started
    fitted.save(folder)
    started = time.perf_counter()
    scorer = kind.load(folder)
    return scorer, trained, time.perf_counter() - started


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.kinds", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=32_768, help="of the block")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    x = np.asfortranarray(part(args.rows, 3).x[:])  # as the preprocessing leaves them
    with tempfile.TemporaryDirectory() as scratch:
        scorers, said = {}, {}
        for name in KINDS.names():
            folder = Path(scratch) / name
            folder.mkdir()
            scorers[name], trained, loaded = made(name, folder)
            size = sum(path.stat().st_size for path in folder.rglob("*.npz"))
            said[name] = f"{trained:.1f} s | {1000 * loaded:.0f} ms | {size / 1000:,.0f} kB"
            scorers[name].score(x)  # compiles
        best = dict.fromkeys(scorers, np.inf)
        for _ in range(args.rounds):
            for name, scorer in scorers.items():
                started = time.thread_time()
                scorer.score(x)
                best[name] = min(best[name], time.thread_time() - started)
    print(f"{args.rows:,} rows of {FEATURES} features, one thread")
    print("| kind | rows/s | ns a row | training, 20,000 rows, CPU | loading | files |\n|---|---|---|---|---|---|")
    for name, seconds in best.items():
        print(f"| `{name}` | {args.rows / seconds:,.0f} | {seconds / args.rows * 1e9:,.0f} | {said[name]} |")


if __name__ == "__main__":
    main()
