"""From the text of the SQL to its syntax tree: sqlglot, with its tokens of numbers mended and with room to nest."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any, ClassVar, NoReturn, TypeVar

import sqlglot
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import ParseError, SqlglotError
from sqlglot.tokenizer_core import TokenType

from beam_jobs.errors import UserError, one_line
from beam_jobs.preprocessing.query.intervals import from_text

DIALECT = "duckdb"
T = TypeVar("T")

_CALLS = 150_000  # of Python inside one another: some 6,000 brackets
_STACK = 64 << 20  # bytes; a quarter holds what _CALLS allows
_SIMPLE_INTERVAL = re.compile(r"\s*-?\d+(\.\d+)?\s*[A-Za-z]*\s*")
_EXPONENT = re.compile(r"[\d_.]+[eE][\d_]+(?=[+-])")  # of 1e3-1, which sqlglot takes for one number


class _Parser(DuckDB.Parser):  # type: ignore[valid-type, misc]
    """DuckDB's, but for the names that stand for functions of our own here."""

    FUNCTIONS: ClassVar = {
        name: made for name, made in DuckDB.Parser.FUNCTIONS.items() if name not in ("TRUNCATE", "ENCRYPT")
    }


def with_room(work: Callable[[], T], source: str) -> T:
    """What ``work`` returns, which may nest deeper than Python's 1,000 calls: long sums, CASE in CASE, many brackets.

    Raises:
      UserError: it nests deeper still.
    """
    result: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as error:  # raised again by the caller
            raised.append(error)

    calls, stack = sys.getrecursionlimit(), threading.stack_size(_STACK)
    try:
        sys.setrecursionlimit(max(calls, _CALLS))
        thread = threading.Thread(target=run, name="compile SQL")
        thread.start()
        thread.join()
    finally:
        sys.setrecursionlimit(calls)
        threading.stack_size(stack)
    if raised and isinstance(raised[0], RecursionError):
        raise UserError(f"{source}: an expression is nested too deep; divide it among several features") from None
    if raised:
        raise raised[0]
    return result[0]


def parse(sql: str, source: str, form: str, into: type[Any] | None = None) -> Any:
    """The syntax tree of the one statement, or ``into``, that the SQL is; ``form`` says in an error what it may be.

    Raises:
      UserError: one line with the place in the SQL.
    """
    parser = _Parser(dialect=sqlglot.Dialect.get_or_raise(DIALECT))
    try:
        found = _tokens(sql)
        trees = parser.parse(found, sql) if into is None else parser.parse_into(into, found, sql)
        statements = [tree for tree in trees if tree is not None]
    except ParseError as error:
        _syntax_error(source, error, form)
    except SqlglotError as error:
        raise UserError(f"{source}: {one_line(error)}; is a quote left open?") from error
    if len(statements) != 1:
        raise UserError(f"{source}: has {len(statements)} statements; {form}")
    return statements[0]


def _tokens(sql: str) -> list[Any]:
    """The tokens of the SQL, each with its place in it."""
    dialect = sqlglot.Dialect.get_or_raise(DIALECT)
    done: list[Any] = []
    found = dialect.tokenize(sql)
    at = 0
    while at < len(found):
        token = found[at]
        at += 1
        glued = token.token_type == TokenType.NUMBER and _EXPONENT.match(sql, token.start, token.end + 1)
        if glued:
            # Spaces in place of what was read keep the places of the rest.
            head, rest = sql[: glued.end()], re.sub(r"[^\n]", " ", sql[: glued.end()]) + sql[glued.end() :]
            done += found[: at - 1] + dialect.tokenize(re.sub(r"[^\n]", " ", head[: token.start]) + head[token.start :])
            found, at = dialect.tokenize(rest), 0
    return _with_intervals(done + found)


def _with_intervals(found: list[Any]) -> list[Any]:
    """Of INTERVAL '1 day 02:00:00' sqlglot would see the day alone: such texts as their microseconds."""
    for before, token in pairwise(found):
        named = before.token_type == TokenType.INTERVAL and token.token_type == TokenType.STRING
        if named and not _SIMPLE_INTERVAL.fullmatch(token.text):
            length = from_text(token.text)
            token.text = "of no fixed length" if length is None else f"{length} microsecond"
    return found


def _syntax_error(source: str, error: ParseError, form: str) -> NoReturn:
    detail = error.errors[0] if error.errors else {}
    highlight = str(detail.get("highlight") or "")
    where = source
    if detail.get("line"):
        # sqlglot gives the column of the token's last character.
        where = f"{source} line {detail['line']}, column {max(1, int(detail['col'] or 1) - len(highlight) + 1)}"
    before = " ".join(str(detail.get("start_context") or "").split())[-40:]
    raise UserError(f"{where}: the SQL can't be parsed near `{highlight}` (after `{before}`); {form}") from error
