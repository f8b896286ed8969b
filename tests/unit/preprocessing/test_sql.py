"""compile_sql: what the SQL may say, what it means, and what is refused."""

from __future__ import annotations

import math
import pickle
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from beam_jobs.errors import UserError
from beam_jobs.preprocessing import PiiPolicy, Preprocessor, compile_sql
from beam_jobs.preprocessing.fields import fields_of
from beam_jobs.preprocessing.query.compiler import with_steps
from beam_jobs.preprocessing.sql import parse_query

TIME = {"type": "long", "logicalType": "timestamp-millis"}
SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Event",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "at", "type": TIME},
        {"name": "speed", "type": "double", "unit": "m/s", "min": 0, "max": 100},
        {"name": "load", "type": ["null", "double"], "default": None},
        {"name": "gear", "type": "int", "min": -1, "max": 9},
        {"name": "lit", "type": "boolean"},
        {"name": "model", "type": ["null", "string"], "default": None},
        {"name": "vin", "type": ["null", "string"], "default": None, "pii": "direct"},
        {"name": "latitude", "type": ["null", "double"], "default": None, "pii": "quasi", "min": -90, "max": 90},
        {"name": "zip", "type": "string", "pii": "quasi"},
        {"name": "failed", "type": ["null", "string"], "default": None, "label": True},
        {"name": "parts", "type": {"type": "array", "items": "int"}},
    ],
}
POLICY = PiiPolicy("env:HIGHBEAM_TEST_KEY")


def query(sql: str, **kwargs: Any) -> Preprocessor:
    return compile_sql(sql, SCHEMA, kwargs.pop("pii", POLICY), key="id", event_time="at", **kwargs)


def select(expression: str, where: str = "") -> Preprocessor:
    return query(f"SELECT id, at, {expression} FROM events {where}")


def events(**columns: Any) -> pa.RecordBatch:
    n = len(next(iter(columns.values())))
    defaults: dict[str, Any] = {
        "id": pa.array([f"car-{i}" for i in range(n)]),
        "at": pa.array(range(n), pa.timestamp("ms", "UTC")),
        "speed": pa.array([1.0] * n),
        "load": pa.array([2.0] * n),
        "gear": pa.array([3] * n, pa.int32()),
        "lit": pa.array([True] * n),
        "model": pa.array(["Coupe"] * n),
        "vin": pa.array(["WVW1"] * n),
        "latitude": pa.array([48.137] * n),
        "zip": pa.array(["80331"] * n),
    }
    given = {name: pa.array(value, defaults[name].type) for name, value in columns.items()}
    return pa.record_batch({**defaults, **given})


