"""CSV files as rows of a schema: what each kind of field takes, what is missing, and what is told of wrong rows."""

from __future__ import annotations

import csv
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_jobs.codec.columns import field_name
from beam_jobs.codec.csv import reader
from beam_jobs.codec.csv.cells import convert
from beam_jobs.codec.csv.dialect import Dialect, header_of
from beam_jobs.codec.csv.reader import read_csv
from beam_jobs.codec.schema import parse_schema
from beam_jobs.errors import UserError

MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}
SEVEN = datetime(2026, 11, 22, 7, tzinfo=UTC)


def schema(**fields: Any) -> dict[str, Any]:
    """A record of nullable fields; a list of properties is taken as it is."""
    named = [
        {"name": name, **kind} if isinstance(kind, dict) and "name" not in kind and "field" in kind
        else {"name": name, "type": ["null", kind], "default": None}
        for name, kind in fields.items()
    ]  # fmt: skip
    return {"type": "record", "name": "R", "fields": named}


def load(file: Path, wanted: dict[str, Any], dialect: Dialect = Dialect()) -> tuple[list[dict[str, Any]], list[str]]:
    blocks = list(read_csv(file, wanted, dialect=dialect))
    return [row for block in blocks for row in block.rows.to_pylist()], [
        e for block in blocks for e in block.errors.errors
    ]


def one(tmp_path: Path, text: str, kind: Any, dialect: Dialect = Dialect()) -> Any:
    """What a cell becomes; the error if it is refused."""
    file = tmp_path / "one.csv"
    file.write_text(f"x|y\n{text}|end\n", encoding="utf-8")
    rows, errors = load(file, schema(x=kind, y="string"), Dialect("|", dialect.decimal, dialect.times))
    return rows[0]["x"] if rows else errors[0]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("1.5", "double", 1.5),
        (" -2e-3 ", "double", -0.002),
        ("+7", "double", 7.0),
        ("12", "long", 12),
        ("12.0", "long", 12),
        ("1e+05", "long", 100_000),
        ("+3", "int", 3),
        ("-9223372036854775808", "long", -(2**63)),
        ("9007199254740993", "long", 2**53 + 1),
        ("TRUE", "boolean", True),
        ("0", "boolean", False),
        ("12.5", DECIMAL, Decimal("12.50")),
        ("-0001.2000", DECIMAL, Decimal("-1.20")),
        ("5.", DECIMAL, Decimal("5.00")),
        ("b", {"type": "enum", "name": "E", "symbols": ["a", "b"]}, "b"),
        ("NA", "string", "NA"),
        (" a b ", "string", " a b "),
        ('"two\nlines, ""quoted"""', "string", 'two\nlines, "quoted"'),
        ('""', "string", ""),
        ("", "string", None),
        ("NA", "double", None),
        ("nan", "double", None),
        ("", "long", None),
        ('""', "long", None),
        ("NULL", MILLIS, None),
        ("2026-11-22", {"type": "int", "logicalType": "date"}, date(2026, 11, 22)),
        *[
            (text, MILLIS, SEVEN)
            for text in (
                "2026-11-22T07:00:00Z",
                "2026-11-22 07:00:00",
                "2026-11-22T07:00",
                "2026/11/22 7:00",
                "2026-11-22T08:00:00+01:00",
                "2026-11-22T02:30:00-0430",
                "2026-11-22 08:00:00.000000000 +01",
                "1795330800000",
            )
        ],
        ("2026-11", MILLIS, datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-22T07:00:00.250Z", MILLIS, SEVEN + timedelta(milliseconds=250)),
        ("2026-11-22T07:00:00.2509", MILLIS, SEVEN + timedelta(milliseconds=250)),
        ("1969-12-31T23:59:59.5Z", MILLIS, datetime(1969, 12, 31, 23, 59, 59, 500_000, UTC)),
    ],
)
def test_cells(tmp_path: Path, text: str, kind: Any, value: Any) -> None:
    assert one(tmp_path, text, kind) == value


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("fast", "double"),
        ("1_000", "double"),
        ("1,5", "double"),
        ("0x10", "long"),
        ("1.5", "long"),
        ("3000000000", "int"),
        ("9223372036854775808", "long"),
        ("maybe", "boolean"),
        ("123456.00", DECIMAL),
        ("1.234", DECIMAL),
        (".", DECIMAL),
        ("c", {"type": "enum", "name": "E", "symbols": ["a", "b"]}),
        ("2026-02-30", MILLIS),
        ("22.11.2026", MILLIS),
        ("2026-11-22T07:00:00+", MILLIS),
        ("yesterday", MILLIS),
    ],
)
def test_cells_that_do_not_fit_are_told(tmp_path: Path, text: str, kind: Any) -> None:
    told = one(tmp_path, text, kind)
    assert told.startswith(f"row 1: field 'x' is {text!r}, expected ")


