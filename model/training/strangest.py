"""The held-out rows that score highest, in words: what was read, and what was expected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model.kinds.protocol import Scores
from model.outliers.groups import iso, short
from model.rows import Floats, Part

ROWS = 20
READINGS = 3  # of a row at most, those that deviate most
SHARE = 0.02  # of a row's deviation: less is not worth a word, beside the first


@dataclass(frozen=True)
class Reading:
    """One feature of a row, in the feature's unit."""

    name: str
    value: float
    expected: float | None  # what a normal row with these other readings would have shown; None: the model can't say
    share: float  # of the row's deviation, 0..1
    unit: str | None = None  # of value and expected; None: it has none
    rarity: float | None = None  # share of normal rows that show as much; None: the model can't say

    def __str__(self) -> str:
        expected = "" if self.expected is None else f", expected {self.expected:.4g}"
        rare = f", 1 in {1 / max(self.rarity, 1e-12):,.0f}" if self.rarity else ""
        return f"{self.name} {self.value:.4g}{f' {self.unit}' if self.unit else ''}{expected}{rare}"


@dataclass(frozen=True)
class Strange:
    """A held-out row with a high score."""

    time: str  # ISO 8601, UTC
    score: float
    percentile: float  # per cent of normal rows that score lower
    alert: bool
    kind: str  # what its label says of a failure; "": no failure
    readings: tuple[Reading, ...]  # the largest share first; none: the model gives no reasons


def strangest(
    test: Part,
    kinds: pa.DictionaryArray,
    scores: Floats,
    threshold: float,
    percentile: Callable[[Floats], NDArray[np.floating]],
    judge: Callable[[Floats], Scores],
    features: Sequence[str],
    units: Mapping[str, str | None] = MappingProxyType({}),
) -> tuple[Strange, ...]:
    """The ROWS test rows with the highest scores, the highest first; of equal scores the earlier rows.

    Args:
      kinds: of all test rows, "" for sound ones.
      scores: of all test rows, [n].
      percentile: of scores.
      judge: what the model says of rows, float32 [m, F].
    """
    order = np.argsort(-scores, kind="stable")[:ROWS]
    if not len(order):
        return ()
    x = np.concatenate([test.x[row : row + 1] for row in order.tolist()])
    said, ranks = judge(x), percentile(scores[order])
    found = []
    for i, row in enumerate(order.tolist()):
        score = float(scores[row])
        kind = kinds[row].as_py() or ""
        readings = _readings(x[i], said, i, features, units)
        found.append(Strange(iso(int(test.times[row])), score, float(ranks[i]), score > threshold, kind, readings))
    return tuple(found)


def _readings(
    x: Floats, said: Scores, row: int, features: Sequence[str], units: Mapping[str, str | None]
) -> tuple[Reading, ...]:
    """The features of a row, [F], that deviate most."""
    if said.error is None:
        return ()
    share = said.error[row] / max(said.error[row].sum(), np.float32(1e-30))
    columns = np.argsort(-share, kind="stable")[:READINGS]
    columns = columns[: max(1, int(np.sum(share[columns] >= SHARE)))]
    expected = None if said.expected is None else said.expected[row]
    return tuple(
        Reading(
            name=features[j],
            value=short(x[j]),
            expected=None if expected is None or np.isnan(expected[j]) else short(expected[j]),
            share=float(share[j]),
            unit=units.get(features[j]),
            rarity=None if said.rarity is None or np.isnan(said.rarity[row, j]) else float(said.rarity[row, j]),
        )
        for j in columns
    )
