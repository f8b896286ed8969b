"""History: what a row's windows hold, whatever comes before it, late or strange."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest

from beam_jobs.preprocessing.windows.frames import EVENT_TIME, FUNCTIONS, Frame, Lateness, Window
from beam_jobs.preprocessing.windows.history import History, TooManyRowsError
from beam_jobs.preprocessing.windows.quantiles import MOST_ROWS

SECOND = 1_000_000
TEN_SECONDS = Frame(10 * SECOND)
NAN, INF = math.nan, math.inf


def past(*functions: str, frame: Frame = TEN_SECONDS, late: float = 0) -> History:
    lateness = Lateness(late_ms=int(late * 1000), delay_ms=0, clock_skew_ms=0)
    return History([Window(function, 0, frame) for function in functions], lateness)


def take(
    history: History,
    seconds: list[float],
    values: list[float | None],
    keys: list[str] | None = None,
    recorded: list[float] | None = None,
) -> list[list[float | None]]:
    """The features of new rows, a list a window."""
    n = len(seconds)
    found = history.advance(
        pa.array(keys or ["car"] * n, pa.string()),
        np.array([s * SECOND for s in seconds], np.float64).astype(np.int64),
        np.array([s * SECOND for s in recorded or seconds], np.float64).astype(np.int64),
        np.array([[NAN if value is None else value for value in values]], np.float64),
        np.array([[value is not None for value in values]]),
    )
    return [column.to_pylist() for column in found]


def test_a_window_ends_at_the_row_and_holds_both_its_ends() -> None:
    times: list[float] = [0, 5, 10, 10.000001, 30]
    count, total = take(past("count", "sum"), times, [1, 2, 4, 8, 16])
    assert count == [1, 2, 3, 3, 1]
    assert total == [1, 3, 7, 14, 16]


def test_every_function() -> None:
    found = take(past(*FUNCTIONS), [0, 1, 2], [3, 1, 3])
    assert dict(zip(FUNCTIONS, found, strict=True)) == {
        "count": [1, 2, 3],
        "sum": [3, 4, 7],
        "avg": [3, 2, 7 / 3],
        "min": [3, 1, 1],
        "max": [3, 3, 3],
        "stddev_samp": [None, math.sqrt(2), math.sqrt(4 / 3)],
        "var_samp": [None, 2, 4 / 3],
        "first_value": [3, 3, 3],
        "last_value": [3, 1, 3],
        "count_distinct": [1, 2, 2],
        "quantile_disc": [3, 1, 1],  # of the share 0
        "quantile_cont": [3, 1, 1],
        "quantile_line": [3, 1, 1],
    }


@pytest.mark.parametrize(
    ("share", "disc", "cont"),
    [("0.5", [7, 1, 2, 2], [7, 4, 2, 2.5]), ("0.9", [7, 7, 7, 7], [7, 6.4, 6, 5.8]), ("1", [7] * 4, [7] * 4)],
)
def test_quantiles(share: str, disc: list[float], cont: list[float]) -> None:
    history = History([Window(f"quantile_{f}", 0, TEN_SECONDS, Fraction(share)) for f in ("disc", "cont", "line")])
    found = take(history, [0, 1, 2, 3, 4], [7, 1, 2, None, 3])
    assert [found[0][i] for i in (0, 1, 2, 4)] == disc
    for column in found[1:]:
        assert [column[i] for i in (0, 1, 2, 4)] == pytest.approx(cont, abs=1e-12)
        assert column[3] == column[2]
    assert take(history, [100, 101], [None, NAN])[0] == pytest.approx([None, NAN], nan_ok=True)


def test_keys_know_nothing_of_each_other() -> None:
    history = past("sum", "max")
    assert take(history, [0, 0, 1, 1], [1, 10, 2, 20], ["a", "b", "a", "b"])[0] == [1, 10, 3, 30]
    assert take(history, [2, 2], [0, 0], ["b", "a"]) == [[30, 3], [20, 2]]


def test_of_rows_with_the_same_time_each_sees_the_ones_before_it() -> None:
    assert take(past("count"), [5, 5, 5], [1, 1, 1]) == [[1, 2, 3]]


def test_windows_of_several_lengths_and_arguments() -> None:
    history = History(
        [
            Window("sum", 0, Frame(10 * SECOND)),
            Window("sum", 0, Frame(SECOND)),
            Window("max", 1, Frame(SECOND)),
            Window("last_value", EVENT_TIME, Frame(10 * SECOND, exclude_current=True)),
        ]
    )
    values, times = np.array([[1.0, 2.0, 4.0], [9.0, 8.0, 7.0]]), np.array([0, 1, 10]) * SECOND
    found = history.advance(pa.array(["car"] * 3), times, times, values, np.ones((2, 3), np.bool_))
    assert [column.to_pylist() for column in found] == [[1, 3, 7], [1, 3, 4], [9, 9, 7], [None, 0, SECOND]]


def test_frames_that_end_before_now() -> None:
    assert take(
        past("count", "sum", frame=Frame(10 * SECOND, 5 * SECOND)), [0, 4, 5, 9, 11, 15], [1, 2, 4, 8, 16, 32]
    ) == [
        [0, 0, 1, 2, 2, 2],
        [None, None, 1, 3, 6, 12],
    ]


def test_a_frame_without_the_row_itself_holds_those_of_its_time_that_came_before() -> None:
    frame = Frame(10 * SECOND, exclude_current=True)
    assert take(past("count", "last_value", frame=frame), [0, 5, 5, 20], [1, None, 4, 8]) == [
        [0, 1, 1, 0],
        [None, 1, None, None],  # the row before has no value
    ]


def test_the_hop_form_begins_at_a_whole_hop_as_in_duckdb() -> None:
    """time_bucket counts hops of a week from Mondays."""
    week = 7 * 86_400
    monday = 946_857_600 + 1000 * week
    frame = Frame(week * SECOND, hop_us=week * SECOND)
    times: list[float] = [monday - 2, monday - 1, monday, monday + week - 1, monday + week]
    assert take(past("count", frame=frame), times, [1] * 5) == [[1, 2, 3, 4, 3]]


WEEK = Frame(7 * 24 * 3600 * SECOND, hop_us=3600 * SECOND)


def test_in_hop_form_memory_goes_with_the_hops_not_with_the_rows() -> None:
    """70,000 rows of a key in 7 days: a tenth of a megabyte at most, and sums as of the rows one by one."""
    history = History([Window(function, 0, WEEK) for function in ("count", "sum", "stddev_samp", "min")])
    n, rate = 90_000, 8.64  # seconds from row to row
    times, values = (np.arange(n) * rate * SECOND).astype(np.int64), np.random.default_rng(1).normal(50, 12, n)
    for start in range(0, n, 10_000):
        part = slice(start, start + 10_000)
        keys, known = pa.array(["shop"] * 10_000), np.ones((1, 10_000), np.bool_)
        found = history.advance(keys, times[part], times[part], values[None, part], known)
    first = int(np.searchsorted(times, WEEK.oldest(int(times[-1]))))
    count, total, _, least = (column[-1].as_py() for column in found)
    assert (count, total, least) == (n - first, math.fsum(values[first:]), values[first:].min())
    assert count > 70_000
    assert history.rows <= 80  # of ten minutes
    assert history.memory_bytes < 120_000  # 169 tiles of 112 bytes, and what arenas may leave unused


def test_in_hop_form_rows_are_too_late_by_the_lateness_alone() -> None:
    history = past("count", frame=Frame(3600 * SECOND, hop_us=60 * SECOND), late=10)
    assert take(history, [0, 100, 90, 89, 101], [1] * 5) == [[1, 2, 2, 1, 4]]
    assert (history.late, history.alone, history.rows) == (1, 1, 2)


def test_values_that_no_running_sum_holds_stay_exact_in_tiles_and_are_given_back() -> None:
    history = past("sum", "avg", "var_samp", frame=Frame(100 * SECOND, hop_us=10 * SECOND))
    for round_ in range(50):
        begin = 1000 * round_
        values = [1e300, 1.0, -1e300, INF, NAN, 5e-324][: 4 if round_ % 2 else 3]
        found = take(history, [begin + 20 * i for i in range(len(values))], values)  # type: ignore[arg-type]
        assert found[0][:3] == [1e300, 1e300, 1.0]
        assert found[0][3:] in ([], [INF])
        sizes = history.memory_bytes
    assert sizes < 200_000


def test_sums_of_many_tiles_stay_exact_beside_a_value_that_no_running_sum_holds() -> None:
    minutes, value = 40_000, math.nextafter(16, 0)  # all bits of its digits are set
    history = past("avg", "stddev_samp", frame=Frame(60 * SECOND * minutes, hop_us=60 * SECOND))
    values = [1e-40] + [value] * (minutes - 1)
    mean, deviation = take(history, [60 * i for i in range(minutes)], values)
    assert mean[-1] == math.fsum(values) / minutes
    exact = [Fraction(each) for each in values]
    squares, total = sum(each * each for each in exact), sum(exact)
    assert deviation[-1] == pytest.approx(math.sqrt((squares - total * total / minutes) / (minutes - 1)), rel=1e-15)


def test_rows_are_counted_by_where_they_lie() -> None:
    on_time = Lateness(late_ms=0, delay_ms=0, clock_skew_ms=0)
    by_value, by_place = past("count"), History([Window("count", EVENT_TIME, TEN_SECONDS)], on_time)
    times = np.array([0, 4, 2, 10, 10, 11, 30, 29]) * SECOND
    keys, n = pa.array(["car"] * len(times)), len(times)
    (of_rows,) = by_place.advance(keys, times, times, np.zeros((0, n)), np.zeros((0, n), np.bool_))
    (of_values,) = by_value.advance(keys, times, times, np.ones((1, n)), np.ones((1, n), np.bool_))
    assert of_rows == of_values
    assert by_place.key_bytes < by_value.key_bytes


def test_what_a_stretch_alone_answers_takes_no_memory_beside_what_has_one() -> None:
    def history(*more: Window) -> History:
        return History([Window("avg", 0, TEN_SECONDS), Window("max", 1, TEN_SECONDS), *more])

    own = [
        Window("count", EVENT_TIME, TEN_SECONDS),
        *(Window("last_value", of, TEN_SECONDS) for of in (EVENT_TIME, 0, 1)),
    ]
    assert history(*own).key_bytes == history().key_bytes
    times = np.array([0, 4, 2, 10, 10, 11, 30, 29, 9]) * SECOND
    keys, n = pa.array(["car"] * len(times)), len(times)
    values, valid = np.arange(2.0 * n).reshape(2, n), np.arange(2 * n).reshape(2, n) % 3 > 0
    together = history(*own).advance(keys, times, times, values, valid)
    apart = [History([each, Window("count", 1, Frame(SECOND))]) for each in own]
    assert together[2:] == [one.advance(keys, times, times, values, valid)[0] for one in apart]


def test_a_key_with_too_many_rows_is_refused() -> None:
    times = list(map(float, range(11)))
    history = History([Window("count", 0, Frame(100 * SECOND))], Lateness(key_rows=10))
    with pytest.raises(TooManyRowsError) as caught:
        take(history, times, [1] * 11)
    assert (caught.value.row, caught.value.rows, caught.value.sorted) == (10, 10, False)
    history = History([Window("count", 0, Frame(5 * SECOND))], Lateness(late_ms=0, key_rows=10))
    assert take(history, times, [1] * 11)[0][-1] == 6
    hops = History([Window("count", 0, Frame(100 * SECOND, hop_us=SECOND))], Lateness(late_ms=0, key_rows=10))
    assert take(hops, times, [1] * 11)[0][-1] == 11


def test_a_quantile_looks_through_so_many_rows_at_most() -> None:
    n = MOST_ROWS + 1
    history = History([Window("quantile_cont", 0, Frame(SECOND), Fraction(1, 2))])
    times, values = np.zeros(n, np.int64), np.arange(n, dtype=np.float64)
    with pytest.raises(TooManyRowsError) as caught:
        history.advance(pa.array(["car"] * n), times, times, values[None], np.ones((1, n), np.bool_))
    assert (caught.value.row, caught.value.rows, caught.value.sorted) == (MOST_ROWS, MOST_ROWS, True)


def test_nulls_are_passed_over() -> None:
    found = take(past("count", "sum", "avg", "min"), [0, 1, 2, 30], [None, 4, None, None])
    assert found == [[0, 1, 1, 0], [None, 4, 4, None], [None, 4, 4, None], [None, 4, 4, None]]


def test_what_is_no_number_counts_while_it_is_in_the_window() -> None:
    values: list[float | None] = [1, NAN, INF, 2, -INF, 3, 4]
    total, low, high, spread = take(
        past("sum", "min", "max", "stddev_samp", frame=Frame(2 * SECOND)), [0, 1, 2, 3, 4, 10, 11], values
    )
    assert total == pytest.approx([1, NAN, NAN, NAN, NAN, 3, 7], nan_ok=True)
    assert low == [1, 1, 1, 2, -INF, 3, 3]
    assert high == pytest.approx([1, NAN, NAN, NAN, INF, 3, 4], nan_ok=True)  # NaN is above every number
    assert spread == pytest.approx([None, NAN, NAN, NAN, NAN, None, math.sqrt(0.5)], nan_ok=True)
    assert take(past("sum"), [0, 1], [INF, 1])[0] == [INF, INF]


def test_a_late_row_sees_its_own_past_and_is_seen_later() -> None:
    history = past("sum", "max")
    assert take(history, [0, 5, 8], [1, 2, 4])[0] == [1, 3, 7]
    assert take(history, [3], [100]) == [[101], [100]]
    assert take(history, [9, 13, 14], [8, 16, 32]) == [[115, 130, 62], [100, 100, 32]]


def test_a_late_row_sees_nothing_older_than_what_is_kept() -> None:
    history = past("count")
    assert take(history, [0, 5, 12, 6], [1] * 4) == [[1, 2, 2, 2]]  # the row of second 0 was out of reach at 12
    history = past("count", late=4)
    assert take(history, [0, 5, 12, 6], [1] * 4) == [[1, 2, 2, 3]]


def test_a_row_that_is_too_late_sees_itself_and_is_not_seen() -> None:
    history = past("count", "sum")
    assert take(history, [100, 101, 3, 102], [1, 1, 7, 1]) == [[1, 2, 1, 3], [1, 2, 7, 3]]
    assert (history.rows, history.late, history.alone, history.future) == (3, 0, 1, 0)


def test_a_device_may_come_late_as_a_whole() -> None:
    """The clock is of all keys: what it has left behind is out of reach, whatever the key's own newest row is."""
    windows = [Window("count", 0, Frame(10 * SECOND))]
    history = History(windows, Lateness(late_ms=1000, delay_ms=20_000, clock_skew_ms=0))
    assert take(history, [100, 70, 71, 68], [1] * 4, ["a", "b", "b", "b"], [100] * 4) == [[1, 1, 2, 1]]
    assert (history.clock, history.alone, history.reach_us) == (100 * SECOND, 1, 31 * SECOND)


