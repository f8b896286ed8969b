"""The folders of an archive: how they are called, what readers may skip, and that an archive keeps those it has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.archives.layout import FOLDER_COLUMNS, Layout, find_layout, keep_layout, may_hold
from beam_jobs.archives.log import ArchiveLog
from beam_jobs.errors import UserError

DAY = 86_400_000
NAMES = ["source_topic", "hour", "date", "fleet"]


def folders(values: list[str | None], layout: Layout = Layout("day", "fleet"), most: int = 255) -> list[str]:  # noqa: B008
    """The route's folder of each value."""
    groups, place, name = layout.divided(np.zeros(len(values), np.int64), pa.array(values, pa.string()), most)
    return [name(groups.tolist()[p]).split("/")[0] for p in place]


def test_a_folder_for_each_value_and_period() -> None:
    millis = np.array([-1, 0, 31 * DAY, 0, 3_600_000])
    groups, place, name = Layout("day", "fleet").divided(millis, pa.array(["b", "b", "a", None, "b"]), 255)
    assert [name(groups.tolist()[p]) for p in place] == [
        "highbeam_route=fleet.b/highbeam_date=1969-12-31",
        "highbeam_route=fleet.b/highbeam_date=1970-01-01",
        "highbeam_route=fleet.a/highbeam_date=1970-02-01",
        "highbeam_route=fleet/highbeam_date=1970-01-01",
        "highbeam_route=fleet.b/highbeam_date=1970-01-01",
    ]
    assert len(groups) == 4
    assert Layout("month").period_folder(1) == "highbeam_month=1970-02"
    assert Layout(plain_names=True).period_folder(25) == "date=1970-01-02/hour=01"


@pytest.mark.parametrize(
    ("value", "folder"),
    [
        (None, "fleet"),
        ("", "fleet."),
        ("007", "fleet.007"),
        ("a/b=c%+", "fleet.a%2Fb%3Dc%25%2B"),
        ("..", "fleet..."),
        ("Ж é", "fleet.Ж é"),
        ("\x1b[31m\n\x9b", "fleet.%1B%5B31m%0A%C2%9B"),
    ],
)
def test_how_a_value_is_spelt(value: str | None, folder: str) -> None:
    assert folders([value]) == [f"highbeam_route={folder}"]


def test_an_archive_from_before_goes_on_as_it_was() -> None:
    plain = Layout(route_by="fleet", plain_names=True)
    assert folders([None, "", "Ж/"], plain) == ["fleet=__none__", "fleet=__none__", "fleet=%D0%96%2F"]
    assert plain.columns == ("fleet", "date", "hour")
    assert plain.hidden(["at", "Date", "FLEET"]) == ["Date", "FLEET"]
    assert Layout(route_by="fleet").hidden(NAMES) == []


@given(st.lists(st.none() | st.text(max_size=300) | st.sampled_from(["a", "A", "é", "e\u0301"]), unique=True))
def test_no_two_values_share_a_folder(values: list[str | None]) -> None:
    found = folders(values)
    assert len(set(found)) == len(values)
    for name in found:
        assert len(name.encode()) <= 255
        assert not set("/\\\n\x00*?[") & set(name)


@pytest.mark.parametrize(
    ("path", "is_read"),
    [
        ("/a/highbeam_date=2026-11-22/highbeam_hour=07/f.avro", True),
        ("/a/highbeam_date=2026-11-22/highbeam_hour=08/f.avro", False),
        ("/a/highbeam_route=fleet.x/highbeam_date=2026-11-22/f.avro", True),
        ("/a/highbeam_date=2026-11-21/f.avro", False),
        ("/a/highbeam_month=2026-11/f.avro", True),
        ("/a/highbeam_month=2026-12/f.avro", False),
        ("/a/date=2026-11-22/hour=07/f.avro", True),
        ("/a/fleet=x/date=2026-11-22/hour=06/f.avro", False),
        # Nothing is known of folders that others have named, or an archive lies in.
        ("/a/date=2026-11-21/f.avro", True),
        ("/a/date=2026-11-21/hour=07/archive/highbeam_date=2026-11-22/highbeam_hour=07/f.avro", True),
        ("/a/date=2026-11-21/hour=07/archive/f.avro", True),
        ("/a/date=2026-13-41/hour=77/f.avro", True),
        ("/a/highbeam_month=2026-00/f.avro", True),
    ],
)
def test_what_a_range_of_half_an_hour_reads(path: str, is_read: bool) -> None:
    seven = 1_795_330_800_000  # 2026-11-22T07:00:00Z
    assert may_hold(path, seven + 900_000, seven + 2_700_000) is is_read


