"""OVER in the SQL: what it may say, what it means beside WHERE and checks, what it shows of persons."""

from __future__ import annotations

import pickle
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from beam_jobs.errors import UserError
from beam_jobs.preprocessing import PiiPolicy, Preprocessor, compile_sql
from beam_jobs.preprocessing.windows.frames import Frame, Lateness

SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Event",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "speed", "type": "double", "min": 0, "max": 100},
        {"name": "load", "type": ["null", "double"]},
        {"name": "model", "type": ["null", "string"]},
        {"name": "card", "type": "string", "pii": "direct"},
        {"name": "age", "type": "int", "pii": "quasi"},
    ],
}
DAY = 86_400_000_000  # microseconds
MINUTE = "RANGE BETWEEN INTERVAL '1' MINUTE PRECEDING AND CURRENT ROW"
WINDOW = f"(PARTITION BY id ORDER BY at {MINUTE})"


def query(sql: str, key: str = "id") -> Preprocessor:
    return compile_sql(sql, SCHEMA, PiiPolicy("env:HIGHBEAM_TEST_KEY"), key=key, event_time="at")


def select(column: str, rest: str = "") -> Preprocessor:
    return query(f"SELECT id, at, {column} AS x FROM events {rest}")


def events(seconds: list[float], **columns: list[Any]) -> pa.RecordBatch:
    n = len(seconds)
    types = [pa.string(), pa.float64(), pa.float64(), pa.string(), pa.string(), pa.int32()]
    defaults = {"id": "car", "speed": 1.0, "load": 2.0, "model": "Coupe", "card": "4711", "age": 44}
    arrays = {
        name: pa.array(columns.get(name, [value] * n), type_)
        for (name, value), type_ in zip(defaults.items(), types, strict=True)
    }
    return pa.record_batch({**arrays, "at": pa.array([int(s * 1e6) for s in seconds], pa.timestamp("us", "UTC"))})


def x(compiled: Preprocessor, block: pa.RecordBatch) -> list[float]:
    return compiled.apply(block, compiled.history()).rows.column("x").to_pylist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "window",
    [
        WINDOW,
        "(PARTITION BY ID ORDER BY events.at RANGE INTERVAL 60 SECONDS PRECEDING)",
        "(PARTITION BY id ORDER BY at ASC RANGE BETWEEN INTERVAL '1 minute' PRECEDING AND CURRENT ROW)",
    ],
)
def test_spellings_of_one_window(window: str) -> None:
    compiled = select(f"sum(speed) OVER {window}")
    assert x(compiled, events([0, 60, 60.000001], speed=[1, 2, 4])) == [1, 3, 6]
    assert compiled.fingerprint == select(f"SUM(Speed) OVER {WINDOW}").fingerprint
    named = select("sum(speed) OVER W", f"WINDOW w AS {window}")
    assert named.fingerprint == compiled.fingerprint


@pytest.mark.parametrize("value", ["load", "speed", "2 * load"])
def test_what_is_counted_is_kept_once_beside_what_is_summed(value: str) -> None:
    each = [f"{function}({value}) OVER w AS {function}" for function in ("count", "sum", "avg", "max")]
    compiled = query(f"SELECT id, at, {', '.join(each)} FROM events WINDOW w AS {WINDOW}")
    assert len(compiled.stages[0].reads) == 1


@pytest.mark.parametrize(
    "other",
    ["avg(speed) OVER w", "sum(load) OVER w", "sum(speed + 1) OVER w", "sum(speed) OVER long", "count(*) OVER w"],
)
def test_the_fingerprint_covers_windows(other: str) -> None:
    definitions = f"WINDOW w AS {WINDOW}, long AS {WINDOW.replace('MINUTE', 'HOUR')}"
    assert select(other, definitions).fingerprint != select("sum(speed) OVER w", definitions).fingerprint


def test_windows_stand_in_expressions_and_each_is_computed_once() -> None:
    compiled = select(
        "speed - avg(speed) OVER w + CASE WHEN count(*) OVER w > 1 THEN avg(speed) OVER w END", f"WINDOW w AS {WINDOW}"
    )
    assert [window.function for window in compiled.windows] == ["avg", "count"]
    result = compiled.apply(events([0, 1, 2], speed=[1, 2, 3]), compiled.history())
    assert result.rows.column("x").to_pylist() == [2, 3]
    assert list(result.errors.reasons) == ["null_feature"]
    assert compiled.input_columns == ("id", "at", "speed")


