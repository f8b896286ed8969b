"""Boxes hold their rows, in numbers and in SQL alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from model.outliers.boxes import Box, Range, identifier
from model.training.normal import Condition, compile_normal

FLOATS = st.floats(-(2.0**120), 2.0**120, width=32)
ROWS = arrays.arrays(np.float32, st.tuples(st.integers(1, 8), st.just(3)), elements=FLOATS)
NAMES = ("speed", "from", 'a "b" c; --')


def by_sql(rows: np.ndarray, where: str) -> list[bool]:
    """What calling them normal by this condition comes to."""
    normal = compile_normal([Condition(where, "--normal")], NAMES)
    assert normal is not None
    return normal(rows).tolist()


@given(ROWS, ROWS, st.sets(st.integers(0, 2), min_size=1), st.booleans())
def test_a_box_holds_its_rows_in_numbers_and_in_sql(
    rows: np.ndarray, kept: np.ndarray, named: set[int], whole: bool
) -> None:
    box = Box.around(rows, kept, sorted(named), np.full(3, whole))
    assert box.holds(rows).mean() >= 0.97
    assert {each.feature for each in box.ranges} >= named
    for x in (rows, kept):
        assert by_sql(x, box.where(NAMES)) == box.holds(x).tolist()


@pytest.mark.parametrize(
    ("values", "whole", "where"),
    [
        ([65535, 65535], False, "speed = 65535"),
        ([-1], False, "speed = -1"),
        ([0, 0], True, "speed = 0"),
        ([2, 5], True, "speed BETWEEN 2 AND 5"),
        ([2, 5], False, "speed BETWEEN 1.8 AND 5.2"),
        ([0.1], False, "speed BETWEEN 0.0999999 AND 0.1000002"),
        ([41.3, 87.9], False, "speed BETWEEN 38 AND 91"),
        ([3e38], False, "speed BETWEEN 2.999997e+38 AND 3.000004e+38"),
        ([1e-12, 5e-12], False, "speed BETWEEN 7e-13 AND 5.2e-12"),
    ],
)
def test_bounds_are_round_numbers(values: list[float], whole: bool, where: str) -> None:
    assert Range.around(0, np.array(values, np.float32), whole).where(NAMES) == where


def test_a_feature_is_added_where_it_keeps_the_others_out() -> None:
    random = np.random.default_rng(0)
    kept = random.normal(size=(5000, 4)).astype(np.float32)
    rows = random.normal([0, 4, 0, 9], 0.5, (200, 4)).astype(np.float32)
    box = Box.around(rows, kept, [1], np.zeros(4, bool))
    assert [each.feature for each in box.ranges] == [1, 3]
    assert not box.holds(kept).any()
    alone = Box.around(rows, rows[:0], [1], np.zeros(4, bool))
    assert [each.feature for each in alone.ranges] == [1]


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("speed", "speed"),
        ("tire_pressure_1", "tire_pressure_1"),
        ("from", '"from"'),
        ("select", '"select"'),
        ("not", '"not"'),
        ("1st", '"1st"'),
        ("a b", '"a b"'),
        ("a.b", '"a.b"'),
        ("", '""'),
        ('x"; DROP', '"x""; DROP"'),
        ("x -- y", '"x -- y"'),
    ],
)
def test_names_are_quoted_where_sql_would_read_something_else(name: str, written: str) -> None:
    assert identifier(name) == written