def refused(sql: str, **kwargs: Any) -> str:
    with pytest.raises(UserError) as caught:
        query(sql, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("speed + 1", 2.0),
        ("gear / 2", 1.5),  # never an integer division
        ("-gear % 2", -1.0),  # the sign of the dividend
        ("MOD(gear, 2)", 1.0),
        ("POWER(gear, 2)", 9.0),
        ("2 ^ gear", 8.0),
        ("ROUND(2.5 * speed)", 3.0),
        ("ROUND(-2.5 * speed)", -3.0),
        ("ROUND(speed / 8, 2)", 0.13),
        ("ROUND(speed * 1234, -2)", 1200.0),
        ("ROUND(1.775 * speed, 2)", 1.77),  # the double 1.775 is a little less
        ("speed / 2 % 0.01", math.fmod(0.5, 0.01)),
        ("FLOOR(speed / 2)", 0.0),
        ("CEILING(speed / 2)", 1.0),
        ("SIGN(-speed)", -1.0),
        ("SQRT(gear + 1)", 2.0),
        ("LN(speed)", 0.0),
        ("LOG(speed * 100)", 2.0),
        ("LOG10(speed * 100)", 2.0),
        ("LOG(2, speed * 8)", 3.0),
        ("EXP(speed - 1)", 1.0),
        ("SIN(pi() / 2 * speed) + COS(0) + TAN(0)", 2.0),
        ("ASIN(speed) + ACOS(0)", math.pi),
        ("ATAN(speed) - ATAN2(speed, -1)", -math.pi / 2),
        ("RADIANS(180 * speed)", math.pi),
        ("DEGREES(PI() * speed)", 180.0),
        ("ABS(-gear)", 3.0),
        ("LEAST(speed, gear, NULL)", 1.0),
        ("GREATEST(speed, NULL, gear)", 3.0),
        ("COALESCE(NULL, speed)", 1.0),
        ("COALESCE(NULLIF(speed, 1), 7)", 7.0),
        ("CASE WHEN speed > 5 THEN 1 WHEN speed > 0 THEN 2 ELSE 3 END", 2.0),
        ("CASE gear WHEN 3 THEN 10 ELSE 20 END", 10.0),
        ("CAST(speed * 2.5 AS INTEGER)", 2.0),  # halves to the even neighbour
        ("CAST(speed * 3.5 AS BIGINT)", 4.0),
        ("CAST(lit AS INTEGER)", 1.0),
        ("CAST(speed > 3 AS DOUBLE)", 0.0),
        ("COALESCE(CAST(model AS DOUBLE), -1)", -1.0),  # no number: NULL
        ("speed > 0.5", 1.0),
        ("speed BETWEEN 2 AND 3", 0.0),
        ("gear IN (1, 3)", 1.0),
        ("gear NOT IN (1, 3)", 0.0),
        ("load IS NULL", 0.0),
        ("load IS NOT NULL", 1.0),
        ("(speed > load) IS TRUE", 0.0),
        ("load IS DISTINCT FROM NULL", 1.0),
        ("NOT lit OR gear = 3 AND speed <> 2", 1.0),
        ("lit", 1.0),
        ("LENGTH(model)", 5.0),
        ("LOWER(model) = 'coupe'", 1.0),
        ("UPPER(model) || '!' = 'COUPE!'", 1.0),
        ("CONCAT(model, NULL, 'x') = 'Coupex'", 1.0),
        ("SUBSTRING(model, 2, 2) = 'ou'", 1.0),
        ("model LIKE 'C_u%'", 1.0),
        ("model NOT LIKE 'C_u%'", 0.0),
        ("model LIKE 'c%'", 0.0),
        ("EXTRACT(dow FROM at)", 4.0),  # 1970-01-01 was a Thursday
        ("EXTRACT(isodow FROM at)", 4.0),
        ("EXTRACT(hour FROM at) + EXTRACT(minute FROM at)", 0.0),
        ("at < TIMESTAMP '1970-01-01 00:00:01'", 1.0),
        ("SPEED + events.Gear", 4.0),
        ("generalize(latitude, 1)", 48.1),
        ("CAST(generalize(latitude, 0) AS INTEGER)", 48.0),
    ],
)
def test_meaning(expression: str, expected: float) -> None:
    rows = select(f"{expression} AS x").apply(events(speed=[1.0])).rows
    assert rows.column("x").to_pylist() == pytest.approx([expected])


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (
            "SELECT id, at, speed FRM events",
            "column 26: the SQL can't be parsed near `events`",
        ),
        ("SELECT id, at,\n speed FROM events WHERE speed >", "line 2"),
        ("SELECT id, at, 'x FROM events", "quote"),
        ("", "0 statements"),
        ("SELECT id, at, speed FROM events; SELECT 1", "2 statements"),
        ("DROP TABLE events", "one SELECT"),
        ("SELECT id, at,\n  sped FROM events", "line 2, column 3: unknown column sped; did you mean speed?"),
        ("SELECT id, at, frobnicate(speed) AS x FROM events", "unknown function frobnicate"),
        ("SELECT id, at, pseudonymise(vin) AS x FROM events", "did you mean pseudonymize"),
        ("SELECT id, at, avg(speed) AS x FROM events", "depends on other rows"),
        ("SELECT id, at, median(speed) AS x FROM events", "depends on other rows"),
        ("SELECT id, at, first(speed) AS x FROM events", "depends on other rows"),
        ("SELECT id, at, any_value(speed) AS x FROM events", "depends on other rows"),
        ("SELECT id, at, count(*) AS x FROM events", "depends on other rows"),
        ("SELECT id, at, 1 + sum(speed) FILTER (WHERE lit) AS x FROM events", "depends on other rows"),
        ("SELECT id, at, lag(speed) AS x FROM events", "depends on other rows"),
        ("SELECT id, at, speed FROM events GROUP BY id", "GROUP BY depends on"),
        ("SELECT id, at, speed FROM events HAVING speed > 1", "HAVING depends on"),
        ("SELECT DISTINCT id, at, speed FROM events", "DISTINCT depends on"),
        ("SELECT id, at, speed FROM events LIMIT 10", "LIMIT depends on"),
        ("SELECT id, at, speed FROM events OFFSET 10", "OFFSET depends on"),
        ("SELECT id, at, speed FROM events ORDER BY at", "ORDER BY depends on"),
        ("SELECT id, at, speed FROM events QUALIFY speed > 1", "QUALIFY depends on"),
        ("SELECT id, at, speed FROM events USING SAMPLE 10", "sample|SAMPLE"),
        ("SELECT id, at, speed FROM events TABLESAMPLE (10 PERCENT)", "sample|SAMPLE"),
        ("SELECT id, at, speed FROM events JOIN cars USING (id)", "join is not supported"),
        ("SELECT id, at, speed FROM events, cars", "join is not supported"),
        ("SELECT id, at, speed FROM cars", "the only table is events"),
        ("SELECT id, at, speed FROM other.events", "DB on the table"),
        ("SELECT id, at, speed", "nothing"),
        ("SELECT id, at, (SELECT 1) AS x FROM events", "subquery"),
        ("SELECT id, at, speed FROM events WHERE EXISTS (SELECT 1)", "subquery"),
        ("SELECT id, at, speed FROM events WHERE gear IN (SELECT 1)", "subquery"),
        ("SELECT id, at, speed FROM events UNION ALL SELECT id, at, speed FROM events", "UNION is not supported"),
        ("WITH e AS (SELECT 1) SELECT id, at, speed FROM events", "WITH is not supported"),
        ("SELECT id, at, speed * random() AS x FROM events", "another value on each replay"),
        ("SELECT id, at, EXTRACT(hour FROM now()) AS x FROM events", "another value on each replay"),
        ("SELECT id, at, speed FROM events WHERE at < current_timestamp", "another value on each replay"),
        ("SELECT id, at, speed FROM events WHERE at < current_date", "another value on each replay"),
        ("SELECT id, at, speed, uuid() AS x FROM events", "another value on each replay"),
        ("SELECT id, at, row_number() OVER () AS x FROM events", "not supported as a window"),
        ("SELECT id, at, sum(speed) OVER (PARTITION BY id) AS x FROM events", "has no ORDER BY"),
        ("SELECT id, at, rank() OVER (PARTITION BY id ORDER BY at) AS x FROM events", "not supported as a window"),
        ("SELECT id, at, lag(speed) OVER (PARTITION BY id ORDER BY at) AS x FROM events", "not supported as a window"),
        (
            "SELECT id, at, sum(speed) OVER (PARTITION BY id ORDER BY at ROWS 3 PRECEDING) AS x FROM events",
            "windows have the form",
        ),
        (
            "SELECT id, at, avg(speed) OVER (PARTITION BY gear ORDER BY at RANGE BETWEEN INTERVAL '5' MINUTE PRECEDING "
            "AND CURRENT ROW) AS x FROM events",
            "all windows are by gear, and none by the key id",
        ),
        ("SELECT id, at, speed, gear AS Speed FROM events", "two columns are named"),
        ("SELECT id, at, speed + 1 FROM events", "has no name; name it with AS"),
        ("SELECT at, speed FROM events", "id is missing"),
        ("SELECT id, speed FROM events", "at is missing"),
        ("SELECT id, at FROM events", "needs a feature"),
        ("SELECT id, at, speed AS _speed FROM events", "leading underscore"),
        ('SELECT id, at, speed AS "m/s" FROM events', "letters, digits and underscores"),
        ("SELECT * FROM events", "name each feature"),
        ("SELECT events.* FROM events", "name each feature"),
        ("SELECT id, at, COLUMNS('s.*') FROM events", "unknown function|not supported"),
        ("SELECT id, at, failed FROM events", "failed is the label"),
        ("SELECT id, at, CASE failed WHEN 'x' THEN 1 END AS x FROM events", "failed is the label"),
        ("SELECT id, at, speed FROM events WHERE failed IS NULL", "failed is the label"),
        ("SELECT id, at, parts[1] AS x FROM events", "not supported"),
        ("SELECT id, at, engine.speed AS x FROM events", "nested fields"),
        ("SELECT id, at, parts FROM events", "no feature"),
        ("SELECT id, at, at AS x FROM events", "use EXTRACT"),
        ("SELECT id, at, 1 AS x FROM events", "same in every row"),
        ("SELECT id, at, speed FROM events WHERE TRUE", "same for every row"),
        ("SELECT id, at, speed FROM events WHERE speed", "needs a comparison"),
        ("SELECT id, at, speed + model AS x FROM events", "needs a number"),
        ("SELECT id, at, speed = model AS x FROM events", "mixes types"),
        ("SELECT id, at, CASE WHEN lit THEN 1 ELSE 'x' END AS x FROM events", "mixes types"),
        ("SELECT id, at, LOWER(speed) AS x FROM events", "needs a text"),
        ("SELECT id, at, CAST(speed AS VARCHAR) AS x FROM events", "can't be cast"),
        ("SELECT id, at, speed FROM events WHERE at > TIMESTAMP 'noon'", "is no timestamp"),
        ("SELECT id, at, EXTRACT(century FROM at) AS x FROM events", "use one of"),
        ("SELECT id, at, EXTRACT(hour FROM speed) AS x FROM events", "needs a timestamp"),
        ("SELECT id, at, ROUND(speed, gear) AS x FROM events", "whole number"),
        ("SELECT id, at, model LIKE zip AS x FROM events", "pattern of LIKE"),
        ("SELECT id, at, model LIKE 'a!%' ESCAPE '!' AS x FROM events", "not supported"),
        ("SELECT id, at, speed // 2 AS x FROM events", "not supported"),
        ("SELECT id, at, speed + 1e999 AS x FROM events", "too large"),
        ("SELECT id, at, $x + speed AS x FROM events", "not supported"),
        ("SELECT id, at, list_sum([speed]) AS x FROM events", "unknown function|not supported"),
        ("SELECT model AS id, at, speed FROM events", "id is the key"),
        ("SELECT id, at + INTERVAL '1' DAY AS at, speed FROM events", "at is the event time; select the field itself"),
        ("SELECT id, at, vin, speed FROM events", "vin shows vin, personal data (pii: direct); use pseudonymize(vin)"),
        ("SELECT id, at, latitude FROM events", "use generalize(latitude, 1)"),
        ("SELECT id, at, CASE WHEN latitude > 50 THEN 1 ELSE 0 END AS north FROM events", "personal data"),
        ("SELECT id, at, COALESCE(pseudonymize(vin), vin) AS x, speed FROM events", "personal data"),
        ("SELECT id, at, LENGTH(vin) AS x FROM events", "personal data"),
        ("SELECT id, at, generalize(vin, 3) AS x, speed FROM events", "identifies a person directly"),
        ("SELECT id, at, generalize(latitude, 5) AS x FROM events", "-9 to 2"),
        ("SELECT id, at, generalize(zip, 5) AS x, speed FROM events", "1 to 3"),
        ("SELECT id, at, generalize(latitude * 1, 1) AS x FROM events", "plain column"),
        ("SELECT id, at, pseudonymize(latitude) AS x, speed FROM events", "needs a text"),
        ("SELECT id, at, speed FROM events WHERE vin = 'WVW1'", "WHERE uses vin"),
    ],
)
def test_refused(sql: str, expected: str) -> None:
    message = refused(sql, source="preprocess.sql")
    assert message.startswith("preprocess.sql")
    assert any(part in message for part in expected.split("|")), message