def test_where_chooses_the_rows_a_window_is_made_of() -> None:
    compiled = select(f"count(*) OVER {WINDOW}", "WHERE load > 1")
    block = events([0, 1, 2, 3], load=[2, 0, None, 2])
    result = compiled.apply(block, compiled.history())
    assert result.rows.column("x").to_pylist() == [1, 2]
    assert result.kept.tolist() == [0, 3]
    assert result.filtered == 2


def test_rows_out_of_range_are_in_no_window_rows_without_a_feature_are() -> None:
    compiled = query(f"SELECT id, at, load, sum(speed) OVER {WINDOW} AS x FROM events")
    block = events([0, 1, 2], speed=[1, 1000, 4])
    result = compiled.apply(block, compiled.history())
    assert result.rows.column("x").to_pylist() == [1, 5]
    assert (result.errors.rows.tolist(), result.errors.reasons) == ([1], ["out_of_range"])
    result = compiled.apply(events([0, 1], speed=[1, 4], load=[None, 2]), compiled.history())
    assert result.rows.column("x").to_pylist() == [5]
    assert list(result.errors.reasons) == ["null_feature"]


def test_any_type_can_be_counted() -> None:
    assert x(select(f"count(model) OVER {WINDOW}"), events([0, 1, 2], model=["a", None, "b"])) == [1, 1, 2]


def test_no_row_gets_through() -> None:
    compiled = select(f"count(*) OVER {WINDOW}", "WHERE load > 1")
    history = compiled.history()
    result = compiled.apply(events([0, 1], load=[0, None]), history)
    assert (result.rows.num_rows, result.filtered) == (0, 2)
    assert result.rows.schema == compiled.output_schema
    assert compiled.apply(events([]), history).rows.num_rows == 0


def test_a_query_with_windows_needs_a_history() -> None:
    with pytest.raises(ValueError, match="needs a history"):
        select(f"count(*) OVER {WINDOW}").apply(events([0]))
    assert select("speed").history() is None


