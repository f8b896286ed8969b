"""Expressions of the preprocessing SQL at random, of every type, and rows with the edge values of each type."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

import pyarrow as pa

Kind = Literal["number", "boolean", "text", "timestamp"]

_NULLABLE_TYPES: dict[str, Any] = {
    "i": "int",
    "j": "int",
    "l": "long",
    "m": "long",
    "f": "float",
    "g": "float",
    "d": "double",
    "e": "double",
    "p": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
    "q": {"type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 6},
    "b": "boolean",
    "c": "boolean",
    "s": "string",
    "t": "string",
    "u": {"type": "long", "logicalType": "timestamp-millis"},
    "v": {"type": "long", "logicalType": "timestamp-micros"},
}
SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "E",
    "fields": [{"name": name, "type": ["null", type_]} for name, type_ in _NULLABLE_TYPES.items()],
}
_COLUMNS: dict[Kind, str] = {"number": "ijlmfgdepq", "boolean": "bc", "text": "st", "timestamp": ""}
_TIMES = ("u", "v")

_INTS = (0, 1, -1, 2, 3, 5, 7, 10, 100, -7, 2**31 - 1, -(2**31), 16777217)
_LONGS = (*_INTS, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 1234567890123456789, 1234567890123456788)
_FLOATS = (
    0.0,
    -0.0,
    0.1,
    0.5,
    1.0,
    -1.5,
    2.5,
    3.5,
    11.9,
    16777216.0,
    1e-45,
    1e-30,
    3.4e38,
    -3.4e38,
    1e10,
    0.3,
    1000.25,
)
_DOUBLES = (
    *_FLOATS,
    0.30000000000000004,
    1.005,
    2.675,
    -0.125,
    9007199254740993.0,
    9.3e18,
    5e-324,
    1e300,
    -1e308,
    2147483647.5,
)
_ODD = (math.nan, math.inf, -math.inf)
_SMALL_DECIMALS = tuple(Decimal(f"{v}e-2") for v in (0, 1, 10, 50, -50, 125, 250, -250, 999999999, -999999999, 1234))
_DECIMALS = tuple(Decimal(f"{v}e-6") for v in (0, 1, 10**5, 5 * 10**5, -15 * 10**5, 10**6, 2**53 + 1, 10**18 - 1))
_TEXTS = (
    *[
        "",
        " ",
        "a",
        "A",
        "x",
        "xy",
        "x.y",
        "abc",
        "a%b",
        "a_b",
        "a\\b",
        "a'b",
        "Straße",
        "ΑΣ",
        "ß",
        "İ",
        "\u0131",
        "ﬁ",
        "ŉ",
    ],
    *[
        "ς",
        "é",
        "e\u0301",
        "日本",
        "🚗x",
        "7",
        " 7 ",
        "\t7\n",
        "1_000",
        "1__0",
        "_1",
        "1e3",
        "1E+3",
        "1e",
        "+1",
        "--1",
        ".5",
    ],
    *[
        "5.",
        ".",
        "0x1F",
        "1e400",
        "1e39",
        "1e-400",
        "nan",
        "-NaN",
        "nan(1)",
        "inf",
        "+Infinity",
        "infin",
        "true",
        "1,5",
        "٣",
    ],
    *["1 0", "0.1", "0.30000000000000004", "9007199254740993", "16777217", "3.4028235677973366e38", "1_0.5_0e1_0"],
    *["1\x0b", "\xa07"],
)
_MOMENTS = (
    *(
        "1970-01-01 00:00:00",
        "2001-01-01 12:00:00",
        "1969-12-31 23:59:59.999",
        "0001-01-01 00:00:00",
        "1999-12-31 23:59:59",
    ),
    *("9999-12-31 23:59:59.999", "2000-02-29 06:07:08.009", "2026-03-29 02:30:00", "1582-10-10 00:00:00"),
)
_FINER = (*_MOMENTS, "2001-01-01 12:00:00.000001", "9999-12-31 23:59:59.999999", "1969-12-31 23:59:59.999999")


def rows(rng: random.Random, n: int) -> pa.RecordBatch:
    """n rows of SCHEMA: edge values, some others, some nulls."""

    def values(edges: Any, other: Any, nulls: float = 0.15) -> list[Any]:
        return [
            None if rng.random() < nulls else rng.choice(edges) if rng.random() < 0.8 else other() for _ in range(n)
        ]

    def moment() -> datetime:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=rng.randint(-(10**12), 2 * 10**12))

    def times(edges: tuple[str, ...]) -> list[Any]:
        return values([datetime.fromisoformat(edge).replace(tzinfo=UTC) for edge in edges], moment)

    def halves() -> float:
        return rng.randint(-40, 40) / 2

    columns: dict[str, Any] = {}
    for name in "ij":
        columns[name] = pa.array(values(_INTS, lambda: rng.randint(-9, 9)), pa.int32())
    for name in "lm":
        columns[name] = pa.array(values(_LONGS, lambda: rng.randint(-9, 9)), pa.int64())
    for name in "fg":
        columns[name] = pa.array(values(_FLOATS + _ODD, halves), pa.float32())
    for name in "de":
        columns[name] = pa.array(values(_DOUBLES + _ODD, halves), pa.float64())
    columns["p"] = pa.array(
        values(_SMALL_DECIMALS, lambda: Decimal(f"{rng.randint(-999, 999)}e-2")), pa.decimal128(9, 2)
    )
    columns["q"] = pa.array(values(_DECIMALS, lambda: Decimal(f"{rng.randint(-999, 999)}e-2")), pa.decimal128(18, 6))
    for name in "bc":
        columns[name] = pa.array(values((True, False), lambda: True), pa.bool_())
    for name in "st":
        columns[name] = pa.array(values(_TEXTS, lambda: "".join(rng.choices("xyaXß1. ", k=3))), pa.string())
    columns["u"] = pa.array(times(_MOMENTS), pa.timestamp("ms", "UTC"))
    columns["v"] = pa.array(times(_FINER), pa.timestamp("us", "UTC"))
    return pa.record_batch(columns)


@dataclass(frozen=True)
class Generator:
    """Writes expressions; brackets that DuckDB's precedence makes needless are left out now and then."""

    rng: random.Random

    def expression(self) -> str:
        if self.rng.random() < 0.03:  # not inside another: the last bit is the library's
            form = self._pick(
                *("LOG10({})", "LOG({})", "LOG(2, {})", "LOG({}, 9)", "POWER({}, 3)", "POWER({}, 0.5)", "2 ^ {}"),
                *("SIN({})", "COS({})", "TAN({})", "ASIN({})", "ACOS({})", "ATAN({})", "ATAN2({}, 2)", "ATAN2(-1, {})"),
                *("RADIANS({})", "DEGREES({})", "{} * PI()"),
            )
            return form.format(self._leaf("number"))
        kind: Kind = self.rng.choice(["number", "number", "number", "boolean", "boolean", "boolean", "text"])
        return self.of(kind, self.rng.choice([1, 2, 2, 3]))

    def of(self, kind: Kind, depth: int) -> str:
        if kind == "timestamp":
            return self._timestamp()
        if depth <= 0 or self.rng.random() < 0.1:
            return self._leaf(kind)
        if self.rng.random() < 0.15:
            return self._choice(kind, depth - 1)
        return {"number": self._number, "boolean": self._boolean, "text": self._text}[kind](depth - 1)

    def _pick(self, *choices: str) -> str:
        return self.rng.choice(choices)

    def _leaf(self, kind: Kind) -> str:
        if kind == "boolean" and self.rng.random() < 0.15:
            return self._pick("TRUE", "FALSE", "NULL")
        if kind == "text" and self.rng.random() < 0.3:
            return self._string()
        if kind == "number" and self.rng.random() < 0.4:
            return self._literal()
        return self.rng.choice(_COLUMNS[kind])

    def _literal(self) -> str:
        near = self.rng.choice(
            [*map(str, _LONGS), *map(repr, _DOUBLES), *map(str, _SMALL_DECIMALS), *map(str, _DECIMALS)]
        )
        odd = (
            "1e3",
            "1E-3",
            "1e0",
            ".5",
            "5.",
            "0.10",
            "00.1",
            "1_000",
            "1.5e1",
            "123456789.123456789",
            "0.1e0",
            "NULL",
        )
        text = near if self.rng.random() < 0.6 else self.rng.choice(odd)
        return f"({text})" if text.startswith("-") else text

    def _string(self) -> str:
        return "'" + self.rng.choice([text for text in _TEXTS if "\0" not in text]).replace("'", "''") + "'"

    def _timestamp(self) -> str:
        if self.rng.random() < 0.6:
            return self._pick(*_TIMES)
        return f"TIMESTAMP '{self.rng.choice(_FINER)}{self._pick('', '', 'Z')}'"

    def _brackets(self, text: str, often: float = 0.8) -> str:
        return f"({text})" if self.rng.random() < often else text

    def _choice(self, kind: Kind, depth: int) -> str:
        a, b, c = (self.of(kind, depth) for _ in range(3))
        match self.rng.randrange(4):
            case 0:
                x, y = self.of("boolean", depth), self.of("boolean", depth)
                return f"CASE WHEN {x} THEN {a} WHEN {y} THEN {b} ELSE {c} END"
            case 1:
                other: Kind = self.rng.choice(["number", "text", "boolean"])
                x, y, z = (self.of(other, depth - 1) for _ in range(3))
                return f"CASE {x} WHEN {y} THEN {a} WHEN {z} THEN {b} END"
            case 2:
                return f"COALESCE({a}, {b}, {c})"
            case _:
                return f"NULLIF({a}, {b})"

    def _number(self, depth: int) -> str:
        a = self.of("number", depth)
        match self.rng.randrange(12):
            case 0 | 1 | 2:
                operator, b = self._pick("+", "-", "*", "/", "%"), self.of("number", depth)
                gap = self._pick(" ", "") if operator in "+*" and not b.startswith(("-", "+")) else " "
                return self._brackets(f"{a}{gap}{operator}{gap}{b}")
            case 3:
                return f"{self._pick('ABS', 'SIGN', 'FLOOR', 'CEIL', 'ROUND')}({a})"
            case 4:
                return f"ROUND({a}, {self._pick('0', '1', '2', '3', '-1', '-2')})"
            case 5:
                return f"{self._pick('SQRT', 'EXP', 'LN')}({a})"
            case 6:
                b = self.of("number", depth)
                return f"MOD({a}, {b})"
            case 7:
                b = self.of("number", depth)
                return self._pick(f"LEAST({a}, {b})", f"GREATEST({a}, {b}, {self.of('number', depth)})")
            case 8:
                return f"TRY_CAST({a} AS {self._pick('DOUBLE', 'REAL', 'FLOAT', 'INTEGER', 'BIGINT')})"
            case 9:
                # Of a text with _ and more than 19 digits DuckDB 2.0.1 makes too much: none is joined together here.
                text = self._pick("{}", "UPPER({})", "SUBSTRING({}, 2)", "SUBSTRING({}, 1, 2)").format(
                    self._leaf("text")
                )
                return f"TRY_CAST({text} AS {self._pick('DOUBLE', 'REAL')})"
            case 10:
                return self._pick(
                    f"-({a})",
                    f"CAST({self.of('boolean', depth)} AS {self._pick('DOUBLE', 'INTEGER', 'REAL')})",
                    f"LENGTH({self.of('text', depth)})",
                )
            case _:
                part = self._pick("second", "minute", "hour", "day", "month", "dow", "isodow")
                return f"EXTRACT({part} FROM {self._pick(*_TIMES)})"

    def _boolean(self, depth: int) -> str:
        kind: Kind = self.rng.choice(["number", "number", "number", "text", "timestamp", "boolean"])
        a, b = self.of(kind, depth), self.of(kind, depth)
        match self.rng.randrange(10):
            case 0 | 1 | 2:
                return self._brackets(f"{a} {self._pick('=', '<>', '!=', '<', '<=', '>', '>=')} {b}")
            case 3:
                negated = self._pick("", "NOT ")
                values = [
                    self.of(kind, self.rng.choice([0, 0, 0, depth])) for _ in range(self.rng.choice([0, 1, 2, 3, 15]))
                ]
                return self._brackets(f"{a} {negated}IN ({', '.join(values)})")
            case 4:
                return self._brackets(f"{a} {self._pick('', 'NOT ')}BETWEEN {b} AND {self.of(kind, depth)}")
            case 5:
                return self._brackets(f"{a} IS {self._pick('', 'NOT ')}{self._pick('NULL', f'DISTINCT FROM {b}')}")
            case 6 | 7:
                x, y = self.of("boolean", depth), self.of("boolean", depth)
                return self._brackets(f"{x} {self._pick('AND', 'OR')} {y}", 0.6)
            case 8:
                x = self.of("boolean", depth)
                return self._pick(f"NOT ({x})", f"({x}) IS {self._pick('', 'NOT ')}{self._pick('TRUE', 'FALSE')}")
            case _:
                pattern = self._pick(
                    "%", "_", "x%", "%y", "_y%", "a\\b", "x.y", "", "%ß%", "a''b", "A%", "__", "🚗_", "%\\%"
                )
                return self._brackets(f"{self.of('text', depth)} {self._pick('', 'NOT ')}LIKE '{pattern}'")

    def _text(self, depth: int) -> str:
        a = self.of("text", depth)
        match self.rng.randrange(5):
            case 0 | 1:
                return f"{self._pick('LOWER', 'UPPER')}({a})"
            case 2:
                return f"SUBSTRING({a}, {self._pick('1', '2', '3')}{self._pick('', ', 0', ', 1', ', 2')})"
            case 3:
                return f"CONCAT({a}, {self.of('text', depth)}, {self._pick('NULL', 's')})"
            case _:
                return self._brackets(f"{a} || {self.of('text', depth)}")
