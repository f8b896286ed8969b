"""Trees that add up, such as those of a forest or of boosting, as arrays: scored by one compiled loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import UserError
from beam_jobs.jit import compiled
from model.arrays import check_arrays, read_arrays
from model.kinds.protocol import Scorer, Scores
from model.rows import Floats

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

TILE = 64  # rows that go through a tree together: their loads do not wait for each other


@dataclass(frozen=True)
class Trees:
    """m nodes of t trees; a row goes left where its feature is at most the threshold.

    A leaf is its own left child, and its threshold is infinite: a row stays there.
    """

    feature: Ints  # [m]
    threshold: Doubles  # [m]
    left: Ints  # [m], a node after this one; the right child comes after it
    value: Doubles  # [m], of a leaf: its part of the sum; of other nodes: the mean of the rows they were learnt from
    roots: Ints  # [t], ascending

    @classmethod
    def of(cls, trees: Sequence[Node]) -> Trees:
        """Lays out trees."""
        rows: list[tuple[int, float, int, float]] = []
        roots = []
        for root in trees:
            roots.append(len(rows))
            rows.append((0, np.inf, len(rows), root.value))
            waiting = [(len(rows) - 1, root)]
            while waiting:
                place, node = waiting.pop(0)
                if node.children is not None:
                    first = len(rows)
                    rows[place] = (node.feature, node.threshold, first, node.value)
                    for i, child in enumerate(node.children):
                        rows.append((0, np.inf, first + i, child.value))
                        waiting.append((first + i, child))
        feature, threshold, left, value = zip(*rows, strict=True)
        return cls(
            np.array(feature, np.int64),
            np.array(threshold, np.float64),
            np.array(left, np.int64),
            np.array(value, np.float64),
            np.array(roots, np.int64),
        )

    def scaled(self, factor: float) -> Trees:
        """With values so many times as large."""
        return replace(self, value=self.value * factor)

    @cached_property
    def used(self) -> Ints:
        """Features that a node asks for, [k]."""
        return np.unique(self.feature[np.isfinite(self.threshold)])

    @cached_property
    def depth(self) -> int:
        """Of the deepest tree: how many steps a row takes at most."""
        depth = np.zeros(len(self.left), np.int64)
        for node in range(len(self.left)):  # children come after their parents
            left = self.left[node]
            if left != node:
                depth[left : left + 2] = depth[node] + 1
        return int(depth.max())

    def sums(self, x: Floats) -> Doubles:
        """Sum of the leaves of rows, [n, F], to [n]; not a number where a feature that is used is none."""
        out = np.empty(len(x))
        rows = np.ascontiguousarray(x, np.float32)
        add_up(rows, self.feature, self.threshold, self.left, self.value, self.roots, self.depth, self.used, out)
        return out

    def contributions(self, x: Floats) -> Doubles:
        """What each feature adds to the sum of a row, [n, F]: the changes of value along its paths (Saabas 2014)."""
        out = np.zeros(x.shape)
        rows = np.ascontiguousarray(x, np.float32)
        contribute(rows, self.feature, self.threshold, self.left, self.value, self.roots, out)
        return out

    def save(self, path: Path) -> None:
        """Writes the arrays."""
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _TYPES}
        np.savez(path, **{**arrays, "threshold": np.where(np.isfinite(self.threshold), self.threshold, 0)})

    @classmethod
    def load(cls, path: Path) -> Trees:
        """The counterpart of ``save``; UserError if the file can't be read."""
        try:
            arrays = read_arrays(path)
            check_arrays(arrays, _TYPES)
            made = cls(*(arrays[name] for name in _TYPES))
            place = np.arange(len(made.left))
            leaf = made.left == place
            starts = np.append(made.roots, len(place))
            if len(place) == 0 or starts[0] != 0 or (np.diff(starts) < 1).any():
                raise ValueError("the roots are not those of the nodes")
            stop = starts[np.searchsorted(starts, place, side="right")]  # of each node's tree
            if ((made.left < place) | (~leaf & (made.left + 1 >= stop))).any():
                raise ValueError("a node's children do not come after it")
            if (made.feature < 0).any():
                raise ValueError("a feature is below 0")
            return replace(made, threshold=np.where(leaf, np.inf, made.threshold))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} can't be read ({error}); train again") from error


_TYPES: dict[str, tuple[type[Any], tuple[str | int, ...]]] = {
    "feature": (np.int64, ("m",)),
    "threshold": (np.float64, ("m",)),
    "left": (np.int64, ("m",)),
    "value": (np.float64, ("m",)),
    "roots": (np.int64, ("t",)),
}


@dataclass(frozen=True)
class Node:
    """A node of a tree that is being laid out."""

    value: float
    feature: int = 0
    threshold: float = np.inf
    children: tuple[Node, Node] | None = None  # None: a leaf

    @classmethod
    def mean(cls, feature: int, threshold: float, children: tuple[Node, Node], rows: tuple[float, float]) -> Node:
        """An inner node, by the rows of its children."""
        value = (children[0].value * rows[0] + children[1].value * rows[1]) / max(sum(rows), 1e-300)
        return cls(value, feature, threshold, children)


@dataclass(frozen=True)
class TreeScorer(Scorer):
    """Trees, and what becomes of their sum."""

    trees: Trees
    link: Callable[[Doubles], Doubles]  # a sum to a score, 0 or more; it rises

    def score(self, x: Floats) -> Floats:
        if len(x) and self.trees.used.size and self.trees.used[-1] >= x.shape[1]:
            raise ValueError(f"the trees know feature {self.trees.used[-1]}, the rows have {x.shape[1]}")
        return np.asarray(self.link(self.trees.sums(x)), np.float32)

    def explain(self, x: Floats) -> Scores:
        """With what each feature adds; what it takes off is no reason for an alert."""
        score = self.score(x)
        return Scores(score, error=np.maximum(self.trees.contributions(x), 0).astype(np.float32))


@compiled
def add_up(
    x: Floats,
    feature: Ints,
    threshold: Doubles,
    left: Ints,
    value: Doubles,
    roots: Ints,
    depth: int,
    used: Ints,
    out: Doubles,
) -> None:
    """Sums of the leaves that rows, [n, F], come to, into ``out``, [n]."""
    node = np.empty(TILE, np.int64)
    for start in range(0, len(x), TILE):
        rows = min(TILE, len(x) - start)
        for j in range(rows):
            total = 0.0
            for f in used:
                value_of = x[start + j, f]
                if value_of != value_of:
                    total = np.nan
            out[start + j] = total
        for root in roots:
            node[:] = root
            for _ in range(depth):
                for j in range(rows):
                    at = node[j]
                    node[j] = left[at] + (x[start + j, feature[at]] > threshold[at])
            for j in range(rows):
                out[start + j] += value[node[j]]


@compiled
def contribute(
    x: Floats, feature: Ints, threshold: Doubles, left: Ints, value: Doubles, roots: Ints, out: Doubles
) -> None:
    """Adds the changes of value along the paths of rows, [n, F], to their features in ``out``, [n, F]."""
    for row in range(len(x)):
        for root in roots:
            at = root
            while left[at] != at:
                child = left[at] + (x[row, feature[at]] > threshold[at])
                out[row, feature[at]] += value[child] - value[at]
                at = child
