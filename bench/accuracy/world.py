"""Six correlated features and, one case each, what is wrong with data in practice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

FEATURES, KEYS = 6, 200
ROWS, TEST_ROWS = 20_000, 30_000
SHOWN = 2_000  # test rows that get one strange reading
TRAIN, VALIDATION = 0, 1
STATE = np.array([6.0, -6.0, 5.0, 0.0, 4.0, -5.0])  # how far the rare normal state is from the usual one
NOISE = 0.3 * np.sqrt(2)  # standard deviation of what is a feature's own, of t with 4 degrees
_MIX = np.random.default_rng(1).normal(size=(3, FEATURES))  # how three hidden causes show in the features


@dataclass
class Rows:
    """Rows that a case changes in place, in order of time."""

    x: Floats  # [n, F]
    key: NDArray[np.int64]  # [n], 0 to KEYS - 1
    part: NDArray[np.int64]  # [n], TRAIN, VALIDATION or neither; goes by the key
    state: Bools  # [n], in the rare normal state


Change = Callable[[Rows, Generator], None]


@dataclass(frozen=True)
class Case:
    """One thing that happens to data."""

    name: str
    about: str
    law: Change | None = None  # what normal rows are like, unseen ones too
    spoil: Change | None = None  # what is wrong with rows nobody has labelled
    odd: tuple[int, ...] = ()  # features that are unlike the others
    by_time: bool = False  # the parts go by the time instead


@dataclass(frozen=True)
class World:
    """What is trained on, and unseen normal rows to judge by."""

    train: Floats  # [n, F]
    train_keys: NDArray[np.uint64]
    train_state: Bools  # in the rare normal state
    validation: Floats
    validation_keys: NDArray[np.uint64]
    test: Rows


def draw(case: Case, seed: int) -> World:
    """The rows of a case; a test row is never spoilt."""
    rng, fresh = np.random.default_rng((seed, 0)), np.random.default_rng((seed, 1))
    rows, test = _plain(ROWS, rng), _plain(TEST_ROWS, fresh)
    if case.by_time:
        rows.part = np.maximum(np.arange(ROWS) * 5 // ROWS - 2, 0)  # the first three fifths, the fourth, the last
    for change, some, dice in ((case.law, rows, rng), (case.law, test, fresh), (case.spoil, rows, rng)):
        if change is not None:
            change(some, dice)
    order = rng.permutation(ROWS)
    train, validation = (order[rows.part[order] == part] for part in (TRAIN, VALIDATION))
    keys = rows.key.astype(np.uint64)
    return World(rows.x[train], keys[train], rows.state[train], rows.x[validation], keys[validation], test)


def struck(normal: Floats, size: float, seed: int) -> tuple[Floats, NDArray[np.int64]]:
    """Normal rows, [n, F], each with one feature off by ``size`` of its standard deviations; and which, [n]."""
    rng = np.random.default_rng((seed, 2))
    rows = normal[:SHOWN].copy()
    which = rng.integers(0, FEATURES, len(rows))
    rows[np.arange(len(rows)), which] += size * normal.std(axis=0)[which] * rng.choice([-1, 1], len(rows))
    return rows, which


def _plain(n: int, rng: Generator) -> Rows:
    x = 5 + rng.normal(size=(n, 3)) @ _MIX + 0.3 * rng.standard_t(4, size=(n, FEATURES))
    key = rng.integers(0, KEYS, n)
    part = np.array([TRAIN, TRAIN, TRAIN, VALIDATION, 2])[key % 5]
    return Rows(x, key, part, np.zeros(n, np.bool_))


def _outliers(share: float, features: tuple[int, ...] = tuple(range(FEATURES))) -> Change:
    """Readings 30 to 300 off, in units of a few standard deviations, either way."""

    def change(rows: Rows, rng: Generator) -> None:
        bad = np.flatnonzero(rng.random(len(rows.x)) < share)
        size = (len(bad), len(features))
        rows.x[bad[:, None], list(features)] += rng.choice([-1, 1], size) * rng.uniform(30, 300, size)

    return change


def _sentinel(part: int) -> Change:
    def change(rows: Rows, rng: Generator) -> None:
        rows.x[rng.choice(np.flatnonzero(rows.part == part)), 2] = 65535

    return change


def _overlapping(wrong: Callable[[Generator, int], Floats]) -> Change:
    """5 % of the rows are off no further than the tail reaches; ``wrong``: [m, F], in spreads of a feature's noise."""

    def change(rows: Rows, rng: Generator) -> None:
        bad = np.flatnonzero(rng.random(len(rows.x)) < 0.05)
        rows.x[bad] += NOISE * wrong(rng, len(bad))

    return change


def _one_reading(rng: Generator, m: int) -> Floats:
    """About 2 to 6 of the standard deviations of the feature itself."""
    off = np.zeros((m, FEATURES))
    off[np.arange(m), rng.integers(0, FEATURES, m)] = rng.uniform(8, 24, m) * rng.choice([-1, 1], m)
    return off


def _all_readings(rng: Generator, m: int) -> Floats:
    return np.asarray(rng.exponential(4, (m, 1)) * rng.normal(size=(m, FEATURES)))


