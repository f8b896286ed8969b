"""The cut finds outliers that lie apart, leaves clean tails alone, and says when outliers and tail overlap."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from model.outliers.cut import MOST, find_cut

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]

CLEAN: dict[str, Draw] = {
    "normal": lambda r, n: np.abs(r.standard_normal(n)),
    "log-normal": lambda r, n: r.lognormal(0, 1.1, n),
    "exponential": lambda r, n: r.exponential(size=n),
    "chi": lambda r, n: np.sqrt(r.chisquare(5, n)),
    "t3": lambda r, n: np.abs(r.standard_t(3, n)),
    "half-Cauchy": lambda r, n: np.abs(r.standard_cauchy(n)),
    "counts": lambda r, n: r.poisson(3, n).astype(float),
    "rounded": lambda r, n: np.round(r.lognormal(0, 0.4, n), 1),
    "rounded t3": lambda r, n: np.round(np.abs(r.standard_t(3, n)), 1),
    "nine of ten zero": lambda r, n: np.where(r.random(n) < 0.9, 0, r.exponential(size=n)),
    "nine of ten at rest": lambda r, n: np.where(r.random(n) < 0.9, 0.3, 0.3 + r.exponential(size=n)),
    "a narrow range": lambda r, n: 100 + 1e-3 * r.exponential(size=n),
    "counts, mostly zero": lambda r, n: np.where(r.random(n) < 0.97, 0, r.poisson(3, n)).astype(float),
}


@pytest.mark.parametrize("name", CLEAN)
@pytest.mark.parametrize("rows", [300, 4000])
def test_a_clean_tail_is_neither_cut_nor_doubted(name: str, rows: int) -> None:
    found = [find_cut(CLEAN[name](np.random.default_rng(seed), rows)) for seed in range(20)]
    assert [one.share for one in found] == [0.0] * 20
    assert {one.score for one in found} == {np.inf}
    assert {one.doubt for one in found} == {""}


@pytest.mark.parametrize("share", [0.0015, 0.01, 0.05])
@pytest.mark.parametrize("name", ["normal", "exponential", "t3", "counts", "rounded", "nine of ten at rest"])
def test_outliers_that_lie_apart_are_cut(name: str, share: float) -> None:
    for seed in range(5):
        random = np.random.default_rng(seed)
        outliers = round(4000 * share)
        far = random.uniform(300, 3000, outliers)
        found = find_cut(np.concatenate([far, CLEAN[name](random, 4000 - outliers)]))
        assert found.share * 4000 == pytest.approx(outliers, abs=1)
        assert found.doubt == ""


@pytest.mark.parametrize("share", [0.01, 0.02, 0.05])
def test_ties_make_no_false_gaps_next_to_outliers_that_are_not_rounded(share: float) -> None:
    for seed in range(10):
        random = np.random.default_rng(seed)
        outliers = round(3480 * share)
        near = 7.5 * random.lognormal(0, 0.5, outliers)
        found = find_cut(np.concatenate([CLEAN["rounded"](random, 3480 - outliers), near]))
        assert found.share <= share + 0.002


def test_one_sentinel_is_cut() -> None:
    scores = np.append(np.abs(np.random.default_rng(0).standard_normal(20_000)), 4e7)
    found = find_cut(scores.astype(np.float32))
    assert np.sum(scores > found.score) == 1
    assert found.share == 1 / 20_001


@pytest.mark.parametrize(
    ("body", "outliers"),
    [
        (lambda r, _: r.lognormal(0, 0.4, 3480), lambda r, _: 7.5 * r.lognormal(0, 0.5, 174)),
        (lambda r, _: np.abs(r.standard_t(3, 3480)) + 0.5, lambda r, _: 45 * r.lognormal(0, 0.5, 35)),
    ],
)
def test_outliers_that_overlap_the_tail_are_cut_or_doubted(body: Draw, outliers: Draw) -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        far = outliers(random, 0)
        found = find_cut(np.concatenate([body(random, 0), far]))
        if not found.doubt:
            assert found.share * 3480 > 0.7 * len(far)


def test_more_rows_than_can_be_outliers_are_doubted_and_not_cut() -> None:
    random = np.random.default_rng(0)
    found = find_cut(np.concatenate([random.exponential(size=3200), 1000 + random.exponential(size=800)]))
    assert found.share <= MOST
    assert "20.0% of the rows" in found.doubt


@pytest.mark.parametrize("share", [0.1, 0.15, 0.2])
@pytest.mark.parametrize("body", [lambda r, n: np.abs(r.standard_normal((n, 6))).max(1), CLEAN["log-normal"]])
def test_many_rows_of_another_kind_without_a_gap_are_doubted(body: Draw, share: float) -> None:
    """A hump of scores: readings that are far off, in so many rows that they are learnt in part."""
    for seed in range(10):
        random = np.random.default_rng(seed)
        rows = body(random, 4000)
        others = 2 * np.quantile(rows, 0.99) * random.lognormal(0, 0.25, round(4000 * share))
        found = find_cut(np.concatenate([rows, others]))
        assert found.doubt or found.share > 0.9 * share / (1 + share)


def test_the_unit_of_the_score_and_the_order_of_the_rows_do_not_matter() -> None:
    random = np.random.default_rng(0)
    scores = np.concatenate([random.exponential(size=4000), random.uniform(100, 200, 40)])
    one, other = find_cut(scores), find_cut(random.permutation(scores) * 1024)
    assert one.score * 1024 == pytest.approx(other.score)
    assert one.share == other.share > 0


@pytest.mark.parametrize(
    "scores",
    [
        np.zeros(0),
        np.ones(10),
        np.zeros(1000),
        np.ones(1000),
        np.full(1000, np.nan),
        np.full(1000, np.inf),
        np.append(np.zeros(1000), 5.0),
        np.append(np.ones(1000), np.nan),
        np.full(1000, 5e-324),
    ],
)
def test_scores_without_a_tail_have_no_cut(scores: NDArray[np.float64]) -> None:
    found = find_cut(scores)
    assert (found.score, found.share, found.doubt) == (np.inf, 0.0, "")


def test_infinite_scores_are_outliers() -> None:
    scores = np.append(np.random.default_rng(0).exponential(size=1000), [np.inf, np.inf])
    assert np.sum(scores > find_cut(scores).score) == 2
