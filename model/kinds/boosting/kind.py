"""Gradient boosting as a kind of model: LightGBM trains it from labels, one compiled loop scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from beam_jobs.errors import UserError
from model.kinds.boosting.settings import BoostingSettings
from model.kinds.kept import scores_of
from model.kinds.protocol import FittedModel, Judged, ModelKind, Scorer, Training
from model.kinds.trees import Doubles, Node, Trees, TreeScorer
from model.outliers.cut import Cut
from model.rows import CHUNK_ROWS, slices

FILE_NAME = "boosting.npz"
MOST_ROWS = 1 << 21  # learnt from at most; they are in memory


def surprise(odds: Doubles) -> Doubles:
    """-log of the chance that a row is none of the failures, of log odds: about the chance of one where it is small."""
    return np.logaddexp(0, odds)


class Boosting:
    """Says how likely a failure is, as the labels have it; see docs/kinds.md."""

    settings = BoostingSettings
    modules = ("lightgbm",)

    def fit(self, training: Training[BoostingSettings]) -> FittedModel:
        """Learns from rows and their labels; UserError if none is a failure."""
        import lightgbm

        own, train = training.settings, training.train
        x = np.concatenate(
            [np.empty((0, len(training.features)), np.float32), *slices(train.x[:MOST_ROWS], CHUNK_ROWS)]
        )
        failed = ~train.sound[:MOST_ROWS]
        if not failed.any() or failed.all():
            raise UserError(
                f"{int(failed.sum()):,} of {len(x):,} rows to learn from are labelled as failures: the kind boosting "
                "needs both; use more data, or a kind that needs no labels, such as tail_probability"
            )

        def progress(step: Any) -> None:
            training.progress("trees", step.iteration + 1, own.trees, "")

        booster = lightgbm.train(
            {
                "objective": "binary",
                "num_leaves": own.leaves,
                "learning_rate": own.learning_rate,
                "min_data_in_leaf": own.least_rows,
                # With few failures a leaf of 20 rows has next to no hessian, and one failure in it would decide it all.
                "min_sum_hessian_in_leaf": 1.0,
                "bagging_fraction": own.row_share,
                "bagging_freq": int(own.row_share < 1),
                "feature_fraction": own.feature_share,
                "seed": training.seed % (1 << 31),
                "deterministic": True,
                "force_row_wise": True,
                "verbosity": -1,
            },
            lightgbm.Dataset(x, failed.astype(np.float64), params={"verbosity": -1}),
            own.trees,
            callbacks=[progress],
        )
        scorer = TreeScorer(
            Trees.of([_node(tree["tree_structure"]) for tree in booster.dump_model()["tree_info"]]), surprise
        )

        def judged(rows: Any) -> Judged:
            none = np.zeros(len(rows), np.bool_)
            return Judged(scores_of(scorer, rows.x), none, none, Cut(np.inf, 0.0, ""))

        return FittedModel(
            scorer=scorer,
            save=lambda folder: scorer.trees.save(folder / FILE_NAME),
            train=judged(train),
            validation=judged(training.validation),
        )

    def load(self, folder: Path) -> Scorer:
        """What ``fit`` saved."""
        return TreeScorer(Trees.load(folder / FILE_NAME), surprise)


KIND: ModelKind[BoostingSettings] = Boosting()


def _node(described: Mapping[str, Any]) -> Node:
    """A node as LightGBM describes it, with what is below it."""
    if "split_feature" not in described:
        return Node(float(described["leaf_value"]))
    below = [described["left_child"], described["right_child"]]
    rows = tuple(float(each.get("internal_count", each.get("leaf_count", 0))) for each in below)
    left, right = (_node(each) for each in below)
    return Node.mean(int(described["split_feature"]), float(described["threshold"]), (left, right), (rows[0], rows[1]))
