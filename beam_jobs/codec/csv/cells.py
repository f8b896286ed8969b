"""Cells of a CSV file, columns at a time, as the type of their field; what does not fit is told by row."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from beam_jobs.codec.columns import PER_SECOND
from beam_jobs.codec.csv.dialect import EPOCHS, Dialect
from beam_jobs.codec.schema import INTEGERS, AvroType, arrow_type

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "<NA>")  # of all but texts, where only "" is
_TRUE, _FALSE = ("true", "t", "yes", "1"), ("false", "f", "no", "0")
_WHOLE = r"^[+-]?\d+$"
_ISO = (
    r"^(\d{4})[-/](\d{1,2})(?:[-/](\d{1,2}))?"
    r"(?:[T ](\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?)?"
    r"\s*(Z|z|[+-]\d{2}(?::?\d{2})?)?$"
)
_LARGEST_EXACT = 2.0**53  # up to here a double holds every whole number


class Cells(NamedTuple):
    """A column of n cells; a cell that is missing is null and fits."""

    values: pa.Array  # in the field's Arrow type; null where a cell does not fit
    bad: NDArray[np.bool_]  # [n]: cells that do not fit


def convert(texts: pa.Array, kind: AvroType, dialect: Dialect) -> Cells:
    """Cells (string [n], null where nothing stands) as an Avro type that is no union.

    Raises:
      ValueError: CSV has no form for the type.
    """
    n = len(texts)
    if kind.kind == "string":
        return Cells(texts, np.zeros(n, np.bool_))
    if kind.kind == "bytes" and kind.logical is None:
        return Cells(texts.cast(pa.binary()), np.zeros(n, np.bool_))
    trimmed = pc.utf8_trim_whitespace(texts)
    given = pc.if_else(pc.is_in(trimmed, pa.array(MISSING)), pa.scalar(None, pa.string()), trimmed)
    made = _typed(given, kind, dialect)
    return Cells(made, pc.and_(pc.is_valid(given), pc.is_null(made)).to_numpy(zero_copy_only=False))


def _typed(given: pa.Array, kind: AvroType, dialect: Dialect) -> pa.Array:
    target = arrow_type(kind, "")[0]
    if kind.logical == "decimal":
        return _decimals(_points(given, dialect), kind, target)
    if pa.types.is_timestamp(target) or kind.logical == "date":
        return _times(given, target, dialect)
    if kind.logical is not None and kind.kind != "string":
        raise ValueError(kind.logical)
    if kind.kind == "enum":
        symbols = pa.array(kind.symbols, pa.string())
        return pa.DictionaryArray.from_arrays(pc.index_in(given, symbols), symbols)
    if kind.kind == "boolean":
        lower = pc.utf8_lower(given)
        yes, no = pc.is_in(lower, pa.array(_TRUE)), pc.is_in(lower, pa.array(_FALSE))
        return pc.if_else(pc.or_(yes, no), yes, pa.scalar(None, pa.bool_()))
    if kind.kind in INTEGERS:
        return _integers(_points(given, dialect), *INTEGERS[kind.kind]).cast(target)
    if kind.kind in ("float", "double"):
        return _numbers(_points(given, dialect)).cast(target)
    raise ValueError(kind.kind)


def _points(given: pa.Array, dialect: Dialect) -> pa.Array:
    """Numbers with a point before decimals; with a decimal comma, a point is none of a number."""
    if dialect.decimal == ".":
        return given
    plain = pc.if_else(pc.match_substring(given, "."), pa.scalar(None, pa.string()), given)
    return pc.replace_substring(plain, ",", ".", max_replacements=1)


def _numbers(texts: pa.Array) -> pa.Array:
    return pl.Series(texts, dtype=pl.String).cast(pl.Float64, strict=False).to_arrow()


def _integers(texts: pa.Array, low: int, high: int) -> pa.Array:
    """Whole numbers, also written as 12.0 or 1e5, as dataframes with empty cells write them."""
    found = pl.Series(texts, dtype=pl.String).str.strip_prefix("+").cast(pl.Int64, strict=False).to_arrow()
    if found.null_count > texts.null_count:
        rest = pc.if_else(pc.match_substring_regex(texts, _WHOLE), pa.scalar(None, pa.string()), texts)
        numbers = _numbers(rest)
        exact = pc.and_(pc.less(pc.abs(numbers), _LARGEST_EXACT), pc.equal(pc.floor(numbers), numbers))
        found = pc.coalesce(found, pc.if_else(exact, numbers, pa.scalar(None, pa.float64())).cast(pa.int64()))
    inside = pc.and_(pc.greater_equal(found, low), pc.less_equal(found, high))
    return pc.if_else(inside, found, pa.scalar(None, pa.int64()))


def _decimals(texts: pa.Array, kind: AvroType, target: pa.DataType) -> pa.Array:
    pattern = rf"^[+-]?0*\d{{0,{kind.precision - kind.scale}}}(\.\d{{0,{kind.scale}}}0*)?$"
    fits = pc.and_(pc.match_substring_regex(texts, pattern), pc.match_substring_regex(texts, r"\d"))
    kept = pc.if_else(fits, texts, pa.scalar(None, pa.string()))
    short = pc.replace_substring_regex(kept, r"(\.\d*?)0*$", r"\1")
    return pc.replace_substring_regex(short, r"\.$", "").cast(target)


def _times(texts: pa.Array, target: pa.DataType, dialect: Dialect) -> pa.Array:
    """Moments, or days, rounded down; a time without a zone is UTC."""
    series = pl.Series(texts, dtype=pl.String)
    is_date = pa.types.is_date(target)
    if dialect.times in EPOCHS:
        found = _counted(*_split(_scaled(series, EPOCHS[dialect.times] * 1_000)), target)
    elif dialect.times is not None:
        zone = "UTC" if "%z" in dialect.times else None
        made = series.str.to_datetime(dialect.times, time_unit="us", strict=False, time_zone=zone)
        found = _counted(*_split(made.cast(pl.Int64)), target)
    else:
        most = 2**31 - 1 if is_date else (2**63 - 1) // max(1, 10**6 // PER_SECOND[target.unit])  # microseconds hold it
        whole = pc.if_else(pc.match_substring_regex(texts, _WHOLE), texts, pa.scalar(None, pa.string()))
        found = pc.coalesce(_counted(*_iso(series), target), _integers(whole, -most, most))
    return found.cast(pa.int32() if is_date else pa.int64()).cast(target)


def _counted(seconds: pl.Series, nanos: pl.Series, target: pa.DataType) -> pa.Array:
    """Moments as days or in the unit of a timestamp, int64; null where it can't hold one."""
    if pa.types.is_date(target):
        return (seconds // 86_400).to_arrow()
    per = PER_SECOND[target.unit]
    most = (2**63 - 1) // per - 1
    held = seconds.set(~seconds.is_between(-most, most).fill_null(False), None)
    return (held * per + nanos // (10**9 // per)).to_arrow()


def _split(micros: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Seconds since 1970, and nanoseconds since the last of them."""
    seconds = micros // 10**6
    return seconds, (micros - seconds * 10**6) * 1_000


def _scaled(series: pl.Series, micros: int) -> pl.Series:
    """Numbers of so many microseconds each, in microseconds."""
    most = (2**63 - 1) // micros
    whole = series.cast(pl.Int64, strict=False)
    exact = whole.set(~whole.is_between(-most, most).fill_null(False), None) * micros
    rounded = (series.cast(pl.Float64, strict=False) * micros).round().cast(pl.Int64, strict=False)
    return exact.zip_with(exact.is_not_null(), rounded)


def _iso(series: pl.Series) -> tuple[pl.Series, pl.Series]:
    """ISO 8601 and what comes near it, the year first, with any offset, as :func:`_split` gives it."""
    parts = series.str.extract_groups(_ISO).struct.unnest()
    year, month, day, hour, minute, second, fraction, zone = (parts.to_series(i) for i in range(8))
    day = day.fill_null("1")  # 2026-11 is its first moment, as a day is its own
    padded = [part.fill_null("0").str.zfill(2) for part in (month, day, hour, minute, second)]
    text = pl.select(
        pl.format("{}-{}-{}T{}:{}:{}", year, *padded),
    ).to_series()
    moments = text.str.to_datetime("%Y-%m-%dT%H:%M:%S", time_unit="us", strict=False).cast(pl.Int64)
    nanos = fraction.fill_null("0").str.pad_end(9, "0").cast(pl.Int64)
    signed = (
        zone.str.replace_all(":", "").str.to_uppercase().replace("Z", "+0000").fill_null("+0000").str.pad_end(5, "0")
    )
    away = signed.str.slice(1, 2).cast(pl.Int64) * 60 + signed.str.slice(3, 2).cast(pl.Int64)
    sign = (signed.str.slice(0, 1) == "-").cast(pl.Int64) * -2 + 1
    return moments // 10**6 - sign * away * 60, nanos
