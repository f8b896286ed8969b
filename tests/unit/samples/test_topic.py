"""Which records of a topic are the newest ones."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.samples.topic import shared


@given(st.dictionaries(st.integers(0, 50), st.integers(0, 100), min_size=1), st.integers(1, 1000))
def test_as_many_as_are_asked_for_are_taken_and_of_no_partition_much_more(sizes: dict[int, int], rows: int) -> None:
    shares = shared(sizes, rows)
    assert sum(shares.values()) == min(rows, sum(sizes.values()))
    assert all(0 <= shares[p] <= sizes[p] for p in sizes)
    most = max(shares.values())
    assert all(shares[p] == sizes[p] or shares[p] >= most - 1 for p in sizes)
