"""The table of the public fraud benchmark, from the page that ``make fraud`` writes."""

from __future__ import annotations

import re
from pathlib import Path

from rich.table import Table

_BEGIN, _END = "<!-- fraud -->", "<!-- end of fraud -->"
_RANGE = re.compile(r" \([0-9.]+ to [0-9.]+\)")  # of the seeds, behind each mean: too much for a terminal


def table_of_benchmark(page: Path) -> Table:
    """The table of docs/fraud.md, for a terminal."""
    _, _, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    lines = [line for line in rest.partition(_END)[0].splitlines() if line.startswith("|")]
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    table = Table(
        title="the public fraud benchmark, as `make fraud` measured it last (docs/fraud.md), not in this run; means",
        title_justify="left",
    )
    for i, name in enumerate(head):
        table.add_column(name, justify="right" if i else "left")
    for row in rows:
        table.add_row(*(_RANGE.sub("", cell) for cell in row))
    return table
