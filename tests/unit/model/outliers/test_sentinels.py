"""What looks like a sentinel is named with column, value and rows; what is merely rare is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from beam_jobs.errors import UserError
from model.outliers import sentinels
from model.outliers.sentinels import Screen, Sentinel, find, is_known, told
from model.training.normal import Condition, compile_normal

ROWS = 20_000
Draw = Callable[[np.random.Generator], np.ndarray]


def blocks(*columns: np.ndarray, size: int = ROWS) -> Iterator[np.ndarray]:
    x = np.stack(columns, axis=1).astype(np.float32)
    return (x[i : i + size] for i in range(0, len(x), size))


def found(column: np.ndarray, size: int = ROWS) -> list[tuple[float, int]]:
    return [(one.value, one.rows) for one in find(blocks(column, size=size), ["a"])]


def pick(random: np.random.Generator, share: float, some: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.where(random.random(ROWS) < share, some, others)


def codes(random: np.random.Generator, n: int) -> np.ndarray:
    return random.choice(random.integers(1, 1_000_000, n), ROWS, p=random.dirichlet(np.full(n, 0.5)))


ORDINARY: dict[str, Draw] = {
    "normal": lambda r: r.normal(20, 5, ROWS),
    "standard normal": lambda r: r.normal(0, 1, ROWS),
    "tenths": lambda r: np.round(r.normal(20, 5, ROWS), 1),
    "whole": lambda r: np.rint(r.normal(60, 10, ROWS)),
    "whole about 5": lambda r: np.rint(r.normal(5, 1.6, ROWS)),
    "large offset": lambda r: 1e9 + r.normal(0, 1, ROWS),
    "uniform": lambda r: r.uniform(0, 100, ROWS),
    "log-normal": lambda r: r.lognormal(0, 2, ROWS),
    "whole log-normal": lambda r: np.rint(r.lognormal(5, 1.5, ROWS)),
    "exponential": lambda r: r.exponential(30, ROWS),
    "t3": lambda r: r.standard_t(3, ROWS),
    "cauchy": lambda r: r.standard_cauchy(ROWS),
    "pareto": lambda r: r.pareto(1, ROWS),
    "whole pareto": lambda r: np.rint(r.pareto(1, ROWS)),
    "poisson 0.01": lambda r: r.poisson(0.01, ROWS),
    "poisson 3": lambda r: r.poisson(3, ROWS),
    "poisson 200": lambda r: r.poisson(200, ROWS),
    "geometric": lambda r: r.geometric(0.01, ROWS),
    "bursts": lambda r: r.negative_binomial(1, 0.05, ROWS),
    "many zeros": lambda r: pick(r, 0.97, np.zeros(ROWS), r.poisson(5, ROWS)),
    "half constant": lambda r: pick(r, 0.5, np.zeros(ROWS), r.normal(0, 1, ROWS)),
    "half constant, far away": lambda r: pick(r, 0.5, np.zeros(ROWS), r.normal(100, 1, ROWS)),
    "rare and far away": lambda r: pick(r, 0.002, np.rint(r.normal(100, 3, ROWS)), np.rint(r.normal(5, 1, ROWS))),
    "off in 2 %": lambda r: pick(r, 0.02, np.zeros(ROWS), r.normal(100, 1, ROWS)),
    "constant": lambda r: np.full(ROWS, 7),
    "constant at a limit": lambda r: np.full(ROWS, 65535),
    "-1, 0, 1": lambda r: r.choice([-1, 0, 1], ROWS, p=[0.001, 0.998, 0.001]),
    "category with 99": lambda r: r.choice([0, 1, 2, 3, 99], ROWS, p=[0.3, 0.3, 0.3, 0.09, 0.01]),
    "firmware": lambda r: r.choice([1000, 2000], ROWS, p=[0.9995, 0.0005]),
    "50 codes": lambda r: codes(r, 50),
    "400 codes": lambda r: codes(r, 400),
    "numbered": lambda r: r.permutation(ROWS),
    "saturated": lambda r: np.minimum(r.normal(100, 10, ROWS), 120),
    "saturated, heavy tail": lambda r: np.clip(r.standard_cauchy(ROWS), -3000, 3000),
    "saturated at 255": lambda r: np.minimum(r.poisson(230, ROWS), 255),
    "glitches": lambda r: pick(r, 0.002, r.normal(0, 200, ROWS), r.normal(0, 1, ROWS)),
}  # fmt: skip


@pytest.mark.parametrize("size", [ROWS, 900])
@pytest.mark.parametrize("name", ORDINARY)
def test_what_is_ordinary_is_not_named(name: str, size: int) -> None:
    for seed in range(8):
        assert found(ORDINARY[name](np.random.default_rng(seed)), size) == []


SENTINELS = [65535, 32767, -32768, 999999, 9999, -999, -9999.9, 2147483647, 3e38, 3.4028235e38, 1e20]


@pytest.mark.parametrize("value", SENTINELS)
@pytest.mark.parametrize("name", ["normal", "standard normal", "tenths", "whole", "uniform", "exponential", "t3",
                                  "poisson 3", "poisson 200", "many zeros", "half constant", "constant", "-1, 0, 1",
                                  "saturated", "large offset"])  # fmt: skip
@pytest.mark.parametrize("size", [ROWS, 900])
def test_one_sentinel_in_20_000_rows_is_named(name: str, value: float, size: int) -> None:
    random = np.random.default_rng(1)
    column = ORDINARY[name](random).astype(np.float32)
    column[random.integers(ROWS)] = value
    assert found(column, size) == [(float(np.float32(value)), 1)]


@pytest.mark.parametrize("rows", [1, 30, 4000])
def test_the_rows_are_counted(rows: int) -> None:
    random = np.random.default_rng(2)
    column = random.normal(20, 2, ROWS)
    column[random.choice(ROWS, rows, replace=False)] = 65535
    assert found(column, 900) == [(65535, rows)]


@pytest.mark.parametrize(
    ("column", "value"),
    [("normal 1000", 0), ("normal 20", -1), ("normal 20", -273.15), ("uniform", -1), ("log-normal", -1),
     ("normal 20", 255), ("counts", 255), ("counts", -99)],
)  # fmt: skip
def test_values_that_are_sentinels_only_where_nothing_is_near(column: str, value: float) -> None:
    random = np.random.default_rng(3)
    values = {
        "normal 1000": lambda: random.normal(1000, 10, ROWS),
        "normal 20": lambda: random.normal(20, 2, ROWS),
        "uniform": lambda: random.uniform(0, 100, ROWS),
        "log-normal": lambda: random.lognormal(0, 1, ROWS),
        "counts": lambda: random.poisson(20, ROWS),
    }[column]()
    values[:3] = value
    assert found(values) == [(float(np.float32(value)), 3)]


def test_a_value_nobody_knows_is_named_if_it_repeats() -> None:
    random = np.random.default_rng(4)
    column = random.normal(20, 2, ROWS)
    column[:20] = 850.5
    assert found(column) == [(850.5, 20)]
    column[1:20] = random.normal(850, 10, 19)  # glitches
    assert found(column) == []


def test_several_sentinels_among_outliers() -> None:
    random = np.random.default_rng(5)
    column = random.normal(20, 2, ROWS)
    column[:200] = random.normal(0, 2000, 200)
    column[200:203], column[203], column[204:209] = 65535, 3e38, -32768
    assert found(column) == [(-32768, 5), (65535, 3), (float(np.float32(3e38)), 1)]


def test_no_rows() -> None:
    assert find(iter([]), ["a"]) == []
    assert find(iter([np.empty((0, 1), np.float32)]), ["a"]) == []
    assert found(np.array([65535.0])) == []


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentinels, "_OUTERMOST", 64)
    column = sentinels._Column()
    random = np.random.default_rng(6)
    for _ in range(50):
        column.add(random.normal(0, 1, 1000).astype(np.float32))
    column.add(np.full(3, 65535, np.float32))
    assert (len(column.values), len(column.counts), column.rows) == (128, 128, 50_003)
    assert column.sentinels() == [65535]


def test_known_values() -> None:
    for value in (65535, -1, 0, 99, 9999, 999999.0, 9999999, 99.99, -9999.9, 99999999, 2**31 - 1, 3e38, -1e30,
                  6553.5, 655.35, -327.68):  # fmt: skip
        assert is_known(float(np.float32(value))), value
    for value in (1, 9, 100, 850, 20.5, 9.9, 1000, 2000, 12345, 1e6, 199):
        assert not is_known(float(np.float32(value))), value


def test_the_screen_keeps_what_a_person_calls_normal() -> None:
    x = np.array([[1, 65535], [65535, 2], [3, 4], [9999, 65535]], np.float32)
    named = [Sentinel("a", 65535, 1, 0, 1, 3), Sentinel("b", 65535, 2, 0, 2, 4), Sentinel("a", 9999, 1, 0, 1, 3)]
    screen = Screen(named, ["a", "b"])
    assert [screen.sound(x[:2]).tolist(), screen.sound(x[2:]).tolist()] == [[False, False], [True, False]]
    assert [one.left_out for one in screen.sentinels()] == [1, 2, 1]
    screen = Screen(named, ["a", "b"], normal=lambda rows: rows[:, 1] == 65535)
    assert screen.sound(x).tolist() == [True, False, True, True]
    assert [one.left_out for one in screen.sentinels()] == [1, 0, 0]


def test_the_sentences() -> None:
    one = Sentinel("temperature", 65535.0, 1, 1, 8.125, 31.5)
    text = "column temperature: 65535 in 1 row looks like a sentinel (the other values are 8.125 to 31.5)"
    assert str(one) == text
    assert told([one, Sentinel("b", -999, 2, 0, 1, 2)], refuse=False) == [
        f"{text}: 1 left out; if it is a reading, call it normal: --normal 'temperature = 65535'"
    ]
    with pytest.raises(UserError, match=r"--on_outlier refuse: column temperature: 65535 in 1 row .*'temp"):
        told([one], refuse=True)
    assert told([Sentinel("b", -999, 2, 0, 1, 2)], refuse=True) == []


@pytest.mark.parametrize(("column", "name"), [("flow", "flow"), ("set", "set"), ("a b", '"a b"'), ('x"y', '"x""y"')])
def test_the_condition_of_a_sentinel_is_one_that_can_be_given_back(column: str, name: str) -> None:
    where = Sentinel(column, 65535.0, 3, 2, 0.5, 30.0).where
    assert where == f"{name} = 65535"
    holds = compile_normal([Condition(where, "--normal")], [column, "other"])
    assert holds is not None
    assert holds(np.array([[65535, 0], [1, 65535]], np.float32)).tolist() == [True, False]
