"""Bad rows are found in few calls and their neighbours unharmed; what befalls every row is raised in a constant few."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, log2

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.block import Block
from beam_jobs.errors import BadRowsError, RetryError, UserError
from beam_jobs.isolate import PROBES, Isolate

GOOD = pa.record_batch({"x": [-1]})


class Step:
    """Squares rows, and counts how often it is asked; ``fail`` says what is wrong with some of them."""

    def __init__(self, fail: Callable[[list[int]], Exception | None]) -> None:
        self.calls = 0
        self.fail = fail

    def __call__(self, block: Block) -> list[int]:
        self.calls += 1
        rows = block.column("x").to_pylist()
        error = self.fail(rows)
        if error is not None:
            raise error
        return [row * row for row in rows]


def numbers(n: int) -> Block:
    return pa.record_batch({"x": pa.array(np.arange(n))})


def refuse(bad: set[int]) -> Callable[[list[int]], Exception | None]:
    def fail(rows: list[int]) -> Exception | None:
        found = sorted(bad & set(rows))
        return ValueError(f"unlucky {found[0]}") if found else None

    return fail


def name(bad: set[int]) -> Callable[[list[int]], Exception | None]:
    def fail(rows: list[int]) -> Exception | None:
        mask = np.array([row in bad for row in rows])
        return BadRowsError(mask, "out of bounds") if mask.any() else None

    return fail


def check(isolate: Isolate[list[int]], n: int, bad: set[int]) -> None:
    parts, errors = isolate(numbers(n))
    assert errors.rows.tolist() == sorted(bad)
    assert set(errors.reasons) <= {"unexpected_error"}
    good = [row for row in range(n) if row not in bad]
    assert [row for part in parts for row in part.rows.tolist()] == good
    assert [square for part in parts for square in part.result] == [row * row for row in good]
    for part in parts:
        assert part.block.column("x").to_pylist() == part.rows.tolist()


ROWS = st.integers(1, 3000).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), max_size=40)))


@given(ROWS)
def test_bad_rows_are_found_in_calls_that_grow_with_their_number_alone(case: tuple[int, set[int]]) -> None:
    n, bad = case
    step = Step(refuse(bad))
    check(Isolate(step, GOOD), n, bad)
    assert step.calls <= 2 + len(bad) * (2 * ceil(log2(n) if n > 1 else 1) + 2)
    for row, error in zip(*(lambda e: (e.rows, e.errors))(Isolate(step, GOOD)(numbers(n))[1]), strict=True):
        assert error == f"ValueError: unlucky {row}"


@given(ROWS)
def test_rows_that_are_named_take_one_more_call(case: tuple[int, set[int]]) -> None:
    n, bad = case
    step = Step(name(bad))
    check(Isolate(step), n, bad)
    assert step.calls <= 2


@given(ROWS)
def test_without_a_row_that_is_known_to_be_good_one_is_found(case: tuple[int, set[int]]) -> None:
    n, bad = case
    step = Step(refuse(bad))
    isolate = Isolate(step)
    if n > PROBES and set(np.linspace(0, n - 1, PROBES).astype(int).tolist()) <= bad:
        with pytest.raises(RetryError):
            isolate(numbers(n))
        return
    check(isolate, n, bad)
    assert step.calls <= 2 + 3 * PROBES + len(bad) * (2 * ceil(log2(n) if n > 1 else 1) + 2)


@pytest.mark.parametrize("n", [1, 2, PROBES, 8192, 32_768])
@pytest.mark.parametrize("known", [GOOD, None])
def test_a_step_that_is_broken_is_no_matter_of_rows(n: int, known: Block | None) -> None:
    step = Step(lambda rows: RuntimeError("no such graph"))
    isolate = Isolate(step, known)
    if known is None and n <= PROBES:  # nothing tells it from bad rows
        check(isolate, n, set(range(n)))
        assert step.calls <= 3 * PROBES
        return
    with pytest.raises(RetryError, match="RuntimeError: no such graph"):
        isolate(numbers(n))
    assert step.calls <= 2 + PROBES


def test_a_step_that_breaks_half_way_blames_no_row() -> None:
    step = Step(refuse({700, 900}))
    broken = 5

    def fail(rows: list[int]) -> Exception | None:
        return RuntimeError("connection lost") if step.calls > broken else refuse({700, 900})(rows)

    step.fail = fail
    with pytest.raises(RetryError, match="a row that went through before fails now: RuntimeError: connection lost"):
        Isolate(step)(numbers(1000))
    assert step.calls < broken + 2 + 2 * log2(1000)


@pytest.mark.parametrize(
    "error", [RetryError("away"), MemoryError(), TimeoutError(), ConnectionResetError(), UserError("no key")]
)
def test_an_error_that_is_about_no_row_is_raised_as_it_is(error: Exception) -> None:
    step = Step(lambda rows: error)
    with pytest.raises(type(error)):
        Isolate(step)(numbers(32_768))
    assert step.calls == 1


def test_what_went_through_in_one_block_is_known_to_be_good_in_the_next() -> None:
    step = Step(lambda rows: None)
    isolate = Isolate(step)
    check(isolate, 10, set())
    step.fail = refuse(set(range(1, 100)))  # row 0 is what it remembers
    parts, errors = isolate(numbers(100).slice(1))
    assert (parts, len(errors)) == ([], 99)
    step.fail = lambda rows: RuntimeError("gone")
    with pytest.raises(RetryError):
        isolate(numbers(1))


def test_a_block_without_rows_has_none_to_blame() -> None:
    assert Isolate(Step(refuse(set())))(numbers(0))[0][0].result == []
    with pytest.raises(RuntimeError, match="even so"):
        Isolate(Step(lambda rows: RuntimeError("even so")))(numbers(0))


def test_a_mask_that_does_not_fit_is_a_bug_of_the_step() -> None:
    with pytest.raises(ValueError, match="no row is bad"):
        BadRowsError(np.zeros(3, np.bool_), "")
    step = Step(lambda rows: BadRowsError(np.ones(2, np.bool_), "two"))
    with pytest.raises(ValueError, match="names 2 rows of 5"):
        Isolate(step)(numbers(5))


@pytest.mark.parametrize("personal", [False, True])
def test_what_a_library_quotes_of_personal_data_is_told_to_nobody(personal: bool) -> None:
    step = Step(lambda rows: ValueError("can't convert 'Jane \x1b[2J'") if 7 in rows else None)
    _, errors = Isolate(step, GOOD, personal)(numbers(50))
    (error,) = errors.errors
    assert error == ("ValueError: (personal: left out)" if personal else "ValueError: can't convert 'Jane \\x1b[2J'")
    with pytest.raises(RetryError) as raised:
        Isolate(Step(lambda rows: ValueError("Jane")), GOOD, personal)(numbers(50))
    assert ("Jane" in str(raised.value)) is not personal
    assert (raised.value.__cause__ is None) is personal
