"""Which rows were left out of a training: groups of rows that look alike, for a person to decide about.

From scores alone a rare state and a fault are the same. What tells a person is which features differ, in how many rows,
of how many keys. So rows are put together whose deviations point the same way, split where a value has a gap, and each
group is described by a condition: ranges of its features. A row belongs to the first group whose condition holds for
it, so what a person calls normal by that condition is what was counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.outliers.boxes import Box
from model.rows import Floats, Longs, Matrix

Bools = NDArray[np.bool_]

MAX_GROUPS = 12  # more than that nobody reads
MAX_EXAMPLES = 5  # rows shown of a group
MAX_FEATURES = 6  # by which a group is described
NORMAL_RANGE = (0.01, 0.99)  # quantiles of the rows kept between which a value is unremarkable

_SAMPLE = 50_000  # rows left out, and rows kept, that the groups are formed from
_CHUNK = 1 << 18  # rows in memory at a time
_CLUSTERS = 60  # tried, the largest of which become groups
_DOMINANT = 0.5  # of a row's largest deviation: features from here on are what it is about
_ALIKE = 0.8  # cosine between the deviations of a row and its cluster's
_NAMED = 0.4  # of what the foremost feature of a cluster stands out: features from here on are named
_FAR = 2.3  # place (asinh of 5 spreads) that counts as much as the largest deviation
_REMARKABLE = 1.6  # place (asinh of 2.4 spreads) outside NORMAL_RANGE
_SHARED = 0.25  # of a group's distance in a remarkable feature: rows from here on share it
_FEW = 0.01  # of the rows left out: fewer are no group


@dataclass(frozen=True)
class Deviating:
    """A feature by which a group differs from the rows kept; values in the feature's unit."""

    name: str
    direction: str  # "high" or "low", beside what the other features let expect
    typical: float  # median of the group's rows
    low: float  # of the rows kept, NORMAL_RANGE
    high: float

    def __str__(self) -> str:
        normal = f"normal {self.low:.4g} to {self.high:.4g}" if self.low != self.high else f"normal {self.low:.4g}"
        unusual = "" if not self.low <= self.typical <= self.high else ", but not with the other features"
        return f"{self.name} {self.direction}: {self.typical:.4g} ({normal}{unusual})"


@dataclass(frozen=True)
class Example:
    """A row of a group."""

    time: str  # ISO 8601, UTC
    values: Mapping[str, float]  # of the group's features, in their units


@dataclass(frozen=True)
class Group:
    """Rows that were left out and look alike."""

    name: str  # g1, g2 ... by number of rows; p1 ... of those put back
    features: tuple[Deviating, ...]  # at least one, the largest deviation first
    rows: int
    row_share: float  # of all rows of the part, 0..1
    keys: int  # that have such a row
    key_share: float  # of all keys of the part, 0..1
    where: str  # SQL condition over features that describes the group
    kept: int  # rows that were kept and that ``where`` holds for as well
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class LeftOut:
    """What was left out of a training."""

    rows: int
    share: float  # of all training rows, 0..1
    cut: float | None  # score above which rows were left out; None: there was no cut
    doubt: str  # why the cut may be wrong; "": nothing speaks against it
    groups: tuple[Group, ...]
    others: int  # rows that are in no group
    of_keys: int = 0  # of the rows: below the cut, but of keys that are strange as a whole
    put_back: tuple[Group, ...] = ()  # rows that were left out at first and learnt in the end: most keys show them

    def __str__(self) -> str:
        back = sum(group.rows for group in self.put_back)
        put_back = f"; {back:,} others were put back, as most keys show rows like them" if back else ""
        if not self.rows:
            return f"no rows{put_back}"
        text = f"{self.rows:,} of the training rows ({percent(self.share)})"
        if self.cut is not None and self.rows > self.of_keys:
            text += f" with a score above {self.cut:.4g}"
        if self.of_keys:
            text += f"{', or' if self.rows > self.of_keys else ''} of keys that are strange as a whole"
        if self.groups:
            text += f", in {len(self.groups)} group{'s'[: len(self.groups) != 1]} of rows that look alike"
            text += f" and {self.others:,} others" if self.others else ""
        return text + put_back

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LeftOut:
        """Of what ``dataclasses.asdict`` and JSON have made of it; TypeError or KeyError for something else."""
        groups = {name: tuple(_group(each) for each in value[name]) for name in ("groups", "put_back")}
        return cls(**{**value, **groups})


def _group(value: Mapping[str, Any]) -> Group:
    features = tuple(Deviating(**each) for each in value["features"])
    examples = tuple(Example(**each) for each in value["examples"])
    return Group(**{**value, "features": features, "examples": examples})


