"""The JSON codec: both of its paths give the same, and so do blocks cut anywhere."""

from __future__ import annotations

import datetime
import json
from typing import Any
from unittest import mock

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_jobs.codec import EventDecoder, JsonDecoder, JsonEncoder
from beam_jobs.codec.avro.encoder import AvroEncoder

checked = settings(max_examples=80)

SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Event",
    "fields": [
        {"name": "key", "type": "string", "aliases": ["KEY", "id"]},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "x", "type": "double"},
        {"name": "y", "type": ["null", "float"]},
        {"name": "n", "type": ["int", "null"], "default": 7},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["A", "B"]}},
        {"name": "time", "type": ["null", {"type": "int", "logicalType": "time-millis"}]},
        {
            "name": "inner",
            "type": [
                "null",
                {
                    "type": "record",
                    "name": "Inner",
                    "fields": [
                        {"name": "flag", "type": "boolean", "default": True},
                        {"name": "items", "type": {"type": "array", "items": ["null", "long"]}, "aliases": ["list"]},
                    ],
                },
            ],
        },
    ],
}
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.just([]),
    st.just({}),
    st.integers(400, 401).map(lambda digits: 10**digits),
    st.sampled_from([2**31, 2**63, -(2**63), "\ud800", 1e39, 86_400_000]),
    st.sampled_from([5.0, -0.0, 1e3, 1e22, 2.5e-1, "2026-01-01T00:00:00Z", "2026-01-01", "12:00:00.25", "24:00:00"]),
)


def objects(odd: st.SearchStrategy[Any] | None) -> st.SearchStrategy[dict[str, Any]]:
    def maybe(value: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return value if odd is None else st.integers(0, 5).flatmap(lambda n: value if n else odd)

    inner = st.fixed_dictionaries(
        {"items": maybe(st.lists(maybe(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))), max_size=3))},
        optional={"flag": maybe(st.booleans())},
    )
    return st.fixed_dictionaries(
        {
            "key": maybe(st.text(max_size=5)),
            "at": maybe(st.integers(-(10**12), 10**12)),
            "x": maybe(st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-5, 2**70))),
            "kind": maybe(st.sampled_from("AB")),
        },
        optional={
            "y": maybe(st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False, width=32))),
            "n": maybe(st.integers(-5, 5)),
            "time": maybe(st.integers(0, 86_399_999)),
            "inner": maybe(st.one_of(st.none(), inner)),
        }
        | ({} if odd is None else {"id": maybe(st.text(max_size=2)), "other": odd}),
    )


def texts(odd: bool) -> st.SearchStrategy[bytes]:
    layout = st.sampled_from([None, 2])
    dumped = st.builds(
        lambda value, indent, ascii_only: json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode(
            errors="surrogatepass"
        ),
        objects(ODD if odd else None),
        layout,
        st.booleans(),
    )
    if not odd:
        return dumped
    damaged = st.builds(
        lambda text, at, char: text[: at % len(text)] + char + text[at % len(text) + 1 :],
        dumped,
        st.integers(0, 400),
        st.sampled_from([b"", b'"', b"{", b"}", b",", b"\n", b"\xff", b"0", b"N", b"{}", b"\x00"]),
    )
    fixed = st.sampled_from([b"", b" ", b"{}", b"null", b"[{}]", b'{"key":1,"key":2}', b'{"x":Inf}', b'{"x":-NaN}'])
    return st.one_of(dumped, dumped, damaged, fixed, st.binary(max_size=6))


MOMENTS = st.datetimes(timezones=st.timezones())