def begun(root: Path, layout: Layout) -> str:
    """An archive in which something is committed."""
    keep_layout(str(root), layout)
    ArchiveLog(str(root), "job").recover()
    return str(root)


def test_a_new_archive_has_what_is_asked_for(tmp_path: Path) -> None:
    assert find_layout(str(tmp_path), NAMES, None, None) == Layout()
    assert find_layout(str(tmp_path), NAMES, "month", "fleet") == Layout("month", "fleet")
    assert not list(tmp_path.iterdir())


def test_an_archive_keeps_its_layout(tmp_path: Path) -> None:
    root = begun(tmp_path, Layout("day", "fleet"))
    assert find_layout(root, NAMES, None, None) == find_layout(root, NAMES, "day", "fleet") == Layout("day", "fleet")
    told = "has a folder for each day of event time and value of fleet, and readers take one layout only; leave "
    with pytest.raises(UserError, match=f"^--partition_by hour: .* {told}--partition_by out"):
        find_layout(root, NAMES, "hour", None)
    with pytest.raises(UserError, match=f"^--route_by car: .* {told}--route_by out"):
        find_layout(root, NAMES, None, "car")


def test_an_archive_from_before_is_continued(tmp_path: Path) -> None:
    ArchiveLog(str(tmp_path), "job").recover()
    root, was = str(tmp_path), Layout("hour", "fleet", plain_names=True)
    assert find_layout(root, NAMES, None, "fleet") == was
    keep_layout(root, was)
    assert find_layout(root, NAMES, "hour", None) == was
    with pytest.raises(UserError, match=r"^--partition_by day: the archive in .* has a folder for each hour"):
        find_layout(root, NAMES, "day", None)


def test_an_archive_from_before_with_a_route_that_readers_pass_over(tmp_path: Path) -> None:
    ArchiveLog(str(tmp_path), "job").recover()
    with pytest.raises(UserError, match="--route_by _x: readers pass over"):
        find_layout(str(tmp_path), ["_x"], None, "_x")
    assert find_layout(str(tmp_path / "new"), ["_x"], None, "_x") == Layout(route_by="_x")


def test_two_jobs_that_begin_an_archive(tmp_path: Path) -> None:
    keep_layout(str(tmp_path), Layout("day"))
    keep_layout(str(tmp_path), Layout("day"))
    with pytest.raises(UserError, match="began this archive just now, with a folder for each day of event time; start"):
        keep_layout(str(tmp_path), Layout("month"))


@pytest.mark.parametrize("text", ["", "[]", '{"partition_by": "week"}', '{"by": "day"}', "\xff"])
def test_a_layout_that_is_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "_archive").mkdir()
    (tmp_path / "_archive/layout.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"/_archive/layout\.json: is no layout of an archive"):
        find_layout(str(tmp_path), NAMES, None, None)


@pytest.mark.parametrize("name", [*FOLDER_COLUMNS, "Highbeam_Date"])
def test_columns_that_folders_would_hide(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"a column is called '{name}', as the archive's folders are"):
        find_layout(str(tmp_path), [*NAMES, name], None, None)


def test_columns_that_differ_in_case_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the columns 'hour' and 'Hour' differ in upper and lower case only"):
        find_layout(str(tmp_path), [*NAMES, "Hour"], None, None)
    ArchiveLog(str(tmp_path), "job").recover()
    assert find_layout(str(tmp_path), [*NAMES, "Hour"], None, None).plain_names  # its rows are there already
