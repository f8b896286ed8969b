"""An alert budget is held while the scores drift, whichever way blocks are cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from beam_jobs.steps.alerting.budget import DAY_MS, AlertBudget
from beam_jobs.steps.alerting.cooldown import CoolDown
from beam_jobs.steps.alerting.judge import ByBudget

Floats = NDArray[np.float64]
N = 400_000
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in (1, 2, 3, 4))]
QUANTILES = [(0.0, 0.05), (0.5, 1.0), (0.9, 3.6), (0.99, 10.2), (0.999, 22.0), (0.9999, 41.0), (0.99999, 71.0)]

DRIFTS: dict[str, Callable[[Floats], Floats]] = {  # what the scores are multiplied by, of how much of the run is over
    "none": np.ones_like,
    "grows 20 times": lambda t: np.exp(3 * t),
    "shrinks 20 times": lambda t: np.exp(-3 * t),
    "steps up 8 times": lambda t: np.where(t > 0.5, 8.0, 1.0),
    "steps down 10 times": lambda t: np.where(t > 0.5, 0.1, 1.0),
    "up and down 5 times": lambda t: np.where((10 * t).astype(int) % 2, 6.0, 1.0),
    "seasons": lambda t: np.exp(0.8 * np.sin(2 * np.pi * 6 * t)),
    "bursts": lambda t: np.where((t * 20 % 5 > 4) & (np.arange(len(t)) % 20 == 0), 30.0, 1.0),
}


def drifting(how: str, seed: int) -> NDArray[np.float32]:
    scores = np.random.default_rng(seed).lognormal(0, 1, N) * DRIFTS[how](np.arange(N) / N)
    return scores.astype(np.float32)


def alerts(budget: str, scores: NDArray[np.float32], times: NDArray[np.int64], cuts: NDArray[np.int64]) -> Floats:
    """1 for each row that is an alert, else 0."""
    judge = ByBudget(AlertBudget.parse(budget), 22.0, QUANTILES)
    ends = [0, *cuts.tolist(), len(scores)]
    parts = [slice(a, b) for a, b in pairwise(ends)]
    return np.concatenate([judge(scores[p], times[p], lambda: None).alert for p in parts]).astype(float)


def in_each(stretch: int, found: Floats) -> Floats:
    """Alerts in each stretch of so many rows, wherever it begins."""
    count = np.concatenate([[0], np.cumsum(found)])
    return count[stretch:] - count[:-stretch]


@pytest.mark.parametrize("how", DRIFTS)
@pytest.mark.parametrize("seed", SEEDS)
def test_so_many_of_1000_records_within_a_tenth(how: str, seed: int) -> None:
    """In each stretch that earns 150 alerts, and in no stretch that earns 100 more than 110."""
    scores = drifting(how, seed)
    cuts = np.sort(np.random.default_rng(seed).integers(0, N, 60))
    found = alerts("1/1000", scores, np.zeros(N, np.int64), cuts)
    assert in_each(150_000, found).min() >= 135
    assert in_each(150_000, found).max() <= 165
    assert in_each(100_000, found).max() <= 110


def test_after_a_step_down_the_scores_of_before_are_soon_forgotten() -> None:
    """As long as they are remembered nothing comes near them; of longer memories a tenth and more would be lost."""
    none = np.zeros(N, np.int64)
    found = [alerts("1/1000", drifting("steps down 10 times", seed), none, none[:0]) for seed in range(5)]
    assert min(in_each(100_000, each).min() for each in found) >= 90


@pytest.mark.parametrize("how", DRIFTS)
@pytest.mark.parametrize("seed", SEEDS)
def test_so_many_a_day_within_a_tenth(how: str, seed: int) -> None:
    """The traffic has days and nights and grows four times meanwhile."""
    days, t = 5, np.arange(N) / N
    pace = (1 + 0.8 * np.sin(2 * np.pi * days * t + seed)) / (1 + 3 * t)
    times = (np.cumsum(pace) / pace.sum() * days * DAY_MS).astype(np.int64)
    found = alerts("150/day", drifting(how, seed), times, np.arange(3000, N, 3000))
    by_day = np.bincount(times[found > 0] // DAY_MS, minlength=days)[:days]
    assert by_day[1:].min() >= 135
    assert by_day.max() <= 165


@pytest.mark.parametrize("how", [how for how in DRIFTS if how != "bursts"])
def test_so_many_a_day_and_1000_keys_within_a_tenth(how: str) -> None:
    """After the first day, whose keys are counted while they come."""
    days, keys = 4, pa.array([f"card-{i}" for i in np.random.default_rng(1).integers(0, 3000, N)])
    times = np.arange(N) * (days * DAY_MS // N)
    judge = ByBudget(AlertBudget.parse("50/1000keys"), 22.0, QUANTILES)
    scores, found = drifting(how, 1), np.zeros(N, np.bool_)
    for at in range(0, N, 2000):
        part = slice(at, at + 2000)
        found[part] = judge(scores[part], times[part], partial(keys.slice, at, 2000)).alert
    by_day = np.bincount(times[found] // DAY_MS, minlength=days)
    assert by_day.max() <= 165
    assert by_day[1:].min() >= 135


@given(
    st.lists(st.integers(0, 20_000), max_size=12), st.sampled_from(sorted(DRIFTS)), st.sampled_from(["1/100", "90/day"])
)
@settings(max_examples=25, deadline=None)
def test_where_blocks_are_cut_makes_no_difference(cuts: list[int], how: str, budget: str) -> None:
    scores = drifting(how, 1)[:: N // 20_000]
    times = np.arange(len(scores)) * (DAY_MS // 5000)
    whole, cut = (alerts(budget, scores, times, np.array(sorted(each), np.int64)) for each in ([], cuts))
    assert np.array_equal(whole, cut)


def of_keys(scores: NDArray[np.float32], keys: NDArray[np.int64], cuts: Sequence[int]) -> tuple[Floats, int]:
    """Rows that are told, 1 in 1,000 of which one a key alone, and how many are kept back."""
    cooldown = CoolDown(10**9)
    judge = ByBudget(AlertBudget.parse("1/1000"), 22.0, QUANTILES)
    found, kept_back = np.zeros(len(scores)), 0
    for start, end in pairwise([0, *cuts, len(scores)]):

        def tells(rows: NDArray[np.intp], levels: NDArray[np.int64], start: int = start) -> NDArray[np.bool_]:
            ids, texts = (
                (pa.array(each.astype(str).tolist(), pa.string())) for each in (start + rows, keys[start + rows])
            )
            return cooldown.passing(texts, ids, np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64))

        judged = judge(scores[start:end], np.zeros(end - start, np.int64), lambda: None, tells)
        found[start + np.flatnonzero(judged.alert)[judged.told]] = 1
        kept_back += int((~judged.told).sum())
    return found, kept_back


def one_key_in_turn(how: str, n: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """One of 20 keys in turn shows nothing but high scores: most alerts are its own."""
    scores, row = drifting(how, 1)[:: N // n], np.arange(n)
    mine = row % 20 == 0
    scores[mine] *= 5
    return scores, np.where(mine, row // 2000, row // 2000 * 1000 + row % 1000 + 10**6)


@pytest.mark.parametrize("rows", [500, 32_768])
@pytest.mark.parametrize("how", DRIFTS)
def test_a_budget_is_of_what_is_told_where_a_cool_down_keeps_alerts_back(how: str, rows: int) -> None:
    """In the small blocks of a live job and in the large ones of a job that catches up."""
    found, kept_back = of_keys(*one_key_in_turn(how, N), range(rows, N, rows))
    assert kept_back > 50
    assert in_each(150_000, found).min() >= 135
    assert in_each(150_000, found).max() <= 165


@given(st.lists(st.integers(0, 20_000), max_size=12))
@settings(max_examples=10, deadline=None)
def test_where_blocks_are_cut_makes_no_difference_to_a_cool_down_either(cuts: list[int]) -> None:
    scores, keys = one_key_in_turn("grows 20 times", 20_000)
    (whole, kept_back), (cut, _) = (of_keys(scores, keys, each) for each in ([], sorted(cuts)))
    assert np.array_equal(whole, cut)
    assert kept_back