def test_a_key_that_is_personal_data_is_told_by_its_pseudonym(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGHBEAM_TEST_KEY", "a secret of many bytes")
    window = f"(PARTITION BY card ORDER BY at {MINUTE})"
    compiled = query(f"SELECT pseudonymize(card) AS card, at, count(*) OVER {window} AS x FROM events", key="card")
    history = compiled.history()
    result = compiled.apply(events([0, 1, 2], card=["1", "2", "1"]), history)
    assert result.rows.column("x").to_pylist() == [1, 1, 2]
    assert "'1'" not in repr(vars(history))


def test_pickles() -> None:
    compiled = pickle.loads(pickle.dumps(select(f"sum(speed) OVER {WINDOW}")))
    assert x(compiled, events([0, 1])) == [1, 2]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("lag(speed) OVER w", "the previous value is last_value(x) OVER ("),
        ("nth_value(speed, 2) OVER w", "not supported as a window"),
        ("mode(speed) OVER w", "not supported as a window"),
        ("count(DISTINCT speed, load) OVER w", "takes one argument and nothing else"),
        ("count(speed, load) OVER w", "takes one argument and nothing else"),
        ("sum(speed) FILTER (WHERE load > 1) OVER w", "CASE inside can choose rows: sum(CASE WHEN"),
        *(
            (f"{call} OVER w", "takes one argument and nothing else")
            for call in ("max(speed, 2)", "first(speed, load)")
        ),
        ("any_value(speed) OVER w", "use first_value, last_value, min or max"),
        ("avg(speed ORDER BY load) OVER w", "takes one argument and nothing else"),
        ("avg(avg(speed) OVER w) OVER w", "a window of a window"),
        ("avg(model) OVER w", "needs a number"),
        (
            f"avg(speed) OVER {WINDOW.replace('AND CURRENT ROW', 'AND INTERVAL 2 MINUTE PRECEDING')}",
            "ends before it starts",
        ),
        (
            "avg(speed) OVER (PARTITION BY id ORDER BY at RANGE BETWEEN (at - time_bucket(INTERVAL '1 hour', at)) "
            "PRECEDING AND CURRENT ROW)",
            "a window that starts at a full hour is RANGE BETWEEN (at - time_bucket(",
        ),
        ("last_value(speed IGNORE NULLS) OVER w", "NULL counts as a value there"),
        ("last_value(model) OVER w", "texts are not kept, only counted"),
        ("approx_quantile(speed, 0.9) OVER w", "quantile_cont(x, 0.9) is exact here"),
        *(
            (f"quantile_cont(speed, {share}) OVER w", "write the share as a number from 0 to 1")
            for share in ("1.5", "-0.25", "9e-1", "'0.9'", "load", "NULL", "[0.1, 0.9]", "0.12345678901")
        ),
        ("quantile_disc(model, 0.9) OVER w", "needs a number or a timestamp"),
        ("median(at - at) OVER w", "needs a number or a timestamp"),
        ("quantile_cont(speed > 1, 0.9) OVER w", "needs a number or a timestamp"),
        ("percentile_cont(0.9) WITHIN GROUP (ORDER BY speed) OVER w", "not supported as a window"),
        ("median(DISTINCT speed) OVER w", "takes one argument and nothing else"),
        (
            "median(speed) OVER (PARTITION BY id ORDER BY at RANGE BETWEEN "
            "(at - time_bucket(INTERVAL '1 hour', at - INTERVAL '7 day')) PRECEDING AND CURRENT ROW)",
            "a quantile needs every row of its window, and the hop form keeps none; write RANGE BETWEEN INTERVAL",
        ),
        ("at - last_value(at) OVER w", "x is an interval, which is no feature; use EXTRACT(epoch FROM"),
        ("sum(at) OVER w", "needs a number"),
        ("avg(age) OVER w", "x shows age, personal data"),
        ("count(card) OVER w", "x shows card, personal data"),
        ("avg(speed) OVER v", "no window is named v; the WINDOW clause defines w"),
        (f"avg(speed) OVER (w {MINUTE})", "can't be extended"),
        ("avg(speed) OVER (PARTITION BY id)", "has no ORDER BY"),
        (f"avg(speed) OVER (ORDER BY at {MINUTE})", "windows have the form OVER (PARTITION BY id ORDER BY at RANGE"),
        (
            f"avg(speed) OVER (PARTITION BY model ORDER BY at {MINUTE})",
            "windows are by model, and none by the key",
        ),
        (f"avg(speed) OVER (PARTITION BY id, model ORDER BY at {MINUTE})", "windows have the form"),
        (f"avg(speed) OVER (PARTITION BY lower(id) ORDER BY at {MINUTE})", "windows have the form"),
        (f"avg(speed) OVER (PARTITION BY id ORDER BY at DESC {MINUTE})", "windows have the form"),
        (f"avg(speed) OVER (PARTITION BY id ORDER BY speed {MINUTE})", "windows have the form"),
        (f"avg(speed) OVER (PARTITION BY nobody ORDER BY at {MINUTE})", "unknown column nobody"),
        ("avg(speed) OVER (PARTITION BY id ORDER BY at)", "windows have the form"),
        (
            f"avg(speed) OVER (PARTITION BY id ORDER BY at {MINUTE.replace('RANGE', 'ROWS')})",
            "ROWS depends on how many rows came, not on time; windows have the form",
        ),
        (f"avg(speed) OVER (PARTITION BY id ORDER BY at {MINUTE} EXCLUDE TIES)", "windows have the form"),
        (
            f"avg(speed) OVER (PARTITION BY id ORDER BY at {MINUTE.replace('CURRENT ROW', 'UNBOUNDED FOLLOWING')})",
            "what follows is not known yet when a row is scored; windows have the form",
        ),
        (
            "avg(speed) OVER (PARTITION BY id ORDER BY at RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)",
            "windows have the form",
        ),
        (
            "avg(speed) OVER (PARTITION BY id ORDER BY at RANGE BETWEEN INTERVAL '1' MINUTE FOLLOWING AND CURRENT ROW)",
            "windows have the form",
        ),
        *(
            (f"avg(speed) OVER {WINDOW.replace(chr(39) + '1' + chr(39) + ' MINUTE', length)}", "windows have the form")
            for length in ("'1 day ago'", "'1 month 2 days'", "'1 hour, 2 minutes'")
        ),
        *(
            (f"avg(speed) OVER {WINDOW.replace(chr(39) + '1' + chr(39) + ' MINUTE', length)}", "at most 400 days")
            for length in (
                "'0' MINUTE",
                "'-1' MINUTE",
                "'1.5' HOUR",
                "'401' DAY",
                "'1' MONTH",
                "'x' MINUTE",
                "speed MINUTE",
                "99999999999 DAY",
            )
        ),
    ],
)
def test_refused(column: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        select(column, f"WINDOW w AS {WINDOW}")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


HOURS = "(at - time_bucket(INTERVAL '1 hour', at - INTERVAL '7 day'))"


@pytest.mark.parametrize(
    ("column", "start", "remedies"),
    [
        ("sum(speed)", "INTERVAL '7' DAY", ["for 7 d, ", f"long windows in hop form (RANGE BETWEEN {HOURS}"]),
        ("count(DISTINCT speed)", HOURS, ["for 7 d, ", "shorten the window of count_distinct"]),
        ("sum(speed)", HOURS, ["a late one may still come before", "more than 2; shorten window_lateness"]),
    ],
)
def test_a_key_with_too_many_rows_ends_with_the_remedy(column: str, start: str, remedies: list[str]) -> None:
    sql = f"SELECT id, at, {column} OVER (PARTITION BY id ORDER BY at RANGE BETWEEN {start} PRECEDING AND CURRENT ROW) "
    compiled = compile_sql(sql + "AS x FROM events", SCHEMA, key="id", event_time="at", lateness=Lateness(key_rows=2))
    block = events([0, 1, 2, 3], id=["car", "van", "car", "car"])
    with pytest.raises(UserError) as caught:
        x(compiled, block)
    for part in ("the id of the event of 1970-01-01 00:00:03+00:00 has more than 2", *remedies, "--window_key_rows"):
        assert part in str(caught.value)
    where = {"_partition": pa.array([7] * 4, pa.int32()), "_offset": pa.array([40, 41, 42, 43])}
    for name, column_ in where.items():
        block = block.append_column(name, column_)
    with pytest.raises(UserError, match="the id of offset 43 of partition 7 "):
        x(compiled, block)


def test_the_where_has_no_windows() -> None:
    with pytest.raises(UserError, match="WHERE chooses the rows that windows are made of"):
        select("speed", f"WHERE avg(speed) OVER {WINDOW} > 1")


def test_prepare_and_finish_are_functions_of_the_rows_alone() -> None:
    """What isolates a bad row repeats them on parts of a block; only the history has seen a row once it has."""
    compiled = select(f"count(*) OVER {WINDOW} + load", "WHERE speed > 0")
    block = events([0, 1, 2, 3, 4], speed=[1, 1, 0, 1000, 1], load=[1, None, 1, 1, 2])
    history = compiled.history()
    assert history is not None
    parts = [compiled.prepare(block.slice(start, 1)) for start in range(5) for _ in range(2)][::2]
    rows, kept = history.advance(pa.concat_batches([part.rows for part in parts if part.rows.num_rows]))
    assert kept.tolist() == [0, 1, 2]
    done = [compiled.finish(rows.slice(start, 1)) for start in range(3) for _ in range(2)][::2]
    assert [part.rows.column("x").to_pylist() for part in done] == [[2], [], [5]]
    whole = compiled.apply(block, compiled.history())
    assert whole.rows.column("x").to_pylist() == [2, 5]
    assert whole.kept.tolist() == [0, 4]
    assert (whole.filtered, whole.errors.rows.tolist()) == (1, [1, 3])


def test_what_is_taken_in_without_a_result_is_known_afterwards() -> None:
    compiled = select(f"sum(speed) OVER {WINDOW}")
    history = compiled.history()
    assert history is not None
    assert history.advance(compiled.prepare(events([0, 1], speed=[1, 2])).rows, emit=False).rows.num_rows == 0
    assert compiled.apply(events([2], speed=[4]), history).rows.column("x").to_pylist() == [7]


LABELLED = {**SCHEMA, "fields": [*SCHEMA["fields"], {"name": "fraud", "type": ["null", "boolean"], "label": True}]}


def labelled(column: str) -> Preprocessor:
    windows = f"w AS {WINDOW}, past AS (PARTITION BY id ORDER BY at RANGE BETWEEN INTERVAL '37' DAY PRECEDING AND "
    sql = f"SELECT id, at, speed, {column} AS x FROM events WINDOW {windows} INTERVAL '7' DAY PRECEDING)"
    return compile_sql(sql, LABELLED, key="id", event_time="at")


@pytest.mark.parametrize(
    "column",
    [
        "CASE WHEN fraud THEN 1 ELSE 0 END",
        "count_if(fraud) OVER w",
        f"last_value(CASE WHEN fraud THEN 1 ELSE 0 END) OVER {WINDOW.replace(')', ' EXCLUDE CURRENT ROW)')}",
        "count(*) OVER past + CASE WHEN fraud THEN 1 ELSE 0 END",
        "count(CASE WHEN fraud THEN 1 END) OVER past + count(fraud) OVER w",
    ],
)
def test_the_label_is_refused_where_it_is_not_known_yet(column: str) -> None:
    with pytest.raises(UserError, match=r"fraud is the label: unknown when an event is scored.*7' DAY PRECEDING"):
        labelled(column)


def test_the_label_is_refused_before_it_may_have_come() -> None:
    sql = (
        "SELECT id, at, count_if(fraud) OVER (PARTITION BY id ORDER BY at RANGE BETWEEN {} PRECEDING) AS x FROM events"
    )
    frame, late = "INTERVAL '37' DAY PRECEDING AND INTERVAL '7' DAY", Lateness(label_ms=8 * 86_400_000)
    with pytest.raises(
        UserError, match=r"takes 8 d \(label_delay\), but COUNT_IF\(fraud\) OVER .* ends 7 d before now;"
    ):
        compile_sql(sql.format(frame), LABELLED, key="id", event_time="at", lateness=late)
    later = sql.format(frame.replace("'7'", "'8'"))
    delayed, said = (compile_sql(later, LABELLED, key="id", event_time="at", lateness=of) for of in (late, Lateness()))
    assert delayed.fingerprint != said.fingerprint  # it says which labels came too late to be seen


@pytest.mark.parametrize(
    "rest",
    [
        "FROM (SELECT *, CASE WHEN fraud THEN 1 ELSE 0 END AS was FROM events)",
        "FROM (SELECT id, at, speed, fraud AS was FROM events)",
        "FROM (SELECT * FROM events WHERE fraud)",
    ],
)
def test_no_sub_select_hides_the_label(rest: str) -> None:
    with pytest.raises(UserError, match="fraud is the label"):
        compile_sql(f"SELECT id, at, COALESCE(was, 0) AS x {rest}", LABELLED, key="id", event_time="at")


def test_a_label_is_seen_when_it_is_as_old_as_the_frame_says() -> None:
    """A planted leak: a feature that knew its own label, or one of the last 7 days, would differ between the two."""
    compiled = labelled("COALESCE(count_if(fraud) OVER past, 0)")
    days = [0, 1, 7.5, 8, 9, 14.9, 38]
    found = []
    for late in (False, True):  # labels of the last week, and the row's own, are still unknown, or are known
        block = events([day * 86_400 for day in days])
        ages = [days[-1] - day for day in days]
        known = [True if late or age >= 7 else None for age in ages]
        found.append(x(compiled, block.append_column("fraud", pa.array(known, pa.bool_())))[-1])
    assert found == [5, 5]
    assert "fraud" in compiled.input_columns


INTERVALS = [
    *(
        "INTERVAL '90' SECOND",
        "INTERVAL 5 MINUTES",
        "INTERVAL (5) MINUTE",
        "INTERVAL '1.5 hours'",
    ),
    *("INTERVAL '1 day 2 hours'", "INTERVAL '1hour2minutes'", "INTERVAL '01:30:00'", "INTERVAL '00:00:00.5'"),
    *("INTERVAL '1 day 01:00:00'", "INTERVAL '5m'", "INTERVAL '5 mins'", "INTERVAL '2 h'", "INTERVAL '1 hrs'"),
    *("INTERVAL '500 ms'", "INTERVAL '500' MILLISECONDS", "INTERVAL '7 us'", "INTERVAL 1 WEEK", "INTERVAL '1 w'"),
    *("to_minutes(5)", "to_days(2)", "'5 minutes'::INTERVAL", "INTERVAL '1 hour' + INTERVAL '5 minutes'"),
    *("INTERVAL '3 d'", "INTERVAL ' 5   Minute '", "INTERVAL '10 secs'", "CAST('1 hour' AS INTERVAL)"),
]


@pytest.mark.parametrize("written", INTERVALS)
def test_an_interval_is_as_long_as_in_duckdb(written: str) -> None:
    window = f"(PARTITION BY id ORDER BY at RANGE BETWEEN {written} PRECEDING AND CURRENT ROW)"
    with duckdb.connect(config={"threads": 1}) as connection:
        moved = f"SELECT datediff('us', TIMESTAMP '2025-01-01', TIMESTAMP '2025-01-01' + {written})"
        ((length,),) = connection.execute(moved).fetchall()
    (feature,) = select(f"sum(speed) OVER {window}").windows
    assert feature.frame == Frame(length)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (f"{MINUTE} EXCLUDE CURRENT ROW", Frame(60_000_000, exclude_current=True)),
        (f"{MINUTE} EXCLUDE NO OTHERS", Frame(60_000_000)),
        ("RANGE BETWEEN INTERVAL 2 HOURS PRECEDING AND INTERVAL 0 HOURS PRECEDING", Frame(7_200_000_000)),
        ("RANGE BETWEEN INTERVAL 37 DAY PRECEDING AND INTERVAL 7 DAY PRECEDING", Frame(37 * DAY, 7 * DAY)),
        (
            "RANGE BETWEEN (at - time_bucket(INTERVAL '1 hour', at - INTERVAL '7 day')) PRECEDING AND CURRENT ROW",
            Frame(7 * DAY, hop_us=DAY // 24),
        ),
        (
            "RANGE BETWEEN at - date_trunc('day', at - to_days(90)) PRECEDING AND CURRENT ROW",
            Frame(90 * DAY, hop_us=DAY),
        ),
    ],
)
def test_frames(frame: str, expected: Frame) -> None:
    (feature,) = select(f"sum(speed) OVER (PARTITION BY id ORDER BY at {frame})").windows
    assert feature.frame == expected


