"""What each step of the recipe in model/kinds/autoencoder/fit.py is worth: the table of docs/model.md.

    python -m bench.detector_steps

Leaves out one step at a time and measures three worlds of bench.accuracy whose training rows hold outliers: six
features with 1 %, Shuttle with 7 %, and cars with 1 % of unlabelled failures. One seed, about ten minutes.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from beam_jobs.sandbox.fleet import FAILURE_KINDS
from bench.accuracy import cars, shuttle, six
from model.kinds.autoencoder import fit, scaling
from model.kinds.autoencoder.scaling import Scaling
from model.outliers.cut import Cut
from model.outliers.keys import Limits

SEED = 31
NEVER = Limits(np.inf, np.inf)


def plain(rows: Any) -> Scaling:
    """Mean and standard deviation of all rows."""
    mean, spread = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
    constant = spread == 0
    spread = np.where(constant, np.maximum(0.01 * np.abs(mean), 1e-6), spread)
    return Scaling(mean, spread, constant, scaling.BEND)


def nothing(scores: Any) -> Cut:
    """No cut at all."""
    return Cut(np.inf, 0.0, "")


STEPS: dict[str, list[tuple[Any, str, Any]]] = {
    "all steps": [],
    "scale by mean and standard deviation": [(Scaling, "robust", plain), (Scaling, "fit", plain)],
    "far values not compressed": [(scaling, "FIRST_BEND", 200.0), (scaling, "BEND", 200.0)],
    "nothing left out while a network learns": [(fit, "TRIM", 0.0)],
    "no cut": [(fit, "find_cut", nothing)],
    "keys not asked": [(fit, "FIRST_KEYS", NEVER), (fit, "LAST_KEYS", NEVER)],
    "none of them": [
        *((Scaling, name, plain) for name in ("robust", "fit")),
        *((scaling, name, 200.0) for name in ("FIRST_BEND", "BEND")),
        (fit, "TRIM", 0.0),
        (fit, "find_cut", nothing),
        *((fit, name, NEVER) for name in ("FIRST_KEYS", "LAST_KEYS")),
    ],
}


@contextmanager
def without(changes: list[tuple[Any, str, Any]]) -> Iterator[None]:
    """The recipe with some of its names changed."""
    before = [(where, name, where.__dict__[name]) for where, name, _ in changes]
    for where, name, value in changes:
        setattr(where, name, staticmethod(value) if where is Scaling else value)
    try:
        yield
    finally:
        for where, name, value in before:
            setattr(where, name, value)


def row(measure: Callable[[str, int], Any], name: str) -> dict[str, float]:
    """Figures of one world, without its name."""
    return {key.rpartition(".")[2]: value for key, value in measure(name, SEED).figures.items()}


def main() -> None:
    """Prints the table, a line a step."""
    worlds = ("six, 1 %: alerts; 5 sigma", "Shuttle: ROC AUC; found; alerts", "cars, 1 %: alerts over budget; recall")
    print("", "", *worlds, "", sep=" | ")
    print("|---|---|---|---|")
    for step, changes in STEPS.items():
        with without(changes):
            a, b, c = row(six.measure, "outliers_1"), row(shuttle.measure, "batch"), row(cars.measure, "1")
        recall = ", ".join(f"{c[f'recall_{kind}']:.2f}" for kind in FAILURE_KINDS)
        print(
            f"| {step} | {a['rate']:.4f}; {a['found_5']:.2f} "
            f"| {b['batch_roc_auc']:.4f}; {b['batch_found']:.2f}; {b['batch_rate']:.4f} "
            f"| {c['rate_over_budget']:.2f}; {recall} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
