"""What each choice in the model's score is worth: the table of docs/model.md.

    python -m bench.model_choices

Trains several networks for car_sensors on 100,000 simulated events, scores three other simulated
fleets (200 cars, 600 events each), and builds the score up from plain mean squared error, one choice at a time. The
threshold is fitted anew each time, to the same alert budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs.sandbox.fleet import Fleet, history
from beam_jobs.use_case import load_use_case
from model.kinds import tf
from model.kinds.autoencoder import keras_network as autoencoder
from model.kinds.autoencoder.keras_network import CLIP, RESIDUAL_FLOOR, ResidualModel
from model.kinds.autoencoder.scaling import Scaling
from model.training.distribution import ScoreDistribution
from model.training.evaluate import evaluate

Floats = NDArray[np.float64]
Score = Callable[[Floats], Floats]
BUDGET = 1e-4
FLEETS = 3
NETWORKS = (((14, 7, 14), 0.5), ((32, 12, 32), 0.0), ((32, 12, 32), 0.2), ((32, 12, 32), 0.5))  # hidden units, noise


def features(block: pa.RecordBatch) -> NDArray[np.float32]:
    """What the model sees of the events, float32 [n, F]."""
    preprocessor = load_use_case("car_sensors").preprocessor()
    rows = preprocessor.apply(block).rows
    return np.stack([rows[name].to_numpy() for name in preprocessor.features], axis=1)


def variants(train: Floats) -> Iterator[tuple[str, Score]]:
    """Name and score of residuals, [n, F] in standard deviations to [n]; fitted to residuals of training rows."""
    fitted = ResidualModel.fit(train)
    deviations = np.clip(train / fitted.spread, -CLIP, CLIP) @ fitted.cross + train / fitted.spread
    tail = np.maximum(fitted.spread, np.quantile(np.abs(train), 0.999, axis=0) / 3.29)

    def deviation(residuals: Floats, spread: Floats) -> Floats:
        scaled = residuals / fitted.spread
        return (scaled + np.clip(scaled, -CLIP, CLIP) @ fitted.cross) / spread

    rms = np.maximum(np.sqrt((deviations**2).mean(axis=0)), RESIDUAL_FLOOR)  # a constant reading has none
    yield "mean squared error", lambda r: (r**2).mean(axis=1)
    yield "in residual spreads", lambda r: ((r / fitted.spread) ** 2).mean(axis=1)
    yield "less what the others predict", lambda r: (deviation(r, rms) ** 2).mean(axis=1)
    yield "tail spreads alone", lambda r: ((r / tail) ** 2).mean(axis=1)
    yield "both", lambda r: (deviation(r, fitted.deviation_spread) ** 2).mean(axis=1)
    yield (
        "both, root mean square (chosen)",
        lambda r: np.sqrt((deviation(r, fitted.deviation_spread) ** 4).mean(axis=1)),
    )


def main() -> None:
    """Prints the table."""
    table = pa.Table.from_batches(list(history(100_000, seed=2)))
    x = np.concatenate([features(block) for block in table.to_batches()])
    sound = table["failure_occurred"].to_numpy() == "false"
    held_out = np.array([int(car[-6:]) % 5 == 0 for car in table["car_id"].to_pylist()])
    train, validation = x[sound & ~held_out], x[sound & held_out]
    fleets = [Fleet(200, seed=100 + i, prevalence=0.1, label="kind").step(600) for i in range(FLEETS)]
    worlds = [(features(block), block) for block in fleets]
    scaling = Scaling.fit(train)
    settings = load_use_case("car_sensors").model
    for hidden, noise in NETWORKS:
        tf.keras().utils.set_random_seed(1)
        config = settings.of_kind(hidden=hidden, noise=noise)
        core = autoencoder.train_core(train, validation, scaling, config, []).core

        def residuals(rows: NDArray[np.float32], core: Any = core) -> Floats:
            return autoencoder.residuals(core, scaling, rows).astype(np.float64)

        for name, score in variants(residuals(train)):
            threshold = ScoreDistribution.fit(score(residuals(validation))).threshold(BUDGET)
            results = []
            for rows, block in worlds:
                kinds = block["failure_occurred"]
                failed = kinds.to_numpy(zero_copy_only=False) != "false"
                results.append(evaluate(score(residuals(rows)), threshold, failed, kinds, block["car_id"]))
            kinds_recall = {k: np.mean([r.recall_by_kind[k] for r in results]) for k in results[0].recall_by_kind}
            print(
                f"{hidden} noise {noise}  {name:32}  AUC {np.mean([r.roc_auc for r in results]):.4f}"
                f"  false {np.mean([r.false_alert_share for r in results]):.1e}  recall "
                + "  ".join(f"{kind} {share:.2f}" for kind, share in kinds_recall.items()),
                flush=True,
            )


if __name__ == "__main__":
    main()
