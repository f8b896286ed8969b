"""Conditions that call rows normal: SQL over the features, groups of the latest version, errors in one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from beam_jobs.errors import UserError
from beam_jobs.use_case import load_use_case
from model.manifest import FILE_NAME, DataSummary, Manifest
from model.outliers.groups import Group, LeftOut
from model.training.normal import Condition, compile_normal, conditions

CARS = load_use_case("car_sensors")
ROWS = np.array([[0, 1, 0.1], [2, 0, 65535], [3, 3, 3e38]], np.float32)


def met(*where: str, rows: np.ndarray = ROWS, features: Sequence[str] = ("speed", "load", "Order")) -> list[bool]:
    normal = compile_normal([Condition(one, "--normal") for one in where], features)
    assert normal is not None
    found = normal(rows)
    assert (found.dtype, found.shape) == (np.bool_, (len(rows),))
    return found.tolist()


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (["speed = 0"], [True, False, False]),
        (["SPEED > 1 AND load < 1"], [False, True, False]),
        (["speed BETWEEN 2 AND 3 OR load IN (1, 7)"], [True, True, True]),
        (["speed = 0", "load = 3"], [True, False, True]),
        (["NOT speed >= 2"], [True, False, False]),
        (["speed / load > 1"], [False, True, False]),  # 2 / 0 is infinite
        (["speed / NULLIF(load, 0) > -1"], [True, False, True]),  # NULL is not true
        (['"Order" = 0.1'], [True, False, False]),  # as float32, both of them
        (['"Order" = 3e38'], [False, False, True]),
        (['"Order" <= -1e39'], [False, False, False]),
        (["ABS(load - 2) <= 1 -- near two"], [True, False, True]),
    ],
)
def test_rows_that_meet_a_condition(where: list[str], expected: list[bool]) -> None:
    assert met(*where) == expected
    assert met(*where, rows=ROWS[:0]) == []


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(0, 40), st.just(3)), elements=st.floats(-8, 8, width=16)),
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["<", "<=", "=", ">"]), st.floats(-8, 8, width=16))),
)
def test_it_means_what_polars_means(rows: np.ndarray, terms: list[tuple[str, str, float]]) -> None:
    where = [f"{name} {sign} {value!r}" for name, sign, value in terms] or ["a > 9"]
    frame = pl.DataFrame(rows, schema=["a", "b", "c"])
    wanted = pl.SQLContext(t=frame).execute(f"SELECT {' OR '.join(where)} AS met FROM t", eager=True)
    assert met(*where, rows=rows, features=["a", "b", "c"]) == wanted["met"].to_list()


def test_no_condition_is_none() -> None:
    assert compile_normal([], ["a"]) is None


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("speeed > 3", "line 1, column 1: unknown column speeed; did you mean speed?"),
        ("speed >", "the SQL can't be parsed near `>`"),
        ("speed", "it is a number; it needs a comparison"),
        ("1 = 1", "it is the same for every row; use one of speed, load"),
        ("speed > 3; DROP TABLE x", "can't be parsed near `DROP`"),
        ("", "has 0 statements"),
        ("'open", "is a quote left open?"),
        ("SELECT 1", "can't be parsed near `SELECT`"),
        ("speed > (SELECT 1)", "a subquery is not supported"),
        ("speed > AVG(load) OVER (PARTITION BY a ORDER BY b RANGE CURRENT ROW)", "no window is known here"),
        ("speed > MAX(load)", "depends on other rows"),
        ("DROP TABLE x", "can't be parsed near `DROP` (after ``); it is what a WHERE may hold"),
        ("speed = 'fast'", "mixes types"),
        ("RANDOM() > 0.5", "gives another value on each replay"),
    ],
)
def test_a_condition_that_will_not_do(where: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        compile_normal([Condition(where, "--normal")], ["speed", "load"])
    assert str(caught.value).startswith(f"--normal {where!r}")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def group(name: str, where: str) -> Group:
    return Group(name, (), 9, 0.1, 3, 0.3, where, 0, ())


def version(root: Path, name: str, *groups: Group) -> None:
    """A version whose training left out some groups."""
    folder = root / CARS.name / "versions" / name
    folder.mkdir(parents=True)
    made = Manifest(
        name=CARS.name,
        version=name,
        created_at="2026-11-22T07:00:00+00:00",
        use_case=CARS.name,
        features=("speed",),
        units=(None,),
        preprocessing_fingerprint="",
        schema_fingerprint="",
        threshold=1.0,
        alert_budget=0.1,
        score_quantiles=((0.0, 1.0),),
        data=DataSummary("history", 1, "c", 20, 12, None, None, "early", "late", 0),
        network={},
        metrics={},
        libraries={},
        files={},
        left_out=LeftOut(9, 0.1, 3.0, "", groups, 0) if groups else None,
    )
    (folder / FILE_NAME).write_text(made.to_json())


def test_a_group_is_one_of_the_latest_version(tmp_path: Path) -> None:
    version(tmp_path, "2", group("g1", "speed = 1"), group("g2", "speed = 2"))
    version(tmp_path, "3", group("g1", "speed = 4"), group("g2", "speed = 5"))
    version(tmp_path, "1", group("g1", "speed = 3"))
    found = conditions(CARS, ["g2", "speed > 7"], str(tmp_path))
    assert [one.where for one in found] == ["speed = 5", "speed > 7"]
    with pytest.raises(UserError, match=r"^--normal g22: no group of car_sensors 3, whose nearest are g2, g1; "):
        conditions(CARS, ["g22"], str(tmp_path))


def test_there_may_be_no_group(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--normal g1: .* has no version of car_sensors yet"):
        conditions(CARS, ["g1"], str(tmp_path))
    version(tmp_path, "1")
    with pytest.raises(UserError, match=r"--normal g1: no group of car_sensors .* nearest are none"):
        conditions(CARS, ["g1"], str(tmp_path))
    with pytest.raises(UserError, match="--normal : "):
        conditions(CARS, [" "], str(tmp_path))


def test_the_use_case_has_conditions_of_its_own(tmp_path: Path) -> None:
    found = conditions(replace(CARS, normal=("speed = 0", "speeed = 1")), ["speed > 3"], str(tmp_path))
    assert [one.where for one in found] == ["speed = 0", "speeed = 1", "speed > 3"]
    with pytest.raises(
        UserError, match=r"^use_case\.yaml: normal 'speeed = 1' line 1, column 1: unknown column speeed"
    ):
        compile_normal(found, ["speed"])
