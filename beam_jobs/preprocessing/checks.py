"""Values no sensor can have: checked before the query, from the limits in the schema.

A column is clean if its smallest and its largest value are inside the limits, so a clean block costs two reductions
a column. Rows are looked at only in columns that are not clean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs.errors import PreprocessReason, Reason, RowErrors, shown
from beam_jobs.preprocessing.fields import Field

OUT_OF_RANGE: PreprocessReason = "out_of_range"
NOT_FINITE: PreprocessReason = "not_finite"
NULL_FEATURE: PreprocessReason = "null_feature"
NULL_KEY: PreprocessReason = "null_key"
NULL_EVENT_TIME: PreprocessReason = "null_event_time"

_YEAR_1 = -62_135_596_800  # seconds from 1970-01-01
_YEAR_10000 = 253_402_300_800


@dataclass(frozen=True)
class _Finding:
    rows: NDArray[np.int64]  # ascending
    reasons: Sequence[Reason]
    errors: Sequence[str]


def check_ranges(events: pa.RecordBatch, fields: Sequence[Field]) -> RowErrors:
    """Rows with a value that is not finite or outside its field's limits; nulls pass.

    Args:
      events: the columns of ``fields``, at least one row.
      fields: fields to check, in the order in which the errors of a row with several bad values are listed.
    """
    findings = []
    for field in fields:
        array = events.column(field.name)
        if array.null_count == len(array):
            continue
        low, high = _limits(field, array.type)
        known = array if array.null_count == 0 else array.drop_null()
        values = _values(known)
        # NaN is the smallest and the largest value of its column, and inside no limits.
        if not (values.min() >= low and values.max() <= high):
            findings.append(_out_of_range(field, array, low, high))
    return _merge(findings)


def check_features(rows: pa.RecordBatch, features: Sequence[str]) -> RowErrors:
    """Rows with a feature (a float32 column) that is null or not finite."""
    findings = []
    for name in features:
        array = rows.column(name)
        if array.null_count:
            null_rows = np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))
            error = f"{name} is null; give it a default with COALESCE, or filter such rows with WHERE"
            findings.append(_Finding(null_rows, [NULL_FEATURE] * len(null_rows), [error] * len(null_rows)))
            array = array.fill_null(0)
        values = array.to_numpy()
        if not (math.isfinite(values.min()) and math.isfinite(values.max())):
            bad = np.flatnonzero(~np.isfinite(values))
            errors = [f"{name} is {_number(values[row])} after the query, expected a finite number" for row in bad]
            findings.append(_Finding(bad, [NOT_FINITE] * len(bad), errors))
    return _merge(findings)


def check_present(events: pa.RecordBatch, key: str, event_time: str) -> RowErrors:
    """Rows without a key or an event time."""
    findings = []
    for name, reason in ((key, NULL_KEY), (event_time, NULL_EVENT_TIME)):
        array = events.column(name)
        if array.null_count:
            rows = np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))
            findings.append(_Finding(rows, [reason] * len(rows), [f"{name} is null, expected a value"] * len(rows)))
    return _merge(findings)


def merge(*parts: RowErrors) -> RowErrors:
    """The errors of several checks of the same rows: of each row the first check's reason and all sentences."""
    found = [part for part in parts if len(part)]
    if len(found) <= 1:
        return found[0] if found else RowErrors.none()
    return _merge([_Finding(part.rows, part.reasons, part.errors) for part in found])


def _merge(findings: Sequence[_Finding]) -> RowErrors:
    if not findings:
        return RowErrors.none()
    reasons: dict[int, Reason] = {}
    errors: dict[int, str] = {}
    for finding in findings:
        for row, reason, error in zip(finding.rows.tolist(), finding.reasons, finding.errors, strict=True):
            reasons.setdefault(row, reason)
            errors[row] = f"{errors[row]}; {error}" if row in errors else error
    rows = sorted(reasons)
    return RowErrors(np.array(rows, np.int64), [reasons[row] for row in rows], [errors[row] for row in rows])


def _out_of_range(field: Field, array: pa.Array, low: float, high: float) -> _Finding:
    nulls = array.is_null().to_numpy(zero_copy_only=False)
    values = _values(array)
    bad = np.flatnonzero(~((values >= low) & (values <= high)) & ~nulls)
    reasons = [OUT_OF_RANGE if math.isfinite(values[row]) else NOT_FINITE for row in bad]
    return _Finding(bad, reasons, [_sentence(field, values[row], array.type) for row in bad])


def _values(array: pa.Array) -> NDArray[Any]:
    """Numbers as they are, timestamps as integers; nulls as anything."""
    if pa.types.is_timestamp(array.type):
        array = array.view(pa.int64())
    elif pa.types.is_decimal(array.type):
        array = array.cast(pa.float64())
    return array.to_numpy() if array.null_count == 0 else array.fill_null(0).to_numpy()


def _limits(field: Field, type_: pa.DataType) -> tuple[float, float]:
    if field.kind == "timestamp":
        # The years 1 to 9999: calendars of other tools, Python's too, end there.
        per_second = {"ms": 1_000, "us": 1_000_000}[type_.unit]
        return _YEAR_1 * per_second, _YEAR_10000 * per_second - 1
    if pa.types.is_integer(type_):  # as integers: a double does not tell 2**53 from the next
        return (
            -math.inf if field.minimum is None else math.ceil(field.minimum),
            math.inf if field.maximum is None else math.floor(field.maximum),
        )
    # NumPy compares in the column's own type, in which a limit beyond its range is infinity.
    largest = math.inf
    if field.floating:
        largest = float(np.finfo(np.float32 if pa.types.is_float32(type_) else np.float64).max)
    return (
        -largest if field.minimum is None else max(field.minimum, -largest),
        largest if field.maximum is None else min(field.maximum, largest),
    )


def _sentence(field: Field, value: float, type_: pa.DataType) -> str:
    low, high = field.minimum, field.maximum
    if low is not None and high is not None:
        expected = f"{_number(low)} to {_number(high)}"
    elif low is not None:
        expected = f"at least {_number(low)}"
    elif high is not None:
        expected = f"at most {_number(high)}"
    else:
        expected = "a finite number"
    if field.kind == "timestamp":
        expected, unit = "a time in the years 1 to 9999", f" {type_.unit} after 1970"
    else:
        unit = f" {field.unit}" if field.unit and math.isfinite(value) else ""
    found = shown(value, field.pii, lambda number: f"{_number(number)}{unit}")
    return f"{field.name} is {found}, expected {expected}"


def _number(value: float) -> str:
    if isinstance(value, int | np.integer):
        return str(int(value))
    number = float(value)
    if not math.isfinite(number):
        return "NaN" if math.isnan(number) else ("infinity" if number > 0 else "-infinity")
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)
