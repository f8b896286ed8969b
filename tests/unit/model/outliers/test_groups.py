"""Rows that were left out come out in groups a person can decide about."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.outliers import groups as grouping
from model.outliers.groups import MAX_GROUPS, Group, LeftOut, find_groups
from model.training.normal import Condition, compile_normal

NAMES = ("a", "b", "c", "d", "e", "f")
STATE = np.array([6, -6, 5, 0, 4, -5], np.float32)
TIME = 1_700_000_000_000


class World:
    """Six correlated features of 50 keys, and rows that were left out."""

    def __init__(self, n: int = 20_000, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        mix = self.random.normal(size=(3, 6))
        self.x = (self.random.normal(size=(n, 3)) @ mix + self.random.normal(0, 0.3, (n, 6))).astype(np.float32)
        self.precision = np.linalg.inv(mix.T @ mix + 0.09 * np.eye(6))
        self.keys = self.random.integers(0, 50, n).astype(np.uint64)
        self.times = TIME + 1000 * np.arange(n)
        self.out = np.zeros(n, bool)

    def leave_out(self, rows: int, only_key: int | None = None) -> np.ndarray:
        """Numbers of some rows of the others."""
        free = ~self.out if only_key is None else ~self.out & (self.keys == only_key)
        chosen = self.random.choice(np.flatnonzero(free), rows, replace=False)
        self.out[chosen] = True
        return chosen

    def deviations(self, rows: np.ndarray) -> np.ndarray:
        """What each feature is beside the best linear prediction from the others, spreads."""
        return rows @ self.precision / np.sqrt(np.diag(self.precision))

    def groups(self) -> tuple[tuple[Group, ...], int]:
        found, others = find_groups(self.x, self.keys, self.times, self.out, self.deviations, NAMES)
        assert sum(group.rows for group in found) + others == self.out.sum()
        assert [group.name for group in found] == [f"g{i}" for i in range(1, len(found) + 1)]
        assert [group.rows for group in found] == sorted((group.rows for group in found), reverse=True)
        taken = np.zeros(len(self.x), bool)
        for group in sorted(found, key=lambda group: -group.rows):
            held = self.held(group)
            assert group.kept == (held & ~self.out).sum()
            assert group.rows <= (held & self.out).sum()
            taken |= held
        assert (taken & self.out).sum() >= self.out.sum() - others
        return found, others

    def held(self, group: Group) -> np.ndarray:
        """Rows that are normal if somebody says so of the group's condition."""
        normal = compile_normal([Condition(group.where, "--normal")], NAMES)
        assert normal is not None
        return normal(self.x)


@pytest.mark.parametrize("seed", range(5))
def test_a_rare_state_is_one_group_and_glitches_are_others(seed: int) -> None:
    world = World(seed=seed)
    state = world.leave_out(400)
    world.x[state] += STATE
    for row in world.leave_out(40):
        world.x[row, world.random.integers(6)] += world.random.choice([-1, 1]) * world.random.uniform(15, 45)
    found, _ = world.groups()
    first = found[0]
    assert first.rows == pytest.approx(400, abs=12)
    assert first.row_share == first.rows / 20_000
    assert first.key_share > 0.95
    assert world.held(first)[state].mean() > 0.97
    assert first.kept < 20
    assert {each.name for each in first.features} <= {"a", "b", "c", "e", "f"}
    assert len(first.features) >= 3
    for each in first.features:
        assert each.direction == ("high" if STATE[NAMES.index(each.name)] > 0 else "low")
    assert all(group.rows <= 15 for group in found[1:])
    assert len(first.examples) == 5
    for example in first.examples:
        row = (datetime.fromisoformat(example.time) - datetime.fromtimestamp(TIME / 1000, UTC)).total_seconds()
        assert world.out[int(row)]
        for name, value in example.values.items():
            assert np.float32(value) == world.x[int(row), NAMES.index(name)]


def test_rows_that_were_learnt_are_told_apart_by_their_values() -> None:
    world = World()
    world.x[world.leave_out(300)] += STATE
    world.x[world.leave_out(100)] += np.array([0, 0, 0, 12, 0, 0], np.float32)
    found, _ = find_groups(world.x, world.keys, world.times, world.out, None, NAMES, mark="p")
    assert [group.name for group in found[:2]] == ["p1", "p2"]
    assert [group.rows for group in found[:2]] == pytest.approx([300, 100], abs=40)
    assert found[1].features[0].name == "d"


def test_two_states_are_two_groups_and_each_says_how_many_keys_show_it() -> None:
    world = World()
    world.x[world.leave_out(300)] += STATE
    world.x[world.leave_out(200, only_key=7)] += np.array([0, 0, 0, 12, 0, 0], np.float32)
    found, _ = world.groups()
    assert [group.keys for group in found] == [50, 1]
    assert [group.rows for group in found] == pytest.approx([300, 200], abs=6)
    assert [each.name for each in found[1].features] == ["d"]


