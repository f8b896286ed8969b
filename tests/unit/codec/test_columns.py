"""Columns of any Arrow type as the fields of a schema: the same values, or one line that names the column."""

from __future__ import annotations

import datetime
import decimal
import logging
import uuid
from typing import Any

import pyarrow as pa
import pytest

from beam_jobs.codec import columns
from beam_jobs.codec.columns import Fit, fit
from beam_jobs.codec.schema import arrow_schema
from beam_jobs.errors import UserError

MS, US = pa.timestamp("ms", "UTC"), pa.timestamp("us", "UTC")
T0 = 1_764_000_000_123  # milliseconds
UUID = uuid.UUID("0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9")


def values(array: pa.Array, kind: pa.DataType) -> list[Any]:
    fitted = fit(array, kind, "x.parquet: column 'c'")
    assert fitted.type == kind
    plain = fitted.cast(pa.int64()) if pa.types.is_timestamp(kind) else fitted
    return list(plain.to_pylist())


@pytest.mark.parametrize(
    ("array", "kind", "expected"),
    [
        (pa.array([T0], pa.timestamp("ms")), MS, [T0]),  # without a zone: UTC
        (pa.array([T0 * 1000], pa.timestamp("us", "Europe/Berlin")), MS, [T0]),  # the instant stays
        (pa.array([T0 * 10**6], pa.timestamp("ns")), MS, [T0]),
        (pa.array([T0 // 1000], pa.timestamp("s")), MS, [T0 // 1000 * 1000]),
        (pa.array([T0 // 1000], pa.timestamp("s")), US, [T0 // 1000 * 10**6]),
        (pa.array([T0 * 10**6 + 456_789], pa.timestamp("ns")), MS, [T0]),
        (pa.array([T0 * 10**6 + 456_789], pa.timestamp("ns", "UTC")), US, [T0 * 1000 + 456]),
        (pa.array([T0 * 1000 + 7, None], pa.timestamp("us", "UTC")), MS, [T0, None]),
        (pa.array([-1, -1000, -1001], pa.timestamp("us")), MS, [-1, -1, -2]),  # down, also before 1970
        (pa.array(["1969-12-31T23:59:59.999999Z", None]), MS, [-1, None]),
        (pa.array(["2025-11-24T17:00:00.123+01:00"]), MS, [T0]),
        (pa.array([20_000], pa.date32()), pa.timestamp("ms"), [20_000 * 86_400_000]),
        (pa.array([T0]), MS, [T0]),  # milliseconds since 1970
        (pa.array([0, None]), MS, [0, None]),
        (pa.array([None], pa.int64()), MS, [None]),
        (pa.array(["1.5", None], pa.large_string()), pa.float64(), [1.5, None]),
        (pa.array(["a", None], pa.large_string()), pa.string(), ["a", None]),
        (pa.array(["a", None], pa.string_view()), pa.string(), ["a", None]),
        (pa.array([b"a"], pa.large_binary()), pa.string(), ["a"]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), pa.string(), ["a", "b", "a"]),
        (pa.array([1.5, 2.5]).dictionary_encode(), pa.float64(), [1.5, 2.5]),
        (pa.array([decimal.Decimal("1.50")], pa.decimal256(60, 2)), pa.float64(), [1.5]),
        (pa.array([decimal.Decimal("1.50")], pa.decimal256(60, 2)), pa.decimal128(4, 2), [decimal.Decimal("1.50")]),
        (pa.array([7], pa.uint8()), pa.float64(), [7.0]),
        (pa.array([7.0]), pa.int64(), [7]),
        (pa.array([1.5], pa.float16()), pa.float64(), [1.5]),
        (pa.array([1_999, None], pa.time64("us")), pa.time32("ms"), [datetime.time(0, 0, 0, 1000), None]),
        (pa.array([1_999], pa.time64("ns")), pa.time64("us"), [datetime.time(0, 0, 0, 1)]),
        (pa.array([b"x" * 16, UUID.bytes, None], pa.uuid())[1:], pa.string(), [str(UUID), None]),
        (pa.array([UUID.bytes], pa.uuid()), pa.binary(16), [UUID.bytes]),
        (pa.array(['{"a": 1}']).cast(pa.json_()), pa.string(), ['{"a": 1}']),
    ],
)
def test_the_same_values(array: pa.Array, kind: pa.DataType, expected: list[Any]) -> None:
    assert values(array, kind) == expected


@pytest.mark.parametrize(
    ("array", "kind", "said"),
    [
        (pa.array(["1.5", "driver: Jane\nDoe"]), pa.float64(), r"holds 'driver: Jane\\nDoe'; convert it before"),
        (pa.array([b"\xff\x1b[31m"]), pa.string(), r"holds b'\\xff\\x1b\[31m'"),
        (pa.array([2**40]), pa.int32(), "holds 1099511627776"),
        (pa.array([2**64 - 1], pa.uint64()), pa.int64(), "holds 18446744073709551615"),
        (pa.array([1.0, float("nan")]), pa.int64(), "holds nan"),
        (pa.array([2**53 + 1]), pa.float64(), "holds 9007199254740993"),
        (pa.array([decimal.Decimal(10**40)], pa.decimal256(60, 2)), pa.decimal128(4, 2), "holds Decimal"),
        (pa.array([[1.0]]), pa.float64(), r"is list<.*double> and can't become double; convert"),
        (pa.array([{"x": 1.0}]), pa.float64(), r"is struct<x: double> and can't become double; convert"),
        (pa.array([T0], pa.timestamp("ms")), pa.float64(), "is timestamp.* and can't become double"),
        (pa.array([datetime.time(1)]), MS, "is time64.* and can't become timestamp"),
        (pa.array([2**62], pa.timestamp("s")), MS, "holds"),
        (pa.array([T0 // 1000]), MS, "looks like seconds"),
        (pa.array([T0 * 1000]), MS, "looks like a finer unit"),
        (pa.array([T0]), US, "looks like seconds|a finer unit"),
        (pa.array([T0 * 10**6]), US, "looks like a finer unit"),
        (
            pa.Array.from_buffers(
                pa.string(), 1, [None, pa.array([0, 2], pa.int32()).buffers()[1], pa.py_buffer(b"\xc3\x28")]
            ),
            pa.string(),
            "no UTF-8",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(array: pa.Array, kind: pa.DataType, said: str) -> None:
    with pytest.raises(UserError, match=r"x\.parquet: column 'c' .*" + f"({said})") as error:
        fit(array, kind, "x.parquet: column 'c'")
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("sliced", [False, True])
def test_what_is_inside_a_column_is_fitted_as_well(sliced: bool) -> None:
    """Times are rounded down and UUIDs made texts in records, lists and maps, as Spark and DuckDB write them."""
    have = pa.struct([("at", US), ("who", pa.uuid()), ("more", pa.int8())])
    want = pa.struct([("who", pa.string()), ("at", MS)])
    parts = [
        pa.array([None, -1, T0 * 1000 + 999, None], US),
        pa.array([None, UUID.bytes, None, None], pa.uuid()),
        pa.array([None, 1, 1, None], pa.int8()),
    ]
    rows = pa.StructArray.from_arrays(parts, fields=list(have), mask=pa.array([True, False, False, True]))
    expected = [None, (str(UUID), -1), (None, T0), None]
    lists = pa.ListArray.from_arrays(pa.array([0, 2, None, 4], pa.int32()), rows)
    maps = pa.MapArray.from_arrays(pa.array([0, 2, 4], pa.int32()), pa.array(list("abcd")), rows)
    for array, kind, shown in (
        (rows, want, expected),
        (lists, pa.list_(want), [expected[:2], expected[2:], None]),
        (maps, pa.map_(pa.string(), want), [[("a", None), ("b", expected[1])], [("c", expected[2]), ("d", None)]]),
    ):
        part, rest = (array[1:], shown[1:]) if sliced else (array, shown)
        fitted = fit(part, kind, "x.parquet: column 'c'")
        fitted.validate(full=True)
        assert [_plain(value) for value in fitted.to_pylist()] == rest


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return value["who"], round(value["at"].timestamp() * 1000)
    return type(value)(map(_plain, value)) if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("array", [pa.array([UUID.bytes]).cast(pa.binary(16)), pa.array([str(UUID)])])
def test_bytes_of_a_uuid_field_become_its_text(array: pa.Array) -> None:
    field = {"name": "u", "type": {"type": "fixed", "name": "U", "size": 16, "logicalType": "uuid"}}
    schema = {"type": "record", "name": "E", "fields": [field]}
    assert Fit("x", ["u"], schema, arrow_schema(schema)).rows({"u": array}, 1).to_pylist() == [{"u": str(UUID)}]


def test_texts_inside_lists_are_looked_at() -> None:
    offsets = pa.array([0, 2], pa.int32())
    bad = pa.Array.from_buffers(pa.string(), 1, [None, offsets.buffers()[1], pa.py_buffer(b"\xc3\x28")])
    with pytest.raises(UserError, match="x: column 'c' is damaged, or no UTF-8"):
        fit(pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), bad), pa.list_(pa.string()), "x: column 'c'")


def test_rounding_is_said_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_TOLD", set())
    with caplog.at_level(logging.WARNING):
        for name in ("a.parquet", "b.parquet"):
            fit(pa.array([T0 * 1000 + 7], pa.timestamp("us")), MS, f"{name}: column 'at'")
            fit(pa.array([T0 * 1000], pa.timestamp("us")), MS, f"{name}: column 'at'")
    assert caplog.messages == ["a.parquet: column 'at': times finer than the schema's milliseconds are rounded down"]


def test_a_missing_column_names_those_that_are_there() -> None:
    schema = {"type": "record", "name": "E", "fields": [{"name": "speed", "type": "double"}]}
    names = [f"c{i}\x1b" for i in range(1000)]
    with pytest.raises(UserError, match=r"x: no column 'speed'; it has c0\\x1b, c1.* and 980 more") as error:
        Fit("x", names, schema, arrow_schema(schema))
    assert len(str(error.value)) < 400