def test_a_row_from_the_future_sees_itself_and_is_not_seen() -> None:
    windows = [Window("count", 0, Frame(10 * SECOND))]
    history = History(windows, Lateness(late_ms=0, delay_ms=0, clock_skew_ms=5000))
    assert take(history, [1, 5, 6, 1e9, 7], [1] * 5, recorded=[0, 0, 0, 3, 4]) == [[1, 2, 1, 1, 3]]
    assert (history.future, history.alone, history.clock) == (2, 0, 4 * SECOND)


def test_nothing_comes_back_where_nothing_is_wanted() -> None:
    history, silent = past("sum"), past("sum")
    times, values, known = np.arange(5) * SECOND, np.ones((1, 5)), np.ones((1, 5), np.bool_)
    assert silent.advance(pa.array(["car"] * 5), times, times, values, known, emit=False) == []
    history.advance(pa.array(["car"] * 5), times, times, values, known)
    assert take(history, [5], [1]) == take(silent, [5], [1]) == [[6]]


def test_kept_rows_are_those_in_reach() -> None:
    history = past("count")
    for second in range(0, 1000, 2):
        take(history, [second, second], [1, 1], ["a", "b"])
        assert history.rows <= 12
    assert history.rows == 12


def test_sums_are_those_of_the_rows_in_the_window_alone() -> None:
    """What was added and taken away leaves no trace, where a running double would have lost all small values."""
    total, mean = take(past("sum", "avg", frame=Frame(1 * SECOND)), [0, 1, 2.5, 3], [1e300, 1.0, 1e-300, 2.0])
    assert total == [1e300, 1e300, 1e-300, 2.0]
    assert mean == [1e300, 5e299, 1e-300, 1.0]


