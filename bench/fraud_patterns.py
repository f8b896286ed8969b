"""Which frauds of our own simulated payments detectors find at 1 alert in 1,000 payments: docs/fraud.md.

    python -m bench.fraud_patterns --seeds 5 --output fraud_own.json

A seed is a world of its own: cards, merchants, frauds. Features are those of use_cases/payment_fraud, made by its SQL
over all payments in the order of time; a model learns from some weeks, a week passes until all labels have come, and
it is judged by the weeks behind that. A fraud is found if one payment of its incident is an alert.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.sandbox.cards import DAY_MS
from beam_jobs.sandbox.frauds import PATTERNS, Payments, simulate
from beam_jobs.use_case import load_use_case
from model.kinds import KINDS
from model.kinds.protocol import Training, learns_from_labels
from model.rows import Part
from model.settings import ModelSettings
from model.training.evaluate import average_precision, roc_auc

CARDS, DAYS, PREVALENCE, BUDGET = 12_000, 90, 0.0017, 0.001
TRAIN, TEST = (37, 63), (70, 90)  # days; windows that look back 37 of them are full by then
HELD_OUT = 0.2  # share of the cards, for stopping early
BLOCK = 65_536
COMPARED = ("boosting", "isolation_forest")  # with the use case's own kind, by their defaults


@dataclass(frozen=True)
class Rows:
    """Payments with their features."""

    x: NDArray[np.float32]  # [n, F]
    card: NDArray[np.uint64]  # [n]
    time_ms: NDArray[np.int64]  # [n]
    incident: NDArray[np.int64]  # [n], -1: genuine
    pattern: NDArray[np.str_]  # [n]

    def between(self, days: tuple[int, int]) -> Rows:
        """Those of some days."""
        day = (self.time_ms - self.time_ms[0]) / DAY_MS
        return self.take(np.flatnonzero((day >= days[0]) & (day < days[1])))

    def take(self, rows: NDArray[np.int64]) -> Rows:
        """Some of them."""
        return Rows(self.x[rows], self.card[rows], self.time_ms[rows], self.incident[rows], self.pattern[rows])

    def part(self) -> Part:
        """As a model kind takes them."""
        return Part(self.x, self.card, self.time_ms, self.incident >= 0)


def rows_of(payments: Payments) -> Rows:
    """The features as the SQL makes them, block after block."""
    os.environ.setdefault("HIGHBEAM_PII_KEY", "of a benchmark, so no secret")
    query = load_use_case("payment_fraud").preprocessor()
    history, blocks = query.history(), []
    for events in payments.table().combine_chunks().to_batches(max_chunksize=BLOCK):
        rows = query.apply(events, history).rows
        assert rows.num_rows == events.num_rows
        blocks.append(np.column_stack([rows[name].to_numpy() for name in query.features]))
    paid = payments.paid
    pattern = np.array(payments.fraud().to_pylist())
    return Rows(np.concatenate(blocks), paid.card.astype(np.uint64), paid.time_ms, paid.incident, pattern)


def alerts(
    scores: NDArray[Any], card: NDArray[np.uint64], time_ms: NDArray[np.int64], most: int, rest_ms: int = DAY_MS
) -> NDArray[np.bool_]:
    """Which rows, in the order of time, are alerts, [n]: above the lowest threshold that makes at most so many of them.

    Of a card there is none within ``rest_ms`` after an alert: whoever looks at it sees what follows.
    """
    ranked = np.argsort(-scores, kind="stable")

    def made(above: int) -> list[int]:
        found, last = [], dict[int, int]()
        for row in np.sort(ranked[:above]).tolist():
            time, of = int(time_ms[row]), int(card[row])
            if time - last.get(of, time - rest_ms) >= rest_ms:
                found.append(row)
                last[of] = time
        return found

    low, high = 0, len(scores)  # how many rows lie above it
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(made(middle)) <= most else (low, middle - 1)
    alert = np.zeros(len(scores), np.bool_)
    alert[made(low)] = True
    return alert


def judge(scores: NDArray[Any], rows: Rows) -> dict[str, Any]:
    """How scores of the rows, [n], in the order of time, did with a share of BUDGET of them as alerts."""
    alert = alerts(scores, rows.card, rows.time_ms, round(BUDGET * len(scores)))
    fraud = rows.incident >= 0
    recall = {}
    for pattern in PATTERNS:
        of = rows.pattern == pattern
        recall[pattern] = len(np.unique(rows.incident[of & alert])) / len(np.unique(rows.incident[of]))
    return {
        "recall": recall,
        "precision": float(fraud[alert].mean()),
        "roc_auc": roc_auc(scores, fraud),
        "average_precision": average_precision(scores, fraud),
    }


def scores_of(settings: ModelSettings, train: Rows, test: Rows, features: Sequence[str], seed: int) -> Any:
    """The scores of a kind, trained by its settings, of the test rows, [n]."""
    made, settings_of_kind = KINDS.get(settings.kind), settings.of_kind()
    rng = np.random.default_rng(seed)
    held = rng.permutation(np.unique(train.card))[: round(HELD_OUT * len(np.unique(train.card)))]
    order = rng.permutation(len(train.x))
    other = np.isin(train.card[order], held)
    parts = [train.take(order[~other]).part(), train.take(order[other]).part()]
    if not learns_from_labels(settings_of_kind):
        parts = [part.without_failures() for part in parts]
    with tempfile.TemporaryDirectory() as logs:
        fitted = made.fit(
            Training(
                train=parts[0],
                validation=parts[1],
                features=tuple(features),
                settings=settings_of_kind,
                seed=seed,
                normal=None,
                logs=Path(logs),
                progress=lambda *_: None,
            )
        )
    blocks = np.array_split(test.x, max(1, len(test.x) // BLOCK))
    return np.concatenate([fitted.scorer.score(np.ascontiguousarray(block)) for block in blocks])


def run(seed: int) -> dict[str, Any]:
    """One world, each kind."""
    rows = rows_of(simulate(CARDS, DAYS, seed, PREVALENCE))
    train, test = rows.between(TRAIN), rows.between(TEST)
    use_case = load_use_case("payment_fraud")
    tried = [use_case.model, *(ModelSettings(kind) for kind in COMPARED)]
    features = use_case.preprocessor().features
    kinds = {each.kind: judge(scores_of(each, train, test, features, seed), test) for each in tried}
    frauds = test.incident >= 0
    number = {pattern: len(np.unique(test.incident[test.pattern == pattern])) for pattern in PATTERNS}
    return {"payments": len(test.x), "frauds": int(frauds.sum()), "incidents": number, "kinds": kinds}


def main() -> None:
    """Runs the seeds, and prints and keeps the mean of each figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    found = []
    for seed in range(1, given.seeds + 1):
        found.append(run(seed))
        print(f"seed {seed}: {found[-1]['payments']:,} payments, {found[-1]['frauds']} frauds", flush=True)
        for kind, figures in found[-1]["kinds"].items():
            recall = ", ".join(f"{pattern} {share:.2f}" for pattern, share in figures["recall"].items())
            print(f"  {kind:18} AP {figures['average_precision']:.3f}  {recall}", flush=True)
        if given.output:
            given.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
