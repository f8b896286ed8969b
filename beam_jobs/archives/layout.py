"""Where an archive's rows lie: folders by event time, in UTC, below one for each value of a route column.

    highbeam_route=fleet.north/highbeam_date=2026-11-22/highbeam_hour=07/    --partition_by hour
    highbeam_date=2026-11-22/                                                day
    highbeam_month=2026-11/                                                  month

DuckDB, pandas and Spark make columns of such names, and these hide columns of the files that are called the same, in
upper or in lower case. So no column of the rows may be called like one of ``FOLDER_COLUMNS``. An archive keeps the
layout that it was begun with, in ``_archive/layout.json``. One from before there was a choice has no such file, and
folders called ``date``, ``hour`` and like the route column; it keeps those.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args
from urllib.parse import quote

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs.archives.log import FOLDER, log_names
from beam_jobs.errors import UserError, one_line
from beam_jobs.storage.files import bounded, create, read_bytes

Longs = NDArray[np.int64]
Period = Literal["hour", "day", "month"]

_PREFIX = "highbeam_"
FOLDER_COLUMNS = tuple(_PREFIX + name for name in ("route", "month", "date", "hour"))
_UNITS: dict[Period, Literal["h", "D", "M"]] = {"hour": "h", "day": "D", "month": "M"}
_HOUR_MS = 3_600_000
_FIRST_HOUR, _LAST_HOUR = -17_259_888, 70_389_527  # of the years 1 to 9999, whose folders have names
_OF_TIME = re.compile(
    r"/(?:date=(?P<old>\d{4}-\d\d-\d\d)/hour=(?P<old_hour>\d\d)"
    rf"|{_PREFIX}date=(?P<date>\d{{4}}-\d\d-\d\d)(?:/{_PREFIX}hour=(?P<hour>\d\d))?"
    rf"|{_PREFIX}month=(?P<month>\d{{4}}-\d\d))/[^/]*$"
)
# What Hive and Spark escape, what they take for a control character, and the sign of a name that was shortened.
_ESCAPED = re.compile(r"""[\x00-\x1f"#%'*+/:=?\\\[\]^{}\x7f-\x9f\u2028\u2029]""")


