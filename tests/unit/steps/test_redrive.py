"""Dead letters put back: the records they were, and how often that happened."""

import numpy as np

from beam_jobs import dead_letters
from beam_jobs.block import raw_block
from beam_jobs.errors import RowErrors
from beam_jobs.steps.redrive import REDRIVES_HEADER, original_records
from tests.letters import letters


def test_original_records_count_their_redrives() -> None:
    records = original_records(letters())
    assert records.column("value").to_pylist() == [b"\xff\x00bytes", None]
    assert records.column("key").to_pylist() == [None, b"\xff"]
    once = records.column("headers").to_pylist()[0]
    assert once == [{"key": "trace", "value": b"7"}, {"key": REDRIVES_HEADER, "value": b"1"}]
    again = raw_block("t", [0], [0], [0], [None], [b""], [[(h["key"], h["value"]) for h in once]])
    errors = RowErrors(np.array([0]), ("empty_value",), ("empty",))
    twice = original_records(dead_letters.dead_letter_block(again, errors, "decode", "j"))
    assert twice.column("headers").to_pylist()[0][-1]["value"] == b"2"


def test_a_foreign_redrives_header_is_no_error() -> None:
    foreign = raw_block("t", [0], [0], [0], [None], [b"x"], [[(REDRIVES_HEADER, b"\xffmany")]])
    letter = dead_letters.dead_letter_block(foreign, RowErrors(np.array([0]), ("r",), ("e",)), "decode", "j")
    assert original_records(letter).column("headers").to_pylist()[0][0]["value"] == b"1"
