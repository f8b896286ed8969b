"""What keys tell of rows."""

from __future__ import annotations

import numpy as np
import pytest

from model.outliers import keys as module
from model.outliers.keys import Limits, common_states, deviating_keys, ranked, strange_keys

LIMITS = Limits(median=7, upper=9)
ROWS, KEYS = 20_000, 200


def world(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return np.exp(0.4 * random.normal(size=ROWS)), random.integers(1, KEYS + 1, ROWS).astype(np.uint64)


@pytest.mark.parametrize("ranked", [500_000, 10_000])
def test_a_broken_key_is_strange_though_its_rows_are_not(ranked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RANKED", ranked)
    scores, keys = world()
    assert not strange_keys(scores, keys, LIMITS).any()
    scores[keys == 17] *= 3
    late = np.flatnonzero(keys == 42)
    scores[late[: int(0.4 * len(late))]] *= 8  # it broke when most had been seen
    np.testing.assert_array_equal(strange_keys(scores, keys, LIMITS), np.isin(keys, [17, 42]))


def test_too_few_keys_or_too_many_strange_ones_say_nothing() -> None:
    scores, keys = world()
    assert not strange_keys(np.where(keys % 5 == 0, 10, 1) * scores, keys, LIMITS).any()
    few = keys % 15
    assert not strange_keys(np.where(few == 3, 10, 1) * scores, few, LIMITS).any()
    assert not strange_keys(scores, np.arange(ROWS, dtype=np.uint64), LIMITS).any()  # a row a key
    assert len(strange_keys(scores[:0], keys[:0], LIMITS)) == 0


def test_a_key_that_is_off_in_one_feature_is_told_by_its_usual_row() -> None:
    _, keys = world()
    values = np.random.default_rng(5).standard_t(4, (ROWS, 6))
    assert len(deviating_keys(values, keys, 3.7)) == 0
    values[keys == 17, 2] += 4.5  # no row of it is remarkable
    late = np.flatnonzero(keys == 42)
    values[late[: int(0.4 * len(late))], 3] -= 6
    assert deviating_keys(values, keys, 3.7).tolist() == [17, 42]
    values[keys % 5 == 0, 1] += 9  # a fifth of them: another kind
    assert len(deviating_keys(values, keys, 3.7)) == 0
    assert len(deviating_keys(values, keys % 15, 3.7)) == len(deviating_keys(values[:0], keys[:0], 3.7)) == 0


def test_no_more_rows_are_ranked_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RANKED", 100)
    assert (ranked(100).sum(), ranked(1000).sum()) == (100, 100)


def deviations(rows: int, centre: float, spread: float, seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(centre, spread, (rows, 6))


def test_a_state_that_most_keys_show_goes_back_in() -> None:
    _, keys = world()
    out = np.random.default_rng(3).random(ROWS) < 0.02
    back = common_states(out, deviations(int(out.sum()), 12, 1), keys)
    assert np.mean(back[out]) > 0.97
    assert not back[~out].any()


def test_faults_stay_out_wherever_they_are() -> None:
    _, keys = world()
    out = np.random.default_rng(3).random(ROWS) < 0.02
    assert not common_states(out, deviations(int(out.sum()), 0, 60), keys).any()  # glitches everywhere
    few = np.isin(keys, [1, 2, 3])
    assert not common_states(few, deviations(int(few.sum()), 12, 1), keys).any()  # a state of three keys
    assert not common_states(few & (keys > 500), deviations(0, 0, 1), keys).any()


def test_a_key_that_is_always_in_a_common_state_stays_out() -> None:
    _, keys = world()
    out = (np.random.default_rng(3).random(ROWS) < 0.02) | (keys == 9)
    back = common_states(out, deviations(int(out.sum()), 12, 1), keys)
    assert not back[keys == 9].any()
    assert np.mean(back[out & (keys != 9)]) > 0.97