def test_wrong_use_of_the_schema_is_refused() -> None:
    sql = "SELECT id, at, speed FROM events"
    for key, time, expected in [
        ("nobody", "at", "no such field"),
        ("id", "speed", "timestamp"),
        ("lit", "at", "key is"),
    ]:
        with pytest.raises(UserError, match=expected):
            compile_sql(sql, SCHEMA, key=key, event_time=time)
    with pytest.raises(UserError, match="need a record schema"):
        compile_sql(sql, {"type": "string"}, key="id", event_time="at")
    tagged = {**SCHEMA, "fields": [*SCHEMA["fields"], {"name": "x", "type": "int", "pii": True}]}
    with pytest.raises(UserError, match="field x: pii is True"):
        compile_sql(sql, tagged, key="id", event_time="at")
    with pytest.raises(UserError, match="needs a key"):
        compile_sql("SELECT id, at, speed, pseudonymize(vin) AS v FROM events", SCHEMA, key="id", event_time="at")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"PII": "direct"}, "field x: 'PII' is not a tag; write 'pii'"),
        ({"units": "km"}, "field x: 'units' is not a tag; write 'unit'"),
        ({"Maximum": 3}, "field x: 'Maximum' is not a tag; write 'max'"),
        ({"min": 3, "max": 2}, "field x: min 3 is above max 2; no value could be right"),
    ],
)
def test_attributes_that_would_say_nothing_are_refused(attributes: dict[str, Any], message: str) -> None:
    field = {"name": "x", "type": "double", **attributes}
    with pytest.raises(UserError) as error:
        fields_of({"type": "record", "name": "Event", "fields": [field]})
    assert str(error.value) == f"schema: {message}"


