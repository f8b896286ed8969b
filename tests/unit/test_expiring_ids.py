"""Sets of ids that forget, against a dictionary."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.expiring_ids import ExpiringIds

ADDITIONS = st.lists(st.tuples(st.lists(st.integers(-50, 50), max_size=12), st.integers(1, 20)), max_size=12)
EVERY = np.arange(-50, 51)


@given(ADDITIONS, st.lists(st.integers(-50, 50), max_size=8), st.integers(0, 20))
def test_it_holds_what_a_dictionary_holds(
    additions: list[tuple[list[int], int]], shortened: list[int], now: int
) -> None:
    ids, expected = ExpiringIds(), dict[int, int]()
    for added, until in additions:
        ids.add(np.array(added, np.int64), until, 0)
        expected |= {i: max(until, expected.get(i, 0)) for i in added}
    ids.until(np.array(shortened, np.int64), 3)
    expected |= {i: 3 for i in shortened if i in expected}
    assert ids.holds(EVERY).tolist() == [i in expected for i in EVERY.tolist()]
    again = ExpiringIds.from_json(json.loads(json.dumps(ids.to_json())), now)
    ids.purge(now)
    kept = [i in expected and expected[i] > now for i in EVERY.tolist()]
    assert ids.holds(EVERY).tolist() == again.holds(EVERY).tolist() == kept
    ids.discard(np.array(shortened, np.int64))
    assert ids.holds(EVERY).tolist() == [k and i not in shortened for i, k in zip(EVERY.tolist(), kept, strict=True)]


def test_segments_stay_few_and_small_on_disk() -> None:
    ids, n = ExpiringIds(), 300
    for i in range(n):
        ids.add(np.arange(1000 * i, 1000 * i + 1000) * 7 + 10**16, 10**9 + i, 0)
    assert len(ids) == 1000 * n
    assert len(ids._segments) <= 10
    assert len(json.dumps(ids.to_json())) < 1000 * n  # less than a byte an id where they are near each other
