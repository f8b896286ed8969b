"""Times in ISO 8601, ``1.0`` for a long and numbers for decimals, made what the block reader takes.

Works on the lines of ``scan.py``, all rows of a block in one pass of compiled code: ``"2026-01-01T00:00:00Z"`` becomes
``1767225600000`` where the schema has a timestamp, ``1.0`` becomes ``1`` where it has a long, ``12.5`` becomes
``"12.5"`` where it has a decimal. Whatever else is there stays as it is, for the reader to refuse, or ``rows.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from beam_jobs.codec.json.iso import DATE, INSTANT, LOCAL, NOT_ISO, TIME, iso_value
from beam_jobs.codec.schema import AvroField, AvroType, walk_names
from beam_jobs.jit import Int, compiled

PLAIN, RECORD, LIST, WHOLE, DECIMAL = 0, 1, 2, 3, 4  # kinds of nodes, beside those of iso.py
_KIND, _A, _B = range(3)  # record: first key, after its last; list: node of the items; time: digits of a second
_AT, _SIZE, _NODE = range(3)  # of a key: its bytes, the node of its value
GROWTH = 5  # "1e18" becomes 19 digits
MAX_DEPTH = 64  # of what is looked into
MAX_DIGITS = 19
_DIGITS = {"millis": 3, "micros": 6, "nanos": 9}

_QUOTE, _BACKSLASH, _COMMA, _MINUS, _PLUS, _POINT = (ord(c) for c in '"\\,-+.')
_OPEN, _CLOSE, _OPEN_LIST, _CLOSE_LIST, _COLON, _SPACE = (ord(c) for c in "{}[]: ")
_ZERO, _NINE, _E, _LOWER_E = (ord(c) for c in "09Ee")


@dataclass(frozen=True)
class Plan:
    """Where in a record something may have to be rewritten."""

    nodes: NDArray[np.int64]  # [n, 3], the record itself first
    keys: NDArray[np.int64]  # [k, 3], those of a record side by side
    names: NDArray[np.uint8]  # the keys' bytes

    @staticmethod
    def of(record: AvroType) -> Plan:
        """The plan of a record schema that has a fast path (so it does not contain itself)."""
        made = _Planner()
        made.add(record)
        names = np.frombuffer(b"".join(made.names) or b"\0", np.uint8)
        return Plan(np.array(made.nodes, np.int64), np.array(made.keys or [[0, 0, 0]], np.int64), names)


class _Planner:
    def __init__(self) -> None:
        self.nodes: list[list[int]] = []
        self.keys: list[list[int]] = []
        self.names: list[bytes] = []
        self._bytes = 0

    def add(self, avro: AvroType) -> int:
        """The number of a type's node."""
        plain = avro.non_null()
        assert plain is not None
        value, number = plain[0], len(self.nodes)
        self.nodes.append([PLAIN, 0, 0])
        if value.kind == "record":
            fields = [(entry, self.add(entry.type)) for entry in value.fields]
            self.nodes[number] = [RECORD, len(self.keys), len(self.keys) + self._add_keys(fields)]
        elif value.kind == "array":
            self.nodes[number] = [LIST, self.add(value.item), 0]
        else:
            self.nodes[number] = [*_leaf(value), 0]
        return number

    def _add_keys(self, fields: Sequence[tuple[AvroField, int]]) -> int:
        before = len(self.keys)
        for entry, node in fields:
            for name in walk_names(entry):
                raw = name.encode()
                self.keys.append([self._bytes, len(raw), node])
                self.names.append(raw)
                self._bytes += len(raw)
        return len(self.keys) - before


def _leaf(value: AvroType) -> tuple[int, int]:
    logical, unit = value.logical or "", (value.logical or "").rpartition("-")[2]
    if logical == "decimal":
        return DECIMAL, 0
    if value.kind not in ("int", "long"):
        return PLAIN, 0
    if logical == "date":
        return DATE, 0
    if logical.startswith("time-"):
        return TIME, _DIGITS[unit]
    if logical.startswith("timestamp-"):
        return INSTANT, _DIGITS[unit]
    if logical.startswith("local-timestamp-"):
        return LOCAL, _DIGITS[unit]
    return WHOLE, 0


