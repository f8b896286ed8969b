import numpy as np
import pyarrow as pa
import pytest

import schemas
from beam_jobs import dead_letters, metrics
from beam_jobs.block import Block, raw_block
from beam_jobs.codec.avro import AvroDecoder
from beam_jobs.codec.avro_encoder import AvroEncoder
from beam_jobs.errors import RowErrors, UserError


def raw() -> Block:
    return raw_block(
        "events",
        [0, 1, 1],
        [10, 20, 21],
        [1_700_000_000_000] * 3,
        [b"car-1", None, b"\xff"],
        [b"good", b"\xff\x00bytes", None],
        [None, [("trace", b"7")], []],
    )


def letters() -> Block:
    errors = RowErrors(np.array([1, 2]), ("bad_magic_byte", "null_value"), ("first byte is 0xff", "a tombstone"))
    return dead_letters.dead_letter_block(raw(), errors, "decode", "score/test")


def test_dead_letters_keep_position_reason_and_bytes() -> None:
    first, second = letters().to_pylist()
    assert (first["id"], first["topic"], first["partition"], first["offset"]) == ("events-1-20", "events", 1, 20)
    assert (first["key"], first["value"]) == (None, b"\xff\x00bytes")
    assert first["headers"] == [{"key": "trace", "value": b"7"}]
    assert (first["reason"], first["error"], first["stage"]) == ("bad_magic_byte", "first byte is 0xff", "decode")
    assert (second["key"], second["value"], second["headers"]) == (b"\xff", None, [])


def test_dead_letters_survive_the_topic() -> None:
    schema = schemas.load("dead_letter")
    written = letters()
    decoded = AvroDecoder(schema, lambda _: schema).decode(AvroEncoder(schema, 3).encode(written))
    assert len(decoded.errors) == 0
    assert decoded.rows.to_pylist() == written.to_pylist()


def test_a_dead_letter_larger_than_its_topic_leaves_the_payload_out() -> None:
    schema = schemas.load("dead_letter")
    records = pa.record_batch({"key": letters().column("key"), "value": AvroEncoder(schema, 3).encode(letters())})
    short = dead_letters.without_payload(3, records)
    first = AvroDecoder(schema, lambda _: schema).decode(short.column("value")).rows.to_pylist()[0]
    assert first["value"] is None
    assert first["id"] == "events-1-20"
    assert first["error"].startswith("first byte is 0xff (the value of 7 bytes is left out")


LARGE = 200_000


@pytest.mark.parametrize(
    ("key", "headers", "said"),
    [
        (b"k", [("a", b"b")], "(the value of 7 bytes is left out: larger than the dead-letter topic takes)"),
        (b"k" * LARGE, None, "(the value of 7 bytes and the key of 200,000 bytes are left out: larger than"),
        (
            None,
            [("a", b"x" * LARGE), ("b", None)],
            "(the value of 7 bytes and the headers of 200,002 bytes are left out:",
        ),
    ],
)
def test_what_stands_in_is_small_and_is_not_put_back(
    key: bytes | None,
    headers: list[tuple[str, bytes | None]] | None,
    said: str,
    totals: metrics._Totals,
) -> None:
    """Put back it would be a tombstone."""
    raw = raw_block("t", [0, 0], [7, 8], [5, 5], [key, b"k"], [b"\xffvalues"[:7], None], [headers, None])
    errors = RowErrors(np.array([0, 1]), ("bad_magic_byte", "null_value"), ("not Avro", "a tombstone"))
    schema = schemas.load("dead_letter")
    letters = dead_letters.dead_letter_block(raw, errors, "decode", "j")
    values = AvroEncoder(schema, 3).encode(letters)
    short = dead_letters.without_payload(3, pa.record_batch({"key": letters["key"][:1], "value": values[:1]}))
    assert short.nbytes < LARGE / 2
    (letter,) = AvroDecoder(schema, lambda _: schema).decode(short.column("value")).rows.to_pylist()
    assert letter["value"] is None
    assert said in letter["error"]
    assert totals.counts[metrics.WITHOUT_PAYLOAD] == 1
    redrive = dead_letters.Redrive((), lambda _: schema)
    redrive.setup()
    topic = raw_block("dead", [0, 0], [0, 1], [0, 0], [None] * 2, [short["value"][0].as_py(), values[1].as_py()])
    (back,) = redrive.process(topic)
    assert back.column("value").to_pylist() == [None]
    assert back.column("key").to_pylist() == [b"k"]
    assert totals.counts[metrics.REDRIVEN] == 1
    assert totals.counts[metrics.WITHOUT_PAYLOAD] == 2