@pytest.mark.parametrize("seed", range(20))
def test_sums_are_exact_and_rounded_once(seed: int) -> None:
    rng = random.Random(seed)
    kind = seed % 4
    values = [
        rng.choice([-1, 1])
        * rng.random()
        * 2.0 ** rng.randint(*[(-1080, -1000), (-1074, 900), (-60, 60), (-3, 3)][kind])
        for _ in range(400)
    ]
    times = [float(i) for i in range(400)]
    for value, row in zip(take(past("sum", frame=Frame(50 * SECOND)), times, values)[0], range(400), strict=True):  # type: ignore[arg-type]
        assert value == math.fsum(values[max(0, row - 50) : row + 1])


def test_a_sum_beyond_the_largest_double_is_infinite() -> None:
    assert take(past("sum", frame=Frame(1 * SECOND)), [0, 1, 5], [1.5e308, 1.5e308, 1.0])[0] == [1.5e308, INF, 1.0]
    assert take(past("sum", frame=Frame(1 * SECOND)), [0, 1], [5e-324, 5e-324])[0] == [5e-324, 1e-323]


@pytest.mark.parametrize("mean", [0.0, 1.0, -1e6, 1e12])
def test_a_deviation_does_not_drown_in_its_mean(mean: float) -> None:
    values = [mean + x for x in (0.25, 0.5, 0.75, 0.5, 2.0)]
    found = take(past("stddev_samp"), [0, 1, 2, 3, 4], values)[0]  # type: ignore[arg-type]
    exact = [Fraction(value) for value in values]
    for n in range(2, 6):
        centre = sum(exact[:n]) / n
        variance = sum((x - centre) ** 2 for x in exact[:n]) / (n - 1)
        assert found[n - 1] == pytest.approx(math.sqrt(variance), rel=1e-15)
    assert take(past("stddev_samp"), [0, 1, 2], [mean] * 3)[0] == [None, 0, 0]
    assert take(past("stddev_samp"), [0, 1], [1e200, 2e200])[0] == pytest.approx([None, NAN], nan_ok=True)


