"""docs/schemas.md says what the .avsc files say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from beam_jobs.errors import UserError
from schemas.docs import BEGIN, END, PAGE, main, renewed, tables

SCHEMA = {
    "type": "record",
    "name": "Pump",
    "doc": "A pump's reading.",
    "fields": [
        {"name": "flow", "type": "double", "unit": "l/s", "min": 0, "doc": "Out of a|b.", "aliases": ["FLOW"]},
        {"name": "heat", "type": {"type": "float", "unit": "°C"}, "max": 90, "default": 20},
        {"name": "owner", "type": ["null", "string"], "default": None, "pii": "direct", "label": True},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["A", "B"]}},
        {"name": "id", "type": {"type": "fixed", "name": "Id", "size": 16}},
        {
            "name": "parts",
            "type": {
                "type": "map",
                "values": {"type": "record", "name": "Part", "doc": "One.", "fields": [{"name": "n", "type": "int"}]},
            },
        },
    ],
}


def test_the_page_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, "run python -m schemas.docs"
    assert "`tire_pressure_1_1`" in PAGE.read_text()


def test_what_a_table_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pump.avsc").write_text(json.dumps(SCHEMA))
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for line in (
        "### pump",
        "| `flow` | double | l/s | at least 0 |  | Out of a\\|b. Also read as `FLOW`. |",
        "| `heat` | float, default `20` | °C | at most 90 |  |  |",
        "| `owner` | string or null, default `null` |  |  | direct | *The label.* |",
        "| `at` | timestamp-millis |  |  |  |  |",
        "| `price` | decimal(9, 2) |  |  |  |  |",
        "| `kind` | enum A, B |  |  |  |  |",
        "| `id` | 16 bytes |  |  |  |  |",
        "| `parts` | map of Part |  |  |  |  |",
        "`Part`: One.",
        "| `n` | int |  |  |  |  |",
    ):
        assert line in out.splitlines()


def test_a_page_that_is_behind_is_told_and_renewed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n{BEGIN}\nold\n{END}\nAfter.\n")
    assert main(["--page", str(page), "--check"]) == 1
    assert "run python -m schemas.docs" in capsys.readouterr().out
    assert "old" in page.read_text()
    assert main(["--page", str(page)]) == 0
    assert main(["--page", str(page), "--check"]) == 0
    text = page.read_text()
    assert text.startswith("# Before\n")
    assert text.endswith("\nAfter.\n")
    assert "### car_sensor" in text
    assert "old\n" not in text.splitlines()


@pytest.mark.parametrize("page", ["", BEGIN, END + BEGIN, BEGIN + BEGIN + END, BEGIN + END + END])
def test_a_page_without_its_marks(page: str) -> None:
    with pytest.raises(UserError, match="once each"):
        renewed(page, "x")


def test_a_page_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--page .*cannot be read"):
        main(["--page", str(tmp_path / "none.md")])


def test_no_folder_no_table() -> None:
    assert tables([]) == ""
