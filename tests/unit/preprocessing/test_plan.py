"""The plan says how the query was compiled, and nothing that is not so."""

from __future__ import annotations

from typing import Any

import pytest

from beam_jobs.preprocessing.fields import fields_of
from beam_jobs.preprocessing.plan import Plan, frame_text, plan_of
from beam_jobs.preprocessing.preprocessor import Preprocessor
from beam_jobs.preprocessing.query.intervals import from_text, to_text
from beam_jobs.preprocessing.sql import compile_sql
from beam_jobs.preprocessing.windows.frames import Frame

SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Payment",
    "fields": [
        {"name": "card", "type": "string"},
        {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "amount", "type": "double", "min": 0, "unit": "EUR"},
        {"name": "fraud", "type": "boolean", "label": True},
        {"name": "age", "type": "int", "pii": "quasi"},
        {"name": "unread", "type": "string"},
    ],
}
OVER = "OVER (PARTITION BY card ORDER BY ts RANGE BETWEEN INTERVAL {} PRECEDING AND {})"
MONTH, TWO_WEEKS = OVER.format("'30' DAY", "CURRENT ROW"), OVER.format("'14' DAY", "CURRENT ROW")
PAST = OVER.format("'37' DAY", "INTERVAL '7' DAY PRECEDING")
PLAIN = "SELECT card, ts, amount, amount / 2 AS half FROM events WHERE amount > 1"
MEMORY = f"""SELECT card, ts, amount, generalize(age, 0) AS age_about,
       count(CASE WHEN amount > 2.5 * mean THEN 1 END) {TWO_WEEKS} AS often, COALESCE(count_if(fraud) {PAST}, 0) AS f
FROM (SELECT *, avg(amount) {MONTH} AS mean FROM events WHERE amount > 0) WHERE mean > 1"""


def compiled(sql: str) -> Preprocessor:
    return compile_sql(sql, SCHEMA, key="card", event_time="ts")


def planned(sql: str) -> Plan:
    return plan_of(compiled(sql), fields_of(SCHEMA), "cards/preprocess.sql")


def test_a_query_without_windows_has_two_steps() -> None:
    plan = planned(PLAIN)
    decode, result = plan.steps
    assert [entry.name for entry in decode.entries] == ["card", "ts", "amount"]
    assert decode.entries[2].type == "double from 0 EUR"
    assert decode.facts[0] == "3 of the schema's 6 fields are not decoded"
    names = [(entry.name, entry.type) for entry in result.entries]
    assert names == [
        ("where", "boolean"),
        ("2 fields", "no feature"),
        ("1 field", "feature, float32"),
        ("half", "feature, float32 of double"),
    ]
    assert "reads amount" in result.entries[-1].notes
    assert plan.fingerprint == compiled(PLAIN).fingerprint


def test_windows_say_what_they_keep_and_how_far_back_the_log_matters() -> None:
    query = compiled(MEMORY)
    _, first, second, labels, result = planned(MEMORY).steps
    history = query.history()
    assert history is not None
    assert f"reads the log from {to_text(history.reach_us)} before" in " ".join(labels.facts)
    assert "the longest window, 30 d, and 10 min" in first.facts[0]
    assert [entry.text for entry in first.entries] == ['(gt "amount" 0.0)', 'avg("amount") of the last 30 d']
    where, often = second.entries
    (past,) = labels.entries
    assert "made of the rows whose label is known" in labels.facts[0]
    assert where.text == "(gt [window:0:0] 1.0)"
    assert "[window:0:0]" in often.text
    assert often.text.endswith("of the last 14 d")
    assert past.text == 'sum("fraud") from 37 d to 7 d ago'
    assert [entry.text for entry in result.entries[-2:]] == ["[window:1:0]", "(coalesce [window:1:1] 0)"]


def test_the_bytes_of_a_row_are_those_that_the_history_counts() -> None:
    history = compiled(MEMORY).stages[0].history(compiled(MEMORY).lateness)
    assert f"a row takes {history.row_bytes:g} bytes" in planned(MEMORY).steps[1].facts[1]
    assert history.row_bytes == 16  # a time and an argument


def test_windows_in_hop_form_say_what_a_hop_takes() -> None:
    hops = OVER.replace("INTERVAL {}", "(ts - time_bucket(INTERVAL '1 hour', ts - INTERVAL '7 day'))").format(
        "CURRENT ROW"
    )
    sql = f"SELECT card, ts, sum(amount) {hops} AS x{{}} FROM events"
    facts = planned(sql.format("")).steps[1].facts
    assert facts[0] == "rows are kept by card, 10 min for late ones, at most 100,000 of one card"
    assert facts[1].endswith("48 bytes a card and hop")  # time, count, 3 words of a sum, what it can't hold
    _, step, _ = planned(sql.format(f", quantile_cont(amount, 0.9) {TWO_WEEKS} AS q")).steps
    assert "the longest window that holds every row, 14 d, and 10 min" in step.facts[0]
    assert [entry.text for entry in step.entries] == [
        'sum("amount") since the full 1 h that was 7 d ago',
        'quantile_cont("amount", 0.9) of the last 14 d',
    ]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_its_lines_fit(width: int) -> None:
    lines = list(planned(MEMORY).lines(width))
    assert max(len(line) for line in lines[:-1]) <= width
    assert lines[-1] == f"fingerprint {compiled(MEMORY).fingerprint}"
    assert sum(line[0].isdigit() for line in lines) == len(planned(MEMORY).steps)


def test_no_terminal_obeys_it() -> None:
    units = [{**field, "unit": "\x1b[2J\u202e"} if field["name"] == "amount" else field for field in SCHEMA["fields"]]
    sql = PLAIN.replace("amount > 1", "unread <> '\x1b[31m\n\x00'")
    query = compile_sql(sql, {**SCHEMA, "fields": units}, key="card", event_time="ts")
    for line in plan_of(query, fields_of({**SCHEMA, "fields": units}), "\x1b").lines(80):
        assert line.isprintable()


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (Frame(60_000_000), "of the last 1 min"),
        (Frame(60_000_000, exclude_current=True), "of the last 1 min, without the row itself"),
        (Frame(7 * 86_400_000_000, hop_us=3_600_000_000), "since the full 1 h that was 7 d ago"),
        (Frame(7 * 86_400_000_000, 60_000_000, 3_600_000_000), "since the full 1 h that was 7 d ago, to 1 min ago"),
    ],
)
def test_a_frame_in_words(frame: Frame, text: str) -> None:
    assert frame_text(frame) == text


@pytest.mark.parametrize("micros", [0, 1, 999_999, 1_000_000, 90_000_000, 3_600_000_000, 108_000_000_000, 10**14 + 1])
def test_an_interval_is_read_as_it_is_written(micros: int) -> None:
    assert from_text(to_text(micros)) == micros
