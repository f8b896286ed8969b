"""What people say of alerts, and what is none of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from beam_jobs.block import raw_block
from beam_jobs.errors import UserError
from beam_jobs.preprocessing.fields import fields_of
from beam_jobs.steps.alerting.verdicts import Labels, Verdict, position_of, verdict_of, verdicts


def labels_of(type_: Any) -> Labels:
    schema = {"type": "record", "name": "e", "fields": [{"name": "fraud", "type": type_, "label": True}]}
    return Labels.of(fields_of(schema)["fraud"])


TEXT = labels_of(["null", "string"])
BOOLEAN = labels_of("boolean")
NUMBER = labels_of(["null", "long"])
ENUM = labels_of(["null", {"type": "enum", "name": "f", "symbols": ["none", "card_testing"]}])


def said(**fields: Any) -> bytes:
    return json.dumps({"id": "pay-2-41", "verdict": "confirmed", **fields}).encode()


def block(values: Sequence[bytes | None], at: Sequence[int], partitions: Sequence[int] | None = None) -> pa.RecordBatch:
    n = len(values)
    return raw_block("feedback", partitions or [0] * n, range(n), at, [None] * n, values)


def test_a_verdict() -> None:
    assert verdict_of(said(), 5, BOOLEAN, 1, 7) == Verdict("pay-2-41", "true", 5, 1, 7)
    assert verdict_of(said(verdict="false", by="Ada"), 5, BOOLEAN) == Verdict("pay-2-41", "false", 5)
    assert verdict_of(said(label="card_testing", id="a-b-c-0-1"), 5, TEXT).label == "card_testing"


@pytest.mark.parametrize(
    ("labels", "right", "named", "wrong"),
    [
        (TEXT, "confirmed", "card_testing", "none"),
        (BOOLEAN, "true", "true", "false"),
        (NUMBER, "1", "1", "0"),
        (labels_of({"type": "bytes", "logicalType": "decimal", "precision": 3}), "1", "1", "0"),
    ],
)
def test_labels_are_of_the_schemas_type(labels: Labels, right: str, named: str, wrong: str) -> None:
    assert verdict_of(said(), 5, labels).label == right
    assert verdict_of(said(label="card_testing"), 5, labels).label == named
    assert verdict_of(said(verdict="false"), 5, labels).label == wrong


def test_an_enum_has_the_labels_it_has() -> None:
    assert verdict_of(said(label="card_testing"), 5, ENUM).label == "card_testing"
    assert verdict_of(said(verdict="false"), 5, ENUM).label == "none"
    with pytest.raises(UserError, match=r"label 'confirmed' of pay-2-41 is none of the schema's: none, card_testing"):
        verdict_of(said(), 5, ENUM)


def test_a_label_of_another_type_is_refused() -> None:
    with pytest.raises(UserError, match=r"the label fraud is of the type .*; verdicts become a text, a boolean or a n"):
        labels_of({"type": "array", "items": "string"})


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
        (said(id="pay\ud800-2-41"), "none of an alert"),
        (b'{"id": "pay\xed\xa0\x80-2-41", "verdict": "false"}', "none of an alert"),
        (said(verdict="maybe"), "'maybe' of pay-2-41 is none of confirmed, false"),
        (said(verdict="false", label="x"), "it is a text, beside confirmed"),
        (said(label=3), "it is a text"),
        (said(label="\ud800"), r"is '\ud800'; it is a text"),
    ],
)
def test_what_is_no_verdict(value: bytes | None, error: str) -> None:
    with pytest.raises(UserError) as found:
        verdict_of(value, 5, TEXT)
    assert error in str(found.value)


@pytest.mark.parametrize(
    "id_", ["a-1-2-00-08", "a-00-8", "a-0-08", "a-\u0661-2", "a-1-\uff12", "a-1-2\n", "-1-2", "1-2"]
)
def test_an_id_is_as_alerts_write_it(id_: str) -> None:
    assert position_of(id_) is None


def test_positions() -> None:
    assert position_of("a-1-2-0-8") == ("a-1-2", 0, 8)
    assert position_of("a-10-0") == ("a", 10, 0)


def test_the_last_word_counts() -> None:
    bad: Counter[str] = Counter()
    values = [said(), said(id="pay-0-1"), b"?", said(verdict="false"), b"?"]
    wanted = [Verdict("pay-0-1", "true", 1000, 0, 1), Verdict("pay-2-41", "false", 3000, 0, 3)]
    assert verdicts([None, block(values, [1000 * i for i in range(5)])], BOOLEAN, bad) == wanted
    assert list(bad.values()) == [2]


@pytest.mark.parametrize(
    ("at", "partitions", "last"),
    [
        ([9, 5], [0, 0], "a"),  # timestamps that run backwards
        ([5, 9], [0, 0], "b"),
        ([5, 5], [1, 0], "a"),  # of the same millisecond: the partition
        ([5, 5], [0, 0], "b"),  # and then the offset
    ],
)
def test_the_last_is_the_last_by_time(at: list[int], partitions: list[int], last: str) -> None:
    values = [said(label="a"), said(label="b")]
    assert [v.label for v in verdicts([block(values, at, partitions)], TEXT, Counter())] == [last]
    two = [block(values, at, partitions).slice(i, 1) for i in (1, 0)]  # in whatever order they are read
    assert [v.label for v in verdicts(two, TEXT, Counter())] == [last]


def test_a_record_of_any_time_is_read() -> None:
    far = 1 << 60
    assert verdicts([block([said()], [far])], TEXT, Counter())[0].at_ms == far
