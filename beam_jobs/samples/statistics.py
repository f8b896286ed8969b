"""What a column of a sample holds, in figures: how many are null, least, mean and most, quantiles, a histogram."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Role = Literal["key", "event time", "input", "feature", "attribute"]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
BINS = 24
_FAR = 10  # times as far apart as all but the outermost 2 % of the values: then these have the bins to themselves
_TOP = 5  # most frequent texts
_FEW_VALUES = 2


@dataclass(frozen=True)
class Histogram:
    """How many values lie in each of BINS equal parts of a range; of few integers, how often each of them occurs."""

    low: float
    high: float
    counts: tuple[int, ...]
    below: bool = False  # the first part has everything below low, too
    above: bool = False  # the last part everything above high


@dataclass(frozen=True)
class Numbers:
    """Figures of the values that are numbers and finite; times are milliseconds since 1970."""

    least: float
    mean: float
    most: float
    spread: float  # standard deviation, of all there are
    quantiles: tuple[float, ...]  # at QUANTILES, between two values in proportion
    histogram: Histogram


@dataclass(frozen=True)
class Column:
    """One column of a sample."""

    name: str
    role: Role
    unit: str | None
    count: int  # rows
    nulls: int
    values: int | None  # different ones; None: lists and records, of which that is not known
    numbers: Numbers | None  # None: texts, nothing finite, or personal data
    top: tuple[tuple[str, int], ...] = ()  # the most frequent texts, and how often each occurs
    first: tuple[Any, ...] = ()  # of the first rows
    personal: bool = False  # a field with a pii tag: no value of it is here
    is_time: bool = False
    not_finite: int = 0

    @property
    def null_share(self) -> float:
        """Of the rows, 0 to 1."""
        return self.nulls / self.count if self.count else 0.0

    @property
    def note(self) -> str:
        """What a person should know of it; "": nothing."""
        if self.role not in ("feature", "input") or self.personal or not self.count:
            return ""
        if self.nulls == self.count:
            return "no value at all"
        if self.not_finite:
            return f"{self.not_finite:,} values are not finite"
        if self.role == "feature" and self.values == 1:
            return "one value: it says nothing"
        return "two values: a switch" if self.role == "feature" and self.values == _FEW_VALUES else ""


def column_of(
    name: str,
    role: Role,
    unit: str | None,
    values: pa.ChunkedArray,
    first: Sequence[Any] = (),
    personal: bool = False,
) -> Column:
    """The figures of a column.

    Args:
      values: [n], of any type.
      first: of some rows, as they are to be shown; of personal data nothing is kept.
      personal: only how many are null, and how many different ones there are, may be said.
    """
    kind = values.type
    if pa.types.is_dictionary(kind):
        values = values.cast(kind.value_type)
        kind = values.type
    nested = pa.types.is_nested(kind)
    is_time = pa.types.is_timestamp(kind)
    numbers, finite = None, values.drop_null()
    top: tuple[tuple[str, int], ...] = ()
    known = len(finite)
    if not personal and (is_time or _is_number(kind)):
        doubles = _doubles(finite)
        kept = doubles[np.isfinite(doubles)]
        numbers = numbers_of(kept) if len(kept) else None
        known -= len(kept)
    else:
        known = 0
        top = () if personal or nested or not _is_text(kind) else _top_of(finite)
    return Column(
        name=name,
        role=role,
        unit=unit,
        count=len(values),
        nulls=values.null_count,
        values=None if nested else pc.count_distinct(values, "only_valid").as_py(),
        numbers=numbers,
        top=top,
        first=() if personal else tuple(first),
        personal=personal,
        is_time=is_time,
        not_finite=known,
    )


def numbers_of(values: NDArray[np.float64]) -> Numbers:
    """Figures of finite numbers, [n], n > 0."""
    with np.errstate(over="ignore", invalid="ignore"):  # numbers near the largest double have no mean that is one
        return Numbers(
            least=float(values.min()),
            mean=float(values.mean()),
            most=float(values.max()),
            spread=float(values.std()),
            quantiles=tuple(np.quantile(values, QUANTILES).tolist()),
            histogram=histogram_of(values),
        )


def histogram_of(values: NDArray[np.float64]) -> Histogram:
    """The histogram of finite numbers, [n], n > 0.

    A few far away would leave all others in one bin: then the bins are those of all but the outermost 2 %, and what
    lies outside is counted in the first and the last one.
    """
    least, most = float(values.min()), float(values.max())
    low, high = np.quantile(values, (0.01, 0.99)).tolist()
    if not (high > low and most - least > _FAR * (high - low)):
        low, high = least, most
    width = high - low
    if not np.isfinite(width) or width <= 0:
        return Histogram(low, high, (len(values),))
    if width < BINS and (values == np.floor(values)).all():  # a bin for each integer
        places, bins = values - low, int(width) + 1
    else:
        places, bins = (values - low) / width * BINS, BINS
    counts = np.bincount(np.clip(places, 0, bins - 1).astype(np.int64), minlength=bins)
    return Histogram(low, high, tuple(counts.tolist()), least < low, most > high)


def _doubles(values: pa.ChunkedArray) -> NDArray[np.float64]:
    kind = values.type
    if pa.types.is_timestamp(kind):
        values = values.cast(pa.timestamp("ms", kind.tz), safe=False).cast(pa.int64())
    elif pa.types.is_boolean(kind):
        values = values.cast(pa.int8())
    doubles: NDArray[np.float64] = values.cast(pa.float64(), safe=False).to_numpy()
    return doubles


def _is_number(kind: pa.DataType) -> bool:
    test = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    return any(is_one(kind) for is_one in test)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _top_of(texts: pa.ChunkedArray) -> tuple[tuple[str, int], ...]:
    found = pc.value_counts(texts)
    counts = found.field("counts").to_numpy()
    most = np.argsort(-counts, kind="stable")[:_TOP]
    return tuple(zip(found.field("values").take(pa.array(most)).to_pylist(), counts[most].tolist(), strict=True))
