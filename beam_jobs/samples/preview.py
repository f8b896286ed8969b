"""A use case's SQL on some events, to be looked at: on a terminal, in a notebook, or as a page.

>>> from beam_jobs import preview_of                       # doctest: +SKIP
>>> preview_of("cold_rooms", "readings.csv", rows=1000)    # doctest: +SKIP
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from beam_jobs import page
from beam_jobs.errors import UserError
from beam_jobs.preprocessing.fields import fields_of
from beam_jobs.preprocessing.plan import Plan, plan_of
from beam_jobs.samples.page import body_of
from beam_jobs.samples.records import Records, records_of
from beam_jobs.samples.sample import Checked, Sample
from beam_jobs.samples.text import lines_of
from beam_jobs.use_case import UseCase, load_use_case

_WIDTH = 100  # of a notebook that shows texts only

# In a notebook the style of a page is that of its own part alone, and its colours are the notebook's.
_PART = re.sub(r":root{.*?}\s*|body{.*?}\s*", "", page.STYLE)


@dataclass(frozen=True)
class Preview:
    """What a use case makes of some events; a notebook shows it as HTML.

    Attributes:
      use_case: whose SQL it is.
      what: was looked at.
      checked: what came of it, in figures.
      plan: how the SQL was compiled.
    """

    use_case: UseCase
    what: str
    checked: Checked
    plan: Plan

    def lines(self, width: int) -> Iterator[str]:
        """As text, for a terminal of that many columns."""
        return lines_of(self.checked, self.what, width)

    def html(self) -> str:
        """A whole page: one file, which loads nothing."""
        return page.page(f"Preview of {self.use_case.name}", self._body())

    def __repr__(self) -> str:
        return "\n".join(self.lines(_WIDTH))

    def _repr_html_(self) -> str:
        return f"<div class='highbeam'><style>.highbeam{{{_PART}}}</style>{self._body()}</div>"

    def _body(self) -> str:
        return body_of(self.checked, self.what, self.use_case.sql, self.plan)


def preview_of(
    use_case: str | UseCase,
    input: str,  # as the option is called
    *,
    rows: int = 20_000,
    history: int = 1_000_000,
    schema_registry: str | None = None,
    kafka_config: str | None = None,
) -> Preview:
    """Takes events through a use case's schema and SQL, as jobs do.

    Args:
      use_case: loaded, or the name of one that ships, or the folder of one.
      input: a topic, of which the newest records are read (kafka://host:9092/topic; no group, no commit), or an
        archive or files, as training takes them, here or on ``gs://``.
      rows: to look at, from 1 on.
      history: of a topic, records before them that are read at most where the SQL has windows.
      schema_registry: its URL, for a topic.
      kafka_config: file of client properties, for a topic.

    Raises:
      UserError: they can't be read, there are none, or the use case or its SQL is wrong: one line with the place and
        the remedy.
    """
    found = load_use_case(use_case) if isinstance(use_case, str) else use_case
    if rows < 1:
        raise UserError(f"rows={rows}: expected a number from 1 on")
    if history < 0:
        raise UserError(f"history={history}: expected a number from 0 on")
    found.preprocessor().check_secrets()
    with tempfile.TemporaryDirectory() as scratch:
        records = records_of(input, rows, history, schema_registry, kafka_config, Path(scratch))
        return look(found, records, input)


def look(use_case: UseCase, records: Records, what: str) -> Preview:
    """Takes records through the use case.

    Raises:
      UserError: there are none, one can't be read, or the SQL is wrong.
    """
    sample = Sample(use_case)
    for part in records.parts(use_case):
        sample.add(part)
    checked = sample.checked()
    if not checked.rows:
        raise UserError(f"--input {what}: holds nothing to look at; send or write some events first")
    checked = replace(checked, unordered=[*checked.unordered, *records.shortcomings()])
    plan = plan_of(use_case.preprocessor(), fields_of(use_case.schema), use_case.source)
    return Preview(use_case, what, checked, plan)
