"""The house stays one a newcomer can walk through: files of a page or ten, folders of a handful of files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import beam_jobs

ROOT = Path(beam_jobs.__file__).resolve().parent.parent
ROOMS = ("beam_jobs", "model", "schemas", "use_cases", "demo", "templates", "bench", "chaos", "tests")
FILES = sorted(path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py"))

MAX_LINES = 500  # of a file
MAX_MODULES = 16  # of a folder, beside its __init__.py
CROWDED = {  # folder -> why it may hold more
    "beam_jobs": "the commands, whose names are public, and the ground that every room stands on",
    "bench": "a measurement each, run by its name; none knows another",
    "tests/integration": "a subject each, one level deep: pytest is asked for one by its name",
}


@pytest.mark.parametrize("room", ROOMS)
def test_no_file_is_longer_than_one_can_hold_in_the_head(room: str) -> None:
    lines = {str(file): len((ROOT / file).read_text().splitlines()) for file in FILES if file.parts[0] == room}
    assert lines
    assert {file: n for file, n in lines.items() if n > MAX_LINES} == {}


def test_no_folder_holds_more_than_one_can_look_over() -> None:
    modules = Counter(file.parent.as_posix() for file in FILES if file.name != "__init__.py")
    assert {folder for folder, n in modules.items() if n > MAX_MODULES} == set(CROWDED)
