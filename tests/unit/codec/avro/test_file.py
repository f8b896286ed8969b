from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pytest

from beam_jobs.codec import read_avro, write_avro
from beam_jobs.codec.avro.file import AvroWriter, _long
from beam_jobs.errors import UserError

SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "R",
    "fields": [{"name": "s", "type": "string"}, {"name": "n", "type": ["null", "long"]}],
}
ROWS = pa.record_batch({"s": ["a", "b", "c"], "n": pa.array([1, None, 3])})


def written(path: Path, codec: str = "deflate") -> bytes:
    assert write_avro(path, SCHEMA, [ROWS, ROWS.slice(0, 0), ROWS.slice(1)], codec) == 5
    return path.read_bytes()


def read(path: Path) -> list[Any]:
    return [row for batch in read_avro(path, SCHEMA) for row in batch.to_pylist()]


@pytest.mark.parametrize("codec", ["deflate", "null"])
def test_round_trip(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "rows.avro"
    written(path, codec)
    expected = ROWS.to_pylist() + ROWS.slice(1).to_pylist()
    assert read(path) == expected
    with path.open("rb") as file:
        assert list(fastavro.reader(file)) == expected
    assert [p.name for p in tmp_path.iterdir()] == ["rows.avro"]


def test_projection_and_evolution(tmp_path: Path) -> None:
    written(tmp_path / "rows.avro")
    reader = {
        "type": "record",
        "name": "R",
        "fields": [{"name": "number", "type": ["null", "double"], "aliases": ["n"]}, SCHEMA["fields"][0]],
    }
    batch = next(read_avro(tmp_path / "rows.avro", reader, ["number"]))
    assert batch.to_pydict() == {"number": [1.0, None, 3.0]}


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    write_avro(tmp_path / "rows.avro", SCHEMA, [])
    assert read(tmp_path / "rows.avro") == []


def test_every_damaged_byte_is_an_error_with_the_files_name_or_changes_only_values(tmp_path: Path) -> None:
    path = tmp_path / "rows.avro"
    whole = written(path, "null")
    for at in range(len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            try:
                read(path)
            except UserError as e:
                assert str(path) in str(e)  # noqa: PT017
                assert "\n" not in str(e)  # noqa: PT017


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "has no readable header"),
        (b"PAR1....", "is it an Avro file?"),
    ],
)
def test_not_an_avro_file(tmp_path: Path, content: bytes, part: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UserError, match=part):
        read(tmp_path / "x")


def test_a_missing_file_and_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.avro' cannot be opened: No such file or directory; check the path"):
        read(tmp_path / "nothing.avro")
    with pytest.raises(UserError, match="cannot be written: No such file or directory; check"):
        write_avro(tmp_path / "nowhere" / "x.avro", SCHEMA, [ROWS])


def test_a_schema_that_does_not_resolve(tmp_path: Path) -> None:
    written(tmp_path / "rows.avro")
    reader = {**SCHEMA, "fields": [{"name": "s", "type": "int"}]}
    with pytest.raises(UserError, match="does not fit the reader schema: field 's': the writer's string has no place"):
        list(read_avro(tmp_path / "rows.avro", reader))


def test_a_value_that_has_no_place_says_nothing_of_a_broken_file(tmp_path: Path) -> None:
    written(tmp_path / "rows.avro")
    reader = {**SCHEMA, "fields": [{"name": "n", "type": SCHEMA["fields"][1]["type"][1]}]}
    with pytest.raises(UserError, match=r"record 1: field 'n': the writer's null has no place .* be null$"):
        list(read_avro(tmp_path / "rows.avro", reader))


def test_a_record_that_is_not_what_the_header_says(tmp_path: Path) -> None:
    out = io.BytesIO()
    fastavro.writer(out, SCHEMA, ROWS.to_pylist(), codec="null")
    damaged = out.getvalue().replace(b"\x02b\x00", b"\x02b\x0e")
    (tmp_path / "x").write_bytes(damaged)
    with pytest.raises(UserError, match="block 0, record 1: field 'n' at byte 2: union branch 7, expected 0 to 1"):
        read(tmp_path / "x")


def test_writing_fails_whole(tmp_path: Path) -> None:
    def batches() -> Any:
        yield ROWS
        raise UserError("the source broke")

    with pytest.raises(UserError, match="the source broke"):
        write_avro(tmp_path / "x.avro", SCHEMA, batches())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="codec 'zstd'"):
        write_avro(tmp_path / "x.avro", SCHEMA, [ROWS], "zstd")


def test_a_block_of_records_that_announce_items_of_no_bytes_is_broken(tmp_path: Path) -> None:
    """A budget a record would let each of 60,000 announce as many items as the block has bytes: 10**10."""
    items = {"type": "array", "items": {"type": "record", "name": "E", "fields": []}}
    schema = {"type": "record", "name": "R", "fields": [{"name": "x", "type": items}]}
    path = tmp_path / "bomb.avro"
    n = 60_000
    body = (_long(n) + _long(0)) * n
    with path.open("wb") as file:
        writer = AvroWriter(file, schema, "null")
        file.write(_long(n) + _long(len(body)) + body + writer._sync)
    started = time.thread_time()
    with pytest.raises(UserError, match="more than the value can hold"):
        list(read_avro(path, schema))
    assert time.thread_time() - started < 5