@given(st.lists(MOMENTS, min_size=1, max_size=5), st.sampled_from(["auto", "microseconds", "seconds"]))
@checked
def test_times_are_those_of_python(moments: list[datetime.datetime], detail: str) -> None:
    fields = [{"name": "t", "type": {"type": "long", "logicalType": "timestamp-micros"}}]
    texts = [moment.isoformat(timespec=detail) for moment in moments]
    zero = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    decoded = JsonDecoder({"type": "record", "name": "R", "fields": fields}).decode(
        pa.array([json.dumps({"t": text}).encode() for text in texts], pa.binary())
    )
    good = [text for text in texts if text.count(":") == 3]  # Python has offsets of seconds, of before the railways
    expected = [(datetime.datetime.fromisoformat(text) - zero) // datetime.timedelta(microseconds=1) for text in good]
    assert decoded.rows.column("t").view(pa.int64()).to_pylist() == expected
    assert len(decoded.errors) == len(texts) - len(good)


def slow(decoder: JsonDecoder) -> JsonDecoder:
    decoder._fast = False
    return decoder


@given(st.lists(st.one_of(texts(True), texts(False), st.none()), max_size=12))
@checked
def test_fast_and_row_by_row_agree(values: list[bytes | None]) -> None:
    array = pa.array(values, pa.binary())
    with mock.patch("beam_jobs.codec.json.decoder.ROWS_ONE_BY_ONE", 1):  # the reader gets every row
        fast = JsonDecoder(SCHEMA).decode(array)
    exact = slow(JsonDecoder(SCHEMA)).decode(array)
    fast.rows.validate(full=True)
    assert fast.rows.equals(exact.rows), (fast.rows.to_pylist(), exact.rows.to_pylist())
    assert fast.errors.rows.tolist() == exact.errors.rows.tolist()
    assert list(fast.errors.errors) == list(exact.errors.errors)
    assert fast.rows.num_rows + len(fast.errors) == len(values)


@given(st.lists(st.one_of(texts(False), texts(True)), max_size=12), st.data())
@checked
def test_split_and_projection_change_nothing(values: list[bytes], data: st.DataObject) -> None:
    array = pa.array(values, pa.binary())
    decoder = JsonDecoder(SCHEMA)
    whole = decoder.decode(array)
    cut = data.draw(st.integers(0, len(values)))
    first, second = decoder.decode(array.slice(0, cut)), decoder.decode(array.slice(cut))
    assert pa.concat_batches([first.rows, second.rows]).equals(whole.rows)
    assert [*first.errors.errors, *second.errors.errors] == list(whole.errors.errors)
    names = data.draw(st.lists(st.sampled_from(whole.rows.schema.names), min_size=1, unique=True))
    good = array.take(pa.array(whole.errors.good_rows(len(values))))
    some = JsonDecoder(SCHEMA, names).decode(good)
    assert len(some.errors) == 0
    assert some.rows.equals(whole.rows.select(names))


@given(st.lists(texts(False), max_size=8))
@checked
def test_good_values_come_back(values: list[bytes]) -> None:
    decoded = JsonDecoder(SCHEMA).decode(pa.array(values, pa.binary()))
    assert len(decoded.errors) == 0, decoded.errors.errors
    again = JsonDecoder(SCHEMA).decode(JsonEncoder(SCHEMA).encode(decoded.rows))
    assert len(again.errors) == 0, again.errors.errors
    assert again.rows.equals(decoded.rows)
    for row, value in zip(decoded.rows.to_pylist(), values, strict=True):
        given_value = json.loads(value)
        assert row["key"] == given_value["key"]
        assert row["x"] == float(given_value["x"])
        assert row["n"] == given_value.get("n", 7)


@given(st.lists(st.one_of(texts(False), texts(True), st.none()), max_size=10), st.data())
@checked
def test_avro_and_json_in_one_block_keep_their_order(values: list[bytes | None], data: st.DataObject) -> None:
    plain = JsonDecoder(SCHEMA)
    rows = plain.decode(pa.array([v for v in values if v], pa.binary())).rows
    framed = AvroEncoder(SCHEMA, 3).encode(rows).to_pylist()
    mixed = data.draw(st.permutations([*values, *framed]))
    decoder = EventDecoder(SCHEMA, {3: SCHEMA}.__getitem__)
    decoded = decoder.decode(pa.array(mixed, pa.binary()))
    assert decoded.rows.num_rows + len(decoded.errors) == len(mixed)
    one_by_one = [decoder.decode(pa.array([value], pa.binary())) for value in mixed]
    if one_by_one:
        assert pa.concat_batches([d.rows for d in one_by_one]).equals(decoded.rows)
    assert [i for i, d in enumerate(one_by_one) if len(d.errors)] == decoded.errors.rows.tolist()
    assert [e for d in one_by_one for e in d.errors.reasons] == list(decoded.errors.reasons)


def joined(*parts: list[str]) -> st.SearchStrategy[str]:
    return st.tuples(*(st.sampled_from(part) for part in parts)).map("".join)


NUMBERS = joined(
    ["", "-", "+"],
    ["0", "1", "12", "00", "1200", "9" * 19, "9223372036854775807", "99"],
    ["", ".0", ".50", ".", ".125", "." + "0" * 25],
    ["", "e0", "E2", "e-2", "e+3", "e", "e-20", "e30", "e1000"],
)
TIMES = joined(
    ["2026-01-01", "1969-12-31", "2024-02-29", "2023-02-29", "0000-01-01", "9999-12-31", "2026-1-01", ""],
    ["", "T", "t", " ", "_"],
    ["", "00:00", "23:59:59", "24:00:00", "12:30:00.5", "12:30:00,123456", "12:30:60", "12:30:00."],
    ["", "Z", "z", "+01:00", "-0130", "+01", "+24:00", "-00:00", "Zx"],
).map(json.dumps)
REST = st.sampled_from(
    [
        *("null", "true", "{}", "[]", "NaN", '{"n": 1.0}', "[[1.0]]", '[{"n": 2.0}, null, {"N": 3e0}]'),
        *('"1.50"', '"007.5"', '"1e2"', '"-.5"', '"é"', '"\\\\"', '"a\\"}"', '[{"n": "2.0"}]'),
    ]
)
LOOSE_TYPES: dict[str, Any] = {
    "m": {"type": "long", "logicalType": "timestamp-millis"},
    "u": {"type": "long", "logicalType": "local-timestamp-nanos"},
    "day": {"type": "int", "logicalType": "date"},
    "time": {"type": "int", "logicalType": "time-millis"},
    "n": "long",
    "i": "int",
    "d": {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2},
    "w": {"type": "bytes", "logicalType": "decimal", "precision": 2, "scale": 2},
    "x": "double",
    "s": "string",
    "a": {
        "type": "array",
        "items": [
            "null",
            {"type": "record", "name": "I", "fields": [{"name": "n", "type": "long", "aliases": ["N"]}]},
        ],
    },
}
LOOSE = {
    "type": "record",
    "name": "Loose",
    "fields": [{"name": name, "type": ["null", kind], "default": None} for name, kind in LOOSE_TYPES.items()],
}


@given(
    st.lists(
        st.dictionaries(st.sampled_from([*LOOSE_TYPES]), NUMBERS | TIMES | REST, min_size=1, max_size=2),
        min_size=1,
        max_size=30,
    ),
    st.booleans(),
)
@settings(max_examples=60)
def test_what_producers_may_write_is_read_alike_by_both_paths(rows: list[dict[str, str]], strict: bool) -> None:
    texts = ["{" + ", ".join(f'"{name}": {text}' for name, text in row.items()) + "}" for row in rows]
    array = pa.array([text.encode() for text in texts], pa.binary())
    with mock.patch("beam_jobs.codec.json.decoder.ROWS_ONE_BY_ONE", 1):
        fast = JsonDecoder(LOOSE, strict=strict).decode(array)
    exact = slow(JsonDecoder(LOOSE, strict=strict)).decode(array)
    assert fast.errors.rows.tolist() == exact.errors.rows.tolist()
    assert list(fast.errors.errors) == list(exact.errors.errors)
    assert fast.rows.equals(exact.rows)
