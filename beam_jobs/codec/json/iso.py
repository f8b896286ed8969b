"""Times of ISO 8601 as the numbers of Avro's logical types.

Taken is what RFC 3339 has and its neighbours: ``2026-01-01T12:00:00.123Z``, an offset ``+01:00``, ``+0100`` or ``+01``,
seconds left out, a space for the T, a comma for the point. A fraction finer than the unit is cut off, towards the past,
as Avro's timestamps of a finer unit are. A timestamp needs its Z or offset, for without one it is no moment; a local
timestamp, a date and a time of day have none. Not taken, but refused: a date alone for a timestamp, 24:00, second 60,
weeks and ordinal days, years outside 0001 to 9999.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from beam_jobs.jit import Int, compiled

INSTANT, LOCAL, DATE, TIME = 5, 6, 7, 8  # what a text is to be
NOT_ISO = -(1 << 63)  # no text is that number
_MAX_SECONDS = (1 << 63) // 10**9 - 1  # of nanoseconds in 64 bits


@compiled
def iso_value(data: NDArray[np.uint8], begin: Int, end: Int, kind: Int, digits: Int) -> Int:
    """The number of data[begin:end]: days of a DATE, else ``digits`` digits of a second; NOT_ISO if it is none."""
    at, days = begin, np.int64(0)
    if kind != TIME:
        days = _days(data, at, end)
        if days == NOT_ISO:
            return np.int64(NOT_ISO)
        at += 10
        if kind == DATE:
            return days if at == end else np.int64(NOT_ISO)
        if at >= end or data[at] not in (84, 116, 32):  # T, t, space
            return np.int64(NOT_ISO)
        at += 1
    second: Int = np.int64(0)
    hour, minute = _two(data, at, end), _two(data, at + 3, end)
    if hour < 0 or hour > 23 or minute < 0 or minute > 59 or data[at + 2] != 58:
        return np.int64(NOT_ISO)
    at += 5
    part, left = np.int64(0), np.int64(digits)
    if at < end and data[at] == 58:  # :
        second = _two(data, at + 1, end)
        if second < 0 or second > 59:
            return np.int64(NOT_ISO)
        at += 3
        if at < end and (data[at] == 46 or data[at] == 44):  # . ,
            at += 1
            first = at
            while at < end and 48 <= data[at] <= 57:
                if left > 0:
                    part = part * 10 + np.int64(data[at] - 48)
                    left -= 1
                at += 1
            if at == first:
                return np.int64(NOT_ISO)
    for _ in range(left):
        part *= 10
    seconds = days * 86_400 + hour * 3600 + minute * 60 + second
    if kind == INSTANT:
        offset = _offset(data, at, end)
        if offset == NOT_ISO:
            return np.int64(NOT_ISO)
        seconds -= offset
    elif at != end:
        return np.int64(NOT_ISO)
    if digits == 9 and abs(seconds) > _MAX_SECONDS:
        return np.int64(NOT_ISO)
    for _ in range(digits):
        seconds *= 10
    return seconds + part


@compiled
def _two(data: NDArray[np.uint8], at: Int, end: Int) -> Int:
    """The number of two digits, -1 if they are none."""
    if at + 2 > end or not (48 <= data[at] <= 57 and 48 <= data[at + 1] <= 57):
        return np.int64(-1)
    return np.int64(data[at] - 48) * 10 + np.int64(data[at + 1] - 48)


@compiled
def _days(data: NDArray[np.uint8], at: Int, end: Int) -> Int:
    """Days since 1970-01-01 of YYYY-MM-DD; NOT_ISO if it is none."""
    if at + 10 > end or data[at + 4] != 45 or data[at + 7] != 45:
        return np.int64(NOT_ISO)
    century, rest = _two(data, at, end), _two(data, at + 2, end)
    month, day = _two(data, at + 5, end), _two(data, at + 8, end)
    year = century * 100 + rest
    if century < 0 or rest < 0 or year == 0 or month < 1 or month > 12 or day < 1:
        return np.int64(NOT_ISO)
    longest = 31
    if month == 2:
        longest = 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    elif month in (4, 6, 9, 11):
        longest = 30
    if day > longest:
        return np.int64(NOT_ISO)
    shifted = year - 1 if month <= 2 else year  # years that begin in March have their leap day last
    era, of_era = shifted // 400, shifted % 400
    of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


@compiled
def _offset(data: NDArray[np.uint8], at: Int, end: Int) -> Int:
    """Seconds of Z, +HH, +HHMM or +HH:MM, up to the end; NOT_ISO if it is none of them."""
    if at + 1 == end and (data[at] == 90 or data[at] == 122):  # Z z
        return np.int64(0)
    if at >= end or (data[at] != 43 and data[at] != 45):  # + -
        return np.int64(NOT_ISO)
    hours, minutes, size = _two(data, at + 1, end), np.int64(0), end - at
    if size == 6 and data[at + 3] == 58:
        minutes = _two(data, at + 4, end)
    elif size == 5:
        minutes = _two(data, at + 3, end)
    elif size != 3:
        return np.int64(NOT_ISO)
    if hours < 0 or hours > 23 or minutes < 0 or minutes > 59:
        return np.int64(NOT_ISO)
    seconds = hours * 3600 + minutes * 60
    return -seconds if data[at] == 45 else seconds