@compiled
def rewrite(
    src: NDArray[np.uint8],
    ends: NDArray[np.int64],
    nodes: NDArray[np.int64],
    keys: NDArray[np.int64],
    names: NDArray[np.uint8],
    out: NDArray[np.uint8],
    out_ends: NDArray[np.int64],
) -> tuple[Int, Int]:
    """Copies lines to ``out``, with what there is to rewrite; returns (bytes written, values rewritten).

    Args:
      src, ends: lines as ``join_objects`` made them, and where each of n ends; some may be empty.
      nodes, keys, names: of a :class:`Plan`.
      out: at least ``GROWTH`` times as long as src.
      out_ends: int64 [n], filled.
    """
    pos, changed = np.int64(0), np.int64(0)
    inside = np.full(MAX_DEPTH + 1, -1, np.int64)  # by depth: the node of a record, or that of a list's items
    is_record = np.zeros(MAX_DEPTH + 1, np.bool_)
    cursor = np.zeros(MAX_DEPTH + 1, np.int64)  # by depth: the key that likely comes next
    i = np.int64(0)
    for row in range(len(ends)):
        depth, node, is_key = np.int64(0), np.int64(0), False
        while i < ends[row]:
            char = src[i]
            kind = nodes[node, _KIND] if node >= 0 else np.int64(PLAIN)
            if char == _QUOTE:
                end = i + 1
                while src[end] != _QUOTE:
                    end += 2 if src[end] == _BACKSLASH else 1
                if is_key:
                    is_key = False
                    node = np.int64(-1)
                    if depth <= MAX_DEPTH and inside[depth] >= 0:
                        first, last = nodes[inside[depth], _A], nodes[inside[depth], _B]
                        found = _find(src, i + 1, end, keys, names, first, last, cursor[depth])
                        if found >= 0:
                            node = keys[found, _NODE]
                            cursor[depth] = found + 1
                elif kind >= INSTANT:
                    value = iso_value(src, i + 1, end, kind, nodes[node, _A])
                    if value != NOT_ISO:
                        pos = _write(out, pos, value)
                        changed += 1
                        i = end + 1
                        continue
                for at in range(i, end + 1):
                    out[pos] = src[at]
                    pos += 1
                i = end + 1
                continue
            if char in (_OPEN, _OPEN_LIST):
                depth += 1
                is_key = char == _OPEN
                if depth <= MAX_DEPTH:
                    fits = kind == (RECORD if is_key else LIST)
                    inside[depth] = (node if is_key else nodes[node, _A]) if fits else np.int64(-1)
                    is_record[depth] = is_key
                    cursor[depth] = 0
                node = inside[depth] if depth <= MAX_DEPTH and not is_key else np.int64(-1)
            elif char in (_CLOSE, _CLOSE_LIST):
                depth -= 1
                node = np.int64(-1)
            elif char == _COMMA:
                if depth <= MAX_DEPTH:
                    is_key = is_record[depth]
                    node = np.int64(-1) if is_key else inside[depth]
                else:
                    node = np.int64(-1)
            elif char != _COLON and char > _SPACE:
                end = i
                while end < ends[row] and src[end] > _SPACE and src[end] not in (_COMMA, _CLOSE, _CLOSE_LIST):
                    end += 1
                fraction, exponent = _parts(src, i, end)
                if fraction >= 0 and kind == DECIMAL:
                    out[pos] = _QUOTE
                    for at in range(i, end):
                        out[pos + 1 + at - i] = src[at]
                    pos += end - i + 2
                    out[pos - 1] = _QUOTE
                    changed += 1
                    i = end
                    continue
                if fraction >= 0 and (fraction < end) and kind >= WHOLE and kind != DECIMAL:
                    size = _write_whole(src, i, fraction, exponent, end, out, pos)
                    if size > 0:
                        pos += size
                        changed += 1
                        i = end
                        continue
                for at in range(i, end):
                    out[pos] = src[at]
                    pos += 1
                i = end
                continue
            out[pos] = char
            pos += 1
            i += 1
        out_ends[row] = pos
    return pos, changed


