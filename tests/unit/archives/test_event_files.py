"""Files of other tools and damaged ones: the right rows, or one line that names the file."""

from __future__ import annotations

import datetime
import io
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import fastavro
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_jobs.archives.event_files import read_events
from beam_jobs.codec.avro.file import read_avro
from beam_jobs.errors import UserError
from beam_jobs.steps import lookup

T0 = 1_764_000_000_123  # milliseconds
SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "E",
    "fields": [
        {"name": "car_id", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "speed", "type": ["null", "double"], "default": None},
    ],
}
COLUMNS = ("car_id", "at", "speed")
CASE: Any = SimpleNamespace(schema=SCHEMA)


def blocks(path: Path) -> list[pa.RecordBatch]:
    found = list(read_events(path, CASE, COLUMNS))
    assert not any(len(block.errors) for block in found)
    for block in found:
        block.rows.validate(full=True)
    return [block.rows for block in found]


def rows(path: Path) -> list[dict[str, Any]]:
    return [row for block in blocks(path) for row in block.to_pylist()]


def event(car: str | None, speed: float | None, micros: int = T0 * 1000) -> dict[str, Any]:
    at = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(milliseconds=micros // 1000)
    return {"car_id": car, "at": at, "speed": speed}


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table({"car_id": ["a", "b"], "at": pa.array([T0, T0], pa.timestamp("ms")), **columns}), path)
    return path


def test_times_of_96_bits_do_not_wrap_around(tmp_path: Path) -> None:
    far = [datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31, 23, 59, 59, 999_999)]
    table = pa.table({"car_id": ["a", "b"], "at": pa.array(far, pa.timestamp("us"))})
    pq.write_table(table, tmp_path / "x.parquet", use_deprecated_int96_timestamps=True)
    found = [row["at"].replace(tzinfo=None) for row in rows(tmp_path / "x.parquet")]
    assert found == [far[0], far[1].replace(microsecond=999_000)]


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip", "brotli", "lz4"])
@pytest.mark.parametrize("version", ["1.0", "2.6"])
def test_any_compression(tmp_path: Path, compression: str, version: Any) -> None:
    path = parquet(tmp_path / "x.parquet", speed=[1.5, None])
    pq.write_table(pq.read_table(path), path, compression=compression, version=version, data_page_version="2.0")
    assert rows(path) == [event("a", 1.5), event("b", None)]


def test_a_column_twice_is_refused_only_where_it_is_wanted(tmp_path: Path) -> None:
    at = pa.array([T0], pa.timestamp("ms"))
    for names, twice in ((["car_id", "at", "x", "x"], None), (["car_id", "at", "speed", "speed"], "speed")):
        pq.write_table(
            pa.table([pa.array(["a"]), at, pa.array([1.0]), pa.array([2.0])], names=names), tmp_path / "x.parquet"
        )
        if twice is None:
            assert rows(tmp_path / "x.parquet") == [event("a", None)]
        else:
            with pytest.raises(UserError, match=r"x\.parquet: has the column 'speed' more than once; write it once"):
                rows(tmp_path / "x.parquet")


def test_a_file_without_rows_has_none(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", speed=[1.5, None])
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    assert rows(path) == []
    assert rows(avro(tmp_path / "x.avro", [])) == []


@pytest.mark.parametrize("ending", ["parquet", "avro"])
@pytest.mark.parametrize("data", [b"", b"P", b"PAR1", b"Obj\x01", b"\0" * 99, b"{}", b"PAR1" * 9, b"Obj\x01" * 9])
def test_what_is_no_such_file_is_one_line(tmp_path: Path, ending: str, data: bytes) -> None:
    path = tmp_path / f"x.{ending}"
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"x\.{ending}") as error:
        rows(path)
    assert str(error.value).isprintable()


def test_names_and_properties_that_are_no_text(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", speed=[1.5, None], name=[1, 2])
    table = pq.read_table(path).replace_schema_metadata({b"\xff\xfe": b"\xff", b"made.by": b"\xff"})
    pq.write_table(table, path)
    assert len(rows(path)) == 2
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"name", b"n\xff\xfee"))
    with pytest.raises(UserError, match=r"x\.parquet: can't be read \(.*utf-8"):
        rows(path)


def avro(path: Path, records: list[dict[str, Any]], codec: str = "null", **more: Any) -> Path:
    with path.open("wb") as out:
        fastavro.writer(out, SCHEMA, records, codec=codec, **more)
    return path


