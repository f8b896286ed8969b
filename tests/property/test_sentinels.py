"""Whatever a column holds, what is named is in it, as often as it is said, and is none of its usual values."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from model.outliers.sentinels import Screen, find

ANY = st.floats(allow_nan=False, allow_infinity=False, width=32)
SPECIAL = st.sampled_from([0.0, -1.0, 1.0, 7.0, 99.0, 255.0, 65535.0, 999999.0, -32768.0, 3e38, -3.4028235e38, 1e-45])
COLUMN = hnp.arrays(
    np.float32, st.integers(0, 400), elements=ANY | SPECIAL.map(np.float32), fill=SPECIAL.map(np.float32)
)


@given(COLUMN, st.integers(1, 500))
def test_what_is_named_is_there(column: np.ndarray, block: int) -> None:
    named = find((column[i : i + block, None] for i in range(0, len(column), block)), ["a"])
    screen = Screen(named, ["a"])
    sound = screen.sound(column[:, None])
    left = column[sound]
    assert len(left) + sum(one.left_out for one in screen.sentinels()) == len(column)
    for one in screen.sentinels():
        assert one.rows == one.left_out == np.count_nonzero(column == np.float32(one.value))
        assert not (left == np.float32(one.value)).any()
        assert one.rows <= 0.25 * len(column)
    if named:
        assert (named[0].low, named[0].high) == (left.min(), left.max())


@given(
    st.integers(0, 1 << 32), st.floats(-1e4, 1e4), st.floats(1e-3, 100),
    st.sampled_from([65535.0, 999999.0, -9999.0, 3e38]), st.integers(1, 400),
)  # fmt: skip
def test_one_far_away_is_named_whatever_the_unit(seed: int, centre: float, spread: float, value: float, n: int) -> None:
    random = np.random.default_rng(seed)
    column = random.normal(centre, spread, 4000).astype(np.float32)
    column[random.choice(4000, n, replace=False)] = value
    far = abs(value - centre) > 40 * spread
    named = [(one.value, one.rows) for one in find(iter([column[:, None]]), ["a"])]
    if far:
        assert named == [(float(np.float32(value)), n)]
