"""Rounds of training and judging: what is in them, and the precision of the keys that people look at in a day."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.backtest.rounds import DAY_MS, Labelled, Round, Split, fit, judge, key_precision, rounds
from model.kinds.protocol import FittedModel, Judged, Scorer, Training
from model.rows import Floats

PAYMENTS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 6), st.booleans()), min_size=1, max_size=60
)


def labelled(rows: list[tuple[int, float, str]]) -> Labelled:
    """Key, day, kind of failure; the feature is the row's number."""
    keys, days, kinds = zip(*rows, strict=True)
    times = (np.array(days) * DAY_MS).astype(np.int64)
    x = np.arange(len(rows), dtype=np.float32)[:, None]
    return Labelled(x, np.array(keys), times, pa.array(kinds).dictionary_encode())


@given(PAYMENTS, st.integers(1, 4))
def test_key_precision_is_that_of_the_definition(rows: list[tuple[int, int, int, bool]], top: int) -> None:
    """The Handbook's: each day the cards by their highest score; of cards once found no more is looked at."""
    day, keys, scores, failed = map(np.array, zip(*rows, strict=True))
    scores = scores + np.arange(len(scores)) / 1000  # no ties
    found: set[int] = set()
    shares = []
    for number in sorted(set(day.tolist())):
        here = [i for i in range(len(rows)) if day[i] == number and keys[i] not in found]
        best = {key: max(scores[i] for i in here if keys[i] == key) for key in {int(keys[i]) for i in here}}
        highest = sorted(best, key=best.__getitem__, reverse=True)[:top]
        hits = {key for key in highest if any(failed[i] for i in here if keys[i] == key)}
        found |= hits
        shares.append(len(hits) / top)
    assert key_precision(scores, failed, keys, day, top) == pytest.approx(np.mean(shares))


def test_a_round_trains_waits_and_judges() -> None:
    rows = labelled([(1, 0, ""), (1, 1.9, ""), (1, 2, ""), (1, 2.9, ""), (1, 3, ""), (1, 4.5, "tire"), (1, 5, "")])
    one, two = rounds(rows, 0, Split(train=2, delay=1, test=2), 2)
    assert (one.start_ms, one.train.x[:, 0].tolist(), one.test.x[:, 0].tolist()) == (0, [0, 1], [4, 5])
    assert one.day.tolist() == [0, 1]
    assert (two.start_ms, two.train.x[:, 0].tolist(), two.test.x[:, 0].tolist()) == (2 * DAY_MS, [2, 3, 4], [6])


def test_keys_that_are_known_by_then_are_not_judged() -> None:
    """Known is what was so the delay before: key 1 from the start, key 2 from the second day on, key 3 not yet."""
    failures = [(1, 0.5, "tire"), (2, 2.5, "tire"), (3, 3.5, "tire")]
    later = [(key, 4.5 + day, "") for key in (1, 2, 3, 4) for day in (0, 1)]
    (one,) = rounds(labelled([*failures, *later]), 0, Split(train=2, delay=2, test=2), 1)
    assert list(zip(one.test.keys.tolist(), one.day.tolist(), strict=True)) == [(2, 0), (3, 0), (4, 0), (3, 1), (4, 1)]


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.integers(0, 5)), min_size=4, max_size=40))
def test_within_the_budget_each_kind_has_its_recall(rows: list[tuple[str, int]]) -> None:
    kinds, scores = [kind for kind, _ in rows] + ["", "a"], np.array([s for _, s in rows] + [0, 9], float)
    test = labelled([(i, 0, kind) for i, kind in enumerate(kinds)])
    found = judge(scores, Round(0, test, test, np.zeros(len(kinds), np.int64)), top=3, budget=0.5)
    alerts = set(np.argsort(-scores, kind="stable")[: round(0.5 * len(kinds))].tolist())
    for kind in set(kinds) - {""}:
        mine = {i for i, each in enumerate(kinds) if each == kind}
        false = {i for i in alerts if not kinds[i]}
        assert found.recall[kind] == pytest.approx(len(alerts & mine) / len(mine))
        assert found.precision[kind] == pytest.approx(len(alerts & mine) / max(1, len(alerts & mine) + len(false)))


@dataclass(frozen=True)
class Nothing:
    """Settings of a kind that has none."""


class Remembers(Scorer):
    """Scores by the feature, and keeps what it was trained on."""

    settings = Nothing
    modules: ClassVar[tuple[str, ...]] = ()

    def fit(self, training: Training[Nothing]) -> FittedModel:
        self.training = training
        judged = Judged.kept(self, training.train)
        return FittedModel(self, lambda folder: None, judged, Judged.kept(self, training.validation))

    def score(self, x: Floats) -> Floats:
        return x[:, 0]

    def load(self, folder: Path) -> Scorer:
        return self


def test_it_learns_from_some_keys_and_stops_by_others() -> None:
    kind = Remembers()
    rows = labelled([(key, 0, "tire" if key == 7 else "") for key in range(50) for _ in range(4)])
    fit(kind, Nothing(), rows, ["number"], seed=3, held_out=0.2)
    train, validation = kind.training.train, kind.training.validation
    assert len(set(validation.keys.tolist())) in (9, 10)
    assert not set(train.keys.tolist()) & set(validation.keys.tolist())
    assert 7 not in {*train.keys.tolist(), *validation.keys.tolist()}
    fit(kind, Nothing(), rows, ["number"], seed=3, held_out=0.2, labels=False)
    assert len(kind.training.train) + len(kind.training.validation) == len(rows.x)