def find_groups(
    x: Matrix,
    keys: NDArray[np.uint64],
    times: Longs,
    left_out: Bools,
    deviations: Callable[[Floats], NDArray[Any]] | None,
    features: Sequence[str],
    mark: str = "g",
) -> tuple[tuple[Group, ...], int]:
    """Puts the rows that were left out into groups.

    Args:
      x: float32 [n, F], physical units; all rows of the part, in random order.
      keys, times: [n], of the rows; milliseconds since the epoch.
      left_out: [n].
      deviations: rows, float32 [m, F], to how far they are from what was expected, [m, F]: spreads, with a sign; None:
        rows are told apart by their values alone.
      features: names of the F columns.
      mark: what the groups' names begin with.

    Returns:
      The groups, the largest first, and the number of rows in none of them.
    """
    out = np.flatnonzero(left_out)
    if not len(out):
        return (), 0
    kept = _take(x, _thin(np.flatnonzero(~left_out)))
    rows = _take(x, _thin(out))
    finite = np.isfinite(rows).all(axis=1)
    rows = rows[finite]
    if not len(rows):
        return (), len(out)
    kept = kept[np.isfinite(kept).all(axis=1)] if len(kept) else rows
    surprise = None if deviations is None else np.nan_to_num(np.asarray(deviations(rows), np.float64))
    counted = [_Counted(description) for description in _describe(rows, surprise, kept, features)]
    some_keys = _Keys()
    for start in range(0, len(left_out), _CHUNK):
        part = slice(start, start + _CHUNK)
        some_keys.add(keys[part])
        _count(counted, x[part], keys[part], times[part], left_out[part], features)
    few = max(1, int(_FEW * len(out)))
    counted = sorted((c for c in counted if c.rows >= few), key=lambda c: -c.rows)[:MAX_GROUPS]
    groups = tuple(
        Group(
            name=f"{mark}{number}",
            features=c.description.features,
            rows=c.rows,
            row_share=c.rows / len(left_out),
            keys=len(c.keys),
            key_share=len(c.keys) / len(some_keys),
            where=c.description.box.where(features),
            kept=c.kept,
            examples=tuple(c.examples),
        )
        for number, c in enumerate(counted, 1)
    )
    return groups, len(out) - sum(group.rows for group in groups)


@dataclass(frozen=True)
class _Description:
    """What is known of a group before its rows are counted."""

    features: tuple[Deviating, ...]
    box: Box


@dataclass
class _Keys:
    """Counts different keys, a chunk at a time."""

    seen: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))

    def add(self, keys: NDArray[np.uint64]) -> None:
        self.seen = np.union1d(self.seen, keys)

    def __len__(self) -> int:
        return len(self.seen)


@dataclass
class _Counted:
    """A group while its rows are counted."""

    description: _Description
    rows: int = 0
    kept: int = 0
    keys: _Keys = field(default_factory=_Keys)
    examples: list[Example] = field(default_factory=list)


def _count(
    counted: Sequence[_Counted],
    x: Floats,
    keys: NDArray[np.uint64],
    times: Longs,
    left_out: Bools,
    features: Sequence[str],
) -> None:
    """Adds the rows of a chunk to the groups they belong to."""
    free = left_out.copy()
    for group in counted:
        inside = group.description.box.holds(x)
        group.kept += int(np.count_nonzero(inside & ~left_out))
        mine = np.flatnonzero(inside & free)
        free[mine] = False
        group.rows += len(mine)
        group.keys.add(keys[mine])
        for row in mine[: MAX_EXAMPLES - len(group.examples)].tolist():
            shown = {each.name: short(x[row, features.index(each.name)]) for each in group.description.features}
            group.examples.append(Example(iso(int(times[row])), shown))


def _describe(
    rows: Floats, deviations: NDArray[np.float64] | None, kept: Floats, features: Sequence[str]
) -> list[_Description]:
    """Groups of the rows, float32 [n, F], the largest first."""
    normal = np.quantile(kept.astype(np.float64), [NORMAL_RANGE[0], 0.5, NORMAL_RANGE[1]], axis=0)
    spread = np.maximum(normal[2] - normal[0], 1e-6 + 0.01 * np.abs(normal[1])) / 4.65  # 1 % to 99 % of a normal one
    places = np.arcsinh((rows - normal[1]) / spread)
    deviations = places if deviations is None else deviations
    whole = np.array([bool((kept[:, j] == np.rint(kept[:, j])).all()) for j in range(rows.shape[1])])
    found = []
    for cluster in _clusters(deviations):
        for part in _split(cluster, places[:, _named(deviations[cluster], places[cluster])]):
            named = _named(deviations[part], places[part])
            part = part[_belongs(places[part][:, named])]
            middle = np.median(deviations[part], axis=0)
            typical = np.median(rows[part].astype(np.float64), axis=0)
            outside = np.where(typical > normal[2], 1, np.where(typical < normal[0], -1, 0))
            shown = tuple(
                Deviating(
                    name=features[j],
                    direction="high" if (outside[j] or middle[j]) > 0 else "low",
                    typical=short(typical[j]),
                    low=short(normal[0, j]),
                    high=short(normal[2, j]),
                )
                for j in named
            )
            found.append((len(part), _Description(shown, Box.around(rows[part], kept, named, whole))))
    found.sort(key=lambda each: -each[0])
    return [description for _, description in found[:_CLUSTERS]]