@compiled
def _find(
    src: NDArray[np.uint8],
    begin: Int,
    end: Int,
    keys: NDArray[np.int64],
    names: NDArray[np.uint8],
    first: Int,
    last: Int,
    likely: Int,
) -> Int:
    """The key among ``first`` to ``last`` that is src[begin:end], -1 if none is; ``likely`` is tried first."""
    count = last - first
    if likely < first or likely >= last:
        likely = first
    for step in range(count):
        key = likely + step
        if key >= last:
            key -= count
        if keys[key, _SIZE] != end - begin:
            continue
        at, same = keys[key, _AT], True
        for j in range(end - begin):
            if names[at + j] != src[begin + j]:
                same = False
                break
        if same:
            return key
    return np.int64(-1)


@compiled
def _parts(src: NDArray[np.uint8], begin: Int, end: Int) -> tuple[Int, Int]:
    """Where fraction and exponent of a JSON number begin, the latter at ``end`` if there is none; (-1, -1): it is none.

    The fraction begins at its point; where there is none, where the exponent does.
    """
    at = begin + 1 if src[begin] == _MINUS else begin
    digits = at
    while at < end and _ZERO <= src[at] <= _NINE:
        at += 1
    if at == digits or (src[digits] == _ZERO and at - digits > 1):
        return np.int64(-1), np.int64(-1)
    fraction = at
    if at < end and src[at] == _POINT:
        at += 1
        while at < end and _ZERO <= src[at] <= _NINE:
            at += 1
        if at - fraction < 2:
            return np.int64(-1), np.int64(-1)
    exponent = at
    if at < end and (src[at] == _E or src[at] == _LOWER_E):
        at += 1
        if at < end and (src[at] == _PLUS or src[at] == _MINUS):
            at += 1
        digits = at
        while at < end and _ZERO <= src[at] <= _NINE:
            at += 1
        if at == digits:
            return np.int64(-1), np.int64(-1)
    if at != end:
        return np.int64(-1), np.int64(-1)
    return np.int64(fraction), np.int64(exponent)


@compiled
def _write_whole(
    src: NDArray[np.uint8], begin: Int, fraction: Int, exponent: Int, end: Int, out: NDArray[np.uint8], pos: Int
) -> Int:
    """Writes a number that is whole without point and exponent; returns the bytes, 0 where it is not or is too long."""
    power, negative = np.int64(0), False
    for at in range(exponent + 1, end):
        if src[at] == _MINUS:
            negative = True
        elif src[at] != _PLUS:
            power = min(power * 10 + (src[at] - _ZERO), np.int64(1000))
    if negative:
        power = -power
    begin_digits = begin + 1 if src[begin] == _MINUS else begin
    value, digits = np.uint64(0), np.int64(0)
    whole = fraction - begin_digits + power  # digits that stand before the point
    seen = np.int64(0)
    for at in range(begin_digits, exponent):
        if src[at] == _POINT:
            continue
        digit = src[at] - _ZERO
        if seen < whole:
            if value > 0 or digit > 0:
                digits += 1
            if digits > MAX_DIGITS:
                return np.int64(0)
            value = value * np.uint64(10) + np.uint64(digit)
        elif digit > 0:
            return np.int64(0)
        seen += 1
    if value > 0:
        for _ in range(seen, whole):
            digits += 1
            if digits > MAX_DIGITS:
                return np.int64(0)
            value *= np.uint64(10)
    size = np.int64(0)
    if src[begin] == _MINUS and value > 0:
        out[pos] = _MINUS
        size += 1
    digits = max(digits, np.int64(1))
    for step in range(digits):
        out[pos + size + digits - 1 - step] = np.uint8(value % np.uint64(10)) + _ZERO
        value //= np.uint64(10)
    return size + digits


@compiled
def _write(out: NDArray[np.uint8], pos: Int, value: Int) -> Int:
    """Writes an integer (not the least one); returns the next position."""
    if value < 0:
        out[pos] = _MINUS
        pos += 1
        value = -value
    size, rest = 1, value // 10
    while rest > 0:
        size += 1
        rest //= 10
    for step in range(size):
        out[pos + size - 1 - step] = np.uint8(_ZERO + value % 10)
        value //= 10
    return pos + size
