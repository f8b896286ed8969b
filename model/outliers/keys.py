"""What keys (cars, accounts, devices) tell of rows: a key that is strange as a whole, a state that most keys show.

One row of a broken device may look like the tail of all rows; its median does not look like other devices' medians.
And a rare state, such as driving over a bump, is no fault if most keys show it now and then.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Doubles = NDArray[np.float64]

MIN_ROWS = 20  # of a key: fewer say nothing about it
MIN_KEYS = 20  # with so many rows: fewer can't be compared
MOST = 0.15  # of the keys that can be strange: more of them are a kind of their own
LEVELS = (0.5, 0.8)  # quantiles of a key's scores: of one that is broken, and of one that broke half way
SIDES = (0.2, 0.5, 0.8)  # quantiles of a key's deviations, which have a sign
COMMON = 0.5  # of the keys: what more of them show is a state, if it is compact
COMMON_OF_CHANCE = 0.8  # of the keys that would show it if its rows were anybody's
COMPACT = 4.0  # deviation spreads: a state's rows differ about as much as others do, those of faults by far more

RANKED = 500_000  # rows at most that say which keys are strange
_NARROW = 0.02  # spread of keys' log scores at least
_CLUSTERED = 4000  # rows left out that states are looked for in
_MARGIN = 4.0  # spreads of a state around its centre


@dataclass(frozen=True)
class Limits:
    """From where on a key is strange."""

    median: float  # its log scores at LEVELS, in robust spreads of all keys'
    upper: float
    deviation: float = np.inf  # a feature's deviations at SIDES from other keys', in spreads of the deviations of rows


def strange_keys(scores: NDArray[np.floating], keys: NDArray[np.uint64], limits: Limits) -> Bools:
    """Rows whose key is strange as a whole, [n]; by scores, [n], and keys, [n], of the rows."""
    some = ranked(len(keys))
    by_key = _ByKey.of(keys[some])
    strange = np.zeros(len(by_key.names), np.bool_)
    if by_key.comparable:
        logs = np.log(np.maximum(scores[some], 1e-9))
        limit = np.array([limits.median, limits.upper])
        of_keys = by_key.quantiles(logs, LEVELS)
        centre = np.median(of_keys[:, by_key.many], axis=1, keepdims=True)
        away = of_keys - centre
        spread = np.maximum(1.4826 * np.median(np.abs(away[:, by_key.many]), axis=1), _NARROW)
        strange = (away > (limit * spread)[:, None]).any(axis=0)
    return np.isin(keys, by_key.named(strange))


def deviating_keys(deviations: NDArray[np.floating], asked: NDArray[np.uint64], limit: float) -> NDArray[np.uint64]:
    """Keys whose usual row is not like other keys' in some feature.

    The noise of single rows cancels in a quantile, so a key is told by less than its every row.

    Args:
      deviations: [m, F], of some rows from what was expected, in spreads, with a sign.
      asked: [m], their keys.
      limit: spreads.
    """
    by_key = _ByKey.of(asked)
    strange = np.zeros(len(by_key.names), np.bool_)
    if by_key.comparable:
        for values in deviations.T:
            of_keys = by_key.quantiles(values, SIDES)
            strange |= (np.abs(of_keys - np.median(of_keys[:, by_key.many], axis=1, keepdims=True)) > limit).any(axis=0)
    return by_key.named(strange)


@dataclass(frozen=True)
class _ByKey:
    """Rows put together by key."""

    names: NDArray[np.uint64]  # [k], keys
    place: NDArray[np.int64]  # [m], of each row's key in ``names``
    counts: NDArray[np.int64]  # [k], rows of each

    @classmethod
    def of(cls, keys: NDArray[np.uint64]) -> _ByKey:
        return cls(*np.unique(keys, return_inverse=True, return_counts=True))

    @property
    def many(self) -> Bools:
        """Keys with rows enough to say something about, [k]."""
        return self.counts >= MIN_ROWS

    @property
    def comparable(self) -> bool:
        """Whether there are enough such keys."""
        return int(self.many.sum()) >= MIN_KEYS

    def quantiles(self, values: NDArray[np.floating], levels: tuple[float, ...]) -> NDArray[np.floating]:
        """Of each key's values, which are [m]: [levels, k]."""
        ordered = values[np.lexsort((values, self.place))]
        starts = np.cumsum(self.counts) - self.counts
        return np.stack([ordered[starts + (level * self.counts).astype(np.int64)] for level in levels])

    def named(self, strange: Bools) -> NDArray[np.uint64]:
        """Those of ``strange``, [k], that have many rows; none where more than MOST are: that is a kind of its own."""
        strange = strange & self.many
        kind = strange.any() and strange[self.many].mean() > MOST
        return self.names[:0] if kind else self.names[strange]


def ranked(rows: int) -> Bools:
    """Which of so many rows say something about keys, [rows]: RANKED of them at most, or all."""
    if rows <= RANKED:
        return np.ones(rows, np.bool_)
    some = np.zeros(rows, np.bool_)
    some[np.random.default_rng(0).choice(rows, RANKED, replace=False, shuffle=False)] = True
    return some


def common_states(left_out: Bools, deviations: NDArray[np.floating], keys: NDArray[np.uint64]) -> Bools:
    """Rows left out that belong to a state most keys show, [n].

    Such rows are alike: a cluster (HDBSCAN: Campello, Moulavi and Sander 2013) about as compact as normal rows are. Of
    keys that show a state far more often than others do, its rows stay out.

    Args:
      left_out: [n].
      deviations: [m, F], of the rows left out from what was expected, in spreads, with a sign.
      keys: [n].
    """
    back = np.zeros(len(left_out), np.bool_)
    out = np.flatnonzero(left_out)
    names, counts = np.unique(keys, return_counts=True)
    place = np.searchsorted(names, keys[out])  # [m]
    many = counts >= MIN_ROWS
    if len(out) < MIN_ROWS or many.sum() < MIN_KEYS:
        return back
    compressed = 4 * np.arcsinh(deviations.astype(np.float64) / 4)
    for centre, spread in _clusters(compressed):
        if spread.max() > COMPACT:
            continue
        alike = (np.abs(compressed - centre) <= _MARGIN * spread + 1).all(axis=1)
        shown = np.bincount(place[alike], minlength=len(names))
        seen = float((shown[many] > 0).mean())
        by_chance = float(1 - np.mean((1 - alike.mean() * len(out) / len(left_out)) ** counts[many]))
        if seen > COMMON and seen > COMMON_OF_CHANCE * by_chance:
            usual = float(np.median((shown / counts)[many]))
            too_often = shown > counts * usual + 4 * np.sqrt(counts * max(usual, 1e-4)) + 1
            back[out[alike & ~too_often[place]]] = True
    return back


def _clusters(points: Doubles) -> list[tuple[Doubles, Doubles]]:
    """Centre and spread, [F] each, of clusters among points, [m, F]."""
    from sklearn.cluster import HDBSCAN  # takes a second to import

    some = points[np.random.default_rng(0).permutation(len(points))[:_CLUSTERED]]
    smallest = max(MIN_ROWS, len(some) // 50)
    if len(some) <= smallest:
        return []
    labels = HDBSCAN(min_cluster_size=smallest, allow_single_cluster=True, copy=True).fit_predict(some)
    found = []
    for label in range(labels.max() + 1):
        low, centre, high = np.quantile(some[labels == label], [0.1, 0.5, 0.9], axis=0)
        found.append((centre, np.maximum((high - low) / 2.563, 0.5)))
    return found
