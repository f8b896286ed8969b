"""What people say of alerts, and what is none of it."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from beam_jobs.block import raw_block
from beam_jobs.errors import UserError
from beam_jobs.steps.alerting.verdicts import Verdict, verdict_of, verdicts

BOOLEAN = ("true", "false")


def said(**fields: Any) -> bytes:
    return json.dumps({"id": "pay-2-41", "verdict": "confirmed", **fields}).encode()


def test_a_verdict() -> None:
    assert verdict_of(said(), 5, BOOLEAN) == Verdict("pay-2-41", "true", 5)
    assert verdict_of(said(verdict="false", by="Ada"), 5, BOOLEAN) == Verdict("pay-2-41", "false", 5)
    assert verdict_of(said(label="card_testing", id="a-b-c-0-1"), 5, ("confirmed", "none")).label == "card_testing"


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (None, 'no {"id"'),
        (b"\xff", 'no {"id"'),
        (b"[1]", 'no {"id"'),
        (b'{"id": "t-0-1"}', 'no {"id"'),
        (said(id="pay"), "none of an alert"),
        (said(id="pay-1-" + "9" * 30), "none of an alert"),
        (said(id=7), "none of an alert"),
        (said(verdict="maybe"), "'maybe' of pay-2-41 is none of confirmed, false"),
        (said(verdict="false", label="x"), "it is a text, beside confirmed"),
        (said(label=3), "it is a text"),
    ],
)
def test_what_is_no_verdict(value: bytes | None, error: str) -> None:
    with pytest.raises(UserError) as found:
        verdict_of(value, 5, BOOLEAN)
    assert error in str(found.value)


def test_the_last_word_counts() -> None:
    values = [said(), said(id="pay-0-1"), b"?", said(verdict="false"), b"?"]
    block = raw_block("feedback", [0] * 5, range(5), [1000 * i for i in range(5)], [None] * 5, values)
    bad: Counter[str] = Counter()
    wanted = [Verdict("pay-0-1", "true", 1000), Verdict("pay-2-41", "false", 3000)]
    assert verdicts([None, block], BOOLEAN, bad) == wanted
    assert list(bad.values()) == [2]