@pytest.mark.parametrize(
    ("text", "times", "value"),
    [
        ("1795330800", "seconds", SEVEN),
        ("1795330800.25", "seconds", SEVEN + timedelta(milliseconds=250)),
        ("1795330800000", "milliseconds", SEVEN),
        ("22.11.2026 07:00", "%d.%m.%Y %H:%M", SEVEN),
        ("Nov 22 2026", "%b %d %Y", datetime(2026, 11, 22, tzinfo=UTC)),
        ("22.11.2026 08:00 +0100", "%d.%m.%Y %H:%M %z", SEVEN),
    ],
)
def test_times_that_the_use_case_describes(tmp_path: Path, text: str, times: str, value: datetime) -> None:
    assert one(tmp_path, text, MILLIS, Dialect(times=times)) == value
    assert "expected timestamp-millis" in one(tmp_path, "never", MILLIS, Dialect(times=times))


DAY = {"type": "int", "logicalType": "date"}
NANOS_EACH = {"timestamp-millis": 10**6, "local-timestamp-micros": 10**3, "timestamp-nanos": 1, "date": 86_400 * 10**9}


@given(st.lists(st.integers(-(2**62), 2**62), min_size=1), st.sampled_from(sorted(NANOS_EACH)))
@settings(max_examples=50)
def test_moments_are_rounded_down_to_the_unit_of_the_field(nanos: list[int], logical: str) -> None:
    texts = pa.array([str(np.datetime64(each, "ns")) for each in nanos])
    kind = parse_schema(DAY if logical == "date" else {"type": "long", "logicalType": logical})
    values, bad = convert(texts, kind, Dialect())
    counted = values.cast(pa.int32() if logical == "date" else pa.int64()).to_pylist()
    assert (counted, bad.any()) == ([each // NANOS_EACH[logical] for each in nanos], False)


@pytest.mark.parametrize(
    ("text", "logical", "times", "count"),
    [
        ("1795330800123456789", "timestamp-nanos", None, 1795330800123456789),
        ("20000", "date", None, 20_000),
        ("99999999999", "date", None, None),
        ("9999-01-01T00:00:00Z", "timestamp-nanos", None, None),  # 64 bits end in 2262
        ("253402300799000", "timestamp-nanos", "milliseconds", None),
        ("-0.0001", "timestamp-millis", "seconds", -1),
        ("31.12.1969 23:59:59.9999", "timestamp-millis", "%d.%m.%Y %H:%M:%S%.f", -1),
        ("31.12.1969", "date", "%d.%m.%Y", -1),
    ],
)
def test_whole_numbers_count_the_unit_of_the_field(text: str, logical: str, times: str, count: int | None) -> None:
    kind = parse_schema(DAY if logical == "date" else {"type": "long", "logicalType": logical})
    values, bad = convert(pa.array([text]), kind, Dialect(times=times))
    assert values.cast(pa.int32() if logical == "date" else pa.int64()).to_pylist() == [count]
    assert bad.tolist() == [count is None]


def test_a_decimal_comma(tmp_path: Path) -> None:
    comma = Dialect(decimal=",")
    assert one(tmp_path, "1,5", "double", comma) == 1.5
    assert one(tmp_path, "-12,50", DECIMAL, comma) == Decimal("-12.50")
    assert one(tmp_path, "1.234", "double", comma) == "row 1: field 'x' is '1.234', expected double"


def test_wrong_rows_have_their_numbers_and_take_no_other_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_CHUNK_BYTES", 64)  # many blocks
    lines = [f"{n},{n}" for n in range(1, 41)]
    lines[4], lines[5], lines[20], lines[30] = "5", "6,six", "1,2,3", "31,"
    (tmp_path / "x.csv").write_text("a,b\n" + "\n".join(lines))
    wanted = schema(a="long", b="long")
    wanted["fields"][1] = {"name": "b", "type": "long"}
    rows, errors = load(tmp_path / "x.csv", wanted)
    assert [row["a"] for row in rows] == [n for n in range(1, 41) if n not in (5, 6, 21, 31)]
    assert sorted(errors) == [
        "row 21: has 3 cells, expected 2 as the header has",
        "row 31: field 'b' is empty, expected long",
        "row 5: has 1 cells, expected 2 as the header has",
        "row 6: field 'b' is 'six', expected long",
    ]


def test_personal_values_are_not_told(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("phone,b\nJane Doe,1\n")
    field = {"name": "phone", "type": "long", "pii": "direct"}
    rows, [error] = load(tmp_path / "x.csv", {"type": "record", "name": "R", "fields": [field]})
    assert (rows, "Jane" in error) == ([], False)


def test_columns_find_their_fields(tmp_path: Path) -> None:
    """By name, alias, or the name as Avro takes it; in any order, after a byte order mark; others are left alone."""
    (tmp_path / "x.csv").write_bytes("\ufeffTemp (°C);other;KEY;b\r\n1;\udcff;k;2\r\n".encode(errors="surrogateescape"))
    wanted = schema(b="long", key="string", Temp_C="double", gone="double")
    wanted["fields"][1]["aliases"] = ["KEY"]
    assert load(tmp_path / "x.csv", wanted) == ([{"b": 2, "key": "k", "Temp_C": 1.0, "gone": None}], [])


def test_a_field_without_a_column_is_its_default(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a\n1\n2\n")
    wanted = schema(a="long", device={"field": 1, "type": "string", "default": "one"})
    assert load(tmp_path / "x.csv", wanted)[0] == [{"a": 1, "device": "one"}, {"a": 2, "device": "one"}]


def test_a_cell_that_is_no_utf8_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"a,b\nok,1\n\xfcber,2\n")
    rows, [error] = load(tmp_path / "x.csv", schema(a="string", b="long"))
    assert rows == [{"a": "ok", "b": 1}]
    assert error == "row 2: field 'a': byte 0 is not UTF-8; save it as UTF-8"


def test_rows_that_are_none(tmp_path: Path) -> None:
    """A file in another encoding, and one with a quote that has no end, are one line."""
    file, wanted = tmp_path / "x.csv", schema(x="string", y="double")
    for text in ("x,y°\na,1\n".encode("latin-1"), "x,y\na,1\n".encode("utf-16")):
        file.write_bytes(text)
        with pytest.raises(UserError, match=r"x\.csv: is not UTF-8; save it as UTF-8"):
            load(file, wanted)


def test_a_quote_without_an_end_takes_no_row_along_in_silence(tmp_path: Path) -> None:
    file, wanted = tmp_path / "x.csv", schema(y="double")
    file.write_text('y,x\n1,a\n2,"b\n' + "3,c\n" * 50_000)
    with pytest.raises(UserError, match="a quote has no end"):
        load(file, wanted)
    file.write_text('x,y\na,1\n"b,2\n' + "c,3\n" * 50_000)
    with pytest.raises(UserError, match="a quote has no end"):
        load(file, wanted)
    file.write_text('x,y\na 5" disk,1\n"two\nlines",2\nc,3')
    assert load(file, wanted) == ([{"y": 1.0}, {"y": 2.0}, {"y": 3.0}], [])
    file.write_text('x,y\n"two\nlines"\nc,3')
    assert load(file, wanted)[1] == [
        "row 1: has 1 cells, expected 2 as the header has; 1 more lines are inside its quotes"
    ]


@pytest.mark.parametrize(
    ("text", "kind", "what"),
    [
        ("", "double", "is empty; write a header"),
        ("y\n1\n", {"field": 1, "type": "double"}, "no column 'x'; it has y"),
        ("x,x\n1,2\n", "double", "has the column 'x' more than once"),
        ("x y,x-y\n1,2\n", "double", "has the column"),
        ("x\n1\n", {"type": "array", "items": "int"}, "no form for a field of the type array"),
    ],
)
def test_files_that_will_not_do(tmp_path: Path, text: str, kind: Any, what: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    name = "x_y" if "x y" in text else "x"
    with pytest.raises(UserError, match=what) as refused:
        load(tmp_path / "x.csv", schema(**{name: kind}))
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv: can't be read"):
        load(tmp_path / "none.csv", schema(x="double"))


@pytest.mark.parametrize(
    ("header", "delimiter"),
    [("a,b,c", ","), ("a;b;c", ";"), ("a\tb", "\t"), ("a|b|c", "|"), ("a", ","), ("x,y;b", ";")],
)
def test_the_delimiter_is_found(tmp_path: Path, header: str, delimiter: str) -> None:
    (tmp_path / "x.csv").write_text(header + "\n")
    assert header_of(tmp_path / "x.csv", "x.csv", None, ["a", "b"]) == (delimiter, header.split(delimiter))


@pytest.mark.parametrize(
    ("settings_", "what"),
    [
        ({"delimiter": "tab"}, "one character"),
        ({"decimal": ";"}, "expected '.' or ','"),
        ({"times": "iso"}, "a format"),
    ],
)
def test_a_dialect_that_is_none(settings_: dict[str, str], what: str) -> None:
    with pytest.raises(UserError, match=what):
        Dialect(**settings_)


def test_names_that_avro_takes() -> None:
    assert [field_name(name) for name in ("Temp (°C)", "2nd", "ok", "ß")] == ["Temp_C", "c2nd", "ok", "column"]


ROWS = st.lists(
    st.tuples(
        st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0\r"), min_size=1),
        st.none() | st.integers(-(2**63), 2**63 - 1),
        st.none() | st.floats(allow_nan=False, allow_infinity=False),
        st.none() | st.booleans(),
        st.none() | st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)),
    ),
    min_size=1,
    max_size=20,
)


@settings(max_examples=60)
@given(ROWS, st.sampled_from([",", ";", "\t", "|"]))
def test_what_python_writes_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], delimiter: str
) -> None:
    file = tmp_path_factory.mktemp("csv") / "x.csv"
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(
            opened, delimiter=delimiter, quoting=csv.QUOTE_STRINGS if hasattr(csv, "QUOTE_STRINGS") else csv.QUOTE_ALL
        )
        writer.writerow(["a", "b", "c", "d", "e"])
        writer.writerows([[*row[:4], row[4] and row[4].isoformat()] for row in rows])
    micros = {"type": "long", "logicalType": "timestamp-micros"}
    [block] = [
        b for b in read_csv(file, schema(a="string", b="long", c="double", d="boolean", e=micros)) if b.rows.num_rows
    ]
    assert not len(block.errors)
    want = [[column[i] for column in rows] for i in range(5)]
    assert [block.rows.column(i).to_pylist() for i in range(4)] == want[:4]
    times = block.rows.column("e").cast(pa.timestamp("us")).to_pylist()
    assert times == want[4]
