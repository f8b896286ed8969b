"""Lookup tables: which ones are taken, what rows get from them, and that they follow their file."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.archives.rows import archive_schema
from beam_jobs.errors import UserError
from beam_jobs.steps import lookup
from beam_jobs.steps.enrich import enrich
from beam_jobs.steps.lookup import Lookup, LookupFile, Table, describe, key_type
from beam_jobs.use_case import load_use_case

CSV = """car_id,fleet,built,doors,price,electric,since,code
00012,north,2020-01-02,4,1.5,true,2024-05-01 10:00:00Z,NA
7,,2021-03-04,,2,false,,x1
"""


def csv(path: Path, text: str = CSV) -> str:
    path.write_text(text)
    return str(path)


def described(path: str) -> LookupFile:
    return describe(path, "car_id", pa.string())


def types(file: LookupFile) -> dict[str, Any]:
    return {field["name"]: field["type"][1] for field in file.fields}


def test_a_csv_file_has_the_types_of_its_values_and_the_keys_of_the_rows(tmp_path: Path) -> None:
    file = described(csv(tmp_path / "cars.csv"))
    assert types(file) == {
        "fleet": "string",
        "built": {"type": "int", "logicalType": "date"},
        "doors": "long",
        "price": "double",
        "electric": "boolean",
        "since": {"type": "long", "logicalType": "timestamp-micros"},
        "code": "string",
    }
    found = file.load().columns_for(pa.array(["00012", "12", "7"])).to_pylist()
    assert found[1] == dict.fromkeys(types(file))  # a key is text where the rows' is: leading zeros count
    assert found[0]["built"] == date(2020, 1, 2)
    assert found[0]["since"] == datetime.fromisoformat("2024-05-01T10:00:00+00:00")
    assert found[0]["code"] == "NA"  # only an empty cell is null
    assert (found[2]["fleet"], found[2]["doors"], found[2]["price"]) == (None, None, 2.0)


def test_times_finer_than_microseconds_are_rounded_down(tmp_path: Path) -> None:
    file = described(csv(tmp_path / "cars.csv", "car_id,at\nx,1969-12-31T23:59:59.999999999Z\ny,\n"))
    assert types(file) == {"at": {"type": "long", "logicalType": "timestamp-micros"}}
    found = file.load().columns_for(pa.array(["x", "y"]))["at"]
    assert found.cast(pa.int64()).to_pylist() == [-1, None]


def test_a_text_far_down_makes_the_column_text(tmp_path: Path) -> None:
    lines = "".join(f"{i},{i}\n" for i in range(300_000))
    file = described(csv(tmp_path / "cars.csv", f"car_id,code\n{lines}x,A7\n"))
    assert types(file) == {"code": "string"}
    assert file.load().columns_for(pa.array(["x", "299999"])).to_pydict() == {"code": ["A7", "299999"]}


def test_a_parquet_file_has_the_types_of_its_schema(tmp_path: Path) -> None:
    path = tmp_path / "cars.parquet"
    columns: dict[str, Any] = {
        "car_id": pa.array([1, 2], pa.int16()),
        "n": pa.array([1, None], pa.uint8()),
        "f": pa.array([0.5, 1.5], pa.float32()),
        "kind": pa.array(["a", "b"]).dictionary_encode(),
        "cost": pa.array([Decimal("1.00"), Decimal("2.00")]),
    }
    pq.write_table(pa.table(columns), path)
    file = describe(str(path), "car_id", pa.int32())
    assert types(file) == {"n": "long", "f": "double", "kind": "string", "cost": "string"}
    assert file.load().columns_for(pa.array([2, 3], pa.int32())).to_pylist() == [
        {"n": None, "f": 1.5, "kind": "b", "cost": "2.00"},
        {"n": None, "f": None, "kind": None, "cost": None},
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("car_id,a\nx,1\ny,2\nx,3\ny,4\n", "car_id 'x' is there 2 times (2 such keys); keep one row a key"),
        ("car_id,a\nx,1\n,2\n", "1 rows have no car_id"),
        ("id,a\nx,1\n", "has no column 'car_id'; it has id, a"),
        ("car_id\nx\n", "the column car_id alone"),
        ("car_id,a,a\nx,1,2\n", "two columns 'a'"),
        ("car_id,model year\nx,1\n", "column 'model year': use letters, digits"),
        ("car_id,_offset\nx,1\n", "column '_offset'"),
        ("car_id,a\nx,1,2\n", "can't be read as a lookup table"),
        ("", "can't be read as a lookup table"),
    ],
)
def test_what_is_no_lookup_table_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = csv(tmp_path / "cars.csv", text)
    with pytest.raises(UserError) as refused:
        described(path)
    assert message in str(refused.value)
    assert path in str(refused.value)
    assert "\n" not in str(refused.value)


def test_other_files_and_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a \.csv or a \.parquet file"):
        described(str(tmp_path / "cars.xlsx"))
    (tmp_path / "cars.parquet").write_bytes(b"PAR1 no, it is not")
    with pytest.raises(UserError, match="can't be read as a lookup table"):
        described(str(tmp_path / "cars.parquet"))
    with pytest.raises(UserError, match="speed is a double; rows are looked up by a text or a whole number"):
        key_type("speed", pa.float64())


def test_columns_that_clash_or_are_personal_are_refused() -> None:
    car = load_use_case("car_sensors")

    def schema(name: str) -> Any:
        return archive_schema(car, "features", [{"name": name, "type": ["null", "string"]}])

    assert schema("fleet")["fields"][-1]["name"] == "fleet"
    for name in ("speed", "Speed", "source_offset", car.label or ""):
        with pytest.raises(UserError, match=f"has a column {name!r}, as the archive's rows have; rename it"):
            schema(name)
    with pytest.raises(UserError, match=r"'driver_name', which is personal data in the events \(pii: direct\)"):
        schema("driver_name")


@given(
    st.dictionaries(st.text(max_size=5), st.integers(-5, 5), max_size=30),
    st.lists(st.one_of(st.none(), st.text(max_size=5)), max_size=60),
    st.data(),
)
def test_each_row_finds_what_a_dictionary_finds_however_it_is_cut(
    known: dict[str, int], keys: list[str | None], data: st.DataObject
) -> None:
    """Text without surrogates: Arrow holds UTF-8."""
    keys += data.draw(st.lists(st.sampled_from(sorted(known)), max_size=30)) if known else []
    table = Table(pa.table({"k": pa.array(list(known), pa.string()), "v": pa.array(list(known.values()))}), "k")
    wanted = [None if key is None else known.get(key) for key in keys]
    array = pa.array(keys, pa.string())
    assert table.columns_for(array).column("v").to_pylist() == wanted
    assert table.columns_for(array.dictionary_encode()).column("v").to_pylist() == wanted
    cut = data.draw(st.integers(0, len(keys)))
    halves = [table.columns_for(part).column("v").to_pylist() for part in (array[:cut], array[cut:])]
    assert halves[0] + halves[1] == wanted


def test_blocks_keep_their_columns() -> None:
    block = pa.record_batch({"k": pa.array([3, 1], pa.int32()), "_offset": [8, 9]})
    table = Table(pa.table({"k": [1, 2], "v": ["one", "two"]}), "k")
    assert enrich(block, "k", table).to_pydict() == {"k": [3, 1], "_offset": [8, 9], "v": [None, "one"]}


class Watched:
    """A lookup that looks whenever ``value`` asks."""

    def __init__(self, path: Path) -> None:
        self.path, self.clock, self._writes = path, 0.0, 0
        self.write("car_id,fleet,doors\na,north,4\n")
        self.lookup = Lookup(described(str(path)), 10.0, lambda: self.clock)

    def write(self, text: str) -> None:
        self._writes += 1
        self.path.write_text(text)
        os.utime(self.path, (self._writes, self._writes))  # two writes in one tick of the clock differ as well

    def value(self, after_s: float = 11.0) -> Any:
        self.clock += after_s
        return self.lookup.current().columns_for(pa.array(["a"])).to_pylist()[0]["fleet"]


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "cars.csv")


def test_a_changed_file_is_loaded_anew_but_looked_at_now_and_then_only(watched: Watched) -> None:
    assert watched.value() == "north"
    watched.write("doors,fleet,new,car_id\n4,south,x,a\n")  # the order does not matter, what is new is not taken
    assert watched.value(9.0) == "north"
    assert watched.value(2.0) == "south"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("car_id,fleet,doors\na,x,four\n", "four"),
        ("car_id,fleet,doors\na,x,4\na,y,4\n", "is there 2 times"),
        ("car_id,doors\na,4\n", "has no column 'fleet'"),
        ("", "can't be read"),
    ],
)
def test_a_broken_version_leaves_the_old_one_in_use_and_says_so_once(
    watched: Watched, caplog: pytest.LogCaptureFixture, text: str, problem: str
) -> None:
    with caplog.at_level(logging.WARNING):
        watched.write(text)
        assert [watched.value() for _ in range(3)] == ["north"] * 3
        (line,) = caplog.messages
        assert problem in line
        assert "the lookup table of before stays in use" in line
        watched.write("car_id,fleet,doors\na,east,2\n")
        assert watched.value() == "east"
        assert "loaded anew, 1 rows" in caplog.messages[-1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-1],
        lambda whole: b"",
        lambda whole: whole.replace(b"car_id", b"c\xff\xfe_id"),
        lambda whole: whole[:40] + b"Z" * 60 + whole[100:],
    ],
)
def test_a_damaged_parquet_file_leaves_the_old_table_in_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
) -> None:
    path, clock = tmp_path / "cars.parquet", 0.0
    pq.write_table(pa.table({"car_id": ["a"] + [f"car-{i}" for i in range(999)], "fleet": ["north"] * 1000}), path)
    followed = Lookup(describe(str(path), "car_id", pa.string()), 10.0, lambda: clock)
    path.write_bytes(damage(path.read_bytes()))
    os.utime(path, (1, 1))
    for _ in range(3):
        clock += 11
        assert followed.current().columns_for(pa.array(["a"])).to_pylist() == [{"fleet": "north"}]
    (line,) = caplog.messages
    assert "cars.parquet" in line
    assert "the lookup table of before stays in use" in line


def test_a_panic_of_the_library_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cars.csv"
    path.write_text("car_id,fleet\na,x\n")

    def panic(keys: pa.Array, seed: int) -> Any:
        raise pl.exceptions.PanicException("index out of bounds")

    monkeypatch.setattr(lookup, "_hashes", panic)
    with pytest.raises(UserError, match=r"cars\.csv: can't be used as a lookup table \(index out of bounds\)"):
        describe(str(path), "car_id", pa.string())


def test_a_file_that_is_gone_leaves_the_old_table_in_use(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    watched.path.unlink()
    with caplog.at_level(logging.WARNING):
        assert [watched.value() for _ in range(3)] == ["north"] * 3
    assert len(caplog.messages) == 1
    watched.write("car_id,fleet,doors\na,back,2\n")
    assert watched.value() == "back"


def test_a_file_that_changes_while_it_is_read_is_read_later(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    load = LookupFile.load

    def torn(file: LookupFile) -> Table:
        table = load(file)
        watched.write("car_id,fleet,doors\na,whole,4\n")
        return table

    monkeypatch.setattr(LookupFile, "load", torn)
    watched.write("car_id,fleet,doors\na,half,4\n")
    assert watched.value() == "north"
    monkeypatch.undo()
    assert watched.value() == "whole"


def test_two_keys_of_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = lookup._hashes
    one_bit = np.uint64(1)
    monkeypatch.setattr(lookup, "_hashes", lambda keys, seed: hashes(keys, seed) & (one_bit if seed == 0 else ~one_bit))
    table = Table(pa.table({"k": ["a", "b", "c"], "v": [1, 2, 3]}), "k")
    assert table.columns_for(pa.array(["c", "a", "x", "b"])).column("v").to_pylist() == [3, 1, None, 2]