@dataclass(frozen=True)
class Layout:
    """How an archive's folders are divided and named."""

    partition_by: Period = "hour"  # of event time, that a folder holds
    route_by: str | None = None  # text column whose values get folders of their own; None: none do
    plain_names: bool = False  # date, hour and the route column's own, as in archives from before

    @property
    def columns(self) -> tuple[str, ...]:
        """What readers make of the folders' names."""
        prefix = "" if self.plain_names else _PREFIX
        route = () if self.route_by is None else (self.route_by if self.plain_names else f"{prefix}route",)
        if self.partition_by == "month":
            return (*route, f"{prefix}month")
        return (*route, f"{prefix}date", *([f"{prefix}hour"] if self.partition_by == "hour" else []))

    def divided(
        self, millis: Longs, routes: pa.Array | None, name_bytes: int
    ) -> tuple[Longs, Longs, Callable[[int], str]]:
        """The folders of rows: their numbers, ascending, the place among them of each row [n], and their names.

        Args:
          millis: event times, int64 [n]; those beyond the years 1 to 9999 go to the first or last folder of these.
          routes: string [n]; None where there is no route column.
          name_bytes: the most that a folder's name may take.
        """
        hours = np.clip(millis // _HOUR_MS, _FIRST_HOUR, _LAST_HOUR)
        unit = _UNITS[self.partition_by]
        periods = hours if unit == "h" else hours.astype("M8[h]").astype(f"M8[{unit}]").astype(np.int64)
        values: list[str | None] = [None]
        if routes is not None:
            coded = routes.dictionary_encode(null_encoding="encode")
            values = coded.dictionary.to_pylist()
            periods = periods * len(values) + coded.indices.to_numpy()
        groups, place = np.unique(periods, return_inverse=True)

        def folder(group: int) -> str:
            period, value = divmod(group, len(values))
            name = self.period_folder(period)
            return name if routes is None else f"{bounded(self._route_folder(values[value]), name_bytes)}/{name}"

        return groups, place, folder

    def period_folder(self, period: int) -> str:
        """``highbeam_date=2026-11-22/highbeam_hour=07`` of so many hours (days, months) since the epoch."""
        prefix = "" if self.plain_names else _PREFIX
        date, _, hour = str(np.datetime64(period, _UNITS[self.partition_by])).partition("T")
        if self.partition_by == "month":
            return f"{prefix}month={date}"
        return f"{prefix}date={date}" + (f"/{prefix}hour={hour}" if hour else "")

    def _route_folder(self, value: str | None) -> str:
        """One of its own for each value. It begins with the column's name, so that readers take none for a number or
        for nothing: pandas refuses an archive whose folders are 7 and 007, Spark one with an empty name."""
        if self.plain_names:
            return f"{self.route_by}={quote(value or '', safe='') or '__none__'}"
        escaped = "" if value is None else "." + _ESCAPED.sub(lambda found: quote(found[0], safe=""), value)
        return f"{_PREFIX}route={self.route_by}{escaped}"

    def hidden(self, names: Sequence[str]) -> list[str]:
        """Columns of the rows that readers do not show, for the folders' names: of an archive from before."""
        return [name for name in names if name.lower() in {column.lower() for column in self.columns}]

    def describe(self) -> str:
        """For the job's first lines: "a folder for each hour of event time"."""
        return f"a folder for each {self.partition_by} of event time" + (
            f" and value of {self.route_by}" if self.route_by else ""
        )


def may_hold(path: str, start_ms: int | None, end_ms: int | None) -> bool:
    """Whether the time of a file, if the folders it lies in say one, overlaps the time asked for."""
    match = _OF_TIME.search(path)
    if match is None:
        return True
    date, hour = match["old"] or match["date"] or match["month"], match["old_hour"] or match["hour"]
    try:
        begin = np.datetime64(date if hour is None else f"{date}T{hour}")  # of that unit
    except ValueError:
        return True  # no folder of ours
    first, end = ((begin + n).astype("M8[ms]").astype(np.int64) for n in (0, 1))
    return bool((start_ms is None or end > start_ms) and (end_ms is None or first < end_ms))


def find_layout(root: str, names: Sequence[str], partition_by: Period | None, route_by: str | None) -> Layout:
    """The layout of an archive: the one it has, or the one that is asked for where nothing is archived yet.

    Args:
      names: of the rows' columns.
      partition_by, route_by: as the options say; None: as the archive has it.

    Raises:
      UserError: it has another one, or readers could not tell its columns apart.
    """
    try:
        kept = _from_json(_path(root), read_bytes(_path(root)))
    except FileNotFoundError:
        plain = bool(log_names(root))
        kept = Layout("hour" if plain else partition_by or "hour", route_by, plain)
    for flag, asked, has in (
        ("--partition_by", partition_by, kept.partition_by),
        ("--route_by", route_by, kept.route_by),
    ):
        if asked not in (None, has):
            raise UserError(
                f"{flag} {asked}: the archive in {root} has {kept.describe()}, and readers take one layout only; leave "
                f"{flag} out, or choose another --output"
            )
    if not kept.plain_names:
        _check_names(names)
    elif (route_by or "").startswith("_"):
        raise UserError(f"--route_by {route_by}: readers pass over folders whose name begins with '_'")
    return kept


def keep_layout(root: str, layout: Layout) -> None:
    """Settles the layout of an archive before anything is written to it.

    Raises:
      UserError: another job was faster, with another one.
    """
    if not create(_path(root), json.dumps(asdict(layout)).encode()):
        now = _from_json(_path(root), read_bytes(_path(root)))
        if now != layout:
            raise UserError(f"{root}: another job began this archive just now, with {now.describe()}; start again")


def _check_names(names: Sequence[str]) -> None:
    """Refuses columns that readers would not show, or take for one another."""
    seen: dict[str, str] = {}
    for name in names:
        if name.lower() in FOLDER_COLUMNS:
            raise UserError(
                f"a column is called {name!r}, as the archive's folders are, and DuckDB, pandas and Spark would show "
                "theirs in its place; rename it"
            )
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise UserError(
                f"the columns {other!r} and {name!r} differ in upper and lower case only, which DuckDB and Spark do "
                "not tell apart; rename one, or archive features with one of them (without --raw)"
            )


def _path(root: str) -> str:
    return f"{root}/{FOLDER}/layout.json"


def _from_json(path: str, data: bytes) -> Layout:
    try:
        layout = Layout(**json.loads(data))
        if layout.partition_by not in get_args(Period):
            raise ValueError(f"partition_by is {layout.partition_by!r}")
        return layout
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: is no layout of an archive ({one_line(error, 100)}); restore it") from error
