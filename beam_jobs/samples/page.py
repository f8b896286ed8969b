"""What came of a sample, as HTML: a part of a notebook, or with ``beam_jobs.page`` a page of its own."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import replace

from beam_jobs.errors import one_line
from beam_jobs.page import cell, code, paragraph, table
from beam_jobs.preprocessing.plan import Plan
from beam_jobs.samples.cells import figure, first_of, head_of, name_of, share, text_of
from beam_jobs.samples.sample import Checked
from beam_jobs.samples.statistics import BINS, Column
from beam_jobs.terminal.report import time_text
from model.training.plan import place

ROWS = 10
MOST_COLUMNS = 400  # of a table: larger pages are slow to open
_PLAN_WIDTH = 110
_COLOUR = "#4a86c5"  # seen on white and on black
_BAR, _TALL = 6, 36  # of a histogram, pixels
_NUMBER_HEADS = ("null", "different", "least", "5 %", "25 %", "median", "75 %", "95 %", "most", "mean", "spread")


def body_of(checked: Checked, what: str, sql: str, plan: Plan) -> str:
    """The parts of the page, below its title; what others wrote stands in it as text.

    Args:
      what: was looked at.
      sql: that it went through.
    """
    columns = checked.columns[:MOST_COLUMNS]
    plan = replace(plan, source=place(plan.source))
    parts = [table(_about(checked, what), header=False)]
    if checked.passed:
        parts += ["<h2>The first rows</h2>", _first_rows([column for column in columns if not column.personal])]
    if columns:
        personal = [name_of(column) for column in columns if column.personal]
        if personal:
            parts.append(paragraph(f"Personal data, read and not shown: {', '.join(personal)}."))
        parts += ["<h2>Columns</h2>", _statistics(columns)]
        if len(checked.columns) > len(columns):
            parts.append(paragraph(f"And {len(checked.columns) - len(columns):,} more columns."))
    if checked.refused:
        parts += ["<h2>Dead letters</h2>", paragraph("Records that a job would refuse."), _refused(checked)]
    if checked.filtered_examples:
        parts += ["<h2>Filtered</h2>", paragraph("What the WHERE reads of some of the rows that it removes.")]
        parts.append("<ul>" + "".join(f"<li>{_escaped(each)}</li>" for each in checked.filtered_examples) + "</ul>")
    parts += [
        "<h2>The SQL, and how it was compiled</h2>",
        f"<details><summary>SQL</summary>{code(_printable(sql))}</details>",
        f"<details><summary>Plan</summary>{code(chr(10).join(plan.lines(_PLAN_WIDTH)))}</details>",
    ]
    return "".join(parts)


def _about(checked: Checked, what: str) -> list[list[str]]:
    refused = sum(one.count for one in checked.refused)
    rows = [
        ["looked at", f"{checked.rows:,} rows of {one_line(place(what))}"],
        ["passed", f"{checked.passed:,}, of {checked.keys:,} keys"],
        ["filtered by the WHERE", f"{checked.filtered:,}"],
        ["refused", f"{refused:,}" + (f" ({checked.refused_share:.2%})" if refused else "")],
        *(["in windows", one_line(phrase)] for phrase in checked.unordered),
    ]
    if checked.first_ms is not None:
        rows.insert(2, ["event times", f"{time_text(checked.first_ms)} to {time_text(checked.last_ms)}"])
    return rows


def _first_rows(columns: Sequence[Column]) -> str:
    roles = ["" if column.role in ("key", "event time") else f"{column.role}s" for column in columns]
    spans: list[tuple[str, int]] = []
    for role in roles:
        before = spans[-1] if spans and spans[-1][0] == role else None
        spans = [*spans[:-1], (role, before[1] + 1)] if before else [*spans, (role, 1)]
    groups = "".join(f"<th colspan='{n}' scope='colgroup'>{role}</th>" for role, n in spans)
    styles = ["figures" if column.numbers is not None and not column.is_time else "" for column in columns]
    names = "".join(
        f"<th scope='col'{' class=figures' if style else ''}>{_escaped(head_of(column))}</th>"
        for column, style in zip(columns, styles, strict=True)
    )
    rows = zip(*(first_of(column, ROWS) for column in columns), strict=True)
    lines = ["".join(cell(text, style=style) for text, style in zip(row, styles, strict=True)) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return _wide("The first rows", f"<table class='rows'><tr>{groups}</tr><tr>{names}</tr>{body}</table>")


def _statistics(columns: Sequence[Column]) -> str:
    heads = "<th scope='col'>column</th><th scope='col'>values</th>"
    heads += "".join(f"<th scope='col' class='figures'>{head}</th>" for head in _NUMBER_HEADS)
    rows = []
    for column in columns:
        note = f"<br><small>{_escaped(column.note)}</small>" if column.note else ""
        name = f"<th scope='row'>{_escaped(name_of(column))}<br><small>{column.role}</small>{note}</th>"
        cells = "".join(cell(text, style="figures") for text in _figures(column))
        rows.append(f"<tr>{name}<td>{_drawn(column)}</td>{cells}</tr>")
    return _wide("Statistics of the columns", f"<table class='rows'><tr>{heads}</tr>{''.join(rows)}</table>")


def _wide(label: str, inner: str) -> str:
    """What may be wider than the page: it is scrolled by itself, by the keyboard too."""
    return f"<div class='wide' role='region' aria-label='{label}' tabindex='0'>{inner}</div>"


def _figures(column: Column) -> list[str]:
    known = [share(column.null_share), "" if column.values is None else f"{column.values:,}"]
    numbers = column.numbers
    if numbers is None:
        return [*known, *[""] * (len(_NUMBER_HEADS) - len(known))]
    rest = [numbers.least, *numbers.quantiles, numbers.most, numbers.mean]
    spread = "" if column.is_time else figure(numbers.spread)
    return [*known, *(figure(value, column.is_time) for value in rest), spread]


def _drawn(column: Column) -> str:
    """A histogram, the most frequent texts, or that nothing is shown."""
    if column.personal:
        return "personal"
    if column.numbers is None:
        known = column.count - column.nulls
        if column.top and column.top[0][1] == 1:
            return "each once"
        return "<br>".join(f"{_escaped(text_of(text))} {share(n / known)}" for text, n in column.top)
    shape = column.numbers.histogram
    most, width = max(shape.counts), BINS * _BAR
    step = width / len(shape.counts)
    bars = "".join(
        f"<rect x='{at * step:g}' y='{_TALL - tall:g}' width='{step - 1:g}' height='{tall:g}'/>"
        for at, n in enumerate(shape.counts)
        if n and (tall := max(1.0, round(n / most * _TALL, 1)))
    )
    low = f"{'≤ ' if shape.below else ''}{figure(shape.low, column.is_time)}"
    high = f"{'≥ ' if shape.above else ''}{figure(shape.high, column.is_time)}"
    label = f"histogram of {_escaped(column.name)}, {low} to {high}, the fullest of {len(shape.counts)} bars {most:,}"
    text = f"font-size='10' y='{_TALL + 11}'"
    return (
        f"<svg role='img' aria-label='{label}' width='{width}' height='{_TALL + 14}' fill='currentColor'>"
        f"<g fill='{_COLOUR}'>{bars}</g><text {text}>{low}</text>"
        f"<text {text} x='{width}' text-anchor='end'>{high}</text></svg>"
    )


def _refused(checked: Checked) -> str:
    rows = [
        f"<tr>{cell(one.stage)}{cell(one.reason)}{cell(f'{one.count:,}', style='figures')}"
        f"<td>{'<br>'.join(map(_escaped, one.examples))}</td></tr>"
        for one in checked.refused
    ]
    head = "".join(f"<th scope='col'>{name}</th>" for name in ("step", "reason", "records", "examples"))
    return _wide("Dead letters", f"<table><tr>{head}</tr>{''.join(rows)}</table>")


def _printable(sql: str) -> str:
    return "\n".join(map(one_line, sql.expandtabs().splitlines()))


def _escaped(text: str) -> str:
    return html.escape(one_line(text))
