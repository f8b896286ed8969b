"""The isolation forest (Liu, Ting and Zhou 2008) as a kind: scikit-learn grows it, one compiled loop scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.kinds.kept import fit_kept
from model.kinds.protocol import FittedModel, ModelKind, Scorer, Training
from model.kinds.rules import Rules, check, is_count
from model.kinds.trees import Node, Trees, TreeScorer
from model.rows import Floats

FILE_NAME = "forest.npz"


@dataclass(frozen=True)
class ForestSettings:
    """Keys of the section ``model`` of a use case; ValueError, naming the field, for a value that won't do."""

    trees: int = 100
    rows: int = 256  # of each tree, drawn at random

    def __post_init__(self) -> None:
        check(self, _RULES)


_RULES: Rules = {
    "trees": (lambda x: is_count(x) and x <= 10_000, "a whole number from 1 to 10,000"),
    "rows": (lambda x: is_count(x) and 2 <= x <= 65_536, "a whole number from 2 to 65,536"),
}


class IsolationForest:
    """Says how few cuts part a row from the others; see docs/kinds.md."""

    settings = ForestSettings
    modules = ("sklearn",)

    def fit(self, training: Training[ForestSettings]) -> FittedModel:
        """Grows the trees on rows that are no outliers."""
        from sklearn import ensemble

        own = training.settings

        def learn(rows: Floats) -> TreeScorer:
            some = min(own.rows, len(rows))
            seed = training.seed % (1 << 32)
            forest = ensemble.IsolationForest(n_estimators=own.trees, max_samples=some, random_state=seed).fit(rows)
            unit = -1 / (own.trees * max(_mean_depth(some), 1e-9))
            return TreeScorer(Trees.of([_tree(one.tree_) for one in forest.estimators_]).scaled(unit), np.exp2)

        return fit_kept(training, learn, lambda scorer, folder: scorer.trees.save(folder / FILE_NAME))

    def load(self, folder: Path) -> Scorer:
        """What ``fit`` saved."""
        return TreeScorer(Trees.load(folder / FILE_NAME), np.exp2)


KIND: ModelKind[ForestSettings] = IsolationForest()


def _mean_depth(rows: float) -> float:
    """Of a row in a random tree of so many: what is left to cut in a leaf."""
    if rows <= 1:
        return 0.0
    return 1.0 if rows <= 2 else float(2 * (np.log(rows - 1) + np.euler_gamma) - 2 * (rows - 1) / rows)


def _tree(tree: Any, node: int = 0, depth: int = 0) -> Node:
    """A tree of scikit-learn, whose leaves say how many cuts they take."""
    left, right = int(tree.children_left[node]), int(tree.children_right[node])
    if left < 0:
        return Node(depth + _mean_depth(int(tree.n_node_samples[node])))
    children = _tree(tree, left, depth + 1), _tree(tree, right, depth + 1)
    rows = float(tree.n_node_samples[left]), float(tree.n_node_samples[right])
    return Node.mean(int(tree.feature[node]), float(tree.threshold[node]), children, rows)
