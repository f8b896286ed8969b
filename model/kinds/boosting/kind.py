"""Gradient boosting as a kind of model: LightGBM trains it from labels, one compiled loop scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from model.kinds.boosting.settings import BoostingSettings
from model.kinds.labelled import rows_to_learn
from model.kinds.protocol import FittedModel, Judged, ModelKind, Scorer, Training
from model.kinds.trees import Doubles, Node, Trees, TreeScorer

FILE_NAME = "boosting.npz"


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

        own = training.settings
        x, failed = rows_to_learn(training, "boosting")

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

        return FittedModel(
            scorer=scorer,
            save=lambda folder: scorer.trees.save(folder / FILE_NAME),
            train=Judged.kept(scorer, training.train),
            validation=Judged.kept(scorer, training.validation),
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
