"""The values of a sample as texts: a few characters each, that no terminal and no page obeys."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from beam_jobs.errors import one_line, shown
from beam_jobs.samples.statistics import Column, Histogram
from beam_jobs.terminal.report import time_text

MOST = 28  # characters of a text value
NAME = 40  # of a column's name, or of its unit
NULL = "null"

_DIGITS = 5
_LARGE, _SMALL = 1e7, 1e-4  # beyond these a number has an exponent
_BARS = "▁▂▃▄▅▆▇█"


def name_of(column: Column) -> str:
    """Its name, with the unit."""
    name = one_line(column.name, NAME)
    return f"{name} ({one_line(column.unit, NAME)})" if column.unit else name


def head_of(column: Column) -> str:
    """Its name above its first values: of times of one day with the day, which these lack."""
    day = _day_of(column)
    return name_of(column) if day is None else f"{name_of(column)} ({day} UTC)"


def first_of(column: Column, rows: int) -> list[str]:
    """Its first values, numbers with as many decimals all of them; see ``head_of``."""
    values = column.first[:rows]
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        numbers = iter(figures(known))
        return [NULL if value is None else next(numbers) for value in values]
    texts = [text_of(value) for value in values]
    return [text.removeprefix(f"{_day_of(column)} ") for text in texts] if column.is_time else texts


def _day_of(column: Column) -> str | None:
    """The day that all times shown of a column are of."""
    days = {text_of(value)[:10] for value in column.first if value is not None} if column.is_time else set()
    return days.pop() if len(days) == 1 else None


def text_of(value: Any) -> str:
    """Any value."""
    if value is None:
        return NULL
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        text = moment.isoformat(sep=" ", timespec="milliseconds").replace("+00:00", "")
        return text.removesuffix(".000")
    return shown(value, form=str, most=MOST) if isinstance(value, str) else shown(value, most=MOST)


def figures(values: Sequence[float]) -> list[str]:
    """Numbers to be read one below the other: five digits of the largest, and as many decimals all of them."""
    if all(isinstance(value, int) for value in values):
        return [str(value) for value in values]
    finite = [abs(value) for value in values if math.isfinite(value)]
    largest = max(finite, default=0.0)
    if largest >= _LARGE or 0 < largest < _SMALL:
        return [f"{value:.4g}" for value in values]
    decimals = max(0, _DIGITS - 1 - (math.floor(math.log10(largest)) if largest else 0))
    texts = [f"{value:.{decimals}f}" for value in values]
    while decimals and all(text.endswith(("0", "n", "f")) for text in texts):  # nan and inf have no decimals
        decimals -= 1
        texts = [f"{value:.{decimals}f}" for value in values]
    return texts


def figure(value: float, is_time: bool = False) -> str:
    """One number, or the day of a time in milliseconds."""
    return (time_text(int(value)) or "")[:10] if is_time else f"{value:.5g}"


def share(part: float) -> str:
    """A share of 0 to 1; only nothing is 0 %, and only all is 100 %."""
    if part in (0, 1):
        return f"{part:.0%}"
    return f"{min(max(part * 100, 0.01), 99.99):.3g} %".replace(" %", "%")


def bars(histogram: Histogram, width: int) -> str:
    """The histogram in one line, ``width`` characters at most and one more at an end where values lie outside."""
    counts = histogram.counts
    size = -(-len(counts) // width)
    sums = [sum(counts[at : at + size]) for at in range(0, len(counts), size)]
    most = max(sums)
    drawn = "".join(" " if not n else _BARS[math.ceil(n / most * len(_BARS)) - 1] for n in sums)
    return f"{'<' if histogram.below else ''}{drawn}{'>' if histogram.above else ''}"
