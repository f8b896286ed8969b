"""Shuttle: 49,097 readings of nine sensors of a space shuttle, 7 % of them strange; river ships it in its wheel."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import one_line
from bench.accuracy import peers
from bench.accuracy.detector import train_on
from bench.accuracy.figures import Found
from demo.broker import cache_dir
from model.kinds.autoencoder.settings import NetworkConfig
from model.training.evaluate import roc_auc

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

BUDGET = 0.01
CONFIG = NetworkConfig(hidden=(16, 4, 16))
TASKS = ("batch", "normal", "streaming")
STREAM_ROWS = 10_000
REFITS = (60, 180, 540, 1620, 4860)  # rows seen when a new model takes over
RIVER = "0.26.1"
SHA256 = "1ed4bfa77233d95bff2c8ab2482725d2d800410daedf5919ad80ec6faf60ff59"  # of shuttle.csv.gz in it


def measure(name: str, seed: int) -> Found:
    """One way of training, once."""
    x, strange = rows()
    found = Found("shuttle")
    if name == "streaming":
        found.add("streaming_roc_auc", _streaming(x[:STREAM_ROWS], strange[:STREAM_ROWS], seed))
        return found
    order = np.random.default_rng((seed, 3)).permutation(len(x))
    known, test = np.split(order, [int(0.6 * len(x))])
    if name == "normal":
        known = known[~strange[known]]
    train, validation = np.split(known, [int(0.75 * len(known))])
    failed = strange[test]

    def judge(who: str, scores: NDArray[Any], threshold: float) -> None:
        found.add(f"{name}_{who or 'roc_auc'}", roc_auc(scores, failed))
        found.add(f"{name}_{who}{'_' if who else ''}found", (scores[failed] > threshold).mean())
        found.add(f"{name}_{who}{'_' if who else ''}rate", (scores[~failed] > threshold).mean())

    for peer, make in peers.PEERS.items():
        score = make(x[train], seed)
        judge(peer, score(x[test]), peers.threshold(score(x[validation]), BUDGET))
    made = train_on(x[train], _one_key(train), x[validation], _one_key(validation), CONFIG, seed)
    judge("", made.score(x[test]), made.threshold(BUDGET))
    found.add(f"{name}_left_out", made.left_out.mean())
    if made.doubt:
        found.sentences[f"shuttle.{name}"] = made.doubt
    return found


def _streaming(x: Floats, strange: Bools, seed: int) -> float:
    """ROC AUC of scores each of which comes from a model of earlier rows; the rows before the first model score 0.

    A new model takes over at each of REFITS; scores are in units of a high score of that model's own validation rows,
    so that they compare.
    """
    scores = np.zeros(len(x))
    for start, end in zip(REFITS, (*REFITS[1:], len(x)), strict=True):
        seen = np.random.default_rng((seed, 4)).permutation(start)
        train, validation = np.split(seen, [int(0.75 * start)])
        config = replace(CONFIG, batch_size=min(512, max(16, start // 16)), epochs=40)
        made = train_on(x[train], _one_key(train), x[validation], _one_key(validation), config, seed)
        scores[start:end] = made.score(x[start:end]) / np.quantile(made.normal, 0.9)
    return roc_auc(scores, strange)


def _one_key(rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """One shuttle."""
    return np.zeros(len(rows), np.uint64)


@cache
def rows() -> tuple[Floats, Bools]:
    """Readings [n, 9] in the file's order, and which are strange [n]; OSError if they can't be had."""
    with gzip.open(io.BytesIO(_file()), "rt") as lines:
        table = [[float(value) for value in line] for line in list(csv.reader(lines))[1:]]
    data = np.array(table)
    return data[:, :-1], data[:, -1] > 0


def _file() -> bytes:
    """shuttle.csv.gz, taken once from river's wheel; river itself is not installed."""
    path = cache_dir() / "shuttle.csv.gz"
    if not path.exists():
        with tempfile.TemporaryDirectory() as folder:
            pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:")
            done = subprocess.run([*pip, "--dest", folder, f"river=={RIVER}"], capture_output=True, text=True)
            wheel = next(Path(folder).glob("river-*.whl"), None)
            if wheel is None:
                raise OSError(f"pip could not download river {RIVER}: {one_line(done.stderr, 200)}")
            with zipfile.ZipFile(wheel) as file:
                content = file.read("river/datasets/shuttle.csv.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise OSError(f"{path} is not the file that was measured: its sha256 is not {SHA256}")
    return content