def _clusters(deviations: NDArray[np.float64]) -> Iterator[NDArray[np.int64]]:
    """Rows whose deviations point the same way, most common direction first: indices of rows, none twice."""
    size = np.abs(deviations)
    size = np.maximum(size, 1e-12)
    unit = deviations / np.linalg.norm(size, axis=1, keepdims=True)
    dominant = size >= _DOMINANT * size.max(axis=1, keepdims=True)
    signature = np.where(dominant, np.sign(deviations), 0).astype(np.int8)
    _, kinds = np.unique(signature, axis=0, return_inverse=True)
    free = np.ones(len(unit), bool)
    for _ in range(_CLUSTERS):
        if not free.any():
            return
        seed = free & (kinds == np.bincount(kinds[free]).argmax())
        near = seed
        for _ in range(3):
            direction = unit[near].mean(axis=0)
            closer = free & (unit @ direction >= _ALIKE * np.linalg.norm(direction))
            if not closer.any():
                break
            near = closer
        free &= ~near
        yield np.flatnonzero(near)


def _named(deviations: NDArray[np.float64], places: NDArray[np.float64]) -> list[int]:
    """Columns by which rows that point the same way stand out, the foremost first.

    A feature stands out by its deviation from what the others let expect, and by its place among the rows kept: the
    network's surprise at one feature spreads over those that belong to it, which themselves read as ever.
    """
    surprise, place = (np.abs(np.median(values, axis=0)) for values in (deviations, places))
    size = surprise / max(surprise.max(), 1e-12) + place / max(place.max(), _FAR)
    if place.max() > _REMARKABLE:
        size[place < _NAMED * place.max()] = 0
    order = np.argsort(-size, kind="stable")[:MAX_FEATURES]
    return [int(j) for j in order if size[j] >= _NAMED * size[order[0]]]


def _belongs(places: NDArray[np.float64]) -> Bools:
    """Rows that share what is remarkable about most of them; the others only surprised the network alike."""
    middle = np.median(places, axis=0)
    remarkable = np.abs(middle) > _REMARKABLE
    share = np.sinh(places) / np.where(remarkable, np.sinh(middle), 1)
    shared: Bools = np.all((share >= _SHARED) | ~remarkable, axis=1)
    return shared if shared.any() else ~shared


def _split(rows: NDArray[np.int64], places: NDArray[np.float64]) -> Iterator[NDArray[np.int64]]:
    """Parts rows where one of their features has a gap; ``places`` [all, C] are its values, logarithmic far out."""
    waiting = [rows]
    while waiting:
        rows = waiting.pop()
        column, limit = _widest_gap(places[rows])
        if column is None:
            yield rows
        else:
            below = places[rows, column] <= limit
            waiting += [rows[below], rows[~below]]


def _widest_gap(places: NDArray[np.float64]) -> tuple[int | None, float]:
    """The column and the value below a gap that parts the rows, or None.

    A gap counts from a third of the range on, and half a (logarithmic) spread; the fewer rows on one side, the wider.
    """
    best: tuple[int | None, float] = (None, 0.0)
    widest = 0.0
    n = len(places)
    if n < 2:
        return best
    sides = np.minimum(np.arange(1, n), np.arange(n - 1, 0, -1))
    for column in range(places.shape[1]):
        values = np.sort(places[:, column])
        gaps = np.diff(values)
        gaps[gaps < np.maximum((values[-1] - values[0]) / 3, 0.5 + 2 / sides)] = 0
        at = int(gaps.argmax())
        if gaps[at] > widest:
            best, widest = (column, float(values[at])), float(gaps[at])
    return best


def _thin(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Evenly at most _SAMPLE of them."""
    return rows[:: max(1, -(-len(rows) // _SAMPLE))]


def _take(x: Matrix, rows: NDArray[np.int64]) -> Floats:
    """Rows by their numbers, which ascend."""
    found = [x[0:0]]
    for start in range(0, len(x), _CHUNK):
        mine = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + _CHUNK)]
        if len(mine):
            found.append(x[start : start + _CHUNK][mine - start])
    return np.concatenate(found)


def short(value: Any) -> float:
    """A float32 in as few digits as tell it."""
    return float(str(np.float32(value)))


def percent(share: float) -> str:
    """A share, 0..1, in per cent: two digits that count."""
    value = 100 * share
    if value in (0, 100) or value >= 99.95:
        return f"{value:.0f} %"
    return f"{value:.1f} %" if value >= 1 else f"{value:.2g} %"


def iso(time_ms: int) -> str:
    """A time in milliseconds since the epoch as ISO 8601, UTC."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")