def test_attributes_of_others_are_let_be() -> None:
    field = {
        "name": "x",
        "type": {"type": "long", "logicalType": "timestamp-millis"},
        "connect.index": 1,
        "source": "can",
    }
    assert fields_of({"type": "record", "name": "Event", "fields": [field]})["x"].pii is None


def test_what_a_query_reads_and_gives() -> None:
    compiled = query(
        "SELECT at, gear, id, speed * 2 AS twice, speed, model FROM events e WHERE e.latitude > 0",
    )
    assert compiled.input_columns == ("id", "at", "speed", "gear", "model", "latitude")
    assert compiled.features == ("gear", "twice", "speed")
    assert compiled.attributes == ("model",)
    assert compiled.units == {"gear": None, "twice": None, "speed": "m/s"}
    f32 = pa.float32()
    assert compiled.output_schema == pa.schema(
        [
            pa.field("at", pa.timestamp("ms", "UTC"), nullable=False),
            pa.field("gear", f32, nullable=False),
            pa.field("id", pa.string(), nullable=False),
            pa.field("twice", f32, nullable=False),
            pa.field("speed", f32, nullable=False),
            pa.field("model", pa.string()),
        ]
    )
    block = events(speed=[1.0, 2.0])
    assert compiled.apply(block).rows.schema == compiled.output_schema
    assert compiled.apply(block.slice(0, 0)).rows.schema == compiled.output_schema


