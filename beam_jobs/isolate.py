"""Finds the rows of a block that a step can't handle, and tells them from a step that can't handle any."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from beam_jobs.block import Block, take
from beam_jobs.errors import BadRowsError, Reason, RetryError, RowErrors, UserError, one_line, shown

T = TypeVar("T")
Rows = NDArray[np.int64]  # of a block, ascending

PROBES = 16  # rows of a block that are tried one by one, as long as none is known to go through

_NO_ROW = (UserError, RetryError, MemoryError, OSError)  # are about no row; OSError is a connection or a time-out, too


@dataclass(frozen=True)
class Part(Generic[T]):
    """Rows of a block that went through."""

    rows: Rows
    block: Block  # these rows
    result: T


class Isolate(Generic[T]):
    """Applies a function to blocks; where it raises, to parts of a block, down to the rows that make it raise.

    A row is blamed only if it fails alone, and right after it one goes through that is known to be good. So what
    befalls every row (a broken model, a remote one that is away) is raised after a few calls, however many rows there
    are; each bad row among n takes about 2 log2(n) calls, and rows that ``BadRowsError`` names take one for all.

    Args:
      function: is called with some rows of a block, in their order.
      known_good: a row that ``function`` takes, from anywhere. None: the first one that goes through is remembered.
        Until there is one, PROBES rows of a block that fails are tried: if all fail, the rows of a block of no more are
        blamed, and those of a larger one are not.
      personal: values of the rows are personal data. What libraries raise may quote them: of such an error the type is
        told, its text to nobody.
    """

    def __init__(self, function: Callable[[Block], T], known_good: Block | None = None, personal: bool = False) -> None:
        self._function = function
        self._known_good = known_good
        self._personal = personal

    def __call__(self, block: Block) -> tuple[list[Part[T]], RowErrors]:
        """The parts of a block that went through, and the rows that did not, with the reason "unexpected_error".

        Raises:
          UserError: as the function does; it is about the job, not about a row.
          RetryError, MemoryError, OSError: no row is to blame; the runner tries the block again, or stops the job.
        """
        parts: list[Part[T]] = []
        blamed: dict[int, str] = {}
        waiting = [np.arange(block.num_rows)]
        while waiting:
            rows = waiting.pop()
            part = block if len(rows) == block.num_rows else take(block, rows)
            try:
                parts.append(Part(rows, part, self._function(part)))
            except _NO_ROW:
                raise
            except BadRowsError as error:
                if len(error.mask) != len(rows):
                    raise ValueError(f"BadRowsError names {len(error.mask)} rows of {len(rows)}") from error
                blamed |= dict.fromkeys(rows[error.mask].tolist(), one_line(error, 500))
                if not error.mask.all():
                    waiting.append(rows[~error.mask])
            except Exception as error:  # whatever a bug or a bad row raises: the neighbours go on
                self._check(part, error, whole=part is block)
                if len(rows) == 1:
                    blamed[int(rows[0])] = self._text(error)
                else:
                    waiting += reversed(np.array_split(rows, len(rows) if self._known_good is None else 2))
            else:
                if self._known_good is None and len(rows):
                    self._known_good = take(part, [0])
        bad = sorted(blamed)
        reasons: list[Reason] = ["unexpected_error"] * len(bad)
        return parts, RowErrors(np.array(bad, np.int64), reasons, [blamed[row] for row in bad])

    def _check(self, part: Block, error: Exception, whole: bool) -> None:
        """Of a whole block, and of each row that is about to be blamed: raises RetryError if no row goes through."""
        if not part.num_rows:
            raise error
        if self._known_good is None:
            self._known_good = next(self._good(part), None) if part.num_rows > 1 else None
            if self._known_good is None and part.num_rows > PROBES:
                raise RetryError(
                    f"{PROBES} rows were tried one by one and all fail: {self._text(error)}"
                ) from self._cause(error)
        elif whole or part.num_rows == 1:
            try:
                self._function(self._known_good)
            except _NO_ROW:
                raise
            except Exception as again:
                raise RetryError(f"a row that went through before fails now: {self._text(again)}") from self._cause(
                    error
                )

    def _text(self, error: Exception) -> str:
        return f"{type(error).__name__}: {shown(error, self._personal, str, 500)}"

    def _cause(self, error: Exception) -> Exception | None:
        return None if self._personal else error  # its text would be in the stack trace

    def _good(self, part: Block) -> Iterator[Block]:
        """Rows that go through, of some from all over the part."""
        for row in np.unique(np.linspace(0, part.num_rows - 1, min(PROBES, part.num_rows)).astype(np.int64)):
            alone = take(part, [row])
            try:
                self._function(alone)
            except _NO_ROW:
                raise
            except Exception:  # noqa: S112 - it may be bad
                continue
            yield alone
