"""The kernel of windows equals their definition row by row, in any blocks, rebuilt from the log; in order DuckDB."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from beam_jobs.preprocessing.windows.frames import Window
from beam_jobs.preprocessing.windows.history import History
from tests.property.windows.definition import (
    LATENESS,
    NULL,
    SECOND,
    TILED,
    WINDOWS,
    Stream,
    cuts,
    defined,
    hostile,
    inexact,
)

QUERIES = pytest.mark.parametrize("windows", [WINDOWS, TILED], ids=["rows and tiles", "tiles"])


def assert_equal(found: NDArray[np.float64], expected: NDArray[np.float64], windows: Sequence[Window]) -> None:
    rounded = inexact(windows)
    exact = [i for i in range(len(windows)) if i not in rounded]
    np.testing.assert_array_equal(found[exact], expected[exact])
    np.testing.assert_allclose(found[rounded], expected[rounded], rtol=1e-12)


@QUERIES
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in (2, 3))])
def test_it_is_the_definition(windows: Sequence[Window], seed: int) -> None:
    stream = hostile(500, seed, keys=(1, 3, 5, 12)[seed])
    history = History(windows, LATENESS)
    found = stream.feed(history, cuts(len(stream), seed, 60))
    assert_equal(found, defined(stream, windows=windows), windows)
    assert min(history.late, history.alone, history.future) >= 5


@QUERIES
@pytest.mark.parametrize("seed", range(2))
def test_tame_values_are_the_definition_to_the_last_bit(windows: Sequence[Window], seed: int) -> None:
    stream = hostile(400, seed, wild=False)
    found = stream.feed(History(windows, LATENESS), cuts(len(stream), seed, 60))
    np.testing.assert_array_equal(found, defined(stream, windows=windows))


@pytest.mark.parametrize("tiled", [False, True], ids=["rows and tiles", "tiles"])
def test_a_row_that_is_not_kept_sees_and_is_not_seen(tiled: bool) -> None:
    windows = [window for window in (TILED if tiled else WINDOWS) if window.frame.end_us]
    stream = hostile(500, 4)
    stream = replace(stream, kept=np.random.default_rng(4).random(len(stream)) < 0.4)
    expected = defined(stream, windows=windows)
    for seed in range(2):
        assert_equal(stream.feed(History(windows, LATENESS), cuts(len(stream), seed, 60)), expected, windows)
    others = defined(replace(stream, kept=np.zeros(0, np.bool_)), windows=windows)
    assert (others != expected).mean() > 0.2


@QUERIES
def test_any_cut_gives_the_same_bits(windows: Sequence[Window]) -> None:
    stream = hostile(3000, 7, keys=20)
    whole = stream.feed(History(windows, LATENESS), [0, len(stream)])
    for places in (list(range(len(stream) + 1)), cuts(len(stream), 1, 300)):
        np.testing.assert_array_equal(stream.feed(History(windows, LATENESS), places), whole)


@QUERIES
@pytest.mark.parametrize("seed", range(2))
def test_another_history_goes_on_with_what_one_has_held(windows: Sequence[Window], seed: int) -> None:
    stream, history = hostile(2000, seed, keys=30), History(windows, LATENESS)
    whole = stream.feed(History(windows, LATENESS), [0, len(stream)])
    for at in (0, 1, 700, 1300):
        stream.feed(history := History(windows, LATENESS), [0, at] if at else [0])
        held = history.held()
        other = History(windows, LATENESS)
        stream.feed(other, [0, 50])  # what it knew is gone
        other.restore({name: array.copy() for name, array in held.items()})
        assert (other.rows, other.keys, other.clock) == (history.rows, history.keys, history.clock)
        np.testing.assert_array_equal(stream.feed(other, [at, *range(at + 9, 2000, 90), 2000]), whole[:, at:])
        with pytest.raises(ValueError, match="not the arrays of these windows"):
            History(windows[:-3], LATENESS).restore(held)


@QUERIES
def test_arrays_that_point_elsewhere_are_refused_or_do_no_harm(windows: Sequence[Window]) -> None:
    """Whatever stands in a file: the loops stay in their arrays. Values may be wrong, a CRC tells of those."""
    stream, chance = hostile(600, 5, keys=8), np.random.default_rng(3)
    stream.feed(history := History(windows, LATENESS), [0, 500])
    held, refused = history.held(), 0
    for name, array in [(name, array) for name, array in held.items() if array.size]:
        for _ in range(40):
            wrong = {name: array.copy() for name, array in held.items()}
            if array.ndim == 2 and chance.random() < 0.2:
                wrong[name] = wrong[name][: int(chance.integers(len(array)))]
            else:
                flat = wrong[name].reshape(-1).view(np.uint32)
                flat[chance.integers(len(flat))] = chance.choice([0, 1, 5, 1000, 1 << 31, (1 << 32) - 1])
            other = History(windows, LATENESS)
            try:
                other.restore(wrong)
            except ValueError:
                refused += 1
                continue
            if name not in ("counts", "tiles_counts"):
                stream.feed(other, [500, 600])
    assert refused > 20


def read_again_from(stream: Stream, at: int, reach_us: int) -> int:
    """The first row with a record time at most that much before that of row ``at``, as a broker finds it."""
    return int(np.argmax(stream.record_times >= stream.record_times[at] - reach_us))


def rebuilt(stream: Stream, windows: Sequence[Window], at: int, share: float = 1.0) -> NDArray[np.float64]:
    """What the rows from ``at`` on see of a history made anew from the log before them."""
    history = History(windows, LATENESS)
    start = read_again_from(stream, at, int(history.reach_us * share))
    assert share < 1 or 0 < start < at
    stream.feed(history, [min(start, at), at], emit=False)
    return stream.feed(history, [at, len(stream)])


@QUERIES
def test_a_state_rebuilt_from_the_log_is_the_uninterrupted_one(windows: Sequence[Window]) -> None:
    stream = hostile(3000, 11, keys=10)
    whole = stream.feed(History(windows, LATENESS), cuts(len(stream), 2, 300))
    for at in np.random.default_rng(3).integers(1000, len(stream) - 100, 25).tolist():
        np.testing.assert_array_equal(rebuilt(stream, windows, at), whole[:, at:])
    # The control: of a third of what is in reach the state can't be rebuilt.
    assert not np.array_equal(rebuilt(stream, windows, 1500, 1 / 3), whole[:, 1500:], equal_nan=True)


def test_in_order_it_is_what_duckdb_says() -> None:
    """Times and values with few bits, of which DuckDB's sums are exact as well."""
    rng, n = np.random.default_rng(5), 4000
    times = np.arange(n) * (SECOND // 2) + rng.integers(0, SECOND // 2, n)
    values, known = rng.integers(-400, 400, (2, n)) / 8.0, rng.random((2, n)) > 0.1
    keys = pa.array([f"car-{i}" for i in rng.integers(0, 20, n)])
    found = Stream(keys, times, times, values, known).feed(History(WINDOWS), cuts(n, 3, 900))
    columns = {"x0": pa.array(values[0], mask=~known[0]), "x1": pa.array(values[1], mask=~known[1])}
    events = pa.table({"r": np.arange(n), "k": keys, "t": pa.array(times, pa.timestamp("us")), **columns})  # noqa: F841
    selected = ", ".join(_sql(window) for window in WINDOWS)
    with duckdb.connect(config={"threads": 1}) as connection:
        rows = connection.execute(f"SELECT {selected} FROM events ORDER BY r").fetchall()
    expected = np.array([[NULL if v is None else float(v) for v in row] for row in rows]).T
    of_floats = [i for i, window in enumerate(WINDOWS) if window.function == "quantile_line"]
    found[of_floats], expected[of_floats] = found[of_floats].astype(np.float32), expected[of_floats].astype(np.float32)
    assert_equal(found, expected, WINDOWS)


def _sql(window: Window) -> str:
    function, argument, frame = window.function, window.argument, window.frame
    x = f"x{argument}" if argument >= 0 else "epoch_us(t)::DOUBLE"
    start = f"INTERVAL {frame.start_us} MICROSECONDS"
    if frame.hop_us:
        start = f"(t - time_bucket(INTERVAL {frame.hop_us} MICROSECONDS, t - {start}))"
    end = f"INTERVAL {frame.end_us} MICROSECONDS PRECEDING" if frame.end_us else "CURRENT ROW"
    exclude = "EXCLUDE CURRENT ROW" if frame.exclude_current else ""
    over = f"OVER (PARTITION BY k ORDER BY t RANGE BETWEEN {start} PRECEDING AND {end} {exclude})"
    if function.startswith("quantile"):
        if function == "quantile_line":  # DuckDB's of floats
            x, function = f"{x}::FLOAT", "quantile_cont"
        return f"{function}({x}, {float(window.share)}) {over}"
    if function == "count_distinct":
        return f"count(DISTINCT {x}) {over}"
    if function in ("stddev_samp", "var_samp"):  # DuckDB's own is of running doubles
        n, total, squares = f"count({x}) {over}", f"sum({x}) {over}", f"sum({x} * {x}) {over}"
        variance = f"({n} * {squares} - {total} * {total}) / ({n} * ({n} - 1.0))"
        return f"CASE WHEN {n} > 1 THEN {variance if function == 'var_samp' else f'sqrt({variance})'} END"
    return f"{function}({x}) {over}"


@pytest.mark.nightly
def test_no_loop_leaves_its_arrays(tmp_path: Path) -> None:
    """The same streams in machine code that checks every index, as the usual one does not; half a minute to compile.

    By day ``test_it_is_the_definition`` would see other values, of most reads beyond an array.
    """
    code = """
from tests.property.windows.definition import *
for seed in range(3):
    stream = hostile(1500, seed, keys=(1, 5, 300)[seed])
    for windows in (WINDOWS, TILED):
        stream.feed(History(windows, LATENESS), cuts(len(stream), seed, 200))
"""
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
