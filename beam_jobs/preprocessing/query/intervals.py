"""How long an interval is that is written as a text, such as '1 hour 30 minutes'."""

from __future__ import annotations

import re
from fractions import Fraction

SECOND = 1_000_000
UNITS = {
    "MICROSECOND": 1,
    "MILLISECOND": 1000,
    "SECOND": SECOND,
    "MINUTE": 60 * SECOND,
    "HOUR": 3600 * SECOND,
    "DAY": 86_400 * SECOND,
    "WEEK": 7 * 86_400 * SECOND,
}
_ALIASES = {
    "us": "MICROSECOND",
    "usec": "MICROSECOND",
    "ms": "MILLISECOND",
    "msec": "MILLISECOND",
    "s": "SECOND",
    "sec": "SECOND",
    "m": "MINUTE",
    "min": "MINUTE",
    "h": "HOUR",
    "hr": "HOUR",
    "d": "DAY",
    "w": "WEEK",
}
_PART = re.compile(r"\s*(-?)(\d+(?:\.\d+)?)\s*([a-z]+)\s*")
_CLOCK = re.compile(r"\s*(-?)(\d{1,4}):(\d\d)(?::(\d\d(?:\.\d{1,6})?))?\s*")


def from_text(text: str) -> int | None:
    """Microseconds, as DuckDB reads it; None: it is no interval, or has months and years, which vary."""
    text, at, total = text.lower(), 0, Fraction(0)
    while at < len(text):
        if (part := _PART.match(text, at)) is not None and (factor := unit_of(part[3])) is not None:
            total += Fraction(part[1] + part[2]) * factor
        elif (part := _CLOCK.fullmatch(text, at)) is not None and int(part[3]) < 60 and Fraction(part[4] or "0") < 60:
            size = (int(part[2]) * 3600 + int(part[3]) * 60 + Fraction(part[4] or "0")) * SECOND
            total += -size if part[1] else size
        else:
            return None
        at = part.end()
    return int(total) if text.strip() and total.denominator == 1 else None


def unit_of(name: str) -> int | None:
    """Microseconds of a unit, by any of its names."""
    name = name.lower()
    return UNITS.get(name.upper().removesuffix("S")) or UNITS.get(
        _ALIASES.get(name) or _ALIASES.get(name.removesuffix("s"), "")
    )


def to_text(micros: int) -> str:
    """An interval, as short as it can be said exactly: "1 d 6 h", "90 s" is "1 min 30 s"."""
    parts = []
    for name, size in (("d", UNITS["DAY"]), ("h", UNITS["HOUR"]), ("min", UNITS["MINUTE"])):
        if micros >= size:
            parts.append(f"{micros // size} {name}")
            micros %= size
    if micros or not parts:
        parts.append(f"{micros / SECOND:.6f}".rstrip("0").rstrip(".") + " s")
    return " ".join(parts)
