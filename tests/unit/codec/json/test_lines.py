"""JSON lines as rows of a schema, with the line of what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from beam_jobs.codec.json import lines
from beam_jobs.codec.json.lines import read_json_lines
from beam_jobs.errors import UserError

SCHEMA = {
    "type": "record",
    "name": "R",
    "fields": [{"name": "car", "type": "string"}, {"name": "speed", "type": ["null", "double"], "default": None}],
}


@pytest.mark.parametrize("chunk", [7, 4 << 20])
def test_lines_are_rows_and_wrong_ones_have_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(lines, "CHUNK_BYTES", chunk)
    text = '\ufeff{"car": "a", "speed": 1.5}\r\n\n{"car": "b"}\n{"speed": 2}\nno\n{"car": "ü", "speed": null}'
    (tmp_path / "x.jsonl").write_bytes(text.encode())
    blocks = list(read_json_lines(tmp_path / "x.jsonl", SCHEMA))
    rows = [row for block in blocks for row in block.rows.to_pylist()]
    assert rows == [{"car": "a", "speed": 1.5}, {"car": "b", "speed": None}, {"car": "ü", "speed": None}]
    told = [
        (reason, error)
        for block in blocks
        for reason, error in zip(block.errors.reasons, block.errors.errors, strict=True)
    ]
    assert [reason for reason, _ in told] == ["missing_field", told[1][0]]
    assert [error.partition(":")[0] for _, error in told] == ["line 4", "line 5"]


def test_a_line_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "CHUNK_BYTES", 10)
    monkeypatch.setattr(lines, "MAX_LINE", 100)
    (tmp_path / "x.jsonl").write_text("x" * 1000)
    with pytest.raises(UserError, match="is it JSON lines"):
        list(read_json_lines(tmp_path / "x.jsonl", SCHEMA))
    with pytest.raises(UserError, match="can't be read"):
        list(read_json_lines(tmp_path / "none.jsonl", SCHEMA))