def test_original_records_count_their_redrives() -> None:
    records = dead_letters.original_records(letters())
    assert records.column("value").to_pylist() == [b"\xff\x00bytes", None]
    assert records.column("key").to_pylist() == [None, b"\xff"]
    once = records.column("headers").to_pylist()[0]
    assert once == [{"key": "trace", "value": b"7"}, {"key": dead_letters.REDRIVES_HEADER, "value": b"1"}]
    again = raw_block("t", [0], [0], [0], [None], [b""], [[(h["key"], h["value"]) for h in once]])
    errors = RowErrors(np.array([0]), ("empty_value",), ("empty",))
    twice = dead_letters.original_records(dead_letters.dead_letter_block(again, errors, "decode", "j"))
    assert twice.column("headers").to_pylist()[0][-1]["value"] == b"2"


def test_a_foreign_redrives_header_is_no_error() -> None:
    foreign = raw_block("t", [0], [0], [0], [None], [b"x"], [[(dead_letters.REDRIVES_HEADER, b"\xffmany")]])
    letter = dead_letters.dead_letter_block(foreign, RowErrors(np.array([0]), ("r",), ("e",)), "decode", "j")
    assert dead_letters.original_records(letter).column("headers").to_pylist()[0][0]["value"] == b"1"


def test_isolate_finds_the_rows_that_raise() -> None:
    numbers = pa.record_batch({"x": list(range(100))})

    def fail_on_13_and_77(part: Block) -> int:
        if {13, 77} & set(part.column("x").to_pylist()):
            raise ValueError("unlucky")
        return int(part.num_rows)

    parts, bad = dead_letters.isolate(fail_on_13_and_77, numbers)
    assert bad.rows.tolist() == [13, 77]
    assert set(bad.reasons) == {"unexpected_error"}
    assert bad.errors[0] == "ValueError: unlucky"
    assert [x for _, part, _ in parts for x in part.column("x").to_pylist()] == [
        x for x in range(100) if x not in (13, 77)
    ]
    assert all(part.column("x")[0].as_py() == start for start, part, _ in parts)


def test_isolate_raises_what_concerns_the_job() -> None:
    def refuse(part: Block) -> None:
        raise UserError("no key for pseudonyms")

    with pytest.raises(UserError, match="no key"):
        dead_letters.isolate(refuse, raw())


@pytest.fixture
def totals(monkeypatch: pytest.MonkeyPatch) -> metrics._Totals:
    fresh = metrics._Totals()
    monkeypatch.setattr(metrics, "TOTALS", fresh)
    return fresh


def test_limit_stops_when_nearly_everything_is_bad(totals: metrics._Totals) -> None:
    limit = dead_letters.DeadLetterLimit(0.9)
    totals.add(metrics.RECORDS_READ, 2000)
    totals.add(metrics.DEAD_LETTERS, 1900)
    with pytest.raises(UserError, match=r"1,900 of the last 2,000 records.*unknown schema id 7"):
        limit.check("unknown schema id 7")


def test_limit_waits_for_a_sample_and_allows_its_rate(totals: metrics._Totals) -> None:
    limit = dead_letters.DeadLetterLimit(0.9)
    totals.add(metrics.RECORDS_READ, 999)
    totals.add(metrics.DEAD_LETTERS, 999)
    limit.check("too few")
    totals.add(metrics.RECORDS_READ, 9001)
    limit.check("10 %")


def test_a_good_past_does_not_hide_a_bad_present(totals: metrics._Totals) -> None:
    limit = dead_letters.DeadLetterLimit(0.5)
    totals.add(metrics.RECORDS_READ, 1_000_000)
    limit.check("all good: the window starts afresh")
    totals.add(metrics.RECORDS_READ, 2000)
    totals.add(metrics.DEAD_LETTERS, 1500)
    with pytest.raises(UserError, match="1,500 of the last 2,000"):
        limit.check("bad now")
