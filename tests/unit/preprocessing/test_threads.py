"""at_once: what a function makes of each item, by several threads."""

from __future__ import annotations

import pytest

from beam_jobs.preprocessing.threads import at_once


@pytest.mark.parametrize("items", [[], [3], list(range(50))])
def test_results_are_in_the_order_of_the_items(items: list[int]) -> None:
    assert at_once(lambda item: item * item, items) == [item * item for item in items]


def test_an_error_comes_out() -> None:
    with pytest.raises(ZeroDivisionError):
        at_once(lambda item: 1 // item, [1, 0, 2])