def test_many_keys_and_rows_find_room() -> None:
    """Against a window computed the long way, while keys come and grow."""
    rng = np.random.default_rng(4)
    history, seen = past("sum", frame=Frame(20 * SECOND)), []
    for second in range(60):
        keys = rng.integers(0, 40 * (second + 1), 300)
        values = rng.normal(size=300)
        found = take(history, [second] * 300, values.tolist(), [str(key) for key in keys])[0]
        for key, value, total in zip(keys, values, found, strict=True):
            seen.append((key, second, value))
            if rng.random() < 0.01:
                assert total == math.fsum(v for k, s, v in seen if k == key and s >= second - 20)


def test_no_rows() -> None:
    history = past("sum")
    assert take(history, [], []) == [[]]
    assert history.rows == 0


def test_idle_keys_are_given_back() -> None:
    """Each second other keys: of those whose rows are out of reach nothing is left."""
    history, sizes = past("sum"), []
    for second in range(400):
        names = [f"{second}-{i}" for i in range(100)]
        assert take(history, [second] * 100, [1] * 100, names) == [[1] * 100]
        sizes.append(history.memory_bytes)
    assert history.keys < 2500
    assert history.rows <= 2 * history.keys
    assert max(sizes[200:]) < 2 * max(sizes[50:200])


