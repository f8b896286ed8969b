"""What can go wrong: errors a user can act on, rows that cannot be handled; and how messages show what others wrote.

A message shows a value by ``shown``, and the text of another program (a broker's, a library's) by ``one_line``:

    >>> print(f"column 'speed' holds {shown('fast' + chr(27) + '[2J')}, expected double")
    column 'speed' holds 'fast\\x1b[2J', expected double
    >>> print(f"field 'vin' is {shown('WVWZZZ1JZ', personal='direct')}, expected long")
    field 'vin' is (personal: left out), expected long

This module imports neither Beam nor TensorFlow; the codec, the preprocessing and the model use it too.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

PERSONAL = "(personal: left out)"  # stands for a value of a field that is tagged pii
MAX_SHOWN = 80  # characters of a value
MAX_LISTED = 20  # names
MAX_MESSAGE = 2_000  # characters; a guard: parts that may be long are cut where the message is made


def one_line(text: object, most: int = MAX_MESSAGE) -> str:
    """What others say, for a message: one line that no terminal obeys, its first ``most`` characters.

    Control and bidirectional characters, halves of surrogate pairs and the like stand there as escapes. Addresses lose
    their credentials.
    """
    line = without_credentials(str(text))
    if not line.isprintable():
        line = " ".join(filter(None, map(str.strip, line.splitlines())))
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= most else f"{line[: most - 3]}..."


def shown(value: Any, personal: object = None, form: Callable[[Any], str] = repr, most: int = MAX_SHOWN) -> str:
    """A value as a message may show it: see ``one_line``; texts in quotes.

    Args:
      personal: the pii tag of the field it is of; anything but None and False: the value is left out.
      form: makes the text of it.
    """
    if personal:
        return PERSONAL
    if type(value) in (str, bytes) and len(value) > 2 * most:  # no megabytes are escaped to be thrown away
        value = value[: 2 * most]
    try:
        return one_line(form(value), most)
    except (RecursionError, ValueError):  # thousands of levels, or of digits
        return "a value too large to be shown"


def listed(names: Iterable[object]) -> str:
    """Names for a message, the first of many."""
    found = [one_line(name, MAX_SHOWN) for name in names]
    more = f" and {len(found) - MAX_LISTED:,} more" if len(found) > MAX_LISTED else ""
    return ", ".join(found[:MAX_LISTED]) + more


class UserError(Exception):
    """An error whose one-line message names the field or address, the value and the remedy.

    Commands print the message alone and exit with status 2 (a stack trace only with ``--verbose``). Whatever address
    stands in it, credentials do not.
    """

    def __init__(self, message: object) -> None:
        line = one_line(message, sys.maxsize)
        if len(line) > MAX_MESSAGE:
            line = f"{line[: MAX_MESSAGE - 505]} ... {line[-500:]}"  # the remedy stands at the end
        super().__init__(line)


class UnreachableError(UserError):
    """No answer, or what is needed to ask is not on this machine: another machine, or a later try, may have it.

    Whoever answers and refuses (credentials, rights, no such topic) is a plain ``UserError``.
    """


class RetryError(Exception):
    """What failed may go well on another try, or on another worker: out of memory, a remote model that is unavailable.

    No record is to blame: none becomes a dead letter, and the runner tries the whole bundle again, or stops the job.
    """


class BadRowsError(Exception):
    """Some rows of a block can't be handled; the others could be, and are tried again without them."""

    def __init__(self, mask: NDArray[np.bool_], message: str) -> None:
        """``mask``: bool [n], the bad ones of all rows, at least one; ``message``: a sentence for a person."""
        if not mask.any():
            raise ValueError("BadRowsError: no row is bad")
        super().__init__(message)
        self.mask = mask


# scheme://user:password@, scheme://token@ and user:password@host; of gs://bucket@alias the bucket is no token. What
# looks like a port is one: an @ may stand in a path.
_CREDENTIALS = re.compile(
    r"""(?P<scheme>\w+:/{1,2})[^\s/@:'",]*:(?!\d{1,5}[/,])[^\s'"]*@ | (?P<other>(?<!\w)(?!gs:)\w+://)[^\s/@:'"]+@
      | (?<![^\s'"(=/,])(?!(?:env|file|secret):)[\w.+-]+:(?!/|\d{1,5}[/,])[^\s@'"]+@(?=[\w.\[-]+(?:[:/]|$))""",
    re.VERBOSE,
)


def without_credentials(text: str) -> str:
    """A text with … where an address in it has a user, a password or a token."""
    return _CREDENTIALS.sub(lambda found: f"{found['scheme'] or found['other'] or ''}…@", text) if "@" in text else text


DecodeReason = Literal[
    "null_value",
    "empty_value",
    "bad_magic_byte",
    "truncated_header",
    "unknown_schema_id",
    "unresolvable",
    "schema_too_large",
    "truncated",
    "trailing_bytes",
    "invalid_utf8",
    "invalid_value",
    "invalid_json",
    "missing_field",
    "unknown_field",
    "wrong_type",
]
PreprocessReason = Literal["out_of_range", "not_finite", "null_feature", "null_key", "null_event_time"]
ScoreReason = Literal["score_not_finite", "key_too_large", "attributes_too_large"]
AnyReason = Literal["unexpected_error"]
WebhookReason = Literal["webhook_undelivered"]
Reason = DecodeReason | PreprocessReason | ScoreReason | AnyReason
"""Why a record is a dead letter: stable names for machines."""
UNDELIVERED_ALERT: WebhookReason = "webhook_undelivered"
"""Why an alert is one: it holds no record of the input, which a redrive would put back."""

REASONS: Mapping[str, tuple[str, ...]] = {
    "decode": get_args(DecodeReason),
    "preprocess": get_args(PreprocessReason),
    "score": get_args(ScoreReason),
    "webhook": get_args(WebhookReason),
    "any": get_args(AnyReason),
}  # by the step that gives them


@dataclass(frozen=True)
class RowErrors:
    """Rows of one block that could not be handled; the other rows go on.

    The three sequences have one entry per bad row, in ascending row order.
    """

    rows: NDArray[np.int64]  # indexes into the block that was handed in, ascending, unique
    reasons: Sequence[Reason]
    errors: Sequence[str]  # one sentence for a person: the field, the value, what was expected; made one line

    def __post_init__(self) -> None:
        object.__setattr__(self, "errors", list(map(one_line, self.errors)))
        if not len(self.rows) == len(self.reasons) == len(self.errors):
            raise ValueError(
                f"RowErrors: {len(self.rows)} rows, {len(self.reasons)} reasons, {len(self.errors)} errors"
            )

    def __len__(self) -> int:
        return len(self.rows)

    @staticmethod
    def none() -> RowErrors:
        """No bad row."""
        return RowErrors(np.empty(0, np.int64), (), ())

    def good_rows(self, num_rows: int) -> NDArray[np.int64]:
        """Indexes of the rows that are not in error, ascending, int64 [num_rows - len(self)]."""
        keep = np.ones(num_rows, np.bool_)
        keep[self.rows] = False
        return np.flatnonzero(keep)
