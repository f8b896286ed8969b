"""What came of a sample, as lines for a terminal: no column is left out, and none is cut without a sign."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap

from rich.cells import cell_len, chop_cells

from beam_jobs.errors import one_line
from beam_jobs.samples.cells import bars, figure, first_of, head_of, name_of, share, text_of
from beam_jobs.samples.sample import Checked
from beam_jobs.samples.statistics import QUANTILES, Column
from beam_jobs.terminal.report import time_text

ROWS = 10  # shown at most, where a row is a line
MOST_COLUMNS = 400  # of a table; the rest is counted
_GAP = "  "
_NARROW = 110  # columns of a terminal below which a histogram has few bars
_VALUE = 18  # characters of a value where rows stand side by side
_NAME = 30  # characters of a name where others have to fit beside it

_HEADS = ("least", "mean", "most", "histogram", "null", "median", "different", "spread", "5 %", "95 %", "25 %", "75 %")
"""Of the statistics, the most important first: what does not fit is left out from the end, and that is said."""


def lines_of(checked: Checked, what: str, width: int) -> Iterator[str]:
    """The whole of it; each line is one that no terminal obeys, no wider than it where names allow it.

    Args:
      what: was looked at.
    """
    for line in _lines_of(checked, what, width):
        yield one_line(line).rstrip() if line else ""


def _lines_of(checked: Checked, what: str, width: int) -> Iterator[str]:
    span = ""
    if checked.first_ms is not None and checked.last_ms is not None:
        span = f"; {checked.keys:,} keys, {time_text(checked.first_ms)} to {time_text(checked.last_ms)}"
    yield f"looked at   {checked.rows:,} rows of {what}{span}"
    yield f"passed      {checked.passed:,}, {checked.filtered:,} filtered by the WHERE"
    refused = sum(one.count for one in checked.refused)
    yield f"refused     {refused:,}" + (f" ({checked.refused_share:.2%})" if refused else "")
    for one in checked.refused:
        yield f"  {one.count:>9,} {one.stage}, {one.reason}: {one.examples[0]}"
        yield from (f"  {'':>9} {'':>{len(one.stage)}}  {example}" for example in one.examples[1:])
    for example in checked.filtered_examples:
        yield f"filtered    {example}"
    for phrase in checked.unordered:
        yield f"in windows  {phrase}"
    if not checked.columns:
        return
    columns = checked.columns[:MOST_COLUMNS]
    yield ""
    if checked.passed:
        yield from _first_rows([column for column in columns if not column.personal], width)
        yield ""
    counted = [column for column in columns if column.numbers is not None]
    yield from _statistics([column for column in counted if column.role not in ("key", "event time")], width)
    yield from _texts([column for column in columns if column.top], width)
    for column in columns:
        if column.note:
            yield f"note        {one_line(column.name)}: {column.note}"
    personal = [one_line(column.name) for column in columns if column.personal]
    if personal:
        yield from wrap(f"personal    {', '.join(personal)}: read, and not shown", width, subsequent_indent=" " * 12)
    if len(checked.columns) > len(columns):
        yield f"and {len(checked.columns) - len(columns):,} more columns"


def grid(rows: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """Cells as lines, those of a column one below the other.

    Args:
      rows: of as many cells each as ``right``, which says which columns end at one place, as numbers do.
    """
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        padded = (_padded(*cell) for cell in zip(row, widths, right, strict=True))
        lines.append(_GAP.join(padded).rstrip())
    return lines


def _padded(text: str, width: int, right: bool) -> str:
    room = " " * (width - cell_len(text))
    return room + text if right else text + room


def cut(text: str, width: int) -> str:
    """The text, with an ellipsis where it is wider."""
    return text if cell_len(text) <= width else chop_cells(text, width - 1)[0] + "…"


def _first_rows(columns: Sequence[Column], width: int) -> Iterator[str]:
    """The first rows: a line each, or where that is too wide a line for each column."""
    cells = [first_of(column, ROWS) for column in columns]
    is_number = [column.numbers is not None and not column.is_time for column in columns]
    roles = ["" if column.role in ("key", "event time") else column.role for column in columns]
    heads = [role if at == 0 or role != roles[at - 1] else "" for at, role in enumerate(roles)]
    names = [head_of(column) for column in columns]
    lines = grid([heads, names, *zip(*cells, strict=True)], is_number)
    if max(map(cell_len, lines)) <= width:
        yield "the first rows"
        yield from lines
        return
    names = [cut(name, max(_NAME, width // 4)) for name in names]
    cells = [[cut(text, _VALUE) for text in texts] for texts in cells]
    for rows in range(len(cells[0]), 0, -1):
        lines = grid([[name, *texts[:rows]] for name, texts in zip(names, cells, strict=True)], [False] + [True] * rows)
        if max(map(cell_len, lines)) + len(_GAP) <= width:
            break
    yield f"the first {rows:,} row{'s'[: rows != 1]}, a column each"
    for head, line in zip(heads, lines, strict=True):
        if head:
            yield f"{head}s"
        yield f"{_GAP}{line}"


def _statistics(columns: Sequence[Column], width: int) -> Iterator[str]:
    if not columns:
        return
    size = 24 if width >= _NARROW else 8
    rows = [_figures(column, size) for column in columns]
    names = [name_of(column) for column in columns]
    names = [cut(name, max(_NAME, width // 4)) for name in names]
    for shown in range(len(_HEADS), 2, -1):
        heads = list(_HEADS[:shown])
        right = [False, *(head != "histogram" for head in heads)]
        table = [["statistics", *heads], *([f"  {name}", *row[:shown]] for name, row in zip(names, rows, strict=True))]
        lines = grid(table, right)
        if max(map(cell_len, lines)) <= width:
            break
    yield lines[0]
    for column, before, line in zip(columns, [None, *columns[:-1]], lines[1:], strict=True):
        if before is None or column.role != before.role:
            yield f"{column.role}s"
        yield line
    if shown < len(_HEADS):
        left_out = f"a wider terminal, and --html, have {', '.join(_HEADS[shown:])} as well"
        yield from wrap(left_out, width, initial_indent=_GAP, subsequent_indent=_GAP)
    if any(c.numbers.histogram.below or c.numbers.histogram.above for c in columns if c.numbers):
        yield "  < and >: the bar at the end counts what lies further out"


def _figures(column: Column, size: int) -> list[str]:
    """The cells of _HEADS."""
    numbers = column.numbers
    assert numbers is not None
    of = dict(zip(QUANTILES, numbers.quantiles, strict=True))
    is_time = column.is_time
    drawn = bars(numbers.histogram, size)
    outer = [figure(value, is_time) for value in (of[0.05], of[0.95], of[0.25], of[0.75])]
    spread = "" if is_time else figure(numbers.spread)
    middle = [share(column.null_share), figure(of[0.5], is_time), f"{column.values:,}", spread]
    least, mean, most = (figure(value, is_time) for value in (numbers.least, numbers.mean, numbers.most))
    return [least, mean, most, drawn, *middle, *outer]


def _texts(columns: Sequence[Column], width: int) -> Iterator[str]:
    if not columns:
        return
    yield "texts       null, different, and the most frequent ones"
    for column in columns:
        known = column.count - column.nulls
        often = ", ".join(f"{text_of(text)} {share(n / known)}" for text, n in column.top)
        top = often if column.top[0][1] > 1 else "each once"
        yield cut(f"  {name_of(column)}  {share(column.null_share)}  {column.values:,}  {top}", width)