def test_where_keeps_true_only() -> None:
    result = select("speed", "WHERE load > 1").apply(events(load=[2.0, None, 0.5, 3.0]))
    assert result.kept.tolist() == [0, 3]
    assert result.filtered == 2
    assert len(result.errors) == 0


def test_fingerprint_ignores_spelling_and_secrets() -> None:
    plain = query("SELECT id, at, speed / (gear + 1) AS x FROM events WHERE speed > 1")
    spelled = query("select id, AT, Speed/(GEAR + 1) x -- comment\n from EVENTS e where (speed > 1.0);")
    assert plain.fingerprint == spelled.fingerprint
    assert len(plain.fingerprint) == 64
    other_key = query("SELECT id, at, speed / (gear + 1) AS x FROM events WHERE speed > 1", pii=PiiPolicy("file:/k"))
    assert plain.fingerprint == other_key.fingerprint


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id, at, speed / (gear + 2) AS x FROM events WHERE speed > 1",
        "SELECT id, at, speed / (gear + 1) AS y FROM events WHERE speed > 1",
        "SELECT id, at, speed / (gear + 1) AS x FROM events WHERE speed >= 1",
        "SELECT id, at, speed / (gear + 1) AS x FROM events",
        "SELECT at, id, speed / (gear + 1) AS x FROM events WHERE speed > 1",
        "SELECT id, at, speed / gear + 1 AS x FROM events WHERE speed > 1",
    ],
)
def test_fingerprint_changes_with_the_meaning(sql: str) -> None:
    plain = query("SELECT id, at, speed / (gear + 1) AS x FROM events WHERE speed > 1")
    assert query(sql).fingerprint != plain.fingerprint


def test_fingerprint_depends_on_the_fields_it_reads() -> None:
    def fingerprint(**change: Any) -> str:
        fields = [{**f, **change} if f["name"] == "speed" else f for f in SCHEMA["fields"]]
        schema = {**SCHEMA, "fields": [{"name": "new", "type": "int"}, *fields]}
        return compile_sql("SELECT id, at, speed FROM events", schema, key="id", event_time="at").fingerprint

    assert fingerprint() == query("SELECT id, at, speed FROM events").fingerprint
    assert fingerprint(doc="other", aliases=["v"]) == fingerprint()
    assert len({fingerprint(), fingerprint(max=200), fingerprint(unit="km/h"), fingerprint(type="float")}) == 4


def test_pickles_without_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "not to be found in a pickle"
    monkeypatch.setenv("HIGHBEAM_TEST_KEY", secret)
    compiled = select("speed, pseudonymize(vin) AS car")
    before = compiled.apply(events(vin=["a", None, "a", "b"]))
    data = pickle.dumps(compiled)
    assert secret.encode() not in data
    again = pickle.loads(data)
    assert again.fingerprint == compiled.fingerprint
    assert again.apply(events(vin=["a", None, "a", "b"])).rows == before.rows


