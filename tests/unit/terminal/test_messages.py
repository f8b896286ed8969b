"""Messages show what others wrote (values, names, what brokers say) by one way, which no terminal obeys."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from hypothesis import example, given
from hypothesis import strategies as st

import beam_jobs
from beam_jobs.errors import MAX_LISTED, MAX_MESSAGE, MAX_SHOWN, PERSONAL, RowErrors, UserError, listed, one_line, shown
from beam_jobs.running.process import configure_logging
from beam_jobs.terminal.cli import run, say
from beam_jobs.terminal.options import ReportOptions

ROOT = Path(beam_jobs.__file__).resolve().parent.parent
HOSTILE = "a\x1b[2J\x9b31m\u202egnp\u2066\u200b\udcff\n\r\u2028\x00 {x} [red]%s"


def is_tame(text: str, most: int) -> bool:
    return text.isprintable() and len(text) <= most


@given(st.text(st.characters(), max_size=90) | st.binary(max_size=90))
@example(HOSTILE)
@example("\u202e" * 10_000)
@example("x" * 10_000)
@example(b"\x1b" * 10_000)
def test_anything_is_one_line_that_no_terminal_obeys(value: str | bytes) -> None:
    assert is_tame(one_line(value), MAX_MESSAGE)
    assert is_tame(one_line(value, 20), 20)
    assert is_tame(shown(value), MAX_SHOWN)
    assert is_tame(listed([value] * 100), (MAX_LISTED + 1) * (MAX_SHOWN + 2))
    assert is_tame(str(UserError(f"field 'x' is {value!r}; mend it")), MAX_MESSAGE)
    assert is_tame(str(UserError(value)), MAX_MESSAGE)
    assert is_tame(RowErrors(np.arange(1), ["wrong_type"], [str(value)]).errors[0], MAX_MESSAGE)
    assert shown(value, "direct") == PERSONAL


@given(st.text(st.characters(exclude_categories=["C", "Z"]), max_size=MAX_MESSAGE))
def test_what_is_harmless_stays_as_it_is(text: str) -> None:
    assert one_line(text) == text
    assert one_line(one_line(HOSTILE + text)) == one_line(HOSTILE + text)


def test_a_long_message_keeps_its_remedy() -> None:
    error = UserError(f"a.parquet: no column 'speed'; it has {'x' * 10_000}; write it again")
    assert str(error).startswith("a.parquet: no column 'speed'")
    assert str(error).endswith("; write it again")


def test_of_many_names_the_first_are_listed() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed(range(30)).endswith("18, 19 and 10 more")


def test_the_terminal_gets_no_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(argv: object) -> int:
        say(HOSTILE)
        raise RuntimeError(HOSTILE)

    with pytest.raises(SystemExit):
        run(fail, ["--verbose"])
    said = capsys.readouterr().err
    assert "RuntimeError" in said
    assert said.replace("\n", "").isprintable()


def test_log_lines_hold_no_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level, filters = root.handlers[:], root.level, root.filters[:]
    try:
        configure_logging(PipelineOptions([]).view_as(ReportOptions))
        logging.getLogger("beam_jobs.test").warning("%s: %s", "topic", HOSTILE)
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers[:], root.filters[:] = before, filters
        root.setLevel(level)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("WARNING topic: a\\x1b[2J")
    assert line.isprintable()


SPOKEN = ("UserError", "UnreachableError", "RowError", "BadRowsError", "warning", "error", "info", "debug", "say")
TELLING = ("one_line", "shown", "listed", "len", "sum")
FOREIGN = ("as_py", "str", "details", "to_pylist", "decode")  # what these give was written by others


def files() -> list[Path]:
    return sorted(path for room in ("beam_jobs", "model", "schemas") for path in (ROOT / room).rglob("*.py"))


def name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def spoken(tree: ast.AST) -> Iterator[ast.expr]:
    """What is put into messages and log lines: of f-strings the parts, else the arguments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and name_of(node) in SPOKEN:
            for argument in node.args:
                parts = [part.value for part in ast.walk(argument) if isinstance(part, ast.FormattedValue)]
                yield from parts or [argument]


def caught(tree: ast.AST) -> Iterator[ast.expr]:
    """Errors of other programs that a log line is given as they are."""
    for handler in ast.walk(tree):
        if (
            isinstance(handler, ast.ExceptHandler)
            and handler.name
            and ast.unparse(handler.type or handler) != "UserError"
        ):
            for node in ast.walk(handler):
                if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("_LOGGER."):
                    yield from (each for each in node.args if isinstance(each, ast.Name) and each.id == handler.name)


def foreign(part: ast.expr) -> bool:
    if isinstance(part, ast.Call):
        name = name_of(part)
        return name in FOREIGN or (name not in TELLING and any(map(foreign, part.args)))
    return isinstance(part, ast.Subscript) and foreign(part.value)


def test_values_and_what_others_say_pass_through_the_one_way() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{part.lineno}: {ast.unparse(part)}"
        for path in files()
        for text in [path.read_text()]
        if "Error(" in text or "_LOGGER." in text or "say(" in text
        for tree in [ast.parse(text)]
        for part in [*filter(foreign, spoken(tree)), *caught(tree)]
    ]
    assert not found, "\n".join(found)
