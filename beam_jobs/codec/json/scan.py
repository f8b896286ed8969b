"""Joins JSON objects, one a row, into the lines that pyarrow's JSON reader takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from beam_jobs.codec.avro.bytes import is_utf8
from beam_jobs.jit import compiled

_QUOTE, _BACKSLASH, _SPACE = ord('"'), ord("\\"), ord(" ")
_OPEN, _CLOSE, _OPEN_LIST, _CLOSE_LIST = ord("{"), ord("}"), ord("["), ord("]")
_N, _I = ord("N"), ord("I")  # NaN, Infinity: not JSON, but pyarrow reads them


@compiled
def join_objects(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    out: NDArray[np.uint8],
    ends: NDArray[np.int64],
    plain: NDArray[np.bool_],
    bom: bool,
) -> int:
    """Copies the rows that are one whole object each to ``out``, a line a row; returns the bytes written.

    Newlines outside strings become spaces. A row is ``plain`` when it is UTF-8, its brackets balance and end with the
    row, and no string has a raw control character: then the reader's objects are our rows, whatever else is in them.
    The others (for a closer look by ``rows.py``) leave nothing in ``out``.

    Args:
      data, offsets: the n values, offsets int64 [n + 1].
      out: at least as long as data and n.
      ends: int64 [n], filled: where each row's line ends in ``out``.
      plain: bool [n], filled.
      bom: whether a row may begin with a byte order mark, which is left out.
    """
    pos = np.int64(0)
    for row in range(len(plain)):
        begin = pos
        depth = 0
        in_string = False
        escaped = False
        done = False
        first, last = offsets[row], offsets[row + 1]
        if bom and last - first >= 3 and data[first] == 0xEF and data[first + 1] == 0xBB and data[first + 2] == 0xBF:
            first += 3
        fine = is_utf8(data, first, last - first)
        if fine:
            for i in range(first, last):
                char = data[i]
                if in_string:
                    if escaped:
                        escaped = False
                    elif char == _BACKSLASH:
                        escaped = True
                    elif char == _QUOTE:
                        in_string = False
                    if char < _SPACE:
                        fine = False
                        break
                elif char <= _SPACE:
                    if char not in (9, 10, 13, _SPACE):
                        fine = False
                        break
                    char = np.uint8(_SPACE)
                elif done:
                    fine = False
                    break
                elif char in (_OPEN, _OPEN_LIST):
                    if depth == 0 and char == _OPEN_LIST:
                        fine = False
                        break
                    depth += 1
                elif char in (_CLOSE, _CLOSE_LIST):
                    depth -= 1
                    if depth < 0:
                        fine = False
                        break
                    done = depth == 0
                elif depth == 0 or char in (_N, _I):
                    fine = False
                    break
                elif char == _QUOTE:
                    in_string = True
                out[pos] = char
                pos += 1
        plain[row] = fine and done
        if plain[row]:
            out[pos] = 10
            pos += 1
        else:
            pos = begin
        ends[row] = pos
    return int(pos)