def test_rows_of_keys_that_shrink_are_given_back() -> None:
    history = past("count")
    take(history, [second / 1000 for second in range(9000)], [1] * 9000)
    full = history.memory_bytes
    for second in range(20, 40000, 20):
        assert take(history, [second], [1]) == [[1]]
    assert history.memory_bytes < full / 2


def test_keys_that_grow_together_leave_little_unused() -> None:
    """As while a window fills, or is read again: the rings they leave are too small for any of them."""
    history, names, most = past("sum", "min", frame=Frame(1000 * SECOND)), [f"{i:04}" for i in range(2000)], 0.0
    for second in range(200):
        take(history, [second] * len(names), [1] * len(names), names)
        if second > 5:
            most = max(most, history.memory_bytes / (260 * history.keys + 21 * history.rows))
    assert most < 1.25


def test_keys_of_any_length_and_place_in_their_buffer() -> None:
    """Empty, longer than a word, with one more byte, cut out of a longer array, in a buffer that ends within a word."""
    names = ["", "a", "ab", "abcdefgh", "abcdefgh" * 2, "abcdefghi", "\0", "\0\0", "a\0", "ä", "abcdefgh" * 2 + "x"]
    keys = pa.array(["cut off", *names, *names, "cut off"])
    times, one = np.zeros(22, np.int64), np.ones((1, 22))
    expected = [1.0] * 11 + [2.0] * 11
    for part in (keys[1:-1], pa.concat_arrays([keys[1:-1]])):
        found = past("count").advance(part, times, times, one, one > 0)
        assert found[0].to_pylist() == expected
    assert keys.buffers()[2].size % 8  # so it was copied
