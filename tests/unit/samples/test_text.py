"""The preview on a terminal: it fits, lines up, leaves no column out, and obeys no value."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from beam_jobs.samples.preview import Preview, preview_of
from beam_jobs.samples.text import grid
from tests.unit.samples.payments import HOSTILE, write_events, write_use_case


@pytest.fixture(scope="module")
def preview(tmp_path_factory: pytest.TempPathFactory) -> Preview:
    folder = tmp_path_factory.mktemp("text")
    return preview_of(write_use_case(folder / "cards"), write_events(folder / "p.jsonl", merchant=HOSTILE))


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_it_fits_the_terminal(preview: Preview, width: int) -> None:
    lines = list(preview.lines(width))
    table = lines[lines.index("") :]
    assert max(map(cell_len, table)) <= width
    for line in lines:
        assert line.isprintable()
    said = "\n".join(table)
    for name in ("card", "amount (EUR)", "against_usual", "payments", "online", "age_about", "merchant"):
        assert name in said


def test_a_row_is_a_line_where_there_is_room_else_a_column_is_one(preview: Preview) -> None:
    wide, narrow = "\n".join(preview.lines(200)), "\n".join(preview.lines(60))
    assert "the first rows\n" in wide
    assert "a column each" not in wide
    assert "a column each\n  card  " in narrow
    [row] = [line for line in wide.splitlines() if line.startswith("card-1  ")][:1]
    assert row.split()[:5] == ["card-1", "22:14:20", "3", "3", "1.0000"]


def test_inputs_stand_beside_features_and_personal_ones_nowhere(preview: Preview) -> None:
    for width in (80, 200):
        said = "\n".join(preview.lines(width))
        assert "personal    age: read, and not shown" in said
        assert "\n  amount (EUR) " in said.replace("\ninputs", "")
        tables = said[said.index("the first") :].replace("personal    age", "")
        assert "age" not in tables.split()


def test_what_does_not_fit_of_the_statistics_is_named(preview: Preview) -> None:
    wide, narrow = ("\n".join(preview.lines(width)) for width in (200, 60))
    assert "a wider terminal" not in wide
    for head in ("least", "mean", "most", "null", "median", "different", "spread", "5 %", "75 %", "histogram"):
        assert head in wide
        assert head in narrow  # as a column, or in the line that says what is left out


def test_what_is_filtered_and_refused_has_examples(preview: Preview) -> None:
    said = "\n".join(preview.lines(80))
    assert "filtered    amount null, age (personal: left out)\n" in said
    assert "4 preprocess, out_of_range: amount is -5 EUR, expected at least 0" in said
    assert "in windows  nothing is known of rows before the first one looked at" in said


def test_numbers_end_at_one_place() -> None:
    assert grid([["a", "1.5"], ["日本", "22.5"]], [False, True]) == ["a      1.5", "日本  22.5"]
