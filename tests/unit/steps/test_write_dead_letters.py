"""Dead letters on their topic: what is left out of large ones, and when so many stop the job."""

import numpy as np
import pyarrow as pa
import pytest

import schemas
from beam_jobs import dead_letters, metrics
from beam_jobs.block import raw_block
from beam_jobs.codec.avro.decoder import AvroDecoder
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.errors import RowErrors, UserError
from beam_jobs.steps.redrive import Redrive
from beam_jobs.steps.write_dead_letters import DeadLetterLimit, without_payload
from tests.letters import letters


@pytest.fixture
def totals(monkeypatch: pytest.MonkeyPatch) -> metrics.JobState:
    fresh = metrics.JobState()
    monkeypatch.setattr(metrics, "STATE", fresh)
    return fresh


def test_a_dead_letter_larger_than_its_topic_leaves_the_payload_out() -> None:
    schema = schemas.load("dead_letter")
    records = pa.record_batch({"key": letters().column("key"), "value": AvroEncoder(schema, 3).encode(letters())})
    short = without_payload(3, records)
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
    totals: metrics.JobState,
) -> None:
    """Put back it would be a tombstone."""
    raw = raw_block("t", [0, 0], [7, 8], [5, 5], [key, b"k"], [b"\xffvalues"[:7], None], [headers, None])
    errors = RowErrors(np.array([0, 1]), ("bad_magic_byte", "null_value"), ("not Avro", "a tombstone"))
    schema = schemas.load("dead_letter")
    letters = dead_letters.dead_letter_block(raw, errors, "decode", "j")
    values = AvroEncoder(schema, 3).encode(letters)
    short = without_payload(3, pa.record_batch({"key": letters["key"][:1], "value": values[:1]}))
    assert short.nbytes < LARGE / 2
    (letter,) = AvroDecoder(schema, lambda _: schema).decode(short.column("value")).rows.to_pylist()
    assert letter["value"] is None
    assert said in letter["error"]
    assert totals.snapshot()[metrics.WITHOUT_PAYLOAD] == 1
    redrive = Redrive((), lambda _: schema)
    redrive.setup()
    topic = raw_block("dead", [0, 0], [0, 1], [0, 0], [None] * 2, [short["value"][0].as_py(), values[1].as_py()])
    (back,) = redrive.process(topic)
    assert back.column("value").to_pylist() == [None]
    assert back.column("key").to_pylist() == [b"k"]
    assert totals.snapshot()[metrics.REDRIVEN] == 1
    assert totals.snapshot()[metrics.WITHOUT_PAYLOAD] == 2


def test_limit_stops_when_nearly_everything_is_bad(totals: metrics.JobState) -> None:
    limit = DeadLetterLimit(0.9)
    totals.add(metrics.RECORDS_READ, 2000)
    totals.add(metrics.DEAD_LETTERS, 1900)
    with pytest.raises(UserError, match=r"1,900 of the last 2,000 records.*unknown schema id 7"):
        limit.check("unknown schema id 7")


def test_limit_waits_for_a_sample_and_allows_its_rate(totals: metrics.JobState) -> None:
    limit = DeadLetterLimit(0.9)
    totals.add(metrics.RECORDS_READ, 999)
    totals.add(metrics.DEAD_LETTERS, 999)
    limit.check("too few")
    totals.add(metrics.RECORDS_READ, 9001)
    limit.check("10 %")


def test_a_good_past_does_not_hide_a_bad_present(totals: metrics.JobState) -> None:
    limit = DeadLetterLimit(0.5)
    totals.add(metrics.RECORDS_READ, 1_000_000)
    limit.check("all good: the window starts afresh")
    totals.add(metrics.RECORDS_READ, 2000)
    totals.add(metrics.DEAD_LETTERS, 1500)
    with pytest.raises(UserError, match="1,500 of the last 2,000"):
        limit.check("bad now")