def test_properties_of_avro_that_are_no_text(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    fastavro.writer(buffer, SCHEMA, [event("a", 1.0)], metadata={"made.by": "xx"})
    path = tmp_path / "x.avro"
    path.write_bytes(buffer.getvalue().replace(b"made.by", b"\xff\xfe\x1b[2Jy").replace(b"xx", b"\xff\xfe"))
    assert rows(path) == [event("a", 1.0)]


def test_avro_as_polars_writes_it(tmp_path: Path) -> None:
    """Its outermost record has no name, unless it is told one."""
    wanted = ["car_id", "speed"]
    pl.DataFrame({"car_id": ["a", "b"], "speed": [1.5, None]}).write_avro(tmp_path / "rows.avro")
    schema = {
        **SCHEMA,
        "fields": [
            {"name": "car_id", "type": ["null", "string"]},
            *(f for f in SCHEMA["fields"] if f["name"] == "speed"),
        ],
    }
    [rows] = read_avro(tmp_path / "rows.avro", schema)
    assert rows.select(wanted).to_pydict() == {"car_id": ["a", "b"], "speed": [1.5, None]}


@pytest.mark.parametrize("unit", ["millis", "micros", "nanos"])
def test_times_of_avro_in_any_unit(tmp_path: Path, unit: str) -> None:
    writer = {**SCHEMA, "fields": [SCHEMA["fields"][0], {"name": "at", "type": "long"}]}
    per = {"millis": 1, "micros": 1000, "nanos": 1_000_000}[unit]
    records = [{"car_id": "a", "at": t * per + per // 2} for t in (T0, -5)]
    body = io.BytesIO()
    for record in records:
        fastavro.schemaless_writer(body, fastavro.parse_schema(writer), record)
    kind = {"type": "long", "logicalType": f"timestamp-{unit}"}
    text = json.dumps({**writer, "fields": [SCHEMA["fields"][0], {"name": "at", "type": kind}]})
    path = tmp_path / "x.avro"
    path.write_bytes(container(text.encode(), len(records), body.getvalue()))
    assert [row["at"] for row in rows(path)] == [event("a", None, T0 * 1000)["at"], event("a", None, -5000)["at"]]


def container(schema: bytes, count: int, body: bytes) -> bytes:
    def long(n: int) -> bytes:
        n, out = n << 1, bytearray()
        while n >= 0x80:
            out.append((n & 0x7F) | 0x80)
            n >>= 7
        return bytes([*out, n])

    head = b"Obj\x01" + long(1) + long(11) + b"avro.schema" + long(len(schema)) + schema + long(0) + b"S" * 16
    return head + long(count) + long(len(body)) + body + b"S" * 16


def damaged(data: bytes, times: int) -> Iterator[bytes]:
    """The file with bytes changed, cut out, put in or cut off, each time otherwise."""
    chance = random.Random(15)
    for _ in range(times):
        out = bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 8, 40))):
            at, how = chance.randrange(len(out)), chance.randrange(8)
            if how < 4:
                out[at] = chance.randrange(256)
            elif how < 6:
                out[at] ^= 1 << chance.randrange(8)
            elif how == 6 and len(out) > 100:
                del out[at : at + chance.randrange(1, 30)]
            else:
                out[at:at] = chance.randbytes(chance.randrange(1, 9))
        yield bytes(out[: chance.randrange(len(out))] if chance.random() < 0.1 else out)


def survives(read: Callable[[], object], name: str) -> bool:
    """Whether it was read; what is said otherwise is one line that names the file."""
    try:
        read()
    except UserError as error:
        text = str(error)
        assert name in text
        assert text.isprintable()
        assert len(text) < 1_000
        return False
    return True


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_a_damaged_parquet_file_names_itself(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "x.parquet"
    table = pa.table(
        {
            "car_id": [f"car-{i % 9}" for i in range(64)],
            "at": pa.array(range(T0, T0 + 64), pa.timestamp("ms")),
            "speed": pa.array([None if i % 7 == 0 else i / 3 for i in range(64)]),
        }
    )
    pq.write_table(table, path, compression=compression)
    whole, outcomes = path.read_bytes(), set()
    for data in damaged(whole, 500):
        path.write_bytes(data)
        outcomes.add(survives(lambda: blocks(path), "x.parquet"))
        outcomes.add(survives(lambda: use_table(path), "x.parquet"))
    assert outcomes == {True, False}


@pytest.mark.parametrize("codec", ["null", "deflate", "xz"])
def test_a_damaged_avro_file_names_itself(tmp_path: Path, codec: str) -> None:
    path = avro(tmp_path / "x.avro", [event(f"car-{i % 9}", i / 3) for i in range(64)], codec, sync_interval=400)
    outcomes = set()
    for data in damaged(path.read_bytes(), 500):
        path.write_bytes(data)
        outcomes.add(survives(lambda: blocks(path), "x.avro"))
    assert outcomes == {True, False}


def test_a_damaged_csv_table_names_itself(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    lines = [f'car-{i},"fleet ""{i % 7}""",{i / 4},{i},2026-01-0{1 + i % 9}T00:00:00Z' for i in range(64)]
    outcomes = set()
    for data in damaged("\n".join(["car_id,fleet,load,n,since", *lines]).encode(), 500):
        path.write_bytes(data)
        outcomes.add(survives(lambda: use_table(path), "x.csv"))
    assert outcomes == {True, False}


def use_table(path: Path) -> None:
    """As a job does: described at its start, loaded on a worker, looked things up in."""
    table = lookup.describe(str(path), "car_id", pa.string()).load()
    table.columns_for(pa.array(["car-1", None, "x"])).validate(full=True)


def test_a_reader_that_raises_anything_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(tmp_path / "x.parquet")
    for error in (KeyError("x"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"), MemoryError(), OverflowError("x")):

        def fail(*_: Any, raised: Exception = error, **__: Any) -> Any:
            raise raised

        monkeypatch.setattr(pq, "ParquetFile", fail)
        assert not survives(lambda: rows(path), "x.parquet")
        assert not survives(lambda: use_table(path), "x.parquet")
        monkeypatch.undo()
    assert cast("bool", survives(lambda: rows(path), "x.parquet"))
