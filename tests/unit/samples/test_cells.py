"""Values as texts: numbers line up, and nothing reaches the terminal that it would obey."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from beam_jobs.samples.cells import MOST, bars, figures, first_of, head_of, share, text_of
from beam_jobs.samples.statistics import Histogram, column_of
from tests.unit.samples.payments import HOSTILE


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([1.5, 22.25, 3.0], ["1.50", "22.25", "3.00"]),
        ([1, 200], ["1", "200"]),
        ([0.0, 0.0], ["0", "0"]),
        ([1e9, 1.0], ["1e+09", "1"]),
        ([1e-7], ["1e-07"]),
        ([float("nan"), 2.5], ["nan", "2.5"]),
        ([-0.123456, 1000.0], ["-0.1", "1000.0"]),
    ],
)
def test_numbers_have_as_many_decimals_all_of_them(values: list[float], texts: list[str]) -> None:
    assert figures(values) == texts


LARGE = [HOSTILE, HOSTILE.encode(), {"a": HOSTILE}, [HOSTILE] * 1000, "x" * 10**7, 10**5000]


@pytest.mark.parametrize("value", LARGE, ids=range(len(LARGE)))
def test_a_value_is_short_and_printable(value: object) -> None:
    text = text_of(value)
    assert text.isprintable()
    assert len(text) <= max(MOST, len("a value too large to be shown"))


def test_times_of_one_day_say_it_once() -> None:
    times = [datetime(2026, 11, 22, 7, 0, s, tzinfo=UTC) for s in (0, 1)]
    one = column_of("at", "event time", None, pa.chunked_array([pa.array(times, pa.timestamp("ms", "UTC"))]), times)
    assert (head_of(one), first_of(one, 2)) == ("at (2026-11-22 UTC)", ["07:00:00", "07:00:01"])
    two = [times[0], datetime(2026, 11, 23, tzinfo=UTC)]
    days = column_of("at", "event time", None, pa.chunked_array([pa.array(two, pa.timestamp("ms", "UTC"))]), two)
    assert (head_of(days), first_of(days, 2)) == ("at", ["2026-11-22 07:00:00", "2026-11-23 00:00:00"])


@pytest.mark.parametrize(
    ("part", "text"), [(0, "0%"), (1, "100%"), (0.5, "50%"), (1e-9, "0.01%"), (0.99999999, "100%")]
)
def test_only_nothing_is_no_per_cent(part: float, text: str) -> None:
    assert share(part) == text or (part == 0.99999999 and share(part) == "99.99%")


def test_bars_show_what_is_there_however_little() -> None:
    assert bars(Histogram(0, 1, (1000, 0, 1, 500), below=True), 4) == "<█ ▁▄"
    assert bars(Histogram(0, 1, (1,) * 24, above=True), 8) == "████████>"
    assert bars(Histogram(3, 3, (7,)), 8) == "█"