def test_an_each_time_other_hash_tells_texts_apart() -> None:
    compiled = select(f"count(DISTINCT model) OVER {WINDOW}")
    assert x(compiled, events([0, 1, 2, 3, 4], model=["a", None, "b", "a", ""])) == [1, 1, 2, 2, 3]


def test_stages_add_their_reach() -> None:
    inner = f"(SELECT *, avg(speed) OVER {WINDOW} AS mean FROM events WHERE load > 1)"
    compiled = query(f"SELECT id, at, mean, max(mean) OVER {WINDOW} AS x FROM {inner} WHERE mean > 0")
    one = select(f"avg(speed) OVER {WINDOW}").history()
    history = compiled.history()
    assert one is not None
    assert history is not None
    assert history.reach_us == 2 * one.reach_us
    result = compiled.apply(events([0, 1, 2, 3], speed=[0, 4, 2, 2], load=[2, 2, 0, 2]), history)
    assert result.rows.to_pydict()["x"] == [2, 2]
    assert (result.kept.tolist(), result.filtered) == ([1, 3], 2)


def test_a_key_may_be_the_pseudonym_of_a_sub_select(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGHBEAM_TEST_KEY", "a secret of many bytes")
    window = f"(PARTITION BY card ORDER BY at {MINUTE})"
    inner = "(SELECT pseudonymize(card) AS card, at, speed FROM events)"
    compiled = query(f"SELECT card, at, count(*) OVER {window} AS x FROM {inner}", key="card")
    assert x(compiled, events([0, 1, 2], card=["1", "2", "1"])) == [1, 1, 2]


def test_a_later_stage_has_the_clock_of_the_whole_partition() -> None:
    """Rows that a WHERE between two windows removes let time pass, too; so a rebuild from the log knows enough."""
    inner = f"(SELECT *, avg(speed) OVER {WINDOW} AS mean FROM events)"
    window = "(PARTITION BY id ORDER BY at RANGE BETWEEN INTERVAL 5 HOURS PRECEDING AND CURRENT ROW)"
    compiled = query(f"SELECT id, at, mean, sum(mean) OVER {window} AS x FROM {inner} WHERE mean < 50")
    hour = 3600
    # The WHERE removes the second row. Its record says that it is 8 o'clock, and what was before 1:50 is gone.
    block = events([1 * hour, 8 * hour, 3 * hour], speed=[1, 60, 2], id=["a", "b", "a"])
    assert x(compiled, block) == [1, 2]
    in_time = events([2 * hour, 8 * hour, 3 * hour], speed=[1, 60, 2], id=["a", "b", "a"])
    assert x(compiled, in_time) == [1, 3]
    parts, history = [block.slice(row, 1) for row in range(3)], compiled.history()
    assert [compiled.apply(part, history).rows.column("x").to_pylist() for part in parts] == [[1], [], [2]]