def _some_way(rng: Generator, m: int) -> Floats:
    """Scores of 7.5 times the usual size, log-normal."""
    way = rng.normal(size=(m, FEATURES))
    length = np.exp(rng.normal(np.log(2.7), 0.25, (m, 1))) * np.sqrt(FEATURES)
    return np.asarray(length * way / np.linalg.norm(way, axis=1, keepdims=True))


def _more_noise(rng: Generator, m: int) -> Floats:
    """The noise of normal rows, wider: only a heavier tail."""
    wider = np.exp(rng.normal(np.log(2.7), 0.25, (m, 1))) - 1
    return np.asarray(wider * rng.standard_t(4, size=(m, FEATURES)) / np.sqrt(2))


def _state(share: float) -> Change:
    def change(rows: Rows, rng: Generator) -> None:
        rows.state = rng.random(len(rows.x)) < share
        rows.x[rows.state] += STATE

    return change


def _state_of_keys(rows: Rows, rng: Generator) -> None:
    rows.state = rows.key < KEYS * 0.02
    rows.x[rows.state] += STATE


def _drift(rows: Rows, rng: Generator) -> None:
    """From half of the time on, one feature is three of its spreads higher."""
    later = np.arange(len(rows.x)) >= len(rows.x) // 2
    rows.x[later, 1] += 3 * rows.x[~later, 1].std()


def _copies(rows: Rows, rng: Generator) -> None:
    rows.x[:, 4] = rows.x[:, 0]
    rows.x[:, 5] = rows.x[:, 1] + 0.001 * rng.normal(size=len(rows.x))


def _counts(rows: Rows, rng: Generator) -> None:
    for feature, zeros in ((4, 0.92), (5, 0.97)):
        n = len(rows.x)
        rows.x[:, feature] = np.where(rng.random(n) < zeros, 0, rng.poisson(3, n))


def _heavy(rows: Rows, rng: Generator) -> None:
    rows.x[:, 4] = rng.standard_t(2, len(rows.x))
    rows.x[:, 5] = rng.lognormal(0, 1.5, len(rows.x))


def _categories(rows: Rows, rng: Generator) -> None:
    rows.x[:, 4] = rng.choice([1, 2, 3, 7, 12], len(rows.x), p=[0.5, 0.3, 0.15, 0.04, 0.01])
    rows.x[:, 5] = rows.x[:, 0] > 5


def _half_constant(rows: Rows, rng: Generator) -> None:
    rows.x[:, 5] = np.where(rng.random(len(rows.x)) < 0.5, 0, rng.normal(size=len(rows.x)))


def _offset(by: float) -> Change:
    def change(rows: Rows, rng: Generator) -> None:
        rows.x[:, 5] = by + rng.normal(size=len(rows.x))

    return change


CASES = (
    Case("clean", "clean"),
    Case("outliers_0_15", "0.15 % outliers", spoil=_outliers(0.0015)),
    Case("outliers_1", "1 % outliers", spoil=_outliers(0.01)),
    Case("outliers_5", "5 % outliers", spoil=_outliers(0.05)),
    Case("sentinel_training", "one 65535 among the training rows", spoil=_sentinel(TRAIN)),
    Case("sentinel_validation", "one 65535 among the validation rows", spoil=_sentinel(VALIDATION)),
    Case("glitches", "0.5 % glitches in one feature", spoil=_outliers(0.005, (3,))),
    Case("overlapping_reading", "5 % overlap the tail: one reading", spoil=_overlapping(_one_reading)),
    Case("overlapping_row", "5 % overlap the tail: all readings", spoil=_overlapping(_all_readings)),
    Case("overlapping_way", "5 % overlap the tail: as far off, some way", spoil=_overlapping(_some_way)),
    Case("overlapping_noise", "5 % overlap the tail: more noise", spoil=_overlapping(_more_noise)),
    Case("state", "a normal state of 2 % of the rows, in all keys", law=_state(0.02)),
    Case("state_of_keys", "a normal state of 2 % of the keys", law=_state_of_keys),
    Case("drift", "one feature three spreads higher from half of the time on", law=_drift, odd=(1,)),
    Case("drift_by_time", "the same, split by time", law=_drift, odd=(1,), by_time=True),
    Case("copies", "one feature twice, another nearly", law=_copies, odd=(0, 1, 4, 5)),
    Case("counts", "counts, 92 and 97 % of them 0", law=_counts, odd=(4, 5)),
    Case("heavy_tails", "heavy tails: t with 2 degrees, log-normal of 1.5", law=_heavy, odd=(4, 5)),
    Case("categories", "integers that stand for categories", law=_categories, odd=(4, 5)),
    Case("half_constant", "half of the rows 0, the others normal", law=_half_constant, odd=(5,)),
    Case("offset_1e6", "a feature of 1e6 ± 1", law=_offset(1e6), odd=(5,)),
    Case("offset_1e9", "a feature of 1e9 ± 1 (float32 steps of 64)", law=_offset(1e9), odd=(5,)),
)
