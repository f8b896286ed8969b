"""One alert of a key and then none for a while: told by hand, and by a plain dictionary."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.errors import UserError
from beam_jobs.steps.alerting.cooldown import CoolDown, SharedCoolDown, from_option

MINUTE = 60_000
Row = tuple[str, int, int]  # key, time, how severe


def told(cooldown: CoolDown, *rows: Row, first: int = 0) -> list[bool]:
    keys, times, levels = zip(*rows, strict=True) if rows else ([], [], [])
    ids = [f"t-0-{first + i}" for i in range(len(rows))]
    numbers = np.array(times, np.int64), np.array(levels, np.int64)
    return list(cooldown.passing(pa.array(keys, pa.string()), pa.array(ids, pa.string()), *numbers).tolist())


def test_one_of_a_key_and_then_none_for_so_long() -> None:
    rows = [("a", 0, 0), ("a", 9 * MINUTE, 0), ("b", 9 * MINUTE, 0), ("a", 10 * MINUTE, 0), ("a", 11 * MINUTE, 0)]
    cooldown = CoolDown(10 * MINUTE)
    assert told(cooldown, *rows) == [True, False, True, True, False]
    assert told(cooldown) == []


def test_a_more_severe_one_is_told_at_once() -> None:
    rows = [("a", 0, 0), ("a", 1, 1), ("a", 2, 1), ("a", 3, 0), ("a", 4, 3)]
    assert told(CoolDown(10 * MINUTE), *rows) == [True, True, False, False, True]


def test_a_late_one_belongs_to_what_was_told_if_it_is_near() -> None:
    rows = [("a", 60 * MINUTE, 0), ("a", 55 * MINUTE, 0), ("a", 20 * MINUTE, 0), ("a", 61 * MINUTE, 0)]
    assert told(CoolDown(10 * MINUTE), *rows) == [True, False, True, False]


def test_one_clock_in_the_future_keeps_nothing_back() -> None:
    cooldown = CoolDown(10 * MINUTE)
    assert told(cooldown, ("a", 10**13, 0), ("a", 0, 0), ("a", MINUTE, 0)) == [True, True, True]


def test_a_bundle_that_comes_again_tells_what_it_told() -> None:
    """And may tell what it did not: of the first alerts of a key nothing is known by then."""
    rows = [("a", 0, 0), ("a", 9 * MINUTE, 0), ("b", 9 * MINUTE, 0), ("a", 10 * MINUTE, 0), ("a", 21 * MINUTE, 0)]
    cooldown = CoolDown(10 * MINUTE)
    first, again = told(cooldown, *rows), told(cooldown, *rows)
    assert first == [True, False, True, True, True]
    assert [was <= is_now for was, is_now in zip(first, again, strict=True)] == [True] * 5
    assert told(cooldown, *rows[3:], first=3) == [True, True]


@given(
    st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 40), st.integers(0, 3)), max_size=60),
    st.integers(0, 60),
)
def test_as_a_dictionary_would_however_blocks_are_cut(rows: list[Row], cut: int) -> None:
    last: dict[str, tuple[int, int]] = {}
    wanted = []
    for key, time, severity in rows:
        if key in last and abs(time - last[key][0]) < 10 and severity <= last[key][1]:
            wanted.append(False)
            continue
        wanted.append(True)
        if key not in last or time > last[key][0] - 10:
            last[key] = (time, severity)
    cooldown = CoolDown(10)
    assert told(cooldown, *rows[:cut]) + told(cooldown, *rows[cut:], first=len(rows[:cut])) == wanted


def test_memory_is_bounded_and_what_is_forgotten_is_told_again() -> None:
    cooldown = CoolDown(10 * MINUTE, most_places=1 << 14)
    rows = [(f"k{i}", i, 0) for i in range(20_000)]
    assert all(told(cooldown, *rows))
    assert len(cooldown._slots) == 1 << 14
    assert cooldown._keys <= 1 << 13
    assert all(told(cooldown, *rows, first=10**6)[:10_000])
    assert told(CoolDown(1), ("a", 0, 0), ("a", 0, 0)) == [True, False]


def test_what_has_cooled_down_makes_room() -> None:
    cooldown = CoolDown(MINUTE, most_places=1 << 14)
    for i in range(100):
        keys = [(f"{i}-{k}", i * 2 * MINUTE, 0) for k in range(1000)]
        assert all(told(cooldown, *keys, first=1000 * i))
    assert len(cooldown._slots) < 1 << 14
    assert not any(told(cooldown, *keys, first=10**6))


def test_steps_of_a_pipeline_share_one_in_a_process() -> None:
    shared = SharedCoolDown(1000)
    assert pickle.loads(pickle.dumps(shared)).here() is shared.here()
    assert SharedCoolDown(1000).here() is not shared.here()


@pytest.mark.parametrize(("text", "millis"), [("10m", 600_000), ("1 hour 30 minutes", 5_400_000), ("90s", 90_000)])
def test_what_an_option_says(text: str, millis: int) -> None:
    assert from_option(text) == millis


@pytest.mark.parametrize("text", ["soon", "0s", "-5m", "1 month", "40 days", "1 us"])
def test_what_no_option_says(text: str) -> None:
    with pytest.raises(UserError, match="--alert_cooldown"):
        from_option(text)


def test_a_key_that_is_empty_is_a_key() -> None:
    assert told(CoolDown(1000), ("", 0, 0), ("", 1, 0), ("a", 1, 0)) == [True, False, True]