NUMBERS = [1.5, -0.0, 0.0, 3.0, math.nan, math.inf, None, 7.25]


def held(condition: str) -> list[bool | None]:
    """What a condition over the number x and the text s is, row by row of NUMBERS."""
    at = {"type": "long", "logicalType": "timestamp-millis"}
    fields = [{"name": "id", "type": "string"}, {"name": "at", "type": at}]
    fields += [{"name": "x", "type": ["null", "double"]}, {"name": "s", "type": ["null", "string"]}]
    sql = f"SELECT id, at, x, s FROM events WHERE {condition}"
    query = parse_query(sql, fields_of({"type": "record", "name": "E", "fields": fields}), "id", "at", "SQL")
    texts = [None if x is None else str(x) for x in NUMBERS]
    frame = pl.DataFrame({"x": NUMBERS, "s": texts}, schema={"x": pl.Float64, "s": pl.String}, strict=False)
    assert query.where is not None
    return with_steps(frame, [query.where]).select(query.where.expr).to_series().to_list()


@pytest.mark.parametrize("more", [[], ["NULL"], ["-1.5"], ["CAST('nan' AS DOUBLE)"]])
@pytest.mark.parametrize("values", [["1.5", "0", "7.25"], ["'3.0'", "'0.0'", "'-0.0'", "'nan'", "''"]])
def test_many_values_of_in_mean_what_few_mean(values: list[str], more: list[str]) -> None:
    text = values[0].startswith("'")
    column, more = ("s", [m for m in more if m == "NULL"]) if text else ("x", more)
    few = held(" OR ".join(f"{column} = {value}" for value in values + more))
    others = [f"'car-{i}'" if text else str(1000 + i) for i in range(2000)]
    assert held(f"{column} IN ({', '.join(others + values + more)})") == few
    assert held(f"{column} NOT IN ({', '.join(others + values + more)})") == [None if h is None else not h for h in few]


@pytest.mark.parametrize("operator", ["OR", "AND"])
def test_thousands_of_conditions_are_one(operator: str) -> None:
    test = "x = {}" if operator == "OR" else "x <> {}"
    several = [test.format(value) for value in (3, 1.5)]
    many = [test.format(5000 + i) for i in range(2000)]
    assert held(f" {operator} ".join([*many, *several])) == held(f" {operator} ".join(several))


@pytest.mark.parametrize(
    ("deep", "plain"),
    [
        ("+".join(["x"] * 2000), "x * 2000"),
        ("(" * 5000 + "x" + ")" * 5000, "x"),
        ("abs(" * 900 + "x" + ")" * 900, "abs(x)"),
        ("round(" * 300 + "x" + ")" * 300, "round(x)"),
        ("CAST(" * 300 + "round(x)" + " AS DOUBLE)" * 300, "round(x)"),
        ("coalesce(" * 300 + "x" + ", 1)" * 300, "coalesce(x, 1)"),
        ("greatest(" + ", ".join(["x"] * 300) + ")", "x"),
        ("".join(f"CASE WHEN x = {i + 100} THEN {i} ELSE " for i in range(300)) + "x" + " END" * 300, "x"),
        ("CASE " + "".join(f"WHEN x = {i + 100} THEN {i} " for i in range(1000)) + "ELSE x END", "x"),
        ("CASE x " + "".join(f"WHEN {i + 100} THEN {i} " for i in range(1000)) + "ELSE x END", "x"),
        ("x" + " + x * 2" * 500, "x * 1001"),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_long_or_deep_means_what_is_short(deep: str, plain: str) -> None:
    assert held(f"{deep} > 1") == held(f"{plain} > 1")


@pytest.mark.parametrize(
    "deep", ["".join(f"x = {i + 100} OR (" for i in range(1000)) + "x > 1" + ")" * 1000, "NOT " * 1000 + "x > 1"]
)
def test_conditions_may_be_nested(deep: str) -> None:
    assert held(deep) == held("x > 1")


def test_what_is_nested_too_deep_is_one_line() -> None:
    with pytest.raises(UserError) as raised:
        held("(" * 10_000 + "x" + ")" * 10_000 + " > 1")
    assert "\n" not in str(raised.value)
    assert "deep" in str(raised.value)