def test_a_value_far_from_the_others_is_a_group_of_its_own() -> None:
    world = World()
    world.x[world.leave_out(100), 3] = world.random.normal(30, 2, 100)
    world.x[world.leave_out(20), 3] = 65535
    world.x[world.leave_out(10), 3] = 3e38
    found, others = world.groups()
    assert [group.rows for group in found] == [100, 20, 10]
    assert others == 0
    assert found[1].where == "d = 65535"
    assert found[1].features[0].typical == 65535


def test_one_row_is_a_group_too() -> None:
    world = World()
    world.x[world.leave_out(1), 2] = -999
    (only,), others = world.groups()
    assert (only.rows, only.keys, others, only.where) == (1, 1, 0, "c = -999")
    assert str(only.features[0]).startswith("c low: -999 (normal ")


def test_a_state_against_the_correlation_is_named_though_each_value_is_usual() -> None:
    random = np.random.default_rng(0)
    common = random.normal(size=(5000, 1))
    x = (common + 0.1 * random.normal(size=(5000, 2))).astype(np.float32)
    x[:100] = np.array([1.5, -1.5]) + 0.1 * random.normal(size=(100, 2))
    out = np.arange(5000) < 100
    (first, *_), _ = find_groups(
        x, np.zeros(5000, np.uint64), np.zeros(5000, np.int64), out, lambda rows: (rows - rows[:, ::-1]) / 0.14, "ab"
    )
    assert first.rows == 100
    assert {(each.name, each.direction) for each in first.features} == {("a", "high"), ("b", "low")}
    assert "but not with the other features" in str(first.features[0])
    assert first.kept == 0


def test_nothing_left_out_has_no_groups() -> None:
    world = World(500)
    assert world.groups() == ((), 0)


def test_all_left_out_and_values_that_are_no_numbers_do_not_crash() -> None:
    world = World(300)
    world.out[:] = True
    world.x[:5, 0] = np.nan
    world.x[5:9, 1] = np.inf
    world.groups()
    world.x[:] = np.nan
    assert world.groups() == ((), 300)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    n=st.integers(1, 60),
    features=st.integers(1, 4),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 1e6, 1e30]),
    heavy=st.booleans(),
    share=st.floats(0, 1),
)
def test_each_row_left_out_is_in_one_group_or_in_others(
    seed: int, n: int, features: int, scale: float, heavy: bool, share: float
) -> None:
    random = np.random.default_rng(seed)
    x = random.standard_t(1, (n, features)) if heavy else random.integers(0, 3, (n, features))
    x = (x * scale).astype(np.float32)
    keys, times, out = (
        random.integers(0, 5, n).astype(np.uint64),
        random.integers(0, 1 << 41, n),
        random.random(n) < share,
    )

    def run() -> tuple[tuple[Group, ...], int]:
        return find_groups(x, keys, times, out, lambda rows: np.clip(rows, -1e6, 1e6), NAMES[:features])

    found, others = run()
    assert len(found) <= MAX_GROUPS
    assert others >= 0
    assert sum(group.rows for group in found) + others == out.sum()
    assert all(group.rows > 0 and 0 < group.key_share <= 1 and group.features and group.examples for group in found)
    assert run() == (found, others)


def test_groups_do_not_depend_on_the_chunks_they_are_counted_in(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(3000)
    world.x[world.leave_out(60)] += STATE
    whole = world.groups()
    monkeypatch.setattr(grouping, "_CHUNK", 77)
    assert world.groups() == whole


def test_many_rows_are_counted_though_some_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "_SAMPLE", 300)
    world = World()
    world.x[world.leave_out(4000)] += STATE
    found, others = world.groups()
    assert found[0].rows > 3700
    assert found[0].rows + others == 4000


def test_what_was_left_out_goes_through_json() -> None:
    world = World(3000)
    world.x[world.leave_out(60)] += STATE
    found, others = world.groups()
    left_out = LeftOut(60, 0.02, 7.25, "", found, others)
    assert LeftOut.from_json(json.loads(json.dumps(asdict(left_out)))) == left_out
    assert str(left_out).startswith(
        "60 of the training rows (2.0 %) with a score above 7.25, in 1 group of rows that look"
    )


@pytest.mark.parametrize(
    ("cut", "of_keys", "why"),
    [
        (7.25, 0, " with a score above 7.25"),
        (7.25, 20, " with a score above 7.25, or of keys that are strange as a whole"),
        (7.25, 60, " of keys that are strange as a whole"),
        (None, 60, " of keys that are strange as a whole"),
    ],
)
def test_it_says_why_rows_were_left_out(cut: float | None, of_keys: int, why: str) -> None:
    assert str(LeftOut(60, 0.02, cut, "", (), 60, of_keys)) == f"60 of the training rows (2.0 %){why}"
